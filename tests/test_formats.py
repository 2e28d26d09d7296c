"""Every kind of picture through the command: what comes in right goes out right."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.errors import InputError
from decoupe.inference.pictures import read_image
from decoupe.inference.png import encode_png
from decoupe.inference.results import Matte
from decoupe.inference.sixteen import encode_tiff
from inference import icc
from inference.tiny import write_onnx

Cut = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright red pixels are the subject."""
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Cut:
    """``decoupe cut``, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["cut", "-m", str(model), *arguments])

    return run


def scene(top: int = 255) -> np.ndarray:
    """A red square on grey, to the left and above the middle: (48, 64, 3)."""
    pixels = np.full((48, 64, 3), top // 3, np.uint16 if top > 255 else np.uint8)
    pixels[8:32, 8:32] = top, top // 9, top // 7
    return pixels


def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_that_lies_on_its_side_is_cut_upright(cut: Cut, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(scene())
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose of the opposite turn
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    stored.save("photo.jpg", exif=exif, quality=95)
    assert cut("photo.jpg").exit_code == 0
    image = opened("photo.cut.png")
    assert image.size == (64, 48)
    assert image.getexif().get(0x0112, 1) == 1
    alpha = np.asarray(image)[..., 3]
    assert alpha[16, 16] > 200 > 120 > alpha[40, 56]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".avif"])
def test_display_p3_stays_display_p3(cut: Cut, suffix: str) -> None:
    profile = icc.display_p3()
    Image.fromarray(scene()).save("photo.png", icc_profile=profile)
    assert cut("photo.png", "-o", f"out{suffix}").exit_code == 0
    image = opened(f"out{suffix}")
    assert image.info["icc_profile"] == profile
    assert np.abs(np.asarray(image)[16, 16, :3].astype(int) - (255, 28, 36)).max() <= 6
    assert cut("photo.png", "--over", "white", "-o", "white.jpg").exit_code == 0
    assert opened("white.jpg").info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_sixteen_bits_stay_sixteen(cut: Cut, kind: str, suffix: str) -> None:
    wide = scene(65535) + np.arange(64, dtype=np.uint16)[:, None]
    wide = np.minimum(wide, 65521).astype(np.uint16)
    if kind == "grey":
        wide[...] = wide[..., :1]
        Image.fromarray(wide[..., 0]).save(f"wide{suffix}")
    else:
        data = {".png": encode_png, ".tif": encode_tiff}[suffix](wide, icc.display_p3(), dpi=(300, 150))
        Path(f"wide{suffix}").write_bytes(data)
    assert cut(f"wide{suffix}", "--keep-hidden", "-o", f"out{suffix}").exit_code == 0
    assert cut(f"wide{suffix}", "--over", "white", "-o", f"white{suffix}").exit_code == 0
    assert cut(f"wide{suffix}", "--matte", "-o", f"matte{suffix}").exit_code == 0
    matte = read_image(f"matte{suffix}").pixels
    assert matte.dtype == np.uint16
    assert (matte != (matte >> 8) * 257).any()  # the low bytes are not made up
    out, white = read_image(f"out{suffix}"), read_image(f"white{suffix}")
    assert out.pixels.dtype == white.pixels.dtype == np.uint16
    assert len(np.unique(out.pixels & 255)) > 20  # the low bytes are not made up
    assert (white.opacity, out.opacity is None) == (None, False)
    if kind == "colour":
        assert out.icc_profile == white.icc_profile == icc.display_p3()
        assert out.metadata.dpi == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("channels", [3, 4])
def test_tiff_of_sixteen_bits_is_read_alike_by_others(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (9, 7, channels), np.uint16)
    values[..., 3:] = 65535
    exif = Image.Exif()
    exif[0x013B], exif[0x8298] = "Ada", "© Ada"
    data = encode_tiff(values, icc.display_p3(), exif.tobytes(), (300, 200))
    np.testing.assert_array_equal(read_image(data).pixels, values[..., :3])
    with Image.open(BytesIO(data)) as image:
        assert image.getexif()[0x013B] == "Ada"
        assert image.info["dpi"] == (300, 200)
        np.testing.assert_array_equal(np.asarray(image), values >> 8)


def test_wide_and_narrow_composites_agree() -> None:
    alpha = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    narrow, wide = Matte(alpha, scene()), Matte(alpha, scene().astype(np.uint16) * 257)
    for options in ({"over": "teal"}, {"over": "teal", "shadow": 0.5}):
        eight, sixteen = (read_image(matte.encode(".png", **options)).pixels for matte in (narrow, wide))
        assert sixteen.dtype == np.uint16
        assert np.abs(sixteen / 257 - eight).max() <= 2


def test_inks_become_colours(cut: Cut) -> None:
    image = Image.fromarray(scene()).convert("CMYK")
    image.save("plain.jpg", quality=95)
    image.save("profile.tif", icc_profile=icc.green_cyan())
    for name in ("plain.jpg", "profile.tif"):
        assert cut(name, "-o", f"{name}.png", "--keep-hidden").exit_code == 0
        result = opened(f"{name}.png")
        assert (result.mode, result.info.get("icc_profile")) == ("RGBA", None)
    assert np.abs(np.asarray(opened("plain.jpg.png"))[16, 16, :3].astype(int) - (255, 28, 36)).max() < 20
    assert np.abs(np.asarray(opened("profile.tif.png"))[16, 16, :3].astype(int) - (255, 28, 36)).max() > 40


def test_transparent_entries_of_a_palette_stay_transparent(cut: Cut) -> None:
    image = Image.fromarray(scene()).quantize(8)
    image.info["transparency"] = image.getpixel((60, 40))
    image.save("photo.png")
    assert cut("photo.png").exit_code == 0
    alpha = np.asarray(opened("photo.cut.png"))[..., 3]
    assert alpha[16, 16] > 200
    assert not alpha[40:].any()


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_cut_and_that_is_told(cut: Cut, kind: str) -> None:
    frames = [Image.fromarray(scene()), Image.new("RGB", (64, 48))]
    frames[0].save(f"photo.{kind}", save_all=True, append_images=frames[1:], duration=100)
    done = cut(f"photo.{kind}", "-o", "out.png")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == f"decoupe: photo.{kind} has several frames: the first is read"
    assert np.asarray(opened("out.png"))[16, 16, 3] > 200


@pytest.mark.parametrize("turned", [False, True])
def test_heic(cut: Cut, turned: bool) -> None:
    heif = pytest.importorskip("pillow_heif")
    photo = Image.fromarray(scene().repeat(4, axis=0).repeat(4, axis=1))
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6 if turned else 1, "Cam"
    # As a camera does it, the turn stands in the file's structure too, and counts once.
    stored = heif.from_pillow(photo)
    stored[0].info["exif"] = exif.tobytes()
    stored.save("photo.heic")
    assert cut("photo.heic").exit_code == 0
    image = opened("photo.cut.png")
    assert image.size == ((192, 256) if turned else (256, 192))
    assert (image.getexif()[0x010F], image.getexif().get(0x0112, 1)) == ("Cam", 1)


def test_heic_without_its_plugin_names_it(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    told = "decoupe: photo.heic is a HEIC file, which needs pillow-heif: pip install 'decoupe[heic]'"
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        Path("photo.heic").write_bytes(b"\0\0\0\x18ftyp" + brands + bytes(40))
        refused = cut("photo.heic")
        assert refused.exit_code == 1
        assert refused.stderr.splitlines() == [told]
    Image.fromarray(scene()).save("photo.avif")  # the same container, which Pillow reads
    assert cut("photo.avif").exit_code == 0


MODES = [
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "HSV",
    "I",
    "I;16",
    "F",
]


@settings(max_examples=60, deadline=None)
@given(mode=st.sampled_from(MODES), width=st.integers(1, 40), height=st.integers(1, 40))
def test_any_mode_of_any_size(mode: str, width: int, height: int) -> None:
    grey = np.random.default_rng(width).integers(0, 256, (height, width), np.uint8)
    if mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    elif mode == "RGBa":
        image = Image.fromarray(grey).convert("RGBA").convert("RGBa")
    elif mode == "La":
        image = Image.fromarray(grey).convert("LA").convert("La")
    elif mode == "PA":
        image = Image.fromarray(grey).convert("P").convert("PA")
    elif mode == "HSV":
        image = Image.fromarray(grey).convert("RGB").convert("HSV")
    else:
        image = Image.fromarray(grey).convert(mode)
    picture = read_image(image)
    assert picture.pixels.shape == (height, width, 3)
    assert picture.pixels.dtype == (np.uint16 if mode in ("I", "I;16", "F") else np.uint8)
    cutout = Matte(np.ones((height, width), np.float32), picture.pixels).cutout()
    assert (cutout.mode, cutout.size) == ("RGBA", (width, height))


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["PNG", "GIF", "TIFF", "WEBP", "JPEG", "BMP"]), data=st.data())
def test_spoiled_files_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    buffer = BytesIO()
    Image.fromarray(scene()).save(buffer, kind)
    spoiled = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, and of frames
        with contextlib.suppress(InputError):
            assert read_image(bytes(spoiled), max_pixels=10**7).pixels.ndim == 3
