from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from decoupe.datasets.coco import CocoInstances, panoptic_segments
from decoupe.datasets.scenes import Part, SegmentSet
from decoupe.datasets.segment_sets import (
    MatteSegments,
    find_segment_set,
    has_part,
    is_segment_set,
    judged_part,
)
from decoupe.datasets.sets import find_pairs
from decoupe.errors import InputError
from decoupe.training.check import check
from decoupe.training.recipe import recipe_from
from decoupe.training.recipes import RECIPES
from decoupe.training.tasks import SegmentTask
from decoupe.weights.labels import ADE20K, Vocabulary

CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1},
    {"id": 3, "name": "person", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
]
PARTS: tuple[Part, ...] = ("train", "val")
SEGMENTS = np.array([[1, 1, 70000, 70000], [1, 1, 70000, 300], [0, 300, 300, 300]], np.int32)


def colours(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    for part in ("train2017", "val2017"):
        (folder / part).mkdir(parents=True)
        (folder / "annotations" / f"panoptic_{part}").mkdir(parents=True)
        for name in ("10.jpg", "9.jpg"):
            Image.new("RGB", (4, 3), (9, 9, 9)).save(folder / part / name)
        colours(SEGMENTS).save(folder / "annotations" / f"panoptic_{part}" / "9.png")
        colours(SEGMENTS * 0).save(folder / "annotations" / f"panoptic_{part}" / "10.png")
        segments = [
            {"id": 70000, "category_id": 7},
            {"id": 1, "category_id": 90},
            {"id": 300, "category_id": 3, "iscrowd": 1},
        ]
        images = [
            {"id": 10, "file_name": "10.jpg", "height": 3, "width": 4},
            {"id": 9, "file_name": "9.jpg", "height": 3, "width": 4},
        ]
        panoptic = [
            {"image_id": 9, "file_name": "9.png", "segments_info": segments},
            {"image_id": 10, "file_name": "10.png", "segments_info": []},
        ]
        write(folder, f"panoptic_{part}", images, panoptic)
        square = [[0, 0, 3, 0, 3, 3, 0, 3]]
        instances = [
            {"image_id": 9, "category_id": 7, "segmentation": {"size": [3, 4], "counts": [4, 1, 7]}},
            {"image_id": 9, "category_id": 3, "segmentation": square},
            {
                "image_id": 9,
                "category_id": 3,
                "iscrowd": 1,
                "segmentation": {"size": [3, 4], "counts": [0, 12]},
            },
        ]
        write(folder, f"instances_{part}", images, instances)
    return folder


def write(folder: Path, name: str, images: list[Any], annotations: list[Any]) -> None:
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations}
    (folder / "annotations" / f"{name}.json").write_text(json.dumps(content))


def test_coco_panoptic(coco: Path) -> None:
    scenes = find_segment_set(coco)
    assert (len(scenes), scenes.name) == (2, "train2017")
    assert scenes.vocabulary == Vocabulary(("person", "cat", "sky"), stuff=(2,), ids=(3, 7, 90))
    assert scenes.name_of(0) == "9"
    assert scenes.image_source(0) == coco / "train2017" / "9.jpg"
    scene = pickle.loads(pickle.dumps(scenes)).read(0)
    assert (scene.classes.tolist(), scene.crowd.tolist()) == ([1, 2, 0], [False, False, True])
    assert scene.segments.tolist() == [[1, 1, 0, 0], [1, 1, 0, 2], [-1, 2, 2, 2]]
    assert scene.told.tolist() == [[1, 1, 0, 0], [1, 1, 0, -1], [-1, -1, -1, -1]]
    assert scene.image.shape == (3, 4, 3)
    file = coco / "annotations" / "panoptic_train2017" / "9.png"
    assert (panoptic_segments(file, [2**40]) == -1).all()  # more than a picture can hold
    empty = scenes.read(1)
    assert (empty.classes.tolist(), set(empty.segments.ravel())) == ([], {-1})
    assert find_segment_set(coco, "val").image_source(0) == coco / "val2017" / "9.jpg"


def test_a_validation_part_of_other_classes_is_told(coco: Path) -> None:
    file = coco / "annotations" / "panoptic_val2017.json"
    file.write_text(file.read_text().replace('"person"', '"dog"'))
    recipe = RECIPES["maskformer-resnet50-coco"]
    for validation in ([], [coco]):
        with pytest.raises(InputError, match="coco's validation part has other classes than"):
            SegmentTask(recipe, [coco], validation, device=torch.device("cpu"))


def test_a_set_without_a_validation_part_holds_some_out(coco: Path) -> None:
    """Near duplicates of those are not trained on."""
    for file in coco.glob("annotations/*_val2017*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (30, 40, 3), np.uint8) for _ in range(9)]
    images, annotations = [], []
    for number, picture in enumerate([*pictures, pictures[0]], 1):
        Image.fromarray(picture).save(coco / "train2017" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 30, "width": 40})
        corners = [[4, 4, 30, 4, 30, 20, 4, 20]]
        annotations.append({"image_id": number, "category_id": 7, "segmentation": corners})
    write(coco, "instances_train2017", images, annotations)
    for file in coco.glob("annotations/panoptic_*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    plain = {**RECIPES["maskformer-resnet50-coco"].plain(), "held_out": 0.4}
    plain["model"] |= {"classes": 3}
    task = SegmentTask(recipe_from(plain), [coco], device=torch.device("cpu"))
    (judged,) = (set(indices) for _, indices in task.out.values())
    trained = set(task.indices)
    assert task.held_out == {"train2017": 4}
    assert task.sets == {"train2017": len(trained)}
    assert len(task.repeats) == len(task.dataset(64)) == len(trained)
    assert not trained & judged
    assert len(trained | judged) == (9 if len({0, 9} & judged) == 1 else 10)
    none = SegmentTask(recipe_from({**plain, "held_out": 0}), [coco], device=torch.device("cpu"))
    assert (none.held_out, none.sets) == ({}, {"train2017": 10})
    assert [report.name for report in check([coco]).sets] == ["coco"]


def test_sets_as_annotation_tools_write_them(coco: Path, tmp_path: Path) -> None:
    """CVAT's and Roboflow's exports."""
    cvat, flow = tmp_path / "cvat", tmp_path / "flow"
    (cvat / "annotations").mkdir(parents=True)
    shutil.copytree(coco / "train2017", cvat / "images" / "default")
    annotations = coco / "annotations" / "instances_train2017.json"
    shutil.copy(annotations, cvat / "annotations" / "instances_default.json")
    for part in ("train", "valid"):
        shutil.copytree(coco / "train2017", flow / part)
        shutil.copy(annotations, flow / part / "_annotations.coco.json")
    expected = find_segment_set(coco, kinds=["instances"]).read(0)
    opened = [find_segment_set(cvat), find_segment_set(flow), find_segment_set(flow, "val")]
    assert [scenes.name for scenes in opened] == ["default", "train", "valid"]
    for scenes in opened:
        assert np.array_equal(scenes.read(0).segments, expected.segments)
    assert [has_part(folder, part) for folder in (cvat, flow) for part in PARTS] == [True, False, True, True]
    assert is_segment_set(cvat)
    assert is_segment_set(flow)
    # What is judged by a folder that is named for it is its only part, whatever that is called.
    (flow / "valid").rename(flow / "test")
    for folder, name in ((cvat, "default"), (flow / "test", "test"), (coco, "val2017")):
        assert is_segment_set(folder)
        assert find_segment_set(folder, judged_part(folder), ["instances"]).name == name
    with pytest.raises(InputError, match="holds no segment set for validation"):
        find_segment_set(flow, judged_part(flow))  # one of two
    shutil.rmtree(flow / "train")
    assert find_segment_set(flow, judged_part(flow)).name == "test"
    assert [one.name for one in check([coco], [cvat], workers=1).sets] == ["coco", "cvat"]


def test_more_processes_than_windows_lets_a_pool_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert check([], workers=64).sets == []


def test_one_matte_set_is_validated_on_another_whatever_their_names(discs: Path, tmp_path: Path) -> None:
    plain = {**RECIPES["maskformer-resnet50-ade"].plain()}
    plain["model"] |= {"classes": 2}
    other = discs.rename(tmp_path / "val")
    shutil.copytree(other, tmp_path / "train")
    task = SegmentTask(recipe_from(plain), [tmp_path / "train"], [other], device=torch.device("cpu"))
    assert (task.sets, task.held_out) == ({"train": 24}, {"train": 24})
    assert task.vocabulary.names == ("train", "background")


def test_coco_instances(coco: Path) -> None:
    """The smaller one is in front; crowds lie behind all."""
    scenes = find_segment_set(coco, kinds=["instances"])
    scene = scenes.read(0)
    assert (scene.classes.tolist(), scene.crowd.tolist()) == ([1, 0, 0], [False, False, True])
    assert scene.segments.tolist() == [[1, 1, 1, 2], [1, 0, 1, 2], [1, 1, 1, 2]]
    assert scene.told.tolist() == [[1, 1, 1, -1], [1, 0, 1, -1], [1, 1, 1, -1]]
    assert scenes.read(1).classes.tolist() == []


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    folder = tmp_path / "ade"
    for part in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(folder / "images" / part / "a.jpg")
        numbers = np.array([[0, 5, 5, 150], [5, 5, 1, 1]], np.uint8)
        Image.fromarray(numbers).save(folder / "annotations" / part / "a.png")
    return folder


def test_ade20k(ade: Path) -> None:
    scenes = find_segment_set(ade)
    assert scenes.vocabulary.names == ADE20K.names
    assert scenes.vocabulary.stuff == ADE20K.stuff
    scene = scenes.read(0)
    assert scene.classes.tolist() == [0, 4, 149]
    assert scene.segments.tolist() == [[-1, 1, 1, 2], [1, 1, 0, 0]]
    assert find_segment_set(ade, "val").name == "validation"


def test_the_first_of_the_wanted_kinds_is_taken(coco: Path, ade: Path) -> None:
    shutil.copytree(ade / "annotations", coco / "annotations", dirs_exist_ok=True)
    shutil.copytree(ade / "images", coco / "images")
    (coco / "annotations" / "panoptic_val2017.json").unlink()
    assert type(find_segment_set(coco, "val")) is CocoInstances
    assert find_segment_set(coco, "val", ["panoptic", "semantic"]).vocabulary.names == ADE20K.names
    with pytest.raises(InputError, match=r"holds no panoptic set for validation: expected annotations/"):
        find_segment_set(coco, "val", ["panoptic"])


def test_other_semantic_classes_are_named_in_a_file(ade: Path) -> None:
    (ade / "classes.txt").write_text("leaf\nstem\n\n")
    scenes = find_segment_set(ade)
    assert scenes.vocabulary.names == ("leaf", "stem")
    (ade / "classes.txt").write_bytes("\ufeffleaf\r\nstem\r\n".encode())  # as Windows writes it
    assert find_segment_set(ade).vocabulary.names == ("leaf", "stem")
    with pytest.raises(InputError, match=r"a\.png is not a map of 2 classes: .*classes\.txt"):
        scenes.read(0)
    Image.fromarray(np.array([[1, 1, 2, 2]] * 2, np.uint8)).save(ade / "annotations" / "training" / "a.png")
    assert scenes.read(0).segments.tolist() == [[0, 0, 1, 1]] * 2
    for content, line in (
        (b"leaf\nstem\nleaf", "names 'leaf' twice"),
        (b"caf\xe9", "expected a class's name a"),
    ):
        (ade / "classes.txt").write_bytes(content)
        with pytest.raises(InputError, match=f"classes.txt .*{line}"):
            find_segment_set(ade)


def drawn(file: Path, numbers: list[list[int]] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8) if numbers is None else np.array(numbers, np.uint8)).save(
        file
    )


def test_pascal_voc(tmp_path: Path) -> None:
    for name in ("a", "my photo b"):
        drawn(tmp_path / "JPEGImages" / f"{name}.jpg")
        drawn(tmp_path / "SegmentationClass" / f"{name}.png", [[0, 20], [255, 0]])
    with pytest.raises(InputError, match=r"cannot read .*train\.txt .*expected a picture's name a line"):
        find_segment_set(tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "my photo b")):
        (lists / f"{part}.txt").write_text(f" {name}\n\n")
    scenes = find_segment_set(tmp_path, "val")
    assert is_segment_set(tmp_path)
    assert (len(scenes), scenes.name_of(0), scenes.vocabulary.names[20]) == (1, "my photo b", "tvmonitor")
    scene = scenes.read(0)
    assert (scene.segments.tolist(), scene.classes.tolist()) == ([[0, 1], [-1, 0]], [0, 20])
    (tmp_path / "classes.txt").write_text("nothing\nleaf\n")
    with pytest.raises(InputError, match=r"not a map of 2 classes: .*from 0 to 1, found 20; other classes"):
        find_segment_set(tmp_path, "val").read(0)


def test_cityscapes(tmp_path: Path) -> None:
    drawn(tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png")
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(InputError, match=r"have no map, .*ulm_1_gtFine_labelIds\.png is missing first"):
        find_segment_set(tmp_path)
    drawn(tmp_path / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png", [[3, 7], [33, 7]])
    scenes = find_segment_set(tmp_path)
    assert scenes.name_of(0) == "ulm/ulm_1_leftImg8bit"
    scene = scenes.read(0)
    assert (scene.segments.tolist(), scene.classes.tolist()) == (
        [[-1, 0], [1, 0]],
        [0, 18],
    )  # 3: out of scope
    with pytest.raises(InputError, match="val holds no maps"):
        find_segment_set(tmp_path, "val")


def test_scenes_are_read_smaller(ade: Path) -> None:
    Image.new("RGB", (64, 32)).save(ade / "images" / "training" / "a.jpg")
    blocks = np.kron([[1, 2], [2, 1]], np.ones((16, 32))).astype(np.uint8)
    Image.fromarray(blocks).save(ade / "annotations" / "training" / "a.png")
    scene = find_segment_set(ade).read(0, longest=8)
    assert scene.image.shape == (4, 8, 3)
    assert scene.segments.tolist() == [[0] * 4 + [1] * 4] * 2 + [[1] * 4 + [0] * 4] * 2


def test_matte_sets_are_classes_of_their_name(discs: Path) -> None:
    pairs = find_pairs(discs)
    Image.new("L", (64, 48)).save(pairs[1].mask)  # type: ignore[arg-type]
    scenes: SegmentSet = MatteSegments({"cat": [], "disc": pairs[:2]})
    assert scenes.vocabulary == Vocabulary(("cat", "disc", "background"), stuff=(2,))
    assert (len(scenes), scenes.name_of(1)) == (2, pairs[1].name)
    scene = scenes.read(0)
    assert scene.classes.tolist() == [1, 2]
    assert np.array_equal(scene.segments == 0, np.asarray(Image.open(pairs[0].mask)) > 127)  # type: ignore[arg-type]
    assert scenes.read(1).classes.tolist() == [2]
    assert set(scenes.read(1).segments.ravel()) == {0}


def test_what_is_no_segment_set(tmp_path: Path, coco: Path, ade: Path) -> None:
    with pytest.raises(InputError, match=r"holds no segment set for training: expected .*panoptic_train"):
        find_segment_set(tmp_path)
    with pytest.raises(InputError, match="holds no panoptic set for validation"):
        find_segment_set(ade, "val", kinds=["panoptic"])
    (ade / "images" / "training" / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"1 maps have no photograph in .*training, .*a\.png first"):
        find_segment_set(ade)
    file = coco / "annotations" / "panoptic_train2017.json"
    (coco / "train2017").rename(coco / "elsewhere")
    with pytest.raises(InputError, match=r"pictures of .* are not in .*train2017: 9\.jpg is missing"):
        find_segment_set(coco)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"is not a COCO annotation file .*: expected images, categories"):
        find_segment_set(coco)


def test_annotations_that_do_not_fit_are_named(coco: Path) -> None:
    file = coco / "annotations" / "panoptic_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 12
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    scenes = find_segment_set(coco)
    with pytest.raises(InputError, match="has an annotation of category 12, which it does not list"):
        scenes.read(0)
    with pytest.raises(InputError, match=r"has 0 annotations of 10\.jpg, expected one"):
        scenes.read(1)
    for size in ((40, 3), (2, 1), (8, 6)):  # also where only both sides were changed
        Image.new("RGB", size).save(coco / "train2017" / "9.jpg")
        with pytest.raises(InputError, match=r"is {}×{}, its segments 4×3: make them the same".format(*size)):
            find_segment_set(coco, kinds=["instances"]).read(0, longest=2)
    instances = coco / "annotations" / "instances_train2017.json"
    content = json.loads(instances.read_text())
    for wrong, line in (
        (
            {"size": [3, 4]},
            r"train2017\.json: annotation 5 of 9\.jpg: an instance's segmentation cannot be read",
        ),
        ({"size": [4, 3], "counts": [0, 12]}, "it is 4×3, the picture 3×4"),
        ([], r"annotation 5 of 9\.jpg: no outline \(boxes only\): draw one, or remove it"),
    ):
        content["annotations"][0]["id"] = 5
        content["annotations"][0]["segmentation"] = wrong
        instances.write_text(json.dumps(content))
        with pytest.raises(InputError, match=line):
            find_segment_set(coco, kinds=["instances"]).read(0)


@pytest.mark.parametrize(
    ("kind", "part", "key"),
    [
        ("instances", "annotations", "segmentation"),  # as sets of boxes lack it
        ("instances", "images", "height"),
        ("panoptic", "annotations", "segments_info"),
    ],
)
def test_what_annotations_lack_is_named(coco: Path, kind: Any, part: str, key: str) -> None:
    file = coco / "annotations" / f"{kind}_train2017.json"
    content = json.loads(file.read_text())
    del content[part][-1][key]
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"not a COCO annotation file .*{part} without {key}.*: expected"):
        find_segment_set(coco, kinds=[kind])


@pytest.mark.parametrize(
    ("kind", "part", "key", "value", "line"),
    [
        ("instances", "annotations", "image_id", None, "annotations without image_id"),
        ("instances", "annotations", "image_id", "cat", "annotations with image_id 'cat'"),
        ("instances", "annotations", "image_id", 9.5, "annotations with image_id 9.5"),
        ("instances", "annotations", "category_id", [1], r"annotations with category_id \[1\]"),
        ("instances", "annotations", "area", "large", "annotations with area 'large'"),
        ("instances", "annotations", "area", float("nan"), "annotations with area nan"),
        ("instances", "annotations", "segmentation", "x", "annotations with segmentation 'x'"),
        ("instances", "images", "height", None, "images without height"),
        ("instances", "images", "width", -4, "images with width -4"),
        ("instances", "images", "id", float("inf"), "images with id inf"),
        ("instances", "categories", "name", None, "categories without name"),
        ("panoptic", "annotations", "segments_info", [{"id": 1}], "annotations with segments_info"),
        ("panoptic", "annotations", "segments_info", [3], "annotations with segments_info"),
    ],
)
def test_damaged_values_are_named(
    coco: Path, kind: Any, part: str, key: str, value: object, line: str
) -> None:
    """They ended checks and runs in tracebacks."""
    file = coco / "annotations" / f"{kind}_train2017.json"
    content = json.loads(file.read_text())
    content[part][-1][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"not a COCO annotation file .*{line}.*: expected images, categ"):
        find_segment_set(coco, kinds=[kind])


@pytest.mark.parametrize("value", [{}, None, [3], "x"])
def test_what_is_no_list_of_annotations_is_told(coco: Path, value: object) -> None:
    file = coco / "annotations" / "panoptic_train2017.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": value}))
    with pytest.raises(
        InputError, match=r"not a COCO annotation file .*: expected images, categories, annot"
    ):
        find_segment_set(coco)


def instances_of(coco: Path, **changed: object) -> SegmentSet:
    """The instances of a set whose file is changed."""
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return find_segment_set(coco, kinds=["instances"])


def test_ids_and_names_are_given_once(coco: Path) -> None:
    """Two pictures of one id shared their annotations; two classes of one name were one in the scores."""
    image = {"id": 9, "file_name": "9.jpg", "height": 3, "width": 4}
    with pytest.raises(
        InputError, match=r"train2017\.json lists two pictures with the id 9: give each its own"
    ):
        instances_of(coco, images=[image, {**image, "file_name": "10.jpg"}])
    with pytest.raises(InputError, match="lists two categories with the id 7: give each its own"):
        instances_of(coco, images=[image], categories=[*CATEGORIES, {"id": 7, "name": "dog"}])
    with pytest.raises(InputError, match="lists two categories called 'cat': give each its own name"):
        instances_of(coco, categories=[{"id": 7, "name": "cat"}, {"id": 3, "name": "cat"}])


def test_a_set_s_own_name_among_its_classes_is_none(coco: Path) -> None:
    """Roboflow lists it first, and it has no annotations; a class is often called the same."""
    flow = [{"id": 0, "name": "cat", "supercategory": "none"}, *CATEGORIES]
    assert (
        instances_of(coco, categories=flow).vocabulary == instances_of(coco, categories=CATEGORIES).vocabulary
    )
    assert instances_of(coco, categories=flow, annotations=[]).vocabulary.ids == (3, 7, 90)
    other = [{"id": 0, "name": "pets"}, *CATEGORIES]
    assert instances_of(coco, categories=other).vocabulary.names == ("pets", "person", "cat", "sky")


def test_annotations_of_no_picture_are_counted(coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    first, *others = json.loads(file.read_text())["annotations"]
    for path in coco.glob("annotations/*"):
        if path != file:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    instances_of(coco, annotations=[{**first, "id": 4, "image_id": 99}, *others])
    (report,) = check([coco], workers=1).sets
    assert report.notes["annotation of a picture that is not listed"] == ["annotation 4"]
    assert not report.findings
    instances_of(coco, annotations=[{**others[0], "id": 1, "segmentation": []}])
    Image.new("RGB", (8, 6)).save(coco / "train2017" / "10.jpg")
    (report,) = check([coco], workers=1).sets
    assert dict(report.findings) == {
        "no outline (boxes only): draw one, or remove it": ["9.jpg"],
        "segments of another size than the photograph": ["10.jpg"],
    }
