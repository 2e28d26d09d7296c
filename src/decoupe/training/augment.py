"""Augmentation: a photograph and its mask in, a training square of both out, moved together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample; the defaults are the embedded model's.

    Attributes:
        area: least and largest share of the photograph's area that is kept.
        stretch: largest change of the aspect ratio, as a factor either way.
        flip: probability of a horizontal flip.
        brightness: largest change of the brightness, as a factor either way from 1.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        grey: probability of losing all colour.
        blur: probability of a Gaussian blur of up to 1.5 pixels.
        noise: probability of Gaussian noise of up to 12 grey levels.
    """

    area: tuple[float, float] = (0.45, 1.0)
    stretch: float = 1.35
    flip: float = 0.5
    brightness: float = 0.35
    contrast: float = 0.35
    saturation: float = 0.5
    grey: float = 0.05
    blur: float = 0.1
    noise: float = 0.1

    def __call__(
        self, image: Array, mask: Array, size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """One sample, a function of its arguments alone.

        Args:
            image: ``(H, W, 3)``, uint8.
            mask: ``(H, W)``, uint8.
            size: side of the square in pixels.
            rng: where all chance comes from.

        Returns:
            Photograph ``(3, size, size)`` and mask ``(1, size, size)``, both uint8.
        """
        box = self.crop_box(image.shape[1], image.shape[0], rng)
        photograph = Image.fromarray(image).resize(
            (size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0
        )
        matte = Image.fromarray(mask).resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        if rng.random() < self.flip:
            photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            matte = matte.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < self.blur:
            photograph = photograph.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
        pixels = self.recolour(F.pil_to_tensor(photograph), rng)
        return pixels, F.pil_to_tensor(matte)

    def crop_box(
        self, width: int, height: int, rng: np.random.Generator
    ) -> tuple[float, float, float, float]:
        """A box ``(left, top, right, bottom)`` in pixels inside the photograph."""
        share = rng.uniform(*self.area)
        ratio = self.stretch ** rng.uniform(-1, 1)
        w = min(width, width * (share * ratio) ** 0.5)
        h = min(height, height * (share / ratio) ** 0.5)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return left, top, left + w, top + h

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
