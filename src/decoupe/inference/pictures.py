"""Pictures as they are read, from wherever they are: upright, RGB, opaque."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, SupportsFloat, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from decoupe.arrays import Box, Floats, Pixels
from decoupe.errors import InputError, TooLargeError
from decoupe.inference.checks import shortened
from decoupe.inference.colour import grey_in_srgb, rgb_profile, to_rgb, unit
from decoupe.inference.metadata import (
    DAMAGED,
    NO_METADATA,
    Metadata,
    metadata_of,
    pillow_lock,
    turn_resolution,
    upright,
)
from decoupe.inference.sixteen import (
    choose_low_bytes,
    has_sixteen_bits,
    has_wide_planes,
    scale_transparency,
    tiff_grey,
    tiff_kind,
)
from decoupe.inference.turns import Turns
from decoupe.notices import FramesWarning, warn

FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "PPM"),  # those that Pillow knows from its start come first
    *("WEBP", "TIFF", "AVIF", "JPEG2000", "TGA"),
    "HEIF",  # of a plugin; JPEG XL's decodes a file whole before its size can be asked for
)
"""The formats, as Pillow calls them, that are opened: some of the others start programs, as EPS does."""

MAX_PIXELS = 178_956_970
"""Most pixels that a file may hold unless the caller raises the cap; Pillow's own bound for refusing."""

GREY = 128
"""What lies under the transparent parts of a picture when the model sees it, 0 to 255."""

# Of two threads that let Pillow read the pixels of one image, one meets a half-read file. By the images' ids,
# so that different ones are seldom read in turns.
_LOADING = tuple(Turns() for _ in range(16))

# Formats whose further frames are not more of the same picture, as the depth map in a phone's JPEG is.
_ANIMATED = {"GIF": "frames", "PNG": "frames", "WEBP": "frames", "AVIF": "frames", "TIFF": "pages"}

# How a HEIC file begins: its brands, the major one or another (ISO/IEC 23008-12, section 10.2).
_HEIC = re.compile(rb".{4}ftyp.{0,48}?(hei[cxms]|hev[cxms])", re.DOTALL)


# With one slash as pathlib writes it; a scheme of one letter is a disk of Windows.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|(https?|file|s3|gs):/", re.IGNORECASE)

_JPEG_XL = b"\xff\x0a", b"\0\0\0\x0cJXL "
"""How a JPEG XL file begins, bare and in a container (ISO/IEC 18181-2)."""

# MP4 and QuickTime by their brands, since pictures have the same form; Matroska and WebM; AVI.
_VIDEO = re.compile(
    rb".{4}(ftyp(iso[m2-9]|mp4[12]|avc1|M4V|qt  |3g[2p]|dash|MSNV|XAVC|f4v)|moov|mdat)"
    rb"|\x1a\x45\xdf\xa3|RIFF.{4}AVI ",
    re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as it was read: upright, RGB, opaque.

    Attributes:
        pixels: RGB, ``(H, W, 3)``, uint8, or uint16 where the source holds more than 8 bits. Transparent
            parts lie over mid-grey, so colours hidden under them are gone.
        opacity: the source's own alpha, float32 ``(H, W)`` in [0, 1]; None where it has none.
        icc_profile: the RGB profile that ``pixels`` are in; None means sRGB.
        source: where it came from, for messages.
        metadata: what else the source told.
    """

    pixels: Pixels
    opacity: Floats | None = None
    icc_profile: bytes | None = None
    source: str = "image"
    metadata: Metadata = NO_METADATA
    _reduced: dict[tuple[int, int], npt.NDArray[np.uint8]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def reduced(self, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The pixels of a picture of 8 bits at ``size`` ``(h, w)``: ``(h, w, 3)``, kept if they are fewer.

        The model and the way back ask for the same.
        """
        resized = self._reduced.get(size)
        if resized is None:
            image = Image.fromarray(self.pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            resized = np.asarray(image)
            if resized.size < self.pixels.size:
                self._reduced[size] = resized
        return resized

    def crop(self, box: Box) -> Picture:
        """The part in ``(x0, y0, x1, y1)``, x1 and y1 just outside; a view of the pixels."""
        x0, y0, x1, y1 = box
        opacity = None if self.opacity is None else self.opacity[y0:y1, x0:x1]
        return replace(self, pixels=self.pixels[y0:y1, x0:x1], opacity=opacity)


class Readable(Protocol):
    """A file object, of which no more than this is needed."""

    def read(self) -> bytes:
        """What is left of it."""


@runtime_checkable
class ArrayLike(Protocol):
    """What gives an array, as the tensors of PyTorch and other libraries do."""

    def __array__(self) -> npt.NDArray[Any]:
        """Its values."""


Source: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Readable
    | Image.Image
    | npt.NDArray[Any]
    | ArrayLike
    | Picture
)
"""Whatever `read_image` takes."""


def read_image(source: Source, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture from wherever it is.

    EXIF orientation is applied, once. CMYK, LAB and grey become sRGB through their ICC profile, RGB keeps
    its profile. 16-bit grey, RGB and RGBA files (PNG, TIFF), 16-bit arrays and float arrays stay
    16-bit. Of an animation the first frame is read, with a `FramesWarning`. HEIC files need pillow-heif.
    Transparent parts are laid over mid-grey, with their transparency beside the pixels. A file is one of
    `FORMATS`, whatever its name ends in.

    Args:
        source: a path, the bytes of a file, a binary file object, a Pillow image, or an array ``(H, W)``,
            ``(H, W, 3)`` or ``(H, W, 4)``: uint8, uint16, or floats in [0, 1]; what gives such an array, as
            a PyTorch tensor on the CPU does, is one. Arrays are RGB; of OpenCV's BGR give
            ``frame[..., ::-1]``. A Pillow image that has not been loaded is read as its file is.
        max_pixels: largest width × height that is decoded. Arrays are already in memory and not bounded.

    Raises:
        InputError: no such file, a folder, an empty, damaged or truncated file, not a picture, or an array of
            another shape, type or range.
        TooLargeError: one of more than ``max_pixels``.
    """
    if not isinstance(max_pixels, SupportsFloat):
        raise InputError(f"max_pixels is {max_pixels!r}, expected a number of pixels: leave it out")
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_opened(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(BytesIO(held_bytes(source)), "image", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        place = os.fsdecode(source)
        check_place(place)
        with _reading(Path(place)) as stream:
            if not stream.seekable():  # a pipe that has a name, such as /dev/stdin
                return _from_file_object(stream, max_pixels)
            return _decode(stream, place, max_pixels)
    if isinstance(source, ArrayLike):
        return _from_array(_as_array(source))
    if hasattr(source, "read"):
        return _from_file_object(source, max_pixels)
    several = "; for several call map" if isinstance(source, Iterable) else ""
    raise InputError(
        f"cannot read a picture from {type(source).__name__}; "
        f"expected a path, bytes, a binary file, a Pillow image or an array (H, W, 3){several}"
    )


def held_bytes(source: bytes | bytearray | memoryview) -> bytes:
    """The bytes of what is in memory, as they are now; a view's may lie apart.

    Raises:
        InputError: a view that was released.
    """
    try:
        return bytes(source)
    except ValueError:
        raise InputError("image is a memoryview that was released: give it before") from None


def check_place(name: str) -> None:
    """Refuse names that nobody means as a path.

    Raises:
        InputError: an empty one, as of a shell's variable, which would be the working folder; or an address.
    """
    if not name:
        raise InputError("a path is empty: check the variable that it came from")
    if _ADDRESS.match(name):
        remedy = "give its path" if name[:5].lower() == "file:" else "download it first"
        raise InputError(f"{shortened(name)} is an address, and no pictures are fetched: {remedy}")


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file at ``path``, open; what goes wrong in opening it as one line."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{shortened(path)} does not exist: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{shortened(path)} is a folder, expected a picture: name a file in it") from None
    except (OSError, ValueError) as error:
        name, reason = shortened(path), error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{name} cannot be read ({reason}): check its name and permissions") from None
    with stream:
        yield stream


def _from_file_object(source: Readable, max_pixels: int) -> Picture:
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) and given else "image"  # a descriptor's number tells nobody
    try:
        data: Any = source.read()
    except UnicodeDecodeError:
        data = ""
    except (OSError, ValueError) as error:
        if getattr(source, "closed", False):
            raise InputError(f"{name} is closed: give it while it is open") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{name} cannot be read ({reason}): check that it is open for reading") from None
    if isinstance(data, Awaitable):
        if isinstance(data, Coroutine):
            data.close()  # Python warns of one that is dropped
        raise InputError(f"{name} is an asynchronous file: give the bytes, await file.read()")
    if data == b"" and _is_read(source):
        raise InputError(f"{name} has been read to its end: call seek(0) first")
    if not isinstance(data, bytes):
        raise InputError(f"{name} gives text, expected bytes: open it with mode 'rb'")
    return _decode(BytesIO(data), name, max_pixels)


def _is_read(source: Any) -> bool:
    """Whether a file object that gives nothing more stands behind something."""
    try:
        return bool(source.tell() > 0)
    except (AttributeError, OSError, ValueError):
        return False  # a pipe


def _from_opened(image: Image.Image, max_pixels: int) -> Picture:
    """A Pillow image, whose pixels Pillow may not have read yet."""
    _check_pixels(image.size, "image", max_pixels)
    picture, several = None, None
    try:
        with _LOADING[(id(image) >> 4) % len(_LOADING)]():  # objects begin at multiples of 16
            if isinstance(image, ImageFile.ImageFile):
                several = _further(image) if image.tell() == 0 else None
                _check_unloaded(image, "image")
                scale_transparency(image)
                if has_sixteen_bits(image):
                    # Opened anew, since this one keeps 8 bits once it is loaded.
                    stream: Any = image.fp
                    with _opened(stream, "image", max_pixels) as anew:
                        anew.seek(image.tell())
                        picture = _from_sixteen_bits(anew, stream, "image", max_pixels)
            if picture is None:
                turn_resolution(image)
                image.load()
        picture = picture or _from_pillow(image, "image")
    except InputError:
        raise
    except DAMAGED as error:  # Pillow reads pixels when they are first needed
        raise InputError(
            f"image is damaged, truncated or closed ({error}): open it again, or get the file again"
        ) from None
    _warn_of_further(several, "image")
    return picture


def check_picture(path: Path) -> None:
    """Refuse a file that begins as no picture does; what stands behind its beginning is not read.

    A pipe that has a name is not looked at: what has been read of it is gone.

    Raises:
        InputError: as `read_image` does.
    """
    if path.exists() and not path.is_file():
        return
    with (
        _reading(path) as stream,
        _explained(stream, os.fspath(path)),
        _without_pillow_limit(),
        identified(stream),
    ):
        pass


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> Picture:
    with _explained(stream, name), _opened(stream, name, max_pixels) as image:
        several = _further(image)
        _check_unloaded(image, name)
        scale_transparency(image)
        wide = has_sixteen_bits(image)
        picture = _from_sixteen_bits(image, stream, name, max_pixels) if wide else _from_pillow(image, name)
    _warn_of_further(several, name)
    return picture


@contextmanager
def _explained(stream: BinaryIO, name: str) -> Iterator[None]:
    """Opening and reading a file with Pillow; what goes wrong as one line."""
    start = stream.read(64)
    if start.startswith(_JPEG_XL):
        raise InputError(f"{name} is a JPEG XL file, which is not read: save it as PNG or JPEG")
    if _HEIC.match(start) and not register_heic():
        raise InputError(f"{name} is a HEIC file, which needs pillow-heif: pip install 'decoupe[heic]'")
    stream.seek(0)
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        if stream.seek(0, os.SEEK_END) == 0:
            raise InputError(f"{name} is empty (0 bytes), expected a picture: get the file again") from None
        if _VIDEO.match(start):
            raise InputError(f"{name} is a video, not a picture: use decoupe video") from None
        if (kind := tiff_kind(stream)) is not None:
            raise InputError(
                f"{name} is a TIFF of {kind}, which cannot be read: save it as RGB of 8 or 16 bits a channel"
            ) from None
        raise InputError(
            f"{name} is not a picture that can be read: expected JPEG, PNG, WebP, TIFF or the like"
        ) from None
    except DAMAGED as error:
        raise InputError(f"{name} is damaged or truncated ({error}): get the file again") from None


def register_heic() -> bool:
    """Let Pillow read HEIC files; whether pillow-heif, which does it, is installed."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return False
    with pillow_lock():
        pillow_heif.register_heif_opener()
    return True


def _opened(stream: BinaryIO, name: str, max_pixels: int) -> ImageFile.ImageFile:
    with _without_pillow_limit():
        image = identified(stream)
        _check_pixels(image.size, name, max_pixels)
        if image.format == "TIFF":
            image.load_prepare()  # its memory, which Pillow makes later and then measures once more
            turn_resolution(image)
        return image


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    # Pillow's bound is a global that warns, then refuses, and cannot be raised for one file; decoupe checks
    # its own as soon as the header is read. The lock keeps two threads from restoring each other's None.
    with pillow_lock():
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def identified(stream: BinaryIO) -> ImageFile.ImageFile:
    """What Pillow makes of a file, by its header, as one of `FORMATS`.

    Raises:
        UnidentifiedImageError: it is none of them.
    """
    Image.preinit()
    try:
        return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        Image.init()  # knows the other formats, and takes a while
        return Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLargeError(
            f"{name} is {width}×{height}, {width * height:,} pixels; the cap is {max_pixels:,}: "
            "make it smaller, or raise the cap (max_pixels=, --max-pixels)"
        )
    if width * height == 0:
        raise InputError(f"{name} is {width}×{height}, expected at least one pixel")


def _check_unloaded(image: ImageFile.ImageFile, name: str) -> None:
    """Refuse an open file, not loaded yet, for which Pillow may start a program, or of which it reads noise.

    Raises:
        InputError: another format than `FORMATS`, or more than 8 bits in separate planes.
    """
    if image.tile and image.format not in FORMATS:
        raise InputError(f"{name} is a file of the format {image.format}: call its load() first")
    if image.tile and has_wide_planes(image):
        raise InputError(
            f"{name} is a TIFF that keeps each colour of more than 8 bits in a plane of its own: "
            "save it with interleaved pixels (PlanarConfiguration 1)"
        )


def _further(image: ImageFile.ImageFile) -> str | None:
    """What an open file has several of, frames or pages; None where it holds one picture."""
    if image.format == "GIF" and not image.tile:
        return None  # loaded: Pillow would look at the second frame, and undo what was drawn on the first
    try:
        return _ANIMATED.get(str(image.format)) if getattr(image, "is_animated", False) else None
    except DAMAGED:
        return None  # the second one is damaged, and nobody looks at it


def _warn_of_further(several: str | None, name: str) -> None:
    if several is not None:
        warn(f"{name} has several {several}: the first is read", FramesWarning)


def _from_sixteen_bits(image: ImageFile.ImageFile, stream: BinaryIO, name: str, max_pixels: int) -> Picture:
    frame = image.tell()
    image.load()
    high = np.asarray(upright(image)).astype(np.uint16)
    stream.seek(0)
    with _opened(stream, name, max_pixels) as again:
        again.seek(frame)
        choose_low_bytes(again)
        again.load()
        values = high << 8 | np.asarray(upright(again))
    if (clear := image.info.get("transparency")) is not None:  # a PNG's one colour that is transparent
        shown = (values != np.array(clear, np.uint16)).any(axis=2, keepdims=True)
        values = np.concatenate([values, shown * np.uint16(65535)], axis=2)
    picture = _from_array(values, name)
    profile = rgb_profile(image.info.get("icc_profile"))
    return replace(picture, icc_profile=profile, metadata=metadata_of(image))


def _from_pillow(image: Image.Image, name: str) -> Picture:
    image.load()
    metadata = metadata_of(image)
    image = upright(image)
    profile = image.info.get("icc_profile")
    if (wide := wide_grey(image, name)) is not None:
        toned = grey_in_srgb(wide, profile)
        if (clear := image.info.get("transparency")) is not None:  # a PNG's one value that is transparent
            shown = (wide != clear).astype(np.uint16) * np.uint16(65535)
            toned = np.dstack([toned, toned, toned, shown])
        return replace(_from_array(toned, name), metadata=metadata)
    if image.mode == "La":
        image = image.convert("LA")  # the one conversion that Pillow has for it
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if image.mode in ("L", "LA"):
            grey, profile = to_rgb(image.getchannel("L"), profile)
            rgba = Image.merge("RGBA", (*grey.split(), rgba.getchannel("A")))
        opacity = np.asarray(rgba.getchannel("A"))
        if opacity.min() < 255:
            under = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
            rgb = Image.alpha_composite(under, rgba).convert("RGB")
            return Picture(np.asarray(rgb), unit(opacity), rgb_profile(profile), name, metadata)
        image = rgba
    rgb, profile = to_rgb(image, profile)
    return Picture(np.asarray(rgb), None, profile, name, metadata)


def wide_grey(image: Image.Image, name: str) -> npt.NDArray[np.uint16] | None:
    """The values of a grey image of more than 8 bits, floats from 0 to 1 scaled; None where it is none.

    Raises:
        InputError: integers that 16 bits do not hold, or floats of another range.
    """
    if not (image.mode.startswith("I;16") or image.mode in ("I", "F")):
        return None
    values = tiff_grey(image)
    if image.mode == "F":
        return _integers(values, name).astype(np.uint16)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"{name} holds integers from {values.min()} to {values.max()}, expected 0 to 65535: "
            "scale it to 16 bits"
        )
    return values.astype(np.uint16)


def _as_array(source: ArrayLike) -> npt.NDArray[Any]:
    """What is no array of NumPy's and gives one."""
    try:
        return np.asarray(source)
    except (TypeError, RuntimeError) as error:  # a tensor on a GPU, one with a gradient, of bfloat16
        kind, reason = type(source).__name__, str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"the {kind} gives no array ({reason}): make it one of NumPy's first") from None


def _from_array(array: npt.NDArray[Any], name: str = "array") -> Picture:
    array = np.asarray(array)  # no matrix, which has two axes whatever becomes of it
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        remedy = ": use array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise InputError(f"{name} has shape {array.shape}, expected (H, W), (H, W, 3) or (H, W, 4){remedy}")
    if 0 in array.shape:
        raise InputError(f"{name} has shape {array.shape}, expected at least one pixel")
    values = _integers(array[..., np.newaxis] if array.ndim == 2 else array, name)  # (H, W, 1 | 3 | 4)
    if values.shape[2] == 4 and values[..., 3].min() == np.iinfo(values.dtype).max:
        values = values[..., :3]
    colour = values[..., :3] if values.shape[2] > 1 else np.repeat(values, 3, axis=2)  # (H, W, 3)
    if values.shape[2] < 4:
        # A copy: the caller may reuse the array for the next picture before this one's matte is done with.
        return Picture(np.array(colour, order="C"), None, None, name)
    opacity = unit(values[..., 3])
    grey = GREY * (np.iinfo(values.dtype).max // 255)
    flat = grey + (colour.astype(np.float32) - grey) * opacity[..., np.newaxis]
    return Picture(np.rint(flat).astype(values.dtype), opacity, None, name)


def _integers(array: npt.NDArray[Any], name: str) -> Pixels:
    """Array values as uint8 or uint16; floats in [0, 1] become uint16."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array.astype(np.uint16, copy=False)  # whatever the order of their bytes
    if not np.issubdtype(array.dtype, np.floating):
        remedy = "array * numpy.uint8(255)" if array.dtype == np.bool_ else "array.astype(numpy.uint8)"
        raise InputError(
            f"{name} is of type {array.dtype}, expected uint8, uint16 or floats in [0, 1]: use {remedy}"
        )
    least, most = float(array.min()), float(array.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError(f"{name} holds NaN or infinity, expected floats in [0, 1]: use numpy.nan_to_num")
    # Resampled pictures overshoot by rounding errors; more than that is another range.
    if least < -1e-3 or most > 1 + 1e-3:
        raise InputError(
            f"{name} holds floats from {least:g} to {most:g}, expected [0, 1]: "
            "divide by the largest possible value"
        )
    wide: npt.NDArray[np.uint16] = np.rint(
        np.multiply(np.clip(array, 0, 1), 65535, dtype=np.result_type(array, np.float32))
    ).astype(np.uint16)
    return wide
