"""Several pictures at a time, and runs that are killed: every output is whole, and equal to one by one."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import decoupe
from decoupe.cli import app
from decoupe.commands.running import in_order
from decoupe.inference.media import remove_stale, replacing
from inference.tiny import write_onnx

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Bright red pixels are the subject."""
    return write_onnx(tmp_path / "tiny.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 pictures of different sizes in two folders, one of them no picture."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    for number in range(40):
        height, width = rng.integers(20, 60, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels[5:15, 5:15] = (255, 10, 20)
        place = folder / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    (folder / "0" / "20.png").write_bytes(b"no picture")
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_several_at_a_time_write_and_tell_the_same(tmp_path: Path, model: Path, photos: Path) -> None:
    told = {}
    for workers in ("1", "4"):
        out = tmp_path / f"out{workers}"
        command = ["cut", str(photos), "-o", str(out), "-m", str(model), "--json", "--workers", workers]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 1
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        told[workers] = [(line["source"], line.get("error"), line.get("subject")) for line in lines]
        assert done.stderr.splitlines()[-1] == "decoupe: 39 cut, 1 failed; tiny on cpu in float32"
    assert told["1"] == told["4"]
    assert outputs(tmp_path / "out1") == outputs(tmp_path / "out4")


def test_threads_may_share_a_predictor(model: Path) -> None:
    predictor = decoupe.load(model)
    images = np.random.default_rng(0).integers(0, 256, (12, 40, 50, 3), np.uint8)
    alone = [predictor(image).alpha for image in images]
    together = [result().alpha for _, result in in_order(predictor, images, 4)]
    np.testing.assert_array_equal(alone, together)


def test_results_come_in_order_and_few_are_ahead() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        if number == 5:
            raise ValueError("five")
        return number

    seen = []
    for number, result in in_order(work, range(60), 3):
        assert max(begun, default=0) <= number + 2 * 3 + 1
        if number == 5:
            with pytest.raises(ValueError, match="five"):
                result()
        else:
            seen.append(result())
    assert seen == [number for number in range(60) if number != 5]


def test_what_is_done_is_handed_over_before_more_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera in a pipe is slow; nine frames were kept back."""
    given: list[Future[int]] = []
    seen = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any) -> Future[int]:  # type: ignore[override]
            given.append(super().submit(*arguments))
            return given[-1]

    monkeypatch.setattr("decoupe.commands.running.ThreadPoolExecutor", Pool)

    def frames() -> Iterator[int]:
        yield 0
        assert given[0].result(60) == 0
        yield 1
        assert seen[:1] == [0]  # and 1 as well where it is done already
        yield 2

    for number, result in in_order(lambda number: number, frames(), 4):
        seen.append(number)
        assert result() == number
    assert seen == [0, 1, 2]


def test_a_run_that_is_killed_twice_is_finished_by_a_third(tmp_path: Path, model: Path, photos: Path) -> None:
    (photos / "0" / "20.png").unlink()
    out = tmp_path / "out"
    command = [sys.executable, "-m", "decoupe", "cut", str(photos), "-o", str(out), "-m", str(model)]
    for least in (5, 15):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while len(list(out.rglob("*.png"))) < least and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
    (out / "0" / ".decoupe-0123456789abcdef.part").write_bytes(b"as a kill may leave it")
    done = {name: (out / name).stat().st_mtime_ns for name in outputs(out) if name.endswith(".png")}
    last = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"{39 - len(done)} cut, {len(done)} there already" in last.stderr
    assert all((out / name).stat().st_mtime_ns == when for name, when in done.items())
    names = outputs(out)
    assert sorted(names) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    for name in names:
        with Image.open(out / name) as cutout, Image.open(photos / name) as photo:
            cutout.load()
            assert (cutout.mode, cutout.size) == ("RGBA", photo.size)


HELD = """
import sys, time
from pathlib import Path
from typing import Any
from decoupe.inference.media import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there, nor removed")
def test_only_what_dead_runs_left_is_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HELD, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (part,) = tmp_path.iterdir()
        remove_stale(tmp_path)
        assert part.read_bytes() == b"half"
        process.send_signal(signal.SIGKILL)
    assert part.exists()
    (tmp_path / ".decoupe-notes.txt").write_text("mine")
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".decoupe-notes.txt"]
    remove_stale(tmp_path / "no such folder")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_has_come_during_the_work_is_replaced_only_when_asked(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "out.png"
    ending = nullcontext() if overwrite else pytest.raises(decoupe.OutputError, match="has come meanwhile")
    with ending, replacing(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(b"ours")
        target.write_bytes(b"another's")
    assert target.read_bytes() == (b"ours" if overwrite else b"another's")
    assert list(tmp_path.iterdir()) == [target]


def test_a_picture_that_comes_while_it_is_cut_stays(tmp_path: Path, model: Path) -> None:
    """The input comes slowly, and something else is faster."""
    target, picture = tmp_path / "out.png", io.BytesIO()
    Image.new("RGB", (200, 200)).save(picture, "PNG", compress_level=0)
    command = [sys.executable, "-m", "decoupe", "cut", "-", "-o", str(target), "-m", str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # More than a pipe holds: by now the command line has been read, and the end of the input is awaited.
        process.stdin.write(picture.getvalue())
        process.stdin.flush()
        target.write_bytes(b"mine")
        process.stdin.close()
        line = process.stderr.read().decode()
        assert process.wait() == 1
    assert "has come meanwhile" in line
    assert target.read_bytes() == b"mine"


def test_writers_and_removers_never_meet(tmp_path: Path) -> None:
    """A remover that runs all the time never takes a file from a writer that is alive."""
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            remove_stale(tmp_path)

    removers = [threading.Thread(target=remove) for _ in range(2)]
    for remover in removers:
        remover.start()
    try:
        for number in range(200):
            with replacing(tmp_path / f"{number}.png") as temporary:
                temporary.write_bytes(b"whole")
    finally:
        stop.set()
        for remover in removers:
            remover.join()
    assert {path.name for path in tmp_path.iterdir()} == {f"{number}.png" for number in range(200)}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "there is too little memory for it: --workers 1 works on one picture at a time"),
        (
            ZeroDivisionError("odd"),
            "failed unexpectedly (ZeroDivisionError: odd): please report it, -v shows",
        ),
    ],
)
def test_what_nobody_foresaw_costs_one_picture(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    for name in "abc":
        pixels = np.full((20, 30, 3), (255, 10, ord(name)), np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    call = decoupe.Predictor.__call__

    def fails_at_b(self: decoupe.Predictor, image: Path, **options: Any) -> decoupe.Matte:
        if image.name == "b.png":
            raise error
        return call(self, image, **options)

    monkeypatch.setattr(decoupe.Predictor, "__call__", fails_at_b)
    command = ["cut", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert sorted(outputs(tmp_path / "out")) == ["a.png", "c.png"]
    assert f"b.png: {told}" in done.stderr
    assert "Traceback" not in done.stderr
    seen = CliRunner().invoke(app, [*command, "-v"])
    assert "Traceback" in seen.stderr
    assert type(error).__name__ in seen.stderr
