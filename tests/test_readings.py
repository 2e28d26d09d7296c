"""The three readings: against the reference's own, at every size, and what they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decoupe import readings
from decoupe.errors import InputError
from golden import fill

CASE, STORED = fill.load("maskformer_postprocess")
CLASSES, MASKS = STORED["class_logits"][0], STORED["mask_logits"][0]
SIZE = tuple(CASE["target_size"])
LIMITS = CASE["thresholds"]
QUERIES, KINDS = 5, 3


def test_semantic_reading_is_the_references() -> None:
    np.testing.assert_array_equal(readings.semantic(CLASSES, MASKS, SIZE), STORED["semantic"])


def test_instances_are_the_references() -> None:
    found = readings.instances(CLASSES, MASKS, SIZE, LIMITS["score"])
    stored = {(row["label_id"], row["score"]): row["id"] for row in CASE["instance_segments"]}
    by_id = {stored[reading.label, round(reading.score, 6)]: reading for reading in found}
    assert len(by_id) == len(found) == len(stored)
    painted = np.full(SIZE, -1)
    for number in sorted(by_id):  # the reference paints later ones over earlier ones
        painted[by_id[number].mask] = number
    np.testing.assert_array_equal(painted, STORED["instance"])
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)


def test_panoptic_reading_is_the_references() -> None:
    fused = tuple(CASE["stuff_classes_fused"])
    found = readings.panoptic(CLASSES, MASKS, SIZE, LIMITS["score"], LIMITS["mask"], LIMITS["overlap"], fused)
    # After a fused segment the reference goes on counting from that one's number, so that some numbers are
    # given twice: compared are the pixels of each number with those of the segments that bear it.
    bearers: dict[int, set[int]] = {}
    for row in CASE["panoptic_segments"]:
        bearers.setdefault(row["id"], set()).add(row["label_id"])
    for number, labels in bearers.items():
        ours = np.any([reading.mask for reading in found if reading.label in labels], axis=0)
        np.testing.assert_array_equal(ours, STORED["panoptic"] == number)
    assert sum(reading.mask.sum() for reading in found) == (STORED["panoptic"] > 0).sum()
    stored = [(row["label_id"], row["score"]) for row in CASE["panoptic_segments"]]
    # Of a fused class the best score stands for all.
    best = [max(pair for pair in stored if pair[0] == label) for label in fused]
    expected = sorted([pair for pair in stored if pair[0] not in fused] + best)
    np.testing.assert_allclose(sorted((r.label, r.score) for r in found), expected, atol=2e-6)


def logits(rng_seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(rng_seed)
    classes = rng.normal(size=(QUERIES, KINDS + 1)).astype(np.float32) * 3
    return classes, rng.normal(size=(QUERIES, *size)).astype(np.float32) * 3


SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(seed=st.integers(0, 999), coarse=SIDES, fine=SIDES)
@settings(max_examples=50, deadline=None)
def test_resizing_is_torchs_at_every_size(seed: int, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    maps = np.random.default_rng(seed).normal(size=(3, *coarse)).astype(np.float32)
    ours = np.empty((3, *fine), np.float32)
    for tile in readings._tiles(maps, fine):
        ours[(slice(None), *tile.place)] = tile.enlarged(np.arange(3))
    exact = torch.from_numpy(maps).double()[None]  # in float32 torch rounds the places of pixels
    torchs = torch.nn.functional.interpolate(exact, fine, mode="bilinear")[0]
    np.testing.assert_allclose(ours, torchs.numpy(), atol=2e-6)


def test_the_nearest_cells_are_torchs() -> None:
    """Which counts in float32: 208 cells over 720 pixels are twelve columns off without."""
    sides = [(208, 720), (176, 5184), (200, 1080), (168, 640), (49, 49), (1, 9), (9, 1)]
    sides += [(coarse, fine) for coarse in range(3, 260, 16) for fine in range(5, 2000, 97)]
    for coarse, fine in sides:
        cells = torch.arange(coarse, dtype=torch.float32)[None, None]
        torchs = torch.nn.functional.interpolate(cells, size=fine, mode="nearest")[0, 0]
        np.testing.assert_array_equal(readings._nearest(fine, coarse), torchs.numpy(), str((coarse, fine)))


@given(seed=st.integers(0, 999), coarse=SIDES, fine=SIDES)
@settings(max_examples=50, deadline=None)
def test_panoptic_segments_share_no_pixel(seed: int, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    found = readings.panoptic(*logits(seed, coarse), fine, score=0.3, overlap=0.1, fuse=(1,))
    assert all(reading.mask.shape == fine and reading.mask.any() for reading in found)
    assert np.sum([reading.mask for reading in found] or [np.zeros(fine)], axis=0).max() <= 1
    assert sum(reading.label == 1 for reading in found) <= 1


@given(seed=st.integers(0, 999), coarse=SIDES, fine=SIDES, smooth=st.booleans())
@settings(max_examples=50, deadline=None)
def test_instances_are_never_empty(
    seed: int, coarse: tuple[int, int], fine: tuple[int, int], smooth: bool
) -> None:
    found = readings.instances(*logits(seed, coarse), fine, score=0.1, smooth=smooth)
    assert all(reading.mask.shape == fine and reading.mask.any() for reading in found)
    assert all(0.1 <= reading.score <= 1 for reading in found)


def read(classes: np.ndarray, masks: np.ndarray, size: tuple[int, int]) -> list[readings.Reading]:
    """All three readings as one list of masks."""
    found = readings.panoptic(classes, masks, size, 0.3, overlap=0.2, void=0.4)
    found += readings.instances(classes, masks, size, 0.2, smooth=True)
    semantic = readings.semantic(classes, masks, size)
    return found + [readings.Reading(label, 1.0, semantic == label) for label in range(KINDS)]


@given(seed=st.integers(0, 999), coarse=SIDES, fine=SIDES)
@settings(max_examples=50, deadline=None)
def test_tiles_change_nothing(seed: int, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
    """In small tiles most maps are left out, since they cannot win there: the result is that of one tile."""
    classes, masks = logits(seed, coarse)
    whole = read(classes, masks, fine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings, "_TILE", 3)
        tiled = read(classes, masks, fine)
    assert [reading.label for reading in whole] == [reading.label for reading in tiled]
    for one, other in zip(whole, tiled, strict=True):
        # Products of matrices round by their shape: a pixel may change sides at an exact tie.
        assert (one.mask != other.mask).sum() <= 1


def test_a_picture_of_nothing_has_no_segments() -> None:
    classes = np.zeros((QUERIES, KINDS + 1), np.float32)
    classes[:, -1] = 20
    masks = np.full((QUERIES, 4, 4), -20, np.float32)
    assert readings.panoptic(classes, masks, (8, 8)) == []
    assert readings.instances(classes, masks, (8, 8)) == []


def test_smooth_masks_follow_the_line_between_cells() -> None:
    classes = np.array([[9, 0]], np.float32)
    masks = np.array([[[3, -1], [3, -1]]], np.float32)
    (coarse,) = readings.instances(classes, masks, (2, 80))
    (smooth,) = readings.instances(classes, masks, (2, 80), smooth=True)
    assert coarse.mask[0].sum() == 40
    # Between the cells' centres at 20 and 60 the logit falls from 3 to -1: it is 0 at 50.
    assert smooth.mask[0].sum() == 50
    assert smooth.box == (0, 0, 50, 2)


def test_overlap_drops_what_lost_most_of_its_own_mask() -> None:
    classes = np.array([[0, 9, 0], [9, 0, 0]], np.float32)
    masks = np.full((2, 1, 10), 2, np.float32)
    masks[0, 0] = [5] * 8 + [1] * 2  # both are sure of all ten pixels; the first wins eight, the second two
    parts = [
        {r.label: int(r.mask.sum()) for r in readings.panoptic(classes, masks, (1, 10), overlap=limit)}
        for limit in (0.1, 0.7, 0.9)
    ]
    assert parts == [{1: 8, 0: 2}, {1: 8}, {}]


@pytest.mark.parametrize(
    ("classes", "masks", "size"),
    [
        ((5, 4), (4, 3, 3), (8, 8)),
        ((5,), (5, 3, 3), (8, 8)),
        ((5, 4), (5, 3), (8, 8)),
        ((5, 4), (5, 0, 3), (8, 8)),
    ],
)
def test_what_is_not_one_pictures_queries_is_refused(
    classes: tuple[int, ...], masks: tuple[int, ...], size: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match="of one picture"):
        readings.panoptic(np.zeros(classes, np.float32), np.zeros(masks, np.float32), size)


def test_logits_that_are_not_finite_are_refused() -> None:
    classes, masks = logits(0, (3, 3))
    for broken in ((classes * np.nan, masks), (classes, masks * np.inf)):
        for reading in (readings.semantic, readings.instances, readings.panoptic):
            with pytest.raises(InputError, match="NaN or infinity"):
                reading(*broken, (8, 8))


def test_a_size_that_is_none_is_refused() -> None:
    for size in (4, (4,), (4, 0), (0, 5), (4.5, 5), "45"):
        for reading in (readings.semantic, readings.instances, readings.panoptic):
            with pytest.raises(InputError, match=r"expected \(height, width\) in pixels"):
                reading(*logits(0, (3, 3)), size)  # type: ignore[arg-type]
    assert readings.semantic(*logits(0, (3, 3)), (np.int64(4), np.int64(5))).shape == (4, 5)  # type: ignore[arg-type]


@given(mask=arrays(bool, SIDES))
@settings(max_examples=50, deadline=None)
def test_boxes_hold_the_mask_and_no_more(mask: np.ndarray) -> None:
    x0, y0, x1, y1 = readings.bounding_box(mask)
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    if mask.any():
        assert all(line.any() for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
