"""Scaling and shifting logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import decoupe
from decoupe import InputError
from decoupe.cli import app
from decoupe.models import BiRefNet
from decoupe.models.birefnet import PRESETS
from decoupe.training.calibration import Calibration, as_trained, calibrate, fit, seen
from decoupe.training.recipes import RECIPES, SetRule
from decoupe.training.tasks import VALIDATION_SIDE, divide
from decoupe.weights.checkpoint import save_model
from decoupe.weights.registry import Preprocessing
from drawn import draw_pair, soft_disc

TINY = dataclasses.replace(PRESETS["pocket"], block_width=16, context_width=16, squeeze="none")


def test_the_two_numbers_go_into_the_last_layer() -> None:
    torch.manual_seed(0)
    model = BiRefNet(TINY).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model(image).logits
        calibrate(model, Calibration(1.5, -0.25))
        after = model(image).logits
    assert torch.allclose(after, 1.5 * before - 0.25, atol=1e-5)


def test_a_refiner_is_refused() -> None:
    with pytest.raises(InputError, match="only a BiRefNet without a refiner is calibrated"):
        calibrate(BiRefNet(dataclasses.replace(TINY, refiner="unet")), Calibration(1, 0))


def test_what_was_done_to_good_logits_is_undone() -> None:
    """Mattes that are timid, and lean to the subject, become sure, and stand where the truth does."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(4):
        distance = np.linspace(-4, 4, 80)[np.newaxis] + rng.normal(0, 0.3, (60, 1))
        pictures.append(((distance + 1).astype(np.float32), np.where(distance > 0, 255, 0).astype(np.uint8)))
    found = fit(pictures)
    assert found.scale >= 2
    assert -found.shift / found.scale == pytest.approx(1, abs=0.51)


def test_soft_truths_stay_soft() -> None:
    """What is right already is not hardened, though the S-measure cuts such truths at one half."""
    truth = np.asarray(soft_disc(80, 60)).copy()
    alpha = truth.clip(1, 254) / 255
    pictures = [(np.log(alpha / (1 - alpha)).astype(np.float32), truth)]
    assert fit(pictures) == Calibration(1.0, 0.0)


def test_pieces_without_a_subject_are_looked_at_where_the_recipe_shows_them(discs: Path) -> None:
    def found(share: float) -> tuple[int, int]:
        recipe = RECIPES["pocket"]
        recipe = dataclasses.replace(
            recipe, augmentation=dataclasses.replace(recipe.augmentation, empty=share)
        )
        pictures = seen(decoupe.load(), recipe, [discs], most=8)
        assert all(logits.shape == truth.shape for logits, truth in pictures)
        empty = sum(not truth.any() for _, truth in pictures)
        return len(pictures) - empty, empty

    assert found(0.0) == (8, 0)
    pairs, all_pieces = found(1.0)
    assert pairs == 8
    assert 0 < found(0.5)[1] < all_pieces <= 8


def test_what_the_model_s_own_run_held_out_is_left_alone(discs: Path) -> None:
    """Whatever the recipe that is named holds out."""
    named = dataclasses.replace(RECIPES["pocket"], sets=(), held_out=0.25)
    own = dataclasses.replace(named, split_seed=3, sets=(SetRule("discs", held_out=9),))
    held_out = [divide(one, [discs], ())[1] for one in (named, own, as_trained(named, own.plain()))]
    assert held_out[0] != held_out[1] == held_out[2]
    assert as_trained(named, {}) == named


def test_large_photographs_are_looked_at_as_while_training(tmp_path: Path) -> None:
    for row in range(2):
        draw_pair(tmp_path / "set", f"{row}", seed=row, size=(1500, 900))
    recipe = dataclasses.replace(RECIPES["pocket"], held_out=0.0)
    for logits, truth in seen(decoupe.load(), recipe, [tmp_path / "set"], most=2):
        assert max(logits.shape) <= VALIDATION_SIDE
        assert logits.shape == truth.shape


def test_the_command_writes_a_model_that_scores_better(discs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, out = BiRefNet(TINY), tmp_path / "calibrated.safetensors"
    preprocessing = Preprocessing((64, 64), fit="keep", size_range=(32, 128))
    save_model(model, tmp_path / "timid.safetensors", family="birefnet", preprocessing=preprocessing)
    arguments = ["calibrate", "pocket", str(tmp_path / "timid.safetensors"), str(out), "--data", str(discs)]
    done = CliRunner().invoke(app, [*arguments, "--most", "6"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert "logits are scaled by" in done.stderr
    assert decoupe.load(out).runtime.preprocessing == preprocessing
    assert (out.stat().st_mode & 0o777) == (tmp_path / "timid.safetensors").stat().st_mode & 0o777
