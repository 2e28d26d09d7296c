"""A matte's soft edge solved anew from the photograph's colours: closed-form matting, by pymatting.

Where a matte is sure it is believed; the band between is unknown, and there alpha is what explains the
colours best (Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting", TPAMI 2008).
Only the part of the photograph that holds the band is looked at, at a bounded size, and the result is
enlarged along the photograph's outlines. `benchmarks/matting.py` measures what it brings, and where it does
harm.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from decoupe.arrays import Floats, Mask, Pixels
from decoupe.errors import InputError, MissingExtraError
from decoupe.inference.checks import check_number
from decoupe.inference.deferred import deferred
from decoupe.inference.framing import subject_box
from decoupe.inference.guided import enlarged
from decoupe.inference.pictures import Picture
from decoupe.inference.preprocess import colours_at, resize_plane
from decoupe.inference.regions import dilated
from decoupe.inference.subject import padded
from decoupe.readings import bounding_box

WORKING_PIXELS = 1 << 19
"""Most pixels at which the band is solved; pymatting takes about 500 bytes for each. More was no better."""

UNUSED = (
    "pymatting.alpha.estimate_alpha_sm",
    "pymatting.foreground.estimate_foreground_ml",
    "pymatting.laplacian.lbdm_laplacian",
    "pymatting.laplacian.rw_laplacian",
    "pymatting.util.boxfilter",
    "pymatting.util.distance",
    "pymatting.util.kdtree",
)
"""What pymatting compiles at its first import, in 42 of 48 seconds, and closed-form matting never calls."""

_WINDOW = 3  # pixels a side whose colours are compared
_SURROUNDINGS = 2  # known pixels beside the band that windows reach
# Residuals: alpha is wanted to a 255th, and without an absolute one, zero from the start ends in 0/0.
_ENOUGH = {"rtol": 1e-4, "atol": 1e-9}


@dataclass(frozen=True)
class Matting:
    """What counts as sure, so that all between is solved.

    Attributes:
        foreground: alpha from which a pixel may be sure to be the subject's.
        background: alpha up to which it may be sure not to be.
        erode: how far inside the sure subject the unknown band begins: pixels, or as a float below 1 a share
            of the longer side of the subject's box.
        dilate: how far beyond everything that may be the subject's it goes, likewise; loose hair that the
            model did not see needs more, and a smooth outline less.

    Raises:
        InputError: thresholds that are not 0 ≤ background < foreground ≤ 1, or a negative width.
    """

    foreground: float = 0.95
    background: float = 0.05
    erode: float = 0.01
    dilate: float = 0.02

    def __post_init__(self) -> None:
        for name in ("foreground", "background"):
            check_number(name, getattr(self, name), "a number from 0 to 1")
        if not 0 <= self.background < self.foreground <= 1:
            raise InputError(
                f"the sure background is up to alpha {self.background}, the sure foreground from "
                f"{self.foreground}: expected two numbers from 0 to 1, the first less"
            )
        for name in ("erode", "dilate"):
            check_number(name, getattr(self, name), "pixels, or a share below 1 such as 0.02", least=0)


def check_pymatting() -> None:
    """Raise MissingExtraError where pymatting is not installed; importing it takes seconds."""
    if importlib.util.find_spec("pymatting") is None:
        raise MissingExtraError("matting", "matting")


def refined(alpha: Floats, image: Pixels, matting: Matting) -> Floats:
    """A matte ``(H, W)`` in [0, 1] of the photograph ``(H, W, 3)``, its unknown band solved.

    What is sure becomes 0 or 1. A matte without a sure subject or without a sure background stays as it is.

    Raises:
        InputError: the equations have no solution that can be found.
        MissingExtraError: pymatting is not installed.
    """
    check_pymatting()
    with deferred(UNUSED):
        from pymatting import estimate_alpha_cf, ichol

    inside, outside = _sure(alpha, matting)
    unknown = ~(inside | outside)
    result = inside.astype(np.float32)
    if not inside.any() or not outside.any():
        return alpha
    if not unknown.any():
        return result
    x0, y0, x1, y1 = padded(bounding_box(unknown), _SURROUNDINGS, alpha.shape)
    part = slice(y0, y1), slice(x0, x1)
    picture = Picture(image[part])
    height, width = picture.size
    scale = min(1.0, math.sqrt(WORKING_PIXELS / (height * width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    trimap = np.full(size, 0.5)
    for mask, value in ((inside, 1.0), (outside, 0.0)):
        trimap[resize_plane(mask[part], size) > 1 - 1e-6] = value
    if min(size) < _WINDOW or not (trimap == 1).any() or not (trimap == 0).any():
        return alpha  # too small, or of one kind alone: there is nothing to compare the colours with
    colours = colours_at(picture, size).astype(np.float64)
    try:
        found = estimate_alpha_cf(colours, trimap, preconditioner=_silent(ichol), cg_kwargs=_ENOUGH)
    except ValueError as error:
        raise InputError(f"matting finds no alpha for these colours ({error}): leave it out") from None
    solved = found.astype(np.float32)
    result[part] = np.where(unknown[part], enlarged(solved, picture) if scale < 1 else solved, result[part])
    return result


def _silent(function: Any) -> Any:
    """A plain function that prints nothing: on standard output, a picture may be on its way."""
    names = {**function.__globals__, "print": lambda *_: None}
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


def _sure(alpha: Floats, matting: Matting) -> tuple[Mask, Mask]:
    """Where a matte is sure to be the subject's, and where sure not to be; the band between is unknown."""
    x0, y0, x1, y1 = subject_box(alpha)
    inner, outer = (_pixels(width, max(x1 - x0, y1 - y0)) for width in (matting.erode, matting.dilate))
    inside = ~dilated(alpha < matting.foreground, inner)
    return inside, ~dilated(alpha > matting.background, outer)


def _pixels(width: float, longer: int) -> int:
    return math.ceil(width * longer) if 0 < width < 1 else round(width)
