"""Small matte sets drawn on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_pair(folder: Path, name: str, *, seed: int, size: tuple[int, int] = (64, 48)) -> None:
    """A bright disc on a dark gradient, and its mask."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[:height, :width]
    disc = (x - rng.uniform(16, width - 16)) ** 2 + (y - rng.uniform(16, height - 16)) ** 2 < 12**2
    colour, phase = rng.uniform(150, 255, 3), rng.uniform(0, 6.3, 4)
    # Waves of their own tell the pictures apart, which are near duplicates otherwise.
    waves = np.sin(9 * x / width + phase[0]) * np.sin(9 * y / height + phase[1]) + np.sin(
        14 * (x / width * np.sin(phase[2]) + y / height * np.cos(phase[2])) + phase[3]
    )
    ground = 50 + 20 * waves[..., None]
    pixels = np.where(disc[..., None], colour, ground) + rng.normal(0, 3, (height, width, 3))
    for kind in ("im", "gt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "im" / f"{name}.jpg", quality=92)
    Image.fromarray((disc * 255).astype(np.uint8)).save(folder / "gt" / f"{name}.png")
