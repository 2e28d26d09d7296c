"""Changes of a matte, each against what it means on a few pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from decoupe import InputError
from decoupe.inference import edits
from decoupe.inference.edits import Edits, edited, feathered, grown


def mattes() -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 14), st.integers(1, 14))
    values = st.sampled_from([0, 0.25, 0.5, 0.75, 1])
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=values))


def islands() -> np.ndarray:
    """A large square with a hole and a faint spot beside it, and a small square."""
    alpha = np.zeros((60, 90), np.float32)
    alpha[10:50, 10:50] = 0.9
    alpha[25:35, 25:35] = 0.1
    alpha[20:24, 51:53] = 0.3
    alpha[10:20, 75:85] = 1
    return alpha


def test_a_threshold_makes_the_edge_hard() -> None:
    alpha = np.array([[0, 0.49, 0.5, 1]], np.float32)
    assert edited(alpha, Edits(threshold=0.5)).tolist() == [[0, 0, 1, 1]]


def test_the_largest_part_stays_with_its_soft_edge() -> None:
    alpha = islands()
    kept = edited(alpha, Edits(keep_largest=True))
    assert not kept[:, 70:].any()
    assert np.array_equal(kept[:25, :70], alpha[:25, :70])  # the faint spot beside it too
    assert kept[30, 30] == 0  # faint, and far from what is sure


def test_what_is_faint_and_far_goes_though_nothing_else_is_sure() -> None:
    alpha = islands()[:, :70]
    alpha[2:6, 60:64] = 0.45
    kept = edited(alpha, Edits(keep_largest=True))
    assert not kept[:, 60:].any()
    assert np.array_equal(kept[10:25, :60], alpha[10:25, :60])
    faint = np.full((5, 5), 0.3, np.float32)
    assert np.array_equal(edited(faint, Edits(keep_largest=True)), faint)


def test_a_hole_s_rim_is_its_own() -> None:
    """However far apart two holes are, each is filled as it is alone."""
    alpha = np.ones((300, 300), np.float32)
    alpha[40:80, 40:80] = 0.7
    alpha[50:53, 50:53] = 0
    alone = edited(alpha, Edits(fill_holes=True))
    assert alone[50:53, 50:53].min() == 1
    assert alone[70, 70] == np.float32(0.7)
    alpha[250:253, 250:253] = 0
    both = edited(alpha, Edits(fill_holes=True))
    assert np.array_equal(both[:200], alone[:200])
    assert both[200:].min() == 1


def test_what_the_subject_encloses_belongs_to_it() -> None:
    alpha = islands()
    solid = edited(alpha, Edits(fill_holes=True))
    assert (solid[25:35, 25:35] == 1).all()
    outside = np.ones(alpha.shape, bool)
    outside[20:40, 20:40] = False
    assert np.array_equal(solid[outside], alpha[outside])


def test_a_gap_at_the_border_is_no_hole() -> None:
    alpha = np.ones((20, 20), np.float32)
    alpha[:12, 8:12] = 0
    assert np.array_equal(edited(alpha, Edits(fill_holes=True)), alpha)


def test_growing_reaches_as_far_on_all_sides_and_shrinking_undoes_it() -> None:
    alpha = np.zeros((61, 61), np.float32)
    alpha[30, 30] = 1
    large = grown(alpha, 20)
    y, x = np.nonzero(large)
    far = np.hypot(y - 30, x - 30)
    assert far.max() < 20 * 1.1
    assert large[np.hypot(*np.indices(alpha.shape) - 30) <= 19].all()
    square = np.zeros((61, 61), np.float32)
    square[15:45, 15:45] = 0.7
    wider = edited(square, Edits(grow=4))
    assert (wider[11:49, 30] > 0.6).all()
    assert not wider[:11].any()
    assert np.abs(edited(wider, Edits(grow=-4)) - square).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(alpha=mattes(), pixels=st.integers(0, 40))
def test_growing_many_pixels_is_growing_one_by_one(alpha: np.ndarray, pixels: int) -> None:
    square, cross = np.ones((3, 3)), ndimage.generate_binary_structure(2, 1)
    one_by_one = alpha
    for step in range(pixels):
        around = square if step % 5 in (1, 3) else cross
        one_by_one = ndimage.grey_dilation(one_by_one, footprint=around, mode="nearest")
    assert np.array_equal(grown(alpha, pixels), one_by_one)


@pytest.mark.parametrize("deviation", [0.4, 1, 3.3, 12])
def test_feathering_is_a_gaussian(deviation: float) -> None:
    edge = np.zeros((3, 201), np.float32)
    edge[:, 101:] = 1
    soft = feathered(edge, deviation)
    slope = np.diff(soft[1])
    places = np.arange(200) - 100
    assert slope.sum() == pytest.approx(1, abs=1e-5)
    assert (slope * places).sum() == pytest.approx(0, abs=1e-3)
    assert np.sqrt((slope * places**2).sum()) == pytest.approx(deviation, rel=1e-3)


def test_a_large_picture_is_feathered_in_strips_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = np.random.default_rng(0).random((83, 131), np.float32)
    at_once = feathered(alpha, 4.2)
    monkeypatch.setattr(edits, "_STRIP", 900)
    np.testing.assert_array_equal(feathered(alpha, 4.2), at_once)
    inside = slice(20, -20), slice(20, -20)  # beyond the border each of the three boxes goes on by itself
    gaussian = ndimage.gaussian_filter(alpha, 4.2)
    assert np.abs(at_once - gaussian)[inside].max() < 0.01


def test_the_order_is_that_of_the_fields() -> None:
    alpha = islands()
    inverted = edited(alpha, Edits(threshold=0.5, keep_largest=True, fill_holes=True, invert=True))
    expected = np.ones(alpha.shape, np.float32)
    expected[10:50, 10:50] = 0
    assert np.array_equal(inverted, expected)


@settings(max_examples=60, deadline=None)
@given(
    alpha=mattes(),
    edits=st.builds(
        Edits,
        threshold=st.none() | st.floats(0, 1),
        keep_largest=st.booleans(),
        fill_holes=st.booleans(),
        grow=st.integers(-5, 5),
        feather=st.floats(0, 6),
        invert=st.booleans(),
    ),
)
def test_any_matte_stays_one(alpha: np.ndarray, edits: Edits) -> None:
    before = alpha.copy()
    changed = edited(alpha, edits)
    assert (changed.shape, changed.dtype) == (alpha.shape, np.float32)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.array_equal(alpha, before)


@settings(max_examples=40, deadline=None)
@given(alpha=mattes())
def test_filling_only_adds_and_keeping_only_takes(alpha: np.ndarray) -> None:
    assert (edited(alpha, Edits(fill_holes=True)) >= alpha).all()
    assert (edited(alpha, Edits(keep_largest=True)) <= alpha).all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, expected a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"grow": 2000}, "grow is 2000, expected at most 1000 pixels either way"),
        ({"threshold": "0.5"}, "threshold is '0.5', expected a number from 0 to 1"),
        ({"threshold": True}, "threshold is True, expected a number from 0 to 1"),
        ({"grow": 1.5}, "grow is 1.5, expected whole pixels"),
        ({"grow": "1"}, "grow is '1', expected whole pixels"),
        ({"feather": "1"}, "feather is '1', expected pixels from 0 to 1000"),
        ({"feather": -1}, "feather is -1, expected pixels from 0 to 1000"),
        ({"feather": float("nan")}, "feather is nan"),
    ],
)
def test_values_out_of_range_are_one_line(changes: dict[str, float], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Edits(**changes)
