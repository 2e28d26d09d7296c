"""Masks as shapes, against scipy and pycocotools, and outlines against the masks that they enclose."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from scipy import ndimage

from decoupe.inference.regions import (
    Polygon,
    components,
    compressed,
    dilated,
    largest,
    opened,
    outlines,
    run_lengths,
)

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(mask=MASKS)
@settings(max_examples=150, deadline=None)
def test_components_are_scipys(mask: np.ndarray) -> None:
    labels, count = components(mask)
    expected, number = ndimage.label(mask)
    assert count == number
    np.testing.assert_array_equal(labels, expected)


def test_a_spiral_is_one_component() -> None:
    spiral = np.zeros((61, 61), bool)
    x, y, length, dx, dy = 30, 30, 2, 1, 0
    while 0 <= x < 61 and 0 <= y < 61:
        for _ in range(length):
            if 0 <= x < 61 and 0 <= y < 61:
                spiral[y, x] = True
            x, y = x + dx, y + dy
        dx, dy = -dy, dx
        length += 1 if dy == 0 else 0
    assert components(spiral)[1] == ndimage.label(spiral)[1]


@given(mask=MASKS, margin=st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_dilation_is_a_square_of_pixels(mask: np.ndarray, margin: int) -> None:
    square = np.ones((2 * margin + 1, 2 * margin + 1))
    np.testing.assert_array_equal(dilated(mask, margin), ndimage.binary_dilation(mask, square))


def test_a_dilation_beyond_everything_takes_no_more_memory() -> None:
    assert dilated(np.eye(3, dtype=bool), 10**9).all()


@given(mask=MASKS)
@settings(max_examples=100, deadline=None)
def test_run_lengths_are_cocos(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert compressed(counts) == expected["counts"].decode()
    assert sum(counts) == mask.size


def filled(polygon: Polygon, size: tuple[int, int]) -> np.ndarray:
    """The pixels inside a polygon: drawn at four times the size, read at the pixels' middles."""
    picture = Image.new("1", (4 * size[1] + 4, 4 * size[0] + 4))
    draw = ImageDraw.Draw(picture)
    for ring, inside in [(polygon.outer, 1), *((hole, 0) for hole in polygon.holes)]:
        draw.polygon([(4 * x, 4 * y) for x, y in ring], fill=inside)
    return np.asarray(picture)[2 : 4 * size[0] : 4, 2 : 4 * size[1] : 4]


@given(mask=MASKS)
@settings(max_examples=100, deadline=None)
def test_outlines_enclose_the_mask(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    labels, count = components(mask)
    assert len(polygons) == count
    for number, polygon in enumerate(polygons, start=1):
        # Islands in the part's holes are parts of their own, and drawn by themselves.
        np.testing.assert_array_equal(filled(polygon, mask.shape), labels == number)


def test_a_ring_has_a_hole_and_corners_only() -> None:
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    (polygon,) = outlines(mask)
    assert sorted(polygon.outer) == [(0, 0), (0, 5), (6, 0), (6, 5)]
    assert [sorted(hole) for hole in polygon.holes] == [[(2, 2), (2, 3), (4, 2), (4, 3)]]


def test_pixels_that_touch_at_a_corner_are_two_parts() -> None:
    polygons = outlines(np.array([[1, 0], [0, 1]], bool))
    assert [len(polygon.outer) for polygon in polygons] == [4, 4]


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((3, 4), bool)) == []
    assert run_lengths(np.zeros((3, 4), bool)) == [12]


@given(plane=arrays(np.int16, array_shapes(min_dims=2, max_dims=2, max_side=20)), margin=st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_largest_is_scipys(plane: np.ndarray, margin: int) -> None:
    expected = ndimage.maximum_filter(plane, 2 * margin + 1, mode="nearest")
    np.testing.assert_array_equal(largest(plane, margin), expected)


@given(plane=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20)), margin=st.integers(0, 6))
@settings(max_examples=80, deadline=None)
def test_opening_is_scipys(plane: np.ndarray, margin: int) -> None:
    expected = ndimage.grey_opening(plane, (2 * margin + 1, 2 * margin + 1), mode="nearest")
    np.testing.assert_array_equal(opened(plane, margin), expected)
