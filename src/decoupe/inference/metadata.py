"""What a photograph's file says of it beside its pixels: which way is up, and the EXIF that is kept."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from decoupe.inference.turns import Turns

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    AssertionError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Whatever Pillow's decoders let escape on damaged files."""

pillow_lock = Turns()
"""Held by whoever changes what is the whole process's: Pillow's limit and plugins, Python's warnings."""

# EXIF orientation -> how the picture is turned upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNS_ASIDE = frozenset({5, 6, 7, 8})  # those that exchange width and height

# What EXIF tells that stays true of a picture made of the photograph; the rest describes the file's pixels.
_TOLD = frozenset(
    int(tag)
    for tag in (
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.Copyright,
    )
)
_INCH, _CENTIMETRE = 2, 3  # of EXIF's resolution
_RESOLVED_BY_EXIF = ("WEBP", "AVIF", "HEIF")
_PARTS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# What describes the file's pixels, and what holds places in the file: makers keep whole pictures there.
_LEFT_OUT = (
    ExifTags.Base.ExifImageWidth,
    ExifTags.Base.ExifImageHeight,
    ExifTags.Base.ExifInteroperabilityOffset,
    ExifTags.Base.MakerNote,
)


@dataclass(frozen=True)
class Metadata:
    """What a photograph says of itself, kept in what is made of it.

    Attributes:
        exif: a block as EXIF has it: camera, time, place, author and rights. Without the orientation, which
            has been applied, the thumbnail and the maker's notes, which may show the background, and what
            describes the file's pixels.
        dpi: pixels per inch, across and down.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


NO_METADATA = Metadata()
"""Of a picture that tells nothing of itself."""


def upright(image: Image.Image) -> Image.Image:
    """An image that has been loaded, turned and mirrored as its EXIF tells."""
    # ImageOps.exif_transpose writes the metadata anew, and fails where they are odd.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGED:
        # Unreadable metadata is no reason to refuse readable pixels.
        return image
    return image if turn is None else image.transpose(turn)


def turn_resolution(image: Image.Image) -> None:
    """Turn the resolution of a TIFF that is not loaded yet: Pillow turns its pixels when it loads them."""
    dpi, tags = image.info.get("dpi"), getattr(image, "tag_v2", {})
    if dpi is not None and tags.get(ExifTags.Base.Orientation) in _TURNS_ASIDE:
        image.info["dpi"] = dpi[::-1]


def metadata_of(image: Image.Image) -> Metadata:
    """What an image that has been loaded, and not yet turned, says of itself; nothing where it is damaged."""
    dpi = image.info.get("dpi")
    try:
        with pillow_lock(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of damaged parts: the rest is kept
            told, turned = _told(image)
            if image.format in _RESOLVED_BY_EXIF:
                dpi = _resolution(image.getexif())
    except DAMAGED:
        # Unreadable metadata is no reason to refuse readable pixels.
        told, turned = None, False
    if not (isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(side) < 1e6 for side in dpi)):
        return Metadata(told)
    across, down = float(dpi[0]), float(dpi[1])
    return Metadata(told, (down, across) if turned else (across, down))


def with_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """A block of EXIF that tells the resolution, for formats that tell it nowhere else."""
    block = loaded(exif)
    block[ExifTags.Base.XResolution], block[ExifTags.Base.YResolution] = dpi
    block[ExifTags.Base.ResolutionUnit] = _INCH
    return block.tobytes()


def loaded(exif: bytes | None) -> Image.Exif:
    """A block of EXIF to be written anew, its text as it is."""
    block = Image.Exif()
    block.load(exif or b"")
    for part in (block, *(block.get_ifd(part) for part in _PARTS if part in block)):
        part.update(as_written(part))
    return block


def as_written(values: Mapping[int, Any]) -> dict[int, Any]:
    """EXIF's values, of which Pillow writes text as the bytes that it was read from."""
    return {int(tag): _Text(value) if isinstance(value, str) else value for tag, value in values.items()}


class _Text(str):
    """Text that Pillow read as Latin-1, whatever it was, and would write as ASCII with question marks."""

    def encode(self, encoding: str = "latin-1", errors: str = "replace") -> bytes:
        """The bytes that it was read from."""
        return super().encode("latin-1", errors)


def _resolution(exif: Image.Exif) -> tuple[float, float] | None:
    """Pixels per inch, across and down, where EXIF tells them."""
    tags = (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
    if not all(tag in exif for tag in tags):
        return None
    inches = 2.54 if exif.get(ExifTags.Base.ResolutionUnit, _INCH) == _CENTIMETRE else 1
    return float(exif[tags[0]]) * inches, float(exif[tags[1]]) * inches


def _told(image: Image.Image) -> tuple[bytes | None, bool]:
    """The block of EXIF that is kept, and whether turning the image upright exchanges its sides."""
    found, kept = image.getexif(), Image.Exif()
    kept.update(as_written({tag: found[tag] for tag in _TOLD & set(found)}))
    parts = {part: found.get_ifd(part) for part in _PARTS}
    for part, values in parts.items():
        if values:
            told = {tag: values[tag] for tag in values if tag not in _LEFT_OUT}
            kept.get_ifd(part).update(as_written(told))
    turned = found.get(ExifTags.Base.Orientation, 1) in _TURNS_ASIDE
    return (kept.tobytes() if len(kept) or any(parts.values()) else None), turned
