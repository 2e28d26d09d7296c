"""Segments: their readings by name, and the files that are made of them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from decoupe import InputError, Segment, Segments
from decoupe.inference.segments import READINGS, Thresholds, colour_of
from decoupe.weights.labels import COCO_PANOPTIC, Vocabulary
from inference.queries import ANIMALS, logits_of

HEIGHT, WIDTH = 60, 90


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


CAT, OTHER_CAT, DOG = rectangle(5, 20, 25, 50), rectangle(60, 20, 85, 55), rectangle(30, 10, 55, 55)
GRASS = rectangle(0, 30, WIDTH, HEIGHT) & ~(CAT | OTHER_CAT | DOG)
SKY = ~(CAT | OTHER_CAT | DOG | GRASS)


@pytest.fixture
def scene() -> Segments:
    grass_left, grass_right = GRASS.copy(), GRASS.copy()
    grass_left[:, 45:] = grass_right[:, :45] = False
    masks = [CAT, OTHER_CAT, DOG, grass_left, grass_right, SKY]
    classes = [0, 0, 1, 2, 2, 3]
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    return Segments(*logits_of(masks, classes), ANIMALS, image, source="zoo.jpg")


def test_panoptic_segments_have_names_boxes_and_areas(scene: Segments) -> None:
    found = [(segment.label, segment.box, segment.area, segment.thing) for segment in scene.panoptic]
    assert found == [
        ("cat", (5, 20, 25, 50), 600, True),
        ("cat", (60, 20, 85, 55), 875, True),
        ("dog", (30, 10, 55, 55), 1125, True),
        ("grass-merged", (0, 30, 90, 60), int(GRASS.sum()), False),
        ("sky-other-merged", (0, 0, 90, 30), int(SKY.sum()), False),
    ]
    assert all(0.99 < segment.score <= 1 for segment in scene.panoptic)
    assert repr(scene.panoptic[2]) == "Segment('dog', 1.00, box=(30, 10, 55, 55), area=1125)"
    assert repr(scene) == ("Segments(90×60, cat, cat, dog, grass-merged, sky-other-merged, from zoo.jpg)")


def test_instances_and_semantic_reading_agree_with_the_masks(scene: Segments) -> None:
    assert sorted(segment.label for segment in scene.instances) == sorted(
        ["cat", "cat", "dog", "grass-merged", "grass-merged", "sky-other-merged"]
    )
    np.testing.assert_array_equal(scene.semantic, 0 * (CAT | OTHER_CAT) + 1 * DOG + 2 * GRASS + 3 * SKY)
    regions = {segment.label: segment for segment in scene.read("semantic")}
    np.testing.assert_array_equal(regions["cat"].mask, CAT | OTHER_CAT)
    assert list(regions) == list(ANIMALS.names)


def test_an_empty_picture_has_an_empty_list() -> None:
    classes, masks = logits_of([CAT], [4])  # "no object"
    empty = Segments(classes, masks, ANIMALS, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert empty.panoptic == []
    assert empty.instances == []
    assert empty.polygons() == {"type": "FeatureCollection", "features": []}
    assert empty.coco_instances() == []
    assert empty.coco_panoptic()[0]["segments_info"] == []
    assert empty.overlay().getextrema() == ((0, 0),) * 3
    assert set(np.asarray(empty.label_image("panoptic")).ravel()) == {255}
    assert "nothing" in repr(empty)


def test_thresholds_decide_what_counts(scene: Segments) -> None:
    classes = scene.class_logits.copy()
    classes[2] = [0, 1, 0, 0, 0.5]  # 0.41 dog
    unsure = dataclasses.replace(scene, class_logits=classes)
    assert "dog" not in {segment.label for segment in unsure.panoptic}
    lenient = dataclasses.replace(unsure, thresholds=Thresholds(score=0.3, overlap=0.1, mask=0.3))
    assert "dog" in {segment.label for segment in lenient.panoptic}


def test_label_image_holds_class_indices_and_their_colours(scene: Segments) -> None:
    picture = scene.label_image()
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), scene.semantic)
    assert picture.convert("RGB").getpixel((40, 30)) == colour_of("dog")
    np.testing.assert_array_equal(np.asarray(scene.label_image("panoptic")), scene.semantic)


def test_pixels_without_a_segment_come_back_from_a_file(tmp_path: Path) -> None:
    """Pillow writes few bits a pixel where the palette is short, and cut 255 to a class."""
    classes, masks = logits_of([CAT], [1])
    segments = Segments(classes, masks, ANIMALS, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    segments.label_image("panoptic").save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as read:
        np.testing.assert_array_equal(np.asarray(read), np.where(CAT, 1, 255))


@pytest.mark.parametrize("opacity", [-1, 2, float("nan")])
def test_opacity_is_a_part(scene: Segments, opacity: float) -> None:
    with pytest.raises(InputError, match="expected a number in"):
        scene.overlay(opacity=opacity)


def test_more_classes_than_a_palette_holds_give_sixteen_bits() -> None:
    many = Vocabulary(tuple(f"class {index}" for index in range(300)))
    classes, masks = logits_of([CAT], [299], many)
    segments = Segments(classes, masks, many, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    picture = np.asarray(segments.label_image("panoptic"))
    assert picture.dtype == np.uint16
    assert set(picture[CAT]) == {299}
    assert set(picture[~CAT]) == {65535}


def test_coco_panoptic_round_trip(scene: Segments) -> None:
    annotation, picture = scene.coco_panoptic(image_id=7, file_name="zoo.png")
    red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    ids = red + 256 * green + 65536 * blue
    assert annotation["image_id"] == 7
    assert [info["category_id"] for info in annotation["segments_info"]] == [17, 17, 18, 193, 187]
    for info, segment in zip(annotation["segments_info"], scene.panoptic, strict=True):
        np.testing.assert_array_equal(ids == info["id"], segment.mask)
        x, y, wide, high = info["bbox"]
        assert (x, y, x + wide, y + high) == segment.box
    assert (ids > 0).all()
    json.dumps(annotation)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_coco_instances_are_read_by_cocos_own_code(scene: Segments, tmp_path: Path) -> None:
    rows = scene.coco_instances(image_id=3)
    for row, segment in zip(rows, scene.instances, strict=True):
        np.testing.assert_array_equal(coco.decode(row["segmentation"]).astype(bool), segment.mask)
    images = [{"id": 3, "width": WIDTH, "height": HEIGHT, "file_name": "zoo.jpg"}]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": scene.categories()}))
    read = COCO(os.fspath(file))
    assert len(read.getAnnIds(catIds=read.getCatIds(catNms=["cat"]))) == 2
    np.testing.assert_array_equal(read.annToMask(read.loadAnns(rows[0]["id"])[0]), scene.instances[0].mask)


def test_polygons_are_geojson(scene: Segments) -> None:
    collection = json.loads(json.dumps(scene.polygons()))
    assert collection["type"] == "FeatureCollection"
    dog = collection["features"][2]
    assert dog["properties"] == {"label": "dog", "score": 1.0, "box": [30, 10, 55, 55], "area": 1125} | {
        "score": dog["properties"]["score"]
    }
    (ring,) = dog["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert sorted(map(tuple, ring[:-1])) == [(30, 10), (30, 55), (55, 10), (55, 55)]


def test_overlay_colours_the_masks_and_writes_labels() -> None:
    dog = rectangle(100, 50, 500, 350, (400, 600))
    image = np.full((400, 600, 3), 200, np.uint8)
    scene = Segments(*logits_of([dog], [1]), ANIMALS, image)
    picture = np.asarray(scene.overlay())
    colour = np.asarray(colour_of("dog"))
    # An edge has its class's plain colour, the inside is mixed half with the picture, around is the picture.
    np.testing.assert_array_equal(picture[50, 100:500], np.broadcast_to(colour, (400, 3)))
    np.testing.assert_allclose(picture[60, 110], (colour + 200) / 2, atol=1)
    np.testing.assert_array_equal(picture[~dog], image[~dog])
    # The label stands in the middle, in white on its dark colour.
    middle = picture[180:220, 250:350].reshape(-1, 3)
    assert (middle == colour).all(axis=1).any()
    assert middle.min(axis=1).max() > 200
    np.testing.assert_array_equal(np.asarray(scene.overlay(opacity=0))[60, 110], [200, 200, 200])


def test_overlay_keeps_the_profile_and_takes_sixteen_bits(scene: Segments) -> None:
    wide = dataclasses.replace(scene, image=scene.image.astype(np.uint16) * 257, icc_profile=b"profile")
    assert wide.overlay().info["icc_profile"] == b"profile"
    np.testing.assert_array_equal(np.asarray(wide.overlay()), np.asarray(scene.overlay()))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    classes=st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_every_picture_can_be_drawn(height: int, width: int, classes: list[int]) -> None:
    rng = np.random.default_rng(height * 51 + width)
    masks = rng.random((len(classes), height, width)) < 0.5
    image = np.zeros((height, width, 3), np.uint8)
    segments = Segments(*logits_of(masks, classes), ANIMALS, image)
    for reading in READINGS:
        assert segments.overlay(reading).size == (width, height)
        assert len(segments.polygons(reading)["features"]) == len(segments.read(reading))


def test_a_class_has_one_colour_and_neighbours_differ() -> None:
    colours = [colour_of(name) for name in COCO_PANOPTIC.names]
    assert colour_of("sky-other-merged") == colour_of("sky")
    assert len(set(colours)) > 125


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Segment("cat", 0.5, np.zeros((3, 3), np.uint8)), "mask is uint8"),
        (lambda: Segment("cat", 0.5, np.zeros((3, 3), bool)), "mask of 'cat' is empty"),
        (lambda: Segment("cat", 1.5, np.ones((3, 3), bool)), "score is 1.5"),
        (lambda: Thresholds(score=2), "threshold score is 2"),
        (lambda: Thresholds(score="0.5"), "threshold score is '0.5', expected a number"),
        (lambda: Segment("cat", "1", np.ones((3, 3), bool)), "score is '1', expected a number"),
        (
            lambda: Segments(*logits_of([CAT], [0]), COCO_PANOPTIC, np.zeros((2, 2, 3), np.uint8)),
            "133 classes",
        ),
        (
            lambda: Segments(
                np.full((1, 5), np.nan, np.float32),
                CAT[None].astype(np.float32),
                ANIMALS,
                np.zeros((2, 2, 3)),
            ),
            "NaN",
        ),
        (
            lambda: Segments(*logits_of([CAT], [0]), ANIMALS, np.zeros((2, 2, 3))),
            "image is float64 .2, 2, 3., expected uint8 or uint16",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        make()


def test_another_reading_is_refused(scene: Segments) -> None:
    with pytest.raises(InputError, match="unknown reading 'panoptik'; did you mean 'panoptic'"):
        scene.read("panoptik")  # type: ignore[arg-type]


def test_semantic_reading_of_no_queries_is_refused_not_crashed() -> None:
    empty = Segments(
        np.zeros((0, 5), np.float32), np.zeros((0, 4, 4), np.float32), ANIMALS, np.zeros((4, 4, 3), np.uint8)
    )
    assert empty.panoptic == empty.instances == []
    with pytest.raises(InputError, match="there are no queries"):
        _ = empty.semantic


def test_files_are_pictures(scene: Segments, tmp_path: Path) -> None:
    for name, picture in (("o.png", scene.overlay()), ("l.png", scene.label_image())):
        picture.save(tmp_path / name)
        with Image.open(tmp_path / name) as read:
            assert read.size == (WIDTH, HEIGHT)
