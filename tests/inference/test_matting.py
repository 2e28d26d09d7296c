"""Soft edges solved anew: hair that a matte has lost comes back, and what is sure stays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from typer.testing import CliRunner

import decoupe
from decoupe import InputError, Matte, MissingExtraError
from decoupe.cli import app
from decoupe.inference import matting
from decoupe.inference.matting import UNUSED, Matting, refined
from drawn import hairy_disc
from inference.tiny import write_onnx

WIDTH, HEIGHT = 240, 180


@pytest.fixture(scope="module")
def hairy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph (H, W, 3), its alpha (H, W), and a matte of it that has lost the hairs."""
    truth = np.asarray(hairy_disc(WIDTH, HEIGHT), np.float32) / 255
    rng = np.random.default_rng(0)
    front, back = (
        np.array(colour) + rng.normal(0, 4, (HEIGHT, WIDTH, 3)) for colour in ((200, 60, 40), (40, 90, 160))
    )
    image = (truth[..., None] * (front - back) + back).clip(0, 255).astype(np.uint8)
    small = Image.fromarray((truth * 255).astype(np.uint8)).resize((24, 18), Image.Resampling.BOX)
    lost = small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(2))
    return image, truth, np.asarray(lost, np.float32) / 255


def error(alpha: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(alpha - truth).sum())


@pytest.mark.parametrize("working", [matting.WORKING_PIXELS, 12000])
def test_hairs_come_back(
    hairy: tuple[np.ndarray, np.ndarray, np.ndarray], working: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth, lost = hairy
    monkeypatch.setattr(matting, "WORKING_PIXELS", working)
    alpha = refined(lost, image, Matting(dilate=0.1))
    assert (alpha.dtype, alpha.shape) == (np.float32, truth.shape)
    assert error(alpha, truth) < 0.5 * error(lost, truth)
    wide = refined(lost, image.astype(np.uint16) * 257, Matting(dilate=0.1))
    assert np.abs(wide - alpha).max() < 0.02


def test_what_is_sure_stays_and_the_widths_are_pixels_or_shares(
    hairy: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    image, _, lost = hairy
    longer = 130  # about, of the subject's box
    for widths in ({"erode": 4, "dilate": 9}, {"erode": 4 / longer, "dilate": 9 / longer}):
        alpha = refined(lost, image, Matting(**widths))
        soft = (alpha > 0) & (alpha < 1)
        assert soft.any()
        rows, columns = np.nonzero(soft)
        reached = np.nonzero(lost > 0.05)
        for places, limits in ((rows, reached[0]), (columns, reached[1])):
            assert places.min() >= limits.min() - 11
            assert places.max() <= limits.max() + 11
        middle = slice(HEIGHT // 2 - 10, HEIGHT // 2 + 10), slice(WIDTH // 2 - 10, WIDTH // 2 + 10)
        assert (alpha[middle] == 1).all()


def test_of_pymatting_only_what_is_used_is_compiled(
    hairy: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    image, _, lost = hairy
    refined(lost, image, Matting())
    pymatting = Path(sys.modules["pymatting"].__file__ or "").parent
    assert all((pymatting.parent / name.replace(".", "/")).with_suffix(".py").exists() for name in UNUSED)
    loaded = {name for name in sys.modules if name.startswith("pymatting.")}
    # The foreground's tests call one of them.
    assert loaded & set(UNUSED) <= {"pymatting.foreground.estimate_foreground_ml"}
    assert "pymatting.laplacian.cf_laplacian" in loaded


def test_a_matte_can_be_refined(hairy: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image, truth, lost = hairy
    matte = Matte(lost, image, source="hair.png").refined(dilate=0.1)
    assert matte.source == "hair.png"
    assert error(matte.alpha, truth) < 0.5 * error(lost, truth)


def test_nothing_is_printed_where_a_picture_may_go(capfd: pytest.CaptureFixture[str]) -> None:
    """pymatting prints a warning there; on this photograph it does."""
    photograph = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
    matte = decoupe.cut(photograph)
    matte.refined()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("value", [0, 0.02, 0.5, 0.99, 1])
def test_without_a_sure_subject_or_background_a_matte_stays_as_it_is(value: float) -> None:
    alpha = np.full((20, 30), value, np.float32)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(refined(alpha, image, Matting()), alpha)


def test_an_edge_without_width_becomes_hard() -> None:
    alpha = np.zeros((20, 30), np.float32)
    alpha[:, 15:] = 1
    image = np.zeros((20, 30, 3), np.uint8)
    np.testing.assert_array_equal(refined(alpha, image, Matting(erode=0, dilate=0)), alpha)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 24), width=st.integers(1, 24), seed=st.integers(0, 99))
def test_any_matte_of_any_size(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha = rng.choice(np.array([0, 0.02, 0.5, 1], np.float32), (height, width), p=[0.3, 0.1, 0.1, 0.5])
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    result = refined(alpha, image, Matting(erode=int(rng.integers(2)), dilate=int(rng.integers(3))))
    assert (result.shape, result.dtype) == (alpha.shape, np.float32)
    assert 0 <= result.min() <= result.max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground": 0.1, "background": 0.2}, "two numbers from 0 to 1, the first less"),
        ({"foreground": 1.2}, "two numbers from 0 to 1"),
        ({"erode": -1}, "erode is -1, expected pixels, or a share below 1 such as 0.02"),
        ({"dilate": float("nan")}, "dilate is nan"),
        ({"dilate": "5%"}, "dilate is '5%', expected pixels, or a share below 1 such as 0.02"),
        ({"foreground": "0.9"}, "foreground is '0.9', expected a number from 0 to 1"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Matting(**options)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_onnx(tmp_path / "tiny.onnx")
    image = np.full((64, 96, 3), (0, 230, 230), np.uint8)
    image[16:48, 24:72] = (255, 0, 0)
    Image.fromarray(image).save("photo.png")

    def cut(*arguments: str) -> object:
        return CliRunner().invoke(app, ["cut", "photo.png", "-m", str(model), *arguments])

    written = []
    for name, options in (("plain", []), ("solved", ["--matting", "--matting-dilate", "6"])):
        assert cut("-o", f"{name}.png", *options).exit_code == 0
        written.append(np.asarray(Image.open(f"{name}.png"))[..., 3] / np.float32(255))
    expected = Matte(decoupe.load(model)("photo.png").alpha, image).refined(dilate=6).alpha
    assert np.abs(written[1] - expected).max() <= 0.003
    assert np.abs(written[0] - written[1]).max() > 0.02
    for arguments, message in (
        (["--matting-dilate", "5%"], "--matting-dilate goes with --matting: add --matting"),
        (["--matting", "--matting-erode", "wide"], "--matting-erode is 'wide', expected pixels or a share"),
        (["--matting", "--matting-background", "2"], "two numbers from 0 to 1"),
    ):
        refused = cut(*arguments, "-o", "refused.png")
        assert (refused.exit_code, message in refused.stderr) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = cut("--matting", "-o", "refused.png")
    assert refused.exit_code == 2
    assert "matting needs the extra 'matting': pip install 'decoupe[matting]'" in refused.stderr
    assert not Path("refused.png").exists()
    with pytest.raises(MissingExtraError, match="needs the extra 'matting'"):
        Matte(expected, image).refined()
