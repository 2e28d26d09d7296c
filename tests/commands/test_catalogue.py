"""What `decoupe models` and `decoupe get` say of names, files, folders and hub ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

from inference.tiny import write_onnx
from weights.fake_hub import FakeHub

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"
Run = Callable[..., Result]


@pytest.mark.parametrize(
    "command", ["get runs/finetune", "models runs/finetune", "export runs/finetune out.onnx"]
)
def test_a_folder_is_never_a_hub_id(run: Run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    Path("runs/finetune").mkdir(parents=True)
    Path("runs/finetune/best.safetensors").touch()
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        told = run(*command.split())
    assert hub.requests == []
    assert told.exit_code == 2
    assert told.stderr.startswith("decoupe: runs/finetune is a folder: name the .onnx, .safetensors or")


def test_a_file_is_told_as_one(run: Run) -> None:
    write_onnx(Path("tiny.onnx"))
    got = run("get", "tiny.onnx")
    assert (got.exit_code, got.stdout) == (0, "tiny.onnx\n")
    assert got.stderr == "decoupe: tiny.onnx is here already: give it where a model's name goes\n"
    assert run("get", "tiny.onnx", "-q").stderr == ""
    assert "for       a file: give it where a model's name goes\n" in run("models", "tiny.onnx").stdout
    answer = json.loads(run("models", "tiny.onnx", "--json").stdout)
    jsonschema.validate(answer, json.loads((SCHEMAS / "model.json").read_text()))
    assert answer == {"name": "tiny.onnx", "file": "tiny.onnx", "path": "tiny.onnx"}
    for command in ("get", "models"):
        absent = run(command, "ABSENT.ONNX")
        assert absent.exit_code == 2
        assert absent.stderr == "decoupe: model file ABSENT.ONNX does not exist: check the path\n"


def test_of_a_repository_outside_the_catalogue_nothing_is_made_up(run: Run) -> None:
    told = run("models", "me/unlisted").stdout
    facts = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in told.splitlines()}
    assert {facts[key] for key in ("family", "size", "pictures", "licence")} == {"unknown"}
    assert facts["file"] == "model.safetensors"
    answer = json.loads(run("models", "me/unlisted", "--json").stdout)
    jsonschema.validate(answer, json.loads((SCHEMAS / "model.json").read_text()))
    assert (answer["commercial"], answer["preprocessing"], answer["megabytes"]) == (None, None, None)


def test_a_locale_without_an_encoding(tmp_path: Path) -> None:
    """There Python lets file names pass, and raised at the first ×."""
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "decoupe", "models"]
    environment = {**plain, "DECOUPE_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1024" in done.stdout


@pytest.mark.parametrize("encoding", ["cp932", "cp437", "cp1251"])
def test_older_encodings_of_pipes(tmp_path: Path, encoding: str) -> None:
    code = "import sys; from decoupe.cli import main; sys.argv = ['decoupe', 'models', *{}]; main()"
    for name, mark in (("['pocket']", "384"), ("[]", "640")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(name)],
            env={**os.environ, "PYTHONIOENCODING": encoding, "DECOUPE_CACHE": str(tmp_path)},
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert mark in done.stdout.decode(encoding)
