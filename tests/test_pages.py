"""The pages of docs: what they tell to type is typed here, each page from top to bottom in one folder."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from decoupe.backbones.nano import Nano
from decoupe.cli import app
from decoupe.evaluation.pictures import contact_sheet
from decoupe.training import loop
from drawn import draw_pair
from evaluation.test_scenes import boxes, draw_scenes
from inference.queries import see
from inference.tiny import write_onnx

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("index", "products", "portraits", "segments", "models", "cutting", "formats", "finetuning")

# Training is made as small as it can be.
SMALL = "--set steps=1 --set batch_size=2 --set 'stages=[{size: [64, 64]}]' --device cpu --workers 0"
SMALL_MODEL = (
    "--set model.backbone=nano --set backbone=null --set frozen=[] --set preprocessing.size=[64,64] "
    "--set sets=[] --set precision=float32"
)
SMALL_PARTS = {
    "birefnet": "--set model.block_width=8 --set model.context_width=16",
    "inspyrenet": "--set model.depth=8 --set model.base_size=[64,64] --set preprocessing.two_scale=null",
    "maskformer": "--set model.layers=1 --set model.queries=4 --set model.feed_forward=32",
}


def lines(page: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages name; a segment model that sees a dog, a cache of its own."""
    dog = np.zeros((300, 451), bool)
    dog[50:250, 100:350] = True
    see(monkeypatch, [dog, ~dog], [1, 2])
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Nano, "channels", (16, 24, 32, 48))  # of what is trained here
    monkeypatch.setattr(Nano, "DEPTHS", (1, 0, 0, 0))
    monkeypatch.setattr(loop, "contact_sheet", functools.partial(contact_sheet, side=64))
    monkeypatch.chdir(tmp_path)
    names = ("photo.jpg", "mug.jpg", "portrait.jpg", "photos/a.jpg", "photos/deep/b.jpg", "articles/c.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / "chelsea.jpg", tmp_path / name)
    with Image.open(ROOT / "examples" / "chelsea.jpg") as photo:
        photo.reduce(2).save(tmp_path / "portrait.jpg")  # matting takes as long as there are pixels
    for folder, count in (("my-photos", 8), ("test-photos", 2)):
        for row in range(count):
            draw_pair(tmp_path / folder, f"{row:02}", seed=row + count)
    return tmp_path


def typed(line: str) -> None:
    """What a shell does with a line of the pages: `cat` or `ffmpeg` into a pipe, options, and > FILE."""
    stdin = b""
    if "|" in line:
        source, line = (part.strip() for part in line.split("|"))
        frames = np.zeros((2, 240, 320, 3), np.uint8)
        frames[:, 60:200, 80:240] = (230, 120, 40)
        stdin = Path(source.split()[1]).read_bytes() if source.startswith("cat ") else frames.tobytes()
    line, _, target = line.partition(" > ")
    program, *words = shlex.split(line)
    if program in ("accelerate", "torchrun"):  # run for real in training/test_distributed.py
        words = [*words[words.index("-m") + 2 :], "--print"]
    else:
        assert program == "decoupe"
    if words[0] == "train":
        family = words[1].partition("-")[0]
        words = ["pocket" if word == "birefnet-lite" else word for word in words]  # which is a download
        small = f"{SMALL} {SMALL_MODEL} {SMALL_PARTS[family]}" if family in SMALL_PARTS else SMALL
        words += shlex.split(small)
        if words[1] == "birefnet-dis":  # a BiRefNet is trained by another line
            words.append("--print")
    done = CliRunner().invoke(app, words, input=stdin)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    if target:
        Path(target).write_bytes(done.stdout_bytes)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_tells_to_type_works(page: str, here: Path) -> None:
    assert lines(page)
    for line in lines(page):
        typed(line)


def test_folders_and_pipes(here: Path) -> None:
    for line in lines("folders"):
        typed(line)
    assert sorted(path.name for path in (here / "frames").iterdir()) == ["00001.png", "00002.png"]
    assert (here / "frames.rgba").stat().st_size == 2 * 240 * 320 * 4
    with Image.open(here / "photo.png") as cutout, Image.open(here / "white.jpg") as white:
        assert (cutout.mode, white.mode) == ("RGBA", "RGB")
    assert sorted(path.name for path in (here / "cut").rglob("*.png")) == ["a.png", "b.png"]
    assert len((here / "cut.jsonl").read_text().splitlines()) == 2


def test_videos(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    from inference.clips import frames_of, write_clip

    see(monkeypatch, boxes(), [0, 1, 3], matte_model=write_onnx(here / "tiny.onnx"))
    write_clip(here / "clip.mp4", [15360 * number for number in range(13)])  # a frame a second
    asked = [line for line in lines("video") if line.startswith("decoupe") and "webcam" not in line]
    assert len(asked) >= 6
    for line in asked:
        typed(line)
    assert len(frames_of(here / "clip.mov")) == 13
    assert len(list((here / "frames").iterdir())) == 3


def test_training(here: Path) -> None:
    names = ("train", "val", "DUTS-TR", "HRSOD", "UHRSD/train")
    for number, name in enumerate(names):
        for row in range(2):
            draw_pair(here / name, f"{name.replace('/', '')}{row}", seed=100 + 10 * number + row)
    for kind in ("images", "annotations"):
        for part in ("training", "validation"):
            folder = here / "ADEChallengeData2016" / kind / part
            folder.mkdir(parents=True)
            for row in range(2):
                if kind == "images":
                    Image.new("RGB", (64, 48), (90, 20 * row, 60)).save(folder / f"{row}.jpg")
                else:
                    Image.new("L", (64, 48), 3 + row).save(folder / f"{row}.png")
    (here / "landscapes").mkdir()
    shutil.copy(ROOT / "examples" / "coffee.jpg", here / "landscapes")
    shutil.copy(ROOT / "examples" / "chelsea.jpg", here / "new.jpg")
    assert lines("training")
    for line in lines("training"):
        typed(line)


def test_evaluation(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_scenes(here)
    truth = json.loads((here / "coco/annotations/instances_val2017.json").read_text())["annotations"]
    (here / "results.json").write_text(json.dumps([{**one, "score": 0.9} for one in truth]))
    for row in range(3):
        draw_pair(here / "DIS5K/DIS-VD", f"{row}", seed=row)
    shutil.copytree(here / "DIS5K/DIS-VD/gt", here / "mattes")
    see(monkeypatch, boxes(), [0, 1, 3], matte_model=write_onnx(here / "tiny.onnx"))
    typed("decoupe eval -m pocket --data DIS5K/DIS-VD --protocol dis -o other-report")
    for line in lines("evaluation"):
        typed(line)


def navigation(entries: list[Any]) -> list[str]:
    """The pages that mkdocs.yml names."""
    found = []
    for entry in entries:
        (target,) = entry.values()
        found += navigation(target) if isinstance(target, list) else [target]
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    named = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(named) == len(set(named))
    assert {page.name for page in DOCS.glob("*.md")} <= set(named)


def test_pictures_of_the_pages_are_made_by_a_script() -> None:
    names = ("examples/pages.py", "examples/contact_sheet.py", "benchmarks/peers.py", "benchmarks/guided.py")
    scripts = "".join((ROOT / name).read_text() for name in names)
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"!\[[^]]+\]\(pictures/(\w+)\.jpg\)", page.read_text()):
            assert f'"{name}":' in scripts or f'"{name}.jpg"' in scripts
