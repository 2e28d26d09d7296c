"""What a model sees of a picture: its size, resized and normalised; and the exact way back to its own."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoupe.arrays import Floats
from decoupe.errors import InputError
from decoupe.inference.colour import unit
from decoupe.inference.pictures import Picture
from decoupe.inference.sampling import on_threads, strips
from decoupe.weights.registry import Preprocessing

LONGEST_ASPECT = 16
"""Fit ``"keep"`` squeezes pictures that are longer than this many widths, so that memory is bounded."""

LARGEST_SIDE = 32768
"""Most pixels of a side that a caller may ask a model to see."""

Size: TypeAlias = int | tuple[int, int] | Literal["native"]
"""A network size: one side for both, ``(height, width)``, or the picture's own."""


def network_size(
    image_size: tuple[int, int], preprocessing: Preprocessing, size: Size | None = None
) -> tuple[int, int]:
    """The size at which a picture of ``image_size`` ``(height, width)`` enters the model.

    Args:
        image_size: the picture's ``(height, width)`` in pixels.
        preprocessing: the model's own; its ``fit`` decides between exactly ``size`` and the area of ``size``.
        size: instead of the model's own: one number for both sides, ``(height, width)``, or ``"native"`` for
            the picture's own size, rounded to ``preprocessing.multiple``.

    Returns:
        ``(height, width)``, both multiples of ``preprocessing.multiple``.

    Raises:
        InputError: a ``size`` that is not positive or, with fit ``"stretch"``, not a multiple.
    """
    if preprocessing.fit == "whole" and size is not None:
        raise InputError("this model's file chooses the size by itself: leave size out")
    if preprocessing.fit == "whole" or (isinstance(size, str) and size == "native"):
        return _rounded(image_size, preprocessing.multiple)
    height, width = preprocessing.size if size is None else _as_pair(size)
    if min(height, width) < 1:
        raise InputError(f"size is {width}×{height}, expected positive numbers of pixels")
    if max(height, width) > LARGEST_SIDE:
        raise InputError(f"size is {width}×{height}, expected at most {LARGEST_SIDE} pixels a side")
    if preprocessing.fit == "stretch":
        _check_multiple((height, width), preprocessing.multiple)
        return height, width
    aspect = min(max(image_size[1] / image_size[0], 1 / LONGEST_ASPECT), LONGEST_ASPECT)
    if preprocessing.fit == "shorter":
        return _shorter(min(height, width), aspect, preprocessing)
    area = height * width
    return _rounded((math.sqrt(area / aspect), math.sqrt(area * aspect)), preprocessing.multiple)


def _shorter(shorter: float, aspect: float, preprocessing: Preprocessing) -> tuple[int, int]:
    """Sides of ``aspect`` (width by height) whose shorter is ``shorter``, the longer at most ``longest``."""
    ratio = max(aspect, 1 / aspect)
    if preprocessing.longest is not None:
        shorter = min(shorter, preprocessing.longest / ratio)
    # Whole pixels first, as transformers' image processor has it; the sum undoes a division's rounding.
    sides = round(shorter), math.floor(shorter * ratio + 1e-6)
    least, most = (math.ceil(side / preprocessing.multiple) * preprocessing.multiple for side in sides)
    return (least, most) if aspect >= 1 else (most, least)


def second_size(
    image_size: tuple[int, int], preprocessing: Preprocessing, size: Size | None = None
) -> tuple[int, int] | None:
    """The size of the closer look that `Preprocessing.two_scale` asks for; None where one look is enough.

    Args:
        image_size: the picture's ``(height, width)`` in pixels.
        preprocessing: the model's own.
        size: as for `network_size`; a caller who names one gets one look at it.
    """
    if size is not None or preprocessing.two_scale is None:
        return None
    above, most = preprocessing.two_scale
    if min(image_size) <= above:
        return None
    scale = min(1, most / min(image_size))
    return _rounded((image_size[0] * scale, image_size[1] * scale), preprocessing.multiple)


def check_size(size: Size) -> None:
    """Raise InputError for what is not a network size."""
    if not (isinstance(size, str) and size == "native"):  # an array is compared element by element
        _as_pair(size)


def _as_pair(size: object) -> tuple[int, int]:
    sides: tuple[Any, ...] = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    if all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides):
        return int(sides[0]), int(sides[1])
    raise InputError(f"size is {size!r}, expected a number, (height, width) or 'native'")


def _rounded(size: tuple[float, float], multiple: int) -> tuple[int, int]:
    height, width = (max(multiple, round(side / multiple) * multiple) for side in size)
    return height, width


def _check_multiple(size: tuple[int, int], multiple: int) -> None:
    if any(side % multiple for side in size):
        height, width = _rounded(size, multiple)
        raise InputError(
            f"size is {size[1]}×{size[0]}, expected multiples of {multiple}: use {width}×{height}"
        )


def to_network(picture: Picture, size: tuple[int, int], preprocessing: Preprocessing) -> Floats:
    """A picture as a model's input: ``(3, height, width)`` float32, resized to ``size`` and normalised."""
    return _normalised(colours_at(picture, size), preprocessing)


def part_to_network(
    picture: Picture, size: tuple[int, int], place: tuple[slice, slice], preprocessing: Preprocessing
) -> Floats:
    """The rows and columns ``place`` of `to_network`'s ``(3, height, width)``, without the rest of it."""
    scales = [own / wanted for own, wanted in zip(picture.size, size, strict=True)]
    (top, bottom), (left, right) = (
        (part.start * scale, part.stop * scale) for part, scale in zip(place, scales, strict=True)
    )
    # What the filter reaches, so that nothing shows where the part was cut out.
    down, across = (math.ceil(max(1, scale)) + 1 for scale in scales)
    y, x = max(0, math.floor(top) - down), max(0, math.floor(left) - across)
    end = min(picture.size[1], math.ceil(right) + across), min(picture.size[0], math.ceil(bottom) + down)
    around = np.ascontiguousarray(picture.pixels[y : end[1], x : end[0]])
    box = left - x, top - y, right - x, bottom - y
    wide, high = place[1].stop - place[1].start, place[0].stop - place[0].start

    def resized(values: npt.NDArray[Any]) -> Image.Image:
        return Image.fromarray(values).resize((wide, high), Image.Resampling.BILINEAR, box=box)

    if around.dtype == np.uint8:
        return _normalised(unit(np.asarray(resized(around))), preprocessing)
    planes = np.moveaxis(around.astype(np.float32), -1, 0)
    channels: list[Floats] = [np.asarray(resized(plane)) for plane in planes]
    colours = np.stack(channels, axis=-1) / np.float32(65535)
    return _normalised(colours, preprocessing)


def _normalised(colours: Floats, preprocessing: Preprocessing) -> Floats:
    """Colours ``(h, w, 3)`` in [0, 1] as the model takes them, ``(3, h, w)``."""
    values = np.ascontiguousarray(colours.transpose(2, 0, 1))
    values -= np.asarray(preprocessing.mean, dtype=np.float32)[:, np.newaxis, np.newaxis]
    values /= np.asarray(preprocessing.std, dtype=np.float32)[:, np.newaxis, np.newaxis]
    return values


def colours_at(picture: Picture, size: tuple[int, int]) -> Floats:
    """A picture's colours in [0, 1] at ``size`` ``(height, width)``: ``(height, width, 3)``.

    Resizing is Pillow's antialiased bilinear filter: on 8-bit values where the picture has 8 bits, as the
    references' torchvision transforms do it, and on floats where it has 16.
    """
    if picture.pixels.dtype == np.uint8:
        return unit(picture.reduced(size))
    channels = [resize_plane(picture.pixels[..., channel], size) for channel in range(3)]
    return np.stack(channels, axis=-1) / np.float32(65535)


def from_network(alpha: Floats, picture: Picture) -> Floats:
    """A model's output ``(h, w)`` as the picture's alpha: its own size, times its own opacity, in [0, 1].

    Bilinear, so nothing overshoots and what is flat stays flat.
    """
    same = alpha.shape == picture.size
    resized = alpha if same else resize_plane(alpha, picture.size)
    resized = np.clip(resized, 0, 1, out=None if same else resized)
    return resized if picture.opacity is None else resized * picture.opacity


def resize_plane(plane: npt.NDArray[Any], size: tuple[int, int]) -> Floats:
    """One channel ``(H, W)`` resized to ``size`` ``(height, width)`` in float32, bilinear and antialiased."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    height, width = size
    resized = np.empty(size, np.float32)

    def fill(rows: slice) -> None:
        place = slice(rows.start, min(rows.stop, height)), slice(0, width)
        resized[rows] = np.asarray(resized_part(image, size, place))

    # Large parts: Pillow widens every row of the plane that a part touches, and parts share such rows.
    on_threads(fill, strips(height, width, 1 << 20))
    return resized


def resized_part(image: Image.Image, size: tuple[int, int], place: tuple[slice, slice]) -> Image.Image:
    """The rows and columns ``place`` of an image resized to ``size`` ``(height, width)``, bilinear."""
    (height, width), (rows, columns) = size, place
    left, right = (at / width * image.width for at in (columns.start, columns.stop))
    top, bottom = (at / height * image.height for at in (rows.start, rows.stop))
    sides = columns.stop - columns.start, rows.stop - rows.start
    return image.resize(sides, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
