"""The pages of docs: what they tell to type is typed here, each page from top to bottom in one folder."""

from __future__ import annotations

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

from decoupe.cli import app
from drawn import draw_pair
from inference.queries import see

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("index", "products", "portraits", "models", "cutting", "formats", "finetuning")

# Training is made as small as it can be.
SMALL = "--set steps=1 --set batch_size=2 --set 'stages=[{size: [64, 64]}]' --device cpu --workers 0"


def lines(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages name; a segment model that sees a dog, a cache of its own."""
    dog = np.zeros((300, 451), bool)
    dog[50:250, 100:350] = True
    see(monkeypatch, [dog, ~dog], [1, 2])
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = ("photo.jpg", "mug.jpg", "portrait.jpg", "photos/a.jpg", "photos/deep/b.jpg", "articles/c.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / "chelsea.jpg", tmp_path / name)
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
    assert program == "decoupe"
    if words[0] == "train":
        words += shlex.split(SMALL)
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
    script = (ROOT / "examples" / "pages.py").read_text()
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"!\[[^]]+\]\(pictures/(\w+)\.jpg\)", page.read_text()):
            assert f'"{name}":' in script
