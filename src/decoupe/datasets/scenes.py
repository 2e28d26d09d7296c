"""Photographs with their segments, and what every set of them gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from decoupe.datasets.sets import read_photograph
from decoupe.datasets.shards import Source
from decoupe.errors import InputError
from decoupe.weights.labels import Vocabulary

Array = NDArray[np.uint8]
Part = Literal["train", "val", "test"]

OTHER_SIZE = "segments of another size than the photograph"
"""What is wrong with a picture, without its name: the cause of an error that names one."""


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


def scene_of(
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


def twice_in(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that comes again; None where each comes once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
