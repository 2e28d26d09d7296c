"""Masks as shapes: growing them, their connected parts, their outlines, their run lengths. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Indices, Mask
from decoupe.readings import bounding_box

Kind = TypeVar("Kind", bound=np.generic)

Point = tuple[int, int]
Ring = list[Point]
"""Corners ``(x, y)`` in pixels of a closed line along pixel edges; the first is not repeated."""


def dilated(mask: Mask, margin: int) -> Mask:
    """Every pixel within ``margin`` rows and ``margin`` columns of a true pixel of ``mask`` ``(H, W)``."""
    return _over_squares(mask, margin, np.logical_or)


def largest(plane: npt.NDArray[Kind], margin: int) -> npt.NDArray[Kind]:
    """The largest values of ``(H, W)`` within ``margin`` rows and ``margin`` columns of each pixel."""
    return _over_squares(plane, margin, np.maximum)


def opened(plane: npt.NDArray[Kind], margin: int) -> npt.NDArray[Kind]:
    """A plane ``(H, W)`` without what is narrower than squares of ``2 * margin + 1`` pixels a side."""
    return largest(_over_squares(plane, margin, np.minimum), margin)


def _over_squares(
    plane: npt.NDArray[Kind],
    margin: int,
    choose: Callable[[npt.NDArray[Kind], npt.NDArray[Kind]], npt.NDArray[Kind]],
) -> npt.NDArray[Kind]:
    """One of the values within ``margin`` rows and columns of each pixel, as ``choose`` chooses from two."""
    margin = min(margin, max(plane.shape))  # no more than everything, whatever a user asks for
    plane = np.pad(plane, margin, mode="edge")
    for _ in range(2):  # along the columns, then along the rows
        # Windows of 1, 2, 4, … pixels, each of two of the one before; the last step is shorter.
        reach = 1
        while reach < 2 * margin + 1:
            step = min(reach, 2 * margin + 1 - reach)
            plane = choose(plane[:-step], plane[step:])
            reach += step
        plane = plane.T
    return plane


def components(mask: Mask) -> tuple[npt.NDArray[np.int32], int]:
    """Label the connected parts of ``mask`` ``(H, W)``; pixels that share an edge are connected.

    Returns:
        Labels ``(H, W)``, 0 outside the mask and from 1 in the order of first pixels; how many there are.
    """
    height, width = mask.shape
    flat = np.pad(mask, ((0, 0), (1, 0))).reshape(-1)  # a false pixel before each row
    edges = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    starts, ends = edges[:-1:2], edges[1::2]  # of runs of true pixels
    if len(starts) == 0:
        return np.zeros(mask.shape, np.int32), 0
    rows = starts // (width + 1)
    parents = _joined(rows, starts - rows * (width + 1), ends - rows * (width + 1), width + 1)
    _, numbers = np.unique(parents, return_inverse=True)
    # False and true runs in turns, false first and last, some of them empty; without the pixels added.
    bounds = np.stack([starts, ends], axis=1) - (rows + 1)[:, np.newaxis]
    values = np.zeros(2 * len(rows) + 1, np.int32)
    values[1::2] = numbers.reshape(-1) + 1
    labels = np.repeat(values, np.diff(bounds.reshape(-1), prepend=0, append=mask.size))
    return labels.reshape(height, width), int(numbers.max()) + 1


def _joined(rows: Indices, starts: Indices, ends: Indices, width: int) -> Indices:
    """The first run of the part that each run belongs to."""
    stride = width + 2  # more than any column, so that keys of one row stay apart from the next row's
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, side="right")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="left")
    counts = np.maximum(last - first, 0)
    above = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    below = np.repeat(first, counts) + offsets
    parents = np.arange(len(rows))
    while True:
        least = np.minimum(parents[above], parents[below])
        joined = parents.copy()
        np.minimum.at(joined, parents[above], least)
        np.minimum.at(joined, parents[below], least)
        joined = joined[joined]  # halves the way to the root, so that few rounds are needed
        if np.array_equal(joined, parents):
            return parents
        parents = joined


class Polygon(NamedTuple):
    """One connected part of a mask: its outer line, and one line around each hole."""

    outer: Ring
    holes: list[Ring]


def outlines(mask: Mask) -> list[Polygon]:
    """The exact outlines of ``mask`` ``(H, W)`` along pixel edges, one polygon for each connected part.

    Pixel (x, y) is the square from (x, y) to (x + 1, y + 1). Outer lines run clockwise on the screen, where y
    points down, and lines around holes the other way.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    mask = mask[y0:y1, x0:x1]
    labels, count = components(mask)
    outers: list[Ring] = [[] for _ in range(count)]
    holes: list[list[Ring]] = [[] for _ in range(count)]
    for ring, (x, y) in _rings(mask):
        part = labels[y, x] - 1
        moved = [(x0 + x, y0 + y) for x, y in ring]
        if _signed_area(ring) > 0:
            outers[part] = moved
        else:
            holes[part].append(moved)
    return [Polygon(*lines) for lines in zip(outers, holes, strict=True)]


def _rings(mask: Mask) -> Iterator[tuple[Ring, Point]]:
    """Every closed line between true and false pixels, with one true pixel beside it."""
    steps = _steps(mask)
    while steps:
        first = step = next(iter(steps))
        beside, ring = steps[first], []
        while True:
            del steps[step]
            x, y, dx, dy = step
            x, y = x + dx, y + dy
            # Right before straight before left: where two pixels touch at a corner only, a right turn keeps
            # to the same pixel, and every step follows exactly one other.
            ways = ((x, y, -dy, dx), (x, y, dx, dy), (x, y, dy, -dx))
            step = next(way for way in ways if way in steps or way == first)
            if step[2:] != (dx, dy):
                ring.append((x, y))
            if step == first:
                break
        yield ring, beside


def _steps(mask: Mask) -> dict[tuple[int, int, int, int], Point]:
    """Every pixel edge of the outline as ``(x, y, dx, dy)``, the mask to its right; and the pixel there."""
    padded = np.pad(mask, 1)
    steps = {}
    # Clockwise around each pixel: the neighbour across a side, the corner that it starts at, its direction.
    for row, column, corner, direction in (
        (0, 1, (0, 0), (1, 0)),
        (1, 2, (1, 0), (0, 1)),
        (2, 1, (1, 1), (-1, 0)),
        (1, 0, (0, 1), (0, -1)),
    ):
        height, width = mask.shape
        across = padded[row : row + height, column : column + width]
        ys, xs = np.nonzero(mask & ~across)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            steps[(x + corner[0], y + corner[1], *direction)] = x, y
    return steps


def _signed_area(ring: Ring) -> int:
    """Twice the area, positive where the ring runs clockwise on the screen."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))


def run_lengths(mask: Mask) -> list[int]:
    """COCO's run lengths of ``mask`` ``(H, W)``: column by column, false and true in turns, false first."""
    flat = mask.ravel(order="F")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    counts = np.diff(ends, prepend=0).tolist()
    return [0, *counts] if flat[0] else counts


def compressed(counts: list[int]) -> str:
    """COCO's text form of run lengths: differences to the last but one, in digits of five bits."""
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            digit, value = value & 31, value >> 5
            # Done once what is left is the sign that the digit's highest bit tells.
            more = value != (-1 if digit & 16 else 0)
            text.append(chr(48 + (digit | 32 if more else digit)))
    return "".join(text)
