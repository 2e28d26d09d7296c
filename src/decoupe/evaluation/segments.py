"""Measures of semantic, panoptic and instance segmentation."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoupe.errors import InputError
from decoupe.weights.labels import Vocabulary

Segments = tuple[NDArray[np.int32], NDArray[np.int64]]
"""The index of each pixel's segment ``(H, W)``, −1 for none; and the class of each segment ``(M,)``."""


def classes_of(segments: Segments) -> NDArray[np.int64]:
    """The class of every pixel ``(H, W)``, −1 for none."""
    places, classes = segments
    found: NDArray[np.int64] = np.append(classes, -1)[places]  # −1 is the last
    return found


class MeanIoU:
    """Mean over classes of intersection over union, and the share of pixels that are right.

    Pixels are summed over all pictures; classes that no truth holds do not count (Everingham et al. 2010).

    Args:
        vocabulary: the classes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        count = len(vocabulary.names)
        self.vocabulary = vocabulary
        self.confusion = np.zeros((count, count + 1), np.int64)  # truth, prediction; none is the last

    def update(self, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Enter one picture: classes ``(H, W)``; −1 is none, where the truth tells nothing that is right.

        Raises:
            InputError: the two differ in size, or hold what is no class.
        """
        _check_sizes(prediction, truth)
        count, width = self.confusion.shape
        for what, classes in (("prediction", prediction), ("truth", truth)):
            _check_range(f"the {what} holds class", classes, count)
        told = truth >= 0
        found = np.where(prediction[told] < 0, count, prediction[told])
        pairs = truth[told].astype(np.int64) * width + found
        self.confusion += np.bincount(pairs, minlength=count * width).reshape(count, width)

    def merge(self, other: MeanIoU) -> None:
        """Enter what another process has seen; InputError where it was of other classes."""
        _check_same(self.vocabulary, other.vocabulary)
        self.confusion += other.confusion

    def result(self) -> dict[str, float]:
        """``mIoU`` and ``accuracy``, both in [0, 1].

        Raises:
            InputError: no pixel of any class so far.
        """
        right, truth = self.confusion.diagonal(), self.confusion.sum(1)
        if not truth.any():
            raise InputError("nothing to score: no truth tells any pixel's class")
        return {
            "mIoU": float((right / np.maximum(self._union(), 1))[truth > 0].mean()),
            "accuracy": float(right.sum() / truth.sum()),
        }

    def by_class(self) -> dict[str, dict[str, float]]:
        """``IoU`` and ``accuracy`` of each class that the truth holds, by its name."""
        right, truth = self.confusion.diagonal(), self.confusion.sum(1)
        union = self._union()
        return {
            self.vocabulary.names[label]: {
                "IoU": float(right[label] / union[label]),
                "accuracy": float(right[label] / truth[label]),
            }
            for label in np.flatnonzero(truth)
        }

    def _union(self) -> NDArray[np.int64]:
        """Pixels of each class in truth or prediction."""
        union: NDArray[np.int64] = (
            self.confusion.sum(1) + self.confusion.sum(0)[:-1] - self.confusion.diagonal()
        )
        return union


class PanopticQuality:
    """Panoptic quality, and its parts: segmentation and recognition quality (Kirillov et al. 2019, eq. 2).

    A predicted segment matches one of the truth of the same class whose intersection over union is above
    one half; where the truth tells nothing, nothing counts. A crowd is neither matched nor missed, and what
    was predicted of its class is no invention where more than half of it lies there or in what is not told.

    Args:
        vocabulary: the classes, with those that are stuff.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        count = len(vocabulary.names)
        self.vocabulary = vocabulary
        self.stuff = np.isin(np.arange(count), vocabulary.stuff)
        self.overlap = np.zeros(count)
        self.matched, self.spurious, self.missed = (np.zeros(count, np.int64) for _ in range(3))

    def update(self, prediction: Segments, truth: Segments, crowd: NDArray[np.bool_] | None = None) -> None:
        """Enter one picture.

        Args:
            prediction: what was found.
            truth: what is there.
            crowd: ``(M,)``: which segments of the truth are crowds; None for none.

        Raises:
            InputError: the two differ in size, or hold what is no segment or no class.
        """
        (found, found_classes), (told, told_classes) = prediction, truth
        _check_sizes(found, told)
        for what, (places, classes) in (("prediction", prediction), ("truth", truth)):
            _check_range(f"the {what} holds segment", places, len(classes))
            _check_range(f"the {what} holds class", classes, len(self.stuff), least=0)
        # Segments are counted from 1, what belongs to none is 0: one table of all intersections.
        width = len(found_classes) + 1
        pairs = (told.astype(np.int64) + 1) * width + found + 1
        table = np.bincount(pairs.ravel(), minlength=(len(told_classes) + 1) * width).reshape(-1, width)
        nowhere = table[0, 1:]
        inside = table[1:, 1:]
        union = table[1:].sum(1)[:, None] + table[:, 1:].sum(0) - inside - nowhere
        same = told_classes[:, None] == found_classes
        crowds = np.zeros(len(told_classes), bool) if crowd is None else crowd
        iou = np.where(same & ~crowds[:, None], inside / np.maximum(union, 1), 0.0)
        told_at, found_at = np.nonzero(iou > 0.5)  # at most one in each row and column
        np.add.at(self.overlap, told_classes[told_at], iou[told_at, found_at])
        np.add.at(self.matched, told_classes[told_at], 1)
        # What has no pixel, as an object hidden behind others, is no segment.
        missed = np.setdiff1d(np.flatnonzero(~crowds & table[1:].any(1)), told_at)
        np.add.at(self.missed, told_classes[missed], 1)
        area = table[:, 1:].sum(0)
        excused = nowhere + np.where(same & crowds[:, None], inside, 0).sum(0)
        spurious = np.setdiff1d(np.flatnonzero((2 * excused <= area) & (area > 0)), found_at)
        np.add.at(self.spurious, found_classes[spurious], 1)

    def merge(self, other: PanopticQuality) -> None:
        """Enter what another process has seen; InputError where it was of other classes."""
        _check_same(self.vocabulary, other.vocabulary)
        self.overlap += other.overlap
        self.matched += other.matched
        self.spurious += other.spurious
        self.missed += other.missed

    def result(self) -> dict[str, float]:
        """``PQ``, ``SQ`` and ``RQ`` over all classes seen, and ``PQ_things`` and ``PQ_stuff``; in [0, 1].

        Raises:
            InputError: no segment so far.
        """
        seen, pq, sq, rq = self._qualities()
        if not seen.any():
            raise InputError("nothing to score: neither truth nor prediction holds a segment")
        parts = {"PQ_things": seen & ~self.stuff, "PQ_stuff": seen & self.stuff}
        return {
            "PQ": float(pq[seen].mean()),
            "SQ": float(sq[seen].mean()),
            "RQ": float(rq[seen].mean()),
            **{name: float(pq[part].mean()) for name, part in parts.items() if part.any()},
        }

    def by_class(self) -> dict[str, dict[str, float]]:
        """``PQ``, ``SQ`` and ``RQ`` of each class that was seen, by its name, and what they were made of."""
        seen, *qualities = self._qualities()
        counts = {"matched": self.matched, "spurious": self.spurious, "missed": self.missed}
        return {
            self.vocabulary.names[label]: {
                **{name: float(one[label]) for name, one in zip(("PQ", "SQ", "RQ"), qualities, strict=True)},
                **{name: int(one[label]) for name, one in counts.items()},
            }
            for label in np.flatnonzero(seen)
        }

    def _qualities(self) -> tuple[NDArray[Any], ...]:
        """Which classes were seen, and of each class its three qualities."""
        total = self.matched + (self.spurious + self.missed) / 2
        safe = np.where(total > 0, total, 1)
        recognised = self.matched / safe
        return total > 0, self.overlap / safe, self.overlap / np.maximum(self.matched, 1), recognised


class Instance(NamedTuple):
    """An object of a picture.

    Attributes:
        mask: bool ``(H, W)``.
        label: index of its class.
        score: how sure a prediction is; of truths not looked at.
        crowd: whether a truth is a crowd, in which predictions are neither right nor wrong.
        area: by which it is small, medium or large, in square pixels; None for the mask's pixels.
    """

    mask: NDArray[np.bool_]
    label: int
    score: float = 1.0
    crowd: bool = False
    area: float | None = None


class AveragePrecision:
    """COCO's average precision of masks (Lin et al. 2014), computed by pycocotools.

    Masks are kept as run lengths: precision is ranked over all pictures at once.

    Args:
        vocabulary: the classes.
    """

    NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.pictures: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = []
        self._evaluation: Any = None  # of the pictures so far: half a minute's work for all of COCO's

    def update(self, prediction: Sequence[Instance], truth: Sequence[Instance]) -> None:
        """Enter one picture.

        Raises:
            InputError: the two differ in size, or hold what is no class.
        """
        for what, objects in (("prediction", prediction), ("truth", truth)):
            labels = np.array([one.label for one in objects], np.int64)
            _check_range(f"the {what} holds class", labels, len(self.vocabulary.names), least=0)
        for told, found in itertools.product(truth[:1], prediction):
            _check_sizes(found.mask, told.mask)
        self._evaluation = None
        self.pictures.append(([_annotation(one) for one in prediction], [_annotation(one) for one in truth]))

    def merge(self, other: AveragePrecision) -> None:
        """Enter what another process has seen; InputError where it was of other classes."""
        _check_same(self.vocabulary, other.vocabulary)
        self._evaluation = None
        self.pictures += other.pictures

    def result(self) -> dict[str, float]:
        """`NAMES` in [0, 1]; those of sizes that no truth has are left out.

        Raises:
            InputError: no truth so far, but for crowds.
        """
        evaluated = self._evaluated()
        return {
            name: float(value)
            for name, value in zip(self.NAMES, evaluated.stats[:6], strict=True)
            if value >= 0
        }

    def by_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of each class that the truth holds, by its name."""
        precision = self._evaluated().eval["precision"]  # (thresholds, recalls, classes, sizes, most)
        rows = {}
        for label, name in enumerate(self.vocabulary.names):
            found = precision[:, :, label, 0, -1]
            if (found > -1).any():
                rows[name] = {"AP": float(found.mean()), "AP50": float(found[0].mean())}
        return rows

    def _evaluated(self) -> Any:
        if self._evaluation is None:
            self._evaluation = self._evaluate()
        return self._evaluation

    def _evaluate(self) -> Any:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if all(one["iscrowd"] for _, truth in self.pictures for one in truth):
            raise InputError("nothing to score: no truth holds an object")
        told, found = (self._annotations(which) for which in (1, 0))
        images = []
        for number, both in enumerate(self.pictures, 1):
            height, width = next((one["segmentation"]["size"] for side in both for one in side), (1, 1))
            images.append({"id": number, "height": height, "width": width})
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.vocabulary.names)]
        with contextlib.redirect_stdout(io.StringIO()):
            sets = []
            for annotations in (told, found):
                coco = COCO()
                coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
                coco.createIndex()
                sets.append(coco)
            evaluation = COCOeval(*sets, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation

    def _annotations(self, which: int) -> list[dict[str, Any]]:
        numbered = ((image, one) for image, both in enumerate(self.pictures, 1) for one in both[which])
        return [{**one, "id": number, "image_id": image} for number, (image, one) in enumerate(numbered, 1)]


def _annotation(instance: Instance) -> dict[str, Any]:
    """An object as COCO keeps it."""
    from pycocotools import mask as coco_masks

    lengths = coco_masks.encode(np.asfortranarray(instance.mask, np.uint8))
    return {
        "category_id": instance.label + 1,
        "segmentation": lengths,
        "area": float(coco_masks.area(lengths)) if instance.area is None else instance.area,
        "bbox": [float(value) for value in coco_masks.toBbox(lengths)],
        "iscrowd": int(instance.crowd),
        "score": float(instance.score),
    }


def _check_same(own: Vocabulary, other: Vocabulary) -> None:
    if own != other:
        raise InputError("scores of different classes do not merge: score all pictures of one set")


def _check_range(what: str, indices: NDArray[np.integer], count: int, least: int = -1) -> None:
    """InputError where an index is none of ``count``; ``least`` is −1 where that stands for none."""
    if not indices.size:
        return
    wrong = next((one for one in (int(indices.min()), int(indices.max())) if not least <= one < count), None)
    if wrong is not None:
        none = ", and -1 for none" if least < 0 else ""
        raise InputError(f"{what} {wrong}, expected 0 to {count - 1}{none}")


def _check_sizes(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    if prediction.shape != truth.shape:
        raise InputError(f"the prediction is {prediction.shape}, its truth {truth.shape}: resize one of them")
