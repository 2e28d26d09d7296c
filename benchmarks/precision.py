"""What a lower precision changes: a model's alpha in bfloat16 against float32, on photographs.

    python benchmarks/precision.py MODEL FOLDER [--count 50] [--device cpu]

MODEL is trained: a checkpoint, or a name whose weights are here. The photographs are those of FOLDER, evenly
chosen in the order of their names. Differences are in steps of 8-bit alpha; the mean is over all pixels, the
percentile over those of each photograph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import decoupe
from decoupe.inference.media import find_images
from machine import machine, print_table, versions


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    exact, lower = (
        decoupe.load(options.model, device=options.device, dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    photographs = find_images(options.folder)
    chosen = [photographs[i] for i in np.linspace(0, len(photographs) - 1, options.count).astype(int)]
    means, tails, most = [], [], 0.0
    for photograph in chosen:
        apart = 255 * np.abs(exact(photograph).alpha - lower(photograph).alpha)
        means.append(apart.mean())
        tails.append(np.percentile(apart, 99.9))
        most = max(most, apart.max())
    print(f"{machine()}; {versions('torch')}\n")
    titles = ["model", "photographs", "mean", "99.9th percentile, mean", "its worst", "largest"]
    figures = [np.mean(means), np.mean(tails), max(tails), most]
    name = Path(options.model).name
    print_table(titles, [[name, str(len(chosen)), *(f"{figure:.2f}" for figure in figures)]])


if __name__ == "__main__":
    main()
