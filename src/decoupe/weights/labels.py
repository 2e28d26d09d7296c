"""The names of classes: what a segment model's class indices mean. Plain data; imports no PyTorch.

A checkpoint in transformers' format brings its own names; those of the two sets that most models are trained
on stand here for Detectron2's files, which have none, and for telling things from stuff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decoupe.errors import ConfigError, InputError, unknown


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a segment model, by index.

    Attributes:
        names: one for each class.
        stuff: indices of classes without countable objects, such as sky: all of one class is one segment.
        ids: the number of each class in its data set's own files; None where they are the indices.
    """

    names: tuple[str, ...]
    stuff: tuple[int, ...] = ()
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for indices or ids that fit no name."""
        if any(not 0 <= index < len(self.names) for index in self.stuff):
            raise ConfigError(f"stuff holds {max(self.stuff)}, expected indices of {len(self.names)} classes")
        if self.ids is not None and len(self.ids) != len(self.names):
            raise ConfigError(f"there are {len(self.ids)} ids for {len(self.names)} classes: give one each")

    @property
    def none(self) -> int:
        """Value of a label picture where there is no class: 255, and 65535 where 255 may be one."""
        return 255 if len(self.names) <= 255 else 65535

    def id_of(self, index: int) -> int:
        """The number of a class in its data set's own files."""
        return index if self.ids is None else self.ids[index]

    def find(self, label: str) -> tuple[int, ...]:
        """The classes that a user means by ``label``; of "road, route" either, see `synonyms`.

        Raises:
            InputError: no such class; the message suggests the nearest.
        """
        wanted = plain(label)
        found = tuple(
            i for i, name in enumerate(self.names) if wanted in (name.lower(), plain(name), *synonyms(name))
        )
        if not found:
            names = dict.fromkeys(word for name in self.names for word in synonyms(name))
            raise InputError(unknown("label", label, names))
        return found


NO_NAMES = Vocabulary(())
"""The vocabulary of models that give mattes."""


def plain(name: str) -> str:
    """A class's name as people say it: COCO's "wall-other-merged" is "wall"."""
    words = name.lower().strip()
    for suffix in ("-merged", "-other", "-stuff"):
        words = words.removesuffix(suffix)
    return words


def synonyms(name: str) -> tuple[str, ...]:
    """What ADE20K's full names, such as "sidewalk, pavement", call a class, each as people say it."""
    return tuple(plain(word) for word in name.split(","))


def vocabulary(names: Sequence[str] | None, classes: int) -> Vocabulary:
    """The vocabulary of a model with ``classes`` classes.

    Args:
        names: as its checkpoint tells them; None where it does not.
        classes: how many it tells apart.

    Raises:
        ConfigError: names of another number of classes.
    """
    if names is None:
        return _PUBLISHED.get(classes) or Vocabulary(tuple(f"class {index}" for index in range(classes)))
    if len(names) != classes:
        raise ConfigError(f"there are {len(names)} labels for {classes} classes: give one each")
    known = published(names)
    return Vocabulary(tuple(names)) if known is None else Vocabulary(tuple(names), known.stuff, known.ids)


def published(names: Sequence[str]) -> Vocabulary | None:
    """The data set whose classes these are, or None: most names agree, though releases differ in spelling."""
    known = _PUBLISHED.get(len(names))
    if known is None:
        return None
    agree = [set(synonyms(a)) & set(synonyms(b)) for a, b in zip(names, known.names, strict=True)]
    return known if sum(map(bool, agree)) > len(agree) // 2 else None


def _listed(names: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in names.split(","))


_COCO_THINGS = _listed(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
    hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
    zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports
    ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine
    glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
    dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
    vase, scissors, teddy bear, hair drier, toothbrush
    """
)
_COCO_STUFF = _listed(
    """
    banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit,
    gravel, house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road,
    roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood,
    water-other, window-blind, window-other, tree-merged, fence-merged, ceiling-other-merged,
    sky-other-merged, cabinet-merged, table-merged, floor-other-merged, pavement-merged,
    mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged,
    building-other-merged, rock-merged, wall-other-merged, rug-merged
    """
)
_UNUSED_THINGS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_STUFF_IDS = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149),
    *(151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)

COCO_PANOPTIC = Vocabulary(
    names=(*_COCO_THINGS, *_COCO_STUFF),
    stuff=tuple(range(len(_COCO_THINGS), len(_COCO_THINGS) + len(_COCO_STUFF))),
    ids=(*(number for number in range(1, 91) if number not in _UNUSED_THINGS), *_STUFF_IDS),
)
"""COCO's 133 classes of panoptic segmentation: 80 things, 53 of stuff."""

_ADE20K = _listed(
    """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
    house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
    railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
    skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
    screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
    bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
    machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
    television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
    bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
    swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
    step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
    sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
    """
)
ADE20K = Vocabulary(names=_ADE20K, stuff=tuple(range(len(_ADE20K))))
"""ADE20K's 150 classes of scene parsing, where each class is one region of the picture."""

_VOC = _listed(
    """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
    """
)
VOC = Vocabulary(names=_VOC, stuff=tuple(range(len(_VOC))))
"""Pascal VOC's 20 classes of segmentation, and the background before them."""

_CITYSCAPES = _listed(
    """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain,
    sky, person, rider, car, truck, bus, train, motorcycle, bicycle
    """
)
CITYSCAPES = Vocabulary(
    names=_CITYSCAPES,
    stuff=tuple(range(len(_CITYSCAPES))),
    ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)
"""The 19 classes of Cityscapes that are scored."""

_PUBLISHED = {len(known.names): known for known in (COCO_PANOPTIC, ADE20K, CITYSCAPES)}
