"""What is asked of a worker: pictures to be read, what of them is wanted, and how it is answered.

Jobs are made in the server's process, which never opens a picture, and done in a worker's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoupe.commands.cut_files import Wanted
from decoupe.commands.segment_files import segment_files
from decoupe.inference.pictures import Picture, read_image

if TYPE_CHECKING:
    from decoupe.inference.results import Matte
    from decoupe.inference.segments import ReadingName, Segments

MEDIA_TYPES = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".json": "application/json",
    ".zip": "application/zip",
}
"""By the endings of the files that answers hold."""


@dataclass(frozen=True)
class Looks:
    """Options of a `Predictor` that may differ from picture to picture."""

    minmax: bool = False
    guided: bool | None = None
    size: tuple[int, int] | None = None


PLAIN = Looks()
"""How a model looks where nothing else is asked for."""


@dataclass(frozen=True)
class Answer:
    """What a job gives.

    Attributes:
        body: the bytes of a file.
        media_type: of the body.
        headers: what else is told of it.
    """

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job(ABC):
    """One picture, and what is wanted of it.

    Attributes:
        image: the bytes of the picture's file.
        model: the name of a model that the server has loaded.
        background: the bytes of a picture that the subject is put over.
        looks: how a matte model looks at the picture.
    """

    image: bytes
    model: str
    background: bytes | None = field(default=None, kw_only=True)
    looks: Looks = field(default=PLAIN, kw_only=True)

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The bytes of all files that are read, the one to be cut first."""
        return (self.image,) if self.background is None else (self.image, self.background)

    def choice(self, size: tuple[int, int]) -> dict[str, Any]:
        """What of a picture of ``size`` ``(height, width)`` is cut, as a `Predictor` takes it; {} is all.

        Raises:
            ProblemError: what is chosen is not in such a picture.
        """
        return {}

    @abstractmethod
    def answer(self, result: Any) -> Answer:
        """The file that is made of the model's result."""


@dataclass(frozen=True)
class Cut(Job):
    """A picture to be cut as ``decoupe cut`` does.

    Attributes:
        wanted: what is written.
        chosen: ``what``, ``box`` and ``point``, where they are given.
    """

    wanted: Wanted = field(default_factory=Wanted)
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def choice(self, size: tuple[int, int]) -> dict[str, Any]:
        """As the request says, in pixels."""
        return dict(self.chosen)

    def answer(self, matte: Matte) -> Answer:
        """The file that ``decoupe cut`` would write."""
        wanted = self.wanted
        if self.background is not None:
            wanted = replace(wanted, background=background_picture(self.background, "over"))
        return Answer(wanted.bytes_of(matte, None), MEDIA_TYPES[wanted.suffix])


def background_picture(data: bytes, name: str) -> Picture:
    """The picture of a file that the form calls ``name``, by which messages call it as well.

    Raises:
        InputError: as `read_image` does.
    """
    file = BytesIO(data)
    file.name = name
    return read_image(file)


@dataclass(frozen=True)
class Segmentation(Job):
    """A picture whose segments are told as ``decoupe segment`` does.

    Attributes:
        form: of the answer, as ``--format`` has it.
        reading: how pixels become segments.
        picture: whether the picture is wanted, else its JSON.
        score: least score of a segment; None is the model's own.
    """

    form: str = "overlay"
    reading: ReadingName = "panoptic"
    picture: bool = False
    score: float | None = None

    def answer(self, segments: Segments) -> Answer:
        """The file that ``decoupe segment`` would write."""
        from decoupe.inference.segments import Thresholds

        if self.score is not None:
            segments = replace(segments, thresholds=Thresholds(score=self.score, instance=self.score))
        target = Path("image.png") if self.picture else None
        body, _ = segment_files(segments, self.form, self.reading, target, self.model)[-1]
        return Answer(body, MEDIA_TYPES[".png" if self.picture else ".json"])
