"""Augmentation: a photograph and its mask in, a training sample out, both moved together."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageStat
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from decoupe.errors import ConfigError
from decoupe.inference.foreground import estimate_foreground

Array = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Range = tuple[float, float]

GREY = (128, 128, 128)
"""What surrounds a photograph that does not fill its sample."""
GREY_OF = np.array((0.299, 0.587, 0.114))
"""What red, green and blue count for in a grey (ITU-R BT.601)."""
FINE = 4
"""Pixels along each side of one of a sample's while hairs are drawn."""
SPOT = 8
"""Pixels from the middle of a spot, whose colour a background takes, to its sides."""
OUTLINE = 8
"""Half transparent pixels that an outline has at most, as a multiple of width plus height; hair has more."""


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a sample; the defaults change nothing but the size.

    Attributes:
        area: least and largest share of the photograph's area that is kept.
        stretch: largest change of the aspect ratio, as a factor either way, of a crop whose own lies
            between the photograph's and the sample's; 1 keeps the photograph's.
        trim: probability that all four borders lose up to a tenth.
        scale: least and largest size of the picture inside the sample; what is smaller is surrounded by grey,
            what is larger is cropped at a place of chance.
        scaling: probability that it has another size.
        flip: probability of a horizontal flip.
        rotate: largest angle of a rotation, in degrees.
        rotating: probability of one.
        empty: probability of a piece beside the subject instead, whose truth is empty.
        paste: probability that the subject is set on a piece of another photograph beside its subject.
        replace: probability that the subject is set on a photograph of the folder of backgrounds, if given.
        synthesis: probability that the subject is set on a grey, nearly a colour of its own, or any (2:2:1).
        camouflage: probability that whatever the subject is set on has a colour of the subject's on average.
        hair: probability that hairs are drawn out of the subject, of its own colours; the truth has them too.
        brightness: least and largest factor on the brightness.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        sharpness: the same for the sharpness; below 1 softens.
        recolouring: probability of each of these four.
        grey: probability of losing all colour.
        blur: probability of a Gaussian blur of up to 1.5 pixels.
        noise: probability of Gaussian noise of up to 12 grey levels.
        pepper: share of the pixels that turn black or white.
        jpeg: probability of compression at a quality of 25 to 85.
    """

    area: Range = (1.0, 1.0)
    stretch: float = 1.0
    trim: float = 0.0
    scale: Range = (1.0, 1.0)
    scaling: float = 1.0
    flip: float = 0.0
    rotate: float = 0.0
    rotating: float = 0.0
    empty: float = 0.0
    paste: float = 0.0
    replace: float = 0.0
    synthesis: float = 0.0
    camouflage: float = 0.0
    hair: float = 0.0
    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    sharpness: Range = (1.0, 1.0)
    recolouring: float = 1.0
    grey: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    pepper: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for what is no probability, or no range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                least = 0.01 if field.name in ("area", "scale") else 0.0
                check_range(field.name, value, least, 1.0 if field.name == "area" else math.inf)
            elif field.name not in ("stretch", "rotate") and not 0 <= value <= 1:
                raise ConfigError(f"{field.name} is {value}, expected a probability from 0 to 1")
        if not 1 <= self.stretch < math.inf:
            raise ConfigError(f"stretch is {self.stretch}, expected a factor of at least 1")
        if not 0 <= self.rotate <= 180:
            raise ConfigError(f"rotate is {self.rotate}, expected degrees from 0 to 180")

    def __call__(
        self,
        image: Array,
        mask: Array,
        size: tuple[int, int],
        rng: np.random.Generator,
        *,
        other: Callable[[], tuple[Array, Array]] | None = None,
        background: Callable[[], Array] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One sample, a function of its arguments alone.

        Args:
            image: uint8 ``(H, W, 3)``.
            mask: uint8 ``(H, W)``.
            size: ``(height, width)`` of the sample in pixels.
            rng: where all chance comes from.
            other: gives another photograph and its mask, to paste on.
            background: gives a photograph to set the subject on.

        Returns:
            Photograph ``(3, height, width)`` and mask ``(1, height, width)``, both uint8.
        """
        if rng.random() < self.empty and (place := beside(mask)):
            image, mask = image[place], mask[place]
        photograph, matte = self.move(image, mask, size, rng)
        ground = self.ground(photograph, matte, rng, other, background)
        if ground is not None:
            photograph = Image.composite(own_colours(photograph, matte), ground, matte)
        if rng.random() < self.hair:
            photograph, matte = haired(photograph, matte, rng)
        photograph = self.degrade(photograph, rng)
        return self.recolour(photograph, rng), F.pil_to_tensor(matte)

    def move(
        self, image: Array, mask: Array, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        """Photograph and mask, cropped, resized, flipped and rotated alike; grey and empty beyond them."""
        box = self.crop_box(image.shape[1], image.shape[0], size, rng)
        pair = cropped(image, box, size), cropped(mask, box, size)
        flips = rng.random() < self.flip
        scale = rng.uniform(*self.scale) if rng.random() < self.scaling else 1.0
        angle = rng.uniform(-self.rotate, self.rotate) if rng.random() < self.rotating else 0.0
        shift = rng.uniform(-1, 1, 2) * abs(scale - 1) / 2 * (size[1], size[0])
        if flips:
            first, second = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in pair)
            pair = first, second
        if scale == 1 and angle == 0:
            return pair
        inverse = affine(size, scale=scale, angle=angle, shift=(float(shift[0]), float(shift[1])))
        warp = partial(
            Image.Image.transform,
            size=size[::-1],
            method=Image.Transform.AFFINE,
            data=inverse,
            resample=Image.Resampling.BILINEAR,
        )
        return warp(pair[0], fillcolor=GREY), warp(pair[1], fillcolor=0)

    def crop_box(self, width: int, height: int, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """A box ``(left, top, right, bottom)`` in pixels inside a photograph."""
        if rng.random() < self.trim:
            x, y = (side * rng.uniform(0, 0.1) for side in (width, height))
            return x, y, width - x, height - y
        share = rng.uniform(*self.area)
        towards = rng.uniform(0, 1) if self.stretch > 1 else 0.0
        ratio = self.stretch ** rng.uniform(-1, 1) * (height / width * size[1] / size[0]) ** towards
        w = min(width, width * (share * ratio) ** 0.5)
        h = min(height, height * (share / ratio) ** 0.5)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        return left, top, left + w, top + h

    def ground(
        self,
        photograph: Image.Image,
        matte: Image.Image,
        rng: np.random.Generator,
        other: Callable[[], tuple[Array, Array]] | None,
        background: Callable[[], Array] | None,
    ) -> Image.Image | None:
        """What the subject is set on; None where it stays where it is."""
        size = photograph.height, photograph.width
        pasted, replaced, synthesised = rng.random(3) < (self.paste, self.replace, self.synthesis)
        if replaced and background is not None:
            picture = background()
        elif pasted and other is not None:
            whole, subject = other()
            place = beside(subject)
            if place is None:
                return None
            picture = whole[place]
        elif synthesised:
            return Image.new("RGB", photograph.size, self.ground_colour(photograph, matte, rng))
        else:
            return None
        ground = cropped(picture, self.crop_box(picture.shape[1], picture.shape[0], size, rng), size)
        if rng.random() < self.camouflage:
            ground = tinted(ground, spot_colour(photograph, matte, rng), rng.uniform(0.3, 1))
        return ground

    def ground_colour(
        self, photograph: Image.Image, matte: Image.Image, rng: np.random.Generator
    ) -> tuple[int, int, int]:
        """A background's colour: what hides nothing of a subject, or nearly all of it."""
        kind = rng.choice(3, p=(0.4, 0.4, 0.2))
        if kind == 0:
            colour = np.full(3, rng.integers(256))
        elif kind == 1:
            colour = (spot_colour(photograph, matte, rng) + rng.normal(0, 12, 3)).clip(0, 255)
        else:
            colour = rng.integers(256, size=3)
        red, green, blue = colour.astype(int).tolist()
        return red, green, blue

    def degrade(self, photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The photograph as a worse camera or a smaller file would show it."""
        if rng.random() < self.blur:
            photograph = photograph.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
        if rng.random() < self.jpeg:
            file = io.BytesIO()
            photograph.save(file, "jpeg", quality=int(rng.integers(25, 86)))
            photograph = Image.open(file)
        return photograph

    def recolour(self, photograph: Image.Image, rng: np.random.Generator) -> Tensor:
        """The photograph as ``(3, H, W)`` uint8 with its colours changed, its geometry untouched."""
        sharpness, saturation, brightness, contrast = (
            rng.uniform(*bounds) if rng.random() < self.recolouring else 1.0
            for bounds in (self.sharpness, self.saturation, self.brightness, self.contrast)
        )
        if sharpness != 1:
            photograph = ImageEnhance.Sharpness(photograph).enhance(sharpness)
        if rng.random() < self.grey:
            saturation = 0.0
        if (brightness, contrast, saturation) != (1, 1, 1):
            # One linear map instead of three: quicker, and nothing is clipped in between.
            mean = ImageStat.Stat(photograph.convert("L")).mean[0] * brightness
            own, shared = brightness * contrast * saturation, brightness * contrast * (1 - saturation)
            colours = own * np.eye(3) + shared * GREY_OF
            matrix = np.column_stack((colours, np.full(3, mean * (1 - contrast))))
            photograph = photograph.convert("RGB", tuple(matrix.ravel()))
        pixels: Tensor = F.pil_to_tensor(photograph)
        if rng.random() < self.noise:
            noise = rng.normal(0, rng.uniform(2, 12), pixels.shape).astype(np.float32)
            pixels = (pixels + torch.from_numpy(noise)).round().clamp(0, 255).to(torch.uint8)
        if self.pepper:
            height, width = pixels.shape[-2:]
            count = round(self.pepper * height * width)
            rows, columns = rng.integers(height, size=count), rng.integers(width, size=count)
            pixels[:, rows, columns] = torch.from_numpy(255 * rng.integers(2, size=count, dtype=np.uint8))
        return pixels


def check_range(name: str, value: Range, least: float, most: float = math.inf) -> None:
    """Raise ConfigError where a setting is no range from ``least`` to ``most``."""
    if len(value) != 2 or not least <= value[0] <= value[1] <= most or value[1] == math.inf:
        raise ConfigError(f"{name} is {list(value)}, expected least and largest, from {least} to {most}")


def spot_colour(photograph: Image.Image, matte: Image.Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """The mean colour of a spot of the subject's, a part of which may be white while it is black in all."""
    pixels, solid = np.asarray(photograph), np.asarray(matte) > 127
    if not solid.any():
        solid = np.ones_like(solid)
    row, column = rng.choice(np.argwhere(solid))
    spot = tuple(slice(max(0, middle - SPOT), middle + SPOT + 1) for middle in (row, column))
    colour: NDArray[np.float64] = pixels[spot][solid[spot]].mean(0)
    return colour


def tinted(picture: Image.Image, colour: NDArray[np.float64], contrast: float) -> Image.Image:
    """A picture moved to a mean colour, its differences from the mean kept or lessened."""
    shift = colour - contrast * np.array(ImageStat.Stat(picture).mean)
    return picture.convert("RGB", tuple(np.column_stack((contrast * np.eye(3), shift)).ravel()))


def own_colours(photograph: Image.Image, matte: Image.Image) -> Image.Image:
    """A subject without the old background that its soft edge still holds."""
    if sum(matte.histogram()[1:-1]) > OUTLINE * sum(matte.size):
        alpha = np.asarray(matte, np.float32) / np.float32(255)
        return Image.fromarray(estimate_foreground(np.asarray(photograph), alpha))
    # A mask's edge is a pixel or two wide: what is solid beside it tells its colours, in far less time.
    solid = matte.point([0] * 255 + [255])
    spread = photograph.copy()
    spread.putalpha(solid)
    spread = spread.convert("RGBa").filter(ImageFilter.BoxBlur(2)).convert("RGBA")
    edge = ImageChops.subtract(spread.getchannel("A").point([0] + [255] * 255), solid)
    return Image.composite(spread.convert("RGB"), photograph, edge)


def haired(
    photograph: Image.Image, matte: Image.Image, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A subject with hairs along a part of its outline, and their alpha; as it is if it has no outline."""
    hairs = drawn_hairs(np.asarray(photograph), np.asarray(matte), rng)
    alpha = hairs.getchannel("A")
    # Over: a hair hides what is behind it, be that background or subject.
    return Image.composite(hairs.convert("RGB"), photograph, alpha), ImageChops.screen(matte, alpha)


def drawn_hairs(photograph: Array, mask: Array, rng: np.random.Generator) -> Image.Image:
    """Hairs alone, as RGBA: bent, thin at the tip, as dense, long and thick as chance has it.

    Args:
        photograph: uint8 ``(H, W, 3)``, whose colours they take where they grow.
        mask: uint8 ``(H, W)``.
        rng: where all chance comes from.
    """
    height, width = mask.shape
    canvas = Image.new("RGBA", (FINE * width, FINE * height))
    downhill = -np.stack(np.gradient(ndimage.gaussian_filter(mask.astype(np.float32), 3.0)), -1)
    solid = mask == 255
    roots = np.argwhere(solid & ~ndimage.binary_erosion(solid, border_value=1))
    steep = np.linalg.norm(downhill[tuple(roots.T)], axis=-1)
    roots, steep = roots[steep > 1], steep[steep > 1, np.newaxis]
    if not len(roots):
        return canvas.resize((width, height))

    # A part of the outline: a head has hair, a face has none.
    first = roots[rng.integers(len(roots))]
    nearest = np.argsort(np.linalg.norm(roots - first, axis=1))[: math.ceil(len(roots) * rng.uniform(0.1, 1))]
    chosen = rng.choice(nearest, size=math.ceil(len(nearest) * rng.uniform(0.2, 1.5)))
    count = len(chosen)
    out = downhill[tuple(roots[chosen].T)] / steep[chosen]
    side = np.stack([-out[:, 1], out[:, 0]], -1)
    longest = solid.sum() ** 0.5 * math.exp(rng.uniform(math.log(0.03), math.log(0.35)))
    lengths = longest * rng.uniform(0.2, 1, (count, 1))
    bends = rng.normal(0, 0.3, (count, 1)) * side + rng.normal(0, 0.3, 2)  # each its own, and all together
    widths = math.exp(rng.uniform(math.log(0.3), math.log(1.2))) * rng.uniform(0.6, 1.4, count)

    depth = rng.uniform(0, 4, (count, 1))
    grown = (roots[chosen] - depth * out).round().astype(int).clip(0, (height - 1, width - 1))
    grown = np.where(solid[tuple(grown.T)][:, np.newaxis], grown, roots[chosen])
    colours = photograph[tuple(grown.T)]

    along = np.linspace(-0.1, 1, 9)[:, np.newaxis, np.newaxis]
    middle = roots[chosen] + 0.5 + lengths * (along * out + along**2 * bends)  # (9, hairs, 2)
    half = (1 - along).clip(0, 1) * widths[:, np.newaxis] / 2 * side
    edges = FINE * np.concatenate([middle + half, (middle - half)[::-1]]).transpose(1, 0, 2)[..., ::-1]
    draw = ImageDraw.Draw(canvas)
    for edge, colour in zip(edges.reshape(count, -1).tolist(), colours.tolist(), strict=True):
        draw.polygon(edge, fill=(*colour, 255))
    return canvas.resize((width, height), Image.Resampling.BOX)


def cropped(pixels: Array, box: Box, size: tuple[int, int]) -> Image.Image:
    """A box of a photograph or mask, resized to ``(height, width)``."""
    return Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box, reducing_gap=2.0)


def affine(
    size: tuple[int, int], *, scale: float, angle: float, shift: tuple[float, float]
) -> tuple[float, float, float, float, float, float]:
    """The map from a sample's pixels to those it shows, as Pillow wants it.

    Args:
        size: ``(height, width)``.
        scale: how large the picture is in the sample.
        angle: counterclockwise about the middle, in degrees.
        shift: of the picture, ``(x, y)`` in pixels.
    """
    cosine, sine = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    middle = size[1] / 2, size[0] / 2
    x, y = middle[0] + shift[0], middle[1] + shift[1]
    return (
        cosine,
        -sine,
        middle[0] - cosine * x + sine * y,
        sine,
        cosine,
        middle[1] - sine * x - cosine * y,
    )


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


NONE = Augmentation()
"""The picture itself."""
POCKET = Augmentation(
    area=(0.3, 1.0),
    stretch=1.3,
    flip=0.5,
    empty=0.25,
    paste=0.1,
    brightness=(0.65, 1.35),
    contrast=(0.65, 1.35),
    saturation=(0.5, 1.5),
    grey=0.05,
    blur=0.1,
    noise=0.05,
    jpeg=0.05,
)
"""That of the embedded default model."""
BIREFNET = Augmentation(
    flip=0.5,
    rotate=15,
    rotating=0.2,
    brightness=(0.5, 1.5),
    contrast=(0.5, 1.5),
    saturation=(0, 2),
    sharpness=(0, 3),
    pepper=0.0015,
)
"""That of BiRefNet's released code, without what it leaves optional: ``trim`` and ``synthesis``."""
MATTING = replace(BIREFNET, replace=0.5, synthesis=0.3, pepper=0.0, jpeg=0.1)
"""For mattes: backgrounds are replaced, and nothing draws dots on hair."""
INSPYRENET = Augmentation(
    scale=(0.75, 1.25),
    scaling=0.5,
    flip=0.5,
    rotate=10,
    rotating=0.5,
    brightness=(1.0, 1.1),
    contrast=(1.0, 1.1),
    sharpness=(1.0, 1.1),
    recolouring=0.5,
)
"""That of InSPyReNet's released code: section 4.1 of its paper."""
