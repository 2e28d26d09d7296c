"""Single pixels of an enlarged map, without enlarging all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_CHUNK = 1 << 17  # pixels computed at a time, which bounds the memory
_THREADS = min(4, os.cpu_count() or 1)


def for_chunks(work: Callable[[Indices], None], places: Indices) -> None:
    """Do ``work`` for all of ``places``, a part at a time, on a few threads; parts do not share pixels."""
    parts = [places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK)]
    if len(parts) < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(work, parts):
            pass


def interpolated(coarse: Floats, places: Indices, size: tuple[int, ...]) -> Floats:
    """The map ``(h, w, C)`` at flat indices ``(P,)`` of its enlargement to ``size``, bilinear: ``(P, C)``."""
    height, width, channels = coarse.shape
    flat = coarse.reshape(-1, channels)
    rows, columns = np.divmod(places, size[1])
    (top, bottom, down), (left, right, along) = (
        _neighbours(rows, size[0], height),
        _neighbours(columns, size[1], width),
    )
    above = flat[top * width + left] * (1 - along) + flat[top * width + right] * along
    below = flat[bottom * width + left] * (1 - along) + flat[bottom * width + right] * along
    values: Floats = above * (1 - down) + below * down
    return values


def _neighbours(places: Indices, fine: int, coarse: int) -> tuple[Indices, Indices, Floats]:
    """For pixels of a side of ``fine``: the two nearest of ``coarse``, and the second's weight ``(P, 1)``."""
    exact = ((places + 0.5) * (coarse / fine) - 0.5).clip(0, coarse - 1)
    first = exact.astype(np.intp)
    weight = (exact - first).astype(np.float32)[:, np.newaxis]
    return first, np.minimum(first + 1, coarse - 1), weight
