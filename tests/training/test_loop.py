from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import decoupe
from decoupe.backbones.nano import Nano
from decoupe.errors import CheckpointError, ConfigError, DeviceError, InputError, OutputError
from decoupe.evaluation.pictures import contact_sheet
from decoupe.layers.blocks import StochasticDepth
from decoupe.models.birefnet import PRESETS, BiRefNet
from decoupe.models.maskformer import PRESETS as MASKFORMERS
from decoupe.models.maskformer import MaskFormer
from decoupe.training import data, loop, state
from decoupe.training.augment import POCKET
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights
from decoupe.training.division import divide
from decoupe.training.ema import Average
from decoupe.training.folder import held, write_recipe
from decoupe.training.loop import Diverged, Ending, Trainer, accelerator_for, check_batch, set_training, train
from decoupe.training.lora import LoRA
from decoupe.training.recipe import Optimizer, Recipe, SetRule, Stage
from decoupe.training.recipes import RECIPES, read_recipe
from decoupe.training.report import forget, peak_gigabytes
from decoupe.training.start import begin, completed, match_classes, parameter_groups, sizes_apart
from decoupe.training.tasks import check_backgrounds
from decoupe.weights import load_model
from decoupe.weights.checkpoint import licence_of, save_model
from decoupe.weights.registry import CATALOGUE, Preprocessing
from drawn import draw_discs

SMALL = Recipe(
    family="birefnet",
    model=dataclasses.replace(
        PRESETS["pocket"], backbone="nano", block_width=16, context_width=16, inward="none"
    ),
    preprocessing=Preprocessing((64, 64), fit="keep"),
    stages=(Stage((32, 32), 0.5), Stage((64, 64))),
    epochs=4,
    batch_size=8,
    optimizer=Optimizer(learning_rate=2.5e-3, warm_up=2, cool_down=0.4, clip=5.0),
    ema=0.5,
    precision="float32",
    criterion=BiRefNetCriterion(PixelWeights(bce=0, iou=0, ssim=0, structure=1.0), classification=0),
    augmentation=dataclasses.replace(POCKET, paste=0.3, noise=0.3, jpeg=0.3),
    sets=(SetRule("discs", held_out=4),),
    validate_every=10,  # once, at the end: a validation takes longer than three of these steps
)
EACH_EPOCH = dataclasses.replace(SMALL, validate_every=None)


@pytest.fixture(scope="module", autouse=True)
def _narrow_encoder_and_small_sheets() -> Iterator[None]:
    """Weights take half of a step's time and of a state's; no test here is about how large samples are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nano, "channels", (16, 24, 32, 48))
        patch.setattr(Nano, "DEPTHS", (1, 0, 0, 0))
        patch.setattr(loop, "contact_sheet", functools.partial(contact_sheet, side=64))
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that each test has its copy of."""
    return draw_discs(tmp_path_factory.mktemp("drawn") / "discs")


@pytest.fixture
def discs(drawn: Path, tmp_path: Path) -> Path:
    """A set of 24 pairs."""
    return copied(drawn, tmp_path / "discs")


@pytest.fixture(scope="module")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """`SMALL` run to its end without a break: what other ways there are compared with. Left as it is."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = prepared(copied(drawn, folder / "discs"), folder / "out")
    assert trainer.run(report_every=3) == Ending("finished", 10)
    return trainer


def prepared(discs: Path, out: Path, recipe: Recipe = SMALL, **more: Any) -> Trainer:
    return train(recipe, [discs], [], out, device="cpu", workers=0, **more)


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_same(one: Trainer, other: Trainer) -> None:
    """Weights, average and optimiser agree to the bit."""
    for a, b in zip(one.average.mean, other.average.mean, strict=True):
        assert torch.equal(a, b)
    for (name, a), b in zip(
        one.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    states = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    for key, own in states[0].items():
        assert all(torch.equal(value, states[1][key][name]) for name, value in own.items())


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16", "accumulate": 2, "checkpointing": True, "batch_size": 4, "epochs": 2}],
)
def test_two_halves_are_a_whole(discs: Path, tmp_path: Path, whole: Trainer, changes: dict[str, Any]) -> None:
    """To the bit: dropout, averaging, augmentation and a change of size included; one or two epochs each."""
    recipe = dataclasses.replace(SMALL, **changes)
    assert PRESETS["pocket"].squeeze == "aspp"  # it has dropout
    if changes:
        whole = prepared(discs, tmp_path / "whole", recipe)
        assert whole.run(report_every=3) == Ending("finished", 10)
    assert prepared(discs, tmp_path / "parts", recipe).run(until=5).why == "interrupted"
    torch.rand(7)  # what is drawn in between does not matter
    resumed = prepared(discs, tmp_path / "parts", recipe)
    assert resumed.progress.step == 5
    assert resumed.run() == Ending("finished", 10)
    assert_same(whole, resumed)


def test_an_average_that_keeps_all_and_one_that_keeps_nothing() -> None:
    model = torch.nn.BatchNorm1d(1)
    follows, keeps = Average(model, 0.0), Average(model, 0.5)
    for value in (1.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        model.running_mean = model.running_mean.fill_(value) if model.running_mean is not None else None
        follows.update()
        keeps.update()
    with follows.swapped():
        assert float(model.weight.detach()) == 3
    with keeps.swapped():
        assert float(model.weight.detach()) == 2
        assert model.running_mean is not None
        assert float(model.running_mean) == 2
    assert float(model.weight.detach()) == 3


def test_the_log_tells_losses_speed_and_scores(discs: Path, tmp_path: Path) -> None:
    prepared(discs, tmp_path, dataclasses.replace(EACH_EPOCH, epochs=None, steps=6)).run(report_every=2)
    lines = lines_of(tmp_path)
    told = [line for line in lines if "loss" in line]
    assert [line["step"] for line in told] == [2, 4, 6]
    assert all(line["structure"] > 0 and line["pictures_per_second"] > 0 for line in told)
    assert all(0 <= line["waiting"] <= 1 and line["gigabytes"] > 0 for line in told)
    assert told[0]["epoch"] == pytest.approx(0.8)
    validations = [line for line in lines if "validation" in line]
    assert [line["step"] for line in validations] == [2, 4, 6]
    assert {"S", "MAE", "maxF", "wF"} <= validations[-1]["validation"]["discs"].keys()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    with Image.open(tmp_path / "samples" / "step-0000006.png") as sheet:
        assert sheet.width > 3 * 48


def test_training_learns_and_the_best_weights_are_ready_to_load(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bright discs on dark ground are found after a few dozen steps, by somewhat more of an encoder."""
    monkeypatch.setattr(Nano, "DEPTHS", (1, 1, 1, 1))
    model = dataclasses.replace(SMALL.model, inward="unshuffle", inward_width=16)  # type: ignore[type-var]
    recipe = dataclasses.replace(
        SMALL, model=model, stages=(Stage((32, 32)),), epochs=None, steps=30, ema=0.8, validate_every=15
    )
    trainer = prepared(discs, tmp_path, recipe)
    before = trainer.scores()["discs"]
    trainer.run()
    loaded = load_model(tmp_path / "best.safetensors")
    assert (loaded.config, loaded.preprocessing) == (recipe.model, recipe.preprocessing)
    history = [line["validation"]["discs"] for line in lines_of(tmp_path) if "validation" in line]
    assert history[-1]["MAE"] < 0.5 * before["MAE"]
    assert max(one["S"] for one in history) > before["S"]
    matte = decoupe.load(tmp_path / "best.safetensors")(discs / "im" / "disc00.jpg")
    with Image.open(discs / "gt" / "disc00.png") as truth:
        assert np.abs(matte.alpha - np.asarray(truth) / 255).mean() < 0.2


def test_a_run_stops_early_when_nothing_gets_better(discs: Path, tmp_path: Path) -> None:
    stuck = dataclasses.replace(
        EACH_EPOCH, optimizer=Optimizer(learning_rate=0.0), freeze_norms=True, patience=2, ema=0.0
    )
    assert prepared(discs, tmp_path, stuck).run() == Ending("stopped early", 6)
    assert run_without_data(discs, tmp_path, stuck) == Ending("stopped early", 6)
    told = (tmp_path / "recipe.yaml").read_text()
    for change in ({"optimizer": Optimizer(learning_rate=0.1)}, {"ema": 0.5, "epochs": 9}):
        with pytest.raises(
            ConfigError, match=f"another {' and '.join(sorted(change, reverse=True))}, which is"
        ):
            prepared(discs, tmp_path, dataclasses.replace(stuck, **change))
    assert (tmp_path / "recipe.yaml").read_text() == told
    patient = dataclasses.replace(stuck, patience=3)
    assert prepared(discs, tmp_path, patient).run(until=7) == Ending("interrupted", 7)


def test_a_finished_run_is_not_begun_again(whole: Trainer) -> None:
    assert run_without_data(whole.out.parent / "discs", whole.out, SMALL) == Ending("finished", 10)


def run_without_data(discs: Path, out: Path, recipe: Recipe) -> Ending:
    """Begin a run once more, with no batch to train on."""
    trainer = prepared(discs, out, recipe)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "batches", lambda: pytest.fail("pictures are decoded"))
        return trainer.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step_and_nothing_is_lost(
    discs: Path, tmp_path: Path, whole: Trainer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    trainer = prepared(discs, tmp_path / "parts")
    optimize = trainer.optimize

    def interrupted(*arguments: Any) -> None:
        optimize(*arguments)
        if trainer.progress.step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(trainer, "optimize", interrupted)
    former = signal.getsignal(number)
    assert trainer.run() == Ending("interrupted", 3, number)
    assert signal.getsignal(number) is former
    resumed = prepared(discs, tmp_path / "parts")
    assert resumed.progress.step == 3
    resumed.run()
    assert_same(whole, resumed)


@pytest.mark.parametrize(("minutes", "due"), [(10, [2, 2, 4, 4, 6, 6, 8, 8]), (0, [2, 7, 8])])
def test_a_killed_run_loses_no_more_than_the_minutes_between_states(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, due: list[int]
) -> None:
    """Where a validation takes longer, the state is saved before it, and after: here steps take one each."""
    clock = SimpleNamespace(now=0.0, perf_counter=time.perf_counter)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(loop, "time", clock)
    trainer = prepared(discs, tmp_path, dataclasses.replace(SMALL, epochs=None, steps=8, validate_every=2))
    saved: list[int] = []

    def optimize(*arguments: object) -> None:
        trainer.progress.step += 1
        clock.now += 60

    def validate(report: object) -> None:
        assert trainer.progress.step - saved[-1] < 5
        clock.now += 60 * minutes

    monkeypatch.setattr(trainer, "optimize", optimize)
    monkeypatch.setattr(trainer, "validate", validate)
    monkeypatch.setattr(trainer.state, "save", lambda: saved.append(trainer.progress.step))
    assert trainer.run(save_minutes=4.5).why == "finished"
    assert saved == due


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_one_run_at_a_time_trains_in_a_folder(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its recipe; the other's begins anew only where nothing came of the first."""
    one, other = (prepared(discs, tmp_path, dataclasses.replace(SMALL, accumulate=n)) for n in (1, 2))
    optimize = one.optimize

    def beside(*arguments: Any) -> None:
        optimize(*arguments)
        with pytest.raises(OutputError, match=r"another process trains in .*: wait for it, or name"):
            other.run()

    monkeypatch.setattr(one, "optimize", beside)
    assert one.run(until=2).why == "interrupted"
    with pytest.raises(OutputError, match="has changed since it was read: run the same command"):
        other.run()
    assert "accumulate: 1" in (tmp_path / "recipe.yaml").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks")
def test_processes_that_prepare_samples_do_not_hold_the_folder(tmp_path: Path) -> None:
    """They outlive a run that is killed for some seconds, in which it may go on already."""
    fork = multiprocessing.get_context("fork")
    begun, done = fork.Event(), fork.Event()

    def prepare() -> None:
        begun.set()
        done.wait()

    with held(tmp_path, None):
        worker = fork.Process(target=prepare)
        worker.start()
        begun.wait()
    try:
        with held(tmp_path, None):
            assert worker.is_alive()
    finally:
        done.set()
        worker.join()


def test_minutes_end_it(discs: Path, tmp_path: Path) -> None:
    assert prepared(discs, tmp_path).run(minutes=0) == Ending("interrupted", 1)
    assert state.saved_step(tmp_path) == 1


def test_a_process_that_reads_and_is_ended_is_told(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system ends one where memory is short, in words of torch's."""

    def ended() -> Iterator[Any]:
        raise RuntimeError("DataLoader worker (pid(s) 30098) exited unexpectedly")
        yield

    trainer = prepared(discs, tmp_path)
    trainer.run(until=1)
    trainer = train(SMALL, [discs], [], tmp_path, device="cpu", workers=3)
    monkeypatch.setattr(trainer, "batches", ended)
    line = (
        r"samples was ended, most likely for want of memory: --workers 2 needs less; .* goes on from step 1$"
    )
    with pytest.raises(DeviceError, match=line):
        trainer.run()


def test_what_would_stop_it_at_its_last_step_stops_nothing(discs: Path, tmp_path: Path) -> None:
    """Said to be stopped, a run that is over would be begun again by who waits for its end."""
    short = dataclasses.replace(SMALL, steps=1, epochs=None)
    assert prepared(discs, tmp_path, short).run(minutes=0) == Ending("finished", 1)


def test_a_full_disk_keeps_the_last_good_state(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = prepared(discs, tmp_path)
    trainer.run(until=2)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(state.torch, "save", full)
        with pytest.raises(
            OutputError, match=r"cannot save step 4 .*No space left.*the state of step 2 is intact"
        ):
            trainer.run(until=4)
    with monkeypatch.context() as patched:
        patched.setattr(loop.Report, "_record", full)
        with pytest.raises(
            OutputError, match=r"cannot write in .* \(No space left on device\): make room and run"
        ):
            prepared(discs, tmp_path).run(until=4, report_every=1)
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OutputError, match=r"recipe\.yaml cannot be written \(No space left on device\)"):
            prepared(discs, tmp_path).run()
    assert state.saved_step(tmp_path) == 2
    assert not (tmp_path / "state.partial").exists()
    assert prepared(discs, tmp_path).progress.step == 2


def test_a_process_killed_between_two_renames_has_its_former_state(discs: Path, tmp_path: Path) -> None:
    prepared(discs, tmp_path).run(until=2)
    (tmp_path / "state").rename(tmp_path / "state.former")
    assert prepared(discs, tmp_path).progress.step == 2


def test_what_a_killed_run_had_logged_beyond_its_state_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    forget(file, 2)
    assert not file.exists()
    file.write_text('{"step": 1}\n\0\0\0\n[]\n{"step": 2}\n{"step": 3}\n{"st')
    forget(file, 2)
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


@pytest.mark.parametrize("content", ["", "[]", '{"data": {}}', "\0" * 80])
def test_a_state_that_a_crash_has_emptied_is_told(discs: Path, tmp_path: Path, content: str) -> None:
    prepared(discs, tmp_path).run(until=1)
    (tmp_path / "state" / "progress.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state is damaged \(.*\): remove it to begin anew"):
        prepared(discs, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_costs_no_steps(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Trainer, workers: int
) -> None:
    """One line that names it, also from a worker process, and the steps before are saved."""
    monkeypatch.setattr(data, "KEPT_SHARE", 0)  # read whenever it is shown
    assert prepared(discs, tmp_path).run(until=2).why == "interrupted"
    trainer = train(SMALL, [discs], [], tmp_path, device="cpu", workers=workers)
    picture = divide(SMALL, [discs], [])[0]["discs"][0].image
    assert isinstance(picture, Path)
    content = picture.read_bytes()
    picture.write_bytes(content[:300])
    with pytest.raises(InputError) as caught:
        trainer.run()
    line = str(caught.value)
    assert picture.name in line
    assert "goes on with the same pictures only: to leave one out, name another folder with --out" in line
    assert "\n" not in line
    assert state.saved_step(tmp_path) == trainer.progress.step >= 2
    assert multiprocessing.active_children() == []  # the error's traceback holds the batches
    picture.write_bytes(content)
    resumed = prepared(discs, tmp_path)
    assert resumed.run() == Ending("finished", 10)
    assert_same(whole, resumed)


def test_a_held_out_picture_that_cannot_be_read_is_told_before_the_first_step(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it may be removed; a run that has begun needs all of its pictures."""
    val, out = draw_discs(tmp_path / "val", 9), tmp_path / "out"

    def begun() -> Trainer:
        trainer = train(SMALL, [discs], [val], out, device="cpu", workers=0)
        monkeypatch.setattr(trainer, "batches", lambda: pytest.fail("pictures are decoded"))
        return trainer

    for name in ("disc03", "disc07"):
        mask = val / "gt" / f"{name}.png"
        mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(InputError, match=r"disc03\.png cannot be read .*, or remove the pair$"):
        begun().run()
    for path in val.glob("*/disc03.*"):
        path.unlink()
    trainer = begun()
    trainer.progress.step = 2
    trainer.state.save()
    with pytest.raises(
        InputError,
        match=r"disc07\.png cannot .*is at step 2 and goes on with the same pictures only: .* --out",
    ):
        begun().run()


def test_a_damaged_state_is_told(discs: Path, tmp_path: Path) -> None:
    prepared(discs, tmp_path).run(until=1)
    file = tmp_path / "state" / "state.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cannot go on from .*; remove it to begin anew"):
        prepared(discs, tmp_path)


def test_a_run_goes_on_from_where_it_began_only_and_stays_what_it_was(
    discs: Path, tmp_path: Path, whole: Trainer
) -> None:
    start = str(whole.out / "last.safetensors")
    began = dataclasses.replace(SMALL, start=start, model=None, epochs=1)
    prepared(discs, tmp_path / "run", began).run(until=1)
    elsewhere = shutil.copy(start, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="holds a run with another start, at step 1: go on with"):
        prepared(discs, tmp_path / "run", dataclasses.replace(began, start=elsewhere))
    prepared(discs, tmp_path / "run", began).run()
    told = (tmp_path / "run" / "recipe.yaml").read_text()
    quicker = dataclasses.replace(began, optimizer=dataclasses.replace(began.optimizer, learning_rate=0.5))
    with pytest.raises(
        ConfigError, match="holds a run with another optimizer, which is over at step 3: give"
    ):
        prepared(discs, tmp_path / "run", quicker)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == told


def test_weights_whose_state_is_gone_are_not_replaced(discs: Path, tmp_path: Path, whole: Trainer) -> None:
    copied(whole.out, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(ConfigError, match=r"holds best\.safetensors of a run that cannot go on, without"):
        prepared(discs, tmp_path / "run")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["state/mine.txt", "log.jsonl", "recipe.yaml"])
def test_files_that_are_no_run_s_are_not_replaced(discs: Path, tmp_path: Path, name: str) -> None:
    """A recipe written by hand may stand where the run is to go."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("family: birefnet  # mine\n")
    with pytest.raises(
        OutputError, match=r"would be (removed|emptied|replaced): name another folder with --out"
    ):
        prepared(discs, tmp_path)
    assert file.read_text() == "family: birefnet  # mine\n"


def test_a_run_killed_before_its_first_state_begins_again(discs: Path, tmp_path: Path) -> None:
    """With its log by the same recipe; without one by another, as who ran out of memory is asked for."""
    killed = prepared(discs, tmp_path)
    write_recipe(killed.out, killed.recipe)
    (tmp_path / "tensorboard").mkdir()
    other = dataclasses.replace(SMALL, accumulate=2)
    prepared(discs, tmp_path, other)
    (tmp_path / "log.jsonl").write_text('{"step": 2}\n')
    prepared(discs, tmp_path)
    with pytest.raises(OutputError, match="is of another recipe and would be emptied"):
        prepared(discs, tmp_path, other)


def test_a_run_is_judged_by_the_same_pictures_to_its_end(discs: Path, tmp_path: Path) -> None:
    """Else its best score would be another set's."""
    few, others = draw_discs(tmp_path / "few", 5), copied(discs, tmp_path / "others")
    train(SMALL, [discs], [others], tmp_path / "run", device="cpu", workers=0).state.save()
    with pytest.raises(
        ConfigError, match="judged by 24 pictures of others, at step 0, this is judged by 5 pictures of few"
    ):
        train(SMALL, [discs], [few], tmp_path / "run", device="cpu", workers=0)


def test_patience_needs_something_to_wait_for(discs: Path, tmp_path: Path) -> None:
    nothing = dataclasses.replace(SMALL, patience=3, sets=(), held_out=0.0)
    with pytest.raises(ConfigError, match=r"patience=3 waits .* and nothing is held out: give --val, hold"):
        prepared(discs, tmp_path / "out", nothing)


def test_pictures_are_kept_where_processes_share_them(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that are not forked would each get a copy."""
    trainer = train(SMALL, [discs], [], tmp_path / "out", device="cpu", workers=2)

    def is_kept() -> bool:
        return hasattr(trainer.batches().dataset.dataset.read, "__self__")  # type: ignore[attr-defined]

    assert is_kept()
    monkeypatch.setattr(loop, "get_start_method", lambda: "spawn")
    assert not is_kept()
    trainer.workers = 0
    assert is_kept()


def test_a_licence_goes_on_with_what_is_made_of_the_weights(discs: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    assert SMALL.preprocessing is not None
    torch.manual_seed(0)
    save_model(
        BiRefNet(SMALL.model),  # type: ignore[arg-type]
        start,
        family="birefnet",
        preprocessing=SMALL.preprocessing,
        licence="CC-BY-NC-4.0",
    )
    out = tmp_path / "out"
    out.mkdir()
    prepared(discs, out, dataclasses.replace(SMALL, start=str(start)))._save_weights("last.safetensors", {})
    made = load_model(out / "last.safetensors")
    assert licence_of(str(out / "last.safetensors"), made) == "CC-BY-NC-4.0"
    listed = dataclasses.replace(made, licence="")
    assert licence_of("rmbg-2.0", listed) == CATALOGUE["rmbg-2.0"].licence != ""
    assert licence_of("someone/else", listed) == licence_of("mine", listed) == ""


def test_a_part_is_frozen_and_not_what_begins_alike() -> None:
    model = torch.nn.ModuleDict({"stages": torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(12))})
    recipe = dataclasses.replace(SMALL, start="pocket", frozen=("stages.1", "stages.3.bias"))
    parameter_groups(model, recipe)
    frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen == {"stages.1.weight", "stages.1.bias", "stages.3.bias"}


def test_a_run_that_dies_after_its_first_weights_goes_on(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(SMALL, epochs=None, steps=6, validate_every=3)
    save = Trainer._save_weights

    def save_and_die(trainer: Trainer, name: str, scores: Any) -> None:
        save(trainer, name, scores)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_weights", save_and_die)
        with pytest.raises(MemoryError):
            prepared(discs, tmp_path, recipe).run()
    assert (tmp_path / "last.safetensors").exists()
    again = prepared(discs, tmp_path, recipe)
    assert again.progress.step == 3
    assert again.run().why == "finished"


def test_a_checkpoint_sees_pictures_as_it_knows_them(whole: Trainer) -> None:
    start = str(whole.out / "last.safetensors")
    known = load_model(start).preprocessing
    published = dataclasses.replace(RECIPES["birefnet-general"], start=start, model=None, backbone=None)
    recipe = begin(published).recipe
    assert recipe.preprocessing is not None
    assert (recipe.preprocessing.mean, recipe.preprocessing.std) == (known.mean, known.std)
    assert recipe.preprocessing.size == (1024, 1024)


def test_a_run_goes_on_longer_but_never_as_another(discs: Path, tmp_path: Path) -> None:
    prepared(discs, tmp_path).run(until=2)
    decayed = dataclasses.replace(SMALL.optimizer, name="adam", weight_decay=0.5)
    longer = prepared(discs, tmp_path, dataclasses.replace(SMALL, epochs=5, optimizer=decayed))
    assert longer.steps == 13
    groups = longer.optimizer.param_groups
    assert [(group["weight_decay"], group["decoupled_weight_decay"]) for group in groups] == [
        (0.5, False),
        (0.0, False),
    ]
    slow = dataclasses.replace(SMALL, optimizer=dataclasses.replace(SMALL.optimizer, backbone=0.1))
    with pytest.raises(CheckpointError, match=r"other parameters .*: go on with its frozen, opt"):
        prepared(discs, tmp_path, slow)
    other = dataclasses.replace(SMALL, seed=1, batch_size=4)
    with pytest.raises(
        ConfigError, match="holds a run with another batch_size and seed, at step 2: go on with"
    ):
        prepared(discs, tmp_path, other)
    with pytest.raises(
        ConfigError, match="a run on 20 pictures of discs, at step 2, this is on 24 pictures of discs: go on"
    ):
        train(SMALL, [discs], [copied(discs, tmp_path / "val")], tmp_path, device="cpu", workers=0)


def test_a_loss_that_is_no_number_names_its_pictures_and_spoils_nothing(discs: Path, tmp_path: Path) -> None:
    trainer = prepared(discs, tmp_path)
    with torch.no_grad():
        next(iter(trainer.network.parameters())).fill_(float("nan"))
    before = [tensor.clone() for tensor in trainer.average.mean]
    with pytest.raises(Diverged, match=r"loss of disc\d\d, disc\d\d.* is not finite at step 0"):
        trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.average.mean, strict=True))
    assert state.saved(tmp_path) is None


def test_out_of_memory_says_what_to_lower(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = prepared(discs, tmp_path)
    for error in (torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):

        def exhausted(*arguments: object, error: RuntimeError = error) -> None:
            raise error

        monkeypatch.setattr(trainer, "terms", exhausted)
        with pytest.raises(DeviceError, match="out of memory at batch_size 8: --set accumulate=2"):
            trainer.run()
    monkeypatch.setattr(trainer, "terms", lambda *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        trainer.run()


def test_parts_of_a_batch_have_its_gradient(discs: Path, tmp_path: Path) -> None:
    """With norms that do not average over a part; sums are scaled, and few pictures have a class."""
    for number in (0, 5, 7, 8, 14, 21):
        for folder, suffix in (("im", "jpg"), ("gt", "png")):
            file = discs / folder / f"disc{number:02}.{suffix}"
            file.rename(file.with_stem(f"1#a#1#{number % 2}#{file.stem}"))
    criterion = BiRefNetCriterion(PixelWeights(bce=1, iou=0.5, ssim=1))
    recipe = dataclasses.replace(SMALL, freeze_norms=True, criterion=criterion, ema=0.0, sets=())
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, squeeze="none", classes=2))  # type: ignore[type-var]
    gradients = []
    for parts in (1, 4):
        trainer = prepared(discs, tmp_path / str(parts), dataclasses.replace(recipe, accumulate=parts))
        kept: list[torch.Tensor] = []

        def keep(trainer: Trainer = trainer, kept: list[torch.Tensor] = kept) -> None:
            kept += [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None]

        trainer.optimizer.step = keep
        trainer.run(until=1)
        gradients.append(torch.cat([one.flatten() for one in kept]))
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference < 1e-5


def test_frozen_norms_and_backbones_stay(discs: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        SMALL, freeze_norms=True, optimizer=dataclasses.replace(SMALL.optimizer, backbone=0.0)
    )
    trainer = prepared(discs, tmp_path, recipe)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run(until=2)
    after = trainer.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "backbone" in name or "running" in name or "batches" in name]


def test_frozen_parts_stay_as_they_begin(discs: Path, tmp_path: Path) -> None:
    """Their weights, and what their norms know of the pictures; the rest of the backbone is trained."""
    torch.save(prepared(discs, tmp_path).network.encoder.backbone.state_dict(), tmp_path / "encoder.pth")
    frozen = ("encoder.backbone.stem", "encoder.backbone.stages.0")
    recipe = dataclasses.replace(SMALL, backbone=str(tmp_path / "encoder.pth"), frozen=frozen)
    trainer = prepared(discs, tmp_path / "frozen", recipe)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run(until=1)
    after = trainer.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith(frozen)]
    assert {name.split(".")[3] for name in changed if ".backbone.stages." in name} == {"1", "2", "3"}
    with pytest.raises(ConfigError, match=r"frozen names 'backbone', .* such as encoder\.backbone\."):
        prepared(discs, tmp_path / "wrong", dataclasses.replace(recipe, frozen=("backbone",)))
    with pytest.raises(ConfigError, match=r"frozen keeps encoder\.backbone\.stem at random weights"):
        dataclasses.replace(recipe, backbone=None)
    (tmp_path / "encoder.pth").unlink()
    prepared(discs, tmp_path / "frozen", recipe).run(until=2)  # goes on from its own weights


def test_the_backbone_has_a_learning_rate_of_its_own(discs: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        SMALL, optimizer=Optimizer(learning_rate=0.01, backbone=0.1, weight_decay=0.5)
    )
    trainer = prepared(discs, tmp_path, recipe)
    trainer.run(until=1)
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    for group in trainer.optimizer.param_groups:
        inside = {"backbone" in names[id(parameter)] for parameter in group["params"]}
        assert inside == {group["lr"] == pytest.approx(0.001)}
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])


@pytest.mark.parametrize(
    ("undecayed", "decays"),
    [
        (("norms", "embeddings"), {"weights": True, "biases": True, "norms": False, "embeddings": False}),
        ((), {"weights": True, "biases": True, "norms": True, "embeddings": True}),
        (Optimizer().undecayed, {"weights": True, "biases": False, "norms": False, "embeddings": False}),
    ],
    ids=["as in MaskFormer's code", "as in BiRefNet's", "ours"],
)
def test_what_decays(undecayed: Any, decays: dict[str, bool]) -> None:
    with torch.device("meta"):
        model = MaskFormer(MASKFORMERS["maskformer-swin-tiny-ade"])
    recipe = read_recipe("maskformer-swin-tiny-ade")
    optimizer = dataclasses.replace(recipe.optimizer, undecayed=undecayed)
    groups = parameter_groups(model, dataclasses.replace(recipe, optimizer=optimizer))
    decay_of = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    examples = {
        "pixel_level.backbone.stages.0.0.attention.qkv.weight": "weights",
        "transformer.layers.0.self_attention.in_proj_weight": "weights",
        "pixel_level.backbone.stages.0.0.attention.qkv.bias": "biases",
        "pixel_level.backbone.stages.0.0.norm1.weight": "norms",
        "pixel_level.backbone.stages.0.0.norm1.bias": "norms",
        "pixel_level.backbone.stages.0.0.attention.bias_table": "embeddings",
        "transformer.queries.weight": "embeddings",
    }
    for name, kind in examples.items():
        assert (decay_of[id(model.get_parameter(name))] == 0.01) == decays[kind], name


def test_stochastic_depth_is_the_recipes() -> None:
    recipe = read_recipe("maskformer-swin-tiny-ade")
    with torch.device("meta"):
        model = begin(dataclasses.replace(recipe, backbone=None)).model
    rates = [one.rate for one in model.modules() if isinstance(one, StochasticDepth)]
    assert (rates[0], rates[-1], len(rates)) == (0, pytest.approx(0.3), 12)
    assert rates == sorted(rates)
    without = dataclasses.replace(read_recipe("maskformer-resnet50-ade"), backbone=None, drop_path=0.1)
    with pytest.raises(
        ConfigError, match="drop_path is for backbones with stochastic depth, Swin and PVT v2"
    ):
        begin(without)


def test_low_rank_updates_train_and_are_folded_into_what_is_saved(discs: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(SMALL.model, backbone="pvt_v2_b0")  # type: ignore[type-var]
    recipe = dataclasses.replace(SMALL, model=model, lora=LoRA(rank=2), epochs=1, batch_size=4)
    trainer = prepared(discs, tmp_path, recipe)
    frozen = [n for n, p in trainer.network.named_parameters() if "backbone" in n and not p.requires_grad]
    before = {name: trainer.network.get_parameter(name).clone() for name in frozen}
    trainer.run()
    assert frozen
    assert all(torch.equal(before[name], trainer.network.get_parameter(name)) for name in frozen)
    loaded = load_model(tmp_path / "last.safetensors")
    assert loaded.config == model
    batch = torch.rand(1, 3, 64, 64)
    with trainer.average.swapped(), torch.no_grad():
        expected = trainer.network.eval()(batch).logits
    assert torch.allclose(loaded.model(batch).logits, expected, atol=1e-4)


def test_a_run_begins_from_a_checkpoint(discs: Path, tmp_path: Path, whole: Trainer) -> None:
    checkpoint = whole.out / "last.safetensors"
    recipe = read_recipe("finetune", ["epochs=1", "precision=float32", "warm=1"][:2], start=str(checkpoint))
    assert (recipe.family, recipe.start) == ("birefnet", str(checkpoint))
    trainer = prepared(discs, tmp_path / "second", recipe)
    assert (trainer.recipe.model, trainer.recipe.stages) == (SMALL.model, (Stage((64, 64)),))
    expected = load_model(checkpoint).model.state_dict()
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    trainer.run(until=1)


@pytest.mark.parametrize(
    ("wanted", "rows", "labels"),
    [
        (("bee", "ant"), [1, 0, 2], ["ant", "bee"]),  # the data's are sorted
        (("cow", "ant"), [1, 0, 2], ["ant", "cow"]),
        ((), [0, 1, 2], ["bee", "ant"]),
    ],
)
def test_the_rows_of_a_class_head_stay_with_their_names(
    discs: Path, tmp_path: Path, wanted: tuple[str, ...], rows: list[int], labels: list[str]
) -> None:
    """However other data number the classes, and whether or not they name any."""
    for number, name in enumerate(wanted):
        for file in [*discs.glob(f"im/disc{number:02}.*"), *discs.glob(f"gt/disc{number:02}.*")]:
            file.rename(file.with_stem(f"1#a#1#{name}#{file.stem}"))
    start = tmp_path / "start.safetensors"
    model = BiRefNet(dataclasses.replace(SMALL.model, classes=3))  # type: ignore[type-var]
    assert model.classifier is not None
    before = model.classifier.weight.detach().clone()
    assert SMALL.preprocessing is not None
    about: dict[str, Any] = {"family": "birefnet", "preprocessing": SMALL.preprocessing}
    save_model(model, start, **about, extra={"labels": ["bee", "ant"]})
    told: list[str] = []
    begun = dataclasses.replace(
        SMALL, start=str(start), model=None, sets=(), held_out=0.0, steps=1, epochs=None
    )
    trainer = prepared(discs, tmp_path / "out", begun, tell=told.append)
    assert torch.equal(trainer.network.classifier.weight, before[rows])
    assert [line for line in told if "the class head does not know cow" in line] == told
    assert bool(told) == ("cow" in wanted)
    trainer.run()
    assert load_model(tmp_path / "out" / "last.safetensors").extra["labels"] == labels


def test_queries_keep_their_classes_by_name() -> None:
    """The last row is for none, and stays the last."""
    with torch.no_grad():
        head = torch.nn.Linear(1, 4)
        head.weight.copy_(torch.arange(4.0)[:, None])
        model = torch.nn.ModuleDict({"class_head": head})
        assert match_classes(model, ("cat", "dog", "sky"), ("sky", "cat", "emu")) == [
            "the class head does not know emu: their rows begin as those of other classes"
        ]
        assert head.weight.flatten().tolist() == [2, 0, 1, 3]
        match_classes(model, ("sky", "cat", "emu"), ("emu", "emu", "sky"))  # names may be alike
        assert head.weight.flatten().tolist() == [1, 0, 2, 3]
        assert match_classes(model, (), ("sky",)) == match_classes(model, ("sky",), ()) == []


def test_a_checkpoint_that_does_not_fit_is_refused(discs: Path, tmp_path: Path, whole: Trainer) -> None:
    checkpoint = str(whole.out / "last.safetensors")
    with pytest.raises(ConfigError, match="family 'birefnet', the recipe trains 'inspyrenet'"):
        prepared(discs, tmp_path / "x", read_recipe("inspyrenet-dis", start=checkpoint))
    other = dataclasses.replace(SMALL, start=checkpoint, model=PRESETS["pocket"])
    with pytest.raises(CheckpointError, match=r"does not fit the recipe's model: \d+ tensors differ"):
        prepared(discs, tmp_path / "x", other)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 6, "accumulate": 4}, "batch_size 6 cannot be shared out in 4 parts"),
        (
            {"batch_size": 2, "accumulate": 2},
            "nothing to average over in one picture: --set batch_size of at least 4",
        ),
    ],
)
def test_batches_that_cannot_be_are_told(
    discs: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        prepared(discs, tmp_path / "out", dataclasses.replace(SMALL, **changes))


def test_a_device_that_is_not_here(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda:1", "gpu"):
        with pytest.raises(DeviceError, match=f"device '{device}' is none .* CUDA_VISIBLE_DEVICES=1 before"):
            train(SMALL, [discs], [], tmp_path / "out", device=device, workers=0)
    with pytest.raises(DeviceError, match="device 'cuda' is not available"):
        train(SMALL, [discs], [], tmp_path / "out", device="cuda", workers=0)
    with pytest.raises(DeviceError, match="float16 trains on CUDA only"):
        prepared(discs, tmp_path / "out", dataclasses.replace(SMALL, precision="float16"))


@pytest.mark.parametrize(
    ("model", "gradient", "partly"),
    [({}, 1.0, False), ({}, 0.0, True), ({"classes": 2}, 1.0, True), ({"side_outputs": False}, 1.0, True)],
)
def test_processes_expect_what_costs_nothing(model: dict[str, Any], gradient: float, partly: bool) -> None:
    """DDP stops at a parameter without a gradient that it was not told of."""
    recipe = dataclasses.replace(
        SMALL,
        model=dataclasses.replace(SMALL.model, **model),  # type: ignore[type-var]
        criterion=BiRefNetCriterion(gradient=gradient),
    )
    told = accelerator_for(recipe, "cpu").ddp_handler
    assert told is not None
    assert told.find_unused_parameters is partly


def test_nothing_to_train(discs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every pair of discs is held out"):
        prepared(discs, tmp_path / "out", dataclasses.replace(SMALL, sets=(SetRule("discs", held_out=24),)))
    for path in (discs / "gt").iterdir():
        Image.open(path).point(lambda value: value // 255).save(path)
    with pytest.raises(InputError, match=r"gt/disc00\.png and others: mask's largest value is below 128"):
        prepared(discs, tmp_path)


def test_a_rule_that_leaves_a_set_without_training_pairs_is_told(discs: Path, tmp_path: Path) -> None:
    """The recipe `pocket` has rules for sets of common names."""
    people = draw_discs(tmp_path / "people", 5)
    recipe = dataclasses.replace(SMALL, sets=(*SMALL.sets, SetRule("people", held_out=100)))
    with pytest.raises(
        InputError, match=r"every pair of people is held out.*rule .*held_out: 100.*--set sets=\[\]"
    ):
        divide(recipe, [discs, people], [])
    train, out = divide(recipe, [discs, people], [draw_discs(tmp_path / "others", 5)])
    assert (len(train["people"]), len(out["others"])) == (5, 5)


def test_validation_data_of_their_own(discs: Path, tmp_path: Path) -> None:
    others = copied(discs, tmp_path / "others" / "discs")
    trainer = train(SMALL, [discs], [others], tmp_path / "out", device="cpu", workers=0)
    assert (len(trainer.task.repeats), trainer.task.held_out) == (24, {"discs": 24})
    with pytest.raises(InputError, match="discs is given twice: give it once"):
        train(SMALL, [discs], [discs], tmp_path / "out", device="cpu", workers=0)


def test_the_mode_of_norms() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    set_training(model, frozen_norms=True)
    assert (model[0].training, model[1].training) == (True, False)
    set_training(model, frozen_norms=False)
    assert model[1].training


def test_a_compiled_network_trains_as_a_plain_one(discs: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, stages=(Stage((32, 32)),), ema=0.0, epochs=1)
    plain = prepared(discs, tmp_path / "plain", recipe)
    plain.run()
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            loop.torch, "compile", lambda model: torch.compiler.disable(model)
        )
        compiled = prepared(discs, tmp_path / "compiled", dataclasses.replace(recipe, compile=True))
        compiled.run()
    assert_same(plain, compiled)


def test_another_seed_holds_out_the_same_pairs(discs: Path) -> None:
    """Else a run begun from another's weights would be judged by what those were trained on."""
    ways = [{}, {"seed": 1}, {"split_seed": 1}]
    held_out = [divide(dataclasses.replace(SMALL, **way), [discs], [])[1]["discs"] for way in ways]
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_run_killed_after_its_first_validation_knows_its_best(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(SMALL, epochs=None, steps=4, validate_every=2)
    scored = {2: 0.9, 4: 0.5}
    monkeypatch.setattr(Trainer, "scores", lambda self: {"discs": {"S": scored[self.progress.step]}})
    trainer = prepared(discs, tmp_path, short)

    def killed(report: object) -> None:
        Trainer.validate(trainer, report)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "validate", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = prepared(discs, tmp_path, short)
    assert again.progress.step == 2
    again.run()
    assert (again.progress.best, again.progress.worse) == (0.9, 1)
    assert [line["step"] for line in lines_of(tmp_path) if "validation" in line] == [2, 2, 4]


def test_sets_in_another_order_are_other_data(discs: Path, tmp_path: Path) -> None:
    """Samples are numbered through all sets, and classes are named after them."""
    other, val = (copied(discs, tmp_path / name) for name in ("other", "val"))
    train(SMALL, [discs, other], [val], tmp_path / "run", device="cpu", workers=0).run(until=1)
    with pytest.raises(ConfigError, match="go on with the same data in their order"):
        train(SMALL, [other, discs], [val], tmp_path / "run", device="cpu", workers=0)


def test_the_last_batch_adds_no_epoch(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pictures in batches of eight: three epochs end in the middle of the eighth batch."""
    seen, criterion_at = [], Recipe.criterion_at

    def told(recipe: Recipe, epoch: int, epochs: int) -> Any:
        seen.append((epoch, epochs))
        return criterion_at(recipe, epoch, epochs)

    monkeypatch.setattr(Recipe, "criterion_at", told)
    prepared(discs, tmp_path, dataclasses.replace(SMALL, epochs=3)).run()
    assert seen == [(step * 8 // 20, 3) for step in range(8)]


def test_batch_norms_that_processes_share_need_no_pictures_of_their_own() -> None:
    recipe, network = RECIPES["birefnet-general"], torch.nn.BatchNorm2d(4)
    assert recipe.batch_size == 4
    check_batch(recipe, 4, network, together=4)
    with pytest.raises(ConfigError, match="--set batch_size of at least 8"):
        check_batch(recipe, 4, network)


@pytest.mark.parametrize(("size", "known"), [((64, 64), (32, 96)), ((2048, 2560), (1024, 3840))])
def test_weights_are_known_to_work_at_the_size_that_is_set(
    size: tuple[int, int], known: tuple[int, int]
) -> None:
    """Else every picture is warned of, and seen in tiles where the size is above the recipe's own range."""
    settings = [f"{key}={list(size)}" for key in ("preprocessing.size", "stages[0].size")]
    recipe = completed(read_recipe("birefnet-general", settings), None)
    assert recipe.preprocessing is not None
    assert recipe.preprocessing.size_range == known
    inside = completed(read_recipe("birefnet-general", ["preprocessing.size=[768, 1024]"]), None)
    assert inside.preprocessing is not None
    assert inside.preprocessing.size_range == (512, 1536)


def test_a_size_quite_other_than_the_weights_are_used_at_is_told() -> None:
    half = dataclasses.replace(RECIPES["birefnet-general"], stages=(Stage((512, 512)),))
    assert sizes_apart(half) == [
        "the run ends at 512×512, its weights are judged and used at 1024×1024: "
        "--set preprocessing.size=[512,512] makes them one"
    ]
    for name, recipe in RECIPES.items():
        assert recipe.start is not None or sizes_apart(recipe) == [], name


def test_replacing_grounds_without_any_is_told() -> None:
    (told,) = check_backgrounds(RECIPES["birefnet-matting"], None)
    assert told.startswith("augmentation.replace=0.5 does nothing without --backgrounds")
    assert check_backgrounds(RECIPES["birefnet-matting"], Path()) == check_backgrounds(SMALL, None) == []


def test_what_windows_has_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    written, opened = [], os.open

    def windows_open(path: Path, flags: int) -> int:
        if path.is_dir():
            raise PermissionError(path)
        return opened(path, flags)

    def windows_fsync(descriptor: int) -> None:
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError("Bad file descriptor")
        written.append(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(os, "open", windows_open)
        patch.setattr(os, "fsync", windows_fsync)
        patch.setattr(
            psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=2e9))
        )
        state.settle(tmp_path)
        assert peak_gigabytes(torch.device("cpu")) == 2
    assert len(written) == 1
