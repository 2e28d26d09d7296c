"""What a shell sees of the command: help, completion, colours, silence."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.commands import cut_options
from decoupe.commands import video as video_command
from decoupe.weights.registry import CATALOGUE
from inference.tiny import write_onnx
from weights.fake_hub import FakeHub

Names = tuple[str, ...]


def commands(group: click.Group, names: Names = ()) -> Iterator[tuple[Names, click.Command]]:
    """Every command, with the words that call it."""
    for name, command in group.commands.items():
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))


TREE = typer.main.get_command(app)
COMMANDS = dict(commands(TREE))


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_and_every_option_tells_what_it_does(names: Names) -> None:
    shown = CliRunner().invoke(app, [*names, "--help"])
    assert shown.exit_code == 0
    words = " ".join(shown.output.split())
    assert (COMMANDS[names].help or "").split("\n")[0] in words
    for parameter in COMMANDS[names].params:
        told = getattr(parameter, "help", None)
        assert told, parameter.name
        assert told.split()[0] in words
        assert all(option in words for option in parameter.opts if option.startswith("-"))


@pytest.mark.parametrize(
    ("name", "sections"), [("cut", cut_options.SECTIONS), ("video", video_command.SECTIONS)]
)
def test_the_many_options_of_a_command_are_listed_in_sections(name: str, sections: dict[str, str]) -> None:
    assert set(sections) <= {parameter.name for parameter in COMMANDS[name,].params}
    shown = CliRunner().invoke(app, [name, "--help"]).output
    titles = re.findall(r"^(\w[\w ]*):$", shown, re.MULTILINE)
    assert titles == ["Arguments", *sections.values()]
    assert re.search(r"^Matte:\n  --threshold", shown, re.MULTILINE)


def test_every_option_of_cut_is_in_a_page_of_the_documents() -> None:
    docs = Path(__file__).parents[1] / "docs"
    pages = "".join(page.read_text() for page in docs.glob("*.md"))
    for parameter in COMMANDS["cut",].params:
        if isinstance(parameter, click.Option):
            assert any(re.search(rf"{option}(?![\w-])", pages) for option in parameter.opts), parameter.name


@pytest.mark.parametrize(
    ("words", "found", "absent"),
    [
        ("cut -m biref", {"birefnet", "birefnet-lite"}, {"pocket"}),
        ("cut -m mu", {"mugs"}, {"pocket"}),
        ("get inspy", {"inspyrenet"}, {"birefnet"}),
        ("models --for h", {"hair"}, {"products"}),
        ("cut --mattin", {"--matting", "--matting-dilate"}, {"--matte"}),
        ("be", {"bench"}, {"cut"}),
        ("serve -m biref", {"birefnet"}, {"pocket"}),
        ("ui -m mu", {"mugs"}, {"pocket"}),
        ("cut --segments mask", {"maskformer-swin-base-coco"}, {"pocket"}),
        ("cut --format p", {"png"}, {"webp"}),
        ("cut --precision fl", {"float32", "float16"}, {"bfloat16"}),
        ("cut --device c", {"cpu", "cuda"}, {"mps"}),
        ("video in.mp4 out.mov --codec pro", {"prores"}, {"vp9"}),
        ("export pocket a.onnx --deform g", {"gather"}, {"onnx"}),
        ("segment --format co", {"coco", "coco-panoptic"}, {"labels"}),
        ("segment --reading in", {"instances"}, {"semantic"}),
        ("cache prune biref", {"birefnet"}, {"pocket"}),
        ("eval -m biref", {"birefnet"}, {"pocket"}),
        ("eval --protocol s", {"sod", "semantic"}, {"dis"}),
        ("train fine", {"finetune"}, {"pocket"}),
        ("train finetune --from biref", {"birefnet"}, {"pocket"}),
        ("calibrate finetune biref", {"birefnet"}, {"pocket"}),
        # Nor is anything said that a command would say.
        ("--version --", {"--help"}, {"decoupe"}),
        ("i --", {"--help"}, {"Error:"}),
        ("photo.jpg --", {"--help"}, {"Error:"}),
        ("data preview set --recipe biref", {"birefnet-dis"}, {"pocket"}),
    ],
)
def test_shells_complete_commands_options_and_models(
    words: str, found: set[str], absent: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").touch()
    (tmp_path / "config.ini").write_text("[models]\nmugs = best.onnx\n")
    environment = {
        "DECOUPE_CONFIG": str(tmp_path / "config.ini"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens: completing needs no network
        "_DECOUPE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"decoupe {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = CliRunner().invoke(app, [], prog_name="decoupe", env=environment)
    names = set(done.output.split())
    assert found <= names
    assert not absent & names


def test_completion_can_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Typer asks its parent processes for the shell, and there may be none: then the shell is named.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr("typer.testing._get_command", typer.main.get_command)  # asked when they are built
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "--install-completion" in shown
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="decoupe")
    assert "_DECOUPE_COMPLETE" in script.output


def said(*arguments: str, folder: Path, terminal: bool, **environment: str) -> str:
    """All that the command says, into a terminal or into pipes."""
    command = [sys.executable, "-m", "decoupe", *arguments]
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    whole = {**plain, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    if not terminal:
        done = subprocess.run(command, capture_output=True, cwd=folder, env=whole, timeout=60, check=True)
        return (done.stdout + done.stderr).decode()
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=folder, env=whole
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # once the other side is closed
            while part := os.read(ours, 65536):
                text += part
        assert process.wait(60) == 0
    os.close(ours)
    return text.decode()


COLOUR = re.compile(r"\x1b\[[\d;]*\b(3|4|9|10)\d(;[\d;]*)?m")


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    model = str(write_onnx(tmp_path / "tiny.onnx"))
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "in" / name)
    arguments = ["cut", "in", "-o", "out", "-m", model, "--overwrite"]
    assert COLOUR.search(said(*arguments, folder=tmp_path, terminal=True))
    assert not COLOUR.search(said(*arguments, folder=tmp_path, terminal=True, NO_COLOR="1"))
    assert "\x1b" not in said(*arguments, folder=tmp_path, terminal=False)
    assert "\x1b" not in said("models", folder=tmp_path, terminal=False)


def test_quiet_downloads_draw_no_bar(tmp_path: Path) -> None:
    with FakeHub() as hub:
        hub.files["me/tiny/model.safetensors"] = b"weights" * 1000
        environment = {"HF_ENDPOINT": hub.url, "DECOUPE_CACHE": str(tmp_path / "cache")}
        told = said("get", "me/tiny", "-q", "--json", folder=tmp_path, terminal=False, **environment)
    assert re.fullmatch(r'\{"name": "me/tiny", "path": "[^"]+"\}\n', told)


INTERRUPTED = """
import os, signal, time

try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error  # as modules of C do
"""


@pytest.mark.parametrize("module", ["numpy", "typer", "onnxruntime"])
def test_ctrl_c_while_modules_are_imported_ends_quietly(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(INTERRUPTED)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    paths = [str(tmp_path), *sys.path]
    run = subprocess.run(
        [sys.executable, "-m", "decoupe", "cut", str(tmp_path / "a.png")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


PRESSED_AGAIN = """
import os, signal, time
from decoupe.interrupts import leave_at_once
leave_at_once()
from decoupe.commands.console import told
with told():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        print("waiting for threads", flush=True)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            print("no longer waiting", flush=True)
"""


def test_ctrl_c_again_leaves_at_once() -> None:
    command = [sys.executable, "-c", PRESSED_AGAIN]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (130, "waiting for threads\n", "")


@pytest.mark.parametrize("pause", [0.03, 0.08, 0.15])
def test_ctrl_c_however_often_it_is_pressed(tmp_path: Path, pause: float) -> None:
    """Python ended under the threads, and C++ aborted."""
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    for number in range(60):
        Image.new("RGB", (16, 16)).save(photos / f"{number}.png")
    command = [sys.executable, "-m", "decoupe", "cut", str(photos), "-o", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while len(list(out.glob("*.png"))) < 3 and process.poll() is None:
            time.sleep(0.01)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(pause)
        assert (process.returncode, *process.communicate()) == (130, b"", b"")


@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (200, "name for size sides MB seconds licence commercial here"),
        (120, "name size sides MB seconds licence commercial here"),
        (80, "name MB licence commercial here"),
        (40, "name MB"),
        (20, "name"),
    ],
)
def test_models_can_be_read_in_a_terminal_of_any_width(tmp_path: Path, columns: int, titles: str) -> None:
    """In 80 columns the table left out what models are for, and how large they are."""
    drawn = said("models", folder=tmp_path, terminal=True, COLUMNS=str(columns), NO_COLOR="1")
    lines = re.sub(r"\x1b\[\d*m", "", drawn).splitlines()
    assert lines[0].split() == titles.split()
    assert "…" not in drawn
    whole = " ".join(" ".join(lines).split())
    for name, spec in CATALOGUE.items():
        assert sum(line.split()[0] == name for line in lines) == 1
        assert spec.task in whole
    assert columns < 40 or max(map(len, lines)) <= columns
