"""``decoupe segment``, and choosing the subject of ``decoupe cut``, typed as a user does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from decoupe.cli import app
from inference.queries import see
from inference.tiny import write_onnx

Run = Callable[..., Result]
SIZE = (60, 80)
DOG = np.zeros(SIZE, bool)
DOG[10:50, 20:40] = True
CAT = np.zeros(SIZE, bool)
CAT[20:50, 50:70] = True


@pytest.fixture(scope="module")
def matte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright red pixels are the subject."""
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def run(tmp_path: Path, matte_model: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """decoupe in an empty folder, with a segment model that sees a dog and a cat in every picture."""
    monkeypatch.chdir(tmp_path)
    see(monkeypatch, [DOG, CAT, ~(DOG | CAT)], [1, 0, 2], matte_model=matte_model)

    def decoupe(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return decoupe


def photograph(path: str, size: tuple[int, int] = (80, 60)) -> Path:
    """All red: the matte model takes everything for the subject."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(file)
    return file


def alpha_of(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)[..., 3]


# decoupe segment


def test_a_picture_and_its_json_stand_beside_the_photograph(run: Run) -> None:
    photograph("street.jpg")
    result = run("segment", "street.jpg")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "decoupe: wrote street.segments.png (seer on cpu in float32)\n"
    with Image.open("street.segments.png") as picture:
        assert picture.size == (80, 60)
    content = json.loads(Path("street.segments.json").read_text())
    assert {key: content[key] for key in ("generator", "model", "reading", "image", "width", "height")} == {
        "generator": "decoupe segment",
        "model": "seer",
        "reading": "panoptic",
        "image": "street.jpg",
        "width": 80,
        "height": 60,
    }
    assert [feature["properties"]["label"] for feature in content["features"]] == [
        "dog",
        "cat",
        "grass-merged",
    ]


@pytest.mark.parametrize("form", ["labels", "coco", "coco-panoptic", "overlay"])
def test_every_format_writes_what_it_says(run: Run, form: str) -> None:
    photograph("street.jpg")
    assert run("segment", "street.jpg", "--format", form, "-o", "out.png").exit_code == 0
    content = json.loads(Path("out.json").read_text())
    with Image.open("out.png") as picture:
        pixels = np.asarray(picture)
        if form == "labels":
            assert picture.mode == "P"
            assert (pixels[DOG] == 1).all()
            assert (pixels[CAT] == 0).all()
    if form == "coco":
        assert sorted(row["category_id"] for row in content["annotations"]) == [17, 18, 193]
        assert content["images"] == [{"id": 0, "file_name": "street.jpg", "width": 80, "height": 60}]
        assert [row["name"] for row in content["categories"]][1] == "dog"
    if form == "coco-panoptic":
        (annotation,) = content["annotations"]
        assert annotation["file_name"] == "out.png"
        assert (pixels[DOG] == (annotation["segments_info"][0]["id"], 0, 0)).all()
    if form == "overlay":
        assert not (pixels == (255, 0, 0)).all(axis=-1).any()


def test_json_alone_and_standard_output(run: Run) -> None:
    photo = photograph("street.jpg")
    assert run("segment", "street.jpg", "-o", "only.json").exit_code == 0
    assert len(json.loads(Path("only.json").read_text())["features"]) == 3
    piped = run("segment", "-", stdin=photo.read_bytes())
    assert piped.exit_code == 0
    assert len(json.loads(piped.stdout)["features"]) == 3
    assert sorted(path.name for path in Path().iterdir()) == ["only.json", "street.jpg"]


def test_a_folder_is_mirrored_and_done_once(run: Run) -> None:
    photograph("photos/a.jpg")
    photograph("photos/deep/b.png")
    Path("photos/broken.jpg").write_bytes(b"no picture")
    result = run("segment", "photos", "-o", "out")
    assert result.exit_code == 1
    assert "broken.jpg is not a picture" in result.stderr
    assert "2 segmented, 1 failed" in result.stderr
    found = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))
    assert found == ["a.json", "a.png", "deep/b.json", "deep/b.png"]
    Path("photos/broken.jpg").unlink()
    assert "2 there already" in run("segment", "photos", "-o", "out").stderr


def test_nothing_foreign_is_overwritten(run: Run) -> None:
    photograph("street.jpg")
    Path("street.segments.json").write_text('{"mine": 1}')
    refused = run("segment", "street.jpg")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "decoupe: street.segments.json exists and is of something else: add --overwrite, or name another -o\n"
    )
    assert Path("street.segments.json").read_text() == '{"mine": 1}'
    assert not Path("street.segments.png").exists()
    assert run("segment", "street.jpg", "--overwrite").exit_code == 0
    assert run("segment", "street.jpg").exit_code == 1  # the picture stands
    Path("street.segments.png").unlink()
    assert run("segment", "street.jpg").exit_code == 0  # the JSON is this picture's own


def test_the_json_of_another_picture_or_format_is_kept(run: Run) -> None:
    photograph("street.jpg")
    photograph("other.jpg")
    assert run("segment", "street.jpg", "--format", "coco", "-o", "r.json").exit_code == 0
    before = Path("r.json").read_bytes()
    for name, target in (("street.jpg", "r.png"), ("other.jpg", "r.webp")):
        refused = run("segment", name, "-o", target)
        assert refused.exit_code == 1
        assert "r.json exists and is of something else" in refused.stderr
    assert Path("r.json").read_bytes() == before
    Path("pic.json").write_bytes(Path("street.jpg").read_bytes())
    assert run("segment", "pic.json", "-o", "pic.png", "--overwrite").exit_code == 2
    assert Path("pic.json").read_bytes() == Path("street.jpg").read_bytes()


def test_readings_differ(run: Run) -> None:
    photograph("street.jpg")
    for reading in ("panoptic", "instances", "semantic"):
        assert run("segment", "street.jpg", "--reading", reading, "-o", f"{reading}.json").exit_code == 0
        assert json.loads(Path(f"{reading}.json").read_text())["reading"] == reading


def test_the_score_decides_what_counts(run: Run) -> None:
    photograph("street.jpg")
    run("segment", "street.jpg", "-o", "all.json", "--score", "0.5")
    run("segment", "street.jpg", "-o", "none.json", "--score", "1")
    assert len(json.loads(Path("all.json").read_text())["features"]) == 3
    assert json.loads(Path("none.json").read_text())["features"] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "cocoo"], "unknown format 'cocoo'; did you mean 'coco'?"),
        (["--reading", "panoptik"], "unknown reading 'panoptik'; did you mean 'panoptic'?"),
        (["--format", "coco", "--reading", "panoptic"], "--format coco gives instances: leave --reading out"),
        (["--score", "0.5", "--reading", "semantic"], "--score chooses segments, the semantic reading"),
        (["--format", "labels", "-o", "x.jpg"], "writes exact numbers as .png"),
        (["--format", "labels", "-o", "x.json"], "writes exact numbers as .png"),
        (["-o", "x.gif"], "unknown output format '.gif'"),
        (["-m", "maskformr-swin-tiny-coco"], "did you mean 'maskformer-swin-tiny-coco'?"),
        (["-m", "tiny"], "unknown model 'tiny'"),
        (["-m", "pocket"], "gives mattes and names no segments: choose a segment model"),
    ],
)
def test_what_does_not_go_together_is_one_line(run: Run, arguments: list[str], line: str) -> None:
    photograph("street.jpg")
    result = run("segment", "street.jpg", *arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["street.jpg"]


# decoupe cut --what, --box, --point


def test_the_dog_is_cut_and_nothing_else(run: Run) -> None:
    photograph("street.jpg")
    result = run("cut", "street.jpg", "--what", "dog")
    assert result.exit_code == 0, result.stderr
    alpha = alpha_of("street.cut.png")
    assert (alpha[DOG] > 200).all()
    assert (alpha[:, 46:] == 0).all()


def test_several_labels_and_a_box_and_a_point(run: Run) -> None:
    photograph("street.jpg")
    assert run("cut", "street.jpg", "--what", "dog", "--what", "cat", "-o", "both.png").exit_code == 0
    assert (alpha_of("both.png")[DOG | CAT] > 200).all()
    assert run("cut", "street.jpg", "--box", "10,20,30,40", "-o", "box.png").exit_code == 0
    box = alpha_of("box.png")
    assert (box[20:40, 10:30] > 200).all()
    assert np.count_nonzero(box) == 20 * 20
    assert run("cut", "street.jpg", "--what", "cat", "--point", "55,30", "-o", "point.png").exit_code == 0
    assert (alpha_of("point.png")[CAT] > 200).all()


def test_list_tells_what_is_there_and_cuts_nothing(run: Run) -> None:
    photograph("photos/a.jpg")
    photograph("photos/b.jpg")
    result = run("cut", "photos", "--what", "list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"photos/{name}.jpg: dog, cat, grass" for name in "ab"]
    assert sorted(path.name for path in Path("photos").iterdir()) == ["a.jpg", "b.jpg"]
    assert [path.name for path in Path().iterdir()] == ["photos"]


def test_list_tells_what_cannot_be_listed_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    Path("note.jpg").write_text("milk, eggs")
    wrong = [
        "decoupe: gone.jpg does not exist: check the path",
        "decoupe: note.jpg is not a picture that can be read: expected JPEG, PNG, WebP, TIFF or the like",
        "decoupe: empty holds no pictures: name another folder, or the files",
    ]
    photograph("street.jpg")
    result = run("cut", "gone.jpg", "note.jpg", "empty", "street.jpg", "--what", "list")
    assert (result.exit_code, result.stderr.splitlines()) == (1, wrong)
    assert result.stdout == "street.jpg: dog, cat, grass\n"
    opened: list[object] = []
    monkeypatch.setattr(
        "decoupe.inference.predictor.open_segmenter", lambda *model, **_: opened.append(model)
    )
    result = run("cut", "gone.jpg", "note.jpg", "empty", "--what", "list")
    assert (result.exit_code, result.stderr.splitlines(), opened) == (1, wrong, [])


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--what", "dgo"], 2, "unknown label 'dgo'; did you mean 'dog'?"),
        (["--what", "sky"], 1, "street.jpg shows no sky; there is: dog, cat, grass"),
        (["--point", "5"], 2, "--point is '5', expected X,Y in whole pixels"),
        (["--point", "500,5"], 1, "point is 500,5, expected x,y in whole pixels inside the picture of 80×60"),
        (["--box", "1,2,3"], 2, "--box is '1,2,3', expected X0,Y0,X1,Y1 in whole pixels"),
        (["--box", "9,9,3,20"], 2, "--box is '9,9,3,20', expected X0,Y0,X1,Y1"),
        (["--segments", "maskformer-swin-tiny-coco"], 2, "add --what LABEL"),
        (["--what", "dog", "--segments", "maskformr"], 2, "unknown model 'maskformr'"),
        (["-m", "maskformer-swin-tiny-coco"], 2, "names segments and gives no matte"),
    ],
)
def test_choices_that_cannot_be_are_one_line(run: Run, arguments: list[str], status: int, line: str) -> None:
    photograph("street.jpg")
    result = run("cut", "street.jpg", *arguments)
    assert line in result.stderr
    assert (result.exit_code, len(result.stderr.splitlines())) == (status, 1)
    assert [path.name for path in Path().iterdir()] == ["street.jpg"]


def test_minmax_stretches_the_matte(run: Run) -> None:
    Image.fromarray(np.full((64, 64, 3), (120, 60, 60), np.uint8)).save("grey.png")
    with Image.open("grey.png") as image:
        image.putpixel((40, 30), (255, 0, 0))
        image.save("grey.png")
    for option, name in ((None, "plain.png"), ("--minmax", "stretched.png")):
        options = [option] if option else []
        assert run("cut", "grey.png", "--matte", *options, "-o", name).exit_code == 0
    plain, stretched = (np.asarray(Image.open(name)) for name in ("plain.png", "stretched.png"))
    assert plain.min() > 20
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_outlines_are_followed_or_not(run: Run) -> None:
    photograph = Image.open(Path(__file__).parents[1] / "examples/coffee.jpg")
    photograph.resize((900, 600)).save("coffee.png")
    for option in ("--guided", "--no-guided", None):
        options = [option] if option else []
        assert run("cut", "coffee.png", "--matte", *options, "-o", f"coffee{option}.png").exit_code == 0
    guided, plain, own = (
        Path(f"coffee{option}.png").read_bytes() for option in ("--guided", "--no-guided", None)
    )
    assert guided != plain
    assert own == plain  # as this model says


# decoupe models --commercial


def test_commercial_hides_what_is_for_research(run: Run) -> None:
    everything, commercial = run("models").stdout, run("models", "--commercial").stdout
    assert "maskformer-swin-base-coco" in everything
    assert "rmbg-2.0" in everything
    assert "maskformer" not in commercial
    assert "rmbg" not in commercial
    assert "birefnet" in commercial
    assert "inspyrenet" in commercial
    assert run("models", "birefnet", "--commercial").exit_code == 2
    assert "not for commercial use" in run("models", "maskformer-swin-tiny-ade").stdout
