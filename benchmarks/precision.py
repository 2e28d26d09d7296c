"""What small changes of the numbers do to a trained model's alpha, on photographs.

    python benchmarks/precision.py MODEL FOLDER [--count 50] [--device cpu]

MODEL is trained: a checkpoint, a name whose weights are here, or ``pocket``, whose weights are read into
PyTorch. The photographs are those of FOLDER, evenly chosen in the order of their names. Against float32:

- bfloat16: what `decoupe.load(..., dtype="bfloat16")` gives.
- resized by torch: float32, the photograph resized by torch's antialiased bilinear filter, as a GPU would do
  it, and not by Pillow's.

Differences are in steps of 8-bit alpha; the mean is over all pixels, the percentile over those of each
photograph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import decoupe
from decoupe.inference.media import find_images
from decoupe.inference.pictures import Picture, read_image
from decoupe.inference.preprocess import network_size
from decoupe.weights import download
from decoupe.weights.checkpoint import save_model
from decoupe.weights.embedded import read_embedded
from decoupe.weights.registry import CATALOGUE, DEFAULT_MODEL
from machine import machine, parser_of, print_table, versions


def checkpoint(folder: str) -> str:
    """The embedded model as a checkpoint."""
    spec = CATALOGUE[DEFAULT_MODEL]
    loaded = read_embedded(spec, download.fetch(spec))
    path = Path(folder, f"{spec.name}.safetensors")
    save_model(loaded.model, path, family=spec.family, preprocessing=spec.preprocessing)
    return str(path)


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """The same picture, its pixels at ``size`` torch's."""
    values = torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1)[None].float()
    values = F.interpolate(values, size, mode="bilinear", antialias=True).round().byte()
    changed = Picture(picture.pixels)
    changed._reduced[size] = values[0].permute(1, 2, 0).numpy()
    return changed


def main() -> None:
    """Print a row for each change."""
    parser = parser_of(__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        model = checkpoint(folder) if options.model == DEFAULT_MODEL else options.model
        exact, lower = (
            decoupe.load(model, device=options.device, dtype=dtype) for dtype in ("float32", "bfloat16")
        )

    def by_torch(picture: Picture) -> decoupe.Matte:
        return exact(resized(picture, network_size(picture.size, exact.preprocessing)))

    forms: dict[str, Callable[[Picture], decoupe.Matte]] = {"bfloat16": lower, "resized by torch": by_torch}
    found = find_images(options.folder)
    chosen = [found[i] for i in np.linspace(0, len(found) - 1, options.count).astype(int)]
    figures: dict[str, list[tuple[float, float, float]]] = {form: [] for form in forms}
    for photograph in chosen:
        picture = read_image(photograph)
        wanted = exact(picture).alpha
        for form, predict in forms.items():
            apart = 255 * np.abs(predict(picture).alpha - wanted)
            figures[form].append((apart.mean(), float(np.percentile(apart, 99.9)), apart.max()))
    print(
        f"{machine()}; {versions('torch', 'pillow')}; {Path(options.model).name}, {len(chosen)} photographs\n"
    )
    rows = []
    for form, measured in figures.items():
        means, tails, largest = zip(*measured, strict=True)
        row = np.mean(means), np.mean(tails), max(tails), max(largest)
        rows.append([form, *(f"{figure:.2f}" for figure in row)])
    print_table(["change", "mean", "99.9th percentile, mean", "its worst", "largest"], rows)


if __name__ == "__main__":
    main()
