"""Alpha that means what it says: a trained model's logits, scaled and shifted by two numbers.

Platt scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.1), fitted to what
mattes are judged by. A small network's logits are timid: its background is not black, nor its subject
opaque. The two numbers go into the weights of the last layer, so nothing is added to the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from decoupe.datasets.sets import read_pair, spread
from decoupe.errors import InputError
from decoupe.evaluation.mattes import MatteScores, are_soft
from decoupe.inference.predictor import Predictor
from decoupe.models import BiRefNet
from decoupe.training.augment import beside
from decoupe.training.recipes import Recipe, recipe_from
from decoupe.training.tasks import VALIDATION_SIDE, divide

SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
SHIFTS = tuple(step / 4 for step in range(-20, 3))
_SURE = 1e-6
"""Alpha nearer than this to 0 or 1 has no finite logit."""

Seen = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
"""A matte's logits and its truth, ``(H, W)`` each."""


@dataclass(frozen=True)
class Calibration:
    """What is done to a model's logits: ``scale · logits + shift``."""

    scale: float
    shift: float


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


def seen(predictor: Predictor, recipe: Recipe, folders: Sequence[Path], *, most: int) -> list[Seen]:
    """What a model says of pairs that its recipe trains on, evenly chosen.

    Where the recipe shows pieces beside a subject, whose truth is empty, as many are looked at too: alpha is
    to mean what it says where there is nothing.

    Args:
        predictor: of the model.
        recipe: which pairs are held out, and so left alone here.
        folders: of the sets.
        most: pairs in all, each set's share by its size.

    Raises:
        InputError: a folder that holds no set.
    """
    train, _ = divide(recipe, folders, ())
    share = getattr(recipe.augmentation, "empty", 0.0)
    found = []
    for index, pair in enumerate(spread([pair for pairs in train.values() for pair in pairs], most)):
        image, truth = read_pair(pair, longest=VALIDATION_SIDE)
        parts = [(slice(None), slice(None))]
        due = int(share * (index + 1)) > int(share * index)
        if due and (piece := beside(truth)):
            parts.append(piece)
        for part in parts:
            alpha = predictor(np.ascontiguousarray(image[part])).alpha.clip(_SURE, 1 - _SURE)
            found.append((np.log(alpha / (1 - alpha)), truth[part]))
    return found


def fit(pictures: Iterable[Seen]) -> Calibration:
    """The calibration with the least mean absolute error and the most S-measure, their difference.

    Where the truths are soft, the one with the least mean squared error: S cuts them at one half, and prefers
    edges that are hard.
    """
    pictures = list(pictures)
    soft = are_soft(truth for _, truth in pictures)

    def cost(calibration: Calibration) -> float:
        scores = MatteScores(("MSE",) if soft else ("S", "MAE"))
        for logits, truth in pictures:
            moved = np.exp(-(calibration.scale * logits + calibration.shift))
            scores.update((1 / (1 + moved)).astype(np.float32), truth)
        result = scores.result()
        return result["MSE"] if soft else result["MAE"] - result["S"]

    return min((Calibration(*numbers) for numbers in product(SCALES, SHIFTS)), key=cost)
