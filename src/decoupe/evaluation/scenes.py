"""Scoring segments: a model or files against a segment set, in one of three readings.

Predictions as files are what ``decoupe segment`` writes, or what the benchmarks' own tools take:

    semantic    a folder of PNGs of class indices from 0, 255 for none (``--format labels``); of more than 255
                classes 16-bit, 65535 for none
    panoptic    COCO's JSON with its folder of PNGs, or a folder of both for each picture (``coco-panoptic``)
    instances   COCO's list of results, or a folder of JSON files, one for each picture (``--format coco``)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from decoupe.datasets.coco import CocoInstances, finite, instance_mask, panoptic_segments, whole
from decoupe.datasets.scenes import SegmentSet
from decoupe.datasets.shards import opened, predictable
from decoupe.errors import InputError
from decoupe.evaluation import Metric
from decoupe.evaluation.pictures import labelled
from decoupe.evaluation.run import problem_of
from decoupe.evaluation.segments import (
    AveragePrecision,
    Instance,
    MeanIoU,
    PanopticQuality,
    Segments,
    classes_of,
)
from decoupe.inference.predictor import Segmenter
from decoupe.inference.segments import Thresholds
from decoupe.weights.labels import Vocabulary, plain, published

Reading = Literal["semantic", "panoptic", "instances"]
Predict = Callable[[int], Any]
"""From a picture's index in its set to what its `Metric` takes as a prediction."""

COLUMNS: dict[Reading, tuple[str, ...]] = {
    "semantic": ("mIoU", "accuracy"),
    "panoptic": ("PQ", "PQ_things", "PQ_stuff", "SQ", "RQ"),
    "instances": AveragePrecision.NAMES,
}
"""What the tables of the readings show, in percent with one digit (Cheng et al. 2021, tables 1 and 2)."""
METRICS: dict[Reading, Callable[[Vocabulary], Any]] = {
    "semantic": MeanIoU,
    "panoptic": PanopticQuality,
    "instances": AveragePrecision,
}
THRESHOLDS: dict[Reading, Thresholds] = {
    "semantic": Thresholds(),
    "panoptic": Thresholds(void=0.0),
    "instances": Thresholds(instance=0.0),
}
"""How a model is read for its scores, as published ones were: no pixel is left out for being unsure, and
average precision ranks all that a model finds; people are shown less."""


@dataclass
class SceneScores:
    """The scores of a set.

    Attributes:
        metric: over all pictures.
        names: of the pictures that were scored.
        values: of each picture, by column; none of average precision, which ranks all pictures at once.
        problems: one line for each that could not be.
        notes: what a user should know of the rest.
    """

    metric: Any
    names: list[str] = field(default_factory=list)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate_scenes(
    scenes: SegmentSet, predict: Predict, reading: Reading, *, advance: Callable[[], object] = lambda: None
) -> SceneScores:
    """Score every picture of a set.

    Args:
        scenes: the truth; for ``instances`` a set of COCO instances.
        predict: `model_predictions`, or `file_predictions`.
        reading: which measure.
        advance: called after each picture.

    Raises:
        InputError: a set that has no such truth.
    """
    if (reading == "instances") != isinstance(scenes, CocoInstances):
        raise InputError(
            f"{scenes.name} is no set of {reading}: expected "
            + ("annotations/instances_*.json" if reading == "instances" else "panoptic or semantic truth")
        )
    scores = SceneScores(METRICS[reading](scenes.vocabulary))
    for index in range(len(scenes)):
        name = scenes.name_of(index)
        try:
            metric = _one(scenes, index, predict, reading)
        except InputError as error:
            scores.problems.append(problem_of(name, error))
        else:
            scores.metric.merge(metric)
            scores.names.append(name)
            if reading != "instances":
                scores.values[name] = _own(metric)
        advance()
    return scores


def _one(scenes: SegmentSet, index: int, predict: Predict, reading: Reading) -> Metric:
    """The metric of one picture alone."""
    metric: Metric = METRICS[reading](scenes.vocabulary)
    if isinstance(scenes, CocoInstances):
        metric.update(predict(index), told_objects(scenes, index))
        return metric
    scene = scenes.read(index)
    if isinstance(metric, PanopticQuality):
        metric.update(predict(index), (scene.segments, scene.classes), scene.crowd)
    else:
        metric.update(predict(index), classes_of((scene.told, scene.classes)))
    return metric


def told_objects(scenes: CocoInstances, index: int) -> list[Instance]:
    """The objects of a picture as `AveragePrecision` takes them."""
    return [Instance(one.mask, one.label, crowd=one.crowd, area=one.area) for one in scenes.objects(index)]


def _own(metric: Metric) -> dict[str, float]:
    try:
        return metric.result()
    except InputError:  # a picture of which nothing is told
        return {}


def subject_of(vocabulary: Vocabulary, name: str) -> str:
    """What a model calls the subject of a matte set: its only thing, or the set's own ``name``.

    Raises:
        InputError: it knows several things, or none, and no class of that name.
    """
    things = [one for index, one in enumerate(vocabulary.names) if index not in vocabulary.stuff]
    if len(things) == 1:
        return things[0]
    if plain(name) not in map(plain, vocabulary.names):
        raise InputError(
            f"the model knows no class {name!r}, as the subject of a matte set is called by its folder: "
            f"name the folder by one of its classes, such as {(*things, *vocabulary.names)[0]!r}"
        )
    return name


def model_predictions(
    segmenter: Segmenter, scenes: SegmentSet, reading: Reading
) -> tuple[Predict, list[str]]:
    """What a model says of a set's pictures, in the set's classes; and notes on classes that do not match.

    Raises:
        InputError: model and set have no class in common.
    """
    told, known = scenes.vocabulary.names, segmenter.vocabulary.names
    index_of = {plain(name): index for index, name in enumerate(told)}
    if published(known) is not None and published(known) is published(told):
        # One set's classes stand in one order, whatever a release calls them.
        mapping = np.arange(len(told))
    else:
        mapping = np.array([index_of.get(plain(name), -1) for name in known], np.int64)
    missing = [name for name in told if index_of[plain(name)] not in mapping]
    if len(missing) == len(told):
        raise InputError(
            f"the model knows no class of {scenes.name}: it knows {known[0]} and {len(known) - 1} more, "
            f"the set {told[0]}"
        )
    notes = [f"the model does not know {len(missing)} classes, {missing[0]} first"] if missing else []

    def predict(index: int) -> Any:
        found = segmenter(predictable(scenes.image_source(index)))
        if reading == "semantic":
            return mapping[found.semantic]
        if reading == "instances":
            known = [one for one in found.instances if mapping[one.index] >= 0]
            return [Instance(one.mask, int(mapping[one.index]), one.score) for one in known]
        places = np.full(found.size, -1, np.int32)
        known = [one for one in found.panoptic if mapping[one.index] >= 0]
        for place, one in enumerate(known):
            places[one.mask] = place
        return places, np.array([mapping[one.index] for one in known], np.int64)

    return predict, notes


def file_predictions(path: Path, scenes: SegmentSet, reading: Reading) -> Predict:
    """Predictions as files, in the set's classes.

    Args:
        path: a folder, or COCO's JSON.
        scenes: the truth.
        reading: which of the layouts above.

    Raises:
        InputError: nothing of that layout there.
    """
    if reading == "semantic":
        if not path.is_dir():
            raise InputError(f"{path} is no folder: give one with a PNG of class indices for each picture")
        return lambda index: _label_map(path / f"{scenes.name_of(index)}.png", scenes.vocabulary)
    label_of = {scenes.vocabulary.id_of(label): label for label in range(len(scenes.vocabulary.names))}

    def label(category: int) -> int:
        if category not in label_of:
            raise InputError(f"category {category} is none of {scenes.name}: write the set's own ids")
        return label_of[category]

    if reading == "panoptic":
        panoptic = _panoptic_files(path)

        def segments(index: int) -> Segments:
            if (name := scenes.name_of(index)) not in panoptic:
                raise InputError(f"{name} has no prediction in {path}: make it")
            file, infos = panoptic[name]
            places = panoptic_segments(file, [one["id"] for one in infos])
            return places, np.array([label(one["category_id"]) for one in infos], np.int64)

        return segments
    assert isinstance(scenes, CocoInstances)
    results = _result_files(path, scenes)

    def objects(index: int) -> list[Instance]:
        size = scenes.size_of(index)
        return [
            Instance(instance_mask(one["segmentation"], size), label(one["category_id"]), one["score"])
            for one in results.get(scenes.name_of(index), [])
        ]

    return objects


def _label_map(file: Path, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """A PNG of class indices, −1 for none."""
    with opened(file) as picture:
        labels = np.asarray(picture).astype(np.int64)
    count, none = len(vocabulary.names), vocabulary.none
    if labels.ndim != 2 or labels[labels != none].max(initial=0) >= count:
        raise InputError(
            f"{file} is not a map of {count} classes: expected a grey or indexed PNG of indices from 0, "
            f"{none} for none"
        )
    return np.where(labels == none, -1, labels)


def _panoptic_files(path: Path) -> dict[str, tuple[Path, list[dict[str, int]]]]:
    """Picture of ids and what they are, by the picture's name."""
    found = {}
    for file, content in _json_files(path):
        folder = file.with_suffix("") if file.with_suffix("").is_dir() else file.parent
        with _understood(file, "annotations with file_name and segments_info: id, category_id"):
            for one in content["annotations"]:
                infos = [
                    {key: whole(info[key]) for key in ("id", "category_id")} for info in one["segments_info"]
                ]
                picture = Path(one["file_name"]).with_suffix("")
                for name in (picture.name, picture.as_posix()):  # as the set may call it
                    found[name] = folder / one["file_name"], infos
    return found


def _result_files(path: Path, scenes: CocoInstances) -> dict[str, list[dict[str, Any]]]:
    """Results by the picture's name."""
    name_of = {image["id"]: scenes.name_of(index) for index, image in enumerate(scenes.images)}
    wanted: dict[str, Callable[[Any], Any]] = {
        "category_id": whole,
        "segmentation": lambda value: value,  # read picture by picture: masks take memory
        "score": finite,
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for file, content in _json_files(path):
        with _understood(file, f"a list of results with image_id, {', '.join(wanted)}"):
            if isinstance(content, dict):  # of one picture, which it names; the number is not the set's
                name = Path(content["images"][0]["file_name"]).stem
                results = [(name, one) for one in content["annotations"]]
            else:
                results = [(name_of.get(whole(one["image_id"]), ""), one) for one in content]
            for name, one in results:
                if not name:
                    raise InputError(
                        f"{file} has a result of picture {one['image_id']} that is not in the set: remove it"
                    )
                found.setdefault(name, []).append({key: read(one[key]) for key, read in wanted.items()})
    return found


@contextlib.contextmanager
def _understood(file: Path, expected: str) -> Iterator[None]:
    """InputError where a JSON file is read that is built otherwise."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise InputError(f"{file} is not understood ({error!r}): expected {expected}") from error


def _json_files(path: Path) -> list[tuple[Path, Any]]:
    """The content of a JSON file, or of all in a folder."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no JSON: expected COCO's results, or what decoupe segment writes")
    try:
        return [(file, json.loads(file.read_bytes())) for file in files]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): expected COCO's results") from error


def looks(scenes: SegmentSet, predict: Predict, reading: Reading) -> Callable[[str], list[NDArray[np.uint8]]]:
    """From a picture's name to photograph, truth and prediction, in the colours of their classes."""
    index_of = {scenes.name_of(index): index for index in range(len(scenes))}
    names = scenes.vocabulary.names

    def look(name: str) -> list[NDArray[np.uint8]]:
        scene, found = scenes.read(index_of[name]), predict(index_of[name])
        classes = classes_of(found) if reading == "panoptic" else found
        truth = classes_of((scene.told, scene.classes))
        pictures = [labelled(scene.image, one.astype(np.int32), names) for one in (truth, classes)]
        return [scene.image, *pictures]

    return look


def class_rows(scores: SceneScores, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each class's own numbers, the lowest of the first column first."""
    rows: dict[str, dict[str, float]] = scores.metric.by_class()
    shown = next(name for name in columns if name in next(iter(rows.values())))
    return dict(sorted(rows.items(), key=lambda row: row[1][shown]))
