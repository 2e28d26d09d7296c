"""Strands that a small matte has lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from decoupe.inference.guided import enlarged, followed
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import resize_plane
from decoupe.inference.strands import STEP, find_strands

WIDTH, HEIGHT, SMALL = 600, 480, (80, 100)
SUBJECT, BACKGROUND = (150, 70, 40), (90, 160, 150)
Line = tuple[tuple[float, float], tuple[float, float]]
HAIRS = [((300 + 30 * k, 150), (300 + 40 * k, 105)) for k in range(-3, 4)]
"""From within the subject to 35 pixels above it."""


def drawn(lines: list[Line] = HAIRS, thick: int = 2) -> np.ndarray:
    """Alpha ``(H, W)`` in [0, 1] of a box with lines."""
    image = Image.new("L", (2 * WIDTH, 2 * HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.rectangle((2 * 170, 2 * 140, 2 * 430, 2 * 380), fill=255)
    for start, end in lines:
        draw.line([2 * start[0], 2 * start[1], 2 * end[0], 2 * end[1]], fill=255, width=2 * thick)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX), np.float32) / np.float32(255)


def photograph(
    alpha: np.ndarray, colour: tuple[int, int, int] = SUBJECT, behind: np.ndarray | None = None
) -> np.ndarray:
    """The box and its lines before a background, with a camera's noise, uint8 ``(H, W, 3)``."""
    noise = np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH, 3))
    ground = np.broadcast_to(np.array(BACKGROUND), noise.shape) if behind is None else behind
    shade = alpha[..., np.newaxis]
    return (shade * colour + (1 - shade) * ground + noise).clip(0, 255).astype(np.uint8)


BOX = resize_plane(drawn([]), SMALL)
"""The small matte, of what is wider than its pixels."""


def error(matte: np.ndarray, alpha: np.ndarray) -> float:
    """Of the part above the box, where the hairs are."""
    rows = slice(135 * len(alpha) // HEIGHT)
    return float(np.abs(matte[rows] - alpha[rows]).sum())


def added(image: np.ndarray, small: np.ndarray = BOX) -> np.ndarray:
    """What strands add to the matte of a picture."""
    picture = read_image(image)
    return followed(small, picture) - enlarged(small, picture)


def test_hairs_come_back() -> None:
    alpha = drawn()
    image = photograph(alpha)
    picture = read_image(image)
    plain, matte = enlarged(BOX, picture), followed(BOX, picture)
    assert error(matte, alpha) < 0.25 * error(plain, alpha)
    assert matte.max() <= 1


def test_a_thin_slanted_hair_is_one_line() -> None:
    slanted: list[Line] = [((250 + 60 * k, 150), (280 + 60 * k, 110)) for k in range(3)]
    alpha = drawn(slanted, thick=1)
    matte = followed(BOX, read_image(photograph(alpha)))
    assert error(matte, alpha) < 0.33 * error(np.zeros_like(alpha), alpha)


def test_the_matte_is_lowered_nowhere_and_far_away_it_stays() -> None:
    change = added(photograph(drawn()))
    assert change.min() >= 0
    assert change[:90].max() == 0
    assert change[200:].max() < 0.05


def test_a_smooth_subject_stays() -> None:
    assert added(photograph(drawn([]))).max() < 0.05


def test_a_line_that_is_not_joined_to_the_subject_is_none_of_its_strands() -> None:
    apart = [((start[0], 128.0), end) for start, end in HAIRS]
    assert added(photograph(drawn(apart)))[:128].max() == 0


def test_a_line_of_another_colour_is_none() -> None:
    alpha = drawn()
    image = photograph(alpha)
    image[:138][alpha[:138] > 0] = (200, 60, 200)
    assert added(image)[:135].max() == 0


def test_lines_of_the_background_are_none() -> None:
    rows = np.arange(HEIGHT)[:, np.newaxis, np.newaxis] % 12 < 2
    behind = np.where(rows, np.array(SUBJECT), np.array(BACKGROUND))  # a blind, of the subject's colour
    alpha = drawn([])
    assert added(photograph(alpha, behind=np.broadcast_to(behind, (HEIGHT, WIDTH, 3)))).max() < 0.05
    grain = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3))
    assert added(photograph(alpha, behind=grain)).max() < 0.05


@pytest.mark.parametrize("thick", [1, 2, 4])
@pytest.mark.parametrize("line", [((0, 300), (WIDTH, 300)), ((300, 0), (300, HEIGHT))])
def test_a_line_that_goes_on_behind_the_subject_is_none(line: Line, thick: int) -> None:
    assert added(photograph(drawn([line], thick))).max() < 0.05


def test_where_the_matte_is_in_doubt_nothing_is_added() -> None:
    small = BOX.copy()
    small[:23] = 0.3
    assert added(photograph(drawn()), small)[:130].max() == 0


@pytest.mark.parametrize("small", [np.zeros(SMALL), np.ones(SMALL), np.full(SMALL, 0.6)])
def test_without_a_subject_or_a_background_there_is_nothing_to_compare(small: np.ndarray) -> None:
    assert find_strands(small.astype(np.float32), read_image(photograph(drawn()))) is None


def test_sixteen_bits_agree_with_eight() -> None:
    image = photograph(drawn())
    assert np.abs(added(image.astype(np.uint16) * 257) - added(image)).max() < 0.02


def test_large_photographs_are_looked_at_at_a_bounded_size() -> None:
    alpha = drawn()
    large = np.asarray(Image.fromarray(photograph(alpha)).resize((2400, 1920), Image.Resampling.BICUBIC))
    strands = find_strands(BOX, read_image(large))
    assert strands is not None
    assert strands.where.shape == (STEP * SMALL[0], STEP * SMALL[1])
    matte = followed(BOX, read_image(large))
    there = resize_plane(alpha, (1920, 2400))
    assert error(matte, there) < 0.25 * error(enlarged(BOX, read_image(large)), there)


@settings(max_examples=40, deadline=None)
@given(
    small=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    large=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 1000),
)
def test_any_size_gives_alpha(small: tuple[int, int], large: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    alpha = np.zeros(small, np.float32)
    top, left = rng.integers(small[0]), rng.integers(small[1])
    alpha[top : top + 8, left : left + 8] = 1
    picture = read_image(rng.integers(0, 256, (*large, 3), np.uint8))
    matte = followed(alpha, picture)
    assert matte.shape == large
    assert matte.dtype == np.float32
    assert np.isfinite(matte).all()
    assert matte.min() >= 0
    assert matte.max() <= 1
    assert (matte >= enlarged(alpha, picture)).all()
