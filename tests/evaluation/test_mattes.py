from __future__ import annotations

import copy

import numpy as np
import py_sod_metrics
import pytest

from decoupe.errors import InputError
from decoupe.evaluation.mattes import MatteScores


def pictures(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        truth = np.zeros((24, 30), np.uint8)
        top, left = rng.integers(1, 10, 2)
        truth[top : top + 9, left : left + 12] = 255
        alpha = (truth / 255 * 0.8 + rng.uniform(0, 0.2, truth.shape)).astype(np.float32)
        pairs.append((alpha, truth))
    return pairs


def test_scores_are_pysodmetrics() -> None:
    scores, pairs = MatteScores(), pictures(5)
    measures = py_sod_metrics.Smeasure(), py_sod_metrics.MAE(), py_sod_metrics.WeightedFmeasure()
    f = py_sod_metrics.FmeasureV2({"fm": py_sod_metrics.FmeasureHandler(True, False, beta=0.3)})
    for alpha, truth in pairs:
        scores.update(alpha, truth)
        for measure in (*measures, f):
            measure.step(pred=alpha.astype(np.float64), gt=truth > 127, normalize=False)
    result = scores.result()
    expected = {
        "S": measures[0].get_results()["sm"],
        "MAE": measures[1].get_results()["mae"],
        "wF": measures[2].get_results()["wfm"],
        "maxF": f.get_results()["fm"]["dynamic"].max(),
    }
    assert result == pytest.approx(expected, abs=1e-12)
    assert [len(values) for values in scores.values.values()] == [5, 5, 5]


def test_a_perfect_and_a_wrong_prediction() -> None:
    _, truth = pictures(1)[0]
    perfect, wrong = MatteScores(), MatteScores()
    perfect.update(truth / 255, truth)
    wrong.update(1 - truth / 255, truth)
    assert perfect.result()["MAE"] == 0
    assert perfect.result()["S"] == pytest.approx(1, abs=1e-6)
    assert wrong.result()["MAE"] == 1
    assert wrong.result()["S"] < 0.2


def test_merging_is_seeing_all() -> None:
    whole, parts = MatteScores(), [MatteScores(), MatteScores()]
    for number, pair in enumerate(pictures(5)):
        whole.update(*pair)
        parts[number % 2].update(*pair)
    merged = copy.deepcopy(parts[0])
    merged.merge(parts[1])
    assert merged.result() == pytest.approx(whole.result(), abs=1e-14)


def test_nothing_and_other_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to score: give at least one picture"):
        MatteScores().result()
    with pytest.raises(InputError, match=r"the prediction is \(2, 3\), its truth \(3, 2\): resize"):
        MatteScores().update(np.zeros((2, 3)), np.zeros((3, 2), np.uint8))
