"""Quality of the embedded default on pairs that its training never saw.

    python benchmarks/pocket_quality.py SET [SET ...] [--most 500] [--model MODEL]

SET is a folder with ``im`` and ``gt``. Of the sets of the recipe ``pocket`` the held-out pairs are taken:
same seed, near duplicates of them removed from training; of any other set all. Scores are those of the alpha
that a user gets, at the picture's own size, the alpha as it is; ``--stretched`` first stretches each to
[0, 1], as many published tables do. The second table is of the same photographs' backgrounds, the largest
piece beside each subject: pictures without a subject, whose alpha should be 0.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import decoupe
from decoupe.datasets.sets import Pair, find_pairs, read_pair, split, spread
from decoupe.evaluation.mattes import MatteScores
from decoupe.training.augment import beside
from decoupe.training.recipes import RECIPES
from machine import machine, print_table, versions


def predicted(
    predictor: decoupe.Predictor, pairs: list[Pair], seconds: list[float], *, stretched: bool
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Alpha and truth of every pair; the time of each prediction goes into ``seconds``."""
    for pair in pairs:
        image, truth = read_pair(pair)
        begun = time.perf_counter()
        alpha = predictor(image).alpha
        seconds.append(time.perf_counter() - begun)
        if stretched:
            alpha = (alpha - alpha.min()) / max(float(np.ptp(alpha)), 1e-8)
        yield alpha, truth


def of_backgrounds(predictor: decoupe.Predictor, pairs: list[Pair]) -> list[str]:
    """How many pieces, their mean alpha, and the share of pieces whose mean is above 0.02."""
    means = []
    for pair in pairs:
        image, truth = read_pair(pair)
        piece = image[beside(truth)]
        if min(piece.shape[:2]) >= 64 and piece.shape[:2] != image.shape[:2]:
            means.append(float(predictor(piece).alpha.mean()))
    if not means:
        return ["0", "–", "–"]
    return [
        str(len(means)),
        f"{statistics.mean(means):.3f}",
        f"{statistics.mean(m > 0.02 for m in means):.0%}",
    ]


def main() -> None:
    """Print one row per set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=500, help="pairs of each set, evenly chosen")
    parser.add_argument("--model", help="as decoupe.load takes it; else the embedded default")
    parser.add_argument("--stretched", action="store_true", help="stretch every alpha to [0, 1] first")
    options = parser.parse_args()

    recipe = RECIPES["pocket"]
    held_out = {rule.name: rule.held_out for rule in recipe.sets}
    predictor = decoupe.load(options.model)
    rows, empty = [], []
    for folder in options.sets:
        pairs = find_pairs(folder)
        if folder.name in held_out:
            pairs = split(pairs, held_out[folder.name], seed=recipe.seed)[1]
        pairs = spread(pairs, options.most)
        seconds: list[float] = []
        scores = MatteScores()
        empty.append([folder.name, *of_backgrounds(predictor, pairs)])
        for alpha, truth in predicted(predictor, pairs, seconds, stretched=options.stretched):
            scores.update(alpha, truth)
        result = scores.result()
        figures = [f"{result[name]:.3f}" for name in ("S", "MAE", "maxF", "wF")]
        rows.append([folder.name, str(len(pairs)), *figures, f"{1000 * statistics.median(seconds):.0f}"])

    print(f"{machine()}; {versions('numpy', 'onnxruntime', 'pysodmetrics')}; {predictor.describe()}\n")
    print_table(["set", "pairs", "S", "MAE", "max F", "weighted F", "ms per picture"], rows)
    print()
    print_table(["backgrounds of", "pieces", "mean alpha", "above 0.02"], empty)


if __name__ == "__main__":
    main()
