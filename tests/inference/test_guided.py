"""A small matte enlarged along the outlines of its photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import decoupe
from decoupe.inference.guided import _SMOOTHNESS, _regression, enlarged
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import resize_plane
from drawn import hairy_disc, soft_disc

EXAMPLES = Path(__file__).parents[2] / "examples"


def crisp_disc(width: int, height: int) -> Image.Image:
    """A subject in focus."""
    disc = soft_disc(2 * width, 2 * height).point(lambda value: 255 * (value > 127))
    return disc.resize((width, height), Image.Resampling.BOX)


SHAPES = {"crisp": crisp_disc, "soft": soft_disc, "hairy": hairy_disc}


def composite(shape: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc of coffee on a plain wall, uint8 (H, W, 3), and its alpha, float32 (H, W)."""
    alpha = np.asarray(SHAPES[shape](width, height), np.float32) / np.float32(255)
    coffee = Image.open(EXAMPLES / "coffee.jpg").convert("RGB").resize((width, height))
    noise = np.random.default_rng(0).normal(scale=3, size=(height, width, 3))
    image = np.asarray(coffee) * alpha[..., None] + (90, 160, 150) * (1 - alpha[..., None]) + noise
    return image.clip(0, 255).astype(np.uint8), alpha


def error(alpha: np.ndarray, known: np.ndarray) -> float:
    return float(np.abs(alpha - known).sum())


def test_slopes_solve_the_papers_equation_and_gain_is_the_variance_that_they_explain() -> None:
    values = np.random.default_rng(0).random((50, 4, 9))  # three colours and alpha, in windows of nine pixels
    values[:25, 1] = values[:25, 0]  # two colours that change alike
    apart = values - values.mean(axis=-1, keepdims=True)
    covariances = apart @ apart.transpose(0, 2, 1) / 9
    found, gain = _regression(covariances[:, one, other] for one in range(4) for other in range(one, 4))
    slopes = np.stack(found, axis=-1)
    wanted = np.linalg.solve(covariances[:, :3, :3] + _SMOOTHNESS * np.eye(3), covariances[:, :3, 3:])[..., 0]
    np.testing.assert_allclose(slopes, wanted, rtol=1e-9, atol=1e-9)
    left = apart[:, 3] - (slopes[..., np.newaxis] * apart[:, :3]).sum(axis=1)
    np.testing.assert_allclose(gain, covariances[:, 3, 3] - (left**2).mean(axis=-1), atol=1e-9)


@pytest.mark.parametrize("shape", ["crisp", "hairy"])
def test_detail_that_the_matte_had_lost_comes_back(shape: str) -> None:
    image, alpha = composite(shape, 900, 600)
    small = resize_plane(alpha, (60, 90))
    assert error(enlarged(small, read_image(image)), alpha) < 0.6 * error(
        resize_plane(small, (600, 900)), alpha
    )


@pytest.mark.parametrize(("shape", "left"), [("crisp", 0.7), ("hairy", 0.85)])
def test_the_embedded_model_gains(shape: str, left: float) -> None:
    image, alpha = composite(shape, 1500, 1000)
    guided, plain, own = (decoupe.load(guided=choice)(image).alpha for choice in (True, False, None))
    assert error(guided, alpha) < left * error(plain, alpha)
    assert np.array_equal(own, guided)


def test_only_photographs_with_more_detail_are_followed() -> None:
    image, _ = composite("hairy", 420, 280)  # the model sees 384×256
    guided, plain = (decoupe.load(guided=choice)(image).alpha for choice in (True, False))
    assert np.array_equal(guided, plain)


def test_a_photograph_without_colours_to_follow_keeps_the_plain_matte() -> None:
    grey = np.full((200, 300, 3), 128, np.uint8)
    small = resize_plane(np.asarray(soft_disc(300, 200), np.float32) / 255, (40, 60))
    assert np.array_equal(enlarged(small, read_image(grey)), resize_plane(small, (200, 300)))


def test_an_outline_out_of_focus_stays_soft() -> None:
    image, alpha = composite("soft", 900, 600)
    result = enlarged(resize_plane(alpha, (60, 90)), read_image(image))
    assert error(result, alpha) < 0.01 * alpha.size
    between = [((one > 0.1) & (one < 0.9)).mean() for one in (result, alpha)]
    assert between[0] > 0.8 * between[1]


def test_far_from_outlines_nothing_changes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    small = np.zeros((80, 80), np.float32)
    small[:, 40:] = 0.9
    result = enlarged(small, read_image(image))
    assert np.array_equal(result[:, :100], np.zeros((400, 100), np.float32))
    assert np.abs(result[:, 300:] - 0.9).max() < 1e-6


def test_sixteen_bits_agree_with_eight() -> None:
    image, alpha = composite("hairy", 300, 200)
    small = resize_plane(alpha, (40, 60))
    wide = image.astype(np.uint16) * 257
    assert np.abs(enlarged(small, read_image(wide)) - enlarged(small, read_image(image))).max() < 0.02


@settings(max_examples=30, deadline=None)
@given(
    small=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    large=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    level=st.floats(0, 1, width=32),
    seed=st.integers(0, 1000),
)
def test_any_size_gives_alpha_and_a_flat_matte_stays_flat(
    small: tuple[int, int], large: tuple[int, int], level: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    picture = read_image(rng.integers(0, 256, (*large, 3), np.uint8))
    flat = enlarged(np.full(small, level, np.float32), picture)
    assert flat.dtype == np.float32
    assert np.abs(flat - level).max() < 1e-6
    alpha = enlarged(rng.random(small, np.float32), picture)
    assert alpha.shape == large
    assert alpha.min() >= 0
    assert alpha.max() <= 1
