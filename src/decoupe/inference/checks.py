"""Arguments that are checked in one line."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np

from decoupe.errors import InputError

LONGEST_NAME = 240
"""Most characters of a name that a message repeats."""


def check_number(
    name: str,
    value: object,
    expected: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Refuse what is no number, or none of the wanted ones.

    Args:
        name: what the caller knows the argument by.
        value: what was given; True and False are no numbers.
        expected: what is, for the message.
        least: smallest number that is taken.
        most: largest number that is taken; infinity and NaN never are.
        whole: whether it has to be an integer by its type.

    Raises:
        InputError: another value.
    """
    fits = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (fits and math.isfinite(value) and least <= value <= most):  # type: ignore[arg-type, operator]
        shown = repr(value) if isinstance(value, str) else value
        raise InputError(f"{name} is {shown}, expected {expected}")


def check_pixels(image: object) -> None:
    """Refuse what is no picture ``(H, W, 3)`` of 8 or 16 bits.

    Raises:
        InputError: another type, shape or depth.
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f"image is a {type(image).__name__}, expected an array: use numpy.asarray")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"image is {image.dtype} {image.shape}, expected uint8 or uint16 (H, W, 3)")


def shortened(name: object) -> str:
    """A name for a message: of a long one, such as a file's bytes in base64, its beginning and its end."""
    text = str(name)
    return text if len(text) <= LONGEST_NAME else f"{text[:160]}…{text[-40:]}"
