"""The part of a picture that a crop keeps, and what it shows beyond the picture's border."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, SupportsFloat

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Box, Floats
from decoupe.errors import InputError, TooLargeError
from decoupe.inference.checks import check_number
from decoupe.inference.edits import CERTAIN, reach
from decoupe.inference.regions import dilated
from decoupe.readings import bounding_box

VISIBLE = 0.1
"""Alpha from which a pixel belongs to what a crop keeps."""

MOST = 25_000_000
"""Pixels that a crop may have, or four times the photograph's: margin and aspect can make it very large."""


def subject_box(alpha: Floats) -> Box:
    """The box of a matte's subject, with its soft edge; zeros where there is none.

    What is faint and far from all that is sure is a matte's noise, and does not count.
    """
    sure = alpha >= CERTAIN
    if not sure.any():
        return bounding_box(alpha >= VISIBLE)
    return bounding_box(dilated(sure, reach(bounding_box(sure))) & (alpha >= VISIBLE))


def framed(
    subject: Box,
    margin: float,
    aspect: tuple[float, float] | None,
    size: tuple[int, ...],
    source: str,
) -> Box:
    """The box that `Matte.crop` keeps; it may reach beyond a picture of ``size`` ``(height, width)``.

    Raises:
        InputError: a margin or an aspect that is none, or no subject.
        TooLargeError: a box of more pixels than `MOST`, and than four times the picture's.
    """
    x0, y0, x1, y1 = subject
    if x0 >= x1:
        raise InputError(f"{source} shows no subject to crop to: leave crop out")
    check_number("margin", margin, "pixels, or a share below 1 such as 0.05", least=0)
    longer = max(x1 - x0, y1 - y0)
    share = 0 < float(margin) < 1  # pixels are whole
    room = round(float(margin) * longer) if share else round(float(margin))
    x0, y0, x1, y1 = x0 - room, y0 - room, x1 + room, y1 + room
    width, height = x1 - x0, y1 - y0
    if aspect is not None:
        if not isinstance(aspect, Sized) or len(aspect) != 2 or not all(_is_side(side) for side in aspect):
            raise InputError(f"aspect is {aspect}, expected width and height, such as (4, 5)")
        ratio = aspect[0] / aspect[1]
        width, height = max(width, round(height * ratio)), max(height, round(width / ratio))
    if width * height > max(MOST, 4 * size[0] * size[1]):
        raise TooLargeError(f"the crop would be {width}×{height}: choose another aspect, or less margin")
    x0, y0 = x0 - (width - (x1 - x0)) // 2, y0 - (height - (y1 - y0)) // 2
    return x0, y0, x0 + width, y0 + height


def _is_side(side: object) -> bool:
    return isinstance(side, SupportsFloat) and 1e-9 < float(side) < 1e9


def cropped(array: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    """What a box shows of ``(H, W, …)``; zero where it reaches beyond."""
    x0, y0, x1, y1 = box
    height, width = array.shape[:2]
    inside = array[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    around = [(max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0))]
    return np.pad(inside, around + [(0, 0)] * (array.ndim - 2))
