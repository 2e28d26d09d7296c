"""``decoupe train``, ``decoupe data`` and ``decoupe export`` as people call them."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import decoupe
from decoupe.backbones.nano import Nano
from decoupe.cli import app
from decoupe.errors import DeviceError, InputError
from decoupe.evaluation.pictures import contact_sheet
from decoupe.export import parity
from decoupe.training import loop
from decoupe.training.check import _parts, check
from decoupe.training.recipes import RECIPES, read_recipe
from drawn import draw_pair

Run = Callable[..., Result]

TINY = [
    *("--set", "batch_size=4", "--set", "stages=[{size: [32, 32]}]", "--set", "sets=[]"),
    *("--set", "model.backbone=nano", "--set", "model.block_width=16", "--set", "model.context_width=16"),
    *("--set", "backbone=null", "--set", "frozen=[]"),
    *("--device", "cpu", "--workers", "0"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a set of 12 pairs, to work in."""
    for row in range(12):
        draw_pair(tmp_path / "discs", f"disc{row:02}", seed=row)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here: Path) -> Run:
    def decoupe(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return decoupe


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder of a few layers, and small samples, for tests that are about neither."""
    monkeypatch.setattr(Nano, "DEPTHS", (1, 0, 0, 0))
    monkeypatch.setattr(loop, "contact_sheet", functools.partial(contact_sheet, side=64))


def test_recipes_are_listed_and_printed_as_files_to_change(run: Run) -> None:
    listed = run("train", "--list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(RECIPES)
    printed = run("train", "birefnet-dis", "--set", "batch_size=16", "--print")
    Path("mine.yaml").write_text(printed.stdout)
    assert read_recipe("mine.yaml") == read_recipe("birefnet-dis", ["batch_size=16"])
    assert run("train", "mine.yaml", "--print").stdout == printed.stdout


@pytest.mark.usefixtures("shallow")
def test_from_pairs_to_a_model_that_cuts_and_is_exported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "SHAPES", ((2, 2, 3),))
    bare = [
        f"model.{part}" for part in ("inward=none", "outward=false", "side_outputs=false", "squeeze=none")
    ]
    settings = (word for setting in (*bare, "steps=3") for word in ("--set", setting))
    trained = run("train", "pocket", "--data", "discs", *settings, *TINY)
    assert trained.exit_code == 0, trained.output
    best = Path("runs/pocket/best.safetensors")
    assert trained.stdout.split() == [str(best)]
    assert "runs/pocket: step 0 of 3, 11 pictures an epoch, 1 held out, 1 × cpu" in trained.stderr
    assert "done at step 3: decoupe cut -m runs/pocket/best.safetensors photo.jpg" in trained.stderr
    assert {"recipe.yaml", "state", "last.safetensors", "log.jsonl", "samples", "tensorboard"} <= {
        path.name for path in best.parent.iterdir()
    }
    assert decoupe.load(best)("discs/im/disc00.jpg").alpha.shape == (48, 64)
    assert run("cut", "-m", str(best), "discs/im/disc00.jpg", "-o", "cut.png").exit_code == 0
    exported = run("export", str(best), "disc.onnx", "--half")
    assert exported.exit_code == 0, exported.output
    assert exported.stdout.split() == ["disc.onnx"]
    assert "differs from PyTorch in float64 by" in exported.stderr
    with_torch = decoupe.load(best, device="cpu")("discs/im/disc01.jpg").alpha
    assert np.ptp(with_torch) > 0
    assert np.abs(decoupe.load("disc.onnx")("discs/im/disc01.jpg").alpha - with_torch).max() < 0.02
    assert Path("disc.onnx").stat().st_size < 0.7 * best.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "which recipe? decoupe train --list names them"),
        (["--list", "--json"], "--json tells how a run ended: leave it out with --list and --print"),
        (["pokcet", "--data", "discs"], "unknown recipe 'pokcet'; did you mean 'pocket'?"),
        (["none.yaml", "--data", "discs"], "cannot read the recipe none.yaml: No such file or directory"),
        (["pocket"], "training needs data: --data DIR, a folder with im/ and gt/"),
        (
            ["pocket", "--data", "discs", "-o", "discs/im/disc00.jpg"],
            "disc00.jpg is a file: name a folder for",
        ),
        (
            ["pocket", "--data", "nothing"],
            "nothing does not exist: expected a folder of pairs, or a .tar",
        ),
        (["pocket", "--data", "."], "holds no matte set"),
        (["pocket", "--data", "discs", "--data", "discs"], "discs is given twice: give it once"),
        (
            ["pocket", "--data", "discs", "--set", "bach_size=2"],
            "'bach_size'; did you mean 'batch_size'?",
        ),
        (
            ["pocket", "--data", "discs", "--set", "batch_size=two"],
            "is 'two', expected a whole number",
        ),
        (["pocket", "--data", "discs", "--set", "ema"], "expected KEY=VALUE"),
        (
            ["pocket", "--data", "discs", "--backgrounds", "discs", "--set", "augmentation.replace=0.5"],
            "holds no pictures",
        ),
        (
            ["pocket", "--data", "discs", "--backgrounds", "discs/im"],
            "the recipe sets no subject on discs/im: --set augmentation.replace=0.3 does on three of ten",
        ),
        (
            ["maskformer-swin-tiny-ade", "--data", "discs", "--backgrounds", "discs/im"],
            "the recipe sets no subject on discs/im: backgrounds are for mattes",
        ),
        (
            ["finetune", "--from", "pocket", "--data", "discs", "--set", "backbone=x.pth"],
            "start=pocket fills the backbone as well as the rest: leave it or backbone out",
        ),
        (
            ["finetune", "--from", "birefnet", "--data", "discs", "--val", "nothing"],
            "nothing does not exist: expected a folder of pairs",
        ),
        # Nobody serves it: were it asked for, that would be told.
        (["finetune", "--from", "birefnet", "--data", "discs/empty"], "discs/empty holds no matte set"),
        (
            ["pocket", "--data", "discs", "--from", "nothing.safetensors"],
            "nothing.safetensors does not exist",
        ),
        (["maskformer-swin-tiny-ade", "--data", "discs", "--set", "backbone=null"], "--set model.classes=2"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(run: Run, arguments: list[str], line: str) -> None:
    Path("discs/empty").mkdir()
    if arguments == ["pocket", "--data", "."]:
        Path("discs").rename(".discs")
    ended = run("train", *arguments, "--device", "cpu")
    assert ended.exit_code == 2
    assert line in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.usefixtures("shallow")
def test_a_checkpoint_of_another_family_is_refused(run: Run) -> None:
    assert run("train", "pocket", "--data", "discs", "--set", "steps=1", *TINY, "-q").exit_code == 0
    other = run(
        "train", "inspyrenet-dis", "--data", "discs", "--from", "runs/pocket/last.safetensors", *TINY[-4:]
    )
    assert other.exit_code == 2
    assert "holds a model of the family 'birefnet', the recipe trains 'inspyrenet'" in other.stderr


@pytest.mark.usefixtures("shallow")
def test_finetuning_takes_everything_from_its_checkpoint(run: Run) -> None:
    assert run("train", "pocket", "--data", "discs", "--set", "steps=2", *TINY, "-q").exit_code == 0
    tuned = run(
        *(
            "train",
            "finetune",
            "--from",
            "runs/pocket/best.safetensors",
            "--data",
            "discs",
            "--set",
            "steps=2",
        ),
        *("--set", "stages=[{size: [32, 32]}]", "--device", "cpu", "--workers", "0", "-o", "tuned", "-q"),
    )
    assert tuned.exit_code == 0, tuned.output
    assert tuned.stderr == ""
    first, second = (
        decoupe.load(path) for path in ("runs/pocket/best.safetensors", "tuned/best.safetensors")
    )
    assert first.preprocessing == second.preprocessing


def test_a_full_disk_is_one_line_and_exit_status_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    ended = run("train", "pocket", "--data", "discs", "--set", "steps=1", *TINY, "-q")
    assert ended.exit_code == 1
    assert "cannot save step 1 in runs/pocket: No space left on device" in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
def test_an_interrupt_of_the_whole_group_loses_nothing(run: Run) -> None:
    """Ctrl-C reaches the processes that prepare samples as well; a second command ends the run."""
    command = ["train", "pocket", "--data", "discs", "--out", "run", *TINY]
    of_a_group = [sys.executable, "-m", "decoupe", *command[:-1], "1"]  # worker
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    process = subprocess.Popen(
        [*of_a_group, "--set", "steps=100000", "--set", "validate_every=4"],
        start_new_session=True,
        **options,
    )
    samples = Path("run/samples")
    for _ in range(600):
        if samples.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "saved in run: the same command goes on from there" in stderr
    step = int(stderr.rpartition("stopped at step ")[2].split()[0])
    assert json.loads(Path("run/state/progress.json").read_text())["step"] == step > 0
    again = run(*command, "--set", f"steps={step + 2}")
    assert again.exit_code == 0, again.stderr
    assert f"step {step} of {step + 2}" in again.stderr


def test_a_preview_is_a_sheet_of_samples(run: Run) -> None:
    shown = run("data", "preview", "discs", "--recipe", "pocket", "--count", "6", "-o", "sheet.png")
    assert (shown.exit_code, shown.stdout.split()) == (0, ["sheet.png"])
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (4 + 8 * 196, 4 + 2 * 196)
        assert len(sheet.getcolors(sheet.width * sheet.height) or []) > 1000
    segments = run("data", "preview", "discs", "--recipe", "maskformer-swin-tiny-ade", "--count", "2")
    assert segments.exit_code == 0
    assert Path("preview.png").exists()
    grounds = ("--backgrounds", "discs/im", "--set", "augmentation.replace=1")
    again = ("data", "preview", "discs", *grounds, "--count", "1")
    assert "preview.png exists: add --overwrite, or name another output" in run(*again).stderr
    assert run(*again, "--overwrite").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("decoupe.training.preview.preview", lambda *_, **__: pytest.fail("it was drawn"))
        ending = run("data", "preview", "discs", "-o", "sheet.txt")
    assert (ending.exit_code, "unknown output format '.txt'" in ending.stderr) == (2, True)
    without = run("data", "preview", "discs", "--recipe", "birefnet-matting", "--count", "1", "-o", "one.png")
    assert "augmentation.replace=0.5 does nothing without --backgrounds" in without.stderr
    wrong = run("data", "preview", "nothing")
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)


def test_a_check_says_what_is_wrong_where(run: Run) -> None:
    fine = run("data", "check", "discs", "--workers", "1")
    assert (fine.exit_code, fine.stdout.splitlines()[-1]) == (0, "ready to train")
    assert "discs: 12 pictures, long sides 64 to 64 (median 64) pixels, truth in mode L" in fine.stdout
    masks = Path("discs/gt")
    Image.new("L", (64, 48)).save(masks / "disc00.png")
    Image.new("L", (64, 48), 255).save(masks / "disc01.png")
    Image.new("L", (64, 40), 255).save(masks / "disc02.png")
    Image.new("L", (64, 48), 1).save(masks / "disc03.png")
    (masks / "disc04.png").write_bytes(b"nothing")
    Image.new("RGBA", (64, 48), (0, 0, 0, 9)).save(masks / "disc05.png")
    (masks / "disc06.png").unlink()
    Image.new("L", (64, 48), 255).save(masks / "alone.png")
    wrong = run("data", "check", "discs", "--workers", "2")
    assert wrong.exit_code == 1
    for line in (
        "wrong: photograph without a mask (1): disc06.jpg",
        "wrong: truth of another size than the photograph (1): disc02.jpg",
        "wrong: mask's largest value is below 128: expected 255 for the subject (1): disc03.jpg",
        "wrong: cannot be read (1): disc04.png",
        "wrong: mask has its matte in the alpha channel: save that as grey (1): disc05.jpg",
        "note: mask without a photograph (1): alone.png",
        "note: mask is empty: nothing is subject (1): disc00.jpg",
        "note: mask is full: everything is subject (2): disc01.jpg, disc02.jpg",
        "not ready: mend or remove what is wrong",
    ):
        assert line in wrong.stdout


def test_near_duplicates_across_training_and_validation_are_leaks(run: Run) -> None:
    for row in (20, 21, 22):
        draw_pair(Path("val"), f"new{row}", seed=row)
    assert run("data", "check", "discs", "--val", "val", "--workers", "1").exit_code == 0
    with Image.open("discs/im/disc03.jpg") as picture:
        picture.resize((60, 44)).save("val/im/twin.jpg")
        Image.new("L", (60, 44), 255).save("val/gt/twin.png")
        picture.save("discs/im/zcopy.jpg", quality=50)
        Image.new("L", picture.size, 255).save("discs/gt/zcopy.png")
    leak = run("data", "check", "discs", "--val", "val", "--workers", "1")
    assert leak.exit_code == 1
    assert "note: near duplicates inside training (1): disc03.jpg = zcopy.jpg" in leak.stdout
    assert "wrong: near duplicates across training and validation (1): disc03.jpg = twin.jpg" in leak.stdout


def test_a_run_out_of_memory_is_told_to_programs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted(SimpleNamespace):
        def run(self, **options: object) -> None:
            raise DeviceError("cuda:0 is out of memory")

    accelerator = SimpleNamespace(is_main_process=True)
    monkeypatch.setattr(loop, "train", lambda *_, **__: Exhausted(accelerator=accelerator))
    ended = run("train", "pocket", "--data", "discs", "--device", "cpu", "--json", "-q")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout) == {"folder": "runs/pocket", "error": "cuda:0 is out of memory"}


def test_a_check_whose_process_is_ended_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system ends one where memory is short."""

    class Ended:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def __enter__(self) -> Ended:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def map(self, *arguments: object, **options: object) -> None:
            raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr("decoupe.training.check.ProcessPoolExecutor", Ended)
    ended = run("data", "check", "discs")
    assert (ended.exit_code, ended.stderr.splitlines()) == (
        2,
        [
            "decoupe: a process that reads discs was ended, most likely for want of memory: "
            "--workers 1 reads one picture at a time"
        ],
    )


def test_a_segment_set_s_own_validation_part_is_checked(run: Run, here: Path) -> None:
    """As training takes it, where no other is given."""
    for part in ("training", "validation"):
        for kind, number in (("images", 0), ("annotations", 200 if part == "validation" else 3)):
            (here / "ade" / kind / part).mkdir(parents=True)
            suffix, mode = ("jpg", "RGB") if kind == "images" else ("png", "L")
            Image.new(mode, (9, 8), number).save(here / "ade" / kind / part / f"{part}.{suffix}")
    report = check([here / "ade"], workers=1)
    assert [one.name for one in report.sets] == ["ade", "ade (validation)"]
    assert "validation.png is not a map of 150 classes" in str(report.sets[1].findings)
    named = [(name, part) for name, _, part in _parts([here / "ade"], [here / "ade"])]
    assert named == [("ade", "train"), ("ade (validation)", "val")]
    assert [one[0] for one in _parts([here / "discs"], [here / "ade"])] == ["discs", "ade"]
    with pytest.raises(InputError, match="discs is given twice"):
        _parts([here / "discs"], [here / "discs"])


def test_segment_sets_are_checked_as_well(run: Run, here: Path) -> None:
    for part, kind in (("training", "images"), ("training", "annotations")):
        (here / "ade" / kind / part).mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.new("RGB", (9, 8)).save(f"ade/images/training/{name}.jpg")
        Image.new("L", (9, 8), 3).save(f"ade/annotations/training/{name}.png")
    assert run("data", "check", "ade", "--workers", "1").stdout.startswith(
        "ade: 3 pictures, long sides 9 to 9"
    )
    Image.new("L", (9, 8), 200).save("ade/annotations/training/b.png")
    Image.new("L", (9, 8), 0).save("ade/annotations/training/c.png")
    wrong = run("data", "check", "ade", "--workers", "1")
    assert wrong.exit_code == 1
    assert "b.png is not a map of 150 classes" in wrong.stdout
    assert "note: no segments (1): c.jpg" in wrong.stdout
    assert "validation" not in wrong.stdout  # a share will be held out
