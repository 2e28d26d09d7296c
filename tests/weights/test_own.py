"""Models with names of the user's own, in a configuration file."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import decoupe
from decoupe import ConfigError, UnknownModelError
from decoupe.cli import app
from decoupe.commands.options import known_models
from decoupe.weights import located
from decoupe.weights.own import config_file, own_models, resolved
from inference.tiny import write_onnx

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one model that is there, one beside the file, and one that is not there."""
    write_onnx(tmp_path / "tiny.onnx")
    file = tmp_path / "config.ini"
    file.write_text(f"[models]\nMugs = {tmp_path / 'tiny.onnx'}\nbeside = tiny.onnx\ngone = no.onnx\n")
    monkeypatch.setenv("DECOUPE_CONFIG", str(file))
    return file


def test_a_name_stands_for_its_file(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.full((64, 64, 3), 128, np.uint8)
    expected = decoupe.load(tmp_path / "tiny.onnx")(image).alpha
    for name in ("Mugs", "beside"):
        assert np.array_equal(decoupe.load(name)(image).alpha, expected)
    Image.fromarray(image).save("photo.png")
    assert CliRunner().invoke(app, ["cut", "photo.png", "-m", "beside"]).exit_code == 0
    listed = CliRunner().invoke(app, ["models"]).stdout.splitlines()
    assert f"Mugs  your own: {tmp_path / 'tiny.onnx'}" in listed
    assert f"gone  your own: {tmp_path / 'no.onnx'}, which does not exist" in listed


def test_models_and_get_know_them(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    file, gone = tmp_path / "tiny.onnx", tmp_path / "no.onnx"
    told = run("models", "Mugs").stdout
    assert told.startswith("name      Mugs\n")
    assert f"here      {file}\n" in told
    assert f"here      no: {gone} does not exist\n" in run("models", "gone").stdout
    for name, path, here in (("Mugs", file, str(file)), ("gone", gone, None)):
        answer = json.loads(run("models", name, "--json").stdout)
        jsonschema.validate(answer, json.loads((SCHEMAS / "model.json").read_text()))
        assert answer == {"name": name, "file": str(path), "path": here}
    listed = json.loads(run("models", "--json").stdout)
    jsonschema.validate(listed, json.loads((SCHEMAS / "models.json").read_text()))
    beside = {"name": "beside", "file": str(file), "path": str(file)}
    mugs, lost = beside | {"name": "Mugs"}, {"name": "gone", "file": str(gone), "path": None}
    assert [row for row in listed if "file" in row] == [mugs, beside, lost]
    assert [row["name"] for row in listed[-3:]] == ["Mugs", "beside", "gone"]
    for option in (["--commercial"], ["--for", "hair"]):
        assert not any("file" in row for row in json.loads(run("models", "--json", *option).stdout))
    assert run("get", "Mugs").stdout == f"{file}\n"
    refused = run("get", "gone")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert f"gone is your own model, and {gone} does not exist: check {config}" in refused.stderr


def test_an_editors_byte_order_mark_is_no_text(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert located("Mugs") == tmp_path / "tiny.onnx"


def test_a_mistyped_name_of_ones_own_is_suggested(config: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"unknown model 'Mgs'; did you mean 'Mugs'\?"):
        decoupe.load("Mgs")


def test_completion_knows_them_and_says_nothing_of_a_broken_file(config: Path) -> None:
    assert known_models("M") == ["Mugs"]
    config.write_text("broken")
    assert known_models("M") == []
    assert known_models("toon") == ["toonout"]


def test_other_names_are_what_they_were(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolved(None) is None
    assert resolved("birefnet") == "birefnet"
    for asked in (decoupe.load, located):
        with pytest.raises(UnknownModelError, match=r"gone is your own model, and .*no\.onnx does not exist"):
            asked("gone")
    with pytest.raises(UnknownModelError, match="unknown model 'mugz'"):
        decoupe.load("mugz")
    monkeypatch.chdir(tmp_path)
    Path("Mugs").mkdir()
    assert resolved("Mugs") == tmp_path / "tiny.onnx"  # a folder of photographs is no model
    Path("Mugs", "model.safetensors").touch()
    assert resolved("Mugs") == "Mugs"
    Path("beside").write_bytes(b"a file of that name goes first")
    assert resolved("beside") == "beside"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[models]\nbirefnet = a.onnx\n", "calls a model 'birefnet', as the catalogue does"),
        ("mugs = a.onnx\n", r"is not understood \(File contains no section headers.\): expected \[models\]"),
        ("[models]\na = 1\na = 2\n", "is not understood"),
        ("[models]\nmugs = ~nobody-of-that-name/a.onnx\n", "has a ~ that cannot be followed .*whole path"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(config: Path, text: str, line: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError, match=line) as raised:
        decoupe.load("mugs")
    assert len(str(raised.value).splitlines()) == 1


def test_no_file_is_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECOUPE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_file() == tmp_path / "decoupe" / "config.ini"
    assert own_models() == {}
    monkeypatch.setenv("DECOUPE_CONFIG", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be read"):
        own_models()
    (tmp_path / "other.ini").write_text("[other]\nkey = value\n")
    monkeypatch.setenv("DECOUPE_CONFIG", str(tmp_path / "other.ini"))
    assert own_models() == {}
