"""Augmentation of pictures with segments, as semantic and panoptic models are trained."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from decoupe.datasets.scenes import Scene
from decoupe.errors import ConfigError
from decoupe.training.augment import GREY, Range, check_range


@dataclass(frozen=True)
class SegmentAugmentation:
    """What may happen to a picture with segments; the defaults change nothing but the size.

    Attributes:
        scale: least and largest factor on the size at which the picture would just fit, see ``fit``; what is
            larger than the sample is cropped at a place of chance, what is smaller is surrounded by grey.
        fit: at a scale of 1 the picture lies ``inside`` the sample (large-scale jitter), or ``fills`` it.
        one_class: largest share of a crop that one class may have; a crop with more is drawn anew, ten times.
        flip: probability of a horizontal flip.
        brightness: largest change, in grey levels from 0 to 255.
        contrast: least and largest factor.
        saturation: the same.
        hue: largest change, as a share of the colour circle.
    """

    scale: Range = (1.0, 1.0)
    fit: str = "inside"
    one_class: float = 1.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for what is no probability, or no range."""
        if self.fit not in ("inside", "fills"):
            raise ConfigError(f"fit is {self.fit!r}, expected 'inside' or 'fills'")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                check_range(field.name, value, 0.01 if field.name == "scale" else 0.0)
        for name, most in (("flip", 1), ("one_class", 1), ("hue", 0.5), ("brightness", 255)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected from 0 to {most}")

    def __call__(
        self, scene: Scene, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One sample, a function of its arguments alone.

        Args:
            scene: photograph and segments; of its crowds nothing is told.
            size: ``(height, width)`` of the sample in pixels.
            rng: where all chance comes from.

        Returns:
            Photograph uint8 ``(3, height, width)``; segments int32 ``(height, width)``, indices in the third,
            −1 for none; classes int64 ``(M,)`` of the segments that are still seen.
        """
        height, width = scene.segments.shape
        ratios = size[0] / height, size[1] / width
        ratio = (min if self.fit == "inside" else max)(ratios) * rng.uniform(*self.scale)
        resized = max(1, round(width * ratio)), max(1, round(height * ratio))
        photograph = Image.fromarray(scene.image).resize(resized, Image.Resampling.BILINEAR, reducing_gap=2.0)
        segments = Image.fromarray(scene.told).resize(resized, Image.Resampling.NEAREST)
        if rng.random() < self.flip:
            photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            segments = segments.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        box = self.window(segments, scene, size, rng)
        pixels = F.pil_to_tensor(framed(photograph, box, GREY))
        seen, classes = compact(np.asarray(framed(segments, box, -1), np.int32), scene)
        return self.recolour(pixels, rng), torch.from_numpy(seen), torch.from_numpy(classes)

    def window(
        self, segments: Image.Image, scene: Scene, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Where the sample lies on the resized picture: ``(left, top, right, bottom)``, maybe beyond it."""
        box = (0, 0, 0, 0)
        for _ in range(10 if self.one_class < 1 else 1):
            left, top = (
                int(rng.integers(room + 1)) if room >= 0 else -int(rng.integers(-room + 1))
                for room in (segments.width - size[1], segments.height - size[0])
            )
            box = left, top, left + size[1], top + size[0]
            if self.one_class < 1 and len(scene.classes):
                # What lies beyond is segment 0: rare, and harmless.
                seen = np.asarray(segments.crop(box), np.int32)
                counts = np.bincount(scene.classes[seen[seen >= 0]])
                if counts.size and counts.max() > self.one_class * counts.sum():
                    continue
            break
        return box

    def recolour(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        """``(3, H, W)`` uint8 with its colours changed (Liu et al. 2016, SSD), its geometry untouched."""
        if self.brightness and rng.random() < 0.5:
            change = rng.uniform(-self.brightness, self.brightness)
            pixels = (pixels.float() + change).round().clamp(0, 255).to(torch.uint8)
        if self.contrast != (1, 1) and rng.random() < 0.5:
            factor = rng.uniform(*self.contrast)
            pixels = (pixels.float() * factor).round().clamp(0, 255).to(torch.uint8)
        if self.saturation != (1, 1) and rng.random() < 0.5:
            pixels = F.adjust_saturation(pixels, rng.uniform(*self.saturation))
        if self.hue and rng.random() < 0.5:
            pixels = F.adjust_hue(pixels, rng.uniform(-self.hue, self.hue))
        return pixels


def framed(
    picture: Image.Image, box: tuple[int, int, int, int], outside: float | tuple[int, ...]
) -> Image.Image:
    """A box of a picture, which may reach beyond it."""
    frame = Image.new(picture.mode, (box[2] - box[0], box[3] - box[1]), outside)
    frame.paste(picture, (-box[0], -box[1]))
    return frame


def compact(segments: NDArray[np.int32], scene: Scene) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Segments numbered anew without those that have no pixel, and the classes of the rest."""
    seen = np.unique(segments)
    seen = seen[seen >= 0]
    numbers = np.full(len(scene.classes) + 1, -1, np.int32)  # −1 is the last
    numbers[seen] = np.arange(len(seen))
    return numbers[segments], scene.classes[seen]


PLAIN = SegmentAugmentation()
"""The picture itself, whole."""
ADE20K = SegmentAugmentation(
    scale=(0.5, 2.0),
    fit="fills",
    one_class=0.75,
    flip=0.5,
    brightness=32,
    contrast=(0.5, 1.5),
    saturation=(0.5, 1.5),
    hue=0.05,
)
"""That of MaskFormer on ADE20K: appendix A of its paper."""
COCO = SegmentAugmentation(scale=(0.1, 2.0), flip=0.5)
"""That of MaskFormer on COCO: large-scale jitter (Ghiasi et al. 2021)."""
