"""Pixels put together: a subject on transparent ground or over a background, with a shadow, in any depth.

Alpha is straight, and arithmetic is that of float32 in every depth: 8 and 16 bits differ in their rounding
alone. Pictures are worked on in strips that fit a core's cache, by a few threads, and a channel at a time:
NumPy takes several times as long over rows of three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Floats, Pixels
from decoupe.inference.checks import check_number
from decoupe.inference.edits import feathered
from decoupe.inference.foreground import HIDDEN
from decoupe.inference.framing import subject_box
from decoupe.inference.pictures import GREY
from decoupe.inference.sampling import on_threads, strips


def straight(
    colours: Pixels,
    alpha: Floats,
    *,
    shade: Floats | None = None,
    keep_hidden: bool = False,
    bits: npt.DTypeLike = np.uint8,
) -> Pixels:
    """A subject on transparent ground, over its shadow if it has one.

    Args:
        colours: the subject's own, ``(H, W, 3)``, uint8 or uint16.
        alpha: ``(H, W)`` in [0, 1].
        shade: how dark its shadow is, ``(H, W)`` in [0, 1], as `shadow_of` gives it.
        keep_hidden: keep the colours where alpha is 0, instead of black.
        bits: uint8 or uint16, of what is made.

    Returns:
        RGBA ``(H, W, 4)``.
    """
    bits = np.dtype(bits)
    pixels: Pixels = np.empty((*alpha.shape, 4), bits)
    most = np.float32(np.iinfo(bits).max)

    def fill(rows: slice) -> None:
        share = np.where(alpha[rows] < HIDDEN, 0, alpha[rows])
        covered = share if shade is None else share + (1 - share) * shade[rows]
        # The shadow is black: what is seen of a pixel is the subject's share of the two.
        seen = None if shade is None else share / np.maximum(covered, HIDDEN)
        for channel in range(3):
            own = in_bits(colours[rows, :, channel], bits)
            pixels[rows, :, channel] = own if seen is None else np.rint(own * seen)
        pixels[rows, :, 3] = opaque = np.rint(covered * most)
        if not keep_hidden:
            # Whole pixels as one number each: much faster than indexing with a mask.
            whole = pixels[rows].view(f"u{4 * bits.itemsize}")[..., 0]
            whole *= opaque > 0

    on_threads(fill, strips(*alpha.shape))
    return pixels


def composited(
    colours: Pixels,
    below: Pixels,
    alpha: Floats,
    *,
    shade: Floats | None = None,
    bits: npt.DTypeLike = np.uint8,
) -> Pixels:
    """A subject over a background, which its shadow darkens.

    Args:
        colours: the subject's own, uint8 or uint16, ``(H, W, 3)`` or what becomes that by broadcasting.
        below: the background, likewise.
        alpha: ``(H, W)`` in [0, 1].
        shade: as for `straight`.
        bits: uint8 or uint16, of what is made.

    Returns:
        RGB ``(H, W, 3)``.
    """
    bits = np.dtype(bits)
    pixels: Pixels = np.empty((*alpha.shape, 3), bits)
    front: Any = np.broadcast_to(colours, pixels.shape)
    ground: Any = np.broadcast_to(below, pixels.shape)

    def fill(rows: slice) -> None:
        light = None if shade is None else 1 - shade[rows]
        for channel in range(3):
            under = in_bits(ground[rows, :, channel], bits).astype(np.float32)
            if light is not None:
                under *= light
            mixed = in_bits(front[rows, :, channel], bits) - under
            mixed *= alpha[rows]
            mixed += under
            pixels[rows, :, channel] = np.rint(mixed, out=mixed)

    on_threads(fill, strips(*alpha.shape))
    return pixels


def shadow_of(alpha: Floats, darkness: float) -> Floats:
    """How dark each pixel ``(H, W)`` is in the subject's shadow: its outline, soft, a little lower.

    Raises:
        InputError: ``darkness`` is outside [0, 1].
    """
    check_number("shadow", darkness, "a number from 0 to 1", least=0, most=1)
    x0, y0, x1, y1 = subject_box(alpha)
    away = max(1, round(0.02 * max(x1 - x0, y1 - y0)))
    lower = np.pad(alpha, ((away, 0), (0, 0)))[: len(alpha)]
    return feathered(lower, away) * np.float32(darkness)


def without_ground(image: Pixels, opacity: Floats) -> Pixels:
    """A picture's own colours, of which ``image`` shows as much as ``opacity`` tells, over mid-grey.

    Where nothing shows, nothing is known of them, and it is grey.
    """
    own, most = image.copy(), np.iinfo(image.dtype).max
    grey = np.float32(GREY * (most // 255))

    def fill(rows: slice) -> None:
        share = opacity[rows]
        veiled = (share > 0) & (share < 1)
        own[rows][veiled] = np.rint(
            ((image[rows][veiled] - grey) / share[veiled, np.newaxis] + grey).clip(0, most)
        )

    on_threads(fill, strips(*opacity.shape))
    return own


def in_bits(pixels: Pixels, bits: npt.DTypeLike) -> Pixels:
    """uint8 as uint16 or the other way round, the brightest as the brightest; as they are where they fit."""
    if pixels.dtype == bits:
        return pixels
    if bits == np.uint8:
        return np.rint(pixels / np.float32(257)).astype(np.uint8)
    return pixels * np.uint16(257)


def alpha_in_bits(alpha: Floats, bits: npt.DTypeLike = np.uint8) -> Pixels:
    """Alpha ``(H, W)`` in [0, 1] as uint8 or uint16."""
    whole: Pixels = np.rint(alpha * np.float32(np.iinfo(bits).max)).astype(bits)
    return whole
