"""Colours: those of other kinds in RGB, by their ICC profiles, and integers as numbers in [0, 1]."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from decoupe.arrays import Floats, Indices, Pixels


def to_rgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """An opaque image as RGB and the RGB profile it is in; None is sRGB."""
    kept = rgb_profile(profile)
    if image.mode == "RGB":
        return image, kept
    if image.mode in ("RGBA", "RGBX", "P", "YCbCr") or (profile is None and image.mode != "LAB"):
        return image.convert("RGB"), kept
    # CMYK, LAB and grey with a profile of their own: their colours mean nothing without it.
    if image.mode == "L" and kept is None:
        return Image.fromarray(grey_in_srgb(np.asarray(image), profile)).convert("RGB"), None
    converted = _in_srgb(image, ImageCms.createProfile("LAB") if image.mode == "LAB" else profile)
    return (image.convert("RGB"), kept) if converted is None else (converted, None)


def grey_in_srgb(values: Pixels, profile: bytes | None) -> Pixels:
    """Grey values of ``profile`` in sRGB; unchanged where that is no profile of grey.

    All 256 or 65,536 values are converted once: what littlecms does to be quick is ten levels off in shadows.
    """
    ramp: Any = np.arange(np.iinfo(values.dtype).max + 1, dtype=values.dtype)
    shown = _in_srgb(Image.fromarray(ramp.reshape(-1, 256)), profile or b"", ImageCms.Flags.NOOPTIMIZE)
    if shown is None:
        return values
    tones: npt.NDArray[np.uint8] = np.asarray(shown)[..., 1].ravel()
    if values.dtype == np.uint8:
        return tones[values]
    # Of these there are 256 here as well: each stands in the middle of the values that it was given for.
    levels, firsts = np.unique(tones, return_index=True)
    middles = (firsts + np.append(firsts[1:], ramp.size) - 1) / 2
    middles[0], middles[-1] = 0, ramp[-1]
    table: npt.NDArray[np.uint16] = np.rint(np.interp(ramp, middles, levels * 257.0)).astype(np.uint16)
    return table[values]


def _in_srgb(
    image: Image.Image, profile: Any, flags: ImageCms.Flags = ImageCms.Flags.NONE
) -> Image.Image | None:
    """An image of ``profile`` as RGB in sRGB; None where the profile is broken or of another colour space.

    What is then shown is the plain conversion, as by viewers.
    """
    own = BytesIO(profile) if isinstance(profile, bytes) else profile
    target = ImageCms.createProfile("sRGB")
    try:
        return ImageCms.profileToProfile(image, own, target, outputMode="RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError):
        return None


def rgb_profile(profile: bytes | None) -> bytes | None:
    """``profile`` where it is a readable profile of RGB, else None."""
    if not profile:
        return None
    try:
        space = ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space
    except (ImageCms.PyCMSError, OSError):
        return None
    return profile if space.strip() == "RGB" else None


def unit(values: npt.NDArray[Any]) -> Floats:
    """Integers as floats in [0, 1], of the largest that their type holds."""
    floats: Floats = np.divide(values, np.iinfo(values.dtype).max, dtype=np.float32)
    return floats


def colour_planes(pixels: Pixels) -> Floats:
    """Integers ``(…, 3)`` as planes of colour ``(3, …)`` in [0, 1]."""
    planes = np.moveaxis(pixels, -1, 0).astype(np.float32)
    planes /= np.float32(np.iinfo(pixels.dtype).max)
    return planes


def colours_of(pixels: Pixels, places: Indices) -> Floats:
    """What RGB ``(H, W, 3)`` has at flat indices ``(P,)``, as planes of colour ``(3, P)`` in [0, 1]."""
    # The indices are in range, and "clip" skips the check: four times as fast as indexing.
    return colour_planes(pixels.reshape(-1, 3).take(places, axis=0, mode="clip"))
