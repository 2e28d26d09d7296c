"""What people look at while they train: samples, truths and predictions on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from decoupe.inference.segments import colour_of

Array = NDArray[np.uint8]

GAP = 4
CAPTION = 14
PAPER = (24, 24, 24)
TINT = (255, 40, 80)


def contact_sheet(
    rows: Sequence[Sequence[Array]], *, side: int = 224, captions: Sequence[str] = ()
) -> Image.Image:
    """Pictures in rows, each inside a square.

    Args:
        rows: of pictures, uint8 ``(H, W, 3)`` or ``(H, W)``; rows may differ in length.
        side: of the squares in pixels.
        captions: a line above each row; none for no lines.

    Returns:
        The sheet, mode RGB.
    """
    across = max((len(row) for row in rows), default=0)
    top = CAPTION if captions else 0
    step = side + GAP
    sheet = Image.new("RGB", (GAP + across * step, GAP + len(rows) * (step + top)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        y = GAP + number * (step + top)
        if captions:
            draw.text((GAP, y), captions[number], (220, 220, 220), ImageFont.load_default(CAPTION - 3))
        for place, picture in enumerate(row):
            small = ImageOps.contain(Image.fromarray(picture).convert("RGB"), (side, side))
            left = GAP + place * step + (side - small.width) // 2
            sheet.paste(small, (left, y + top + (side - small.height) // 2))
    return sheet


def tinted(image: Array, mask: Array) -> Array:
    """A photograph ``(H, W, 3)`` with what its mask ``(H, W)`` holds in red, and the rest darker."""
    alpha = mask[..., None].astype(np.float32) / 255
    inside = 0.55 * image + 0.45 * np.array(TINT, np.float32)
    mixed: Array = (alpha * inside + (1 - alpha) * 0.6 * image).astype(np.uint8)
    return mixed


def labelled(image: Array, segments: NDArray[np.int32], names: Sequence[str]) -> Array:
    """A photograph ``(H, W, 3)`` under the colours of its segments.

    Args:
        image: uint8 ``(H, W, 3)``.
        segments: int32 ``(H, W)``: index in ``names``, −1 for none, which stays dark.
        names: class of each segment; a class has the same colour in every picture.
    """
    colours = np.array([*(colour_of(name) for name in names), (0, 0, 0)], np.float32)  # −1 is the last
    mixed: Array = (0.45 * image + 0.55 * colours[segments]).astype(np.uint8)
    return mixed
