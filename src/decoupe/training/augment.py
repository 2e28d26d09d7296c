"""Augmentation: a photograph and its mask in, a training square of both out, moved together."""

from __future__ import annotations

import io
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Array = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample; the defaults are the embedded model's.

    Attributes:
        area: least and largest share of the photograph's area that is kept.
        stretch: largest change of the aspect ratio, as a factor either way, of a crop whose own lies
            between the photograph's and the square's.
        flip: probability of a horizontal flip.
        empty: probability of a piece beside the subject instead, whose truth is empty.
        paste: probability that the subject is set on a piece of another photograph beside its subject.
        brightness: largest change of the brightness, as a factor either way from 1.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        grey: probability of losing all colour.
        blur: probability of a Gaussian blur of up to 1.5 pixels.
        noise: probability of Gaussian noise of up to 12 grey levels.
        jpeg: probability of compression at a quality of 25 to 85.
    """

    area: tuple[float, float] = (0.4, 1.0)
    stretch: float = 1.3
    flip: float = 0.5
    empty: float = 0.04
    paste: float = 0.1
    brightness: float = 0.35
    contrast: float = 0.35
    saturation: float = 0.5
    grey: float = 0.05
    blur: float = 0.1
    noise: float = 0.1
    jpeg: float = 0.1

    def __call__(
        self, image: Array, mask: Array, other: tuple[Array, Array], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """One sample, a function of its arguments alone.

        Args:
            image: ``(H, W, 3)``, uint8.
            mask: ``(H, W)``, uint8.
            other: another photograph and its mask, to paste on.
            size: side of the square in pixels.
            rng: where all chance comes from.

        Returns:
            Photograph ``(3, size, size)`` and mask ``(1, size, size)``, both uint8.
        """
        if rng.random() < self.empty and (place := beside(mask)):
            image, mask = image[place], mask[place]
        box = self.crop_box(image.shape[1], image.shape[0], rng)
        photograph, matte = squared(image, box, size), squared(mask, box, size)
        if rng.random() < self.flip:
            photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            matte = matte.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < self.paste and (place := beside(other[1])):
            ground = other[0][place]
            background = squared(ground, self.crop_box(ground.shape[1], ground.shape[0], rng), size)
            photograph = Image.composite(photograph, background, matte)
        photograph = self.degrade(photograph, rng)
        return self.recolour(F.pil_to_tensor(photograph), rng), F.pil_to_tensor(matte)

    def crop_box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """A box ``(left, top, right, bottom)`` in pixels inside a photograph."""
        share = rng.uniform(*self.area)
        ratio = self.stretch ** rng.uniform(-1, 1) * (height / width) ** rng.uniform(0, 1)
        w = min(width, width * (share * ratio) ** 0.5)
        h = min(height, height * (share / ratio) ** 0.5)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return left, top, left + w, top + h

    def degrade(self, photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The photograph as a worse camera or a smaller file would show it."""
        if rng.random() < self.blur:
            photograph = photograph.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
        if rng.random() < self.jpeg:
            file = io.BytesIO()
            photograph.save(file, "jpeg", quality=int(rng.integers(25, 86)))
            photograph = Image.open(file)
        return photograph

    def recolour(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        """``(3, H, W)`` uint8 with its colours changed, its geometry untouched."""
        if rng.random() < self.grey:
            pixels = F.rgb_to_grayscale(pixels, num_output_channels=3)
        pixels = F.adjust_brightness(pixels, rng.uniform(1 - self.brightness, 1 + self.brightness))
        pixels = F.adjust_contrast(pixels, rng.uniform(1 - self.contrast, 1 + self.contrast))
        pixels = F.adjust_saturation(pixels, rng.uniform(1 - self.saturation, 1 + self.saturation))
        if rng.random() < self.noise:
            noise = rng.normal(0, rng.uniform(2, 12), pixels.shape).astype(np.float32)
            pixels = (pixels + torch.from_numpy(noise)).clamp(0, 255).to(torch.uint8)
        return pixels


def squared(pixels: Array, box: Box, size: int) -> Image.Image:
    """A box of a photograph or mask as a square of ``size`` pixels."""
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)


def beside(mask: Array, *, least: float = 0.3) -> tuple[slice, slice] | None:
    """The largest piece of a photograph beside, above or below its subject.

    Args:
        mask: ``(H, W)``.
        least: the least share of the photograph's width or height that the piece must span.

    Returns:
        Rows and columns, or None if the subject leaves no such piece.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(None), slice(None)
    height, width = mask.shape
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    pieces = [
        (left / width, (slice(None), slice(left))),
        (1 - right / width, (slice(None), slice(right, None))),
        (top / height, (slice(top), slice(None))),
        (1 - bottom / height, (slice(bottom, None), slice(None))),
    ]
    span, piece = max(pieces, key=itemgetter(0))
    return piece if span >= least else None
