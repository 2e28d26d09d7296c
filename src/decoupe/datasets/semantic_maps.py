"""Semantic maps, a PNG of class numbers for each photograph: ADE20K's, Pascal VOC's, Cityscapes'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from decoupe.datasets.scenes import Part, Scene, scene_of, twice_in
from decoupe.datasets.sets import pictures_in
from decoupe.datasets.shards import Source, opened
from decoupe.errors import InputError
from decoupe.weights.labels import ADE20K, CITYSCAPES, VOC, Vocabulary


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
        return scene_of(photograph, place_of[places.reshape(numbers.shape)], classes, longest)


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


def _numbered(names: tuple[str, ...], first: int) -> Vocabulary:
    return Vocabulary(names, stuff=tuple(range(len(names))), ids=tuple(range(first, first + len(names))))


def _with_photographs(maps: Mapping[str, Path], images: Path) -> list[tuple[str, Path, Path]]:
    """Name, photograph and map of each picture; InputError where there is no photograph."""
    photographs = {path.stem: path for path in pictures_in(images)}
    if missing := [path for name, path in maps.items() if name not in photographs]:
        raise InputError(f"{len(missing)} maps have no photograph in {images}, {missing[0]} first: add them")
    return [(name, photographs[name], path) for name, path in maps.items()]


def _classes(root: Path) -> tuple[str, ...]:
    """The names in a set's ``classes.txt``; none where there is no such file."""
    file = root / "classes.txt"
    names = _lines(file, "a class's name") if file.is_file() else []
    if (twice := twice_in(names)) is not None:
        raise InputError(f"{file} names {twice!r} twice: give each class a name of its own")
    return tuple(names)


def _lines(file: Path, what: str) -> list[str]:
    """What stands in the lines of a text file, with or without a byte order mark; empty ones are left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}): expected {what} a line, in UTF-8") from error
    return [line.strip() for line in lines if line.strip()]
