"""What a subject is put over: a colour, a picture, or its own background out of focus."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageFilter, ImageOps

from decoupe.arrays import Floats, Pixels
from decoupe.errors import InputError
from decoupe.inference.checks import shortened
from decoupe.inference.compositing import alpha_in_bits, in_bits
from decoupe.inference.edits import feathered
from decoupe.inference.pictures import GREY, Picture, Source, read_image
from decoupe.readings import bounding_box

Background: TypeAlias = Source | tuple[int, int, int]
"""A colour (name, ``#rrggbb`` or ``(r, g, b)``), an image as `read_image` takes it, or ``"blur"``."""


def fitted_background(background: Background, size: tuple[int, int], icc_profile: bytes | None) -> Pixels:
    """A colour or picture that covers ``size`` ``(width, height)``, in the colours of a profile.

    Returns:
        ``(H, W, 3)``, or ``(1, 1, 3)`` of a colour; uint16 where the picture is and needs no other profile.

    Raises:
        InputError: what is neither a colour nor a picture that can be read.
    """
    colour = as_colour(background)
    if colour is not None:
        return np.asarray(_convert_profile(Image.new("RGB", (1, 1), colour), None, icc_profile))
    picture = _opened(background)
    if picture.pixels.dtype == np.uint16 and picture.icc_profile == icc_profile:
        planes = np.moveaxis(picture.pixels.astype(np.float32), 2, 0)
        whole = np.stack([np.asarray(_fit(Image.fromarray(plane), size)) for plane in planes], axis=-1)
        covering: Pixels = np.rint(whole.clip(0, 65535)).astype(np.uint16)
        return covering
    fitted = _fit(Image.fromarray(in_bits(picture.pixels, np.uint8)), size)
    return np.asarray(_convert_profile(fitted, picture.icc_profile, icc_profile))


def blurred_background(image: Pixels, alpha: Floats, opacity: Floats | None = None) -> Pixels:
    """The background of ``image`` ``(H, W, 3)`` out of focus, uint8; the subject, left out, casts no halo.

    Where ``opacity`` is 0 the picture shows nothing, as beyond its border: there the blur is mirrored.
    """
    height, width = alpha.shape
    if opacity is not None:
        x0, y0, x1, y1 = bounding_box(opacity > 0)
        if 0 < (x1 - x0) * (y1 - y0) < height * width:
            part = slice(y0, y1), slice(x0, x1)
            inside = blurred_background(image[part], alpha[part], opacity[part])
            beyond = (y0, height - y1), (x0, width - x1), (0, 0)
            return np.asarray(np.pad(inside, beyond, mode="symmetric"), np.uint8)
    shown = 1 - alpha if opacity is None else np.maximum(opacity - alpha, 0)
    layer = np.dstack([in_bits(image, np.uint8), alpha_in_bits(shown)])
    weighted = Image.fromarray(layer).convert("RGBa")
    # The blur is wide, so a small copy carries all of it.
    scale = min(1, 512 / max(height, width))
    small = weighted.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
    )
    near = small.filter(ImageFilter.GaussianBlur(max(small.size) / 60))
    # Deep inside the subject the near blur has no background left to spread; the far one fills in.
    filled = Image.alpha_composite(_far_blur(small), near.convert("RGBA"))
    return np.asarray(filled.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def _far_blur(premultiplied: Image.Image) -> Image.Image:
    """The colours of a picture of mode RGBa an eighth of its longer side around, opaque, mode RGBA.

    In floats: of the little that reaches into a large subject 8 bits tell no colour.
    """
    side = max(premultiplied.size)
    reduced = max(1, premultiplied.width // 8), max(1, premultiplied.height // 8)
    bands = [np.asarray(band, np.float32) / 255 for band in premultiplied.split()]
    planes = [np.asarray(Image.fromarray(band).resize(reduced, Image.Resampling.BOX)) for band in bands]
    blurred = np.stack([feathered(plane, max(side / 64, 0.5)) for plane in planes], axis=2)  # (h, w, 4)
    # Farther still the mean does.
    mean = blurred.mean(axis=(0, 1))
    blurred += np.float32(1e-6) * mean / max(mean[3], 1e-6)
    colours = np.rint(255 * blurred[..., :3] / blurred[..., 3:].clip(1e-6)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(colours).resize(premultiplied.size, Image.Resampling.BICUBIC)
    image.putalpha(255)
    return image


def opened_background(background: Background) -> Background:
    """A background for many pictures: read, where it is an image, so that no file is needed any more.

    Raises:
        InputError: as `fitted_background` does.
    """
    return background if is_blur(background) or as_colour(background) is not None else _opened(background)


def is_blur(background: Background) -> bool:
    """Whether a background is the picture's own, out of focus."""
    return isinstance(background, str) and background == "blur"


def as_colour(background: Background) -> tuple[int, ...] | None:
    """``background`` as (r, g, b) where it names a colour, else None.

    Raises:
        InputError: a colour with transparency, or numbers that are none.
    """
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


def _opened(background: Any) -> Picture:
    if isinstance(background, str) and not _exists(background):
        raise InputError(
            f"background {shortened(background)!r} is neither a colour nor a file; "
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


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long for a path, as a picture in base64 is
        return False


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarged or reduced to cover ``size`` ``(width, height)``, and cropped at the centre."""
    return ImageOps.fit(image, size, method=Image.Resampling.BICUBIC)


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
