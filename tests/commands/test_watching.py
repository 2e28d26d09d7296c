"""``decoupe cut --watch``: the installed command, on files that arrive slowly."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.commands import watching
from decoupe.commands.plan import Job, Plan, Problem
from decoupe.commands.watching import arrivals
from inference.tiny import write_onnx

LOOKING_WHEN_TOLD = """
import sys, time, types
from decoupe.__main__ import main
from decoupe.commands import watching

def wait(seconds):
    assert seconds == 1
    print("looked", flush=True)
    sys.stdin.readline() or time.sleep(seconds)

watching.time = types.SimpleNamespace(sleep=wait)
main()
"""


def test_pictures_are_cut_when_they_have_arrived_whole(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    Image.effect_noise((300, 300), 100).save(tmp_path / "noise.png")
    whole = (tmp_path / "noise.png").read_bytes()
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    (inbox / "early.png").write_bytes(whole)
    command = [sys.executable, "-c", LOOKING_WHEN_TOLD, "cut", "in", "-o", "out", "--watch", "-m", str(model)]
    # Where the tests run in the background of a script, Ctrl-C is ignored, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def look() -> None:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "looked\n"

        assert process.stdout.readline() == "looked\n"
        assert not out.exists()
        look()
        assert (out / "early.png").exists()
        with (inbox / "late.png").open("wb") as late:
            for part in range(6):
                late.write(whole[part * len(whole) // 6 : (part + 1) * len(whole) // 6])
                late.flush()
                look()
                assert not (out / "late.png").exists()
        look()
        assert (out / "late.png").exists()
        process.stdin.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        told = process.stderr.read()
    assert "damaged" not in told
    pictures = [np.asarray(Image.open(out / name)) for name in ("early.png", "late.png")]
    assert np.array_equal(*pictures)


def test_each_is_tried_once_and_problems_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        file.write_bytes(b"1")
    looks = 0

    def look() -> Plan:
        nonlocal looks
        looks += 1
        if looks == 4:
            files[1].write_bytes(b"22")  # it has changed, and is tried again a look later
        return Plan(jobs=[Job(file, file.with_suffix(".out")) for file in files], problems=[one])

    one = Problem("one line")
    monkeypatch.setattr(watching, "INTERVAL", 0)
    monkeypatch.setattr(watching, "TRUST", 1)
    found = arrivals(look)
    first, second, third = (next(found) for _ in range(3))
    assert (first.problems, first.jobs, looks >= 1) == ([one], [], True)
    assert [job.source for job in second.jobs] == files
    assert (second.problems, [job.source for job in third.jobs]) == ([], [files[1]])
    assert looks == 5


def test_the_plan_is_made_again_when_a_folder_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand pictures that are done cost nothing; what changes in its place is seen without a plan."""
    inbox, out = tmp_path / "in", tmp_path / "out"
    (inbox / "deep").mkdir(parents=True)
    looks: list[int] = []
    ticks = 0
    late = inbox / "deep" / "a.png"

    def look() -> Plan:
        looks.append(ticks)
        jobs = [Job(late, out / "a.png")] if late.exists() and not (out / "a.png").exists() else []
        return Plan(jobs=jobs, listed={inbox, inbox / "deep", out})

    def tick(_: float) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 20:
            late.write_bytes(b"1")
        if ticks == 21:
            late.write_bytes(b"22")
        assert ticks < 100

    monkeypatch.setattr(watching, "TRUST", 1000)
    monkeypatch.setattr(watching.time, "sleep", tick)
    found = arrivals(look)
    assert [job.source for job in next(found).jobs] == [late]
    assert (ticks, looks) == (22, [0, 1, 20])  # a second time, as the folders were not known before the first
    out.mkdir()
    (out / "a.png").touch()
    with pytest.raises(AssertionError):
        next(found)
    assert looks == [0, 1, 20, 23]  # the folder of the outputs, too


def test_folders_without_a_time_of_change_are_looked_into_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look() -> Plan:
        nonlocal looks
        looks += 1
        return Plan(problems=[Problem("late")] if looks == 3 else [])

    monkeypatch.setattr(watching, "INTERVAL", 0)
    assert next(arrivals(look)).problems == [Problem("late")]


def test_only_folders_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    refused = CliRunner().invoke(app, ["cut", "a.png", "--watch"])
    assert refused.exit_code == 2
    assert "--watch waits for pictures to arrive in folders: name folders only" in refused.stderr
