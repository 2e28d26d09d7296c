"""What a prediction gives: the matte, and the pictures that can be made of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageColor, ImageFilter, ImageOps

from decoupe.arrays import Floats
from decoupe.errors import InputError
from decoupe.inference.edits import Edits, edited, feathered
from decoupe.inference.foreground import HIDDEN, estimate_foreground
from decoupe.inference.framing import cropped, framed, subject_box
from decoupe.inference.matting import Matting, refined
from decoupe.inference.media import encode, preview, write_bytes
from decoupe.inference.metadata import NO_METADATA, Metadata
from decoupe.inference.png import encode_png
from decoupe.inference.preprocess import GREY, Picture, Pixels, Source, read_image
from decoupe.inference.sampling import on_threads, strips
from decoupe.inference.sixteen import encode_tiff
from decoupe.readings import bounding_box

Background: TypeAlias = Source | tuple[int, int, int]
"""A colour (name, ``#rrggbb`` or ``(r, g, b)``), an image as `read_image` takes it, or ``"blur"``."""

# File ending -> what writes RGB and RGBA of 16 bits a channel; PNG of 8 bits as well.
_ENCODERS: dict[str, Callable[..., bytes]] = {".png": encode_png, ".tif": encode_tiff, ".tiff": encode_tiff}


@dataclass(frozen=True, eq=False, repr=False)
class Matte:
    """How much of each pixel belongs to the subject, beside the picture it was predicted from.

    Attributes:
        alpha: float32 ``(H, W)`` in [0, 1], at the picture's own size.
        image: the picture, upright: RGB ``(H, W, 3)``, uint8, or uint16 where the source had more bits.
        icc_profile: the RGB profile that ``image`` is in, kept in everything made of it; None means sRGB.
        source: where the picture came from.
        metadata: what else the photograph tells of itself, kept in everything in colour that is made of it.
        opacity: the picture's own alpha, float32 ``(H, W)`` in [0, 1], which ``alpha`` is never above; None
            where it is 1 everywhere.

    Raises:
        InputError: alpha or image of another shape, type or range, or of sizes that differ.
    """

    alpha: Floats
    image: Pixels
    icc_profile: bytes | None = None
    source: str = "image"
    metadata: Metadata = NO_METADATA
    opacity: Floats | None = None

    def __post_init__(self) -> None:
        if self.alpha.ndim != 2 or self.alpha.dtype != np.float32 or self.alpha.size == 0:
            raise InputError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, expected float32 (H, W): use alpha.astype"
            )
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"image is {self.image.dtype} {self.image.shape}, expected uint8 or uint16 (H, W, 3)"
            )
        if self.alpha.shape != self.image.shape[:2]:
            sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (self.alpha, self.image)]
            raise InputError(f"alpha is {sizes[0]}, image {sizes[1]}: apply EXIF rotation to both")
        # A comparison with NaN is false, so this refuses NaN as well.
        if not (self.alpha.min() >= 0 and self.alpha.max() <= 1):
            raise InputError("alpha holds values outside [0, 1] or NaN: apply the sigmoid, or numpy.clip")

    def __repr__(self) -> str:
        height, width = self.alpha.shape
        return f"Matte({width}×{height}, {self.alpha.mean():.0%} subject, from {self.source})"

    def _repr_png_(self) -> bytes:
        """The cut-out, as notebooks show it."""
        return preview(self.cutout())

    @cached_property
    def foreground(self) -> Pixels:
        """``image`` with the subject's own colours at soft edges, ``(H, W, 3)``, uint8 or uint16."""
        if self.opacity is None:
            return estimate_foreground(self.image, self.alpha)
        # The grey that was laid under what is translucent is not the photograph's.
        return estimate_foreground(_without_ground(self.image, self.opacity), self._share)

    def refined(
        self,
        *,
        foreground: float = Matting.foreground,
        background: float = Matting.background,
        erode: float = Matting.erode,
        dilate: float = Matting.dilate,
    ) -> Matte:
        """The matte with its soft edge solved anew from the colours: ``matte.refined(dilate=0.05)``.

        For fur and hair. Needs pymatting.

        Args:
            foreground: alpha from which a pixel may be sure to be the subject's.
            background: alpha up to which it may be sure not to be.
            erode: how far inside the sure subject the unknown band begins: pixels, or as a float below 1 a
                share of the longer side of the subject's box.
            dilate: how far outside the subject it ends, likewise; more for loose hair.

        Raises:
            InputError: a value out of range.
            MissingExtraError: pymatting is not installed.
        """
        matting = Matting(foreground, background, erode, dilate)
        return self._within_opacity(lambda alpha: refined(alpha, self.image, matting))

    def edited(
        self,
        *,
        threshold: float | None = None,
        keep_largest: bool = False,
        fill_holes: bool = False,
        grow: int = 0,
        feather: float = 0,
        invert: bool = False,
    ) -> Matte:
        """The matte changed, in this order: ``matte.edited(keep_largest=True, grow=-1)``.

        Args:
            threshold: alpha from which a pixel is the subject, all others are not; None keeps it soft.
            keep_largest: keep the largest connected part alone, with its soft edge.
            fill_holes: make the subject solid: what it encloses belongs to it.
            grow: pixels by which it becomes larger on all sides; negative: smaller.
            feather: standard deviation of a Gaussian blur of alpha, in pixels.
            invert: cut the background instead.

        Raises:
            InputError: a value out of range.
        """
        edits = Edits(threshold, keep_largest, fill_holes, grow, feather, invert)
        return self._within_opacity(lambda alpha: edited(alpha, edits))

    def crop(self, margin: float = 0, aspect: tuple[float, float] | None = None) -> Matte:
        """The part that shows the subject.

        Args:
            margin: room around the subject: pixels, or as a float below 1 a share of its longer side.
            aspect: width to height of what is kept, as ``(4, 5)``; the subject is in its middle. Where that
                or the margin reaches beyond the picture, it is transparent there.

        Raises:
            InputError: a negative margin, an aspect that is none, a part of more than 25 million pixels and
                four times the picture, or a matte without a subject.
        """
        box = framed(subject_box(self.alpha), margin, aspect, self.alpha.shape, self.source)
        height, width = self.alpha.shape
        opacity = self.opacity
        if opacity is None and (min(box) < 0 or box[2] > width or box[3] > height):
            opacity = np.ones_like(self.alpha)  # and none beyond the picture
        return replace(
            self,
            alpha=cropped(self.alpha, box),
            image=cropped(self.image, box),
            opacity=None if opacity is None else cropped(opacity, box),
        )

    def mask(self) -> Image.Image:
        """Alpha as a grey picture, mode L: white is the subject."""
        return Image.fromarray(_alpha_bytes(self.alpha))

    def cutout(self, *, shadow: float = 0, keep_hidden: bool = False) -> Image.Image:
        """The subject on transparent ground, mode RGBA.

        Alpha is straight (colours are not multiplied by it). The colours of soft pixels are those of the
        subject alone, and pixels with alpha 0 are black, so nothing of the background can be recovered.

        Args:
            shadow: how dark a soft shadow below the subject is, 0 to 1.
            keep_hidden: keep the photograph's colours in the transparent parts, to be edited later.

        Raises:
            InputError: a shadow outside [0, 1], or one where hidden colours are to be kept.
        """
        _check_hidden(keep_hidden, shadow)
        subject = Image.fromarray(self._cutout(keep_hidden))
        return self._finished(over_shadow(subject, self.alpha, shadow) if shadow else subject)

    def over(self, background: Background, *, shadow: float = 0) -> Image.Image:
        """The subject over another background, mode RGB.

        Args:
            background: a colour, as a name, ``"#rrggbb"`` or ``(r, g, b)`` of 0 to 255; an image, as a path,
                bytes, file, Pillow image or array, enlarged or reduced to cover the picture and cropped at
                the centre; or ``"blur"``, the picture's own background out of focus.
            shadow: how dark a soft shadow below the subject is, 0 to 1.

        Raises:
            InputError: a string that is neither a colour nor a file, an image that cannot be read, or a
                shadow outside [0, 1].
        """
        below = self._shaded(background, shadow)
        foreground = Image.fromarray(_eight_bits(self.foreground))
        composite = Image.composite(foreground, below, self.mask())
        return self._finished(composite)

    def overlay(self, colour: str | tuple[int, int, int] = "red") -> Image.Image:
        """The photograph with its subject tinted, mode RGB: to judge a matte by."""
        tint = _as_colour(colour)
        if tint is None:
            raise InputError(f"colour is {colour!r}, expected a name such as red, or #rrggbb")
        image = Image.fromarray(_eight_bits(self.image))
        half = Image.fromarray(_alpha_bytes(self.alpha * np.float32(0.5)))
        return self._finished(Image.composite(Image.new("RGB", image.size, tint), image, half))

    def side_by_side(self) -> Image.Image:
        """The photograph, and to its right the subject on a chequered ground, mode RGB."""
        height, width = self.alpha.shape
        square = max(4, max(height, width) // 64)
        rows, columns = np.arange(height) // square, np.arange(width) // square
        light = (rows[:, np.newaxis] + columns) % 2 == 0
        ground = np.where(light[..., np.newaxis], np.uint8(255), np.uint8(204)).repeat(3, axis=2)
        pair = Image.new("RGB", (2 * width, height))
        pair.paste(Image.fromarray(_eight_bits(self.image)))
        subject = Image.fromarray(_eight_bits(self.foreground))
        pair.paste(Image.composite(subject, Image.fromarray(ground), self.mask()), (width, 0))
        return self._finished(pair)

    def layers(self) -> dict[str, Image.Image]:
        """The cut-out, mode RGBA, and the photograph to put below it, mode RGB, by their names."""
        photograph = self._finished(Image.fromarray(_eight_bits(self.image)))
        return {"subject": self.cutout(), "photograph": photograph}

    def array(
        self, *, over: Background | None = None, shadow: float = 0, keep_hidden: bool = False
    ) -> Pixels:
        """`cutout`, or `over`, with as many bits as ``image`` has: RGBA ``(H, W, 4)``, or RGB ``(H, W, 3)``.

        Args:
            over: a background, as for `over`; None is transparent ground.
            shadow: as for `cutout`.
            keep_hidden: as for `cutout`.

        Raises:
            InputError: a background or shadow that cannot be used.
        """
        _check_hidden(keep_hidden, shadow, over)
        if self.image.dtype == np.uint16:
            return self._wide_cutout(shadow, keep_hidden) if over is None else self._wide_over(over, shadow)
        if over is not None:
            return np.asarray(self.over(over, shadow=shadow))
        if shadow:
            return np.asarray(self.cutout(shadow=shadow, keep_hidden=keep_hidden))
        return self._cutout(keep_hidden)

    def encode(
        self,
        suffix: str = ".png",
        *,
        over: Background | None = None,
        shadow: float = 0,
        keep_hidden: bool = False,
        quality: int | None = None,
    ) -> bytes:
        """The cut-out as the bytes of a PNG, WebP, TIFF or AVIF file, or `over` as those of any.

        Where ``image`` has 16 bits a channel, so have PNG and TIFF; the other formats have 8.

        Args:
            suffix: the file's ending, which tells the format.
            over: a background, as for `over`; None is transparent ground.
            shadow: as for `cutout`.
            keep_hidden: as for `cutout`.
            quality: 1 to 100, of WebP, AVIF and JPEG; None is lossless, or nearly.

        Raises:
            OutputError: another suffix, or JPEG without a background: it has no transparency.
            InputError: a background, shadow or quality that cannot be used.
        """
        _check_hidden(keep_hidden, shadow, over)
        encoder = _ENCODERS.get(suffix.lower())
        wide = self.image.dtype == np.uint16
        # PNG of 8 bits not by way of Pillow, which copies the picture twice.
        direct = wide or (suffix.lower() == ".png" and over is None and not shadow)
        if encoder is not None and direct and quality is None:
            pixels = self.array(over=over, shadow=shadow, keep_hidden=keep_hidden)
            return encoder(pixels, self.icc_profile, self.metadata.exif, self.metadata.dpi)
        if over is not None:
            return encode(self.over(over, shadow=shadow), suffix, quality=quality)
        return encode(self.cutout(shadow=shadow, keep_hidden=keep_hidden), suffix, quality=quality)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        over: Background | None = None,
        shadow: float = 0,
        keep_hidden: bool = False,
        quality: int | None = None,
    ) -> None:
        """Write what `encode` gives in the format of the ending of ``path``; whole or not at all.

        Args:
            path: the file.
            over: a background, as for `over`; None is transparent ground.
            shadow: as for `cutout`.
            keep_hidden: as for `cutout`.
            quality: as for `encode`.

        Raises:
            OutputError: as `encode` does, or a place that cannot be written; whatever stood at ``path`` is
                then still there.
            InputError: as `encode` does.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"path is a {type(path).__name__}, expected a file name: encode gives bytes")
        target = Path(path)
        data = self.encode(target.suffix, over=over, shadow=shadow, keep_hidden=keep_hidden, quality=quality)
        write_bytes(data, target)

    def _within_opacity(self, change: Callable[[Floats], Floats]) -> Matte:
        """The matte changed, with what was transparent in the picture as transparent as it was."""
        if self.opacity is None:
            return replace(self, alpha=change(self.alpha))
        return replace(self, alpha=change(self._share) * self.opacity)

    @property
    def _share(self) -> Floats:
        """How much of what there is of each pixel is the subject's, ``(H, W)``."""
        assert self.opacity is not None
        whole = np.zeros_like(self.alpha)
        np.divide(self.alpha, self.opacity, out=whole, where=self.opacity > 0)
        return whole.clip(0, 1)

    def _cutout(self, keep_hidden: bool) -> npt.NDArray[np.uint8]:
        height, width = self.alpha.shape
        pixels = np.empty((height, width, 4), np.uint8)
        foreground = self.foreground

        def fill(rows: slice) -> None:
            pixels[rows, :, :3] = _eight_bits(foreground[rows])
            pixels[rows, :, 3] = alpha = _alpha_bytes(self.alpha[rows])
            if not keep_hidden:
                # Whole pixels as one number each: much faster than indexing with a mask.
                whole = pixels[rows].view(np.uint32)[..., 0]
                whole *= alpha > 0

        on_threads(fill, strips(height, width))
        return pixels

    def _wide_cutout(self, shadow: float, keep_hidden: bool) -> npt.NDArray[np.uint16]:
        height, width = self.alpha.shape
        alpha = np.where(self.alpha < HIDDEN, 0, self.alpha)[..., np.newaxis]  # (H, W, 1)
        front = self.foreground if keep_hidden else self.foreground * (alpha > 0)
        pixels = np.empty((height, width, 4), np.uint16)
        if shadow:
            whole = alpha + (1 - alpha) * shadow_of(self.alpha, shadow)[..., np.newaxis]
            # The shadow is black: what is seen of a pixel is the subject's share of the two.
            front, alpha = np.rint(front * (alpha / np.maximum(whole, HIDDEN))), whole
        pixels[..., :3] = front
        pixels[..., 3:] = np.rint(alpha * 65535)
        return pixels

    def _wide_over(self, background: Background, shadow: float) -> npt.NDArray[np.uint16]:
        below = self._wide_background(background)
        if shadow:
            below *= 1 - shadow_of(self.alpha, shadow)[..., np.newaxis]
        mixed = below + self.alpha[..., np.newaxis] * (self.foreground - below)
        whole: npt.NDArray[np.uint16] = np.rint(mixed).astype(np.uint16)
        return whole

    def _shaded(self, background: Background, shadow: float) -> Image.Image:
        """A background with the subject's shadow on it, mode RGB."""
        below = self._background(background)
        if not shadow:
            return below
        dark = Image.fromarray(_alpha_bytes(shadow_of(self.alpha, shadow)))
        return Image.composite(Image.new("RGB", below.size), below, dark)

    def _finished(self, image: Image.Image) -> Image.Image:
        kept = {"icc_profile": self.icc_profile, "exif": self.metadata.exif, "dpi": self.metadata.dpi}
        image.info.update({name: value for name, value in kept.items() if value is not None})
        return image

    def _background(self, background: Background) -> Image.Image:
        height, width = self.alpha.shape
        if isinstance(background, str) and background == "blur":
            return blurred_background(_eight_bits(self.image), self.alpha, self.opacity)
        colour = _as_colour(background)
        if colour is not None:
            dot = _convert_profile(Image.new("RGB", (1, 1), colour), None, self.icc_profile)
            return Image.new("RGB", (width, height), dot.getpixel((0, 0)))
        picture = _background_image(background)
        fitted = _fit(Image.fromarray(_eight_bits(picture.pixels)), (width, height))
        return _convert_profile(fitted, picture.icc_profile, self.icc_profile)

    def _wide_background(self, background: Background) -> npt.NDArray[np.float32]:
        """A background ``(H, W, 3)``, 0 to 65535; of 16 bits where it has them and needs no other profile."""
        height, width = self.alpha.shape
        if _as_colour(background) is None and not (isinstance(background, str) and background == "blur"):
            background = picture = _background_image(background)
            if picture.pixels.dtype == np.uint16 and picture.icc_profile == self.icc_profile:
                planes = np.moveaxis(picture.pixels.astype(np.float32), 2, 0)
                fitted = [np.asarray(_fit(Image.fromarray(plane), (width, height))) for plane in planes]
                return np.stack(fitted, axis=-1).clip(0, 65535)
        return np.asarray(self._background(background), np.float32) * np.float32(257)


def over_shadow(subject: Image.Image, alpha: Floats, darkness: float) -> Image.Image:
    """A cut-out, mode RGBA, over the shadow of its ``alpha`` ``(H, W)``: see `shadow_of`."""
    below = Image.new("RGBA", subject.size)
    below.putalpha(Image.fromarray(_alpha_bytes(shadow_of(alpha, darkness))))
    return Image.alpha_composite(below, subject)


def shadow_of(alpha: Floats, darkness: float) -> Floats:
    """How dark each pixel ``(H, W)`` is in the subject's shadow: its outline, soft, a little lower.

    Raises:
        InputError: ``darkness`` is outside [0, 1].
    """
    if not 0 <= darkness <= 1:
        raise InputError(f"shadow is {darkness}, expected a number from 0 to 1")
    x0, y0, x1, y1 = subject_box(alpha)
    away = max(1, round(0.02 * max(x1 - x0, y1 - y0)))
    lower = np.pad(alpha, ((away, 0), (0, 0)))[: len(alpha)]
    return feathered(lower, away) * np.float32(darkness)


def blurred_background(
    image: npt.NDArray[np.uint8], alpha: Floats, opacity: Floats | None = None
) -> Image.Image:
    """The background of ``image`` ``(H, W, 3)`` out of focus; the subject, left out, casts no halo.

    Where ``opacity`` is 0 the picture shows nothing, as beyond its border: there the blur is mirrored.
    """
    height, width = alpha.shape
    if opacity is not None:
        x0, y0, x1, y1 = bounding_box(opacity > 0)
        if 0 < (x1 - x0) * (y1 - y0) < height * width:
            part = slice(y0, y1), slice(x0, x1)
            inside = np.asarray(blurred_background(image[part], alpha[part], opacity[part]))
            beyond = (y0, height - y1), (x0, width - x1), (0, 0)
            return Image.fromarray(np.pad(inside, beyond, mode="symmetric"))
    shown = 1 - alpha if opacity is None else np.maximum(opacity - alpha, 0)
    weighted = Image.fromarray(np.dstack([image, _alpha_bytes(shown)])).convert("RGBa")
    # The blur is wide, so a small copy carries all of it.
    scale = min(1, 512 / max(height, width))
    small = weighted.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
    )
    near, far = (small.filter(ImageFilter.GaussianBlur(max(small.size) / part)) for part in (60, 8))
    # Deep inside the subject the near blur has no background left to spread; the far one fills in.
    filled = Image.alpha_composite(_opaque(far), near.convert("RGBA"))
    return filled.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def _opaque(premultiplied: Image.Image) -> Image.Image:
    image = premultiplied.convert("RGBA")
    image.putalpha(255)
    return image


def opened_background(background: Background) -> Background:
    """A background for many pictures: read, where it is an image, so that no file is needed any more.

    Raises:
        InputError: as `Matte.over` does.
    """
    if _as_colour(background) is not None or (isinstance(background, str) and background == "blur"):
        return background
    return _background_image(background)


def _as_colour(background: Background) -> tuple[int, ...] | None:
    """``background`` as (r, g, b) where it names a colour, else None."""
    if isinstance(background, (tuple, list)):
        if len(background) != 3 or not all(
            isinstance(value, (int, np.integer)) and 0 <= value <= 255 for value in background
        ):
            raise InputError(f"background is {background}, expected (r, g, b) of whole numbers from 0 to 255")
        return tuple(map(int, background))
    return named_colour(background) if isinstance(background, str) else None


def named_colour(name: str) -> tuple[int, ...] | None:
    """The (r, g, b) of ``white``, ``#rrggbb`` and the like; None of what names no colour.

    Raises:
        InputError: a colour with transparency.
    """
    try:
        colour = ImageColor.getrgb(name)
    except ValueError:
        return None
    if colour[3:] not in ((), (255,)):
        raise InputError(f"background {name!r} is translucent, expected an opaque colour: #rrggbb")
    return colour[:3]


def _background_image(background: Any) -> Picture:
    if isinstance(background, str) and not Path(background).exists():
        raise InputError(
            f"background {background!r} is neither a colour nor a file; "
            "expected a name such as white, #rrggbb, 'blur' or an image"
        )
    picture = read_image(background)
    if picture.opacity is None:
        return picture
    # As a model sees it, it lies over mid-grey; behind a subject transparent parts are white, as on paper.
    most = np.iinfo(picture.pixels.dtype).max
    missing = (most - GREY * (most // 255)) * (1 - picture.opacity[..., np.newaxis])
    pixels = np.rint(picture.pixels + missing).astype(picture.pixels.dtype)
    return replace(picture, pixels=pixels, opacity=None)


def _without_ground(image: Pixels, opacity: Floats) -> Pixels:
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


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarged or reduced to cover ``size`` ``(width, height)``, and cropped at the centre."""
    return ImageOps.fit(image, size, method=Image.Resampling.BICUBIC)


def _check_hidden(keep_hidden: bool, shadow: float, over: Background | None = None) -> None:
    covers = "a background" if over is not None else "a shadow" if shadow else ""
    if keep_hidden and covers:
        raise InputError(f"{covers} covers the colours that keep_hidden keeps: choose one of them")


def _convert_profile(image: Image.Image, source: bytes | None, target: bytes | None) -> Image.Image:
    """``image`` with its colours in the profile ``target``; None is sRGB."""
    if source == target:
        return image
    ends: list[Any] = [
        BytesIO(profile) if profile else ImageCms.createProfile("sRGB") for profile in (source, target)
    ]
    try:
        converted = ImageCms.profileToProfile(image, *ends)
    except (ImageCms.PyCMSError, OSError):
        return image  # a profile that only reads, such as a scanner's: the colours stay as they are
    return converted if converted is not None else image


def _eight_bits(pixels: Pixels) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels.view(np.uint8)
    return np.rint(pixels / np.float32(257)).astype(np.uint8)


def _alpha_bytes(alpha: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(alpha * 255).astype(np.uint8)
