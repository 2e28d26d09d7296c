"""Scoring segments: a model and files, in three readings, against sets drawn on the spot."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from decoupe.cli import app
from decoupe.datasets.coco import CocoInstances
from decoupe.datasets.segment_sets import find_segment_set
from decoupe.errors import InputError
from decoupe.evaluation.scenes import evaluate_scenes, file_predictions, model_predictions
from decoupe.evaluation.segments import AveragePrecision, Instance, MeanIoU
from decoupe.inference.segments import Segments
from decoupe.training.tasks import SegmentPrediction, SegmentScores
from decoupe.weights.labels import ADE20K, Vocabulary
from inference.queries import ANIMALS, logits_of, see

SIZE = (48, 64)
"""Height and width of the pictures."""
CATEGORIES = [
    {"id": 17, "name": "cat", "isthing": 1},
    {"id": 18, "name": "dog", "isthing": 1},
    {"id": 187, "name": "sky-other-merged", "isthing": 0},
]


def boxes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cat, a dog and the sky around them, bool ``(H, W)``."""
    cat, dog = np.zeros((2, *SIZE), bool)
    cat[4:24, 4:24] = True
    dog[20:44, 36:60] = True
    return cat, dog, ~(cat | dog)


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures as COCO panoptic and instances, in the folder to work in."""
    monkeypatch.chdir(tmp_path)
    return draw_scenes(tmp_path)


def draw_scenes(here: Path) -> Path:
    """The folder ``coco`` with two pictures as COCO panoptic and instances."""
    folder = here / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations" / "panoptic_val2017").mkdir(parents=True)
    ids = sum(mask * number for number, mask in enumerate(boxes(), 1))
    images, panoptic, instances = [], [], []
    for image_id, name in ((7, "one"), (9, "two")):
        Image.new("RGB", SIZE[::-1], (90, 120, 200)).save(folder / "val2017" / f"{name}.jpg")
        colours = np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8)
        Image.fromarray(colours).save(folder / "annotations" / "panoptic_val2017" / f"{name}.png")
        images.append({"id": image_id, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        infos = [{"id": 1, "category_id": 17}, {"id": 2, "category_id": 18}, {"id": 3, "category_id": 187}]
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": infos})
        for category, (x0, y0, x1, y1) in ((17, (4, 4, 24, 24)), (18, (36, 20, 60, 44))):
            polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            instances.append({"image_id": image_id, "category_id": category, "segmentation": polygon})
    for kind, told in (("panoptic", panoptic), ("instances", instances)):
        content = {"images": images, "annotations": told, "categories": CATEGORIES}
        (folder / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(content))
    return folder


def seer(monkeypatch: pytest.MonkeyPatch, *, dog: bool = True) -> None:
    """A model that sees everything, or no dog, in a vocabulary of its own order."""
    cat, whole_dog, sky = boxes()
    masks, classes = [cat, sky | (whole_dog & (not dog))], [0, 3]
    see(monkeypatch, [*masks, whole_dog] if dog else masks, [*classes, 1] if dog else classes)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments])


def results(*arguments: str) -> dict[str, float]:
    shown = run(*arguments, "--table", "json")
    assert shown.exit_code == 0, shown.stderr
    found: dict[str, float] = json.loads(shown.stdout)["results"]
    return found


@pytest.mark.parametrize("protocol", ["semantic", "panoptic", "instances"])
def test_a_model_that_sees_all_is_perfect(coco: Path, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)
    found = results("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol", protocol)
    names = {"semantic": ["mIoU", "accuracy"], "panoptic": ["PQ", "SQ", "RQ"], "instances": ["AP", "AP50"]}
    assert [found[name] for name in names[protocol]] == pytest.approx([1] * len(names[protocol]), abs=0.02)


@pytest.mark.parametrize("layout", ["plain", "nested", "shards"])
def test_a_matte_set_is_a_class_of_its_name(coco: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """In every layout that a matte set may have; those inside of others, and shards, were refused."""
    cat, *_ = boxes()
    place = Path("cat", "inside") if layout == "nested" else Path("cat")
    for kind, picture in (("im", Image.open(coco / "val2017/one.jpg")), ("gt", Image.fromarray(cat))):
        (place / kind).mkdir(parents=True)
        picture.save(place / kind / "one.png")
    if layout == "shards":
        with tarfile.open("cat/000.tar", "w") as shard:
            shard.add("cat/im/one.png", "one.jpg")
            shard.add("cat/gt/one.png", "one.png")
        shutil.rmtree("cat/im")
        shutil.rmtree("cat/gt")
    see(monkeypatch, [cat], [0])
    found = results("-m", "maskformer-swin-base-coco", "--data", "cat", "--protocol", "panoptic")
    assert found["PQ_things"] == pytest.approx(1, abs=0.02)
    assert found["PQ_stuff"] == 0  # the model knows no background


def test_the_only_thing_that_a_model_knows_is_any_matte_set_s_subject(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the set's folder is called; a model of several things has to be told which."""
    cat, *_ = boxes()
    for kind, picture in (("im", Image.open(coco / "val2017/one.jpg")), ("gt", Image.fromarray(cat))):
        Path("cats-test", kind).mkdir(parents=True)
        picture.save(Path("cats-test", kind, "one.png"))
    model = ("-m", "maskformer-swin-base-coco", "--data", "cats-test", "--protocol")
    see(monkeypatch, [cat, ~cat], [0, 1], vocabulary=Vocabulary(("cats", "background"), stuff=(1,)))
    assert results(*model, "panoptic")["PQ"] == pytest.approx(1, abs=0.02)
    assert results(*model, "semantic")["mIoU"] == pytest.approx(1, abs=0.02)
    see(monkeypatch, [cat, ~cat], [0, 2], vocabulary=Vocabulary(("cats", "dogs", "background"), stuff=(2,)))
    refused = run(*model, "panoptic")
    assert refused.exit_code == 2
    assert "knows no class 'cats-test', as the subject of a matte set is called by its" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_published_results_stand_beside(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)
    model = ("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol")
    beside = ("--beside", "maskformer-swin-base-coco")
    shown = run(*model, "panoptic", *beside, "-o", "report")
    row, source = shown.stdout.splitlines()[2:]
    assert row.split()[:5] == ["MaskFormer", "Swin-B,", "COCO", "panoptic", "51.8"]
    assert source.startswith("published: MODEL_ZOO.md of github.com/facebookresearch/MaskFormer")
    page = Path("report/index.html").read_text()
    assert "<td>51.8</td>" in page
    assert "Published: MODEL_ZOO.md" in page
    refused = run(*model, "semantic", *beside)
    assert refused.exit_code == 2
    assert "was published PQ, none of it in a table of mIoU" in refused.stderr


def test_what_is_missed_costs(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch, dog=False)
    model = ("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol")
    sky = boxes()[2].sum() / (boxes()[2] | boxes()[1]).sum()
    panoptic = results(*model, "panoptic")
    assert panoptic["PQ"] == pytest.approx((1 + 0 + sky) / 3, abs=0.01)
    assert panoptic["PQ_things"] == pytest.approx(0.5, abs=0.01)
    assert results(*model, "semantic")["mIoU"] == pytest.approx((1 + 0 + sky) / 3, abs=0.01)
    assert results(*model, "instances")["AP"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("protocol", "form", "reading"),
    [("semantic", "labels", "semantic"), ("panoptic", "coco-panoptic", None), ("instances", "coco", None)],
)
def test_files_score_as_the_model_that_wrote_them(
    coco: Path, protocol: str, form: str, reading: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seer(monkeypatch, dog=False)
    wanted = results("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol", protocol)
    options = ["--format", form, *(["--reading", reading] if reading else [])]
    written = CliRunner().invoke(app, ["segment", "coco/val2017", "-o", "found", *options, "-q"])
    assert written.exit_code == 0, written.stderr
    if protocol == "semantic":  # of the model's classes: the set has other indices
        for path in Path("found").glob("*.png"):
            labels = np.asarray(Image.open(path))
            Image.fromarray(np.array([0, 1, 255, 2], np.uint8)[labels]).save(path)
    found = results("--pred", "found", "--gt", "coco", "--protocol", protocol)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_cocos_own_result_files(coco: Path) -> None:
    truth = json.loads((coco / "annotations" / "instances_val2017.json").read_text())["annotations"]
    listed = [{**one, "score": 0.9} for one in truth]
    Path("results.json").write_text(json.dumps(listed))
    assert results("--pred", "results.json", "--gt", "coco", "--protocol", "instances")[
        "AP"
    ] == pytest.approx(1)
    panoptic = coco / "annotations" / "panoptic_val2017.json"
    assert results("--pred", str(panoptic), "--gt", "coco", "--protocol", "panoptic")["PQ"] == 1


def test_a_report_lists_classes_and_pictures(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch, dog=False)
    model = ("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol")
    shown = run(*model, "panoptic", "-o", "report")
    assert shown.stderr.endswith("decoupe: wrote report/index.html\n")
    with Path("report/classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["dog", "sky-other-merged", "cat"]
    assert (rows[0]["PQ"], rows[0]["missed"]) == ("0", "2")
    page = Path("report/index.html").read_text()
    assert page.count("<img alt=") == 2
    assert "Classes, the lowest first" in page
    assert run(*model, "instances", "-o", "ap").exit_code == 0
    assert sorted(path.name for path in Path("ap").iterdir()) == ["classes.csv", "index.html", "scores.json"]
    markdown = run(*model, "panoptic", "--table", "markdown").stdout
    assert markdown.startswith("|  | PQ | PQ things | PQ stuff | SQ | RQ |")


def test_what_cannot_be_scored_is_named(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Path("maps").mkdir()
    Image.fromarray(np.full(SIZE, 3, np.uint8)).save("maps/one.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save("maps/two.png")
    shown = run("--pred", "maps", "--gt", "coco", "--protocol", "semantic")
    assert shown.exit_code == 1
    assert "one.png is not a map of 3 classes: expected a grey or indexed PNG of indices" in shown.stderr
    for arguments, message in (
        (("--pred", "empty", "--gt", "coco", "--protocol", "panoptic"), "empty holds no JSON"),
        (("--pred", "empty", "--protocol", "panoptic"), "give --pred and --gt, predictions and a set"),
        (("--pred", "empty", "--gt", "maps", "--protocol", "panoptic"), "maps holds no panoptic set"),
        (("-m", "pocket", "--data", "coco", "--protocol", "panoptic"), "pocket gives mattes"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2, arguments
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
    polygon = [[0, 0, 9, 0, 9, 9, 0, 9]]
    other = {"image_id": 7, "category_id": 5, "score": 1, "segmentation": polygon}
    Path("other.json").write_text(json.dumps([other]))
    shown = run("--pred", "other.json", "--gt", "coco", "--protocol", "instances")
    assert shown.exit_code == 1
    assert "one: category 5 is none of val2017: write the set's own ids" in shown.stderr


@pytest.mark.parametrize("count", [255, 256])
def test_label_maps_are_read_as_they_are_written(tmp_path: Path, count: int) -> None:
    """Of many classes 255 is one, and none is 65535."""
    for kind in ("images", "annotations"):
        (tmp_path / "set" / kind / "val").mkdir(parents=True)
    (tmp_path / "set" / "classes.txt").write_text("\n".join(f"class {index}" for index in range(count)))
    cat, dog, _ = boxes()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "set" / "images" / "val" / "a.jpg")
    Image.fromarray(np.uint16(cat + count * dog)).save(tmp_path / "set" / "annotations" / "val" / "a.png")
    scenes = find_segment_set(tmp_path / "set", "val")
    logits = logits_of([cat, dog], [0, count - 1], scenes.vocabulary)
    found = Segments(*logits, scenes.vocabulary, np.zeros((*SIZE, 3), np.uint8))
    found.label_image("panoptic").save(tmp_path / "a.png")
    read = file_predictions(tmp_path, scenes, "semantic")(0)
    np.testing.assert_array_equal(read, np.where(cat, 0, np.where(dog, count - 1, -1)))
    scores = evaluate_scenes(scenes, lambda index: read, "semantic")
    assert (scores.problems, scores.metric.result()) == ([], {"mIoU": 1, "accuracy": 1})


@pytest.mark.parametrize("content", [[{"image_id": 7}], {"images": []}, [3], {"annotations": [{}]}, "x"])
@pytest.mark.parametrize("protocol", ["panoptic", "instances"])
def test_json_that_is_built_otherwise(coco: Path, protocol: str, content: object) -> None:
    Path("odd.json").write_text(json.dumps(content))
    shown = run("--pred", "odd.json", "--gt", "coco", "--protocol", protocol)
    assert shown.exit_code == 2
    assert "odd.json is not understood" in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_id", "cat"),
        ("image_id", None),
        ("score", None),
        ("score", "high"),
        ("score", float("nan")),
        ("category_id", [17]),
        ("category_id", 17.5),
    ],
)
def test_damaged_results_are_one_line(coco: Path, key: str, value: object) -> None:
    truth = json.loads((coco / "annotations" / "instances_val2017.json").read_text())["annotations"]
    Path("odd.json").write_text(json.dumps([{**truth[0], "score": 0.9, key: value}]))
    shown = run("--pred", "odd.json", "--gt", "coco", "--protocol", "instances")
    assert shown.exit_code == 2
    assert "odd.json is not understood" in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize("info", [{"id": "x", "category_id": 17}, {"id": 1, "category_id": [17]}, 3, None])
def test_damaged_panoptic_results_are_one_line(coco: Path, info: object) -> None:
    content = {"annotations": [{"file_name": "one.png", "segments_info": [info]}]}
    Path("odd.json").write_text(json.dumps(content))
    shown = run("--pred", "odd.json", "--gt", "coco", "--protocol", "panoptic")
    assert shown.exit_code == 2
    assert "odd.json is not understood" in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_the_only_part_is_scored_whatever_it_is_called(coco: Path) -> None:
    """As of CVAT's sets, or Roboflow's folder of test pictures."""
    file = coco / "annotations" / "instances_val2017.json"
    truth = json.loads(file.read_text())["annotations"]
    Path("results.json").write_text(json.dumps([{**one, "score": 0.9} for one in truth]))
    shutil.copytree(coco / "val2017", "flow/test")
    shutil.copy(file, "flow/test/_annotations.coco.json")
    shutil.copytree(coco / "val2017", "cvat/images/default")
    Path("cvat/annotations").mkdir()
    shutil.copy(file, "cvat/annotations/instances_default.json")
    for folder, part in (("flow", "test"), ("flow/test", ""), ("cvat", "default")):
        shown = run("--pred", "results.json", "--gt", folder, "--protocol", "instances")
        assert shown.exit_code == 0, shown.stderr
        assert "100.0" in shown.stdout
        note = f"decoupe: {folder} has no validation part: scored on {part}, its only one\n" if part else ""
        assert shown.stderr == note


def test_reports_of_segments_are_not_compared(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)
    for name in ("a", "b"):
        run("-m", "maskformer-swin-base-coco", "--data", "coco", "--protocol", "panoptic", "-o", name)
    shown = run("compare", "a", "b")
    assert shown.exit_code == 2
    assert shown.stderr == "decoupe: a is a report of segments: only those of mattes are compared\n"


def test_crowds_excuse_their_own_class_alone(coco: Path) -> None:
    file = coco / "annotations" / "panoptic_val2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"][1]["iscrowd"] = 1  # the dog
    file.write_text(json.dumps(content))
    scenes = find_segment_set(coco, "val", ["panoptic"])
    scene = scenes.read(0)
    for label, wanted in ((1, 1), (0, 1 / 1.5)):  # the dogs told right, and as cats
        found = scene.segments, np.array([0, label, 2])
        seen = evaluate_scenes(scenes, lambda index, found=found: found, "panoptic").metric
        assert [row["PQ"] for row in seen.by_class().values()] == pytest.approx([wanted, 1])
        trained = SegmentScores(scenes.vocabulary)
        trained.update(SegmentPrediction(*found, np.zeros(SIZE, np.int64)), scene)
        assert trained.result()["PQ"] == pytest.approx(seen.result()["PQ"])
        assert set(trained.semantic.by_class()) == {"cat", "sky-other-merged"}


def test_average_precision_by_hand() -> None:
    """Two cats, one found surely and one not, an invented one between them; crowds do not count."""
    cat, dog, sky = boxes()
    truth = [Instance(cat, 0), Instance(dog, 0), Instance(sky, 0, crowd=True)]
    inside_crowd = np.zeros_like(sky)
    inside_crowd[0:3] = True
    invented = cat & dog
    invented[40:46, 2:9] = True
    metric = AveragePrecision(ANIMALS)
    metric.update(
        [Instance(cat, 0, 0.9), Instance(inside_crowd, 0, 0.8), Instance(dog, 0, 0.3)],
        truth,
    )
    assert metric.result()["AP"] == pytest.approx(1)  # what lies in a crowd is neither right nor wrong
    apart = AveragePrecision(ANIMALS)
    apart.update([Instance(cat, 0, 0.9), Instance(invented, 0, 0.8), Instance(dog, 0, 0.3)], truth[:2])
    # Precision 1 up to recall 1/2, 2/3 up to 1, at 101 recalls: 51 ones and 50 two thirds.
    assert apart.result()["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert apart.by_class() == {
        "cat": pytest.approx({"AP": apart.result()["AP"], "AP50": apart.result()["AP"]})
    }
    crowds = AveragePrecision(ANIMALS)
    crowds.update([Instance(sky, 0)], truth[2:])
    with pytest.raises(InputError, match="nothing to score: no truth holds an object"):
        crowds.result()


def test_objects_are_as_large_as_their_annotations_say(coco: Path) -> None:
    """COCO sorts by the area of the polygons: that of the pixels may lie beyond 32² where it does not."""
    file = coco / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    sizes = []
    for areas in ({}, {17: 1024.5}):
        for one in content["annotations"]:
            one |= {"area": areas[one["category_id"]]} if one["category_id"] in areas else {}
        file.write_text(json.dumps(content))
        scenes = find_segment_set(coco, "val", ["instances"])
        assert isinstance(scenes, CocoInstances)
        truth = [Instance(one.mask, one.label) for one in scenes.objects(0)]
        result = evaluate_scenes(scenes, lambda index, truth=truth: truth, "instances").metric.result()
        sizes.append({name for name in result if name in ("APs", "APm", "APl")})
    assert sizes == [{"APs"}, {"APs", "APm"}]  # the cat has 400 pixels, the dog 576


def test_pictures_of_one_name_in_several_folders(coco: Path) -> None:
    """Each is scored by its own predictions, here those of the truth."""
    annotations = coco / "annotations"
    for old, new in (("one", "a/1"), ("two", "b/1")):
        for folder, ending in ((coco / "val2017", ".jpg"), (annotations / "panoptic_val2017", ".png")):
            (folder / new).parent.mkdir()
            (folder / f"{old}{ending}").rename(folder / f"{new}{ending}")
        for file in annotations.glob("*.json"):
            file.write_text(file.read_text().replace(f'"{old}.', f'"{new}.'))
    truth = annotations / "panoptic_val2017.json"
    scenes = find_segment_set(coco, "val", ["panoptic"])
    scores = evaluate_scenes(scenes, file_predictions(truth, scenes, "panoptic"), "panoptic")
    assert {name: row["PQ"] for name, row in scores.values.items()} == {"a/1": 1, "b/1": 1}
    told = json.loads((annotations / "instances_val2017.json").read_text())["annotations"]
    Path("results.json").write_text(json.dumps([{**one, "score": 0.9} for one in told]))
    assert results("--pred", "results.json", "--gt", "coco", "--protocol", "instances")[
        "AP"
    ] == pytest.approx(1)


def test_a_release_may_call_a_set_s_classes_otherwise(tmp_path: Path) -> None:
    """ADE20K's "windowpane" is "window" elsewhere, and its "road" is "road, route"."""
    (tmp_path / "annotations" / "validation").mkdir(parents=True)
    (tmp_path / "images" / "validation").mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(tmp_path / "images" / "validation" / "a.jpg")
    road, window = ADE20K.names.index("road"), ADE20K.names.index("windowpane")
    told = np.array([[road, window, 0]], np.uint8)
    Image.fromarray(told + 1).save(tmp_path / "annotations" / "validation" / "a.png")
    scenes = find_segment_set(tmp_path, "val")
    names = [{"road": "road, route", "windowpane": "window "}.get(name, name) for name in ADE20K.names]

    class Knowing:
        vocabulary = Vocabulary(tuple(names))

        def __call__(self, source: object) -> SimpleNamespace:
            return SimpleNamespace(semantic=told)

    predict, notes = model_predictions(Knowing(), scenes, "semantic")  # type: ignore[arg-type]
    assert notes == []
    assert evaluate_scenes(scenes, predict, "semantic").metric.result()["mIoU"] == 1
    Knowing.vocabulary = Vocabulary(tuple(names[:149]))
    assert model_predictions(Knowing(), scenes, "semantic")[1] == [  # type: ignore[arg-type]
        "the model does not know 3 classes, road first"
    ]


def test_average_precision_merges() -> None:
    cat, dog, _ = boxes()
    whole, parts = AveragePrecision(ANIMALS), [AveragePrecision(ANIMALS) for _ in range(2)]
    rng = np.random.default_rng(0)
    for number in range(6):
        found = [Instance(np.roll(mask, rng.integers(0, 9), 0), 0, rng.random()) for mask in (cat, dog)]
        truth = [Instance(cat, 0), Instance(dog, 0)]
        whole.update(found, truth)
        parts[number % 2].update(found, truth)
    parts[0].merge(parts[1])
    assert parts[0].result() == pytest.approx(whole.result())
    assert 0 < whole.result()["AP"] < 1


def test_pixels_without_a_class_are_wrong_where_one_is_told() -> None:
    metric = MeanIoU(Vocabulary(("cat", "dog")))
    metric.update(np.array([[0, -1, 1]]), np.array([[0, 0, -1]]))
    assert metric.result() == {"mIoU": 0.5, "accuracy": 0.5}
    assert metric.by_class() == {"cat": {"IoU": 0.5, "accuracy": 0.5}}
