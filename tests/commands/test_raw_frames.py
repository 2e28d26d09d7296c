"""``decoupe cut - --raw WxH``: frames in a pipe, as ffmpeg writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from inference.tiny import write_onnx

Run = Callable[..., Result]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/cut.json").read_text())


def frames(count: int) -> np.ndarray:
    """A red square that moves to the right on grey: (count, 48, 64, 3)."""
    pixels = np.full((count, 48, 64, 3), 90, np.uint8)
    for number in range(count):
        pixels[number, 8:32, 4 * number : 4 * number + 24] = (255, 20, 30)
    return pixels


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``decoupe cut - --raw 64x48``, in an empty folder."""
    model = str(write_onnx(tmp_path / "tiny.onnx"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def cut(*arguments: str, stdin: bytes = b"", raw: str = "64x48") -> Result:
        return CliRunner().invoke(app, ["cut", "-", "--raw", raw, "-m", model, *arguments], input=stdin)

    return cut


@pytest.mark.parametrize(
    ("options", "channels"), [([], 4), (["--over", "white"], 3), (["--matte"], 1), (["--overlay"], 3)]
)
def test_frames_go_through_in_their_order(run: Run, options: list[str], channels: int) -> None:
    done = run(*options, stdin=frames(9).tobytes())
    assert done.exit_code == 0
    assert done.stderr == "decoupe: frames: 9 cut; tiny on cpu in float32\n"
    written = np.frombuffer(done.stdout_bytes, np.uint8).reshape(9, 48, 64, channels)
    alone = [run(*options, stdin=frame.tobytes()).stdout_bytes for frame in frames(9)]
    assert written.tobytes() == b"".join(alone)
    if channels == 4:
        lefts = [int(np.flatnonzero(frame[20, :, 3] > 127)[0]) for frame in written]
        assert lefts == sorted(set(lefts))


@pytest.mark.parametrize(("out", "third"), [("out/%05d.png", "out/00003.png"), ("f%u.webp", "f3.webp")])
def test_frames_become_numbered_files_and_a_second_run_does_what_is_left(
    run: Run, out: str, third: str
) -> None:
    stdin = frames(5).tobytes()
    assert run("-o", out, stdin=stdin).stderr.startswith("decoupe: frames: 5 cut;")
    first = Path(third).read_bytes()
    Path(third).unlink()
    assert run("-o", out, stdin=stdin).stderr.startswith("decoupe: frames: 1 cut, 4 there already;")
    assert Path(third).read_bytes() == first
    with Image.open(third) as image:
        assert (image.mode, image.size) == ("RGBA", (64, 48))


def test_a_folder_gets_numbers_of_its_own(run: Run) -> None:
    assert run("-o", "out/", "--format", "webp", stdin=frames(2).tobytes()).exit_code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["00001.webp", "00002.webp"]


def test_each_frame_is_told_as_json(run: Run) -> None:
    done = run("-o", "%d.png", "--json", "--log", "log.jsonl", stdin=frames(2).tobytes() + b"half a frame")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA)
    assert [line["source"] for line in lines] == ["frame 1", "frame 2", "frame 3"]
    assert lines[2]["error"].startswith("it ends after 12 of 9216 bytes")
    run("--log", "pipe.jsonl", stdin=frames(1).tobytes())
    piped = json.loads(Path("pipe.jsonl").read_text())
    jsonschema.validate(piped, SCHEMA)
    assert piped["target"] is None


def test_what_killed_runs_left_is_removed(run: Run) -> None:
    parts = [Path(f"{number}/.decoupe-0123456789abcdef.part") for number in (1, 2)]
    for part in parts:
        part.parent.mkdir()
        part.write_bytes(b"half")
    assert run("-o", "%d/a.png", stdin=frames(2).tobytes()).exit_code == 0
    assert not any(part.exists() for part in parts)


def test_neither_the_background_nor_the_log_is_an_output(run: Run) -> None:
    Path("out").mkdir()
    Image.new("RGB", (8, 8), "blue").save("out/1.png")
    background = Path("out/1.png").read_bytes()
    options = ["--over", "out/1.png", "--log", "out/../out/2.png", "--overwrite"]
    done = run("-o", "out/%d.png", *options, stdin=frames(3).tobytes())
    assert done.exit_code == 1
    told = [line.partition(": choose")[0].partition(": name")[0] for line in done.stderr.splitlines()]
    assert told[:2] == [
        "decoupe: frame 1: out/1.png is an input, and would be overwritten",
        "decoupe: frame 2: out/2.png is an output and the log",
    ]
    assert Path("out/1.png").read_bytes() == background
    assert [json.loads(line)["source"] for line in Path("out/2.png").read_text().splitlines()] == [
        "frame 1",
        "frame 2",
        "frame 3",
    ]
    with Image.open("out/3.png") as image:
        assert image.size == (64, 48)


def test_a_folder_in_a_frames_place_is_not_done(run: Run) -> None:
    Path("1.png").mkdir()
    done = run("-o", "%d.png", stdin=frames(2).tobytes())
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == "decoupe: frame 1: 1.png is a folder: name another output"


def test_what_is_cut_off_is_told_and_the_rest_is_done(run: Run) -> None:
    done = run(stdin=frames(2).tobytes()[:-1])
    assert done.exit_code == 1
    assert len(done.stdout_bytes) == 48 * 64 * 4
    told = "decoupe: frame 2: it ends after 9215 of 9216 bytes: check that the frames are rgb24 and of 64×48"
    assert done.stderr.splitlines()[0] == told
    assert run().exit_code == 1  # no frame at all
    assert "frames: none" in run().stderr


@pytest.mark.parametrize(
    ("options", "channels"), [([], 4), (["--over", "white"], 3), (["--matte", "--invert"], 1)]
)
def test_a_frame_without_the_subject_keeps_its_place_in_the_stream(
    run: Run, options: list[str], channels: int
) -> None:
    three = frames(3)
    three[1] = 90  # nothing is there
    done = run("--point", "20,20", *options, stdin=three.tobytes())
    assert (done.exit_code, done.stderr.count("decoupe: frame 2: ")) == (1, 1)
    written = np.frombuffer(done.stdout_bytes, np.uint8).reshape(3, 48, 64, channels)
    assert written[0].std() > 0
    assert written[2].std() > 0
    assert (written[1][..., -1] == (255 if channels == 3 else 0)).all()  # white, transparent, black


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.png"], "out.png names one file, and there are many: number them, such as out/%05d.png"),
        (["-o", "%d-%d.png"], "names one file"),
        (["-o", "%d.jpg"], "JPEG has no transparency"),
        (["--crop"], "--crop is for files, and frames go to standard output: add -o out/%05d.png"),
        (["--layers"], "--layers is for files, and frames go to standard output: add -o out/%05d.tif"),
        (["--json"], "--json is for files"),
        (["--quality", "80"], "--quality is for files"),
        (["--watch"], "--watch waits in folders"),
        (["photo.jpg"], "--raw frames come from standard input"),
        (["--max-pixels", "100"], "--raw is 64x48, over 100 pixels: raise --max-pixels"),
    ],
)
def test_what_does_not_go_with_frames(run: Run, arguments: list[str], message: str) -> None:
    refused = run(*arguments, stdin=frames(1).tobytes())
    assert (refused.exit_code, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize("raw", ["64", "64x", "0x48", "wide", "64x48x3"])
def test_a_size_that_is_none(run: Run, raw: str) -> None:
    refused = run(raw=raw)
    assert refused.exit_code == 2
    assert f"--raw is {raw!r}, expected WIDTHxHEIGHT: such as 1920x1080" in refused.stderr
