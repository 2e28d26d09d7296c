from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from decoupe.errors import ConfigError, InputError
from decoupe.models.birefnet import PRESETS
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights
from decoupe.training.loop import Diverged, Trainer, gather
from decoupe.training.recipes import RECIPES, Recipe, Stage
from decoupe.training.validation import score
from decoupe.weights import load_model
from decoupe.weights.registry import Preprocessing

SMALL = Recipe(
    model=dataclasses.replace(PRESETS["pocket"], block_width=8, context_width=8, inward_width=4),
    preprocessing=Preprocessing((64, 64), fit="keep"),
    stages=(Stage(32, 0.5), Stage(64, 1.0)),
    steps=6,
    batch_size=4,
    warm_up=2,
    ema=0.5,
    precision="float32",
    criterion=BiRefNetCriterion(PixelWeights(bce=0, iou=0, ssim=0, structure=1.0), classification=0),
    held_out=(("discs", 4),),
)


def run(folder: Path, out: Path, recipe: Recipe = SMALL) -> Trainer:
    trainer = Trainer(recipe, gather([folder], recipe), out)
    trainer.run(report_every=2, save_every=2, validate_every=6)
    return trainer


def test_an_interrupted_run_ends_as_an_uninterrupted_one(discs: Path, tmp_path: Path) -> None:
    """Dropout, averaging, augmentation and a change of size included, to the bit."""
    whole = run(discs, tmp_path / "whole")
    interrupted = Trainer(SMALL, gather([discs], SMALL), tmp_path / "parts")
    optimize = interrupted.optimize

    def stop_in_the_middle(images: torch.Tensor, masks: torch.Tensor) -> None:
        if interrupted.step == 4:
            raise KeyboardInterrupt
        optimize(images, masks)

    interrupted.optimize = stop_in_the_middle  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(report_every=2, save_every=2, validate_every=6)
    resumed = run(discs, tmp_path / "parts")
    assert resumed.step == whole.step == 6
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(tensor, resumed.average.state_dict()[name]), name


def test_the_log_tells_losses_sizes_and_validation(discs: Path, tmp_path: Path) -> None:
    run(discs, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["size"] for line in lines if "size" in line] == [32, 64, 64]
    assert all(line["structure"] > 0 for line in lines if "size" in line)
    assert set(lines[-1]["validation"]["discs"]) == {"S", "MAE", "maxF", "wF"}
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["steps"] == 6


def test_a_set_that_the_recipe_does_not_hold_out_is_trained_on_alone(discs: Path, tmp_path: Path) -> None:
    other = discs.rename(tmp_path / "mine")
    sets = gather([other], SMALL)
    assert len(sets.train) == 24
    assert sets.held_out == {}
    trainer = Trainer(SMALL, sets, tmp_path / "out")
    assert trainer.validate() == {}


def test_nothing_left_to_train_on_is_told(discs: Path) -> None:
    with pytest.raises(InputError, match="every pair is held out"):
        gather([discs], dataclasses.replace(SMALL, held_out=(("discs", 24),)))


def test_a_run_goes_on_longer_but_never_as_another(discs: Path, tmp_path: Path) -> None:
    run(discs, tmp_path / "out")
    longer = dataclasses.replace(SMALL, steps=8)
    assert run(discs, tmp_path / "out", longer).step == 8
    other = dataclasses.replace(SMALL, seed=1)
    with pytest.raises(ConfigError, match="was begun with another seed: go on with that"):
        Trainer(other, gather([discs], other), tmp_path / "out")


def test_the_weights_are_ready_to_load(discs: Path, tmp_path: Path) -> None:
    trainer = run(discs, tmp_path / "out")
    loaded = load_model(tmp_path / "out" / "weights.safetensors")
    assert loaded.config == SMALL.model
    assert loaded.preprocessing == SMALL.preprocessing
    average = trainer.average.module.state_dict()
    assert all(torch.equal(tensor, average[name]) for name, tensor in loaded.model.state_dict().items())


def test_training_learns(discs: Path, tmp_path: Path) -> None:
    """Bright discs on dark ground are found after a few dozen steps."""
    recipe = dataclasses.replace(SMALL, stages=(Stage(64, 1.0),), steps=40, batch_size=8, warm_up=5, ema=0.8)
    before = Trainer(recipe, gather([discs], recipe), tmp_path / "before").validate()["discs"]
    after = run(discs, tmp_path / "after", recipe).validate()["discs"]
    assert after["MAE"] < 0.5 * before["MAE"]
    assert after["S"] > before["S"]


def test_a_loss_that_is_no_number_is_told_and_nothing_is_spoilt(discs: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, gather([discs], SMALL), tmp_path / "out")
    with torch.no_grad():
        trainer.model.decoder.head.bias.fill_(float("nan"))
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    with pytest.raises(Diverged, match="not finite at step 0"):
        trainer.run()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num())


def test_learning_rate_rises_stays_and_falls() -> None:
    recipe = dataclasses.replace(RECIPES["pocket"], steps=1000, warm_up=100, cool_down=0.4)
    rates = [recipe.learning_rate_at(step) / recipe.learning_rate for step in (0, 49, 99, 600, 800, 999)]
    assert rates == pytest.approx([0.01, 0.5, 1, 1, 0.5, 0.0025])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"stages": (Stage(64, 0.5),)}, "the last one 1"),
        ({"stages": (Stage(60, 1.0),)}, "multiples of 32"),
        ({"batch_size": 1}, "at least 2"),
        ({"precision": "bf16"}, "unknown precision 'bf16'; did you mean 'bfloat16'"),
        ({"model": dataclasses.replace(PRESETS["pocket"], classes=3)}, "matte sets tell no classes"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        dataclasses.replace(SMALL, **change)


def test_scores_of_known_mattes() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 255
    perfect = score([((truth / 255).astype(np.float32), truth)])
    assert perfect["S"] == pytest.approx(1, abs=1e-6)
    assert perfect["MAE"] == 0
    # A flat half is a flat half: nothing is stretched to fill [0, 1].
    assert score([(np.full((40, 40), 0.5, np.float32), truth)])["MAE"] == 0.5
    with pytest.raises(InputError, match="nothing to validate on"):
        score([])
