"""Segment sets on disk: COCO panoptic, COCO instances, ADE20K; and matte sets as segments.

A set is found by its layout:

    COCO panoptic   annotations/panoptic_train2017.json and panoptic_train2017/*.png, train2017/*.jpg
    COCO instances  annotations/instances_train2017.json, train2017/*.jpg
    ADE20K          annotations/training/*.png, images/training/*.jpg
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from decoupe.datasets.sets import Pair, pictures_in, read_pair, read_picture
from decoupe.datasets.shards import Source, opened
from decoupe.errors import InputError
from decoupe.weights.labels import ADE20K, Vocabulary

Array = NDArray[np.uint8]
Part = Literal["train", "val"]
Kind = Literal["panoptic", "instances", "semantic"]

SUBJECT = 128
"""Mask value from which a pixel of a matte set is its subject's."""


class Scene(NamedTuple):
    """A photograph and its segments.

    Attributes:
        image: uint8 ``(H, W, 3)``.
        segments: int32 ``(H, W)``: of each pixel the index in ``classes``, −1 where nothing is told.
        classes: int64 ``(M,)``, each in [0, K).
        crowd: bool ``(M,)``: which segments are crowds, of which nobody counted the objects.
    """

    image: Array
    segments: NDArray[np.int32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    @property
    def told(self) -> NDArray[np.int32]:
        """``segments`` without the crowds: −1 there too."""
        if not self.crowd.any():
            return self.segments
        kept = np.append(np.where(self.crowd, -1, np.arange(len(self.crowd))), -1)  # −1 is the last
        return kept.astype(np.int32)[self.segments]


class SceneObject(NamedTuple):
    """An object of a picture.

    Attributes:
        mask: bool ``(H, W)``.
        label: index of its class.
        crowd: whether it is a crowd.
        area: what its annotation tells, in square pixels; None where it does not.
    """

    mask: NDArray[np.bool_]
    label: int
    crowd: bool
    area: float | None


class SegmentSet(Protocol):
    """Pictures with segments."""

    @property
    def name(self) -> str:
        """Of the set, for reports."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of its classes, and which are stuff."""
        ...

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def name_of(self, index: int) -> str:
        """A picture's name, for messages."""
        ...

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        ...

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        ...


def find_segment_set(folder: str | Path, part: Part = "train", kind: Kind | None = None) -> SegmentSet:
    """The segment set in a folder.

    Args:
        folder: in one of the layouts above.
        part: for training or for validation.
        kind: which, where a folder holds several; without it the first of panoptic, instances, semantic.

    Raises:
        InputError: no such set there, or its files do not fit each other.
    """
    folder = Path(folder)
    annotations = folder / "annotations"
    found: dict[Kind, Path] = {}
    coco: tuple[Kind, ...] = ("panoptic", "instances")
    for name in coco:
        if files := sorted(annotations.glob(f"{name}_{part}*.json")):
            found[name] = files[0]
    long = {"train": "training", "val": "validation"}[part]
    for maps in (annotations / part, annotations / long):
        if maps.is_dir():
            found["semantic"] = maps
    chosen = kind if kind is not None else next(iter(found), None)
    if chosen is None or chosen not in found:
        raise InputError(
            f"{folder} holds no {kind or 'segment'} set for {long}: expected annotations/ inside with "
            f"panoptic_{part}*.json or instances_{part}*.json (COCO), or {long}/ (ADE20K)"
        )
    kinds: dict[Kind, Callable[[Path], SegmentSet]] = {
        "panoptic": CocoPanoptic,
        "instances": CocoInstances,
        "semantic": SemanticMaps,
    }
    return kinds[chosen](found[chosen])


class _Coco:
    """What COCO's two kinds of annotations share.

    Args:
        path: the JSON file.

    Raises:
        InputError: it cannot be read, or its pictures are not there.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            categories = sorted(self.content["categories"], key=lambda one: int(one["id"]))
            self.images: list[dict[str, Any]] = sorted(self.content["images"], key=lambda one: int(one["id"]))
            self.index = {int(one["id"]): number for number, one in enumerate(categories)}
            self.vocabulary = Vocabulary(
                names=tuple(str(one["name"]) for one in categories),
                stuff=tuple(i for i, one in enumerate(categories) if not one.get("isthing", 1)),
                ids=tuple(self.index),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is not a COCO annotation file ({error!r}): expected images, categories, annotations"
            ) from error
        self.path = path
        root, part = path.parent.parent, path.stem.partition("_")[2]
        folders = [root / part, root / "images" / part, root / "images", root]
        self.folder = next((one for one in folders if one.is_dir() and self._holds(one)), None) or folders[0]
        if self.images and not self._holds(self.folder):
            raise InputError(
                f"the pictures of {path} are not in {folders[0]}: {self._file(0)} is missing, put them there"
            )
        self.name = part

    def _file(self, index: int) -> str:
        return str(self.images[index]["file_name"])

    def _holds(self, folder: Path) -> bool:
        return bool(self.images) and (folder / self._file(0)).is_file()

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        """A picture's name, for messages."""
        return Path(self._file(index)).stem

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        return self.folder / self._file(index)

    @cached_property
    def of_image(self) -> dict[int, list[dict[str, Any]]]:
        """The annotations of each picture, by its id."""
        of_image: dict[int, list[dict[str, Any]]] = {int(one["id"]): [] for one in self.images}
        for annotation in self.content["annotations"]:
            if int(annotation["image_id"]) in of_image:
                of_image[int(annotation["image_id"])].append(annotation)
        return of_image

    def class_of(self, category: object) -> int:
        """The class index of a category id."""
        if category not in self.index:
            raise InputError(
                f"{self.path} has an annotation of category {category}, which it does not list: add it there"
            )
        return self.index[int(str(category))]


class CocoPanoptic(_Coco):
    """COCO panoptic: a PNG of segment ids per picture, and a JSON that says what each id is."""

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        annotations = self.of_image[int(self.images[index]["id"])]
        if len(annotations) != 1:
            raise InputError(
                f"{self.path} has {len(annotations)} annotations of {self._file(index)}, expected one: "
                "remove the picture or the others"
            )
        (annotation,) = annotations
        told = annotation["segments_info"]
        file = self.path.with_suffix("") / annotation["file_name"]
        segments = panoptic_segments(file, [int(one["id"]) for one in told])
        classes = np.array([self.class_of(one["category_id"]) for one in told], np.int64)
        crowd = np.array([bool(one.get("iscrowd", 0)) for one in told], bool)
        return _scene(self.image_source(index), segments, classes, longest, crowd)


class CocoInstances(_Coco):
    """COCO instances: polygons or run lengths; the smaller of two is in front, a crowd behind all."""

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        image = self.images[index]
        segments = np.full((int(image["height"]), int(image["width"])), -1, np.int32)
        told = self.objects(index)
        behind = [(not one.crowd, -int(one.mask.sum()), number) for number, one in enumerate(told)]
        for *_, number in sorted(behind):
            segments[told[number].mask] = number
        classes = np.array([one.label for one in told], np.int64)
        crowd = np.array([one.crowd for one in told], bool)
        return _scene(self.image_source(index), segments, classes, longest, crowd)

    def objects(self, index: int) -> list[SceneObject]:
        """The objects of a picture, whole where they overlap, crowds among them."""
        image = self.images[index]
        size = int(image["height"]), int(image["width"])
        return [
            SceneObject(
                instance_mask(one["segmentation"], size),
                self.class_of(one["category_id"]),
                bool(one.get("iscrowd", 0)),
                None if one.get("area") is None else float(one["area"]),
            )
            for one in self.of_image[int(image["id"])]
        ]


class SemanticMaps:
    """ADE20K's scene parsing, and any set like it: a PNG of class numbers from 1 per picture, 0 for none.

    The classes are named in ``classes.txt``, one a line, beside ``annotations``; without it they are ADE20K's
    150.

    Args:
        maps: folder of the PNGs.

    Raises:
        InputError: a map without a photograph, or no maps.
    """

    def __init__(self, maps: Path) -> None:
        root = maps.parent.parent
        images = root / "images" / maps.name
        photographs = {path.stem: path for path in pictures_in(images)}
        self.maps = [path for path in pictures_in(maps) if path.suffix.lower() == ".png"]
        if missing := [path for path in self.maps if path.stem not in photographs]:
            raise InputError(
                f"{len(missing)} maps have no photograph in {images}, {missing[0]} first: add them"
            )
        if not self.maps:
            raise InputError(f"{maps} holds no .png maps: expected one of class numbers for each photograph")
        self.photographs = [photographs[path.stem] for path in self.maps]
        names = root / "classes.txt"
        listed = names.read_text(encoding="utf-8").split("\n") if names.is_file() else list(ADE20K.names)
        kept = tuple(name.strip() for name in listed if name.strip())
        self.vocabulary = Vocabulary(kept, stuff=tuple(range(len(kept))), ids=tuple(range(1, len(kept) + 1)))
        self.name = maps.name

    def __len__(self) -> int:
        return len(self.maps)

    def name_of(self, index: int) -> str:
        """A picture's name, for messages."""
        return self.maps[index].stem

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        return self.photographs[index]

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        with opened(self.maps[index]) as file:
            numbers = np.asarray(file)
        if numbers.ndim != 2 or numbers.max(initial=0) > len(self.vocabulary.names):
            raise InputError(
                f"{self.maps[index]} is not a map of {len(self.vocabulary.names)} classes: expected a grey "
                "or indexed PNG of class numbers, 0 for none; other classes are named in classes.txt"
            )
        present, places = np.unique(numbers, return_inverse=True)
        classes = present[present > 0].astype(np.int64) - 1
        segments = places.reshape(numbers.shape).astype(np.int32) - int(present[0] == 0)
        return _scene(self.photographs[index], segments, classes, longest)


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


def panoptic_segments(file: Path, ids: Sequence[int]) -> NDArray[np.int32]:
    """COCO's picture of segment ids -> of each pixel the place of its id in ``ids``, −1 for any other."""
    with opened(file) as picture:
        colours = np.asarray(picture.convert("RGB"), np.int32)
    pixels = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    if not ids:
        return np.full(pixels.shape, -1, np.int32)
    known = np.array(ids, np.int32)
    order = np.argsort(known)
    place = np.searchsorted(known[order], pixels).clip(max=len(known) - 1)
    segments: NDArray[np.int32] = np.where(known[order][place] == pixels, order[place], -1).astype(np.int32)
    return segments


def instance_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons or run lengths as a mask ``(H, W)``."""
    from pycocotools import mask as coco_masks

    height, width = size
    try:
        if isinstance(segmentation, list):
            lengths = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            lengths = coco_masks.frPyObjects(segmentation, height, width)
        else:
            lengths = segmentation
        mask: NDArray[np.bool_] = coco_masks.decode(lengths).astype(bool)
    except Exception as error:  # pycocotools raises nothing more exact
        raise InputError(
            f"an instance's segmentation cannot be read ({error}): expected polygons or run lengths"
        ) from error
    return mask


def _scene(
    source: Source,
    segments: NDArray[np.int32],
    classes: NDArray[np.int64],
    longest: int | None,
    crowd: NDArray[np.bool_] | None = None,
) -> Scene:
    """A scene of a photograph and its segments, which must be of one size on disk."""
    image = read_picture(source, longest=longest)
    height, width = segments.shape
    # The photograph may have been made smaller: its aspect ratio tells whether it is that of the segments.
    if abs(image.shape[0] * width - image.shape[1] * height) > max(height, width):
        raise InputError(
            f"{source} is {image.shape[1]}×{image.shape[0]}, its segments {width}×{height}: "
            "make them the same"
        )
    if segments.shape != image.shape[:2]:
        small = Image.fromarray(segments).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        segments = np.asarray(small, np.int32)
    return Scene(image, segments, classes, np.zeros(len(classes), bool) if crowd is None else crowd)
