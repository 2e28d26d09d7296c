"""``decoupe video``: the installed command."""

from __future__ import annotations

import builtins
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from decoupe import Predictor
from decoupe.cli import app
from decoupe.commands import video as video_command
from decoupe.inference.video.forms import CODECS
from inference.clips import TIME_BASE, add_subtitles, frames_of, uneven, write_clip
from inference.tiny import write_onnx

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/video.json").read_text())
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model to which bright red is the subject, and a short video."""
    folder = tmp_path_factory.mktemp("made")
    write_onnx(folder / "tiny.onnx")
    write_clip(folder / "in.mp4", uneven(12))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """decoupe video with the model, in a folder with the short video."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def decoupe(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["video", *arguments, "-m", "tiny.onnx"])

    return decoupe


def valid(text: str) -> Any:
    answer = json.loads(text)
    jsonschema.validate(answer, SCHEMA)
    return answer


def test_what_was_written_is_told(run: Run) -> None:
    done = run("in.mp4", "out.mov")
    assert (done.exit_code, done.stdout) == (0, "")
    told = "wrote out.mov: 12 frames of 96×64, prores, audio kept (tiny on cpu in float32)"
    assert told in done.stderr
    assert run("in.mp4", "out.webm", "-q").output == ""
    add_subtitles(Path("in.mp4"), Path("words.mkv"), {(0.1, 0.2): "words"})
    assert "prores, audio kept, subtitles left out (tiny" in run("words.mkv", "a.mov").stderr
    assert "ffv1, audio kept, subtitles kept (tiny" in run("words.mkv", "a.mkv").stderr


def test_a_size_at_which_the_model_is_not_known_to_work_is_told_once(run: Run) -> None:
    done = run("in.mp4", "out.mov", "--size", "16")
    assert done.exit_code == 0
    assert done.stderr.count("is known to work at 32 to 256 pixels a side, not at 16×16") == 1


def test_json(run: Run) -> None:
    line = valid(run("in.mp4", "out.webm", "--json", "--from", "0.1", "--to", "0:00.3").stdout)
    assert (line["target"], line["codec"], line["audio"]) == ("out.webm", "vp9", "encoded again")
    assert line["frames"] == len(frames_of(Path("out.webm")))
    failed = run("gone.mp4", "out.mov", "--json")
    assert failed.exit_code == 1
    assert valid(failed.stdout)["error"] == "gone.mp4 does not exist: check the path"


def test_every_choice_reaches_the_video(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    together = Predictor.map

    def seen(self: Predictor, images: Any, batch_size: int) -> Any:
        batches.append(batch_size)
        return together(self, images, batch_size)

    monkeypatch.setattr(Predictor, "map", seen)
    options = ("--codec", "qtrle", "--batch", "3", "--no-guided", "--size", "64", "-v")
    done = run("in.mp4", "a.mov", *options)
    assert (done.exit_code, "size 64×64" in done.stderr, batches) == (0, True, [3])
    assert run("in.mp4", "b.mov", "--codec", "qtrle", "--no-smooth", "--size", "64").exit_code == 0
    first, second = (frames_of(Path(name))[-1][1][..., 3].astype(int) for name in ("a.mov", "b.mov"))
    assert abs(first - second).max() > 0  # smoothed, and not
    assert run("in.mp4", "c.mp4", "--matte").exit_code == 0
    white = frames_of(Path("c.mp4"))[0][1]
    assert white[32, 20, :3].min() > 230
    assert run("in.mp4", "hard.mp4", "--matte", "--threshold", "0.5", "--invert").exit_code == 0
    assert frames_of(Path("hard.mp4"))[0][1][32, 20, :3].max() < 30
    assert run("in.mp4", "frames").exit_code == 0
    assert len(list(Path("frames").iterdir())) == 12


def test_a_file_that_decoupe_did_not_write_is_fed_as_told(run: Run, tmp_path: Path) -> None:
    """What is assumed of it is told, and another feeding gives another video."""
    write_onnx(tmp_path / "tiny.onnx", None, shape=(1, 3, 64, 96))
    assumed = run("in.mp4", "a.mp4", "--matte", "-v")
    assert (assumed.exit_code, "assumed" in assumed.stderr) == (0, True)
    dark = ("--input-size", "96x64", "--mean", "1,0,0", "--std", "0.2,0.2,0.2")
    fed = run("in.mp4", "b.mp4", "--matte", "-v", *dark)
    assert (fed.exit_code, "assumed" in fed.stderr) == (0, False)
    first, second = (frames_of(Path(name))[0][1][..., 0].astype(int) for name in ("a.mp4", "b.mp4"))
    assert abs(first - second).max() > 50


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["in.mp4", "out.mp4"], 2, "mp4 has no transparency: name a .mov or .webm file"),
        (["in.mp4", "out.avi"], 2, "unknown kind of video '.avi'"),
        (["in.mp4", "out.mov", "--codec", "prorez"], 2, "did you mean 'prores'?"),
        (
            ["in.mp4", "out.mov", "--from", "5", "--to", "2"],
            2,
            "the end, 2, does not come after the start, 5",
        ),
        (["in.mp4", "out.mov", "--from", "soon"], 2, "'soon' is not a time, expected seconds, m:ss or"),
        (["in.mp4", "out.mp4", "--matte", "--over", "red"], 2, "--matte and --over exclude each other"),
        (["in.mp4", "out.mov", "--size", "big"], 2, "--size is 'big', expected N, WxH or native"),
        (["", "out.mov"], 2, "a path is empty"),
        (["in.mp4", "out.mov", "-q", "-v"], 2, "--quiet and --verbose exclude each other: give one of them"),
        (["-", "out.mov"], 2, "a video is read from a file, not from standard input: name the file"),
        (["in.mp4", "-"], 2, "a video is written to a file, not to standard output: name one, or a folder"),
        (["in.mp4", ".", "--overwrite"], 2, ". has no name of its own: name a folder for the PNG files"),
        (["in.mp4", "out.mov", "--grow", "2", "--shrink", "1"], 2, "--grow and --shrink undo each other"),
        (["in.mp4", "out.mov", "--threshold", "2"], 2, "threshold is 2.0, expected a number from 0 to 1"),
        (["in.mp4", "in.mp4", "--over", "red"], 2, "in.mp4 is an input, and would be overwritten"),
        (["tiny.onnx", "out.mov"], 1, "tiny.onnx is not a video that can be read"),
        (["in.mp4", "no/out.mov"], 1, "its folder does not exist: create no"),
        (["in.mp4", "out.mp4", "--over", "bleu"], 2, "background 'bleu' is neither a colour nor a file"),
        (["webcam:97", "out.mov"], 1, "webcam:97 cannot be opened as a webcam"),
    ],
)
def test_wrong_inputs(run: Run, arguments: list[str], status: int, line: str) -> None:
    refused = run(*arguments)
    assert refused.exit_code == status
    assert line in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["in.mp4", "tiny.onnx"]


@pytest.mark.parametrize(
    "arguments", [["gone.mp4", "out.mov"], ["tiny.onnx", "a.mov"], ["in.mp4", "no/a.mov"]]
)
def test_no_model_is_fetched_for_a_video_that_cannot_be(
    run: Run, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr("decoupe.inference.predictor.open_predictor", lambda *_, **__: opened.append(1))
    assert run(*arguments).exit_code == 1
    assert not opened


def test_an_output_is_replaced_only_when_asked(run: Run) -> None:
    Path("out.mov").write_bytes(b"mine")
    refused = run("in.mp4", "out.mov")
    assert (refused.exit_code, Path("out.mov").read_bytes()) == (1, b"mine")
    assert "out.mov exists: choose another output, or overwrite it (--overwrite)" in refused.stderr
    assert run("in.mp4", "out.mov", "--overwrite").exit_code == 0
    assert len(frames_of(Path("out.mov"))) == 12


def test_a_missing_extra_names_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_av(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *rest, **more)

    for module in [name for name in sys.modules if name.startswith("decoupe.inference.video")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("decoupe.inference.video")
    monkeypatch.setattr(builtins, "__import__", without_av)
    refused = run("in.mp4", "out.mov")
    assert refused.exit_code == 2
    assert "decoupe video needs the extra 'video': pip install 'decoupe[video]'" in refused.stderr


def test_every_codec_is_told() -> None:
    assert set(video_command.CODECS) == set(CODECS)


SHORT_PIECES = """
from decoupe.__main__ import main
from decoupe.inference import video
video.PIECE = 16
main()
"""


def test_a_killed_run_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoupe.inference.video.PIECE", 16)
    times = uneven(64)
    write_clip(Path("long.mp4"), times)
    assert run("long.mp4", "whole.mov", "--codec", "qtrle", "--batch", "4").exit_code == 0
    command = [sys.executable, "-c", SHORT_PIECES, "video", "long.mp4", "out.mov", "-m", "tiny.onnx"]
    command += ["--codec", "qtrle", "--batch", "4"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        end = time.monotonic() + 30
        while not Path("out.mov.part/00000.mov").exists():
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not Path("out.mov").exists()
    line = valid(run("long.mp4", "out.mov", "--codec", "qtrle", "--batch", "4", "--json").stdout)
    assert 64 > line["resumed"] >= 16
    frames = frames_of(Path("out.mov"))
    assert [moment for moment, _ in frames] == [moment * TIME_BASE for moment in times]
    whole = frames_of(Path("whole.mov"))
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(frames, whole, strict=True))
    assert not Path("out.mov.part").exists()
