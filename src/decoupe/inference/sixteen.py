"""What Pillow makes less of than a file holds: 16 bits a channel of colour, depths and senses of grey."""

from __future__ import annotations

import sys
import warnings
import zlib
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.ExifTags import Base

from decoupe.inference.metadata import DAMAGED, loaded, pillow_lock

_OTHER_HALF = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def has_sixteen_bits(image: ImageFile.ImageFile) -> bool:
    """Whether a file that is open and not yet loaded holds RGB or RGBA with 16 bits a channel."""
    return bool(image.tile) and all(map(_wide, image.tile))


def has_wide_planes(image: ImageFile.ImageFile) -> bool:
    """Whether a file is a TIFF whose channels, of more than 8 bits, lie one after the other.

    Pillow takes their bytes for values of 8 bits, or loses the low ones.
    """
    tags = getattr(image, "tag_v2", {})
    planes = tags.get(Base.PlanarConfiguration) == 2 and tags.get(Base.SamplesPerPixel, 1) > 1
    return planes and max(tags.get(Base.BitsPerSample, (1,))) > 8


def tiff_kind(stream: BinaryIO) -> str | None:
    """How a TIFF's header says that its pixels are kept: "2 channels of 16 bits"; None of another file."""
    stream.seek(0)
    start = stream.read(8)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start + (stream.read(8) if start[2:3] == b"+" else b""))
        stream.seek(tags.next)
        with pillow_lock(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are damaged
            tags.load(stream)
        bits, channels = max(tags[Base.BitsPerSample]), tags.get(Base.SamplesPerPixel, 1)
    except DAMAGED:
        return None
    several = "1 channel" if channels == 1 else f"{channels} channels"
    floats = tags.get(Base.SampleFormat, (1,))[0] == 3
    order = ", black the largest" if tags.get(Base.PhotometricInterpretation) == 0 else ""
    return f"{several} of {bits}{'-bit floats' if floats else ' bits'}{order}"


def choose_low_bytes(image: ImageFile.ImageFile) -> None:
    """Make an open image of which `has_sixteen_bits` is true load the low bytes of its values.

    Pillow keeps the high byte of each value. Told that the bytes come in the other order, it keeps the other.
    """
    image.tile = [_swapped(tile) for tile in image.tile]


def scale_transparency(image: ImageFile.ImageFile) -> None:
    """Give the transparent grey of an open PNG of 2 or 4 bits as its pixels are given, with 8 bits."""
    factors = {"L;2": 85, "L;4": 17}
    clear = image.info.get("transparency")
    if isinstance(clear, int) and image.tile:
        image.info["transparency"] = clear * factors.get(_rawmode(image.tile[0]), 1)


def tiff_grey(image: Image.Image) -> npt.NDArray[Any]:
    """The values of a grey image of more than 8 bits: a TIFF's of 12 bits scaled to 16, white the largest."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if not image.mode.startswith("I;16"):
        return values
    if tags.get(Base.BitsPerSample) == (12,):
        values = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    return 65535 - values if tags.get(Base.PhotometricInterpretation) == 0 else values


def encode_tiff(
    pixels: npt.NDArray[np.uint16],
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """RGB ``(H, W, 3)`` or RGBA ``(H, W, 4)`` as a TIFF file of 16 bits a channel (TIFF 6.0, deflated).

    Of EXIF it keeps what TIFF itself has tags for: neither exposure nor place.
    """
    height, width, channels = pixels.shape
    differences = np.diff(pixels, axis=1, prepend=np.zeros((height, 1, channels), np.uint16))
    data = zlib.compress(differences.astype("<u2").tobytes(), level=1)
    tags: dict[int, Any] = {tag: value for tag, value in loaded(exif).items() if isinstance(value, str)}
    tags |= {
        Base.ImageWidth: width,
        Base.ImageLength: height,
        Base.BitsPerSample: (16,) * channels,
        Base.Compression: 8,
        Base.PhotometricInterpretation: 2,
        Base.StripOffsets: 0,  # from the end of the directory, which Pillow knows
        Base.SamplesPerPixel: channels,
        Base.RowsPerStrip: height,
        Base.StripByteCounts: len(data),
        Base.PlanarConfiguration: 1,
        Base.Predictor: 2,  # each pixel less the one to its left
    }
    if channels == 4:
        tags[Base.ExtraSamples] = 2  # straight alpha
    if icc_profile is not None:
        tags[Base.InterColorProfile] = icc_profile
    if dpi is not None:
        tags |= {Base.XResolution: dpi[0], Base.YResolution: dpi[1], Base.ResolutionUnit: 2}
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[int(tag)] = value
    buffer = BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + data


def _rawmode(tile: Any) -> str:
    """How a tile's bytes are packed: its arguments, or the first of them."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _wide(tile: Any) -> bool:
    return _rawmode(tile)[:-1] in ("RGB;16", "RGBA;16")


def _swapped(tile: Any) -> Any:
    codec, extents, offset, arguments = tile
    rawmode = _rawmode(tile)
    other = rawmode[:-1] + _OTHER_HALF[rawmode[-1]]
    changed = (other, *arguments[1:]) if isinstance(arguments, tuple) else other
    # Tiles are plain tuples in some releases of Pillow and named ones in others.
    return getattr(type(tile), "_make", tuple)((codec, extents, offset, changed))
