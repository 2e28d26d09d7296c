"""What classes are called, and what people call them."""

from __future__ import annotations

import pytest

from decoupe.errors import InputError
from decoupe.weights.labels import ADE20K, COCO_PANOPTIC, published, synonyms, vocabulary

FULL = {
    "road": "road, route",
    "sidewalk": "sidewalk, pavement",
    "windowpane": "window ",
    "painting": "painting, picture",
    "earth": "earth, ground",
}
RELEASED = tuple(FULL.get(name, name) for name in ADE20K.names)
"""ADE20K's classes as other programs write them."""


def test_a_class_is_found_by_whatever_people_call_it() -> None:
    assert [COCO_PANOPTIC.names[index] for index in COCO_PANOPTIC.find("Wall")] == ["wall-other-merged"]
    known = vocabulary(RELEASED, 150)
    assert known.stuff == ADE20K.stuff
    for label in ("road", "Route", "road, route"):
        assert known.find(label) == (ADE20K.names.index("road"),)
    assert known.find("window") == (ADE20K.names.index("windowpane"),)
    with pytest.raises(InputError, match="unknown label 'pavment'; did you mean 'pavement'"):
        known.find("pavment")


def test_a_published_set_is_known_by_most_of_its_names() -> None:
    assert synonyms("Sidewalk, pavement") == ("sidewalk", "pavement")
    assert published(RELEASED) is ADE20K
    assert published(COCO_PANOPTIC.names) is COCO_PANOPTIC
    assert published(ADE20K.names[::-1]) is None
    assert published(("cat", "dog")) is None
