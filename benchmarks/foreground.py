"""The subject's colours at soft edges, beside pymatting's multi-level estimate and what others do.

    python benchmarks/foreground.py [--size 4000x3000 900x600] [--composites 3]

Composites of two photographs by a known alpha. The error is the root mean square of what a new background
would show at soft pixels, alpha times the difference from the known foreground, in 255ths: of decoupe's
estimate, of pymatting's, of copying the photograph's colours, and of multiplying them by alpha. The halo is
decoupe's largest mean difference of a channel, in which noise cancels. The seconds are the median of three.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from pymatting import estimate_foreground_ml

from composites import EXAMPLES, HAIRS, lump
from decoupe.inference.foreground import estimate_foreground
from machine import machine, median_times, parser_of, print_table, versions

PAIRS = (("astronaut", "coffee"), ("chelsea", "astronaut"), ("coffee", "chelsea"))
CLOSER = 2  # the middle half of a photograph: its grain is finer than an edge, as a camera's is


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--size", nargs="*", default=["900x600", "4000x3000"], help="WIDTHxHEIGHT")
    parser.add_argument("--composites", type=int, default=3, help="how many of each kind")
    options = parser.parse_args()
    print(f"{machine()}; {versions('numpy', 'pymatting')}\n")
    titles = [
        "size, outline",
        "decoupe",
        "pymatting",
        "copied",
        "multiplied",
        "halo",
        "decoupe, s",
        "pymatting, s",
    ]
    rows = []
    for size in options.size:
        width, height = map(int, size.split("x"))
        rows += [row(outline, options.composites, width, height) for outline in HAIRS]
    print_table(titles, rows)


def row(outline: str, count: int, width: int, height: int) -> list[str]:
    """The mean errors, the largest halo and the mean seconds of one kind of outline."""
    errors, halos, seconds = [], [], []
    for seed in range(count):
        front, back = (middle(name, width, height) for name in PAIRS[seed % len(PAIRS)])
        alpha = lump(np.random.default_rng(seed), width, height, HAIRS[outline])
        share = alpha[..., np.newaxis]
        image = np.rint(front * share + back * (1 - share)).astype(np.uint8)
        unit, wide = image / 255, alpha.astype(np.float64)
        ours, theirs = estimate_foreground(image, alpha), estimate_foreground_ml(unit, wide) * 255
        seen = [differences(one, front, alpha) for one in (ours, theirs, image, image * share)]
        errors.append([float(np.sqrt((one**2).mean())) for one in seen])
        halos.append(float(abs(seen[0].mean(axis=0)).max()))
        runs = {
            "ours": lambda image=image, alpha=alpha: estimate_foreground(image, alpha),
            "theirs": lambda unit=unit, wide=wide: estimate_foreground_ml(unit, wide),
        }
        seconds.append(list(median_times(runs, 3).values()))
    cells = [f"{error:.2f}" for error in np.mean(errors, axis=0)]
    times = [f"{took:.2f}" for took in np.mean(seconds, axis=0)]
    return [f"{width}×{height}, {outline}", *cells, f"{max(halos):.2f}", *times]


def middle(name: str, width: int, height: int) -> np.ndarray:
    """The middle of an example photograph at a size: (height, width, 3)."""
    photograph = Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")
    scale = CLOSER * max(width / photograph.width, height / photograph.height)
    left, top = (photograph.width - width / scale) / 2, (photograph.height - height / scale) / 2
    box = left, top, left + width / scale, top + height / scale
    return np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box=box))


def differences(estimate: np.ndarray, known: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What a new background shows of the error: alpha times the difference, at soft pixels, (P, 3)."""
    soft = (alpha > 0) & (alpha < 1)
    return alpha[soft][:, np.newaxis] * (estimate[soft].astype(np.float64) - known[soft])


if __name__ == "__main__":
    main()
