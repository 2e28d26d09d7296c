"""What BiRefNet's outward reference can learn: the picture's Laplacian, pixel by pixel and over cells.

    python benchmarks/gradient_label.py [PICTURE ...] [--side 384]

The label of the released code is the Laplacian times the predicted logits, through a sigmoid. A map whose
cells have several pixels a side can predict its mean over each cell, no more. Root mean squares, of
pictures normalised as the embedded model's are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import to_network
from decoupe.training.losses import picture_gradient
from decoupe.weights.registry import CATALOGUE
from machine import machine, parser_of, print_table, versions

EXAMPLES = Path(__file__).parents[1] / "examples"
CELLS = (1, 8, 16, 32)
"""Pixels a side: of a pixel, and of the maps that predict gradients."""


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.jpg")))
    parser.add_argument("--side", type=int, default=384, help="of the network's input, a multiple of 32")
    options = parser.parse_args()
    print(f"{machine()}; {versions('torch')}\n")
    titles = ["picture", *("a pixel" if cell == 1 else f"cells of {cell}" for cell in CELLS)]
    print_table(titles, [[path.name, *of_picture(path, options.side)] for path in options.pictures])


def of_picture(path: Path, side: int) -> list[str]:
    """The root mean square of the Laplacian's means over cells of each size."""
    pixels = to_network(read_image(path), (side, side), CATALOGUE["pocket"].preprocessing)
    gradient = picture_gradient(torch.from_numpy(pixels)[None])
    means = [F.avg_pool2d(gradient, cell) for cell in CELLS]
    return [f"{float(mean.square().mean().sqrt()):.4f}" for mean in means]


if __name__ == "__main__":
    main()
