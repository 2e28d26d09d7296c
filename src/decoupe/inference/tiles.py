"""A picture seen in tiles, where it does not fit whole: each tile at full detail, the whole at a glance.

A tile alone does not know what the subject is. The glance at the whole picture does, without the detail: so
the glance decides, and the tiles say how the outline runs. What a tile says counts near its outlines,
and only where it knows the same subject.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image

from decoupe.arrays import Floats
from decoupe.inference.edits import feathered, grown
from decoupe.inference.preprocess import resize_plane, resized_part

Pair: TypeAlias = tuple[int, int]
Place: TypeAlias = tuple[slice, slice]
"""Rows and columns."""

OVERLAP = 0.25
"""Least share of a tile's side that it has in common with each neighbour."""

NEAR = 12
"""How near to the glance's outline a tile is believed, in pixels of the glance."""

UNLIKE = 0.15
"""Mean difference of alpha from the glance at which a tile has lost the subject."""


def tile_side(length: int, most: int, multiple: int, least: int = 1) -> int:
    """The smallest side, a multiple of ``multiple``, of as few tiles of ``length`` as ``most`` allows.

    At least ``least``: the weights know no smaller ones, and more overlap costs nothing.
    """
    if length <= most:
        return length
    sides = range(-(-max(least, 1) // multiple) * multiple, most, multiple)
    return next((side for side in sides if _count(length, side) == _count(length, most)), most)


def _shared(tile: int) -> int:
    return max(1, round(tile * OVERLAP))


def _count(length: int, tile: int) -> int:
    return -(-(length - tile) // max(1, tile - _shared(tile))) + 1


def tiled(compute: Callable[[Place], Floats], size: Pair, glance: Floats, tile: Pair) -> Floats:
    """The matte of a picture, its outlines seen in tiles.

    Args:
        compute: what the model says of a part of the picture at ``size``: alpha of the part's size.
        size: ``(H, W)`` at which the picture is seen.
        glance: alpha of the whole picture, seen small: ``(h, w)``.
        tile: ``(height, width)`` of a tile, at most ``size``.

    Returns:
        Alpha ``(H, W)`` in [0, 1]: the glance, enlarged, plus what each tile adds to it near its outlines.
        The weights of overlapping tiles fall off towards their edges and sum to 1.
    """
    near = near_outlines(glance)
    alpha = resize_plane(glance, size)
    alpha.clip(0, 1, out=alpha)
    rows, columns = (tile_weights(*sides) for sides in zip(size, tile, strict=True))
    for (top, across), (left, along) in itertools.product(rows, columns):
        place = slice(top, top + tile[0]), slice(left, left + tile[1])
        nearness = _enlarged(near, size, place)
        if nearness.max() > 0.01:
            # Not of alpha, to which the tiles before have added.
            difference = compute(place) - _enlarged(glance, size, place).clip(0, 1)
            if np.abs(difference).mean() <= UNLIKE:
                alpha[place] += np.outer(across, along) * nearness * difference
    return alpha.clip(0, 1, out=alpha)


def _enlarged(plane: Floats, size: Pair, place: Place) -> Floats:
    """The rows and columns ``place`` of a plane ``(h, w)`` that is enlarged to ``size``."""
    return np.asarray(resized_part(Image.fromarray(plane), size, place))


def tile_weights(length: int, tile: int) -> list[tuple[int, Floats]]:
    """Where the tiles of a side begin, evenly spread over it, and the weight of each of their pixels."""
    shared, count = _shared(tile), _count(length, tile)
    starts = [round(index * (length - tile) / max(1, count - 1)) for index in range(count)]
    inside = np.minimum(np.arange(1, tile + 1), np.arange(tile, 0, -1)).clip(max=shared).astype(np.float32)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + tile] += inside
    return [(start, inside / total[start : start + tile]) for start in starts]


def near_outlines(glance: Floats) -> Floats:
    """1 within `NEAR` pixels of where a matte is soft or jumps, falling to 0 further away."""
    rows, columns = (np.abs(np.diff(glance, axis=axis, append=glance.take([-1], axis))) for axis in (0, 1))
    outline = (np.maximum(rows, columns) > 0.1) | ((glance > 0.05) & (glance < 0.95))
    return feathered(grown(outline.astype(np.float32), NEAR), NEAR / 3)
