"""What README promises runs: its Python, and every command and option that it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from decoupe.cli import app
from inference.queries import see

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"(?:^|\| )decoupe (\w+)([^\n#]*)", README, re.MULTILINE)


def test_there_is_something_to_run() -> None:
    assert len(SNIPPETS) == 3
    assert {"cut", "segment", "models", "get", "doctor"} <= {command for command, _ in COMMANDS}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = np.zeros((300, 451), bool)
    dog[50:250, 100:350] = True
    see(monkeypatch, [dog, ~dog], [1, 2])  # in place of a segment model, which would be downloaded
    shutil.copy(ROOT / "examples" / "chelsea.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "photo.png").exists() == ("photo.png" in snippet)


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_commands_and_options_exist(command: str, rest: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", rest):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown.output), option


@pytest.mark.parametrize("path", ["README.md", "src/decoupe/weights/pocket.md"])
def test_nothing_is_left_to_be_filled_in(path: str) -> None:
    assert re.findall(r"\b[A-Z]{5,}$", (ROOT / path).read_text(), re.MULTILINE) == []


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
