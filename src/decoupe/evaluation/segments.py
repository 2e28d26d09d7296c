"""Measures of semantic and panoptic segmentation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from decoupe.errors import InputError
from decoupe.weights.labels import Vocabulary

Segments = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Of each pixel the index of its segment ``(H, W)``, −1 for none; and the class of each segment ``(M,)``."""


class MeanIoU:
    """Mean over classes of intersection over union, and the share of pixels that are right.

    Pixels are summed over all pictures; classes that no truth holds do not count (Everingham et al. 2010).

    Args:
        vocabulary: the classes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        count = len(vocabulary.names)
        self.confusion = np.zeros((count, count), np.int64)  # truth, prediction

    def update(self, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Enter one picture: classes ``(H, W)``; the truth is −1 where nothing is told.

        Raises:
            InputError: the two differ in size.
        """
        _check_sizes(prediction, truth)
        count = len(self.confusion)
        told = truth >= 0
        pairs = truth[told].astype(np.int64) * count + prediction[told]
        self.confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)

    def merge(self, other: MeanIoU) -> None:
        """Enter what another process has seen."""
        self.confusion += other.confusion

    def result(self) -> dict[str, float]:
        """``mIoU`` and ``accuracy``, both in [0, 1].

        Raises:
            InputError: no pixel of any class so far.
        """
        right, truth = self.confusion.diagonal(), self.confusion.sum(1)
        present = truth > 0
        if not present.any():
            raise InputError("nothing to score: no truth tells any pixel's class")
        union = truth + self.confusion.sum(0) - right
        return {
            "mIoU": float((right[present] / union[present]).mean()),
            "accuracy": float(right.sum() / truth.sum()),
        }


class PanopticQuality:
    """Panoptic quality, and its parts: segmentation and recognition quality (Kirillov et al. 2019, eq. 2).

    A predicted segment matches one of the truth of the same class whose intersection over union is above
    one half; where the truth tells nothing, nothing counts.

    Args:
        vocabulary: the classes, with those that are stuff.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        count = len(vocabulary.names)
        self.stuff = np.isin(np.arange(count), vocabulary.stuff)
        self.overlap = np.zeros(count)
        self.matched, self.spurious, self.missed = (np.zeros(count, np.int64) for _ in range(3))

    def update(self, prediction: Segments, truth: Segments) -> None:
        """Enter one picture.

        Raises:
            InputError: the two differ in size.
        """
        (found, found_classes), (told, told_classes) = prediction, truth
        _check_sizes(found, told)
        # Segments are counted from 1, what belongs to none is 0: one table of all intersections.
        width = len(found_classes) + 1
        pairs = (told.astype(np.int64) + 1) * width + found + 1
        table = np.bincount(pairs.ravel(), minlength=(len(told_classes) + 1) * width).reshape(-1, width)
        nowhere = table[0, 1:]
        inside = table[1:, 1:]
        union = table[1:].sum(1)[:, None] + table[:, 1:].sum(0) - inside - nowhere
        same = told_classes[:, None] == found_classes
        iou = np.where(same, inside / np.maximum(union, 1), 0.0)
        told_at, found_at = np.nonzero(iou > 0.5)  # at most one in each row and column
        np.add.at(self.overlap, told_classes[told_at], iou[told_at, found_at])
        np.add.at(self.matched, told_classes[told_at], 1)
        missed = np.setdiff1d(np.arange(len(told_classes)), told_at)
        np.add.at(self.missed, told_classes[missed], 1)
        area = table[:, 1:].sum(0)
        spurious = np.setdiff1d(np.flatnonzero(2 * nowhere <= area), found_at)
        np.add.at(self.spurious, found_classes[spurious], 1)

    def merge(self, other: PanopticQuality) -> None:
        """Enter what another process has seen."""
        self.overlap += other.overlap
        self.matched += other.matched
        self.spurious += other.spurious
        self.missed += other.missed

    def result(self) -> dict[str, float]:
        """``PQ``, ``SQ`` and ``RQ`` over all classes seen, and ``PQ_things`` and ``PQ_stuff``; in [0, 1].

        Raises:
            InputError: no segment so far.
        """
        total = self.matched + (self.spurious + self.missed) / 2
        seen = total > 0
        if not seen.any():
            raise InputError("nothing to score: neither truth nor prediction holds a segment")
        safe = np.where(seen, total, 1)
        pq, rq = self.overlap / safe, self.matched / safe
        sq = self.overlap / np.maximum(self.matched, 1)
        parts = {"PQ_things": seen & ~self.stuff, "PQ_stuff": seen & self.stuff}
        return {
            "PQ": float(pq[seen].mean()),
            "SQ": float(sq[seen].mean()),
            "RQ": float(rq[seen].mean()),
            **{name: float(pq[part].mean()) for name, part in parts.items() if part.any()},
        }


def _check_sizes(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
    if prediction.shape != truth.shape:
        raise InputError(f"the prediction is {prediction.shape}, its truth {truth.shape}: resize one of them")
