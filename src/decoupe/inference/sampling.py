"""Single pixels of an enlarged map, without enlarging all of it."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Floats, Indices, Mask
from decoupe.cores import cores
from decoupe.readings import neighbours

Part = TypeVar("Part")
Done = TypeVar("Done")

WINDOW = 3
"""Pixels around one of a small map that belong to its window, of 7×7 pixels."""

_CHUNK = 1 << 15  # pixels computed at a time: what belongs to them fits a core's cache
_BAND = 512  # rows in which these are at most: `interpolated` enlarges all rows between them


def for_chunks(work: Callable[[Indices], None], places: Indices, width: int) -> None:
    """Do ``work`` for flat indices, which ascend, a part at a time, on a few threads.

    Parts do not share pixels. ``width`` is that of the picture whose pixels they are.
    """
    ends = np.arange(_BAND * width, places[-1] if len(places) else 0, _BAND * width)
    bands = np.split(places, np.searchsorted(places, ends))
    parts = (band[start : start + _CHUNK] for band in bands for start in range(0, len(band), _CHUNK))
    on_threads(work, list(parts))


def strips(height: int, width: int, pixels: int = _CHUNK) -> list[slice]:
    """The rows of a picture in parts of about so many pixels, by default what fits a core's cache."""
    rows = max(1, pixels // width)
    return [slice(start, start + rows) for start in range(0, height, rows)]


def on_threads(work: Callable[[Part], Done], parts: Sequence[Part]) -> list[Done]:
    """What ``work`` gives for each of ``parts``, in their order; NumPy lets a few threads compute at once.

    The caller's thread is one of them, so that callers on several threads do not wait for one another.
    """
    left = deque(enumerate(parts))
    done: dict[int, Done] = {}

    def share() -> None:
        while True:
            try:
                place, part = left.popleft()
            except IndexError:
                return
            done[place] = work(part)

    threads, most = _threads(os.getpid())
    helping: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # where memory is bounded, no thread may start any more
            helping.extend(threads.submit(share) for _ in range(min(most, len(parts) - 1)))
        share()
    finally:
        left.clear()  # where a part has failed, the others need not be done
        for helper in helping:
            if not helper.cancel():
                helper.result()
    return [done[place] for place in range(len(parts))]


@functools.cache
def _threads(process: int) -> tuple[ThreadPoolExecutor, int]:
    """What helps the callers of a process, and how many threads; a forked one has none of its parent's."""
    most = min(4, cores()) - 1
    return ThreadPoolExecutor(max(1, most), thread_name_prefix=f"decoupe-{process}"), most


class Corners(NamedTuple):
    """For pixels of an enlarged map: the four of the map between which each lies.

    Attributes:
        places: four times flat indices ``(P,)`` into the map.
        weights: their shares, four times ``(P,)``, which sum to 1.
    """

    places: tuple[npt.NDArray[Any], ...]
    weights: tuple[Floats, ...]

    def of(self, flat: Floats) -> Floats:
        """The values ``(C, P)`` between the corners' in ``flat`` ``(C, h·w)``."""
        return weighted(flat, self.places, self.weights)


def weighted(flat: Floats, places: Sequence[npt.NDArray[Any]], weights: Sequence[Floats]) -> Floats:
    """Weighted sums ``(C, P)`` of columns of ``flat`` ``(C, Q)``, by indices and weights ``(P,)``."""
    total: Floats | None = None
    for some, weight in zip(places, weights, strict=True):
        # The indices are in range, and "clip" skips the check and its copy.
        part = np.take(flat, some, axis=1, mode="clip")
        part *= weight
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None  # nobody sums nothing
    return total


def corners(places: Indices, size: tuple[int, int], coarse: tuple[int, int]) -> Corners:
    """The corners, in a map of size ``coarse``, of flat indices ``(P,)`` of its enlargement to ``size``."""
    rows, columns = divided(places, size[1])
    top, bottom, down = _neighbours_of(rows, size[0], coarse[0])
    left, right, along = _neighbours_of(columns, size[1], coarse[1])
    top, bottom, above = top * coarse[1], bottom * coarse[1], 1 - down
    return Corners(
        (top + left, top + right, bottom + left, bottom + right),
        (above * (1 - along), above * along, down * (1 - along), down * along),
    )


def interpolated(coarse: Floats, places: Indices, size: tuple[int, int]) -> Floats:
    """The map ``(C, h, w)`` at flat indices of its enlargement to ``size``, bilinear: ``(C, P)``.

    The indices ascend, as in `for_chunks`: the rows between the first and the last are made first.
    """
    channels, height, width = coarse.shape
    rows, columns = divided(places, size[1])
    above, below, down = _neighbours_of(slice(rows[0], rows[-1] + 1), size[0], height)
    first, lines = coarse.take(above, axis=1), coarse.take(below, axis=1)
    lines -= first
    lines *= down[:, np.newaxis]
    lines += first
    left, right, along = _neighbours_of(columns, size[1], width)
    starts = (rows - rows[0]) * width
    return weighted(lines.reshape(channels, -1), (starts + left, starts + right), (1 - along, along))


def reached(coarse: Mask, size: tuple[int, int]) -> Indices:
    """Flat indices of an enlargement to ``size``: pixels that lie between corners of which one is marked."""
    height, width = size
    left, right, _ = neighbours(width, coarse.shape[1])
    above, below, _ = neighbours(height, coarse.shape[0])
    wide = coarse.take(left, axis=1) | coarse.take(right, axis=1)

    def look(rows: slice) -> Indices:
        marked = wide.take(above[rows], axis=0) | wide.take(below[rows], axis=0)
        places: Indices = np.flatnonzero(marked) + rows.start * width
        return places

    return np.concatenate(on_threads(look, strips(height, width, 1 << 18)))


def divided(places: Indices, width: int) -> tuple[Indices, Indices]:
    """Rows and columns of flat indices: what `numpy.divmod` gives, several times as fast."""
    rows = places // width
    return rows, places - rows * width


def _neighbours_of(places: Indices | slice, fine: int, coarse: int) -> tuple[Indices, Indices, Floats]:
    """`neighbours`, for some of the pixels of a side."""
    first, second, weight = neighbours(fine, coarse)
    return first[places], second[places], weight[places]


def window_means(plane: Floats) -> Floats:
    """The means of ``(h, w)`` over windows of `WINDOW`; beyond the border its pixels go on."""
    side, (height, width) = 2 * WINDOW + 1, plane.shape
    padded = np.pad(plane, WINDOW, mode="edge")
    down = padded[:height].copy()
    for row in range(1, side):
        down += padded[row : row + height]
    means = down[:, :width].copy()
    for column in range(1, side):
        means += down[:, column : column + width]
    means /= side**2
    return means
