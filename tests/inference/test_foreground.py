from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from decoupe.inference.deferred import deferred
from decoupe.inference.foreground import HIDDEN, estimate_foreground
from decoupe.inference.matting import UNUSED
from decoupe.inference.results import Matte
from drawn import hairy_disc, soft_disc

EXAMPLES = Path(__file__).parents[2] / "examples"
PAIRS = [("astronaut", "coffee"), ("chelsea", "astronaut"), ("coffee", "chelsea")]


def composite(front: str, back: str, shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture (H, W, 3) of known foreground (H, W, 3) and alpha (H, W)."""
    foreground = Image.open(EXAMPLES / f"{front}.jpg").convert("RGB")
    background = Image.open(EXAMPLES / f"{back}.jpg").convert("RGB").resize(foreground.size)
    mask = {"soft": soft_disc, "hairy": hairy_disc}[shape](*foreground.size)
    alpha = np.asarray(mask, np.float32) / np.float32(255)
    known = np.asarray(foreground)
    image = np.rint(known * alpha[..., None] + np.asarray(background) * (1 - alpha[..., None]))
    return image.astype(np.uint8), known, alpha


def by_pymatting(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Its estimate of the foreground's colours, (H, W, 3) in 0 to 255."""
    with deferred(UNUSED):
        from pymatting import estimate_foreground_ml

    found: np.ndarray = estimate_foreground_ml(image / 255.0, alpha.astype(np.float64)) * 255
    return found


def error(estimate: np.ndarray, known: np.ndarray, alpha: np.ndarray) -> float:
    """Root mean square, at soft pixels, of what a new background would show: alpha times the difference."""
    soft = (alpha > 0) & (alpha < 1)
    difference = (estimate[soft].astype(np.float64) - known[soft]) * alpha[soft][:, None]
    return float(np.sqrt((difference**2).mean()))


@pytest.mark.parametrize("shape", ["soft", "hairy"])
@pytest.mark.parametrize(("front", "back"), PAIRS)
def test_as_good_as_pymatting_and_far_better_than_the_picture(front: str, back: str, shape: str) -> None:
    image, known, alpha = composite(front, back, shape)
    ours = error(estimate_foreground(image, alpha), known, alpha)
    reference = by_pymatting(image, alpha)
    assert ours <= error(reference, known, alpha)
    assert ours <= 0.8 * error(image, known, alpha)  # the texture under such wide edges nobody can know


def large(
    front: str, back: str, shape: str, size: tuple[int, int] = (900, 600)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the photographs' middle quarters, enlarged: grain is no finer than edges."""
    layers = []
    for name in (front, back):
        photograph = Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")
        width, height = photograph.size
        box = 3 * width / 8, height / 2 - width / 12, 5 * width / 8, height / 2 + width / 12
        layers.append(np.asarray(photograph.resize(size, Image.Resampling.BICUBIC, box=box), np.float32))
    mask = {"soft": soft_disc, "hairy": hairy_disc}[shape](*size)
    alpha = np.asarray(mask, np.float32) / np.float32(255)
    if shape == "soft":
        alpha = ((alpha - 0.5) * 3 + 0.5).clip(0, 1)
    image = np.rint(layers[1] + alpha[..., None] * (layers[0] - layers[1]))
    return image.astype(np.uint8), layers[0], alpha


@pytest.mark.parametrize("shape", ["soft", "hairy"])
def test_three_times_better_than_copying_or_multiplying(shape: str) -> None:
    errors = []
    for front, back in PAIRS:
        image, known, alpha = large(front, back, shape)
        reference = by_pymatting(image, alpha)
        estimates = (estimate_foreground(image, alpha), reference, image, image * alpha[..., None])
        errors.append([error(estimate, known, alpha) for estimate in estimates])
    ours, reference, copied, multiplied = np.mean(errors, axis=0)
    assert ours <= 0.76 * reference  # as many plain sweeps would not come so near
    assert 3 * ours <= min(copied, multiplied)


@pytest.mark.parametrize("shape", ["soft", "hairy"])
def test_as_good_as_pymatting_far_beyond_the_working_size(shape: str) -> None:
    image, known, alpha = large("astronaut", "coffee", shape, (2100, 1400))
    reference = by_pymatting(image, alpha)
    assert error(estimate_foreground(image, alpha), known, alpha) <= error(reference, known, alpha)


@pytest.mark.parametrize("colour", ["white", "black", "lime"])
@pytest.mark.parametrize("shape", ["soft", "hairy"])
def test_no_halo_over_a_new_background(shape: str, colour: str) -> None:
    for front, back in PAIRS:
        image, known, alpha = large(front, back, shape)
        share, soft = alpha[..., None], (alpha > 0) & (alpha < 1)
        wanted = known * share + np.array(ImageColor.getrgb(colour)) * (1 - share)
        shown = np.asarray(Matte(alpha, image).over(colour), np.float64)
        assert np.abs((shown - wanted)[soft].mean(axis=0)).max() <= 2
        assert np.abs((np.asarray(image) - known)[soft].mean(axis=0)).max() > 10  # there was one to avoid


def test_pictures_beyond_the_working_size_are_as_good() -> None:
    small, _, mask = composite("astronaut", "coffee", "hairy")
    known = np.asarray(Image.fromarray(small).resize((1536, 1536)))
    alpha = np.asarray(Image.fromarray(mask).resize((1536, 1536))).clip(0, 1)
    image = np.rint(known * alpha[..., None] + known[::-1] * (1 - alpha[..., None])).astype(np.uint8)
    ours = error(estimate_foreground(image, alpha), known, alpha)
    assert ours <= 0.75 * error(image, known, alpha)


def test_sixteen_bits_agree_with_eight() -> None:
    image, _, alpha = composite("chelsea", "astronaut", "soft")
    wide = estimate_foreground(image.astype(np.uint16) * 257, alpha)
    assert wide.dtype == np.uint16
    assert np.abs(wide / 257 - estimate_foreground(image, alpha)).max() <= 0.51


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_any_size_leaves_hard_pixels_and_plain_pictures(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    alpha = rng.choice(np.array([0, 0.004, 0.3, 0.7, 1], np.float32), (height, width))
    hard = (alpha < HIDDEN) | (alpha == 1)
    np.testing.assert_array_equal(estimate_foreground(image, alpha)[hard], image[hard])
    plain = np.broadcast_to(image[:1, :1], image.shape)
    np.testing.assert_array_equal(estimate_foreground(plain, alpha), plain)


def test_a_part_of_a_picture_is_as_good_as_its_copy() -> None:
    image, _, alpha = composite("chelsea", "astronaut", "hairy")
    part, share = image[7:-5, 11:-3], alpha[7:-5, 11:-3]
    np.testing.assert_array_equal(
        estimate_foreground(part, share), estimate_foreground(part.copy(), share.copy())
    )


def test_one_colour_is_found_exactly() -> None:
    alpha = np.asarray(soft_disc(120, 90), np.float32) / np.float32(255)
    image = np.rint(
        alpha[..., None] * np.array([200, 40, 90]) + (1 - alpha[..., None]) * np.array([10, 220, 30])
    )
    foreground = estimate_foreground(image.astype(np.uint8), alpha)
    visible = alpha > 0.1
    assert np.abs(foreground[visible].astype(int) - (200, 40, 90)).max() <= 8
