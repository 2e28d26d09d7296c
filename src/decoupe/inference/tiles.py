"""A picture seen in tiles, where it does not fit whole: each tile at full detail, the whole at a glance.

A tile alone does not know what the subject is. The glance at the whole picture does, without the detail: so
the glance decides, and the tiles say how the outline runs. What a tile says counts near its outlines,
and only where it knows the same subject.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from decoupe.arrays import Floats
from decoupe.inference.edits import feathered, grown
from decoupe.inference.preprocess import resize_plane

Pair = tuple[int, int]

OVERLAP = 0.25
"""Least share of a tile's side that it has in common with each neighbour."""

NEAR = 12
"""How near to the glance's outline a tile is believed, in pixels of the glance."""

UNLIKE = 0.15
"""Mean difference of alpha from the glance at which a tile has lost the subject."""


def tile_side(length: int, most: int, multiple: int) -> int:
    """The smallest side, a multiple of ``multiple``, of as few tiles of ``length`` as ``most`` allows."""
    if length <= most:
        return length
    sides = range(multiple, most, multiple)
    return next((side for side in sides if _count(length, side) == _count(length, most)), most)


def _shared(tile: int) -> int:
    return max(1, round(tile * OVERLAP))


def _count(length: int, tile: int) -> int:
    return -(-(length - tile) // max(1, tile - _shared(tile))) + 1


def tiled(compute: Callable[[Floats], Floats], image: Floats, glance: Floats, tile: Pair) -> Floats:
    """The matte of a picture, its outlines seen in tiles.

    Args:
        compute: the model, ``(1, 3, h, w)`` -> alpha ``(1, 1, h, w)``.
        image: the picture as the model takes it, ``(3, H, W)``.
        glance: alpha of the whole picture, seen small: ``(h, w)``.
        tile: ``(height, width)`` of a tile, at most the image's.

    Returns:
        Alpha ``(H, W)`` in [0, 1]: the glance, enlarged, plus what each tile adds to it near its outlines.
        The weights of overlapping tiles fall off towards their edges and sum to 1.
    """
    height, width = image.shape[1:]
    whole = resize_plane(glance, (height, width)).clip(0, 1)
    near = resize_plane(near_outlines(glance), (height, width))
    added = np.zeros((height, width), np.float32)
    rows, columns = (tile_weights(*sides) for sides in zip((height, width), tile, strict=True))
    for (top, across), (left, along) in itertools.product(rows, columns):
        place = slice(top, top + tile[0]), slice(left, left + tile[1])
        if near[place].max() > 0.01:
            piece = np.ascontiguousarray(image[(slice(None), *place)])[np.newaxis]
            difference = compute(piece)[0, 0] - whole[place]
            if np.abs(difference).mean() <= UNLIKE:
                added[place] += np.outer(across, along) * difference
    alpha: Floats = (whole + near * added).clip(0, 1)
    return alpha


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
