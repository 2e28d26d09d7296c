"""Smoothed mattes: calm where nothing moves, and not late where something does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.inference.smoothing import Smoother, noise_of

RNG = np.random.default_rng


def frame(centre: float, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of a soft disc, a matte that flickers with the picture's noise, and its truth."""
    rng = RNG(seed)
    y, x = np.mgrid[:90, :160]
    truth = (18.5 - np.hypot(x - centre, y - 45)).clip(0, 1).astype(np.float32)
    image = 60 + 140 * truth[..., np.newaxis] + rng.normal(0, noise, (90, 160, 3))
    alpha = truth + rng.normal(0, noise / 140, truth.shape) * 0.8
    return image.clip(0, 255).astype(np.uint8), alpha.clip(0, 1).astype(np.float32), truth


def both(centres: list[float], noise: float) -> tuple[list, list, list]:
    smoother = Smoother()
    frames = [frame(centre, noise, seed) for seed, centre in enumerate(centres)]
    smoothed = [smoother(image, alpha) for image, alpha, _ in frames]
    return [alpha for _, alpha, _ in frames], smoothed, [truth for *_, truth in frames]


def flicker(mattes: list[np.ndarray]) -> float:
    return float(np.mean([abs(a - b).mean() for a, b in itertools.pairwise(mattes)]))


def overlap(mattes: list[np.ndarray], truths: list[np.ndarray]) -> float:
    pairs = [(a >= 0.5, b >= 0.5) for a, b in zip(mattes, truths, strict=True)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


@pytest.mark.parametrize("noise", [3, 8, 20])
def test_a_still_subject_flickers_less(noise: float) -> None:
    plain, smoothed, truths = both([80] * 14, noise)
    assert flicker(smoothed) < 0.5 * flicker(plain)
    assert ((smoothed[-1] - truths[-1]) ** 2).mean() < 0.5 * ((plain[-1] - truths[-1]) ** 2).mean()


@pytest.mark.parametrize("speed", [0.2, 1, 4, 15])
def test_a_moving_subject_is_not_late(speed: float) -> None:
    plain, smoothed, truths = both([20 + speed * number for number in range(8)], 3)
    assert overlap(smoothed, truths) >= overlap(plain, truths)


def test_a_cut_is_followed_at_once() -> None:
    smoother = Smoother()
    for seed in range(5):
        image, alpha, _ = frame(40, 3, seed)
        smoother(image, alpha)
    image, alpha, _ = frame(110, 3, 9)
    moved = abs(alpha - frame(40, 3, 0)[1]) > 0.5
    assert np.allclose(smoother(image, alpha)[moved], alpha[moved], atol=1e-6)


def test_it_goes_on_from_what_another_knew() -> None:
    frames = [frame(80, 5, seed)[:2] for seed in range(6)]
    whole = Smoother()
    expected = [whole(*one) for one in frames]
    first = Smoother()
    for one in frames[:3]:
        first(*one)
    second = Smoother(first.known)
    assert all(np.array_equal(second(*one), want) for one, want in zip(frames[3:], expected[3:], strict=True))


def test_another_size_starts_anew() -> None:
    smoother = Smoother()
    smoother(*frame(80, 3, 0)[:2])
    small = np.full((20, 30, 3), 9, np.uint8), RNG(0).random((20, 30), np.float32)
    assert np.array_equal(smoother(*small), small[1])


@pytest.mark.parametrize("deviation", [2, 10])
def test_noise_is_estimated_beside_outlines(deviation: float) -> None:
    y, x = np.mgrid[:200, :300]
    squares = ((x // 40 + y // 40) % 2 * 150.0)[..., np.newaxis].repeat(3, 2)
    noisy = squares + RNG(0).normal(0, deviation, squares.shape)
    assert noise_of(noisy.astype(np.float32)) == pytest.approx(deviation, rel=0.25)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 100),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_any_size_stays_in_range(size: tuple[int, int], seed: int, kind: type) -> None:
    rng, smoother = RNG(seed), Smoother()
    for _ in range(3):
        image = rng.integers(0, np.iinfo(kind).max, (*size, 3), endpoint=True).astype(kind)
        alpha = smoother(image, rng.random(size, np.float32))
        assert (alpha.shape, alpha.dtype) == (size, np.float32)
        assert 0 <= alpha.min() <= alpha.max() <= 1
