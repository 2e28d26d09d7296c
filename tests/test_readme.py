"""What README and the pages of docs promise runs: Python, every command, option, recipe and setting."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.training.recipes import read_recipe
from inference.clips import uneven, write_clip
from inference.queries import see
from inference.tiny import write_onnx

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    snippet for page in PAGES for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]
COMMANDS = [
    found
    for page in PAGES
    for found in re.findall(r"(?:^|\| |-m )decoupe ((?:data )?\w+)([^\n#]*)", page.read_text(), re.MULTILINE)
]


def test_there_is_something_to_run() -> None:
    assert len(SNIPPETS) >= 4
    assert {"cut", "segment", "video", "models", "get", "doctor"} <= {command for command, _ in COMMANDS}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = np.zeros((300, 451), bool)
    dog[50:250, 100:350] = True
    see(monkeypatch, [dog, ~dog], [1, 2])  # in place of a segment model, which would be downloaded
    shutil.copy(ROOT / "examples" / "chelsea.jpg", tmp_path / "photo.jpg")
    if "clip.mp4" in snippet:
        write_clip(tmp_path / "clip.mp4", uneven(12))
    if "u2net.onnx" in snippet:
        write_onnx(tmp_path / "u2net.onnx", None)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "photo.png").exists() == ("photo.png" in snippet)


@functools.cache
def told_of(command: str) -> str:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    return shown.output


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_commands_and_options_exist(command: str, rest: str) -> None:
    shown = told_of(command)
    for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", rest):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), option


@pytest.mark.parametrize("rest", [rest for command, rest in COMMANDS if command == "train"])
def test_recipes_and_settings_exist(rest: str) -> None:
    recipe = re.match(r" ([a-z][\w-]+)( |$)", rest)
    assert recipe is None or read_recipe(recipe[1], re.findall(r"--set (\S+)", rest))


def test_settings_in_the_training_page_exist() -> None:
    table = re.findall(r"^\|[^|]*\| `(\S+=[^`]+)`", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    assert len(table) > 5
    for setting in table:
        read_recipe("birefnet-general", [setting])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "src/decoupe/weights/pocket.md"], ids=lambda page: page.name)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert re.findall(r"\b[A-Z]{5,}$", page.read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
