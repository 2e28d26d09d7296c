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

import json
import math
import reprlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from decoupe.datasets.sets import Pair, pictures_in, read_pair, read_photograph
from decoupe.datasets.shards import Source, opened
from decoupe.errors import InputError
from decoupe.weights.labels import ADE20K, CITYSCAPES, VOC, Vocabulary

Array = NDArray[np.uint8]
Part = Literal["train", "val", "test"]
Kind = Literal["panoptic", "instances", "semantic"]
KINDS: tuple[Kind, ...] = ("panoptic", "instances", "semantic")
_LONG: Mapping[Part, str] = {"train": "training", "val": "validation", "test": "testing"}
_ROBOFLOW = "_annotations.coco.json"
_EXPORTED: Mapping[Part, str] = {"train": "train", "val": "valid", "test": "test"}
"""Roboflow's folders."""

OTHER_SIZE = "segments of another size than the photograph"
"""What is wrong with a picture, without its name: the cause of an error that names one."""
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
        """A picture's name, by which its prediction is found."""
        ...

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        ...

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        ...


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
    exported = folder / _EXPORTED[part] / _ROBOFLOW
    instances = [*sorted(annotations.glob(f"instances_{part}*.json")), exported]
    if part == "train":  # and sets of one part, whatever it is for
        instances += [annotations / "instances_default.json", folder / _ROBOFLOW]
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
    exported = any((folder / part / _ROBOFLOW).is_file() for part in ("", *_EXPORTED.values()))
    return exported or (folder / "annotations").is_dir() or any(layout.is_in(folder) for layout in _MAPS)


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


_WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What values of another kind than expected raise."""


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
            if (twice := _twice(one["id"] for one in ones)) is not None:
                raise InputError(f"{path} lists two {name} with the id {twice}: give each its own")
        categories = self._told_apart(listed["categories"])
        self.index = {one["id"]: number for number, one in enumerate(categories)}
        self.vocabulary = Vocabulary(
            names=tuple(one["name"] for one in categories),
            stuff=tuple(i for i, one in enumerate(categories) if not one.get("isthing", 1)),
            ids=tuple(self.index),
        )
        if path.name == _ROBOFLOW:  # beside its pictures
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
        return _scene(self.image_source(index), segments, classes, longest, crowd)


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
        return _scene(self.image_source(index), segments, classes, longest, crowd)

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


class SemanticMaps:
    """Any set whose truth is a PNG of class numbers for each picture.

    Args:
        name: of the set.
        pictures: name, photograph and map of each.
        vocabulary: the classes; their ids are the numbers in the maps.
        void: numbers that are no class; None for all others.

    Raises:
        InputError: there are none.
    """

    def __init__(
        self,
        name: str,
        pictures: Sequence[tuple[str, Path, Path]],
        vocabulary: Vocabulary,
        void: Collection[int] | None,
    ) -> None:
        if not pictures:
            raise InputError(f"{name} holds no maps: expected a PNG of class numbers for each photograph")
        self.name, self.pictures, self.vocabulary, self.void = name, pictures, vocabulary, void
        self.index = {vocabulary.id_of(label): label for label in range(len(vocabulary.names))}

    def __len__(self) -> int:
        return len(self.pictures)

    def name_of(self, index: int) -> str:
        """A picture's name, for messages."""
        return self.pictures[index][0]

    def image_source(self, index: int) -> Source:
        """Where a picture's photograph is."""
        return self.pictures[index][1]

    def read(self, index: int, *, longest: int | None = None) -> Scene:
        """A picture, its long side at most ``longest`` pixels."""
        _, photograph, map_of = self.pictures[index]
        with opened(map_of) as file:
            numbers = np.asarray(file)
        present, places = np.unique(numbers, return_inverse=True)
        known = [number in self.index for number in present.tolist()]
        strange = [
            number
            for number, one in zip(present.tolist(), known, strict=True)
            if not one and self.void is not None and number not in self.void
        ]
        if numbers.ndim != 2 or strange:
            raise InputError(
                f"{map_of} is not a map of {len(self.index)} classes: expected a grey or indexed PNG of "
                f"class numbers from {min(self.index)} to {max(self.index)}, found "
                + (f"{strange[0]}; other classes are named in classes.txt" if strange else "colours")
            )
        classes = np.array([self.index[n] for n in present.tolist() if n in self.index], np.int64)
        place_of = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
        return _scene(photograph, place_of[places.reshape(numbers.shape)], classes, longest)


def ade20k_maps(maps: Path) -> SemanticMaps:
    """ADE20K's scene parsing, and any set like it: classes are numbered from 1, 0 and 255 are none.

    They are named in ``classes.txt``, one a line, beside ``annotations``; without it they are ADE20K's 150.

    Args:
        maps: folder of the PNGs.

    Raises:
        InputError: a map without a photograph, or no maps.
    """
    root = maps.parent.parent
    names = _classes(root) or ADE20K.names
    files = [path for path in pictures_in(maps) if path.suffix.lower() == ".png"]
    pictures = _with_photographs({path.stem: path for path in files}, root / "images" / maps.name)
    void = (0, 255) if len(names) < 255 else (0,)
    return SemanticMaps(maps.name, pictures, _numbered(names, 1), void)


def voc_maps(root: Path, part: Part) -> SemanticMaps:
    """Pascal VOC's, and any set like it: classes are numbered from 0, which is the background; 255 is none.

    They are named in ``classes.txt``, one a line, the background first; without it they are VOC's 21.
    """
    listed = root / "ImageSets" / "Segmentation" / f"{part}.txt"
    names = _lines(listed, "a picture's name")
    maps = {name: root / "SegmentationClass" / f"{name}.png" for name in names}
    pictures = _with_photographs(maps, root / "JPEGImages")
    return SemanticMaps(part, pictures, _numbered(_classes(root) or VOC.names, 0), (255,))


def cityscapes_maps(root: Path, part: Part) -> SemanticMaps:
    """Cityscapes' fine annotations: its own label ids, of which 19 are scored and the others none."""
    truth, ending = root / "gtFine" / part, "_leftImg8bit.png"
    pictures = []
    for photograph in sorted((root / "leftImg8bit" / part).glob(f"*/*{ending}")):
        city, stem = photograph.parent.name, photograph.name.removesuffix(ending)
        map_of = truth / city / f"{stem}_gtFine_labelIds.png"
        pictures.append((f"{city}/{photograph.stem}", photograph, map_of))
    if missing := [map_of for *_, map_of in pictures if not map_of.is_file()]:
        raise InputError(f"{len(missing)} photographs have no map, {missing[0]} is missing first: add it")
    return SemanticMaps(part, pictures, CITYSCAPES, None)


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


def _classes(root: Path) -> tuple[str, ...]:
    """The names in a set's ``classes.txt``; none where there is no such file."""
    file = root / "classes.txt"
    names = _lines(file, "a class's name") if file.is_file() else []
    if (twice := _twice(names)) is not None:
        raise InputError(f"{file} names {twice!r} twice: give each class a name of its own")
    return tuple(names)


def _lines(file: Path, what: str) -> list[str]:
    """What stands in the lines of a text file, with or without a byte order mark; empty ones are left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}): expected {what} a line, in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _twice(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that comes again; None where each comes once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _numbered(names: tuple[str, ...], first: int) -> Vocabulary:
    return Vocabulary(names, stuff=tuple(range(len(names))), ids=tuple(range(first, first + len(names))))


def _with_photographs(maps: Mapping[str, Path], images: Path) -> list[tuple[str, Path, Path]]:
    """Name, photograph and map of each picture; InputError where there is no photograph."""
    photographs = {path.stem: path for path in pictures_in(images)}
    if missing := [path for name, path in maps.items() if name not in photographs]:
        raise InputError(f"{len(missing)} maps have no photograph in {images}, {missing[0]} first: add them")
    return [(name, photographs[name], path) for name, path in maps.items()]


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


def _scene(
    source: Source,
    segments: NDArray[np.int32],
    classes: NDArray[np.int64],
    longest: int | None,
    crowd: NDArray[np.bool_] | None = None,
) -> Scene:
    """A scene of a photograph and its segments, which must be of one size on disk."""
    picture, (width, height) = read_photograph(source, longest)
    if segments.shape != (height, width):
        sizes = "{}×{}, its segments {}×{}".format(width, height, *segments.shape[::-1])
        raise InputError(f"{source} is {sizes}: make them the same") from InputError(OTHER_SIZE)
    image = np.asarray(picture)
    if segments.shape != image.shape[:2]:
        small = Image.fromarray(segments).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        segments = np.asarray(small, np.int32)
    return Scene(image, segments, classes, np.zeros(len(classes), bool) if crowd is None else crowd)
