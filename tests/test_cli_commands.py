from __future__ import annotations

import errno
import functools
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import decoupe
from decoupe import cli
from decoupe.cli import app
from decoupe.commands import doctor
from decoupe.commands.console import told_status
from decoupe.commands.doctor import EXTRAS, Extra
from decoupe.weights.registry import CATALOGUE, ModelSpec
from inference.tiny import write_onnx
from weights.fake_hub import FakeHub


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright red pixels are the subject."""
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photograph(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 80, 3), (200, 0, 0), np.uint8)).save(path)
    return path


def lines(result: Result) -> list[str]:
    """What was said on standard error; nothing may go to standard output beside it."""
    assert result.stdout == ""
    return result.stderr.splitlines()


# The other commands.


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"decoupe {decoupe.__version__}\n")


def test_models_lists_all_and_tells_about_one() -> None:
    listed = CliRunner().invoke(app, ["models"])
    assert listed.exit_code == 0
    for name in CATALOGUE:
        (row,) = [line for line in listed.stdout.splitlines() if line.split(" ")[0] == name]
        assert CATALOGUE[name].task in row
        assert row.split()[-2] == ("yes" if CATALOGUE[name].commercial else "no")

    one = CliRunner().invoke(app, ["models", "birefnet-lite-2k"])
    assert one.exit_code == 0
    assert "2560×1440" in one.stdout
    assert "https://huggingface.co/ZhengPeng7/BiRefNet_lite-2K/tree/580b1256" in one.stdout
    assert "MIT" in one.stdout
    assert f"sha256    {CATALOGUE['birefnet-lite-2k'].sha256}" in one.stdout
    assert CATALOGUE["pocket"].sha256 in CliRunner().invoke(app, ["models", "pocket"]).stdout

    unknown = CliRunner().invoke(app, ["models", "birefnt"])
    assert unknown.exit_code == 2
    assert lines(unknown) == ["decoupe: unknown model 'birefnt'; did you mean 'birefnet'?"]


@pytest.mark.parametrize(
    "command",
    ["bench x", "get x", "cut x -m x", "segment x -m x", "video x y -m x", "eval --pred x --gt x", "train x"],
)
def test_quiet_draws_no_bars_of_downloads(command: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    assert CliRunner().invoke(app, [*command.split(), "-q"]).exit_code == 2
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_get_downloads_and_prints_the_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOUPE_CACHE", str(here / "cache"))
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["me/tiny/model.safetensors"] = b"weights"
        result = CliRunner().invoke(app, ["get", "me/tiny"])
        assert result.exit_code == 0
        assert Path(result.stdout.strip()).read_bytes() == b"weights"

        failed = CliRunner().invoke(app, ["get", "me/absent"])
        assert failed.exit_code == 1
        assert "no repository 'me/absent'" in lines(failed)[0]
    assert CliRunner().invoke(app, ["get", "birefnt"]).exit_code == 2


@pytest.mark.parametrize("healthy", [True, False])
def test_doctor(here: Path, model: Path, monkeypatch: pytest.MonkeyPatch, healthy: bool) -> None:
    def cached(spec: ModelSpec) -> Path | None:
        return model if healthy and spec.name in ("pocket", "birefnet-lite") else None

    monkeypatch.setattr("decoupe.weights.download.cached_path", cached)
    monkeypatch.setenv("DECOUPE_CACHE", str(here / "cache"))
    monkeypatch.setattr("decoupe.commands.doctor.EXTRAS", {"gold": Extra("no_such_module", "gold", 7)})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (0 if healthy else 1)
    report = dict(line[2:].split(None, 1) for line in result.stdout.splitlines())
    assert report["onnxruntime"].split(".")[0].isdecimal()
    assert "pip install 'decoupe[gold]', about 7 MB" in report["extra"]
    assert str(here / "cache") in report["cache"]
    assert ("works, opened and run in" if healthy else "reinstall decoupe") in report["default"]
    told = "birefnet-lite: better than the small default" if healthy else "decoupe get birefnet-lite"
    assert told in report["finer"]


def test_doctor_knows_every_extra() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11
    told = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(EXTRAS) == set(told["project"]["optional-dependencies"]) - {"all", "test", "docs", "dev"}


# The installed command, in a process of its own.


def command(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    whole = [sys.executable, "-m", "decoupe", *arguments]
    return subprocess.run(whole, capture_output=True, timeout=60, input=stdin)


def test_doctor_tells_of_a_pytorch_that_cannot_be_imported(here: Path) -> None:
    (here / "torch").mkdir()
    (here / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: not there')")
    environment = {**os.environ, "PYTHONPATH": str(here)}
    command = [sys.executable, "-m", "decoupe", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "cannot be imported (libcudart.so.13: not there): reinstall it" in done.stdout


def test_doctor_goes_on_after_what_is_wrong(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    report = CliRunner().invoke(app, ["doctor"])
    assert report.exit_code == 1
    assert "HF_ENDPOINT is 'nonsense', expected an address" in report.stdout
    assert "finer models" in report.stdout


def test_doctor_tells_of_other_installations_that_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (missing,) = [one for one in doctor._torch_devices() if one.name == "torchvision"]
    assert (missing.ok, "pip install torchvision" in missing.finding) == (False, True)
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    (broken,) = [one for one in doctor._torch_devices() if one.name == "torchvision"]
    assert (broken.ok, "nms does not exist" in broken.finding) == (False, True)

    (tmp_path / "file").touch()
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "file" / "cache"))
    cache = doctor._cache()
    assert not cache.ok
    assert "is a file, so no model can be downloaded: set DECOUPE_CACHE" in cache.finding

    missing_one = importlib.metadata.PackageNotFoundError("onnxruntime")

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise missing_one
        return "1.27.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    names = {"onnxruntime": ["onnxruntime-gpu"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: names)
    assert doctor._version("onnxruntime") == "1.27.0 (onnxruntime-gpu)"


def test_standard_input_to_standard_output(here: Path, model: Path) -> None:
    photo = photograph(here / "photo.jpg")
    done = command("cut", "-", "-m", str(model), stdin=photo.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(BytesIO(done.stdout)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (80, 60))

    failed = command("cut", "-", "-m", str(model), stdin=b"no picture")
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert failed.stderr.count(b"\n") == 1
    assert b"<stdin> is not a picture" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "redirection", "message", "status"),
    [
        (["cut", "-"], "<&- >/dev/null", "standard input is closed: name a file instead of -", 1),
        (["cut", "photo.jpg", "-o", "-"], ">&-", "standard output is closed: name a file instead of -", 1),
        (
            ["cut", "photo.jpg", "--json"],
            ">&-",
            "standard output is closed, where --json prints: give --log FILE instead",
            2,
        ),
        (["cut", "photo.jpg", "-o", "-"], ">/dev/full", "standard output: No space left on device", 1),
        (["models"], ">/dev/full", "standard output: No space left on device", 1),
        (["--version"], ">/dev/full", "standard output: No space left on device", 1),
        (["cut", "--help"], ">/dev/full", "standard output: No space left on device", 1),
    ],
)
def test_streams_that_cannot_be_used(
    here: Path, model: Path, arguments: list[str], redirection: str, message: str, status: int
) -> None:
    photograph(here / "photo.jpg")
    if arguments[0] == "cut":
        arguments = [*arguments, "-m", str(model)]
    line = f'exec "$@" {redirection}'
    whole = ["sh", "-c", line, "sh", sys.executable, "-m", "decoupe", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert done.stderr == f"decoupe: {message}\n"


@pytest.mark.parametrize("inputs", [["in"], ["in/a.png"], ["-", "--raw", "8x8"]])
def test_a_log_on_a_full_disk_is_told_once_and_the_rest_done(
    here: Path, model: Path, inputs: list[str]
) -> None:
    for name in ("a.png", "b.png"):
        photograph(here / "in" / name)
    done = command("cut", *inputs, "-o", "out/", "-m", str(model), "--log", "/dev/full", stdin=bytes(384))
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if b"/dev/full" in line]
    assert told == [b"decoupe: /dev/full cannot be written (No space left on device): name another log"]
    assert len(list((here / "out").iterdir())) == (1 if inputs == ["in/a.png"] else 2)


@pytest.mark.parametrize("name", "ipbsd")
def test_commands_of_rembg_are_answered_with_ours(name: str) -> None:
    refused = CliRunner().invoke(app, [name, "photo.jpg", "out.png"])
    assert refused.exit_code == 2
    line = f"Error: '{name}' is a command of rembg: its like here is decoupe "
    assert refused.stderr.splitlines()[-1].startswith(line)
    ours = refused.stderr.split("decoupe ")[-1].split()[0]
    assert CliRunner().invoke(app, [ours, "--help"]).exit_code == 0


def test_a_picture_is_no_command_and_its_command_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(here / "my photo.jpg")
    refused = CliRunner().invoke(app, ["my photo.jpg"])
    assert refused.exit_code == 2
    line = "Error: 'my photo.jpg' is no command: to cut it, decoupe cut 'my photo.jpg'"
    assert refused.stderr.splitlines()[-1] == line
    (here / "models").mkdir()
    assert CliRunner().invoke(app, ["models", "--help"]).exit_code == 0
    assert "No such command 'phoot.jpg'" in CliRunner().invoke(app, ["phoot.jpg"]).stderr
    monkeypatch.setattr(sys, "platform", "win32")  # whose cmd takes other quotes for parts of the name
    told = CliRunner().invoke(app, ["my photo.jpg"]).stderr.splitlines()[-1]
    assert told.endswith('to cut it, decoupe cut "my photo.jpg"')


def test_patterns_are_read_by_the_command_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Click would put files in their place there, quoted or not: nothing would be mirrored or skipped."""
    given: list[list[str] | None] = []
    monkeypatch.setattr(cli, "app", given.append)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["decoupe", "cut", "~/photos/**/*.jpg", "photo[1].jpg"])
    cli.main()
    assert given == [["cut", f"{tmp_path}/photos/**/*.jpg", "photo[1].jpg"]]
    monkeypatch.setattr(sys, "argv", ["decoupe", "eval", "join", "runs/*"])
    cli.main()
    assert given[1:] == [None]


def test_a_closed_pipe_ends_quietly(here: Path, model: Path) -> None:
    Image.effect_noise((600, 600), 100).save("noise.png")  # too large for a pipe's buffer
    arguments = [sys.executable, "-m", "decoupe", "cut", "noise.png", "-m", str(model), "--matte", "-o", "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_a_closed_pipe_ends_quietly_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which tells it by another number."""
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    error = OSError(errno.EINVAL, "Invalid argument")
    assert told_status(error) == 1
    assert capsys.readouterr().err == "decoupe: standard output: Invalid argument\n"
    monkeypatch.setattr(sys, "platform", "win32")
    assert told_status(error) == 141
    assert told_status(OSError(errno.EINVAL, "Invalid argument", "why?.png")) == 1
    assert capsys.readouterr().err == "decoupe: why?.png: Invalid argument\n"


def test_ctrl_c_ends_quietly(here: Path, model: Path) -> None:
    arguments = [sys.executable, "-m", "decoupe", "cut", "-", "-m", str(model), "-v"]
    pipe = subprocess.PIPE
    # Where the tests run in the background of a script, Ctrl-C is ignored, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=heed) as process:
        assert process.stderr is not None
        assert b"tiny on cpu" in process.stderr.readline()
        # A signal between Python's last look and the system's read waits for the read's end, in any program.
        time.sleep(0.3)  # now it waits for the picture
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_progress_bar(here: Path, model: Path, colour: bool) -> None:
    for index in range(3):
        photograph(here / "in" / f"{index}.jpg")
    (here / "in" / "bad.jpg").write_text("bad")
    ours, theirs = pytest.importorskip("pty").openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    if not colour:
        environment["NO_COLOR"] = "1"
    arguments = [sys.executable, "-m", "decoupe", "cut", "in", "-m", str(model)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not part:
            break
        drawn += part
    output, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 1
    assert output == b""
    assert b"4/4" in drawn
    assert b"/s" in drawn
    assert b"in/bad.jpg is not a picture" in drawn
    assert (b"\x1b[38;5" in drawn) == colour


def test_the_command_starts_without_what_it_does_not_need() -> None:
    code = "import sys, decoupe.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert "typer" in loaded
    assert not loaded & {"torch", "onnxruntime", "huggingface_hub"}
