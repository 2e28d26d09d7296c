"""Measures of mattes and saliency maps: those of pysodmetrics, entered picture by picture."""

from __future__ import annotations

import math

import numpy as np
import py_sod_metrics
from numpy.typing import NDArray

from decoupe.errors import InputError

SUBJECT = 128
"""Value of the truth from which a pixel is the subject's."""


class MatteScores:
    """S-measure, mean absolute error, maximal F-measure (β² = 0.3) and weighted F-measure.

    Fan et al. 2017 (S), Achanta et al. 2009 (F), Margolin et al. 2014 (weighted F, β² = 1); means over
    pictures, and the maximum of the mean curve. The prediction is used as it is,
    not stretched to fill [0, 1].

    Attributes:
        values: of each picture, in the order they were entered, by the measure's name.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {"S": [], "MAE": [], "wF": []}
        self._curve = np.zeros(256)

    def update(self, prediction: NDArray[np.floating], truth: NDArray[np.uint8]) -> None:
        """Enter one picture.

        Args:
            prediction: alpha ``(H, W)`` in [0, 1].
            truth: uint8 ``(H, W)``.

        Raises:
            InputError: the two differ in size.
        """
        if prediction.shape != truth.shape:
            raise InputError(
                f"the prediction is {prediction.shape}, its truth {truth.shape}: resize one of them"
            )
        metrics = {
            "S": py_sod_metrics.Smeasure(),
            "MAE": py_sod_metrics.MAE(),
            "F": py_sod_metrics.FmeasureV2({"fm": py_sod_metrics.FmeasureHandler(True, False, beta=0.3)}),
            "wF": py_sod_metrics.WeightedFmeasure(),
        }
        for metric in metrics.values():
            metric.step(pred=prediction.astype(np.float64), gt=truth >= SUBJECT, normalize=False)
        results = {name: metric.get_results() for name, metric in metrics.items()}
        self._curve += np.asarray(results["F"]["fm"]["dynamic"], np.float64)
        for name, key in (("S", "sm"), ("MAE", "mae"), ("wF", "wfm")):
            self.values[name].append(float(results[name][key]))

    def merge(self, other: MatteScores) -> None:
        """Enter what another process has seen."""
        self._curve += other._curve
        for name, values in other.values.items():
            self.values[name] += values

    def result(self) -> dict[str, float]:
        """Means over the pictures so far.

        Raises:
            InputError: there were none.
        """
        count = len(self.values["S"])
        if not count:
            raise InputError("nothing to score: give at least one picture")
        means = {name: math.fsum(values) / count for name, values in self.values.items()}
        return {
            "S": means["S"],
            "MAE": means["MAE"],
            "maxF": float(self._curve.max() / count),
            "wF": means["wF"],
        }
