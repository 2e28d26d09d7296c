"""Photographs of a thing whose alpha is known, drawn from a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

EXAMPLES = Path(__file__).parents[1] / "examples"

Floats = NDArray[np.float32]


HAIRS: dict[str, tuple[float, float] | None] = {
    "smooth": None,
    "short fur": (0.02, 0.12),
    "long hair": (0.05, 0.35),
}
"""Kinds of outlines: the lengths of hairs, as parts of the subject's radius."""


def composite(seed: int, width: int, height: int, outline: str) -> tuple[NDArray[np.uint8], Floats]:
    """A picture ``(H, W, 3)`` and its subject's alpha ``(H, W)``.

    A lump of a photograph's texture, its outline one of `HAIRS`, before a background out of focus, both with
    the noise of a camera.
    """
    rng = np.random.default_rng(seed)
    alpha = lump(rng, width, height, HAIRS[outline])
    names = sorted(path for path in EXAMPLES.glob("*.jpg") if "." not in path.stem)
    photograph = Image.open(names[rng.integers(len(names))]).convert("RGB")
    scale = 3 * max(width / photograph.width, height / photograph.height)
    wide, high = round(photograph.width * scale), round(photograph.height * scale)
    left, top = rng.integers(wide - width), rng.integers(high - height)
    place = tuple(float(side) / scale for side in (left, top, left + width, top + height))
    texture = photograph.resize((width, height), Image.Resampling.BICUBIC, box=place)
    front = np.asarray(texture, np.float32) * np.float32(rng.uniform(0.6, 1.2))
    mixed = alpha[..., np.newaxis] * (front - (back := out_of_focus(rng, width, height))) + back
    noisy = mixed + rng.normal(0, 4, mixed.shape)
    return noisy.clip(0, 255).astype(np.uint8), alpha


def lump(rng: np.random.Generator, width: int, height: int, hairs: tuple[float, float] | None) -> Floats:
    """Alpha ``(height, width)``, with 500 bent hairs, thin at the tip, or none; drawn at twice the size."""
    image = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(image)
    centre = np.array([width * rng.uniform(0.8, 1.2), height * rng.uniform(0.9, 1.2)])
    radius = 2 * min(width, height) * rng.uniform(0.2, 0.3)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    waves = [rng.normal(0, 0.12 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 9)]
    radii = radius * (1 + np.sum(waves, axis=0))
    outline = centre + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    draw.polygon([(x, y) for x, y in outline], fill=255)
    pixel = width / 1200  # hairs are as thick in every size
    for root in outline[rng.integers(720, size=500 if hairs else 0)]:
        out = (root - centre) / np.linalg.norm(root - centre)
        length, bend = radius * rng.uniform(*(hairs or (0, 0))), rng.normal(0, 0.3)
        along = np.linspace(-0.05, 1, 13)[:, np.newaxis]
        hair = root + length * (along * out + bend * along**2 * np.array([-out[1], out[0]]))
        thick = rng.uniform(2, 5) * pixel
        for step in range(12):
            draw.line(
                [tuple(hair[step]), tuple(hair[step + 1])],
                fill=255,
                width=max(1, round(thick * (1 - step / 13))),
            )
    small = image.resize((width, height), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.75) * pixel))
    return np.asarray(blurred, np.float32) / np.float32(255)


def out_of_focus(rng: np.random.Generator, width: int, height: int) -> Floats:
    """A background ``(height, width, 3)``, 0 to 255: colours that change slowly, and some grain."""
    values = np.full((height, width, 3), rng.uniform(60, 200, 3), np.float32)
    for cells, strength in ((2, 60), (5, 25), (40, 12), (300, 10)):
        shape = (cells, cells * 3 // 2)
        coarse = strength * (rng.normal(size=(*shape, 1)) + 0.5 * rng.normal(size=(*shape, 3)))
        for channel in range(3):
            plane = Image.fromarray(coarse[..., channel].astype(np.float32))
            values[..., channel] += np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))
    return values.clip(0, 255)
