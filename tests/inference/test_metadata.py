"""What a photograph says of itself: kept in what is made of it, but for what is no longer true."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from decoupe.commands.cut_files import Wanted
from decoupe.errors import OutputError
from decoupe.inference.media import encode, encode_layers
from decoupe.inference.metadata import NO_METADATA, Metadata, as_written
from decoupe.inference.pictures import read_image
from decoupe.inference.results import Matte
from inference import icc

BASE, EXIF, PLACE = ExifTags.Base, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo


def photograph(path: Path, orientation: int = 1) -> Path:
    """A JPEG of 80×60 as a camera writes it: with a thumbnail and its own size in EXIF."""
    exif = Image.Exif()
    exif[BASE.Make], exif[BASE.Artist], exif[BASE.Copyright] = "Cam", "Ada", "© Ada"
    exif[BASE.Orientation] = orientation
    exif[BASE.ImageWidth] = 80
    inner = {BASE.ExposureTime: 0.01, BASE.ExifImageWidth: 80, BASE.DateTimeOriginal: "2024:01:02 03:04:05"}
    exif.get_ifd(EXIF).update({int(tag): value for tag, value in inner.items()})
    exif.get_ifd(PLACE).update({1: "N", 2: (48.0, 1.0, 2.0)})
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, dpi=(300, 150))
    return path


def matte_of(path: Path | bytes) -> Matte:
    picture = read_image(path)
    alpha = np.linspace(0, 1, picture.size[0] * picture.size[1], dtype=np.float32).reshape(picture.size)
    return Matte(alpha, picture.pixels, picture.icc_profile, picture.source, picture.metadata)


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".jpg"])
def test_camera_time_place_and_rights_are_kept(suffix: str, tmp_path: Path) -> None:
    matte = matte_of(photograph(tmp_path / "photo.jpg", orientation=6))
    data = encode(matte.over("white"), suffix) if suffix == ".jpg" else matte.encode(suffix)
    image = opened(data)
    exif = image.getexif()
    assert image.size == (60, 80)
    assert (exif[BASE.Make], exif[BASE.Artist]) == ("Cam", "Ada")
    assert exif.get_ifd(EXIF)[BASE.DateTimeOriginal] == "2024:01:02 03:04:05"
    assert exif.get_ifd(PLACE)[1] == "N"
    gone = {BASE.Orientation, BASE.ImageWidth}
    assert not gone & set(exif)
    assert BASE.ExifImageWidth not in exif.get_ifd(EXIF)
    told = read_image(data).metadata
    assert told.dpi == pytest.approx((150, 300), abs=0.1)  # turned with the picture
    assert told.exif == matte.metadata.exif


def test_the_resolution_of_a_tiff_is_turned_with_it() -> None:
    """Pillow turns a TIFF's pixels itself, and leaves its resolution as it was."""
    exif, buffer = Image.Exif(), BytesIO()
    exif[BASE.Orientation] = 6
    Image.new("RGB", (80, 60)).save(buffer, "TIFF", exif=exif, dpi=(300, 150))
    image = Image.open(buffer)
    for source in (buffer.getvalue(), image, image):
        picture = read_image(source)
        assert picture.size == (80, 60)
        assert picture.metadata.dpi == (150, 300)


def test_the_resolution_of_a_heic_photograph_is_kept() -> None:
    heif = pytest.importorskip("pillow_heif")
    exif, buffer = Image.Exif(), BytesIO()
    exif[BASE.XResolution] = exif[BASE.YResolution] = 300.0
    heif.from_pillow(Image.new("RGB", (80, 60))).save(buffer, exif=exif.tobytes())
    assert read_image(buffer.getvalue()).metadata.dpi == (300, 300)


def test_what_the_maker_noted_is_left_out(tmp_path: Path) -> None:
    """Some keep a whole picture there, with the background; places in the old file are wrong in a new one."""
    exif = Image.Exif()
    exif[BASE.Make] = "Cam"
    exif.get_ifd(EXIF).update({int(BASE.MakerNote): b"preview", int(BASE.LensMake): "Glass"})
    exif.get_ifd(EXIF)[ExifTags.IFD.Interop] = {1: "R98"}
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.jpg", exif=exif)
    assert b"preview" in (tmp_path / "photo.jpg").read_bytes()
    data = matte_of(tmp_path / "photo.jpg").encode(".png")
    assert b"preview" not in data
    kept = opened(data).getexif()
    assert dict(kept.get_ifd(EXIF)) == {int(BASE.LensMake): "Glass"}
    assert not kept.get_ifd(ExifTags.IFD.Interop)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".jpg", ".tif", "16 .png", "16 .tif", "layers"])
def test_text_of_any_language_stays_as_it_is(suffix: str, tmp_path: Path) -> None:
    """Cameras and editors write UTF-8, or Latin-1, where EXIF knows ASCII alone."""
    exif = Image.Exif()
    exif[BASE.Copyright], exif[BASE.Artist] = "© Müller".encode(), "José".encode("latin-1")
    owner = int(BASE.CameraOwnerName)
    exif.get_ifd(EXIF).update(as_written({owner: "宮崎".encode().decode("latin-1")}))
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.jpg", exif=exif, dpi=(300, 300))
    assert "宮崎".encode() in (tmp_path / "photo.jpg").read_bytes()
    matte = matte_of(tmp_path / "photo.jpg")
    if suffix.startswith("16"):
        matte = replace(matte, image=matte.image.astype(np.uint16) * 257)
    if suffix == "layers":
        data = encode_layers(matte.layers())
    else:
        data = (
            encode(matte.over("white"), suffix)
            if suffix == ".jpg"
            else matte.encode(suffix.removeprefix("16 "))
        )
    again = [] if suffix == "layers" else [matte_of(data).encode(".png")]
    for written in (data, *again):
        told = opened(written).getexif()
        texts = {tag: told[tag].encode("latin-1") for tag in (BASE.Copyright, BASE.Artist)}
        assert texts == {BASE.Copyright: "© Müller".encode(), BASE.Artist: "José".encode("latin-1")}
        if "tif" not in suffix and suffix != "layers":
            assert told.get_ifd(EXIF)[owner].encode("latin-1") == "宮崎".encode()


def test_tiff_keeps_what_it_can(tmp_path: Path) -> None:
    image = opened(matte_of(photograph(tmp_path / "photo.jpg")).encode(".tif"))
    assert image.getexif()[BASE.Artist] == "Ada"
    assert image.info["dpi"] == (300, 150)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".avif", ".jpg", "16 .png", "16 .tif"])
def test_a_matte_keeps_the_resolution_alone(suffix: str, tmp_path: Path) -> None:
    matte = replace(matte_of(photograph(tmp_path / "photo.jpg")), icc_profile=icc.display_p3())
    if suffix.startswith("16 "):
        matte = replace(matte, image=matte.image.astype(np.uint16) * 257)
    target = Path(f"matte{suffix.removeprefix('16 ')}")
    data = Wanted("matte").bytes_of(matte, target)
    again = read_image(data)
    assert again.metadata.dpi == pytest.approx((300, 150), abs=0.1)
    assert again.icc_profile is None
    assert not {BASE.Artist, BASE.Copyright, BASE.Model} & set(opened(data).getexif())
    silent = read_image(Wanted("matte", metadata=False).bytes_of(matte, target))
    assert silent.metadata.dpi in (None, (1, 1))


def test_layers_keep_what_tiff_can(tmp_path: Path) -> None:
    matte = matte_of(photograph(tmp_path / "photo.jpg"))
    layers = opened(encode_layers(matte.layers()))
    for number, name in enumerate(matte.layers()):
        layers.seek(number)
        assert (layers.tag_v2[BASE.Artist], layers.tag_v2[BASE.PageName]) == ("Ada", name)
        assert layers.info["dpi"] == (300, 150)


def test_more_exif_than_jpeg_holds(tmp_path: Path) -> None:
    matte = matte_of(photograph(tmp_path / "photo.jpg"))
    exif = Image.Exif()
    exif.get_ifd(EXIF)[int(BASE.MakerNote)] = bytes(70_000)
    full = replace(matte, metadata=Metadata(exif.tobytes()))
    line = "JPEG has no room for so much EXIF: leave it out (metadata=False, --no-metadata)"
    with pytest.raises(OutputError, match=re.escape(line)):
        full.encode(".jpg", over="white")
    assert len(full.encode(".png")) > 70_000
    assert len(full.encode(".jpg", over="white", metadata=False)) < 70_000


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
@pytest.mark.parametrize("wide", [False, True], ids=["8 bits", "16 bits"])
def test_it_is_left_out_where_it_is_not_wanted(suffix: str, wide: bool, tmp_path: Path) -> None:
    matte = replace(matte_of(photograph(tmp_path / "photo.jpg")), icc_profile=icc.display_p3())
    if wide:
        matte = replace(matte, image=matte.image.astype(np.uint16) * 257)
    over = "white" if suffix == ".jpg" else None
    matte.save(tmp_path / f"cut{suffix}", over=over, metadata=False)
    data = (tmp_path / f"cut{suffix}").read_bytes()
    assert data == matte.encode(suffix, over=over, metadata=False)
    assert read_image(data).metadata.exif is None
    assert opened(data).info.get("dpi") in (None, (1, 1))
    assert read_image(data).icc_profile == icc.display_p3()


def test_sixteen_bits_keep_it_too(tmp_path: Path) -> None:
    matte = matte_of(photograph(tmp_path / "photo.jpg"))
    wide = Matte(matte.alpha, matte.image.astype(np.uint16) * 257, metadata=matte.metadata)
    wide.save(tmp_path / "wide.png")
    again = read_image(tmp_path / "wide.png")
    assert again.pixels.dtype == np.uint16
    assert again.metadata.exif == matte.metadata.exif
    assert again.metadata.dpi == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation: int, tmp_path: Path) -> None:
    matte = matte_of(photograph(tmp_path / "photo.jpg", orientation))
    cutout = opened(matte.encode(".webp"))
    again = read_image(matte.encode(".webp"))
    assert cutout.size == ((80, 60) if orientation < 5 else (60, 80))
    assert again.size == matte.alpha.shape


def test_damaged_metadata_are_no_reason_to_refuse(tmp_path: Path) -> None:
    path = photograph(tmp_path / "photo.jpg")
    data = path.read_bytes()
    start = data.index(b"Exif\0\0") + 14
    path.write_bytes(data[:start] + b"\xff" * 40 + data[start + 40 :])
    picture = read_image(path)
    assert picture.size == (60, 80)
    matte_of(path).encode(".png")


def test_arrays_tell_nothing() -> None:
    assert read_image(np.zeros((4, 4, 3), np.uint8)).metadata == NO_METADATA
