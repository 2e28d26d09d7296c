from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from decoupe.errors import InputError, OutputError
from decoupe.inference.preprocess import read_image
from decoupe.inference.results import Matte
from inference import icc

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, GREEN = (220, 30, 20), (20, 200, 40)


@pytest.fixture
def matte() -> Matte:
    """A red subject on a green ground with a soft edge from left to right."""
    alpha = np.broadcast_to(np.linspace(-0.5, 1.5, 61, dtype=np.float32).clip(0, 1), (40, 61)).copy()
    image = np.rint(alpha[..., None] * np.array(RED) + (1 - alpha[..., None]) * np.array(GREEN))
    return Matte(alpha, image.astype(np.uint8), SRGB, "edge.jpg")


def test_sizes_types_and_ranges_are_checked() -> None:
    image = np.zeros((640, 480, 3), np.uint8)
    alpha = np.zeros((640, 480), np.float32)
    with pytest.raises(InputError, match="alpha is 640×480, image 480×640: apply EXIF rotation to both"):
        Matte(alpha.T, image)
    with pytest.raises(InputError, match=r"alpha is float64 \(640, 480\)"):
        Matte(alpha.astype(np.float64), image)
    with pytest.raises(InputError, match="image is int64"):
        Matte(alpha, image.astype(np.int64))
    for wrong in (1.5, -0.1, np.nan):
        with pytest.raises(InputError, match="outside"):
            Matte(np.full_like(alpha, wrong), image)


def test_cutout_is_straight_and_hides_the_background(matte: Matte) -> None:
    cutout = np.asarray(matte.cutout())
    alpha = np.rint(matte.alpha * 255).astype(np.uint8)
    np.testing.assert_array_equal(cutout[..., 3], alpha)
    assert (cutout[alpha == 0] == 0).all()
    visible = cutout[alpha > 20][:, :3].astype(int)
    assert np.abs(visible - RED).max() <= 6
    np.testing.assert_array_equal(cutout[alpha == 255][:, :3], matte.image[alpha == 255])


def test_mask_is_alpha(matte: Matte) -> None:
    mask = matte.mask()
    assert mask.mode == "L"
    assert "icc_profile" not in mask.info
    assert np.abs(np.asarray(mask) / 255 - matte.alpha).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("background", ["#0000ff", "blue", (0, 0, 255)])
def test_over_a_colour_shows_no_old_background(matte: Matte, background: str | tuple[int, int, int]) -> None:
    over = matte.over(background)
    wanted = matte.alpha[..., None] * np.array(RED) + (1 - matte.alpha[..., None]) * np.array([0, 0, 255])
    assert over.mode == "RGB"
    assert np.abs(np.asarray(over) - wanted).max() <= 4


def test_over_an_image_covers_without_stretching(matte: Matte, tmp_path: Path) -> None:
    # Thirds of a wide background: cropped at the centre, the outer thirds are out of sight.
    background = np.zeros((100, 900, 3), np.uint8)
    background[:, 300:600] = (0, 0, 255)
    path = tmp_path / "background.png"
    Image.fromarray(background).save(path)
    for source in (path, str(path), background, Image.fromarray(background)):
        over = np.asarray(matte.over(source))
        assert np.abs(over[:, :10].astype(int) - (0, 0, 255)).max() <= 2


def test_over_blur_keeps_the_subject_and_casts_no_halo(matte: Matte) -> None:
    over = np.asarray(matte.over("blur")).astype(int)
    opaque = matte.alpha == 1
    np.testing.assert_array_equal(over[opaque], matte.image[opaque])
    hidden = matte.alpha == 0
    assert np.abs(over[hidden] - GREEN).max() <= 6


def test_blur_blurs_and_takes_any_alpha() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    blurred = np.asarray(Matte(np.zeros((80, 120), np.float32), noise).over("blur"))
    assert blurred.std() < 0.3 * noise.std()
    opaque = Matte(np.ones((80, 120), np.float32), noise)
    np.testing.assert_array_equal(np.asarray(opaque.over("blur")), noise)


@pytest.mark.parametrize(
    ("background", "message"),
    [
        ("redd", "'redd' is neither a colour nor a file"),
        ((0, 0, 300), r"expected \(r, g, b\)"),
        ((0, 0), r"expected \(r, g, b\)"),
        (b"", "is empty"),
    ],
)
def test_unusable_backgrounds(matte: Matte, background: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        matte.over(background)


def test_background_images_are_converted_to_the_pictures_profile(matte: Matte) -> None:
    """Under a profile whose red and blue are exchanged, sRGB's red is written as blue."""
    nothing = np.zeros_like(matte.alpha)
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 255
    exchanged = Matte(nothing, matte.image, icc.exchanged_rgb()).over(red)
    assert exchanged.getpixel((3, 3))[2] > 200 > 60 > exchanged.getpixel((3, 3))[0]
    assert Matte(nothing, matte.image).over(red).getpixel((3, 3)) == (255, 0, 0)


def test_a_profile_that_cannot_be_written_in_leaves_the_background_as_it_is(matte: Matte) -> None:
    background = np.full((10, 10, 3), 99, np.uint8)
    odd = Matte(np.zeros_like(matte.alpha), matte.image, b"no profile")
    assert odd.over(background).getpixel((3, 3)) == (99, 99, 99)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_saved_cutouts_are_lossless_and_keep_the_profile(matte: Matte, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    matte.save(path)
    with Image.open(path) as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(matte.cutout()))
        assert saved.info["icc_profile"] == SRGB


def test_sixteen_bits_survive_in_png(matte: Matte, tmp_path: Path) -> None:
    wide = Matte(matte.alpha, matte.image.astype(np.uint16) * 257 - (matte.image > 9), SRGB)
    wide.save(tmp_path / "wide.png")
    saved = read_image(tmp_path / "wide.png")
    assert saved.pixels.dtype == np.uint16
    assert saved.icc_profile == SRGB
    assert saved.opacity is not None
    opaque, hidden = matte.alpha == 1, matte.alpha == 0
    np.testing.assert_array_equal(saved.pixels[opaque], wide.image[opaque])
    np.testing.assert_allclose(saved.opacity, matte.alpha, atol=1e-5)
    with Image.open(tmp_path / "wide.png") as image:
        assert image.mode == "RGBA"
        assert (np.asarray(image)[hidden] == 0).all()
    assert np.abs(np.asarray(wide.cutout()).astype(int) - np.asarray(matte.cutout())).max() <= 1


def test_jpeg_is_refused_and_told_why(matte: Matte, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"JPEG has no transparency.*over"):
        matte.save(tmp_path / "cut.jpg")
    assert list(tmp_path.iterdir()) == []


def test_repr_is_short(matte: Matte) -> None:
    assert repr(matte) == "Matte(61×40, 50% subject, from edge.jpg)"
