"""Short videos of a thing whose alpha is known: it stands still, or moves, before a soft background."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from composites import Floats, composite, out_of_focus

Frame = tuple[NDArray[np.uint8], Floats]


def still(seed: int, count: int, width: int, height: int, noise: float) -> Iterator[Frame]:
    """The same picture again and again, each time with other noise of this deviation, of 255."""
    image, alpha = composite(seed, width, height, "short fur")
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield noisy(rng, image.astype(np.float32), noise), alpha


def moving(seed: int, count: int, width: int, height: int, noise: float, speed: float) -> Iterator[Frame]:
    """The thing crosses the picture, ``speed`` pixels a frame, before a background that stands still."""
    image, alpha = composite(seed, width, height, "short fur")
    rng = np.random.default_rng(seed)
    back = out_of_focus(rng, width, height)
    for frame in range(count):
        shift = speed * (frame - count / 2)
        front, seen = shifted(image.astype(np.float32), shift), shifted(alpha, shift)
        mixed = seen[..., np.newaxis] * (front - back) + back
        yield noisy(rng, mixed, noise), seen


def noisy(rng: np.random.Generator, image: Floats, noise: float) -> NDArray[np.uint8]:
    """``image`` with noise, in 8 bits."""
    return np.rint(image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


def shifted(array: Floats, pixels: float) -> Floats:
    """``array`` ``(H, W, …)`` moved to the right; its edge colours, or zeros, flow in."""
    whole = int(np.floor(pixels))
    part = np.float32(pixels - whole)
    pad = ((0, 0), (abs(whole) + 1, abs(whole) + 1), *((0, 0),) * (array.ndim - 2))
    wide = np.pad(array, pad, mode="edge" if array.ndim == 3 else "constant")
    start = abs(whole) + 1 - whole
    width = array.shape[1]
    moved: Floats = (1 - part) * wide[:, start : start + width] + part * wide[
        :, start - 1 : start - 1 + width
    ]
    return moved
