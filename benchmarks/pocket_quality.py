"""Quality of the embedded default on pairs that its training never saw.

    python benchmarks/pocket_quality.py SET [SET ...] [--most 500] [--model MODEL] [--sizes 224 320 …]

SET is a folder with ``im`` and ``gt``. Of the sets of the recipe ``pocket`` the held-out pairs are taken:
same seed, near duplicates of them removed from training; of any other set all. Scores are those of the alpha
that a user gets, at the picture's own size, the alpha as it is; ``--stretched`` first stretches each to
[0, 1], as many published tables do. The second table is of the same photographs' backgrounds, the largest
piece beside each subject, whose alpha should be 0. Many hold another thing that stands out; the last row is
of those in ``plain_backgrounds.txt`` alone: skies, water, grounds, walls and foliage, chosen by eye before
any model had seen them. ``--sizes`` prints one row per set and input size instead, for the choice of the
size.
"""

from __future__ import annotations

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
from machine import machine, parser_of, print_table, versions

PLAIN = Path(__file__).with_name("plain_backgrounds.txt")
"""Pieces, as ``set/name``, in which nothing stands out."""


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


def of_backgrounds(predictor: decoupe.Predictor, pairs: list[Pair]) -> dict[str, float]:
    """The mean alpha of the piece beside every subject, where there is one, by ``set/name``."""
    means = {}
    for pair in pairs:
        image, truth = read_pair(pair)
        piece = image[beside(truth)]
        if min(piece.shape[:2]) >= 64 and piece.shape[:2] != image.shape[:2]:
            name = f"{pair.image.parents[1].name}/{pair.image.stem}"
            means[name] = float(predictor(piece).alpha.mean())
    return means


def summary(name: str, means: list[float]) -> list[str]:
    """How many pieces, their mean alpha, and the share of pieces whose mean is above 0.02."""
    if not means:
        return [name, "0", "–", "–"]
    share = statistics.mean(mean > 0.02 for mean in means)
    return [name, str(len(means)), f"{statistics.mean(means):.3f}", f"{share:.0%}"]


def divided(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """The pairs of a set that the recipe trains on, and those it holds out: all of a set it does not know."""
    recipe = RECIPES["pocket"]
    counts = {rule.name: rule.held_out for rule in recipe.sets}
    pairs = find_pairs(folder)
    if folder.name not in counts:
        return [], pairs
    train, out = split({folder.name: pairs}, counts, seed=recipe.split_seed)
    return train[folder.name], out[folder.name]


def figures(predictor: decoupe.Predictor, pairs: list[Pair], *, stretched: bool) -> list[str]:
    """S-measure, MAE, largest F, weighted F; median milliseconds of a picture."""
    seconds: list[float] = []
    scores = MatteScores()
    for alpha, truth in predicted(predictor, pairs, seconds, stretched=stretched):
        scores.update(alpha, truth)
    result = scores.result()
    return [
        *(f"{result[name]:.3f}" for name in ("S", "MAE", "maxF", "wF")),
        f"{1000 * statistics.median(seconds):.0f}",
    ]


def main() -> None:
    """Print one row per set."""
    parser = parser_of(__doc__)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=500, help="pairs of each set, evenly chosen")
    parser.add_argument("--model", help="as decoupe.load takes it; else the embedded default")
    parser.add_argument("--stretched", action="store_true", help="stretch every alpha to [0, 1] first")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="SIDE", help="sides of the input")
    options = parser.parse_args()

    sets = {folder.name: spread(divided(folder)[1], options.most) for folder in options.sets}
    predictors = {side: decoupe.load(options.model, size=side) for side in options.sizes or [None]}
    rows = []
    for name, pairs in sets.items():
        for side, predictor in predictors.items():
            at = [str(side)] if side else []
            rows.append([name, *at, str(len(pairs)), *figures(predictor, pairs, stretched=options.stretched)])

    first, *_ = predictors.values()
    print(f"{machine()}; {versions('numpy', 'onnxruntime', 'pysodmetrics')}; {first.describe()}\n")
    size = ["size"] if options.sizes else []
    print_table(["set", *size, "pairs", "S", "MAE", "max F", "weighted F", "ms per picture"], rows)
    if not options.sizes:
        print()
        means = {name: of_backgrounds(first, pairs) for name, pairs in sets.items()}
        empty = [summary(name, list(own.values())) for name, own in means.items()]
        plain = set(PLAIN.read_text(encoding="utf-8").split())
        every = {name: mean for own in means.values() for name, mean in own.items()}
        empty.append(summary("all, the plain ones", [mean for name, mean in every.items() if name in plain]))
        print_table(["backgrounds of", "pieces", "mean alpha", "above 0.02"], empty)


if __name__ == "__main__":
    main()
