from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.errors import InputError
from decoupe.evaluation.segments import AveragePrecision, Instance, MeanIoU, PanopticQuality
from decoupe.weights.labels import Vocabulary

THREE = Vocabulary(("cat", "dog", "sky"), stuff=(2,))


def test_mean_iou_by_hand() -> None:
    """Cat: 2 right, union 4. Sky: 3 right, union 4 (the pixel where nothing is told does not count)."""
    truth = np.array([[0, 0, 0, 2], [2, 2, -1, 2]])
    prediction = np.array([[0, 0, 2, 2], [2, 2, 1, 0]])
    scores = MeanIoU(THREE)
    scores.update(prediction, truth)
    assert scores.result() == {"mIoU": pytest.approx((2 / 4 + 3 / 5) / 2), "accuracy": pytest.approx(5 / 7)}


def test_classes_of_one_name_are_averaged_apart() -> None:
    scores = MeanIoU(Vocabulary(("cat", "cat")))
    scores.update(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]]))
    assert scores.result()["mIoU"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_panoptic_quality_by_hand() -> None:
    """One cat is found by 4 of 6 pixels, one is missed, one dog is invented; the sky is found whole."""
    truth = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 2, -1]], np.int32)
    found = np.array([[0, 0, 0, 1, 1], [2, 2, 2, 2, -1]], np.int32)
    scores = PanopticQuality(THREE)
    scores.update((found, np.array([0, 1, 2])), (truth, np.array([0, 0, 2])))
    # cat: 1 match at 1.0, 1 missed -> 1 / 1.5; dog: 1 invented -> 0; sky 1.
    expected = {"PQ": (1 / 1.5 + 0 + 1) / 3, "SQ": 2 / 3, "RQ": (1 / 1.5 + 0 + 1) / 3}
    result = scores.result()
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["PQ_things"] == pytest.approx(1 / 3)
    assert result["PQ_stuff"] == 1


def test_half_is_no_match_and_void_does_not_count() -> None:
    truth = np.array([[0, 0, -1, -1, -1, -1]], np.int32)
    scores = PanopticQuality(THREE)
    # Covers the cat and void: without void the two are the same. The second lies in void and is no invention.
    scores.update((np.array([[0, 0, 0, 1, 1, 1]], np.int32), np.array([0, 0])), (truth, np.array([0])))
    assert scores.result()["PQ"] == 1
    half = PanopticQuality(THREE)
    half.update((np.array([[0, -1]], np.int32), np.array([0])), (np.array([[0, 0]], np.int32), np.array([0])))
    assert half.result() == {"PQ": 0, "SQ": 0, "RQ": 0, "PQ_things": 0}


segments = st.lists(st.integers(-1, 3), min_size=12, max_size=12).map(
    lambda values: np.array(values, np.int32).reshape(3, 4)
)
classes = st.lists(st.integers(0, 2), min_size=4, max_size=4).map(lambda values: np.array(values, np.int64))


Counts = list[list[float]]
"""Of each class: overlap of matches, matches, inventions, misses."""


def direct(
    found: np.ndarray,
    found_classes: np.ndarray,
    told: np.ndarray,
    told_classes: np.ndarray,
    crowd: np.ndarray,
) -> Counts:
    """Kirillov et al. 2019, section 4, as COCO's own tool counts, segment by segment.

    Of the union only void is taken. What was not matched is excused where more than half of it is void or a
    crowd of its own class; a crowd is neither matched nor missed.
    """
    counts: Counts = [[0.0, 0, 0, 0] for _ in THREE.names]
    told_numbers, found_numbers = ({int(i) for i in part.ravel()} - {-1} for part in (told, found))
    matched, matches = set(), set()
    for i in told_numbers:
        for j in found_numbers:
            inside = ((told == i) & (found == j)).sum()
            union = ((told == i) | ((found == j) & (told >= 0))).sum()
            if told_classes[i] == found_classes[j] and not crowd[i] and inside / union > 0.5:
                counts[told_classes[i]][0] += inside / union
                counts[told_classes[i]][1] += 1
                matched.add(i)
                matches.add(j)
    for j in found_numbers - matches:
        excuses = {-1} | {i for i in told_numbers if crowd[i] and told_classes[i] == found_classes[j]}
        if np.isin(told[found == j], list(excuses)).mean() <= 0.5:
            counts[found_classes[j]][2] += 1
    for i in told_numbers - matched:
        counts[told_classes[i]][3] += not crowd[i]
    return counts


def test_a_crowd_excuses_its_own_class_and_stays_in_the_union() -> None:
    truth = np.array([[0] * 4 + [1] * 8], np.int32), np.array([0, 1])  # a cat, and a crowd of dogs
    crowd = np.array([False, True])
    spilt = PanopticQuality(THREE)  # a cat that reaches three pixels into the crowd
    spilt.update((np.array([[0] * 7 + [-1] * 5], np.int32), np.array([0])), truth, crowd)
    assert spilt.result()["PQ"] == pytest.approx(4 / 7)
    invented = np.array([[0] * 4 + [1] * 8], np.int32)
    for label, wanted in ((0, 1 / 1.5), (1, 1)):  # a second cat in it is invented, a dog is not
        scores = PanopticQuality(THREE)
        scores.update((invented, np.array([0, label])), truth, crowd)
        assert scores.result()["PQ"] == pytest.approx(wanted)


@settings(deadline=None)
@given(segments, classes, segments, classes, st.lists(st.booleans(), min_size=4, max_size=4).map(np.array))
def test_panoptic_quality_is_the_direct_computation(
    found: np.ndarray,
    found_classes: np.ndarray,
    told: np.ndarray,
    told_classes: np.ndarray,
    crowd: np.ndarray,
) -> None:
    """Segments without a pixel, as an object hidden behind others, are none."""
    scores = PanopticQuality(THREE)
    scores.update((found, found_classes), (told, told_classes), crowd)
    own = np.stack([scores.overlap, scores.matched, scores.spurious, scores.missed], axis=1)
    assert own == pytest.approx(np.array(direct(found, found_classes, told, told_classes, crowd)))


def test_merging_is_seeing_all() -> None:
    rng = np.random.default_rng(0)
    for kind in (MeanIoU, PanopticQuality):
        whole, parts = kind(THREE), [kind(THREE), kind(THREE)]
        for number in range(4):
            told, found = (rng.integers(0, 3, (6, 6)).astype(np.int32) for _ in range(2))
            pair = (found, told) if kind is MeanIoU else ((found, np.arange(3)), (told, np.arange(3)))
            whole.update(*pair)
            parts[number % 2].update(*pair)
        parts[0].merge(parts[1])
        assert parts[0].result() == pytest.approx(whole.result())


def test_nothing_and_other_sizes_are_refused() -> None:
    none = np.zeros((2, 3), np.int32) - 1
    for kind in (MeanIoU, PanopticQuality):
        with pytest.raises(InputError, match="nothing to score"):
            kind(THREE).result()
    with pytest.raises(InputError, match="resize one of them"):
        MeanIoU(THREE).update(none.T, none)
    with pytest.raises(InputError, match="resize one of them"):
        PanopticQuality(THREE).update((none.T, np.zeros(0, int)), (none, np.zeros(0, int)))
    with pytest.raises(InputError, match="resize one of them"):
        AveragePrecision(THREE).update([Instance(none.T < 0, 0)], [Instance(none < 0, 0)])


def test_what_is_no_class_is_refused_and_enters_nothing() -> None:
    """255 for what is not told, say: it would count as other classes' pixels, or end in NumPy's words."""
    cats = np.zeros((2, 2), np.uint8)
    scores, panoptic = MeanIoU(THREE), PanopticQuality(THREE)
    one, two = (cats.astype(np.int32), np.array([0])), (cats.astype(np.int32) + 1, np.array([0]))
    other = (cats.astype(np.int32), np.array([3]))
    for first, second, what in ((4, 0, "prediction"), (0, 255, "truth"), (3, 0, "prediction")):
        line = f"the {what} holds class {max(first, second)}, expected 0 to 2, and -1 for none"
        with pytest.raises(InputError, match=line):
            scores.update(cats + np.uint8(first), cats + np.uint8(second))
    for prediction, truth, line in (
        (two, one, "the prediction holds segment 1, expected 0 to 0, and -1 for none"),
        (one, two, "the truth holds segment 1"),
        (other, one, "the prediction holds class 3, expected 0 to 2$"),
        (one, other, "the truth holds class 3"),
    ):
        with pytest.raises(InputError, match=line):
            panoptic.update(prediction, truth)
    with pytest.raises(InputError, match=r"the truth holds class 3, expected 0 to 2$"):
        AveragePrecision(THREE).update([], [Instance(cats == 0, 3)])
    scores.update(cats, cats)
    panoptic.update(one, one)
    assert scores.result()["mIoU"] == panoptic.result()["PQ"] == 1


@pytest.mark.parametrize("measure", [MeanIoU, PanopticQuality, AveragePrecision])
def test_only_scores_of_the_same_classes_are_merged(measure: Any) -> None:
    """Of one class, NumPy would have added them to every class."""
    with pytest.raises(InputError, match="scores of different classes do not merge"):
        measure(THREE).merge(measure(Vocabulary(("cat",))))
    with pytest.raises(InputError, match="scores of different classes do not merge"):
        measure(THREE).merge(measure(Vocabulary(("dog", "cat", "sky"), stuff=(2,))))
