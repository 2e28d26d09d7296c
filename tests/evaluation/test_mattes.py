"""Scores of mattes: against pysodmetrics where it has them, by hand where it has not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import py_sod_metrics
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.errors import InputError
from decoupe.evaluation.mattes import MatteScores, score
from decoupe.evaluation.measures import COLUMNS, Pair, human_correction_effort

Picture = tuple[np.ndarray, np.ndarray]


def pictures(count: int, seed: int = 0) -> list[Picture]:
    """Alphas and truths, uint8: shapes with soft edges, noise and holes."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        height, width = rng.integers(40, 90, 2)
        y, x = np.mgrid[:height, :width]
        truth = np.zeros((height, width))
        for _ in range(rng.integers(1, 4)):
            cy, cx, ry, rx = rng.uniform(0.1, 0.9, 4) * (height, width, height / 2, width / 2)
            truth = np.maximum(truth, np.clip(4 * (1 - ((y - cy) / ry) ** 2 - ((x - cx) / rx) ** 2), 0, 1))
        alpha = np.clip(
            np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) + rng.normal(0, 0.2, truth.shape), 0, 1
        )
        pairs.append(((alpha * 255).astype(np.uint8), (truth * 255).round().astype(np.uint8)))
    return pairs


def constant(value: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda truth: np.full_like(truth, value)


DEGENERATE: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "empty truth": (lambda alpha: alpha, constant(0)),
    "full truth": (lambda alpha: alpha, constant(255)),
    "nothing predicted": (constant(0), lambda truth: truth),
    "all predicted": (constant(255), lambda truth: truth),
    "grey predicted": (constant(100), lambda truth: truth),
    "nothing at all": (constant(0), constant(0)),
    "everything": (constant(255), constant(255)),
}


def by_pysodmetrics(pairs: list[Picture], *, stretch: bool) -> dict[str, float]:
    """What the library says, one pair after the other, of the pictures as they lie in files."""
    f = py_sod_metrics.FmeasureV2(
        {
            "F": py_sod_metrics.FmeasureHandler(True, True, beta=0.3),
            "IoU": py_sod_metrics.IOUHandler(False, False, with_binary=True),
        }
    )
    metrics = {
        "F": f,
        "S": py_sod_metrics.Smeasure(),
        "MAE": py_sod_metrics.MAE(),
        "E": py_sod_metrics.Emeasure(),
        "wF": py_sod_metrics.WeightedFmeasure(),
        "HCE": py_sod_metrics.HumanCorrectionEffortMeasure(),
    }
    for alpha, truth in pairs:
        for metric in metrics.values():
            if stretch:
                metric.step(pred=alpha, gt=truth)
            else:
                metric.step(pred=alpha / 255, gt=truth > 128, normalize=False)
    found = {name: metric.get_results() for name, metric in metrics.items()}
    return {
        "S": found["S"]["sm"],
        "MAE": found["MAE"]["mae"],
        "wF": found["wF"]["wfm"],
        "HCE": found["HCE"]["hce"],
        "maxF": found["F"]["F"]["dynamic"].max(),
        "meanF": found["F"]["F"]["dynamic"].mean(),
        "adpF": found["F"]["F"]["adaptive"],
        "IoU": found["F"]["IoU"]["binary"],
        "maxE": found["E"]["em"]["curve"].max(),
        "meanE": found["E"]["em"]["curve"].mean(),
        "adpE": found["E"]["em"]["adp"],
    }


@pytest.mark.parametrize("stretch", [False, True])
def test_scores_are_pysodmetrics(stretch: bool) -> None:
    pairs = pictures(6)
    expected = by_pysodmetrics(pairs, stretch=stretch)
    scores = MatteScores(tuple(expected), stretch=stretch)
    for alpha, truth in pairs:
        scores.update(alpha, truth)
    assert scores.result() == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # pysodmetrics' own, of empty truths
@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("name", DEGENERATE)
def test_scores_of_degenerate_pictures_are_pysodmetrics(name: str, stretch: bool) -> None:
    (alpha, truth), change = pictures(1)[0], DEGENERATE[name]
    alpha, truth = change[0](alpha), change[1](truth)
    expected = by_pysodmetrics([(alpha, truth)], stretch=stretch)
    found = score(alpha, truth, tuple(expected), stretch=stretch).values
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("edge", [np.s_[:, -1], np.s_[-1, :], np.s_[-1, -1]])
def test_structure_of_a_subject_at_the_far_edge_is_a_number(edge: tuple[int | slice, ...]) -> None:
    """Its centre leaves parts of the picture without a pixel, of which pysodmetrics' mean is none."""
    truth = np.zeros((20, 30), np.uint8)
    truth[edge] = 255
    assert score(truth, truth, ("S",)).values["S"] == pytest.approx(1)
    # Nothing found: the background alone is right, and no part is alike.
    nothing = score(np.zeros_like(truth), truth, ("S",)).values["S"]
    assert nothing == pytest.approx((truth == 0).mean() / 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(0, 40))
def test_effort_is_that_of_the_whole_picture(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    alpha, truth = np.zeros((80, 96), bool), np.zeros((80, 96), bool)
    for mask in (alpha, truth):
        for _ in range(3):
            top, left, height, width = rng.integers(0, 30, 4)
            mask[top + shift : top + shift + height, left + shift : left + shift + width] = True
    metric = py_sod_metrics.HumanCorrectionEffortMeasure()
    metric.step(pred=alpha.astype(float), gt=truth, normalize=False)
    assert human_correction_effort(Pair(alpha, truth))["HCE"] == metric.get_results()["hce"]


def test_effort_by_hand() -> None:
    truth = np.zeros((100, 100), bool)
    truth[20:80, 20:80] = True
    assert score(truth, truth, ("HCE",)).values["HCE"] == 0
    near = np.roll(truth, 2, axis=1)  # within the relaxation of 5 pixels
    assert score(near, truth, ("HCE",)).values["HCE"] == 0
    apart = truth.copy()
    apart[84:98, 84:98] = True  # a piece of its own: one click takes it away
    assert score(apart, truth, ("HCE",)).values["HCE"] == 1


def test_boundary_accuracy_by_hand() -> None:
    truth = np.zeros((20, 20), bool)
    truth[:, 10:] = True  # radius 1 at this size: the band is columns 9 and 10
    assert score(truth, truth, ("mBA",)).values["mBA"] == 1
    moved = np.roll(truth, 1, axis=1)
    moved[:, 0] = False  # column 10 is wrong
    assert score(moved, truth, ("mBA",)).values["mBA"] == 0.5
    assert np.isnan(score(truth, np.ones_like(truth), ("mBA",)).values["mBA"])


def test_boundary_accuracy_takes_five_widths() -> None:
    truth = np.zeros((600, 600), bool)
    truth[:, 300:] = True
    moved = np.zeros_like(truth)
    moved[:, 301:] = True  # one column is wrong
    # (600 + 600) / 300 = 4: radii 1 + int(0.6 · (0, 1, 2, 3, 4)) = 1, 1, 2, 2, 3; a band is twice as wide.
    expected = np.mean([1 - 1 / (2 * radius) for radius in (1, 1, 2, 2, 3)])
    assert score(moved, truth, ("mBA",)).values["mBA"] == pytest.approx(expected, abs=1e-12)


def test_boundary_accuracy_ignores_pictures_without_an_outline() -> None:
    truth = np.zeros((20, 20), bool)
    truth[:, 10:] = True
    scores = MatteScores(("mBA",))
    scores.update(truth, truth)
    scores.update(truth, np.zeros_like(truth))
    assert scores.result()["mBA"] == 1


def test_boundary_iou_by_hand() -> None:
    truth = np.zeros((40, 30), bool)  # diagonal 50: outlines are one pixel wide
    truth[10:20, 10:20] = True
    assert score(truth, truth, ("BIoU",)).values["BIoU"] == 1
    whole = np.zeros_like(truth)
    whole[10:20, 10:21] = True  # 36 pixels of outline against 38; top and bottom share 10 each, the left 8
    assert score(whole, truth, ("BIoU",)).values["BIoU"] == pytest.approx(28 / (36 + 38 - 28))
    none = np.zeros_like(truth)
    assert score(none, none, ("BIoU",)).values["BIoU"] == 1
    assert score(none, truth, ("BIoU",)).values["BIoU"] == 0
    full = np.ones_like(truth)  # the picture's border is an edge
    inner = np.zeros_like(truth)
    inner[1:-1, 1:-1] = True
    assert score(inner, full, ("BIoU",)).values["BIoU"] == 0


def test_errors_of_mattes_by_hand() -> None:
    truth = np.array([[0.0, 0.5], [1.0, 1.0]])
    alpha = np.array([[0.2, 0.5], [0.9, 0.4]])
    values = score(alpha, truth, ("SAD", "MSE"), stretch=True).values  # taken as they are all the same
    assert values["SAD"] == pytest.approx(0.9 / 1000)
    assert values["MSE"] == pytest.approx((0.04 + 0.01 + 0.36) / 4)


def test_gradient_error_by_hand() -> None:
    place = np.arange(-4, 5)
    smooth = np.exp(-(place**2) / (2 * 1.4**2))
    kernel = np.outer(smooth, place * smooth)
    kernel /= np.linalg.norm(kernel)
    truth = np.zeros((31, 31))
    alpha = truth.copy()
    alpha[15, 15] = 0.5  # its gradients are the kernels themselves
    expected = 0.25 * ((kernel**2).sum() + (kernel.T**2).sum())
    assert score(alpha, truth, ("Grad",)).values["Grad"] == pytest.approx(expected / 1000)


def test_gradient_error_is_of_slopes_alone() -> None:
    alpha, truth = (one / 255 for one in pictures(1)[0])
    error = score(alpha, truth, ("Grad",)).values["Grad"]
    assert error > 0
    assert score(alpha / 2 + 0.5, truth / 2 + 0.25, ("Grad",)).values["Grad"] == pytest.approx(error / 4)
    assert score(alpha.T, truth.T, ("Grad",)).values["Grad"] == pytest.approx(error)
    assert score(1 - alpha, 1 - truth, ("Grad",)).values["Grad"] == pytest.approx(error)
    assert score(truth, truth, ("Grad",)).values["Grad"] == 0


def test_connectivity_error_by_hand() -> None:
    truth = np.zeros((6, 9))
    truth[1:5, 1:5] = 1.0
    alpha = truth.copy()
    alpha[2:4, 7] = 0.8  # two pixels apart, which join at no threshold: l = 0, and 0.8 counts
    assert score(alpha, truth, ("Conn",)).values["Conn"] == pytest.approx(2 * 0.8 / 1000)
    alpha[2:4, 7] = 0.1  # below θ nothing counts
    assert score(alpha, truth, ("Conn",)).values["Conn"] == 0
    thin = truth.copy()
    thin[4, 4] = 0.62  # of the subject, joined up to 0.6: of the truth 0.4 is above, of the prediction 0.02
    assert score(thin, truth, ("Conn",)).values["Conn"] == pytest.approx(0.4 / 1000)
    thin[4, 4] = 153 / 255  # joined at the threshold itself
    assert score(thin, truth, ("Conn",)).values["Conn"] == pytest.approx(0.4 / 1000)


def test_a_perfect_and_a_wrong_prediction() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[20:40, 20:60] = 255
    perfect, wrong = score(truth, truth).values, score(255 - truth, truth).values
    best = {name: 1.0 if column.better == "higher" else 0.0 for name, column in COLUMNS.items()}
    for name in ("meanF", "meanE"):  # at the threshold 0 everything is the subject
        assert perfect.pop(name) > 0.98
        best.pop(name)
    assert perfect == pytest.approx(best, abs=2e-3)
    for name, column in COLUMNS.items():
        assert (wrong[name] < 0.6) if column.better == "higher" else (wrong[name] > 0 or name == "Grad")


def test_one_pixel_has_scores() -> None:
    values = score(np.full((1, 1), 255, np.uint8), np.full((1, 1), 255, np.uint8)).values
    assert all(0 <= value <= 1 for value in values.values() if not np.isnan(value))
    assert (values["S"], values["maxE"]) == (1, 1)


def test_merging_is_seeing_all() -> None:
    whole, parts = MatteScores(tuple(COLUMNS)), [MatteScores(tuple(COLUMNS)) for _ in range(2)]
    for number, pair in enumerate(pictures(5)):
        whole.update(*pair)
        parts[number % 2].update(*pair)
    merged = copy.deepcopy(parts[0])
    merged.merge(parts[1])
    assert merged.result() == pytest.approx(whole.result(), abs=1e-14)
    assert [len(values) for values in merged.values.values()] == [5] * len(COLUMNS)


def test_only_what_was_scored_alike_is_merged() -> None:
    """Others were half entered before they failed, or gave means over different counts."""
    scores = MatteScores(("S", "MAE"))
    scores.update(*pictures(1)[0])
    for other in (MatteScores(("S",)), MatteScores(("MAE", "S")), MatteScores(("S", "MAE"), stretch=True)):
        other.update(*pictures(1)[0])
        with pytest.raises(InputError, match="scores of S, MAE of mattes as they are do not merge with "):
            scores.merge(other)
    assert [len(values) for values in scores.values.values()] == [1, 1]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_depth_does_not_matter(dtype: type) -> None:
    alpha, truth = pictures(1)[0]
    deep = {np.uint16: lambda x: x.astype(np.uint16) * 257}.get(dtype, lambda x: (x / 255).astype(dtype))
    columns = ("S", "MAE", "maxF", "SAD")
    expected = score(alpha, truth, columns).values
    assert score(deep(alpha), deep(truth), columns).values == pytest.approx(expected, abs=1e-6)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to score: give at least one picture"):
        MatteScores().result()
    with pytest.raises(InputError, match=r"the prediction is \(2, 3\), its truth \(3, 2\): .*resize"):
        MatteScores().update(np.zeros((2, 3)), np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="unknown measure 'maxf'; did you mean 'maxF'"):
        MatteScores(("maxf",))
    with pytest.raises(InputError, match="the prediction runs from 0 to 255: expected values from 0 to 1"):
        score(np.array([[0.0, 255.0]]), np.zeros((1, 2), np.uint8))
    with pytest.raises(InputError, match=r"the truth runs from nan to nan"):
        score(np.zeros((1, 2)), np.full((1, 2), np.nan))
    with pytest.raises(InputError, match="the truth is int64: expected floats"):
        score(np.zeros((1, 2)), np.zeros((1, 2), np.int64))
