"""Segment sets on disk: COCO panoptic, COCO instances, semantic maps; and matte sets as segments.

A set is found by its layout:

    COCO panoptic   annotations/panoptic_train2017.json and panoptic_train2017/*.png, train2017/*.jpg
    COCO instances  annotations/instances_train2017.json, train2017/*.jpg
    CVAT's          annotations/instances_default.json, images/default/*.jpg
    Roboflow's      train/_annotations.coco.json, train/*.jpg; or one such folder alone
    ADE20K          annotations/training/*.png, images/training/*.jpg
    Pascal VOC      SegmentationClass/*.png, JPEGImages/*.jpg, ImageSets/Segmentation/train.txt
    Cityscapes      gtFine/train/*/*_gtFine_labelIds.png, leftImg8bit/train/*/*_leftImg8bit.png
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from decoupe.datasets.coco import ROBOFLOW, CocoInstances, CocoPanoptic
from decoupe.datasets.scenes import Part, Scene, SegmentSet
from decoupe.datasets.semantic_maps import ade20k_maps, cityscapes_maps, voc_maps
from decoupe.datasets.sets import Pair, read_pair
from decoupe.datasets.shards import Source
from decoupe.errors import InputError
from decoupe.weights.labels import Vocabulary

Kind = Literal["panoptic", "instances", "semantic"]
KINDS: tuple[Kind, ...] = ("panoptic", "instances", "semantic")
_LONG: Mapping[Part, str] = {"train": "training", "val": "validation", "test": "testing"}
_EXPORTED: Mapping[Part, str] = {"train": "train", "val": "valid", "test": "test"}
"""Roboflow's folders."""

SUBJECT = 128
"""Mask value from which a pixel of a matte set is its subject's."""


class _Layout(NamedTuple):
    """A set of semantic maps that is known by its folders.

    Attributes:
        folders: the names of those that it has.
        part: what stands in it for each part.
        maps_of: what reads it.
    """

    folders: tuple[str, ...]
    part: str
    maps_of: Callable[[Path, Part], SegmentSet]

    def is_in(self, folder: Path) -> bool:
        """Whether a folder is laid out so."""
        return all((folder / name).is_dir() for name in self.folders)


_MAPS = (
    _Layout(("SegmentationClass", "JPEGImages"), "ImageSets/Segmentation/{}.txt", voc_maps),
    _Layout(("gtFine", "leftImg8bit"), "gtFine/{}", cityscapes_maps),
)


def find_segment_set(folder: str | Path, part: Part = "train", kinds: Sequence[Kind] = KINDS) -> SegmentSet:
    """The segment set in a folder.

    Args:
        folder: in one of the layouts above.
        part: for training, which is the whole of a set of one nameless part; for validation; or for tests.
        kinds: which are wanted; where a folder holds several, the first of them.

    Raises:
        InputError: no such set there, or its files do not fit each other.
    """
    folder = Path(folder)
    found = _annotated(folder, part)
    for layout in _MAPS:
        if layout.is_in(folder):
            found["semantic"] = partial(layout.maps_of, folder, part)
    chosen = next((kind for kind in kinds if kind in found), None)
    if chosen is None:
        wanted = "segment" if tuple(kinds) == KINDS else " or ".join(kinds)
        long = _LONG[part]
        raise InputError(
            f"{folder} holds no {wanted} set for {long}: expected annotations/ inside with "
            f"panoptic_{part}*.json or instances_{part}*.json (COCO), or {long}/ (ADE20K); "
            "or the folders of Pascal VOC, Cityscapes or Roboflow"
        )
    return found[chosen]()


def has_part(folder: Path, part: Part) -> bool:
    """Whether a segment set has a part of its own for training, for validation or for tests."""
    maps = (folder / layout.part.format(part) for layout in _MAPS if layout.is_in(folder))
    return bool(_annotated(folder, part)) or any(path.exists() for path in maps)


def judged_part(folder: Path) -> Part:
    """What is scored of a folder that is named for it: its validation part, or the only one that it has."""
    parts = [part for part in _LONG if has_part(folder, part)]
    return parts[0] if len(parts) == 1 else "val"


def _annotated(folder: Path, part: Part) -> dict[Kind, Callable[[], SegmentSet]]:
    """What there is to open of sets whose annotations are in files or folders of their part's name."""
    annotations = folder / "annotations"
    found: dict[Kind, Callable[[], SegmentSet]] = {}
    exported = folder / _EXPORTED[part] / ROBOFLOW
    instances = [*sorted(annotations.glob(f"instances_{part}*.json")), exported]
    if part == "train":  # and sets of one part, whatever it is for
        instances += [annotations / "instances_default.json", folder / ROBOFLOW]
    if files := [path for path in instances if path.is_file()]:
        found["instances"] = partial(CocoInstances, files[0])
    if files := sorted(annotations.glob(f"panoptic_{part}*.json")):
        found["panoptic"] = partial(CocoPanoptic, files[0])
    for maps in (annotations / part, annotations / _LONG[part]):
        if maps.is_dir():
            found["semantic"] = partial(ade20k_maps, maps)
    return found


def is_segment_set(folder: Path) -> bool:
    """Whether a folder is laid out as a segment set, not as a set of mattes."""
    exported = any((folder / part / ROBOFLOW).is_file() for part in ("", *_EXPORTED.values()))
    return exported or (folder / "annotations").is_dir() or any(layout.is_in(folder) for layout in _MAPS)


class MatteSegments:
    """Matte sets as segments: the subject of each set's pictures is a class named after the set.

    What is not subject is the class ``background``, stuff.

    Args:
        sets: pairs by the name of their set; the order gives the classes.
    """

    def __init__(self, sets: Mapping[str, Sequence[Pair]]) -> None:
        self.name = " + ".join(sets)
        self.vocabulary = Vocabulary((*sets, "background"), stuff=(len(sets),))
        self.pairs = [(number, pair) for number, pairs in enumerate(sets.values()) for pair in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        """A picture's name, for messages."""
        return self.pairs[index][1].name

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        return self.pairs[index][1].image

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        number, pair = self.pairs[index]
        image, mask = read_pair(pair, longest=longest)
        subject = mask >= SUBJECT
        background = len(self.vocabulary.names) - 1
        told = [(subject, number), (~subject, background)]
        present = [(region, label) for region, label in told if region.any()]
        segments = np.zeros(mask.shape, np.int32)
        for place, (region, _) in enumerate(present):
            segments[region] = place
        classes = np.array([label for _, label in present], np.int64)
        return Scene(image, segments, classes, np.zeros(len(classes), bool))
