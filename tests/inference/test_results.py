from __future__ import annotations

from dataclasses import replace
from inspect import signature
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from decoupe.errors import InputError, OutputError
from decoupe.inference.backgrounds import blurred_background
from decoupe.inference.edits import Edits
from decoupe.inference.matting import Matting
from decoupe.inference.pictures import read_image
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
    with pytest.raises(InputError, match=r"image is a Image, expected an array: use numpy\.asarray"):
        Matte(alpha, Image.new("RGB", (480, 640)))  # type: ignore[arg-type]
    for opacity in (alpha[:3], alpha.astype(np.float64), 1.0):
        with pytest.raises(InputError, match="opacity is no array like alpha"):
            Matte(alpha, image, opacity=opacity)
    for level in (0.4, 1.5, np.nan):
        with pytest.raises(InputError, match="opacity is below alpha, above 1 or NaN"):
            Matte(alpha + np.float32(0.5), image, opacity=np.full_like(alpha, level))


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


def test_a_mask_of_sixteen_bits(matte: Matte) -> None:
    mask = matte.mask(bits=16)
    assert mask.mode == "I;16"
    assert np.abs(np.asarray(mask) / 65535 - matte.alpha).max() <= 0.5 / 65535 + 1e-6
    with pytest.raises(InputError, match="bits is 12, expected 8 or 16"):
        matte.mask(bits=12)


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


def test_a_blur_goes_on_where_the_picture_shows_nothing() -> None:
    matte = square()
    flat = replace(matte, image=np.full_like(matte.image, 180))
    beyond = np.asarray(flat.crop(aspect=(8, 1)).over("blur"))
    assert np.abs(beyond.astype(int) - 180).max() <= 2  # it was black
    opacity = np.ones_like(matte.alpha)
    opacity[:, 50:] = 0
    hole = flat.image.copy()
    hole[:, 50:] = 128
    half = np.asarray(replace(flat, image=hole, opacity=opacity).over("blur"))
    assert np.abs(half.astype(int) - 180).max() <= 2  # it was the grey under the hole


def test_a_blur_keeps_its_colours_deep_inside_a_subject() -> None:
    image = np.full((240, 240, 3), (200, 120, 40), np.uint8)
    alpha = np.zeros((240, 240), np.float32)
    alpha[24:-24, 24:-24] = 1
    blurred = blurred_background(image, alpha).astype(int)
    assert np.abs(blurred - (200, 120, 40)).max() <= 4  # it was black in the middle, and spotted around


def test_a_blur_has_the_colours_of_what_is_translucent() -> None:
    veiled = np.full((40, 60, 3), 154, np.uint8)  # 180, half of it over mid-grey
    none, half = np.zeros((40, 60), np.float32), np.full((40, 60), 0.5, np.float32)
    blurred = np.asarray(Matte(none, veiled, opacity=half).over("blur")).astype(int)
    assert np.abs(blurred - 180).max() <= 2


def test_blur_blurs_and_takes_any_alpha() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    blurred = np.asarray(Matte(np.zeros((80, 120), np.float32), noise).over("blur"))
    assert blurred.std() < 0.3 * noise.std()
    opaque = Matte(np.ones((80, 120), np.float32), noise)
    np.testing.assert_array_equal(np.asarray(opaque.over("blur")), noise)


@pytest.mark.parametrize(
    ("background", "message"),
    [
        ("#ff000080", "'#ff000080' is translucent, expected an opaque colour"),
        ("redd", "'redd' is neither a colour nor a file"),
        ("data:image/jpeg;base64," + "A" * 5000, "'data:image/jpeg;base64,A{137}…A{40}' is neither a colour"),
        ("null\0", "is neither a colour nor a file"),
        ((0, 0, 300), r"expected \(r, g, b\)"),
        ((0, 0), r"expected \(r, g, b\)"),
        ([0, 0, 300], r"expected \(r, g, b\)"),
        (b"", "is empty"),
    ],
)
def test_unusable_backgrounds(matte: Matte, background: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        matte.over(background)


def test_transparent_parts_of_a_background_are_white_as_paper() -> None:
    nothing = np.zeros((4, 8), np.float32)
    ghost = np.zeros((4, 8, 4), np.uint8)
    ghost[:, 4:] = (0, 100, 0, 128)
    for image, white in ((np.zeros((4, 8, 3), np.uint8), 255), (np.zeros((4, 8, 3), np.uint16), 65535)):
        over = Matte(nothing, image).array(over=ghost)
        assert (over[:, :4] == white).all()
        assert np.abs(over[:, 4:] / white - np.array([127, 177, 127]) / 255).max() < 0.01


def test_a_background_of_sixteen_bits_keeps_them() -> None:
    shades = np.linspace(0, 65535, 600).astype(np.uint16)
    ramp = np.repeat(np.broadcast_to(shades, (20, 600))[..., np.newaxis], 3, axis=2)
    matte = Matte(np.zeros((20, 600), np.float32), np.zeros((20, 600, 3), np.uint16))
    assert len(np.unique(matte.array(over=ramp))) == 600
    half = matte.array(over=np.ascontiguousarray(ramp[:, ::-1][:, ::2]))  # enlarged, and cropped
    assert half.shape == (20, 600, 3)
    assert len(np.unique(half)) > 256
    other = replace(matte, icc_profile=icc.exchanged_rgb())  # no 16-bit conversion: as with 8 bits
    assert len(np.unique(other.array(over=ramp))) <= 256


def test_backgrounds_are_converted_to_the_pictures_profile(matte: Matte) -> None:
    """Under a profile whose red and blue are exchanged, sRGB's red is written as blue."""
    nothing = np.zeros_like(matte.alpha)
    red = np.zeros((10, 10, 3), np.uint8)
    red[..., 0] = 255
    for background in (red, "red", (255, 0, 0)):
        exchanged = Matte(nothing, matte.image, icc.exchanged_rgb()).over(background)
        assert exchanged.getpixel((3, 3))[2] > 200 > 60 > exchanged.getpixel((3, 3))[0]
        assert Matte(nothing, matte.image).over(background).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_hidden_colours_are_not_kept_below_a_shadow_or_on_a_background(matte: Matte, kind: type) -> None:
    wide = Matte(matte.alpha, matte.image.astype(kind))
    with pytest.raises(InputError, match="a shadow covers the colours that keep_hidden keeps"):
        wide.array(shadow=0.5, keep_hidden=True)
    for made in (wide.array, wide.encode):
        with pytest.raises(InputError, match="a background covers the colours that keep_hidden keeps"):
            made(over="white", keep_hidden=True)


def test_a_profile_that_cannot_be_written_in_leaves_the_background_as_it_is(matte: Matte) -> None:
    background = np.full((10, 10, 3), 99, np.uint8)
    odd = Matte(np.zeros_like(matte.alpha), matte.image, b"no profile")
    assert odd.over(background).getpixel((3, 3)) == (99, 99, 99)


@pytest.mark.parametrize("level", [40, 128, 200])
@pytest.mark.parametrize("wide", [False, True], ids=["8 bits", "16 bits"])
def test_what_is_translucent_keeps_its_colours(level: int, wide: bool) -> None:
    """They are seen over grey by the model, and were mixed with it."""
    step = 257 if wide else 1
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3)) * step
    opacity = np.full((40, 50), level / 255, np.float32)
    opacity[:, :8], opacity[:, 42:] = 0, 1
    share = opacity[..., np.newaxis]
    seen = np.rint(colours * share + 128 * step * (1 - share)).astype(np.uint16 if wide else np.uint8)
    cut = Matte(opacity.copy(), seen, opacity=opacity)
    off = np.abs(cut.array().astype(int) - np.dstack([colours, 255 * step * opacity]))[:, 8:]
    assert off.max() <= np.ceil(0.5 * 255 / level) + 1
    assert not cut.array()[:, :8].any()


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


def square(alpha: float = 1.0) -> Matte:
    """A subject at x 20 to 40 and y 30 to 70 of a picture of 100×90 whose pixels tell their place."""
    matte = np.zeros((90, 100), np.float32)
    matte[30:70, 20:40] = alpha
    image = np.zeros((90, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100), np.arange(90)[:, None]
    image[..., 2] = 200
    return Matte(matte, image, SRGB, "square.png")


def test_a_crop_shows_the_subject_with_room_around_it() -> None:
    assert square().crop().alpha.shape == (40, 20)
    assert (square().crop().alpha == 1).all()
    roomy = square().crop(margin=5)
    assert roomy.alpha.shape == (50, 30)
    assert roomy.image[0, 0].tolist() == [15, 25, 200]
    assert square().crop(margin=0.25).alpha.shape == (60, 40)  # of the longer side, 40 pixels
    assert square().crop(margin=np.float32(0.25)).alpha.shape == (60, 40)
    beyond = square().crop(margin=40)  # from x = -20, y = -10, to 80, 110
    assert beyond.alpha.shape == (120, 100)
    assert np.asarray(beyond.over("white"))[:10].min() == 255
    assert beyond.image[10, 20].tolist() == [0, 0, 200]
    assert roomy.icc_profile == SRGB


def test_faint_noise_far_away_does_not_widen_a_crop() -> None:
    noisy = square()
    noisy.alpha[80:85, 90:95] = 0.3
    noisy.alpha[68:72, 40:42] = 0.3  # its soft edge
    assert noisy.crop().alpha.shape == (42, 22)


def test_an_aspect_sets_the_subject_in_the_middle_and_goes_beyond_the_picture() -> None:
    wide = square().crop(aspect=(4, 1))  # 160×40 around x = 30: from -50 to 110
    assert wide.alpha.shape == (40, 160)
    rows, columns = np.nonzero(wide.alpha)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (70, 89, 0, 39)
    assert not wide.image[:, :50].any()
    assert wide.image[0, 50].tolist() == [0, 30, 200]
    assert square().crop(margin=2, aspect=(1, 1)).alpha.shape == (44, 44)
    assert np.asarray(wide.over("white"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"margin": -1}, "margin is -1, expected pixels"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"margin": "8%"}, "margin is '8%', expected pixels, or a share below 1 such as 0.05"),
        ({"aspect": 1}, r"aspect is 1, expected width and height, such as \(4, 5\)"),
        ({"aspect": "1:1"}, "aspect is 1:1, expected width and height"),
        ({"aspect": "16"}, "aspect is 16, expected width and height"),
        ({"aspect": (1, 0)}, r"aspect is \(1, 0\), expected width and height"),
        ({"aspect": (1, 2, 3)}, r"aspect is \(1, 2, 3\)"),
        ({"aspect": (1, 1e-320)}, "expected width and height"),
        ({"aspect": (1, 10**6)}, "the crop would be 20×20000000: choose another aspect, or less margin"),
    ],
)
def test_a_crop_that_cannot_be_is_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        square().crop(**options)


def test_a_matte_without_a_subject_has_nothing_to_crop_to() -> None:
    with pytest.raises(InputError, match=r"square.png shows no subject to crop to"):
        square(alpha=0.05).crop()


def test_a_shadow_lies_below_the_subject_and_darkens_what_is_behind() -> None:
    plain, shaded = (np.asarray(square().cutout(shadow=dark)) for dark in (0, 0.6))
    subject = plain[..., 3] == 255
    assert np.array_equal(shaded[subject], plain[subject])
    below, above = shaded[71, 20:40, 3].mean(), shaded[28, 20:40, 3].mean()
    assert 0.6 * 255 > below > above
    assert shaded[71, 30, :3].tolist() == [0, 0, 0]
    white = np.asarray(square().over("white", shadow=0.6)).astype(int)
    assert white[71, 30, 0] == pytest.approx(255 - shaded[71, 30, 3], abs=1)
    assert np.array_equal(np.asarray(square(alpha=0).cutout(shadow=1)), np.zeros((90, 100, 4), np.uint8))
    for shadow in (1.5, "a", float("nan"), True):
        with pytest.raises(InputError, match=f"shadow is '?{shadow}'?, expected a number from 0 to 1"):
            square().cutout(shadow=shadow)


def test_sixteen_bits_have_the_same_shadow(tmp_path: Path) -> None:
    narrow = square(alpha=0.7)
    wide = Matte(narrow.alpha, narrow.image.astype(np.uint16) * 257, SRGB, "wide.png")
    wide.save(tmp_path / "wide.png", shadow=0.5)
    read = read_image(tmp_path / "wide.png")
    assert read.pixels.dtype == np.uint16
    assert read.opacity is not None
    cutout = np.asarray(narrow.cutout(shadow=0.5))
    assert np.abs(read.opacity * 255 - cutout[..., 3]).max() <= 1
    flat = cutout[..., :3] * (cutout[..., 3:] / 255) + 128 * (1 - cutout[..., 3:] / 255)
    assert np.abs(read.pixels / 257 - flat).max() <= 2.5


def test_hidden_colours_are_kept_when_asked() -> None:
    kept = np.asarray(square().cutout(keep_hidden=True))
    assert np.array_equal(kept[..., :3], square().image)
    assert not kept[:30, :, 3].any()


def test_an_overlay_tints_the_subject_alone() -> None:
    tinted = np.asarray(square().overlay("#00ff00")).astype(int)
    outside = square().alpha == 0
    assert np.array_equal(tinted[outside], square().image[outside])
    assert tinted[50, 30].tolist() == pytest.approx([15, 152, 100], abs=1)
    with pytest.raises(InputError, match="colour is 'reddish', expected a name such as red"):
        square().overlay("reddish")


def test_side_by_side_shows_the_photograph_and_the_cut_out() -> None:
    pair = np.asarray(square().side_by_side())
    assert pair.shape == (90, 200, 3)
    assert np.array_equal(pair[:, :100], square().image)
    assert np.array_equal(pair[30:70, 120:140], square().image[30:70, 20:40])
    assert {tuple(pixel) for pixel in pair[:30, 100:].reshape(-1, 3)} == {(255,) * 3, (204,) * 3}


def test_edits_give_another_matte_and_leave_this_one() -> None:
    soft = square(alpha=0.8)
    hard = soft.edited(threshold=0.5, grow=2)
    assert hard.alpha[28, 30] == 1
    assert soft.alpha.max() < 0.9
    assert hard.image is soft.image


def test_what_was_transparent_stays_so_whatever_is_changed() -> None:
    opacity = np.ones((90, 100), np.float32)
    opacity[:, 60:] = 0
    opacity[:, 25:30] = 0.5
    half = square()
    half = replace(half, alpha=half.alpha * opacity, opacity=opacity)
    inverted = half.edited(invert=True)
    np.testing.assert_allclose(
        inverted.alpha, opacity - half.alpha
    )  # nothing of the subject, nor of the hole
    wide = half.edited(threshold=0.9, grow=60, feather=3)
    assert (wide.alpha <= opacity).all()
    assert wide.alpha[50, 55] > 0.9
    beyond = square().crop(aspect=(4, 1)).edited(invert=True)  # 50 columns to the left of the picture
    assert not beyond.alpha[:, :50].any()
    assert (beyond.alpha[:, 50:70] == 1).all()
    around = half.crop(margin=50).edited(invert=True).alpha  # from x = -30, y = -20
    assert (around[20:110, 30:] == inverted.alpha[:, :90]).all()
    assert not around[:20].any()


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_quality_makes_files_smaller(suffix: str) -> None:
    image = read_image(Path(__file__).parents[2] / "examples/coffee.jpg").pixels
    matte = Matte(np.ones(image.shape[:2], np.float32), image)
    small, large = (len(matte.encode(suffix, quality=quality)) for quality in (20, 95))
    assert small < 0.5 * large


def test_quality_is_of_lossy_formats() -> None:
    with pytest.raises(InputError, match="PNG is lossless: leave quality out"):
        square().encode(".png", quality=80)
    for quality in (0, 101, "80", 80.5, True):
        with pytest.raises(InputError, match=f"quality is '?{quality}'?, expected a number from 1 to 100"):
            square().encode(".webp", quality=quality)
    assert square().encode(".jpg", over="red", quality=np.int64(80))


def test_a_colour_of_numpys_numbers_is_one(matte: Matte) -> None:
    assert matte.over(tuple(np.array([1, 2, 3]))).tobytes() == matte.over((1, 2, 3)).tobytes()


def test_notebooks_show_the_cutout(matte: Matte) -> None:
    large = Matte(np.ones((40, 3000), np.float32), np.zeros((40, 3000, 3), np.uint16))
    for one, size in ((matte, matte.alpha.shape[::-1]), (large, (1024, 14))):
        with Image.open(BytesIO(one._repr_png_())) as shown:
            assert (shown.mode, shown.size) == ("RGBA", size)


def test_methods_take_what_edits_and_matting_have() -> None:
    for method, fields in ((Matte.edited, Edits), (Matte.refined, Matting)):
        given, wanted = signature(method).parameters, signature(fields).parameters
        assert {name: one.default for name, one in given.items() if name != "self"} == {
            name: one.default for name, one in wanted.items()
        }


def test_an_open_file_is_no_path(matte: Matte) -> None:
    with pytest.raises(InputError, match="path is a BytesIO, expected a file name: encode gives bytes"):
        matte.save(BytesIO())  # type: ignore[arg-type]


def test_endings_and_names_that_cannot_be(matte: Matte, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"unknown output format '\.gif': end it in one of \.png, .*\.jpeg"):
        matte.save(tmp_path / "out.gif")
    with pytest.raises(OutputError, match="no name holds a null byte"):
        matte.save("a\0.png")
    with pytest.raises(InputError, match=r"suffix is None, expected a file ending: such as '\.png'"):
        matte.encode(None)  # type: ignore[arg-type]


def test_a_name_without_an_ending_is_told(matte: Matte, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no file ending, which tells the format: end it in \.png"):
        matte.save(tmp_path / "out")
