"""Alpha that means what it says: a trained model's logits, scaled and shifted by two numbers.

Platt scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.1), fitted to what
mattes are judged by. A small network's logits are timid: its background is not black, nor its subject
opaque. The two numbers go into the weights of the last layer, so nothing is added to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from decoupe.datasets.sets import Pair, read_pair, spread
from decoupe.errors import InputError
from decoupe.evaluation.mattes import are_soft
from decoupe.evaluation.measures import EPS, SUBJECT
from decoupe.inference.predictor import Predictor
from decoupe.models import BiRefNet
from decoupe.training.augment import beside
from decoupe.training.division import divide
from decoupe.training.recipe import Recipe, recipe_from
from decoupe.training.tasks import VALIDATION_SIDE

SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
SHIFTS = tuple(step / 4 for step in range(-20, 3))
LEVELS = 8192
"""Logits of a picture that are told apart."""
_SURE = 1e-6
"""Alpha nearer than this to 0 or 1 has no finite logit."""

Numbers = npt.NDArray[np.float64]
Seen = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
"""A matte's logits and its truth, ``(H, W)`` each."""


@dataclass(frozen=True)
class Calibration:
    """What is done to a model's logits: ``scale · logits + shift``."""

    scale: float
    shift: float


TRIED = tuple(Calibration(*numbers) for numbers in product(SCALES, SHIFTS))
"""What `fit` chooses from."""


def calibrate(model: BiRefNet, calibration: Calibration) -> None:
    """Write a calibration into a model's last layer.

    Raises:
        InputError: the model's last layer is a refiner's, behind which nothing is linear in the first.
    """
    if not isinstance(model, BiRefNet) or model.refiner is not None:
        raise InputError("only a BiRefNet without a refiner is calibrated: give one")
    head = model.decoder.head
    assert head.bias is not None  # its layers are made with one
    with torch.no_grad():
        head.weight.mul_(calibration.scale)
        head.bias.mul_(calibration.scale).add_(calibration.shift)


def as_trained(recipe: Recipe, run: Mapping[str, Any]) -> Recipe:
    """A recipe that holds out the pairs that another did, a checkpoint's own, given as plain data."""
    told = {name: run[name] for name in ("sets", "held_out", "split_seed") if name in run}
    return recipe_from({**recipe.plain(), **told})


def chosen_pairs(recipe: Recipe, folders: Sequence[Path], *, most: int) -> list[Pair]:
    """Pairs that a recipe trains on, evenly chosen.

    Args:
        recipe: which pairs are held out, and so left alone here.
        folders: of the sets.
        most: pairs in all, each set's share by its size.

    Raises:
        InputError: a folder that holds no set.
    """
    train, _ = divide(recipe, folders, ())
    return spread([pair for pairs in train.values() for pair in pairs], most)


def seen(
    predictor: Predictor, recipe: Recipe, pairs: Sequence[Pair], advance: Callable[[], None] = lambda: None
) -> list[Seen]:
    """What a model says of some pairs.

    Where the recipe shows pieces beside a subject, whose truth is empty, as many are looked at too: alpha is
    to mean what it says where there is nothing.

    Args:
        predictor: of the model.
        recipe: by which it was trained.
        pairs: to look at.
        advance: called after each.
    """
    share = getattr(recipe.augmentation, "empty", 0.0)
    found = []
    for index, pair in enumerate(pairs):
        image, truth = read_pair(pair, longest=VALIDATION_SIDE)
        parts = [(slice(None), slice(None))]
        due = int(share * (index + 1)) > int(share * index)
        if due and (piece := beside(truth)):
            parts.append(piece)
        for part in parts:
            alpha = predictor(np.ascontiguousarray(image[part])).alpha.clip(_SURE, 1 - _SURE)
            found.append((np.log(alpha / (1 - alpha)), truth[part]))
        advance()
    return found


def fit(pictures: Sequence[Seen]) -> Calibration:
    """The calibration with the least mean absolute error and the most S-measure, their difference.

    Where the truths are soft, the one with the least mean squared error: S cuts them at one half, and prefers
    edges that are hard.
    """
    soft = are_soft(truth for _, truth in pictures)
    cost = sum(costs(logits, truth, soft=soft) for logits, truth in pictures)
    return TRIED[int(np.argmin(cost))]


def is_at_edge(calibration: Calibration) -> bool:
    """Whether a better one may lie beyond what is tried; a scale of 1 leaves the model as it is."""
    return calibration.scale == SCALES[-1] or calibration.shift in (SHIFTS[0], SHIFTS[-1])


def costs(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], *, soft: bool) -> Numbers:
    """What each of `TRIED` costs one picture, ``(C,)``; see `fit`.

    It depends only on how many pixels there are of each logit, inside the subject and outside, in each of the
    four quarters that S compares; so they are counted once, at levels that are too fine to tell apart.
    """
    levels = np.zeros(logits.shape, np.intp)
    if width := float(np.ptp(logits)):
        levels = ((logits - logits.min()) * ((LEVELS - 1) / width)).astype(np.intp)
    counts = np.bincount(levels.ravel(), minlength=LEVELS)
    means = np.bincount(levels.ravel(), logits.ravel(), LEVELS) / np.maximum(counts, 1)
    scale, shift = np.array([(one.scale, one.shift) for one in TRIED]).T[..., np.newaxis]
    alpha = 1 / (1 + np.exp(-(scale * means + shift)))  # (C, L)
    if soft:
        matte = truth / 255
        told = np.bincount(levels.ravel(), matte.ravel(), LEVELS)
        squared: Numbers = (alpha**2 @ counts - 2 * alpha @ told + (matte**2).sum()) / truth.size
        return squared
    subject = truth / 255 > SUBJECT
    cells = 2 * _quarters(subject) + subject
    spread_out = np.bincount((cells * LEVELS + levels).ravel(), minlength=8 * LEVELS).reshape(8, LEVELS)
    n, sums, squares = (
        of_cells.reshape(*of_cells.shape[:-1], 4, 2)
        for of_cells in (spread_out.sum(1), alpha @ spread_out.T, alpha**2 @ spread_out.T)
    )
    inside, outside = sums[..., 1].sum(-1), sums[..., 0].sum(-1)
    mae: Numbers = (n[:, 1].sum() - inside + outside) / truth.size
    return mae - s_measure(n, sums, squares)


def _quarters(subject: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """In which of the quarters around the subject's centre each pixel lies, 0 to 3 ``(H, W)``."""
    if not subject.any():
        return np.zeros(subject.shape, np.intp)
    centre = np.argwhere(subject).mean(axis=0).round()
    below, right = (np.arange(side) > at for side, at in zip(subject.shape, centre, strict=True))
    quarters: npt.NDArray[np.intp] = 2 * below[:, np.newaxis] + right.astype(np.intp)
    return quarters


def s_measure(n: npt.NDArray[np.intp], sums: Numbers, squares: Numbers) -> Numbers:
    """The S-measure of several predictions of one picture, as pysodmetrics has it, from sums of their pixels.

    Fan et al., ICCV 2017, equations 4 to 8.

    Args:
        n: pixels of each quarter, outside the subject and inside, ``(4, 2)``.
        sums: of their alpha, ``(C, 4, 2)``.
        squares: of its squares, likewise.
    """
    size, share = n.sum(), n[:, 1].sum() / n.sum()
    if share in (0, 1):
        mean: Numbers = sums.sum((1, 2)) / size
        return mean if share else 1 - mean
    objects = np.zeros(len(sums))
    for side, part in ((0, 1 - share), (1, share)):
        count = n[:, side].sum()
        mean = sums[..., side].sum(1) / count
        deviation = np.sqrt(np.maximum(squares[..., side].sum(1) - count * mean**2, 0) / max(count - 1, 1))
        like = mean if side else 1 - mean
        objects += part * 2 * like / (like**2 + 1 + deviation + EPS)
    area = np.maximum(n.sum(1), 1)
    x, y = sums.sum(2) / area, n[:, 1] / area  # (C, 4), (4,)
    free = area - 1 + EPS
    both = (sums[..., 1] - area * x * y) / free
    spreads = (np.maximum(squares.sum(2) - area * x**2, 0) + area * y * (1 - y)) / free
    above, below = 4 * x * y * both, (x**2 + y**2) * spreads
    regions = np.where(above == 0, below == 0, above / (below + EPS)) @ (n.sum(1) / size)
    measure: Numbers = np.maximum(0, (objects + regions) / 2)
    return measure
