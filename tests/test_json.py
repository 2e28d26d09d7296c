"""What programs read: every JSON answer against its schema in ``docs/schemas``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import Result
from huggingface_hub import hf_hub_download
from PIL import Image
from typer.testing import CliRunner

from decoupe.cli import app
from decoupe.weights.download import downloaded_marker, marker_of
from decoupe.weights.registry import CATALOGUE
from drawn import draw_pair
from inference.queries import see
from inference.tiny import write_onnx
from weights.fake_hub import FakeHub

SCHEMAS = Path(__file__).parents[1] / "docs/schemas"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """decoupe in a folder with a red square, one file that is no picture, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path / "cache"))
    see(monkeypatch, [np.ones((64, 96), bool)], [0], matte_model=write_onnx(tmp_path / "tiny.onnx"))
    image = np.full((64, 96, 3), 128, np.uint8)
    image[8:40, 8:40] = (255, 0, 0)
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save("photos/square.png")
    Path("photos/broken.png").write_bytes(b"no picture")

    def decoupe(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return decoupe


def valid(text: str, schema: str) -> Any:
    answer = json.loads(text)
    jsonschema.validate(answer, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    return answer


@pytest.mark.parametrize("command", ["cut", "segment"])
def test_a_line_for_each_picture_printed_and_logged(run: Run, command: str) -> None:
    done = run(command, "photos", "-o", "out/", "--json", "--log", "log.jsonl")
    assert done.exit_code == 1
    lines = [valid(line, command) for line in done.stdout.splitlines()]
    assert [line["source"] for line in lines] == ["photos/broken.png", "photos/square.png"]
    assert "is not a picture" in lines[0]["error"]
    assert lines[1]["target"] == "out/square.png"
    assert (lines[1]["width"], lines[1]["height"]) == (96, 64)
    assert Path("log.jsonl").read_text() == done.stdout
    assert run(command, "photos", "-o", "out/", "--log", "log.jsonl").stdout == ""
    assert len(Path("log.jsonl").read_text().splitlines()) == 3  # the picture that failed was tried again


def test_a_matte_is_told_in_numbers(run: Run) -> None:
    line = valid(run("cut", "photos/square.png", "--json", "-q").stdout, "cut")
    assert line["target"] == "photos/square.cut.png"
    assert np.abs(np.array(line["box"]) - (8, 8, 40, 40)).max() <= 6  # with its soft edge
    assert 0.1 < line["subject"] < 0.5


def test_inputs_that_are_not_there_are_told_too(run: Run) -> None:
    done = run("cut", "photos/square.png", "gone.png", "-o", "out/", "--json")
    assert done.exit_code == 1
    line = valid(done.stdout.splitlines()[0], "cut")
    assert (line["source"], line["error"][:23]) == ("gone.png", "gone.png does not exist")


@pytest.mark.parametrize("command", ["cut", "segment"])
def test_what_is_refused_before_it_is_begun_names_its_picture(run: Run, command: str) -> None:
    Path("more/photos").mkdir(parents=True)
    Path("photos/broken.png").rename("more/photos/square.png")
    Path("empty").mkdir()
    done = run(command, "photos", "more/photos", "empty", "-o", "out/", "--json")
    assert done.exit_code == 1
    lines = [valid(line, command) for line in done.stdout.splitlines()]
    assert [line.get("source") for line in lines] == ["more/photos/square.png", None, "photos/square.png"]
    assert lines[1]["error"] == "empty holds no pictures: name another folder, or the files"
    Path("a.png").write_bytes(b"stands")
    again = run(command, "-", "-o", "a.png", "--json")
    assert valid(again.stdout, command)["source"] == "-"
    if command == "segment":
        Path("b.json").write_text("mine")
        again = run(command, "photos/square.png", "-o", "b.png", "--json")
        assert valid(again.stdout, command)["source"] == "photos/square.png"


@pytest.mark.parametrize(
    ("command", "source", "out", "log"),
    [
        ("cut", "photos/square.png", "a.png", "a.png"),
        ("cut", "photos/square.png", "a.png", "photos/../a.png"),
        ("cut", "-", "a.png", "a.png"),
        ("cut", "photos", "out/", "out/square.png"),
        ("segment", "photos/square.png", "a.png", "a.json"),
        ("segment", "photos/square.png", "a.json", "a.json"),
        ("segment", "-", "a.png", "a.json"),
        ("segment", "photos", "out/", "out/square.json"),
    ],
)
def test_the_log_is_no_output(run: Run, command: str, source: str, out: str, log: str) -> None:
    Path("out").mkdir()
    refused = run(command, source, "-o", out, "--log", log)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert line.endswith("is an output and the log: name another --log")
    assert not Path(log).exists()


@pytest.mark.parametrize(
    "text", ['{"mine": 1}\n', "{\n", "[]\n", '"source"\n', "{" * 99999, "\n", "{}\n", "\xff\n"]
)
def test_a_log_is_not_added_to_what_is_none(run: Run, text: str) -> None:
    Path("user.json").write_text(text, encoding="latin-1")
    refused = run("cut", "photos/square.png", "--log", "user.json")
    assert refused.exit_code == 2
    assert "user.json is no log of decoupe, and nothing is added to it: name another log" in refused.stderr
    assert Path("user.json").read_text(encoding="latin-1") == text


def test_json_and_a_picture_cannot_both_go_to_standard_output(run: Run) -> None:
    refused = run("cut", "photos/square.png", "-o", "-", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--json is printed where the picture would go: name an output with -o" in refused.stderr


def test_a_log_that_cannot_be_written_is_told_before_the_first_picture(run: Run) -> None:
    before = Path("photos/square.png").read_bytes()
    refused = run("cut", "photos/square.png", "--log", "photos/square.png")
    assert refused.exit_code == 2
    assert (
        "photos/square.png is no log of decoupe, and nothing is added to it: name another log"
        in refused.stderr
    )
    assert Path("photos/square.png").read_bytes() == before
    refused = run("cut", "photos/square.png", "--log", "no/such/folder.jsonl")
    assert refused.exit_code == 2
    assert (
        "no/such/folder.jsonl cannot be written (No such file or directory): name another log"
        in refused.stderr
    )
    assert not Path("photos/square.cut.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands in for a full disk")
def test_a_log_on_a_full_disk_names_the_log(run: Run) -> None:
    done = run("cut", "photos/square.png", "--log", "/dev/full")
    assert done.exit_code == 1  # the picture is cut
    told = "decoupe: /dev/full cannot be written (No space left on device): name another log"
    assert told in done.stderr.splitlines()


def test_the_catalogue(run: Run) -> None:
    rows = valid(run("models", "--json").stdout, "models")
    assert rows[0]["name"] == "pocket"
    commercial = valid(run("models", "--json", "--commercial").stdout, "models")
    assert commercial == [row for row in rows if row["commercial"]]
    hair = valid(run("models", "--json", "--for", "hair").stdout, "models")
    assert hair[0]["name"] == "birefnet-matting"
    for name in ("pocket", "birefnet", "someone/some-model"):
        assert valid(run("models", name, "--json").stdout, "model")["name"] == name


def test_the_doctor(run: Run) -> None:
    checks = valid(run("doctor", "--json").stdout, "doctor")
    assert {"decoupe", "Python", "cache"} <= {check["name"] for check in checks}


def test_the_cache_is_listed_and_pruned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert valid(run("cache", "list", "--json").stdout, "cache") == []
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["me/tiny/model.safetensors"] = b"weights" * 1000
        hub.files["me/other/model.safetensors"] = b"weights" * 2000
        kept, gone = (
            Path(valid(run("get", name, "--json").stdout, "get")["path"]) for name in ("me/other", "me/tiny")
        )
    entries = valid(run("cache", "list", "--json").stdout, "cache")
    assert [entry["name"] for entry in entries] == ["me/other", "me/tiny"]
    assert "me/tiny" in run("cache", "list").stdout
    assert "nothing was deleted" in run("cache", "prune", "me/tiny", "--dry-run").stderr
    assert gone.exists()
    (went,) = valid(run("cache", "prune", "me/tiny", "--json").stdout, "cache")
    assert went["name"] == "me/tiny"
    assert (gone.exists(), kept.exists()) == (False, True)
    assert "there is nothing to delete" in run("cache", "prune").stderr
    assert valid(run("cache", "prune", "--json").stdout, "cache") == []
    unknown = run("cache", "prune", "me/othr")
    assert unknown.exit_code == 2
    assert "unknown cached model 'me/othr'; did you mean 'me/other'?" in unknown.stderr


def snapshot(cache: Path, repo: str, revision: str, *files: str, ours: bool = True) -> Path:
    """A revision in a hub's cache, its files linked to blobs, downloaded by decoupe or not."""
    repository = cache / f"models--{repo.replace('/', '--')}"
    folder = repository / "snapshots" / revision
    for path in (folder, repository / "blobs"):
        path.mkdir(parents=True, exist_ok=True)
    for name in files:
        content = f"{repo} {revision} {name}".encode() * 100
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / name).symlink_to(blob)
        if ours:
            marker = downloaded_marker(repository, revision, name)
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
    return folder


def test_what_another_program_shares_or_uses_stays(run: Run, tmp_path: Path) -> None:
    """The hub's cache is every program's, and revisions share the blobs of files that are equal."""
    cache, repo = tmp_path / "cache", "ZhengPeng7/BiRefNet"
    now = snapshot(cache, repo, CATALOGUE["birefnet"].revision, "model.safetensors")
    blob = (now / "model.safetensors").resolve()
    marker_of(blob).write_text("{}")
    theirs = snapshot(cache, repo, "f" * 40, "birefnet.py", ours=False)
    (theirs / "model.safetensors").symlink_to(blob)
    refs = theirs.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("f" * 40)
    (entry,) = valid(run("cache", "list", "--json").stdout, "cache")
    assert (entry["revision"], entry["current"]) == (CATALOGUE["birefnet"].revision, True)
    assert "there is nothing to delete" in run("cache", "prune").stderr
    # One that decoupe downloaded once, and another program has a name for; another with its files beside.
    named = snapshot(cache, repo, "a" * 40, "model.safetensors")
    (refs / "v1").write_text("a" * 40)
    both = snapshot(cache, repo, "b" * 40, "model.safetensors")
    snapshot(cache, repo, "b" * 40, "config.json", ours=False)
    assert "not used any more" not in run("cache", "list").stdout
    assert "there is nothing to delete" in run("cache", "prune").stderr
    assert run("cache", "prune", "birefnet").exit_code == 0
    assert not any(path.exists() for path in (now, named, refs / "v1", both / "model.safetensors"))
    assert (both / "config.json").exists()
    assert (theirs / "model.safetensors").exists()
    assert (theirs / "birefnet.py").exists()
    assert (refs / "main").exists()


def test_what_another_program_downloaded_is_used_and_not_listed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["me/tiny/model.safetensors"] = b"weights" * 1000
        hf_hub_download("me/tiny", "model.safetensors", cache_dir=tmp_path / "cache", endpoint=hub.url)
        assert run("get", "me/tiny").exit_code == 0
    assert valid(run("cache", "list", "--json").stdout, "cache") == []


def test_revisions_that_the_catalogue_no_longer_names_go(run: Run, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    now = snapshot(cache, "ZhengPeng7/BiRefNet", CATALOGUE["birefnet"].revision, "model.safetensors")
    before = snapshot(cache, "ZhengPeng7/BiRefNet", "a" * 40, "model.safetensors")
    foreign = snapshot(cache, "someone/else", "b" * 40, "model.bin", ours=False)
    others = snapshot(cache, "ZhengPeng7/BiRefNet", "c" * 40, "model.safetensors", "birefnet.py", ours=False)
    assert "not used any more" in run("cache", "list").stdout
    pruned = run("cache", "prune")
    assert pruned.stdout == "birefnet aaaaaaaa\n"
    assert not before.exists()
    assert all((folder / "model.safetensors").exists() for folder in (now, others))
    assert (foreign / "model.bin").exists()
    assert run("cache", "prune", "birefnet").stdout.startswith("birefnet ")
    assert (others / "birefnet.py").exists()  # another program's, though of the same repository
    assert not now.exists()


def test_a_cache_without_links_is_pruned_as_well(run: Run, tmp_path: Path) -> None:
    """As on Windows, where what was verified is remembered beside the file itself."""
    cache, repo = tmp_path / "cache", "ZhengPeng7/BiRefNet"
    now, before = (CATALOGUE["birefnet"].revision, "a" * 40)
    for revision in (now, before):
        file = snapshot(cache, repo, revision, "model.safetensors") / "model.safetensors"
        file.resolve().replace(file)
        marker_of(file).write_text("{}")
    repository = file.parents[2]
    assert run("cache", "prune").stdout == "birefnet aaaaaaaa\n"
    assert [path.name for path in (repository / "snapshots").iterdir()] == [now]
    assert run("cache", "prune", "birefnet").exit_code == 0
    assert not repository.exists()


def test_models_of_one_repository_are_listed_and_pruned_one_by_one(run: Run, tmp_path: Path) -> None:
    row, fast, nightly = (CATALOGUE[f"inspyrenet{kind}"] for kind in ("", "-fast", "-nightly"))
    assert row.repo == fast.repo == nightly.repo
    assert row.repo is not None
    folder = snapshot(tmp_path / "cache", row.repo, "d" * 40, row.file, fast.file)
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (refs / row.revision).write_text("d" * 40)
    entries = valid(run("cache", "list", "--json").stdout, "cache")
    assert [entry["name"] for entry in entries] == ["inspyrenet", "inspyrenet-fast"]
    assert all(entry["current"] for entry in entries)
    assert run("cache", "prune", "inspyrenet-nightly").exit_code == 2
    blob = (folder / row.file).resolve()
    assert run("cache", "prune", "inspyrenet").exit_code == 0
    assert not blob.exists()
    assert (folder / fast.file).exists()
    entries = valid(run("cache", "list", "--json").stdout, "cache")
    assert [entry["name"] for entry in entries] == ["inspyrenet-fast"]
    run("cache", "prune", "inspyrenet-fast")
    assert valid(run("cache", "list", "--json").stdout, "cache") == []


TRAINED = [
    *("--set", "steps=1", "--set", "batch_size=4", "--set", "stages=[{size: [32, 32]}]", "--set", "sets=[]"),
    *("--set", "model.block_width=16", "--set", "model.context_width=16"),
    *("--set", "backbone=null", "--set", "frozen=[]", "--device", "cpu", "--workers", "0"),
]


@pytest.fixture
def discs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """decoupe in a folder with a set of 12 pairs, with every model as it is."""
    for row in range(12):
        draw_pair(tmp_path / "discs", f"disc{row:02}", seed=row)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_a_run_and_the_calibration_of_its_model(discs: Run) -> None:
    run = valid(discs("train", "pocket", "--data", "discs", *TRAINED, "--json", "-q").stdout, "train")
    assert (run["folder"], run["ended"], run["step"], run["steps"]) == ("runs/pocket", "finished", 1, 1)
    assert run["score"] > 0
    assert Path(run["weights"]).is_file()
    command = ["calibrate", "runs/pocket/recipe.yaml", run["weights"], "sure.safetensors", "--data", "discs"]
    found = valid(discs(*command, "--most", "1", "--json").stdout, "calibrate")
    assert (found["source"], found["target"]) == (run["weights"], "sure.safetensors")
    assert Path("sure.safetensors").is_file()
    assert "sure.safetensors exists: add --overwrite" in discs(*command).stderr
    assert (
        "disc.jpg ends in .jpg, expected .safetensors" in discs(*command[:3], "disc.jpg", *command[4:]).stderr
    )


def test_runs_that_stop_or_fail(discs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", "pocket", "--data", "discs", *TRAINED, "--json", "-q"]
    run = valid(discs(*command, "--set", "steps=3", "--minutes", "0").stdout, "train")
    assert (run["ended"], run["step"], run["steps"]) == ("interrupted", 1, 3)
    import torch

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    failed = discs(*command, "-o", "other")
    assert failed.exit_code == 1
    assert "No space left on device" in valid(failed.stdout, "train")["error"]


def test_what_is_wrong_with_training_data(discs: Run) -> None:
    assert valid(discs("data", "check", "discs", "--workers", "1", "--json").stdout, "check")["ready"]
    Path("discs/gt/disc04.png").write_bytes(b"nothing")
    wrong = discs("data", "check", "discs", "--workers", "1", "--json")
    assert wrong.exit_code == 1
    (one,) = valid(wrong.stdout, "check")["sets"]
    assert (one["pictures"], one["wrong"]) == (12, {"cannot be read": ["disc04.png"]})


def test_scores_and_their_comparison(discs: Run) -> None:
    for name, rolled in (("near", 2), ("far", 9)):
        Path(name).mkdir()
        for path in Path("discs/gt").iterdir():
            Image.fromarray(np.roll(np.asarray(Image.open(path)), rolled, axis=1)).save(Path(name, path.name))
        command = ["eval", "--pred", name, "--gt", "discs", "--measures", "S,MAE", "-o", f"{name}-report"]
        assert valid(discs(*command, "--table", "json", "-q").stdout, "eval")["pictures"] == 12
    for line in discs("eval", "join", "near-report", "far-report", "--table", "json").stdout.splitlines():
        assert valid(line, "eval")["pictures"] == 12
    found = valid(discs("eval", "compare", "near-report", "far-report", "--json").stdout, "compare")
    assert found["pictures"] == 12
    assert found["measures"]["MAE"]["verdict"] == "A better"
