"""Validation while training: the field's metrics on held-out pairs, from pysodmetrics."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import py_sod_metrics
from numpy.typing import NDArray

from decoupe.errors import InputError

FloatArray = NDArray[np.float32]


def score(pairs: Iterable[tuple[FloatArray, NDArray[np.uint8]]]) -> dict[str, float]:
    """S-measure, MAE, maximal F-measure (β² = 0.3) and weighted F-measure over pairs.

    Args:
        pairs: alpha ``(H, W)`` in [0, 1] and truth ``(H, W)`` uint8, of equal size. The alpha is used as
            it is: nothing is stretched to fill [0, 1].

    Raises:
        InputError: there are no pairs.
    """
    metrics = {
        "S": py_sod_metrics.Smeasure(),
        "MAE": py_sod_metrics.MAE(),
        "F": py_sod_metrics.FmeasureV2({"fm": py_sod_metrics.FmeasureHandler(True, False, beta=0.3)}),
        "wF": py_sod_metrics.WeightedFmeasure(),
    }
    count = 0
    for alpha, truth in pairs:
        for metric in metrics.values():
            metric.step(pred=alpha.astype(np.float64), gt=truth > 127, normalize=False)
        count += 1
    if not count:
        raise InputError("nothing to validate on: give at least one held-out pair")
    results = {name: metric.get_results() for name, metric in metrics.items()}
    return {
        "S": float(results["S"]["sm"]),
        "MAE": float(results["MAE"]["mae"]),
        "maxF": float(results["F"]["fm"]["dynamic"].max()),
        "wF": float(results["wF"]["wfm"]),
    }
