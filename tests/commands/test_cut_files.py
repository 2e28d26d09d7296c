"""The options of ``decoupe cut`` that change what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from inference.queries import see
from inference.tiny import write_onnx

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """decoupe with a model to which bright red is the subject, in a folder with two red squares on grey."""
    monkeypatch.chdir(tmp_path)
    model = write_onnx(tmp_path / "tiny.onnx")
    see(monkeypatch, [np.ones((64, 96), bool)], [0], matte_model=model)
    image = np.full((64, 96, 3), 128, np.uint8)
    image[8:40, 8:40] = image[8:16, 60:68] = (255, 0, 0)
    Image.fromarray(image).save("squares.png")

    def decoupe(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["cut", *arguments])

    return decoupe


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def alpha_of(run: Run, *options: str) -> np.ndarray:
    done = run("squares.png", "-o", "out.png", "--overwrite", *options)
    assert done.exit_code == 0, done.stderr
    return pixels("out.png")[..., 3]


def test_every_edit_does_what_its_name_says(run: Run) -> None:
    plain = alpha_of(run)
    assert plain[24, 24] > 200
    assert alpha_of(run, "--threshold", "0.5").max() == 255
    assert set(np.unique(alpha_of(run, "--threshold", "0.5"))) == {0, 255}
    assert not alpha_of(run, "--threshold", "0.5", "--keep-largest")[:, 55:].any()
    counts = [
        (alpha_of(run, "--threshold", "0.5", *more) > 127).sum()
        for more in (("--shrink", "2"), (), ("--grow", "2"))
    ]
    assert counts[0] < counts[1] < counts[2]
    soft = alpha_of(run, "--threshold", "0.5", "--feather", "2")
    assert ((soft > 50) & (soft < 200)).any()
    inverted = alpha_of(run, "--threshold", "0.5", "--invert")
    assert np.array_equal(inverted, 255 - alpha_of(run, "--threshold", "0.5"))


def test_a_product_picture(run: Run) -> None:
    options = ("--threshold", "0.5", "--keep-largest", "--crop", "--margin", "25%", "--aspect", "2:1")
    assert run("squares.png", "-o", "out.jpg", "--over", "white", "--shadow", "0.5", *options).exit_code == 0
    picture = pixels("out.jpg")
    height, width, _ = picture.shape
    assert (width, height) == (2 * height, pytest.approx(48, abs=3))
    assert picture[24, 48].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert picture[2, 2].min() > 250


def test_every_kind_of_picture(run: Run) -> None:
    for kind, mode, size in (
        ("matte", "L", (96, 64)),
        ("overlay", "RGB", (96, 64)),
        ("side-by-side", "RGB", (192, 64)),
    ):
        done = run("squares.png", f"--{kind}")
        assert done.exit_code == 0, done.stderr
        with Image.open(f"squares.{kind}.png") as image:
            assert (image.mode, image.size) == (mode, size)


def test_layers_are_the_subject_and_the_photograph(run: Run) -> None:
    assert run("squares.png", "--layers").exit_code == 0
    assert run("squares.png", "-o", "cut.png").exit_code == 0
    with Image.open("squares.layers.tif") as image:
        assert (image.n_frames, image.mode, image.tag_v2[285]) == (2, "RGBA", "subject")
        np.testing.assert_array_equal(np.asarray(image), pixels("cut.png"))
        image.seek(1)
        assert (image.mode, image.tag_v2[285]) == ("RGB", "photograph")
        np.testing.assert_array_equal(np.asarray(image), pixels("squares.png"))


def test_formats_and_quality_of_folders(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Path("squares.png").rename("photos/squares.png")
    assert run("photos", "-o", "cut/", "--format", "webp", "--quality", "60").exit_code == 0
    with Image.open("cut/squares.webp") as image:
        assert (image.format, image.mode) == ("WEBP", "RGBA")
    again = run("photos", "-o", "cut/", "--format", "webp", "--quality", "60")
    assert "1 there already" in again.stderr
    assert run("photos/squares.png", "--format", "jpg", "--over", "white").exit_code == 0
    assert Path("photos/squares.cut.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize(("form", "out"), [("jpg", "a.jpeg"), ("JPEG", "a.jpg"), ("tif", "a.TIFF")])
def test_a_format_and_an_ending_may_spell_it_in_two_ways(run: Run, form: str, out: str) -> None:
    assert run("squares.png", "--over", "white", "--format", form, "-o", out).exit_code == 0
    assert Path(out).exists()


def test_hidden_pixels_are_kept_when_asked(run: Run) -> None:
    alpha_of(run, "--threshold", "0.5", "--keep-hidden")
    assert pixels("out.png")[60, 90].tolist() == [128, 128, 128, 0]


def test_metadata_are_kept_or_left_out(run: Run) -> None:
    exif = Image.Exif()
    exif[315] = "Ada"
    Image.open("squares.png").save("told.jpg", exif=exif, quality=95)
    for option, known in (("--metadata", "Ada"), ("--no-metadata", None)):
        assert run("told.jpg", "-o", "out.png", "--overwrite", option).exit_code == 0
        with Image.open("out.png") as image:
            assert image.getexif().get(315) == known


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--matte", "--over", "white"], "--matte and --over exclude each other"),
        (["--overlay", "--side-by-side"], "--overlay and --side-by-side exclude each other"),
        (["--layers", "--over", "white"], "--layers and --over exclude each other"),
        (["--layers", "-o", "a.png"], "a.png holds no layers: end it in .tif"),
        (["--matte", "--shadow", "0.5"], "--shadow goes with the cut-out and --over, not --matte"),
        (["--layers", "--keep-hidden"], "--layers keeps the whole photograph below the cut-out"),
        (["--shadow", "2"], "--shadow is 2.0, expected a number from 0 to 1"),
        (["--over", "white", "--keep-hidden"], "--keep-hidden is for transparent parts"),
        (["--margin", "5%"], "--margin and --aspect go with --crop: add --crop"),
        (["--crop", "--margin", "wide"], "--margin is 'wide', expected pixels or a share: such as 20 or 5%"),
        (["--crop", "--margin", "-3"], "--margin is '-3'"),
        (["--crop", "--margin", "0.08"], "--margin is '0.08', expected pixels or a share: such as 20 or 5%"),
        (["--crop", "--aspect", "square"], "--aspect is 'square', expected WIDTH:HEIGHT"),
        (["--crop", "--aspect", "1:0"], "--aspect is '1:0'"),
        (["--threshold", "7"], "threshold is 7.0, expected a number from 0 to 1"),
        (["--grow", "3", "--shrink", "3"], "--grow and --shrink undo each other"),
        (["--format", "wepb"], "unknown format 'wepb'; did you mean 'webp'?"),
        (["--format", "webp", "-o", "a.png"], "--format is webp, and -o names a.png"),
        (["--format", "jpg"], "JPEG has no transparency"),
        (["--quality", "80"], "PNG is lossless: leave quality out"),
        (["--format", "webp", "--quality", "101"], "quality is 101, expected a number from 1 to 100"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(run: Run, options: list[str], line: str) -> None:
    refused = run("squares.png", *options)
    assert refused.exit_code == 2
    assert line in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["squares.png", "tiny.onnx"]


def test_a_picture_without_a_subject_is_named_and_the_others_are_done(run: Run) -> None:
    Image.new("RGB", (64, 64), (0, 255, 255)).save("empty.png")
    done = run("squares.png", "empty.png", "-o", "out/", "--crop")
    assert done.exit_code == 1
    assert "empty.png shows no subject to crop to" in done.stderr
    assert Path("out/squares.png").exists()
