"""What `decoupe bench` measures, `decoupe models` shows."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

import decoupe
from decoupe.weights.timings import Timing, timings, timings_file, with_timing
from inference.tiny import write_onnx

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
Run = Callable[..., Result]


def test_what_was_measured_is_shown_and_what_was_not_is_not(run: Run) -> None:
    assert all(row.seconds is None for row in decoupe.catalogue())
    done = run("bench", "--json", "--repeats", "1")
    assert done.exit_code == 0
    (measured,) = json.loads(done.stdout)  # the embedded model alone is here
    jsonschema.validate([measured], json.loads((SCHEMAS / "bench.json").read_text()))
    assert (measured["name"], measured["device"], measured["machine"]) == ("pocket", "cpu", platform.node())
    rows = {row.name: row.seconds for row in decoupe.catalogue()}
    assert rows.pop("pocket") == measured["seconds"] > 0
    assert set(rows.values()) == {None}
    (line,) = [line for line in run("models").stdout.splitlines() if line.startswith("pocket")]
    assert f" {measured['seconds']:.2f} " in line
    assert f"seconds   {measured['seconds']:.2f} here" in run("models", "pocket").stdout
    assert "not measured here: decoupe bench birefnet" in run("models", "birefnet").stdout


def test_files_can_be_measured_and_the_last_time_counts(run: Run) -> None:
    model = str(write_onnx(Path("tiny.onnx")))
    for _ in range(2):
        assert model in run("bench", model, "--repeats", "2").stdout
    assert list(timings()) == [model]


@pytest.mark.parametrize("options", [["--device", "cpu"], ["--precision", "float32"]])
def test_only_what_was_measured_without_options_is_remembered(run: Run, options: list[str]) -> None:
    model = str(write_onnx(Path("tiny.onnx")))
    assert model in run("bench", model, "--repeats", "1", *options).stdout
    assert timings() == {}


def test_what_cannot_be_opened_is_told_and_the_rest_is_done(run: Run) -> None:
    Path("broken.onnx").write_bytes(b"no model")
    done = run("bench", "broken.onnx", "pocket", "--repeats", "1")
    assert done.exit_code == 1
    assert "broken.onnx" in done.stderr
    assert done.stdout.startswith("pocket ")
    alone = run("bench", "broken.onnx")
    assert (alone.exit_code, alone.stdout) == (2, "")
    device = run("bench", "pocket", "--device", "cude")
    assert (device.exit_code, device.stdout) == (2, "")
    assert "does not run on device 'cude'" in device.stderr
    unknown = run("bench", "pocket", "birefnt")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert "unknown model 'birefnt'; did you mean 'birefnet'?" in unknown.stderr


def test_other_machines_and_spoiled_files_count_as_nothing(run: Run) -> None:
    timings_file().parent.mkdir()
    timings_file().write_bytes(with_timing(Timing("pocket", 9.0, "cuda", "float16", "another")))
    assert timings() == {}
    ours = Timing("pocket", 0.1, "cpu", "float32", platform.node())
    timings_file().write_bytes(with_timing(ours))
    assert timings() == {"pocket": ours}
    assert "another" in timings_file().read_text()
    for spoiled in ("{", "[1]", '[{"name": "pocket"}]', "null"):
        timings_file().write_text(spoiled)
        assert timings() == {}
        assert run("models").exit_code == 0


def test_a_cache_that_cannot_be_written_is_told(run: Run) -> None:
    Path("cache").write_text("a file")
    done = run("bench", "pocket", "--repeats", "1")
    assert done.exit_code == 0
    assert re.search(r"^pocket +[0-9.]+ s  cpu in float32$", done.stdout, re.MULTILINE)
    told = done.stderr.replace(str(Path.cwd()) + "/", "")
    assert "not remembered for `decoupe models`: cache cannot be written (File exists)" in told
