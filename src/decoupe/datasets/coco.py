"""COCO's annotations of segments: panoptic pictures, and instances as polygons or run lengths."""

from __future__ import annotations

import json
import math
import reprlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from decoupe.datasets.scenes import Scene, SceneObject, scene_of, twice_in
from decoupe.datasets.shards import Source, opened
from decoupe.errors import InputError
from decoupe.weights.labels import Vocabulary

ROBOFLOW = "_annotations.coco.json"
"""How Roboflow calls a file of annotations, which lies beside its pictures."""

_WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What values of another kind than expected raise."""


def whole(value: Any) -> int:
    """A whole number of a JSON file, which some tools write as text; any other value raises."""
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value} is no whole number")
    return number


def finite(value: Any) -> float:
    """A number of a JSON file; any other value raises."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number


def _side(value: Any) -> int:
    if (number := whole(value)) < 1:
        raise ValueError(f"{value} is no side of a picture")
    return number


def _outline(value: Any) -> Any:
    if not isinstance(value, (list, dict)):
        raise TypeError(f"{value} is neither polygons nor run lengths")
    return value


def _segments_info(value: Any) -> list[dict[str, Any]]:
    return [{**one, "id": whole(one["id"]), "category_id": whole(one["category_id"])} for one in value]


class _Coco(ABC):
    """What COCO's two kinds of annotations share.

    Args:
        path: the JSON file.

    Raises:
        InputError: it cannot be read, lacks what its kind needs, holds an id twice, or its pictures are not
            there.
    """

    KEYS: ClassVar[Mapping[str, Mapping[str, Callable[[Any], Any]]]]
    """What each of its categories, images and annotations holds, and what reads the values."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    """Which of the keys may be missing."""

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            listed = {part: self._understood(part, content[part]) for part in self.KEYS}
        except (OSError, *_WRONG) as error:
            raise InputError(
                f"{path} is not a COCO annotation file ({error!r}): expected images, categories, annotations"
            ) from error
        self.path = path
        self.annotations = listed["annotations"]
        self.images = sorted(listed["images"], key=itemgetter("id"))
        for name, ones in (("pictures", self.images), ("categories", listed["categories"])):
            if (twice := twice_in(one["id"] for one in ones)) is not None:
                raise InputError(f"{path} lists two {name} with the id {twice}: give each its own")
        categories = self._told_apart(listed["categories"])
        self.index = {one["id"]: number for number, one in enumerate(categories)}
        self.vocabulary = Vocabulary(
            names=tuple(one["name"] for one in categories),
            stuff=tuple(i for i, one in enumerate(categories) if not one.get("isthing", 1)),
            ids=tuple(self.index),
        )
        if path.name == ROBOFLOW:  # beside its pictures
            self.name, folders = path.parent.resolve().name, [path.parent]
        else:
            root, self.name = path.parent.parent, path.stem.partition("_")[2]
            folders = [root / self.name, root / "images" / self.name, root / "images", root]
        self.folder = next((one for one in folders if one.is_dir() and self._holds(one)), None) or folders[0]
        if self.images and not self._holds(self.folder):
            raise InputError(
                f"the pictures of {path} are not in {folders[0]}: {self._file(0)} is missing, put them there"
            )

    def _understood(self, part: str, listed: Any) -> list[dict[str, Any]]:
        """Images, categories or annotations with values as `KEYS` reads them."""
        if not isinstance(listed, list):
            raise TypeError(f"{part} is no list")
        for one in listed:
            for key, read in self.KEYS[part].items():
                if (value := one.get(key)) is not None:
                    try:
                        one[key] = read(value)
                    except _WRONG as error:
                        raise ValueError(f"{part} with {key} {reprlib.repr(value)}") from error
                elif key not in self.OPTIONAL:
                    raise KeyError(f"{part} without {key}")
        return listed

    def _told_apart(self, categories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The categories by their ids, each name once.

        Roboflow lists a set's own name as a category without annotations, and a class may be called the same.
        """
        used = self._used()
        alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in sorted(categories, key=itemgetter("id")):
            alike[one["name"]].append(one)
        for name, ones in alike.items():
            if sum(one["id"] in used for one in ones) > 1:
                raise InputError(f"{self.path} lists two categories called {name!r}: give each its own name")
            ones.sort(key=lambda one: one["id"] in used)  # the last is the one that is meant
        return sorted((ones[-1] for ones in alike.values()), key=itemgetter("id"))

    @abstractmethod
    def _used(self) -> set[int]:
        """The ids of the categories that annotations have."""

    def _file(self, index: int) -> str:
        file: str = self.images[index]["file_name"]
        return file

    def _holds(self, folder: Path) -> bool:
        return bool(self.images) and (folder / self._file(0)).is_file()

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        """A picture's name, which no other of the set has."""
        return self.names[index]

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        return self.folder / self._file(index)

    @cached_property
    def names(self) -> list[str]:
        """The pictures' names; with their folders where two share one."""
        files = [Path(self._file(index)).with_suffix("") for index in range(len(self))]
        names = [file.name for file in files]
        return names if len(set(names)) == len(names) else [file.as_posix() for file in files]

    @cached_property
    def of_image(self) -> dict[int, list[dict[str, Any]]]:
        """The annotations of each picture, by its id."""
        of_image: dict[int, list[dict[str, Any]]] = {one["id"]: [] for one in self.images}
        for annotation in self.annotations:
            if annotation["image_id"] in of_image:
                of_image[annotation["image_id"]].append(annotation)
        return of_image

    @property
    def strays(self) -> list[str]:
        """The annotations of pictures that are not listed, by their ids; nothing reads them."""
        listed = {one["id"] for one in self.images}
        return [f"annotation {one.get('id')}" for one in self.annotations if one["image_id"] not in listed]

    def class_of(self, category: int) -> int:
        """The class index of a category id."""
        if category not in self.index:
            raise InputError(
                f"{self.path} has an annotation of category {category}, which it does not list: add it there"
            )
        return self.index[category]


class CocoPanoptic(_Coco):
    """COCO panoptic: a PNG of segment ids per picture, and a JSON that says what each id is."""

    KEYS: ClassVar = {
        "categories": {"id": whole, "name": str},
        "images": {"id": whole, "file_name": str},
        "annotations": {"image_id": whole, "file_name": str, "segments_info": _segments_info},
    }

    def _used(self) -> set[int]:
        return {one["category_id"] for annotation in self.annotations for one in annotation["segments_info"]}

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        annotations = self.of_image[self.images[index]["id"]]
        if len(annotations) != 1:
            raise InputError(
                f"{self.path} has {len(annotations)} annotations of {self._file(index)}, expected one: "
                "remove the picture or the others"
            )
        (annotation,) = annotations
        told = annotation["segments_info"]
        file = self.path.with_suffix("") / annotation["file_name"]
        segments = panoptic_segments(file, [one["id"] for one in told])
        classes = np.array([self.class_of(one["category_id"]) for one in told], np.int64)
        crowd = np.array([bool(one.get("iscrowd", 0)) for one in told], bool)
        return scene_of(self.image_source(index), segments, classes, longest, crowd)


class CocoInstances(_Coco):
    """COCO instances: polygons or run lengths; the smaller of two is in front, a crowd behind all."""

    KEYS: ClassVar = {
        "categories": {"id": whole, "name": str},
        "images": {"id": whole, "file_name": str, "height": _side, "width": _side},
        "annotations": {"image_id": whole, "category_id": whole, "segmentation": _outline, "area": finite},
    }
    OPTIONAL = ("area",)

    def _used(self) -> set[int]:
        return {one["category_id"] for one in self.annotations}

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        segments = np.full(self.size_of(index), -1, np.int32)
        told = self.objects(index)
        behind = [(not one.crowd, -int(one.mask.sum()), number) for number, one in enumerate(told)]
        for *_, number in sorted(behind):
            segments[told[number].mask] = number
        classes = np.array([one.label for one in told], np.int64)
        crowd = np.array([one.crowd for one in told], bool)
        return scene_of(self.image_source(index), segments, classes, longest, crowd)

    def objects(self, index: int) -> list[SceneObject]:
        """The objects of a picture, whole where they overlap, crowds among them."""
        return [
            SceneObject(
                self._mask(one, index),
                self.class_of(one["category_id"]),
                bool(one.get("iscrowd", 0)),
                one.get("area"),
            )
            for one in self.of_image[self.images[index]["id"]]
        ]

    def _mask(self, annotation: Mapping[str, Any], index: int) -> NDArray[np.bool_]:
        try:
            return instance_mask(annotation["segmentation"], self.size_of(index))
        except InputError as error:
            number = annotation.get("id")
            raise InputError(f"{self.path}: annotation {number} of {self._file(index)}: {error}") from error

    def size_of(self, index: int) -> tuple[int, int]:
        """A picture's ``(height, width)`` in pixels, as its masks have it."""
        image = self.images[index]
        return image["height"], image["width"]


def panoptic_segments(file: Path, ids: Sequence[int]) -> NDArray[np.int32]:
    """COCO's picture of segment ids -> of each pixel the place of its id in ``ids``, −1 for any other."""
    with opened(file) as picture:
        colours = np.asarray(picture.convert("RGB"), np.int32)
    pixels = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    if not ids:
        return np.full(pixels.shape, -1, np.int32)
    known = np.array(ids, np.int64)
    order = np.argsort(known)
    place = np.searchsorted(known[order], pixels).clip(max=len(known) - 1)
    segments: NDArray[np.int32] = np.where(known[order][place] == pixels, order[place], -1).astype(np.int32)
    return segments


def instance_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons or run lengths as a mask ``(H, W)``; InputError where there are none that can be read."""
    from pycocotools import mask as coco_masks

    if not segmentation:
        raise InputError("no outline (boxes only): draw one, or remove it")
    height, width = size
    try:
        if isinstance(segmentation, list):
            lengths = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            lengths = coco_masks.frPyObjects(segmentation, height, width)
        else:
            lengths = segmentation
        mask: NDArray[np.bool_] = coco_masks.decode(lengths).astype(bool)
        if mask.shape != size:
            raise ValueError("it is {}×{}, the picture {}×{}".format(*mask.shape, *size))
    except Exception as error:  # pycocotools raises nothing more exact
        raise InputError(
            f"an instance's segmentation cannot be read ({error}): expected polygons or run lengths"
        ) from error
    return mask
