"""Choosing the subject: cropping, padding and joining to the pixel, on known masks and known mattes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import decoupe
from decoupe import InputError, LabelWarning, Predictor, Segmenter
from decoupe.inference.edits import MARGIN
from decoupe.inference.segments import Segment
from decoupe.inference.subject import (
    PADDING,
    Part,
    joined,
    part_of_box,
    part_of_segment,
    under_point,
)
from inference.queries import ANIMALS, AS_IT_IS, Seer
from inference.tiny import write_onnx

SIZE = (100, 160)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


DOG, CAT = rectangle(20, 30, 60, 80), rectangle(60, 30, 90, 80)  # side by side
FAR_DOG = rectangle(120, 10, 150, 40)
GRASS = ~(DOG | CAT | FAR_DOG)


class Known:
    """A matte runtime whose alpha is the picture's red channel: what it sees is what it gives."""

    name, engine, device, dtype = "known", "hand", "cpu", "float32"
    notes, normalises = (), False

    def __init__(self) -> None:
        self.preprocessing = AS_IT_IS
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray, low: np.ndarray | None = None) -> np.ndarray:
        assert low is None
        self.shapes.append(images.shape[2:])
        preprocessing = self.preprocessing
        alpha: np.ndarray = images[:, :1] * preprocessing.std[0] + preprocessing.mean[0]
        return alpha.clip(0, 1).astype(np.float32)


def photograph(alpha: np.ndarray) -> np.ndarray:
    """A picture of which `Known` gives ``alpha``."""
    picture = np.zeros((*alpha.shape, 3), np.uint8)
    picture[..., 0] = np.rint(alpha * 255)
    return picture


@pytest.fixture
def predictor() -> Predictor:
    segmenter = Segmenter(Seer([DOG, CAT, FAR_DOG, GRASS], [1, 0, 1, 2]), size="native")
    return Predictor(Known(), size="native", segmenter=segmenter)


EVERYWHERE = np.full(SIZE, 0.8)


def allowed(mask: np.ndarray, longer: int, *others: np.ndarray) -> np.ndarray:
    """Where a segment's matte may stand, written out: its pixels, and those near it of no other thing."""
    margin = max(4, round(MARGIN * longer))
    near = np.zeros(SIZE, bool)
    for y, x in np.argwhere(mask):
        near[max(0, y - margin) : y + margin + 1, max(0, x - margin) : x + margin + 1] = True
    for other in others:
        near &= ~other
    return near | mask


def test_one_label_keeps_its_segments_and_nothing_else(predictor: Predictor) -> None:
    matte = predictor(photograph(EVERYWHERE), what="dog")
    expected = (allowed(DOG, 50, CAT) | allowed(FAR_DOG, 30, CAT)) * 0.8
    np.testing.assert_allclose(matte.alpha, expected, atol=1 / 255)
    assert matte.alpha[50, 70] == 0  # the cat, though the fine model sees it beside the dog
    assert matte.alpha[50, 17] > 0.7  # hair beyond the segment's coarse outline, over the grass


def test_each_segment_is_seen_in_its_own_padded_box(predictor: Predictor) -> None:
    predictor(photograph(EVERYWHERE), what="dog")
    known = predictor.runtime
    assert isinstance(known, Known)
    first, second = round(PADDING * 50), max(4, round(PADDING * 30))
    assert known.shapes == [(50 + 2 * first, 40 + 2 * first), (30 + 2 * second, 30 + 2 * second)]


def test_several_labels_are_joined_by_soft_union(predictor: Predictor) -> None:
    matte = predictor(photograph(EVERYWHERE), what=["dog", "Cat"])
    # Both are chosen, so that neither keeps the other out: where their margins overlap, 1 − 0.2².
    dog, cat, far = allowed(DOG, 50), allowed(CAT, 50), allowed(FAR_DOG, 30)
    expected = 1 - (1 - 0.8 * dog) * (1 - 0.8 * cat) * (1 - 0.8 * far)
    np.testing.assert_allclose(matte.alpha, expected, atol=2 / 255)


def test_labels_that_are_not_seen_are_told(predictor: Predictor) -> None:
    photo = photograph(EVERYWHERE)
    with pytest.warns(LabelWarning, match=r"array shows no sky, only dog and cat$"):
        matte = predictor(photo, what=["sky", "dog", "cat"])
    assert np.array_equal(matte.alpha, predictor(photo, what=["dog", "cat"]).alpha)
    with pytest.warns(LabelWarning, match=r"array shows no dog at the point 70,50, only cat$"):
        predictor(photo, what=["dog", "cat"], point=(70, 50))


def test_surroundings_count_as_people_call_them(predictor: Predictor) -> None:
    matte = predictor(photograph(EVERYWHERE), what="grass")
    assert (matte.alpha[GRASS] > 0.7).all()
    assert (matte.alpha[DOG] == 0).all()


def test_a_box_or_a_point_chooses_among_the_segments(predictor: Predictor) -> None:
    photo = photograph(EVERYWHERE)
    only_near = allowed(DOG, 50, CAT, FAR_DOG) * 0.8
    np.testing.assert_allclose(
        predictor(photo, what="dog", box=(0, 0, 100, 100)).alpha, only_near, atol=1 / 255
    )
    far = predictor(photo, what="dog", point=(130, 20))
    np.testing.assert_allclose(far.alpha, allowed(FAR_DOG, 30, CAT, DOG) * 0.8, atol=1 / 255)


def test_a_box_alone_needs_no_segment_model() -> None:
    predictor = Predictor(Known(), size="native", segmenter=lambda: pytest.fail("it was opened"))
    matte = predictor(photograph(EVERYWHERE), box=(30, 20, 80, 60))
    np.testing.assert_allclose(matte.alpha, rectangle(30, 20, 80, 60) * 0.8, atol=1 / 255)
    assert isinstance(predictor.runtime, Known)
    assert predictor.runtime.shapes == [(40 + 2 * 5, 50 + 2 * 5)]


def test_a_point_alone_keeps_the_connected_part() -> None:
    alpha = np.where(DOG, 0.9, 0.0)
    alpha[:, 58:60] = np.where(DOG, 0.2, 0)[:, 58:60]  # a soft edge
    alpha += np.where(FAR_DOG, 1.0, 0.0)
    predictor = Predictor(Known(), size="native", segmenter=lambda: pytest.fail("it was opened"))
    matte = predictor(photograph(alpha), point=(30, 40))
    np.testing.assert_allclose(matte.alpha, np.where(FAR_DOG, 0, alpha), atol=1 / 255)
    inside = predictor(photograph(alpha), box=(0, 0, 110, 100), point=(30, 40))
    np.testing.assert_allclose(inside.alpha, np.where(FAR_DOG, 0, alpha), atol=1 / 255)


def test_transparent_parts_stay_transparent(predictor: Predictor) -> None:
    rgba = np.dstack([photograph(EVERYWHERE), np.full(SIZE, 255, np.uint8)])
    rgba[:60, :, 3] = 0
    matte = predictor(rgba, what="dog")
    assert matte.alpha[:60].max() == 0
    assert matte.alpha[70, 40] > 0.7


def test_the_pictures_own_opacity_counts_once(predictor: Predictor) -> None:
    half = np.dstack([photograph(np.ones(SIZE)), np.full(SIZE, 110, np.uint8)])
    for choice in ({"what": ["dog", "cat"]}, {"box": (30, 20, 80, 60)}, {"point": (40, 40)}):
        assert 0.2 < predictor(half, **choice).alpha.max() <= 110 / 255 + 1e-6


def test_boxes_may_be_arrays_of_any_integers(predictor: Predictor) -> None:
    photo = photograph(EVERYWHERE)
    expected = predictor(photo, box=(10, 20, 150, 90)).alpha
    box = np.array([10, 20, 150, 90], np.uint8)
    np.testing.assert_array_equal(predictor(photo, box=box).alpha, expected)  # type: ignore[arg-type]


def test_a_label_that_is_not_there_is_told_with_what_is() -> None:
    predictor = Predictor(
        Known(), size="native", segmenter=Segmenter(Seer([DOG, GRASS], [1, 2]), size="native")
    )
    with pytest.raises(InputError, match=r"^array shows no cat; there is: dog, grass$"):
        predictor(photograph(EVERYWHERE), what="cat")
    with pytest.raises(InputError, match=r"^array shows no dog at the point 5,5; there is: dog, grass$"):
        predictor(photograph(EVERYWHERE), what="dog", point=(5, 5))
    with pytest.raises(InputError, match="no dog in the box 0,0,9,9; there is: dog, grass"):
        predictor(photograph(EVERYWHERE), what="dog", box=(0, 0, 9, 9))
    nothing = Predictor(Known(), size="native", segmenter=Segmenter(Seer([DOG], [4]), size="native"))
    with pytest.raises(InputError, match="shows no dog; the segment model finds nothing in it"):
        nothing(photograph(EVERYWHERE), what="dog")


def test_a_chosen_part_that_the_matte_model_does_not_see_is_told(predictor: Predictor) -> None:
    nothing = photograph(np.zeros(SIZE))
    for choice in ({"what": "dog"}, {"box": (10, 20, 60, 60)}):
        with pytest.raises(InputError, match=r"^array shows nothing to cut there, as known sees it: choose"):
            predictor(nothing, **choice)
    assert predictor(nothing).alpha.max() < 0.1  # nobody said that there is something


def test_an_unknown_label_suggests_the_nearest(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="unknown label 'dgo'; did you mean 'dog'"):
        predictor(photograph(EVERYWHERE), what="dgo")
    for what in ([], [None], 3):
        with pytest.raises(InputError, match="expected one label or several"):
            predictor(photograph(EVERYWHERE), what=what)  # type: ignore[arg-type]


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (5, 5, 4, 9), (0, 0, 161, 10), (-1, 0, 5, 5), (0, 0, 5), 5])
def test_boxes_outside_the_picture_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match=r"expected x0,y0,x1,y1 .* inside the picture of 160×100"):
        Predictor(Known(), size="native")(photograph(EVERYWHERE), box=box)


@pytest.mark.parametrize("point", [(160, 0), (0, 100), (-1, 5), (0.5, 3), (True, False), (), "5,3"])
def test_points_outside_the_picture_are_refused(point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"expected x,y .* inside the picture of 160×100"):
        Predictor(Known(), size="native")(photograph(EVERYWHERE), point=point)


def test_a_point_beside_the_subject_is_refused() -> None:
    with pytest.raises(InputError, match=r"at the point 5,5 there is no subject \(alpha 0.00\)"):
        Predictor(Known(), size="native")(photograph(DOG.astype(float)), point=(5, 5))


def test_any_exported_model_can_cut_what_is_chosen(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    photo = np.zeros((*SIZE, 3), np.uint8)
    photo[DOG | FAR_DOG] = 255, 0, 0
    matte = decoupe.load(model)(photo, point=(130, 20))
    assert matte.alpha[20, 130] > 0.9
    assert matte.alpha[50, 40] == 0


BOXES = st.tuples(st.integers(0, 150), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60))


@given(box=BOXES, other=BOXES)
@settings(max_examples=60, deadline=None)
def test_nothing_stands_outside_the_parts(
    box: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    first, second = (rectangle(x, y, min(160, x + w), min(100, y + h)) for x, y, w, h in (box, other))
    chosen, rest = Segment("dog", 1, first), Segment("cat", 1, second)
    part = part_of_segment(chosen, [rest])
    whole = joined([part], [np.ones(part.inside.shape, np.float32)], SIZE)
    assert (whole[first] == 1).all()
    assert (whole[second & ~first] == 0).all()
    assert not whole[~allowed(first, max(chosen.box[2] - chosen.box[0], chosen.box[3] - chosen.box[1]))].any()


@given(alphas=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_soft_union_is_never_less_than_the_largest(alphas: list[float]) -> None:
    part = Part((1, 0, 3, 1), np.ones((1, 2), bool))
    whole = joined([part] * len(alphas), [np.full((1, 2), a, np.float32) for a in alphas], (2, 4))
    assert whole[0, 1] >= max(alphas) - 1e-6
    assert whole[0, 1] <= 1
    assert whole[0, 0] == whole[1, 1] == 0


def test_padding_ends_at_the_pictures_edge() -> None:
    part = part_of_box((0, 10, 160, 100), SIZE)
    assert part.box == (0, 0, 160, 100)
    assert part.inside.sum() == 160 * 90


def test_parts_under_a_point_do_not_lend_each_other_their_edges() -> None:
    alpha = np.zeros((20, 40), np.float32)
    alpha[:, :10], alpha[:, 10:12], alpha[:, 12:20] = 1, 0.3, 1
    kept = under_point(alpha, (2, 2))
    np.testing.assert_array_equal(kept[:, :12], alpha[:, :12])
    assert not kept[:, 12:].any()


def test_vocabulary_of_the_seer_is_used() -> None:
    assert ANIMALS.find("SKY ") == (3,)
