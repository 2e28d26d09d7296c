"""What a prediction gives: the matte, and the pictures that can be made of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from decoupe.arrays import Floats, Pixels
from decoupe.errors import InputError
from decoupe.inference.backgrounds import (
    Background,
    as_colour,
    blurred_background,
    fitted_background,
    is_blur,
)
from decoupe.inference.checks import check_pixels
from decoupe.inference.compositing import (
    alpha_in_bits,
    composited,
    in_bits,
    shadow_of,
    straight,
    without_ground,
)
from decoupe.inference.edits import Edits, edited
from decoupe.inference.foreground import estimate_foreground
from decoupe.inference.framing import cropped, framed, subject_box
from decoupe.inference.matting import Matting, refined
from decoupe.inference.media import encode, image_format, preview, write_bytes
from decoupe.inference.metadata import NO_METADATA, Metadata
from decoupe.inference.once import computed_once
from decoupe.inference.png import encode_png
from decoupe.inference.sixteen import encode_tiff

# File ending -> what writes RGB and RGBA of 16 bits a channel; PNG of 8 bits as well.
_ENCODERS: dict[str, Callable[..., bytes]] = {".png": encode_png, ".tif": encode_tiff, ".tiff": encode_tiff}


@dataclass(frozen=True, eq=False, repr=False)
class Matte:
    """How much of each pixel belongs to the subject, beside the picture it was predicted from.

    Attributes:
        alpha: float32 ``(H, W)`` in [0, 1], at the picture's own size.
        image: the picture, upright: RGB ``(H, W, 3)``, uint8, or uint16 where the source had more bits.
        icc_profile: the RGB profile that ``image`` is in; None means sRGB.
        source: where the picture came from.
        metadata: what else the photograph tells of itself. `save` and `encode` write it and the profile; the
            Pillow images in colour have both in ``info``, of which Pillow writes what it is told:
            ``image.save(path, **image.info)``.
        opacity: the picture's own alpha, float32 ``(H, W)`` in [0, 1], which ``alpha`` is never above; None
            where it is 1 everywhere.

    Raises:
        InputError: an array of another shape, type or range, sizes that differ, or an opacity below alpha.
    """

    alpha: Floats
    image: Pixels
    icc_profile: bytes | None = None
    source: str = "image"
    metadata: Metadata = NO_METADATA
    opacity: Floats | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, np.ndarray):
            raise InputError(f"alpha is a {type(self.alpha).__name__}, expected an array: use numpy.asarray")
        if self.alpha.ndim != 2 or self.alpha.dtype != np.float32 or self.alpha.size == 0:
            raise InputError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, expected float32 (H, W): use alpha.astype"
            )
        check_pixels(self.image)
        if self.alpha.shape != self.image.shape[:2]:
            sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (self.alpha, self.image)]
            raise InputError(f"alpha is {sizes[0]}, image {sizes[1]}: apply EXIF rotation to both")
        # A comparison with NaN is false, so this refuses NaN as well.
        if not (self.alpha.min() >= 0 and self.alpha.max() <= 1):
            raise InputError("alpha holds values outside [0, 1] or NaN: apply the sigmoid, or numpy.clip")
        if (opacity := self.opacity) is None:
            return
        like = isinstance(opacity, np.ndarray) and opacity.dtype == np.float32
        if not like or opacity.shape != self.alpha.shape:
            raise InputError("opacity is no array like alpha, expected float32 of the same size: or None")
        if not ((self.alpha <= opacity).all() and opacity.max() <= 1):
            raise InputError("opacity is below alpha, above 1 or NaN: multiply alpha by it first")

    def __repr__(self) -> str:
        height, width = self.alpha.shape
        return f"Matte({width}×{height}, {self.alpha.mean():.0%} subject, from {self.source})"

    def _repr_png_(self) -> bytes:
        """The cut-out, as notebooks show it."""
        return preview(self.cutout())

    @computed_once
    def foreground(self) -> Pixels:
        """``image`` with the subject's own colours at soft edges, ``(H, W, 3)``, uint8 or uint16."""
        if self.opacity is None:
            return estimate_foreground(self.image, self.alpha)
        return estimate_foreground(self._own, self._share)

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

    def mask(self, *, bits: int = 8) -> Image.Image:
        """Alpha as a grey picture, white is the subject: mode L, or I;16 where it is to have 16 bits.

        Of what the photograph tells it has the resolution, to be laid over it.

        Args:
            bits: 8 or 16.

        Raises:
            InputError: other bits.
        """
        if bits not in (8, 16):
            raise InputError(f"bits is {bits}, expected 8 or 16")
        grey = Image.fromarray(alpha_in_bits(self.alpha, np.uint16 if bits == 16 else np.uint8))
        if self.metadata.dpi is not None:
            grey.info["dpi"] = self.metadata.dpi
        return grey

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
        return self._finished(Image.fromarray(self._cutout(shadow, keep_hidden, np.uint8)))

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
        return self._finished(Image.fromarray(self._over(background, shadow, np.uint8)))

    def overlay(self, colour: str | tuple[int, int, int] = "red") -> Image.Image:
        """The photograph with its subject tinted, mode RGB: to judge a matte by."""
        tint = as_colour(colour)
        if tint is None:
            raise InputError(f"colour is {colour!r}, expected a name such as red, or #rrggbb")
        tinted = composited(np.array(tint, np.uint8), self.image, self.alpha * np.float32(0.5))
        return self._finished(Image.fromarray(tinted))

    def side_by_side(self) -> Image.Image:
        """The photograph, and to its right the subject on a chequered ground, mode RGB."""
        height, width = self.alpha.shape
        square = max(4, max(height, width) // 64)
        rows, columns = np.arange(height) // square, np.arange(width) // square
        light = (rows[:, np.newaxis] + columns) % 2 == 0
        ground = np.where(light[..., np.newaxis], np.uint8(255), np.uint8(204))
        subject = composited(self.foreground, ground, self.alpha)
        pair = Image.fromarray(np.hstack([in_bits(self.image, np.uint8), subject]))
        return self._finished(pair)

    def layers(self) -> dict[str, Image.Image]:
        """The cut-out, mode RGBA, and the photograph to put below it, by their names.

        The photograph's mode is RGB, or RGBA where it has transparency of its own.
        """
        if self.opacity is None:
            photograph = in_bits(self.image, np.uint8)
        else:
            photograph = straight(self._own, self.opacity)
        return {"subject": self.cutout(), "photograph": self._finished(Image.fromarray(photograph))}

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
        if over is None:
            return self._cutout(shadow, keep_hidden, self.image.dtype)
        _check_hidden(keep_hidden, shadow, over)
        return self._over(over, shadow, self.image.dtype)

    def encode(
        self,
        suffix: str = ".png",
        *,
        over: Background | None = None,
        shadow: float = 0,
        keep_hidden: bool = False,
        quality: int | None = None,
        metadata: bool = True,
    ) -> bytes:
        """The cut-out as the bytes of a PNG, WebP, TIFF or AVIF file, or `over` as those of any.

        Where ``image`` has 16 bits a channel, so have PNG and TIFF; the other formats have 8.

        Args:
            suffix: the file's ending, which tells the format.
            over: a background, as for `over`; None is transparent ground.
            shadow: as for `cutout`.
            keep_hidden: as for `cutout`.
            quality: 1 to 100, of WebP, AVIF and JPEG; None is lossless, or nearly.
            metadata: keep what the photograph tells of itself, its place among it, and its resolution.

        Raises:
            OutputError: another suffix, or JPEG without a background: it has no transparency.
            InputError: a background, shadow or quality that cannot be used.
        """
        image_format(suffix)  # refuses others before the work
        _check_hidden(keep_hidden, shadow, over)
        told = self.metadata if metadata else NO_METADATA
        encoder = _ENCODERS.get(suffix.lower())
        wide = self.image.dtype == np.uint16
        # PNG of 8 bits not by way of Pillow, which copies the picture twice.
        direct = wide or (suffix.lower() == ".png" and over is None and not shadow)
        if encoder is not None and direct and quality is None:
            pixels = self.array(over=over, shadow=shadow, keep_hidden=keep_hidden)
            return encoder(pixels, self.icc_profile, told.exif, told.dpi)
        if over is not None:
            pixels = self._over(over, shadow, np.uint8)
        else:
            pixels = self._cutout(shadow, keep_hidden, np.uint8)
        return encode(self._finished(Image.fromarray(pixels), told), suffix, quality=quality)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        over: Background | None = None,
        shadow: float = 0,
        keep_hidden: bool = False,
        quality: int | None = None,
        metadata: bool = True,
    ) -> None:
        """Write what `encode` gives in the format of the ending of ``path``; whole or not at all.

        Args:
            path: the file.
            over: a background, as for `over`; None is transparent ground.
            shadow: as for `cutout`.
            keep_hidden: as for `cutout`.
            quality: as for `encode`.
            metadata: as for `encode`.

        Raises:
            OutputError: as `encode` does, or a place that cannot be written; whatever stood at ``path`` is
                then still there.
            InputError: as `encode` does.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"path is a {type(path).__name__}, expected a file name: encode gives bytes")
        target = Path(path)
        data = self.encode(
            target.suffix,
            over=over,
            shadow=shadow,
            keep_hidden=keep_hidden,
            quality=quality,
            metadata=metadata,
        )
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

    @property
    def _own(self) -> Pixels:
        """The photograph without the grey that was laid under what is translucent in it."""
        assert self.opacity is not None
        return without_ground(self.image, self.opacity)

    def _cutout(self, shadow: float, keep_hidden: bool, bits: npt.DTypeLike) -> Pixels:
        """RGBA ``(H, W, 4)``."""
        _check_hidden(keep_hidden, shadow)
        shade = shadow_of(self.alpha, shadow) if shadow else None
        return straight(self.foreground, self.alpha, shade=shade, keep_hidden=keep_hidden, bits=bits)

    def _over(self, background: Background, shadow: float, bits: npt.DTypeLike) -> Pixels:
        """RGB ``(H, W, 3)``."""
        height, width = self.alpha.shape
        if is_blur(background):
            own = self.image if self.opacity is None else self._own
            below: Pixels = blurred_background(own, self.alpha, self.opacity)
        else:
            below = fitted_background(background, (width, height), self.icc_profile)
        shade = shadow_of(self.alpha, shadow) if shadow else None
        return composited(self.foreground, below, self.alpha, shade=shade, bits=bits)

    def _finished(self, image: Image.Image, told: Metadata | None = None) -> Image.Image:
        """A picture made of this one, with its profile and what is told of it; None is all that there is."""
        told = told or self.metadata
        kept = {"icc_profile": self.icc_profile, "exif": told.exif, "dpi": told.dpi}
        image.info.update({name: value for name, value in kept.items() if value is not None})
        return image


def _check_hidden(keep_hidden: bool, shadow: float, over: Background | None = None) -> None:
    covers = "a background" if over is not None else "a shadow" if shadow else ""
    if keep_hidden and covers:
        raise InputError(f"{covers} covers the colours that keep_hidden keeps: choose one of them")
