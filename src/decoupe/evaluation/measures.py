"""Measures of one matte or saliency map against its truth, each a function of a `Pair`.

S and HCE are pysodmetrics'; F, E and weighted F equal its to the last digits, and share among them what it
counts anew for each. The rest follows the publications named with it. `COLUMNS` names every number that a
table can show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from decoupe.errors import InputError

Array = NDArray[np.float64]
Numbers = Mapping[str, "float | Array"]
"""Numbers by name; arrays are curves of 256 numbers over the thresholds 255/255, 254/255, … 0."""

EPS = float(np.spacing(1))
"""What keeps divisions by 0 out, as in pysodmetrics."""
SUBJECT = 128.5 / 255
"""Truth above which a pixel is the subject's: of 8 bits 129 and more, as pysodmetrics has it."""


class Pair:
    """A prediction and its truth.

    Args:
        prediction: ``(H, W)``: floats in [0, 1], or whole numbers of 8 or 16 bits, or bools.
        truth: the same.
        stretch: stretch the prediction to fill [0, 1] first, as the tables of most papers were made.

    Raises:
        InputError: the two differ in size, or a value is outside [0, 1].
    """

    def __init__(self, prediction: NDArray[Any], truth: NDArray[Any], *, stretch: bool = False) -> None:
        if prediction.shape != truth.shape or prediction.ndim != 2 or not prediction.size:
            raise InputError(
                f"the prediction is {prediction.shape}, its truth {truth.shape}: "
                "expected one (height, width) for both, resize one of them"
            )
        self.alpha, self.matte = unit(prediction, "prediction"), unit(truth, "truth")
        self.stretch = stretch

    @cached_property
    def prediction(self) -> Array:
        """The prediction as it is judged, in [0, 1]."""
        if not self.stretch:
            return self.alpha
        least, most = self.alpha.min(), self.alpha.max()
        return (self.alpha - least) / (most - least) if most > least else self.alpha

    @cached_property
    def subject(self) -> NDArray[np.bool_]:
        """Where the truth is the subject."""
        return self.matte > SUBJECT

    @cached_property
    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pixels at or above each threshold, 255/255 first: those of the subject, and the others."""
        levels = (self.prediction * 255).astype(np.uint8) + np.uint16(256) * self.subject
        histogram = np.bincount(levels.ravel(), minlength=512).reshape(2, 256)
        others, subject = histogram[:, ::-1].cumsum(axis=1)
        return subject, others

    @cached_property
    def adaptive_counts(self) -> tuple[int, int]:
        """`counts` at one threshold, twice the prediction's mean."""
        above = self.prediction >= min(2 * self.prediction.mean(), 1)
        return self._split(above)

    @cached_property
    def binary_counts(self) -> tuple[int, int]:
        """`counts` of the pixels above one half."""
        return self._split(self.found)

    def _split(self, above: NDArray[np.bool_]) -> tuple[int, int]:
        inside = int(np.count_nonzero(above & self.subject))
        return inside, int(np.count_nonzero(above)) - inside

    @cached_property
    def found(self) -> NDArray[np.bool_]:
        """Where the prediction is above one half."""
        return self.prediction > 0.5


def unit(values: NDArray[Any], what: str) -> Array:
    """Values of any type as float64 in [0, 1]; InputError outside."""
    if values.dtype == np.bool_:
        return values.astype(np.float64)
    if values.dtype in (np.uint8, np.uint16):
        return values / float(np.iinfo(values.dtype).max)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"the {what} is {values.dtype}: expected floats in [0, 1], uint8, uint16 or bool")
    least, most = float(values.min()), float(values.max())
    if not (least >= 0 and most <= 1):
        raise InputError(f"the {what} runs from {least:g} to {most:g}: expected values from 0 to 1")
    return values.astype(np.float64)


def _metric(name: str) -> Any:
    """A metric of pysodmetrics by its name."""
    import py_sod_metrics  # with it comes scikit-learn, which takes more than a second

    return getattr(py_sod_metrics, name)()


def _stepped(name: str, pair: Pair) -> dict[str, Any]:
    """What a metric of pysodmetrics, by its name, says of one pair."""
    metric = _metric(name)
    metric.step(pred=pair.prediction, gt=pair.subject, normalize=False)
    results: dict[str, Any] = metric.get_results()
    return results


def s_measure(pair: Pair) -> Numbers:
    """Structure measure, α = 0.5 (Fan et al., ICCV 2017, equation 8)."""
    metric = _metric("Smeasure")
    similarity = metric.ssim
    # A subject whose centre is at the right or lower edge leaves parts without a pixel; they weigh nothing,
    # but pysodmetrics takes their mean, which is not a number.
    metric.ssim = lambda prediction, truth: similarity(prediction, truth) if truth.size else 0.0
    return {"S": float(metric.cal_sm(pair.prediction, pair.subject))}


def mae(pair: Pair) -> Numbers:
    """Mean absolute error against the binary truth (Perazzi et al., CVPR 2012)."""
    return {"MAE": float(np.abs(pair.prediction - pair.subject).mean())}


def f_measure(pair: Pair) -> Numbers:
    """F-measure, β² = 0.3 (Achanta et al., CVPR 2009): over all thresholds, and at twice the mean.

    With it precision and recall over all thresholds, and the intersection over union at one half.
    """
    positives = int(np.count_nonzero(pair.subject))
    (hits, others), (adaptive_hits, adaptive_others) = pair.counts, pair.adaptive_counts
    binary_hits, binary_others = pair.binary_counts
    return {
        "adpF": float(_f(adaptive_hits, adaptive_others, positives)),
        "F": _f(hits, others, positives),
        "precision": _share(hits, hits + others),
        "recall": _share(hits, np.full(256, positives)),
        "IoU": float(_share(binary_hits, positives + binary_others)),
    }


def _share(part: Any, whole: Any) -> Array:
    """A part of a whole, 0 where there is no whole."""
    share: Array = np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) != 0)
    return share


def _f(hits: Any, others: Any, positives: int) -> Array:
    """The F-measure, β² = 0.3, in counts of pixels: (1 + β²) hits / (β² positives + found)."""
    return _share(1.3 * hits, 0.3 * positives + hits + others)


def e_measure(pair: Pair) -> Numbers:
    """Enhanced-alignment measure (Fan et al., IJCAI 2018): over all thresholds, and at twice the mean."""
    return {"adpE": float(_e(pair, *pair.adaptive_counts)), "E": _e(pair, *pair.counts)}


def _e(pair: Pair, hits: Any, others: Any) -> Array:
    """The E-measure of binary maps, which have four kinds of pixels, from how many there are of each."""
    size, positives = pair.subject.size, np.count_nonzero(pair.subject)
    found = np.asarray(hits + others, np.float64)
    if positives in (0, size):
        aligned = found if positives else size - found
    else:
        mean_found, mean_truth = found / size, positives / size
        kinds = (
            (hits, 1 - mean_found, 1 - mean_truth),
            (others, 1 - mean_found, -mean_truth),
            (positives - hits, -mean_found, 1 - mean_truth),
            (size - positives - others, -mean_found, -mean_truth),
        )
        aligned = np.zeros_like(found)
        for count, of_found, of_truth in kinds:
            alignment = 2 * of_found * of_truth / (of_found**2 + of_truth**2 + EPS)
            aligned += (alignment + 1) ** 2 / 4 * count
    measure: Array = aligned / max(size - 1 + EPS, 1)  # of one pixel, pysodmetrics says 10^15
    return measure


def weighted_f(pair: Pair) -> Numbers:
    """Weighted F-measure, β² = 1 (Margolin et al., CVPR 2014, section 4); 0 where the truth is empty."""
    subject, outside = pair.subject, ~pair.subject
    if not subject.any():
        return {"wF": 0.0}
    error = np.abs(pair.prediction - subject)
    distance, nearest = distance_transform_edt(outside, return_indices=True)
    # A pixel outside depends on the error of the subject's nearest; inside, on those around it.
    dependent = error.copy()
    dependent[outside] = error[nearest[0][outside], nearest[1][outside]]
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 5**2))
    line /= line.sum()
    smooth = cv2.sepFilter2D(dependent, -1, line, line, borderType=cv2.BORDER_CONSTANT)
    inside = np.minimum(error, smooth)[subject]
    importance = 2 - np.exp(np.log(0.5) / 5 * distance[outside])
    hits = len(inside) - inside.sum()
    recall = 1 - inside.mean()
    precision = hits / (hits + (error[outside] * importance).sum() + EPS)
    return {"wF": float(2 * recall * precision / (recall + precision + EPS))}


def human_correction_effort(pair: Pair) -> Numbers:
    """Human correction effort, relaxation 5 pixels, ε = 2 (Qin et al., ECCV 2022, section 4): clicks.

    It depends on what is near prediction and truth only: the rest of the picture is cut off first.
    """
    rows, columns = (np.flatnonzero((pair.found | pair.subject).any(axis)) for axis in (1, 0))
    if not len(rows):
        return {"HCE": 0.0}
    margin = 8  # the relaxation and its contours
    window = tuple(slice(max(0, int(one[0]) - margin), int(one[-1]) + 1 + margin) for one in (rows, columns))
    near = Pair(pair.found[window], pair.subject[window])
    return {"HCE": float(_stepped("HumanCorrectionEffortMeasure", near)["hce"])}


def boundary_accuracy(pair: Pair) -> Numbers:
    """Mean boundary accuracy (Cheng et al., "CascadePSP", CVPR 2020, section 4.1).

    The share of pixels that are right in a band around the truth's outline, averaged over five radii, as the
    authors' code takes them: from 1 pixel on, each a fifth of the way to (H + W)/300 further, rounded down;
    1, 2, 4, 6 and 8 where H + W is 3000. Not a number where the truth has no outline: such pictures do not
    count.
    """
    height, width = pair.subject.shape
    truth = pair.subject.astype(np.uint8)
    right = pair.found == pair.subject
    shares = []
    for step in range(5):
        radius = 1 + int(((height + width) / 300 - 1) / 5 * step)
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        band = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, disk) > 0
        shares.append(right[band].mean() if band.any() else np.nan)
    return {"mBA": float(np.mean(shares))}


def boundary_iou(pair: Pair) -> Numbers:
    """Intersection over union of the two outlines (Cheng et al., CVPR 2021, equation 2).

    An outline is what lies inside a mask within 2 % of the picture's diagonal of its edge; the picture's own
    border is an edge too. 1 where there are none.
    """
    height, width = pair.subject.shape
    distance = max(1, round(0.02 * float(np.hypot(height, width))))
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)

    def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        inside = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
        edge: NDArray[np.bool_] = mask & (inside == 0)
        return edge

    found, truth = outline(pair.found), outline(pair.subject)
    union = np.count_nonzero(found | truth)
    return {"BIoU": np.count_nonzero(found & truth) / union if union else 1.0}


def matte_errors(pair: Pair) -> Numbers:
    """Sum of absolute differences in thousands, and mean squared error, of the alpha as it is.

    Rhemann et al., CVPR 2009, section 4; over the whole picture, as P3M and AM-2k report them.
    """
    difference = pair.alpha - pair.matte
    return {"SAD": float(np.abs(difference).sum()) / 1000, "MSE": float((difference**2).mean())}


def gradient_error(pair: Pair) -> Numbers:
    """Gradient error in thousands (Rhemann et al., CVPR 2009, section 4).

    The squared difference of the gradients' magnitudes, under first derivatives of a Gaussian of σ = 1.4.
    """
    sigma, least = 1.4, 0.01
    half = int(np.ceil(sigma * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * sigma * least))))
    place = np.arange(-half, half + 1)
    smooth = np.exp(-(place**2) / (2 * sigma**2))
    slope = place * smooth
    norm = np.linalg.norm(np.outer(smooth, slope))

    def magnitude(alpha: Array) -> Array:
        across, down = (
            cv2.sepFilter2D(alpha, -1, kernel_x, kernel_y, borderType=cv2.BORDER_REPLICATE)
            for kernel_x, kernel_y in ((slope, smooth), (smooth, slope))
        )
        steepness: Array = np.hypot(across, down) / norm
        return steepness

    return {"Grad": float(((magnitude(pair.alpha) - magnitude(pair.matte)) ** 2).sum()) / 1000}


def connectivity_error(pair: Pair) -> Numbers:
    """Connectivity error in thousands (Rhemann et al., CVPR 2009, section 4), steps of 0.1, θ = 0.15.

    Of each pixel the largest threshold at which it belongs to the largest region, 4-connected, that both
    mattes share: how far alpha exceeds it counts where that is at least θ.
    """
    connected = np.full(pair.alpha.shape, -1.0)
    thresholds = [step / 10 for step in range(11)]  # 6 * 0.1 is above 0.6, which is 153 of 255
    for below, threshold in pairwise(thresholds):
        shared = ((pair.alpha >= threshold) & (pair.matte >= threshold)).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(shared, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = labels == 1 + int(np.argmax(areas)) if len(areas) else np.zeros_like(labels, bool)
        connected[(connected < 0) & ~largest] = below
    connected[connected < 0] = 1

    def degree(alpha: Array) -> Array:
        excess = alpha - connected
        joined: Array = 1 - excess * (excess >= 0.15)
        return joined

    return {"Conn": float(np.abs(degree(pair.alpha) - degree(pair.matte)).sum()) / 1000}


@dataclass(frozen=True)
class Column:
    """A number of a table.

    Attributes:
        title: for people.
        about: what it is, with its source.
        measure: what computes it, perhaps with others.
        better: which way.
        curve: the curve whose mean over pictures it summarises; None where it is a mean itself.
        summary: of the curve.
    """

    title: str
    about: str
    measure: Callable[[Pair], Numbers]
    better: Literal["higher", "lower"] = "higher"
    curve: str | None = None
    summary: Literal["max", "mean"] = "max"

    def of(self, curve: Array) -> float:
        """The curve's summary."""
        return float(curve.max() if self.summary == "max" else curve.mean())


_F = "F-measure, β² = 0.3 (Achanta et al., CVPR 2009)"
_E = "enhanced-alignment measure (Fan et al., IJCAI 2018)"
_RHEMANN = "(Rhemann et al., CVPR 2009, section 4)"
COLUMNS: dict[str, Column] = {
    "S": Column("S-measure", "structure measure, α = 0.5 (Fan et al., ICCV 2017)", s_measure),
    "maxF": Column("max F", f"largest {_F}, of the mean curve", f_measure, curve="F"),
    "meanF": Column("mean F", f"mean {_F}, over all thresholds", f_measure, curve="F", summary="mean"),
    "adpF": Column("adaptive F", f"{_F}, at twice the prediction's mean", f_measure),
    "wF": Column("weighted F", "weighted F-measure, β² = 1 (Margolin et al., CVPR 2014)", weighted_f),
    "maxE": Column("max E", f"largest {_E}, of the mean curve", e_measure, curve="E"),
    "meanE": Column("mean E", f"mean {_E}, over all thresholds", e_measure, curve="E", summary="mean"),
    "adpE": Column("adaptive E", f"{_E}, at twice the prediction's mean", e_measure),
    "MAE": Column(
        "MAE", "mean absolute error against the binary truth (Perazzi et al., CVPR 2012)", mae, "lower"
    ),
    "IoU": Column("IoU", "intersection over union at one half (Everingham et al., IJCV 2010)", f_measure),
    "BIoU": Column(
        "boundary IoU", "intersection over union of outlines (Cheng et al., CVPR 2021)", boundary_iou
    ),
    "mBA": Column("mBA", 'mean boundary accuracy (Cheng et al., "CascadePSP", CVPR 2020)', boundary_accuracy),
    "HCE": Column("HCE", "human correction effort (Qin et al., ECCV 2022)", human_correction_effort, "lower"),
    "SAD": Column("SAD", f"sum of absolute differences in thousands {_RHEMANN}", matte_errors, "lower"),
    "MSE": Column("MSE", f"mean squared error {_RHEMANN}", matte_errors, "lower"),
    "Grad": Column("Grad", f"gradient error in thousands {_RHEMANN}", gradient_error, "lower"),
    "Conn": Column("Conn", f"connectivity error in thousands {_RHEMANN}", connectivity_error, "lower"),
}
"""Every number that a table of mattes can show, by its short name."""
