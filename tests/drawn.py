"""Small matte sets drawn on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


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


def draw_discs(folder: Path, count: int = 24) -> Path:
    """A set of pairs."""
    for row in range(count):
        draw_pair(folder, f"disc{row:02}", seed=row)
    return folder


def soft_disc(width: int, height: int) -> Image.Image:
    """A defocused subject."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).ellipse((width * 0.25, height * 0.2, width * 0.75, height * 0.85), fill=255)
    return image.filter(ImageFilter.GaussianBlur(min(width, height) / 40))


def hairy_disc(width: int, height: int) -> Image.Image:
    """A subject with thin, translucent strands around it."""
    rng = np.random.default_rng(0)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.25, height * 0.2, width * 0.75, height * 0.85), fill=255)
    for angle in rng.uniform(0, 2 * np.pi, 150):
        root = np.array([width * (0.5 + 0.24 * np.cos(angle)), height * (0.525 + 0.31 * np.sin(angle))])
        bent = angle + rng.normal() * 0.4
        tip = root + min(width, height) * 0.15 * np.array([np.cos(bent), np.sin(bent)])
        draw.line((*root, *tip), fill=int(rng.integers(100, 255)), width=1)
    return image.filter(ImageFilter.GaussianBlur(1))
