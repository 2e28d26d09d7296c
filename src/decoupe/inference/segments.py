"""What a segment model gives: which objects and surfaces are where, and the files that can be made of it."""

from __future__ import annotations

import colorsys
import dataclasses
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from decoupe import readings
from decoupe.arrays import Box, Floats, Mask, Pixels
from decoupe.errors import InputError, unknown
from decoupe.inference.checks import check_number, check_pixels
from decoupe.inference.media import preview
from decoupe.inference.once import computed_once
from decoupe.inference.regions import Ring, compressed, dilated, outlines, run_lengths
from decoupe.weights.labels import Vocabulary, plain

ReadingName = Literal["panoptic", "instances", "semantic"]
READINGS: tuple[ReadingName, ...] = ("panoptic", "instances", "semantic")


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """One object or surface of a picture.

    Attributes:
        label: name of its class.
        score: how sure the model is, in [0, 1].
        mask: bool ``(H, W)``, at the picture's own size.
        index: of its class, in the model's vocabulary.
        thing: whether its class is of countable objects (dog), not of stuff (sky).

    Raises:
        InputError: a mask of another type or shape, or without a pixel, or a score outside [0, 1].
    """

    label: str
    score: float
    mask: Mask
    index: int = 0
    thing: bool = True

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise InputError(
                f"mask is {self.mask.dtype} {self.mask.shape}, expected bool (H, W): use mask > 0"
            )
        if not self.mask.any():
            raise InputError(
                f"the mask of {self.label!r} is empty, expected at least one pixel: leave it out"
            )
        check_number("score", self.score, "a number in [0, 1]", least=0, most=1)

    def __repr__(self) -> str:
        return f"Segment({self.label!r}, {self.score:.2f}, box={self.box}, area={self.area})"

    @computed_once
    def box(self) -> Box:
        """The smallest ``(x0, y0, x1, y1)`` in pixels that holds the mask; x1 and y1 are just outside."""
        return readings.bounding_box(self.mask)

    @computed_once
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Thresholds:
    """When a query counts; the defaults of panoptic reading are the paper's for COCO.

    Attributes:
        score: least class probability in panoptic reading.
        mask: probability from which a pixel is in a query's own mask.
        overlap: least part of its own mask that a query must win.
        void: probability of the winning mask below which a pixel belongs to no segment in panoptic reading.
        instance: least score in instance reading.
    """

    score: float = 0.8
    mask: float = 0.5
    overlap: float = 0.8
    void: float = 0.5
    instance: float = 0.5

    def __post_init__(self) -> None:
        """Raise InputError for a value outside [0, 1]."""
        for name, value in dataclasses.asdict(self).items():
            check_number(f"threshold {name}", value, "a number in [0, 1]", least=0, most=1)


@dataclass(frozen=True, eq=False, repr=False)
class Segments:
    """The segments of one picture, in three readings, each computed when it is first asked for.

    Attributes:
        class_logits: float32 ``(Q, K + 1)`` of the model's queries, "no object" last.
        mask_logits: float32 ``(Q, h, w)``.
        vocabulary: the names of the K classes.
        image: the picture, upright: RGB ``(H, W, 3)``, uint8 or uint16.
        icc_profile: the RGB profile that ``image`` is in; None means sRGB.
        source: where the picture came from.
        thresholds: when a query counts; `dataclasses.replace` gives the same segments under others.

    Raises:
        InputError: logits that do not fit each other or the vocabulary, or an image of another type.
    """

    class_logits: Floats
    mask_logits: Floats
    vocabulary: Vocabulary
    image: Pixels
    icc_profile: bytes | None = None
    source: str = "image"
    thresholds: Thresholds = Thresholds()

    def __post_init__(self) -> None:
        queries, classes = len(self.mask_logits), len(self.vocabulary.names)
        if self.class_logits.shape != (queries, classes + 1) or self.mask_logits.ndim != 3:
            raise InputError(
                f"class logits are {self.class_logits.shape}, mask logits {self.mask_logits.shape}; "
                f"expected (Q, {classes + 1}) for {classes} classes, and (Q, h, w)"
            )
        if not (np.isfinite(self.class_logits).all() and np.isfinite(self.mask_logits).all()):
            raise InputError("the logits hold NaN or infinity: compute them in float32")
        check_pixels(self.image)

    def _repr_png_(self) -> bytes:
        """The picture with labels, as notebooks show it."""
        return preview(self.overlay())

    def __repr__(self) -> str:
        height, width = self.size
        found = ", ".join(segment.label for segment in self.panoptic[:8])
        more = ", …" if len(self.panoptic) > 8 else ""
        return f"Segments({width}×{height}, {found or 'nothing'}{more}, from {self.source})"

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the picture in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @computed_once
    def semantic(self) -> npt.NDArray[np.int64]:
        """The likeliest class of every pixel: indices ``(H, W)`` of ``vocabulary.names``."""
        return readings.semantic(self.class_logits, self.mask_logits, self.size)

    @computed_once
    def instances(self) -> list[Segment]:
        """Objects, each for itself, the surest first; they may overlap."""
        found = readings.instances(
            self.class_logits, self.mask_logits, self.size, self.thresholds.instance, smooth=True
        )
        return [self._named(reading) for reading in found]

    @computed_once
    def panoptic(self) -> list[Segment]:
        """Objects and surfaces that share no pixel; an empty list where the model sees nothing."""
        limits = self.thresholds
        found = readings.panoptic(
            self.class_logits,
            self.mask_logits,
            self.size,
            limits.score,
            limits.mask,
            limits.overlap,
            fuse=self.vocabulary.stuff,
            void=limits.void,
        )
        return [self._named(reading) for reading in found]

    def read(self, reading: ReadingName = "panoptic") -> list[Segment]:
        """The segments in one of the three readings; of the semantic one, one for each class that is there.

        Raises:
            InputError: another reading.
        """
        if reading not in READINGS:
            raise InputError(unknown("reading", reading, READINGS))
        if reading == "instances":
            return self.instances
        return self.panoptic if reading == "panoptic" else self._regions()

    def overlay(self, reading: ReadingName = "panoptic", *, opacity: float = 0.5) -> Image.Image:
        """The picture under coloured masks with an outline, each with its label, mode RGB.

        A class has the same colour in every picture and under every model that calls it so.

        Args:
            reading: which segments are drawn.
            opacity: of the colours inside, in [0, 1].

        Raises:
            InputError: another reading or opacity.
        """
        check_number("opacity", opacity, "a number in [0, 1]", least=0, most=1)
        segments = sorted(self.read(reading), key=lambda segment: -segment.area)  # small ones on top
        owner = np.zeros(self.size, np.intp)
        weight = np.zeros(self.size, np.uint8)
        width = max(1, round(max(self.size) / 600))
        for number, segment in enumerate(segments, start=1):
            x0, y0, x1, y1 = segment.box
            mask = segment.mask[y0:y1, x0:x1]
            owner[y0:y1, x0:x1][mask] = number
            edge = dilated(~np.pad(mask, 1), width)[1:-1, 1:-1]
            weight[y0:y1, x0:x1][mask] = np.where(edge[mask], 255, round(255 * opacity))
        colours = np.array([(0, 0, 0), *(colour_of(segment.label) for segment in segments)], np.uint8)
        below = self.image if self.image.dtype == np.uint8 else (self.image >> 8).astype(np.uint8)
        tint, under, cover = (Image.fromarray(layer) for layer in (colours[owner], below, weight))
        picture = Image.composite(tint, under, cover)
        for segment in segments:
            _write_label(picture, segment)
        if self.icc_profile is not None:
            picture.info["icc_profile"] = self.icc_profile
        return picture

    def label_image(self, reading: ReadingName = "semantic") -> Image.Image:
        """Class indices as a picture: mode P with each class's colour, 255 where there is no segment.

        Models of more than 255 classes give 16-bit grey, 65535 where there is no segment.
        """
        none = self.vocabulary.none
        many = none > 255
        labels = np.full(self.size, none, np.uint16 if many else np.uint8)
        if reading == "semantic":
            labels[:] = self.semantic
        else:
            for segment in reversed(self.read(reading)):
                labels[segment.mask] = segment.index
        picture = Image.fromarray(labels)
        if not many:
            colours = [colour_of(name) for name in self.vocabulary.names]
            values = [value for colour in colours for value in colour]
            # All 256 entries: with fewer, Pillow writes fewer bits a pixel and cuts 255 off.
            picture.putpalette(values + [0] * (768 - len(values)))
        return picture

    def coco_panoptic(
        self, image_id: int = 0, file_name: str = "image.png"
    ) -> tuple[dict[str, Any], Image.Image]:
        """The panoptic reading as COCO keeps it: one annotation, and a picture whose colours are segment ids.

        Args:
            image_id: of the picture, in the data set.
            file_name: that the picture of ids will have.
        """
        ids = np.zeros(self.size, np.uint32)
        infos = []
        for number, segment in enumerate(self.panoptic, start=1):
            ids[segment.mask] = number
            infos.append(
                {
                    "id": number,
                    "category_id": self.vocabulary.id_of(segment.index),
                    "iscrowd": 0,
                    "area": segment.area,
                    "bbox": _corner_and_sides(segment),
                    "score": round(segment.score, 6),
                }
            )
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        annotation = {"image_id": image_id, "file_name": file_name, "segments_info": infos}
        return annotation, Image.fromarray(colours)

    def coco_instances(self, image_id: int = 0) -> list[dict[str, Any]]:
        """The instance reading as COCO's results, masks as compressed run lengths."""
        height, width = self.size
        return [
            {
                "id": number,
                "image_id": image_id,
                "category_id": self.vocabulary.id_of(segment.index),
                "segmentation": {"size": [height, width], "counts": compressed(run_lengths(segment.mask))},
                "area": segment.area,
                "bbox": _corner_and_sides(segment),
                "iscrowd": 0,
                "score": round(segment.score, 6),
            }
            for number, segment in enumerate(self.instances, start=1)
        ]

    def polygons(self, reading: ReadingName = "panoptic") -> dict[str, Any]:
        """The segments as GeoJSON's FeatureCollection, coordinates in pixels of the picture, y downwards.

        The lines run along pixel edges, so that filling them gives the masks exactly.
        """
        features = [
            {
                "type": "Feature",
                "properties": {
                    "label": segment.label,
                    "score": round(segment.score, 6),
                    "box": list(segment.box),
                    "area": segment.area,
                },
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [
                        [_closed(polygon.outer), *map(_closed, polygon.holes)]
                        for polygon in outlines(segment.mask)
                    ],
                },
            }
            for segment in self.read(reading)
        ]
        return {"type": "FeatureCollection", "features": features}

    def categories(self) -> list[dict[str, Any]]:
        """The classes as COCO's files list them."""
        stuff = set(self.vocabulary.stuff)
        return [
            {
                "id": self.vocabulary.id_of(index),
                "name": name,
                "isthing": int(index not in stuff),
                "color": list(colour_of(name)),
            }
            for index, name in enumerate(self.vocabulary.names)
        ]

    def _named(self, reading: readings.Reading) -> Segment:
        name = self.vocabulary.names[reading.label]
        score = min(1.0, max(0.0, reading.score))  # sums of probabilities round beyond 1
        return Segment(name, score, reading.mask, reading.label, reading.label not in self.vocabulary.stuff)

    def _regions(self) -> list[Segment]:
        """The semantic reading as one segment per class, whose score is that of its best query."""
        best = readings.softmax(self.class_logits)[:, :-1].max(axis=0)
        return [
            self._named(readings.Reading(int(index), float(best[index]), self.semantic == index))
            for index in np.unique(self.semantic)
        ]


def colour_of(label: str) -> tuple[int, int, int]:
    """The colour of a class, ``(r, g, b)`` of 0 to 255: it follows from the name alone."""
    code = zlib.crc32(plain(label).encode())
    hue, saturation, value = code % 360 / 360, 0.55 + code // 360 % 4 * 0.13, 0.75 + code // 1440 % 3 * 0.12
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def _write_label(picture: Image.Image, segment: Segment) -> None:
    """Write the label where the segment is thickest, on a plate of its colour, inside the picture."""
    draw = ImageDraw.Draw(picture)
    height = min(max(12, max(picture.size) // 45), max(8, picture.height // 4))
    font = ImageFont.load_default(height)
    label = plain(segment.label)
    left, top, right, bottom = map(round, draw.textbbox((0, 0), label, font=font))
    pad = max(2, height // 4)
    wide, high = right - left + 2 * pad, bottom - top + 2 * pad
    x, y = _middle(segment)
    x = min(max(0, x - wide // 2), max(0, picture.width - wide))
    y = min(max(0, y - high // 2), max(0, picture.height - high))
    red, green, blue = colour = colour_of(segment.label)
    draw.rounded_rectangle((x, y, x + wide - 1, y + high - 1), radius=pad, fill=colour)
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"  # ITU-R BT.601's grey
    draw.text((x + pad - left, y + pad - top), label, font=font, fill=ink)


def _middle(segment: Segment) -> tuple[int, int]:
    """A place ``(x, y)`` well inside the mask: what is left of it when its edge is taken away repeatedly."""
    x0, y0, x1, y1 = segment.box
    step = max(1, max(x1 - x0, y1 - y0) // 64)
    core = np.pad(segment.mask[y0:y1:step, x0:x1:step], 1)
    if not core.any():
        return (x0 + x1) // 2, (y0 + y1) // 2
    while (rest := ~dilated(~core, 1)).any():
        core = rest
    rows, columns = np.nonzero(core)
    middle = len(rows) // 2
    return x0 + (int(columns[middle]) - 1) * step, y0 + (int(rows[middle]) - 1) * step


def _corner_and_sides(segment: Segment) -> list[int]:
    x0, y0, x1, y1 = segment.box
    return [x0, y0, x1 - x0, y1 - y0]


def _closed(ring: Ring) -> list[list[int]]:
    """A ring as GeoJSON writes it: the first corner again at the end."""
    return [list(corner) for corner in (*ring, ring[0])]
