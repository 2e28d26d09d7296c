from __future__ import annotations

import gc
import os
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageCms, TiffImagePlugin
from PIL.ExifTags import Base

from decoupe.errors import InputError
from decoupe.inference.pictures import GREY, Picture, read_image
from decoupe.inference.png import encode_png
from decoupe.inference.preprocess import (
    from_network,
    to_network,
)
from decoupe.notices import FramesWarning
from inference import icc
from inference.tiny import KEEP

RAMP = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
TAGS = {tag.name: int(tag) for tag in Base}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing: decoding it fails, so it must be refused before."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def grey_png(bits: int, rows: list[bytes], clear: bytes, colour: int = 0) -> bytes:
    """A PNG of packed rows, each `bits` deep, one value of which is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = len(rows[0]) * 8 // bits // (3 if colour else 1)
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", clear), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bare_tiff(values: np.ndarray, order: str) -> bytes:
    """An uncompressed RGB TIFF of 16 bits a channel, turned by its orientation tag in no way."""
    height, width, _ = values.shape
    tags = {256: width, 257: height, 258: 0, 259: 1, 262: 2, 273: 0, 277: 3, 278: height, 279: values.nbytes}
    body = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: body, 273: body + 6}
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags.items():
        kind, count = (3, 3) if tag == 258 else (4, 1)
        directory += struct.pack(f"{order}HHII", tag, kind, count, value)
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return start + directory + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + values.tobytes()


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "ramp.png"
    image = Image.fromarray(RAMP)
    image.save(path)
    with path.open("rb") as stream:
        for source in (path, str(path), path.read_bytes(), stream, image, RAMP, read_image(RAMP)):
            picture = read_image(source)
            np.testing.assert_array_equal(picture.pixels, RAMP)
            assert picture.opacity is None
    assert read_image(path).source == str(path)


def test_arrays_are_copied() -> None:
    array = RAMP.copy()
    picture = read_image(array)
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, RAMP)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    stored = Image.new("RGB", (40, 20), "white")
    stored.paste("red", (0, 0, 20, 10))  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, quality=95)
    # Counter-clockwise quarter turns; then mirrored or not.
    turns, mirrored = {
        1: (0, 0),
        2: (0, 1),
        3: (2, 0),
        4: (2, 1),
        5: (-1, 1),
        6: (-1, 0),
        7: (1, 1),
        8: (1, 0),
    }[orientation]
    expected = np.rot90(np.asarray(stored), turns)
    expected = expected[:, ::-1] if mirrored else expected
    for source in (data, Image.open(BytesIO(data))):
        picture = read_image(source)
        assert picture.size == expected.shape[:2]
        assert np.abs(picture.pixels.astype(int) - expected).mean() < 8


def test_odd_metadata_do_not_keep_a_picture_from_being_turned() -> None:
    """Pillow reads such metadata and cannot write them again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (40, 20), "white"), "JPEG", exif=exif)
    opened = Image.open(BytesIO(data))
    opened.getexif()[0x0103] = 2**40  # a kind of compression, of 16 bits
    with pytest.raises(struct.error):
        opened.getexif().tobytes()
    assert read_image(opened).size == (40, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_eight_bit_modes(mode: str) -> None:
    plain = Image.fromarray(RAMP)
    image = plain.convert("P").convert("PA") if mode == "PA" else plain.convert(mode)
    picture = read_image(image)
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))


def test_lab_is_converted_by_its_meaning() -> None:
    to_lab = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 60, 30)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert to_lab is not None
    assert np.abs(read_image(to_lab).pixels.astype(int) - (200, 60, 30)).max() <= 4


def test_cmyk_and_grey_go_through_their_profile() -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    printed = read_image(encoded(cyan, "TIFF", icc_profile=icc.green_cyan()))
    red, green, blue = printed.pixels[0, 0].astype(int)
    assert green > red + 50
    assert green > blue + 50
    assert printed.icc_profile is None
    assert read_image(encoded(cyan, "TIFF")).pixels[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (np.arange(256, dtype=np.uint8), "PNG"),
        (np.arange(0, 65536, 17, dtype=np.uint16), "PNG"),
        (np.arange(0, 65536, 17, dtype=np.uint16), "TIFF"),
    ],
)
def test_grey_goes_through_its_profile(values: np.ndarray, form: str) -> None:
    whole = np.iinfo(values.dtype).max
    image = Image.fromarray(values[None].repeat(2, 0))
    picture = read_image(encoded(image, form, icc_profile=icc.linear_grey()))
    light = values / whole
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert picture.pixels.dtype == values.dtype
    assert picture.icc_profile is None
    assert np.abs(picture.pixels[0] / whole - shown[:, None]).max() < 0.51 / 255
    assert (picture.pixels[0, [0, -1]] == [[0], [whole]]).all()
    foreign = read_image(encoded(image, form, icc_profile=icc.display_p3()))
    assert np.array_equal(foreign.pixels[0, :, 0], values)


def test_grey_with_a_transparent_value_goes_through_its_profile() -> None:
    image = Image.fromarray(np.array([[0, 64, 255]], np.uint8))
    picture = read_image(encoded(image, transparency=255, icc_profile=icc.linear_grey()))
    assert picture.pixels[0, :, 0].tolist() == [0, 137, GREY]  # IEC 61966-2-1
    assert picture.icc_profile is None
    assert picture.opacity is not None
    assert picture.opacity.tolist() == [[1, 1, 0]]


def test_grey_with_transparency_goes_through_its_profile() -> None:
    half = read_image(encoded(Image.new("LA", (8, 8), (128, 254)), "PNG", icc_profile=icc.linear_grey()))
    assert abs(int(half.pixels[0, 0, 0]) - 188) <= 2


def test_rgb_profile_is_kept_and_a_broken_one_dropped() -> None:
    image = Image.fromarray(RAMP)
    assert read_image(encoded(image, icc_profile=SRGB)).icc_profile == SRGB
    broken = read_image(encoded(image, icc_profile=b"no profile at all"))
    assert broken.icc_profile is None
    np.testing.assert_array_equal(broken.pixels, RAMP)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 255, 256], [32768, 40000, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        picture = read_image(encoded(Image.fromarray(values), kind))
        assert picture.pixels.dtype == np.uint16
        np.testing.assert_array_equal(picture.pixels[..., 1], values)
    flat = Picture(np.full((50, 40, 3), 32768, np.uint16))
    wanted = (32768 / 65535 - np.array(KEEP.mean)) / KEEP.std
    got = to_network(flat, (16, 16), KEEP)
    np.testing.assert_allclose(got, np.broadcast_to(wanted[:, None, None], (3, 16, 16)), rtol=1e-5)
    np.testing.assert_array_equal(read_image(Image.fromarray(values.astype(np.int32))).pixels[..., 0], values)
    with pytest.raises(InputError, match=r"70000, expected 0 to 65535"):
        read_image(Image.fromarray(np.array([[70000]], np.int32)))


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_files(channels: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (20, 31, channels), dtype=np.uint16)
    values[..., 3:] = 65535
    picture = read_image(encode_png(values, SRGB))
    np.testing.assert_array_equal(picture.pixels, values[..., :3])
    assert picture.icc_profile == SRGB
    # An independent reader agrees on the high bytes.
    with Image.open(BytesIO(encode_png(values))) as image:
        np.testing.assert_array_equal(np.asarray(image), values >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff(order: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(f"{order}u2")
    np.testing.assert_array_equal(read_image(bare_tiff(values, order)).pixels, values)


def test_a_pillow_image_of_sixteen_bits_keeps_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), np.uint16)
    path = tmp_path / "wide.png"
    path.write_bytes(encode_png(values, SRGB))
    for file in (path, BytesIO(bare_tiff(values.astype("<u2"), "<"))):
        with Image.open(file) as image:
            for _ in range(2):  # what has been read before is read alike
                np.testing.assert_array_equal(read_image(image).pixels, values)
            assert read_image(image).icc_profile == image.info.get("icc_profile")
            np.testing.assert_array_equal(np.asarray(image), values >> 8)


def test_the_chosen_page_of_sixteen_bits_is_read() -> None:
    pages = [np.full((4, 5, 3), value, np.uint16) for value in (1000, 60001)]
    first, second = (bare_tiff(page, "<") for page in pages)
    # The second directory, whose offsets count from the second file's start, follows the first file.
    moved = bytearray(second[8:])
    (count,) = struct.unpack_from("<H", moved)
    for entry in range(count):
        tag, _, _, value = struct.unpack_from("<HHII", moved, 2 + 12 * entry)
        if tag in (258, 273):
            struct.pack_into("<I", moved, 2 + 12 * entry + 8, value + len(first) - 8)
    both = bytearray(first + moved)
    struct.pack_into("<I", both, 8 + 2 + 12 * count, len(first))
    opened = Image.open(BytesIO(both))
    opened.seek(1)
    np.testing.assert_array_equal(read_image(opened).pixels, pages[1])


def described_tiff(**tags: object) -> bytes:
    """A TIFF of 2×2 pixels that says so of itself, with room enough for its pixels."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    plain = {"ImageWidth": 2, "ImageLength": 2, "Compression": 1, "RowsPerStrip": 2}
    for name, value in {**plain, "PhotometricInterpretation": 2, "StripOffsets": 0, **tags}.items():
        directory[TAGS[name]] = value
    directory[TAGS["StripByteCounts"]] = 256
    buffer = BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + bytes(256)


def test_wide_colours_in_separate_planes_are_refused() -> None:
    """Pillow reads them, and takes the bytes of a value for two values."""
    data = described_tiff(
        BitsPerSample=(16, 16, 16), SamplesPerPixel=3, PlanarConfiguration=2, StripOffsets=(8, 16, 24)
    )
    for source in (data, Image.open(BytesIO(data))):
        with pytest.raises(InputError, match=r"a plane of its own: save it with interleaved pixels"):
            read_image(source)


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        (
            {"BitsPerSample": (32,) * 3, "SamplesPerPixel": 3, "SampleFormat": (3,) * 3},
            "3 channels of 32-bit floats",
        ),
        (
            {"BitsPerSample": (64,), "SampleFormat": (3,), "PhotometricInterpretation": 1},
            "1 channel of 64-bit floats",
        ),
        ({"BitsPerSample": (32,) * 3, "SamplesPerPixel": 3}, "3 channels of 32 bits"),
        (
            {
                "BitsPerSample": (16, 16),
                "SamplesPerPixel": 2,
                "ExtraSamples": 2,
                "PhotometricInterpretation": 1,
            },
            "2 channels of 16 bits",
        ),
    ],
)
def test_a_tiff_of_other_depths_is_called_one(tags: dict[str, object], kind: str) -> None:
    with pytest.raises(InputError, match=f"image is a TIFF of {kind}, which cannot be read: save it as RGB"):
        read_image(described_tiff(**tags))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_every_width(kind: type) -> None:
    picture = read_image(np.array([[0, 0.5, 1]], kind))
    assert picture.pixels[0, :, 0].tolist() == [0, 32768, 65535]


def test_float_pictures_are_in_zero_to_one() -> None:
    np.testing.assert_array_equal(read_image(np.array([[0.0, 0.5, 1.0]])).pixels[0, :, 0], [0, 32768, 65535])
    assert read_image(Image.fromarray(np.full((2, 2), 1.0, np.float32))).pixels.max() == 65535
    with pytest.raises(InputError, match=r"floats from 0 to 255, expected \[0, 1\]: divide"):
        read_image(np.array([[0.0, 255.0]]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "array"])
def test_transparent_parts_hide_their_colour_and_stay_transparent(mode: str) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (200, 200, 200, 255)
    pixels[:, 3:] = (250, 250, 250, 0)
    image = Image.fromarray(pixels)
    if mode == "P":
        data = encoded(image.quantize())
    else:
        data = encoded(image.convert(mode if mode != "array" else "RGBA"))
    picture = read_image(pixels if mode == "array" else data)
    assert picture.opacity is not None
    np.testing.assert_array_equal(picture.opacity, np.asarray(image)[..., 3] / np.float32(255))
    assert (picture.pixels[:, 3:] == GREY).all()
    assert (picture.pixels[:, :3] == 200).all()
    alpha = from_network(np.ones((8, 8), np.float32), picture)
    np.testing.assert_array_equal(alpha, picture.opacity)


def test_a_value_that_is_transparent_in_grey_of_sixteen_bits() -> None:
    grey = np.array([[60000, 60001, 7]], np.uint16)
    picture = read_image(encoded(Image.fromarray(grey), transparency=60000))
    assert picture.opacity is not None
    assert picture.opacity.tolist() == [[0, 1, 1]]
    assert picture.pixels[0, 1:, 0].tolist() == [60001, 7]


@pytest.mark.parametrize(
    ("kind", "several"), [("GIF", "frames"), ("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")]
)
def test_the_first_frame_is_read_and_the_others_are_told(kind: str, several: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(FramesWarning, match=f"image has several {several}: the first is read"):
        picture = read_image(data)
    assert (picture.pixels == (255, 0, 0)).all()


def test_frames_of_a_pillow_image_are_told_and_the_chosen_one_is_read() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    opened = Image.open(BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    with pytest.warns(FramesWarning, match="image has several frames: the first is read"):
        assert read_image(opened).pixels[0, 0].tolist() == [255, 0, 0]
    opened.seek(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(opened).pixels[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_what_was_drawn_on_a_frame_stays(kind: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    opened = Image.open(BytesIO(encoded(frames[0], kind, save_all=True, append_images=frames[1:])))
    opened.load()
    opened.putpixel((1, 1), 1 if opened.mode == "P" else (9, 8, 7))
    drawn = np.asarray(opened.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FramesWarning)
        np.testing.assert_array_equal(read_image(opened).pixels, drawn)


def test_frames_are_told_where_decoupe_is_called() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for source in (data, Image.open(BytesIO(data))):
        with pytest.warns(FramesWarning) as told:
            read_image(source)
        assert told[0].filename == __file__


def test_a_damaged_second_frame_does_not_matter() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    second = whole.rindex(b"\x2c")  # an image descriptor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FramesWarning)
        assert read_image(whole[: second + 6]).pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5, 6), np.uint8), r"shape \(3, 5, 6\), expected \(H, W\).*transpose\(1, 2, 0\)"),
        (np.zeros((5,), np.uint8), r"shape \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (np.zeros((5, 5, 3), np.int64), "type int64, expected uint8, uint16 or floats"),
        (np.full((5, 5, 3), np.nan), "NaN or infinity"),
        (np.zeros((5, 5), bool), "type bool"),
    ],
)
def test_unusable_arrays(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(array)


def test_tensors_and_other_orders_of_bytes_are_arrays() -> None:
    torch = pytest.importorskip("torch")
    wide = np.arange(5 * 4 * 3, dtype=np.uint16).reshape(5, 4, 3) * 999
    exact = read_image(wide).pixels
    np.testing.assert_array_equal(read_image(wide.astype(">u2")).pixels, exact)
    np.testing.assert_array_equal(read_image(torch.from_numpy(wide)).pixels, exact)
    with pytest.raises(InputError, match=r"use array.transpose\(1, 2, 0\)"):
        read_image(torch.zeros(3, 8, 8))
    with pytest.raises(InputError, match=r"the Tensor gives no array \(.*grad.*make it one of NumPy's first"):
        read_image(torch.zeros(8, 8, 3, requires_grad=True))


@pytest.mark.parametrize(
    ("kind", "remedy"), [(bool, r"array \* numpy.uint8\(255\)"), (np.int32, "array.astype")]
)
def test_what_an_array_of_another_type_is_to_be_made_of(kind: type, remedy: str) -> None:
    """As 8 bits, True would be nearly black."""
    with pytest.raises(InputError, match=f"use {remedy}"):
        read_image(np.ones((4, 4), kind))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_an_opaque_channel_is_none(kind: type) -> None:
    most = 1 if kind is np.float32 else np.iinfo(kind).max
    pixels = np.full((4, 6, 4), most, kind)
    assert read_image(pixels).opacity is None
    pixels[0, 0, 3] = 0
    assert read_image(pixels).opacity is not None
    wide = np.full((4, 6, 4), 65535, np.uint16)
    assert read_image(encode_png(wide)).opacity is None


def test_a_file_that_has_been_read_is_told_so() -> None:
    file = BytesIO(b"something")
    file.read()
    with pytest.raises(InputError, match=r"read to its end: call seek\(0\) first"):
        read_image(file)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("", "a path is empty: check the variable"),
        ("https://example.org/a.jpg", "is an address, and no pictures are fetched: download it first"),
        ("HTTPS://example.org/a.jpg", "HTTPS://example.org/a.jpg is an address"),
        ("s3://bucket/a.jpg", "is an address, and no pictures are fetched: download it first"),
        (Path("s3://bucket/a.jpg"), "s3:/bucket/a.jpg is an address"),
        ("file:///tmp/a.jpg", "is an address, and no pictures are fetched: give its path"),
        ("C://a.jpg", "does not exist"),
        ("a:/b.jpg", "does not exist"),
    ],
)
def test_what_nobody_means_as_a_path(name: str | Path, line: str) -> None:
    with pytest.raises(InputError, match=line):
        read_image(name)


def test_a_view_of_bytes_that_lie_apart_and_one_that_was_released() -> None:
    data = encoded(Image.fromarray(RAMP))
    view = memoryview(b"".join(bytes((value, 0)) for value in data))[::2]
    np.testing.assert_array_equal(read_image(view).pixels, RAMP)
    view.release()
    with pytest.raises(InputError, match="image is a memoryview that was released"):
        read_image(view)


class Upload:
    """A file as web frameworks hand it over."""

    async def read(self) -> bytes:
        return b""


def test_an_asynchronous_file_is_told_so() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that was never awaited
        with pytest.raises(InputError, match=r"an asynchronous file: give the bytes, await file.read\(\)"):
            read_image(Upload())
        gc.collect()


@pytest.mark.parametrize("name", [None, 7])
def test_files_without_a_name_are_called_image(name: object) -> None:
    """Temporary files have none, or the number of their descriptor."""

    class File(BytesIO):
        pass

    file = File(encoded(Image.new("RGB", (2, 2)), "PNG"))
    file.name = name  # type: ignore[attr-defined]
    assert read_image(file).source == "image"


def test_a_path_of_bytes_and_a_matrix(tmp_path: Path) -> None:
    class Place:
        def __fspath__(self) -> bytes:
            return bytes(tmp_path / "a.png")

    Image.new("RGB", (2, 3)).save(tmp_path / "a.png")
    assert read_image(Place()).size == (3, 2)  # type: ignore[arg-type]
    assert read_image(np.zeros((3, 2), np.uint8).view(np.matrix)).size == (3, 2)


def test_a_long_name_is_not_repeated_whole() -> None:
    for start in ("data:image/jpeg;base64,", "https://example.org/"):
        with pytest.raises(InputError) as told:
            read_image(start + "A" * 100_000)
        assert len(str(told.value)) < 400


def fake_ghostscript(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that Pillow starts for EPS; the file that it leaves where it was started."""
    started = folder / "started"
    for name in ("gs", "gswin64c"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho $* >> {started}\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


def test_no_program_is_started_for_what_only_claims_to_be_a_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = fake_ghostscript(tmp_path, monkeypatch)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(Image.fromarray(RAMP), "EPS"))
    with pytest.raises(InputError, match=r"photo\.jpg is not a picture that can be read"):
        read_image(photo)
    told = r"image is a file of the format EPS: call its load\(\) first"
    with Image.open(photo) as image, pytest.raises(InputError, match=told):
        read_image(image)
    assert not started.exists()


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA"]
)
def test_every_format_that_is_named_is_read(kind: str) -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 60, 30)), kind)
    for source in (data, Image.open(BytesIO(data))):
        assert np.abs(read_image(source).pixels.astype(int) - (200, 60, 30)).max() <= 20


def test_unusable_sources(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    for source, message in (
        (tmp_path / "missing.jpg", "missing.jpg does not exist"),
        (tmp_path, "is a folder"),
        (empty, r"empty.jpg is empty \(0 bytes\)"),
        (text, "text.jpg is not a picture"),
        (b"", "image is empty"),
        (b"\xff\x0a" + bytes(80), "image is a JPEG XL file, which is not read: save it as PNG or JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(80), "image is a JPEG XL file"),
        (f"{tmp_path}/nul\0", "cannot be read"),
        (None, "cannot read a picture from NoneType"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_image(source)
        assert "\n" not in str(caught.value)
    text.write_bytes(b"\xff\xd8\xff")  # as a JPEG begins, which is no UTF-8
    with text.open(encoding="utf-8") as stream, pytest.raises(InputError, match="gives text, expected bytes"):
        read_image(stream)
    with pytest.raises(InputError, match=r"text.jpg is closed: give it while it is open"):
        read_image(stream)


def test_a_pipe_that_has_a_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"  # as a shell's <(…) and /dev/stdin
    os.mkfifo(pipe)
    picture = np.full((4, 5, 3), 7, np.uint8)
    for data in (encoded(Image.fromarray(picture), "PNG"), b"text"):
        writer = threading.Thread(target=pipe.write_bytes, args=(data,))
        writer.start()
        if data == b"text":
            with pytest.raises(InputError, match="pipe is not a picture"):
                read_image(pipe)
        else:
            assert np.array_equal(read_image(pipe).pixels, picture)
        writer.join()


def test_a_pillow_image_whose_file_is_damaged_or_closed() -> None:
    data = encoded(Image.effect_noise((64, 64), 90))
    closed = Image.open(BytesIO(data))
    closed.close()
    for image in (Image.open(BytesIO(data[:2000])), closed):
        with pytest.raises(InputError, match=r"image is damaged, truncated or closed .*: open it again"):
            read_image(image)


def test_threads_may_read_one_pillow_image() -> None:
    data = encoded(Image.effect_noise((256, 256), 90))

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0.0005)  # gives the other thread its turn
            return super().read(size)

    with ThreadPoolExecutor(2) as pool:
        for picture in pool.map(read_image, [Image.open(Slow(data))] * 2):
            np.testing.assert_array_equal(picture.pixels, read_image(data).pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.01, 0.9))
def test_truncated_files(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on broken TIFF tags
        with pytest.raises(InputError):
            read_image(data[: int(len(data) * share)])


def test_too_many_pixels_are_refused_before_decoding() -> None:
    huge = empty_png(20000, 20000)
    with pytest.raises(InputError, match=r"20000×20000, 400,000,000 pixels; the cap is 178,956,970"):
        read_image(huge)
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(huge, max_pixels=400_000_000)
    with pytest.raises(InputError, match="cap is 47"):
        read_image(Image.fromarray(RAMP), max_pixels=47)
    # Between Pillow's warning and decoupe's cap: decoded without a warning, and Pillow's limit stays.
    limit = Image.MAX_IMAGE_PIXELS
    assert limit is not None
    with pytest.raises(InputError, match="damaged or truncated"):
        read_image(empty_png(10000, limit // 10000 + 1))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_pillow_limit_survives_threads() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.fromarray(RAMP))
    threads = [threading.Thread(target=lambda: [read_image(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS


def grey_tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """An uncompressed grey TIFF of one row, of 12 or 16 bits."""
    data = values.astype("<u2").tobytes()
    if bits == 12:
        data = int("".join(f"{value:012b}" for value in values), 2).to_bytes(len(values) * 12 // 8, "big")
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    entries = {256: len(values), 257: 1, 258: (bits,), 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1}
    for tag, value in {**entries, 279: len(data)}.items():
        tags[tag] = value
    buffer = BytesIO()
    tags.save(buffer)
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("bits", "photometric", "given", "read"),
    [
        (16, 1, [0, 1000, 60000, 65535], [0, 1000, 60000, 65535]),
        (16, 0, [0, 1000, 60000, 65535], [65535, 64535, 5535, 0]),  # 0 is white
        (12, 1, [0, 2048, 4000, 4095], [0, 32775, 64014, 65535]),
    ],
)
def test_grey_tiffs_of_more_than_8_bits(
    bits: int, photometric: int, given: list[int], read: list[int]
) -> None:
    picture = read_image(grey_tiff(np.array(given), bits, photometric))
    assert picture.pixels.dtype == np.uint16
    assert picture.pixels[0, :, 1].tolist() == read


@pytest.mark.parametrize(
    ("bits", "row"), [(1, b"\x40"), (2, b"\x1b"), (4, b"\x0f\x41"), (8, b"\0\1\x80\xff")]
)
def test_a_transparent_grey_of_few_bits(bits: int, row: bytes) -> None:
    data = grey_png(bits, [row], b"\0\1")
    picture = read_image(data)
    assert picture.opacity is not None
    opened = Image.open(BytesIO(data))
    for again in (read_image(opened), read_image(opened)):
        assert again.opacity is not None
        np.testing.assert_array_equal(again.opacity, picture.opacity)
    packed = np.unpackbits(np.frombuffer(row, np.uint8)).reshape(-1, bits)
    values = packed @ (1 << np.arange(bits)[::-1])
    assert picture.opacity[0].tolist() == (values != 1).astype(float).tolist()


def test_a_transparent_colour_of_16_bits() -> None:
    row = np.array([4660, 4661, 4662, 4660, 4661, 4663, 65535, 0, 9], ">u2")
    picture = read_image(grey_png(16, [row.tobytes()], row[:3].tobytes(), colour=2))
    assert picture.pixels.dtype == np.uint16
    assert picture.opacity is not None
    assert picture.opacity[0].tolist() == [0, 1, 1]
    assert picture.pixels[0, 1:].tolist() == [[4660, 4661, 4663], [65535, 0, 9]]


def test_a_large_tiff_obeys_the_cap_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow measures a TIFF twice: when it is opened, and when its memory is made."""
    buffer = BytesIO()
    Image.new("1", (400, 300), 1).save(buffer, "TIFF", compression="group4")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_image(buffer.getvalue(), max_pixels=400 * 300).size == (300, 400)
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(InputError, match="the cap is 119,999"):
        read_image(buffer.getvalue(), max_pixels=400 * 300 - 1)
