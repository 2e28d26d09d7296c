"""Predictions and truths on disk: which belong together, and what their pixels say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from decoupe.datasets.sets import endings, masks_of, photographs_of, pictures_below
from decoupe.datasets.shards import Source, opened
from decoupe.errors import InputError
from decoupe.evaluation.measures import unit
from decoupe.inference.pictures import wide_grey

COLOURFUL = 24
"""Difference between channels of 8 bits beyond which a picture is a photograph, not a matte."""
SAME_SHAPE = 0.02
"""Share by which the aspect ratios of a prediction and its truth may differ."""


@dataclass(frozen=True)
class Match:
    """A prediction and its truth, by the name that they share."""

    name: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class Matching:
    """What two folders hold.

    Attributes:
        pairs: by name.
        missing: names of truths without a prediction.
        spare: names of predictions without a truth.
        photographs: by name, where the truths are a set's.
        endings: what the names of predictions and of truths end in beyond those of the other.
    """

    pairs: list[Match]
    missing: list[str]
    spare: list[str]
    photographs: dict[str, Path]
    endings: tuple[str, str] = ("", "")


def match(predictions: str | Path, truths: str | Path) -> Matching:
    """Predictions and truths of the same names; endings do not matter, folders inside do.

    Where no name is alike, all of one folder may end in more: ``cat.cut.png`` beside ``cat.png``.

    Args:
        predictions: folder.
        truths: folder of masks, or a whole set, whose masks are taken.

    Raises:
        InputError: a folder is none, is empty, is given twice, or holds a name twice; or nothing matches.
    """
    predictions, truths = Path(predictions), Path(truths)
    for folder in (predictions, truths):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give one with pictures")
    truths = masks_of(truths) or truths
    if predictions.samefile(truths):
        raise InputError(f"{predictions} is given as prediction and as truth: give two folders")
    found, told = _by_name(predictions), _by_name(truths)
    more, other = endings(found, told)
    found = {name.removesuffix(more): path for name, path in found.items()}
    bare = {name: name.removesuffix(other) for name in told}
    owners = set(bare.values())
    if not owners & found.keys():
        raise InputError(
            f"no picture of {predictions} has the name of one in {truths}: "
            f"{next(iter(found))} is none of theirs, expected names as {next(iter(told))}"
        )
    photographs = _by_name(of_set) if (of_set := photographs_of(truths)) else {}
    return Matching(
        [Match(name, found[own], told[name]) for name, own in bare.items() if own in found],
        [name for name, own in bare.items() if own not in found],
        [name + more for name in found if name not in owners],
        {name: photographs[own] for name, own in bare.items() if own in photographs}
        | {name: photographs[name] for name in told if name in photographs},
        (more, other),
    )


def _by_name(folder: Path) -> dict[str, Path]:
    """`pictures_below` a folder; InputError where there are none."""
    by_name = pictures_below(folder)
    if not by_name:
        raise InputError(f"{folder} holds no pictures")
    return by_name


def read_matte(path: Source) -> NDArray[Any]:
    """The matte in a file, uint8 or uint16 ``(H, W)``.

    Of a cut-out the alpha, unless that says no more than that a grey picture is opaque; else the grey values:
    of floats from 0 to 1 in 16 bits.

    Raises:
        InputError: the file cannot be read, is a photograph, or holds values of another range.
    """
    with opened(path) as file:
        picture = ImageOps.exif_transpose(file)
    alpha = np.asarray(picture.convert("RGBA"))[..., 3] if picture.has_transparency_data else None
    if alpha is not None and alpha.min() < 255:
        return alpha
    if (wide := wide_grey(picture, str(path))) is not None:
        return wide
    if picture.mode not in ("1", "L"):
        colours = np.asarray(picture.convert("RGB"))
        if int(np.ptp(colours, axis=2).max()) > COLOURFUL:
            if alpha is not None:
                return alpha
            raise InputError(f"{path} is a photograph: expected a grey matte, or a cut-out with alpha")
    return np.asarray(picture.convert("L"))


def fitted(prediction: NDArray[Any], truth: NDArray[Any], name: str) -> NDArray[Any]:
    """A prediction at its truth's size, bilinearly; as it is where it has that.

    Raises:
        InputError: the two have different shapes, as where one is turned.
    """
    if prediction.shape == truth.shape:
        return prediction
    (height, width), (told_height, told_width) = prediction.shape, truth.shape
    if abs(width * told_height / (height * told_width) - 1) > SAME_SHAPE:
        raise InputError(
            f"{name} is {height}×{width}, its truth {told_height}×{told_width}: "
            "expected the same shape, turn or crop one of them"
        )
    picture = Image.fromarray(unit(prediction, "prediction").astype(np.float32))
    larger = picture.resize((told_width, told_height), Image.Resampling.BILINEAR)
    return np.asarray(larger).clip(0, 1)
