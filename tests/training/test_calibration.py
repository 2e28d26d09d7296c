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
from decoupe.evaluation.mattes import MatteScores
from decoupe.models import BiRefNet
from decoupe.models.birefnet import PRESETS
from decoupe.training import calibration
from decoupe.training.calibration import (
    TRIED,
    Calibration,
    as_trained,
    calibrate,
    chosen_pairs,
    costs,
    fit,
    seen,
)
from decoupe.training.division import divide
from decoupe.training.recipe import SetRule
from decoupe.training.recipes import RECIPES
from decoupe.training.tasks import VALIDATION_SIDE
from decoupe.weights import load_model
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


@pytest.mark.parametrize("kind", ["disc", "corner", "empty", "full", "soft"])
def test_what_calibrations_cost_is_what_the_measures_say(kind: str) -> None:
    """Counted once for all, whatever the subject."""
    truth = {
        "disc": np.hypot(*np.mgrid[-40:40, -60:50]) < 25,
        "corner": np.pad(np.ones((9, 9)), ((60, 0), (0, 80))),
        "empty": np.zeros((60, 70)),
        "full": np.ones((60, 70)),
        "soft": np.asarray(soft_disc(80, 60)) / 255,
    }[kind]
    truth = (255 * truth).round().astype(np.uint8)
    logits = (truth / 64 - 2 + np.random.default_rng(0).normal(0, 2, truth.shape)).astype(np.float32)
    columns = ("MSE",) if kind == "soft" else ("S", "MAE")
    found = costs(logits, truth, soft=kind == "soft")
    for cost, tried in [*zip(found, TRIED, strict=True)][::20]:
        scores = MatteScores(columns)
        scores.update(1 / (1 + np.exp(-(tried.scale * logits + tried.shift))), truth)
        result = scores.result()
        assert cost == pytest.approx(
            result["MSE"] if kind == "soft" else result["MAE"] - result["S"], abs=2e-5
        )


def test_soft_truths_stay_soft() -> None:
    """What is right already is not hardened, though the S-measure cuts such truths at one half."""
    truth = np.asarray(soft_disc(80, 60)).copy()
    alpha = truth.clip(1, 254) / 255
    pictures = [(np.log(alpha / (1 - alpha)).astype(np.float32), truth)]
    assert fit(pictures) == Calibration(1.0, 0.0)


def test_pieces_without_a_subject_are_looked_at_where_the_recipe_shows_them(
    discs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_model(BiRefNet(TINY), file, family="birefnet", preprocessing=Preprocessing((64, 64), fit="keep"))
    model = decoupe.load(file)

    def found(share: float) -> tuple[int, int]:
        recipe = RECIPES["pocket"]
        recipe = dataclasses.replace(
            recipe, augmentation=dataclasses.replace(recipe.augmentation, empty=share)
        )
        pictures = seen(model, recipe, chosen_pairs(recipe, [discs], most=8))
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
    pairs = chosen_pairs(recipe, [tmp_path / "set"], most=2)
    for logits, truth in seen(decoupe.load(), recipe, pairs):
        assert max(logits.shape) <= VALIDATION_SIDE
        assert logits.shape == truth.shape


def test_the_command_writes_a_model_that_scores_better(discs: Path, tmp_path: Path) -> None:
    """Which can be calibrated again: it still tells what its run held out."""
    torch.manual_seed(0)
    timid, out, again = (tmp_path / f"{name}.safetensors" for name in ("timid", "calibrated", "again"))
    preprocessing = Preprocessing((64, 64), fit="keep", size_range=(32, 128))
    run = dataclasses.replace(RECIPES["pocket"], sets=(SetRule("discs", held_out=9),)).plain()
    about = {"recipe": run, "step": 3, "scores": {"discs": {"S": 0.5}}}
    save_model(BiRefNet(TINY), timid, family="birefnet", preprocessing=preprocessing, extra=about)

    def told(source: Path, target: Path) -> str:
        arguments = ["calibrate", "pocket", str(source), str(target), "--data", str(discs), "--most", "6"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.strip() == str(target)
        return done.stderr

    assert "logits are scaled by" in told(timid, out)
    assert decoupe.load(out).runtime.preprocessing == preprocessing
    assert (out.stat().st_mode & 0o777) == timid.stat().st_mode & 0o777
    assert load_model(out).extra == {"recipe": run, "step": 3}  # the scores are of other mattes
    assert "does not tell which pairs" not in told(out, again)


def test_an_optimum_at_the_edge_of_what_is_tried_is_told(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edge = tmp_path / "model.safetensors", Calibration(3.0, -5.0)
    save_model(BiRefNet(TINY), model, family="birefnet", preprocessing=Preprocessing((64, 64), fit="keep"))
    for found, is_told in ((edge, True), (Calibration(1.0, 0.0), False)):
        monkeypatch.setattr(calibration, "fit", lambda pictures, found=found: found)
        arguments = ["pocket", str(model), str(tmp_path / f"{is_told}.safetensors"), "--data", str(discs)]
        done = CliRunner().invoke(app, ["calibrate", *arguments, "--most", "1"])
        assert ("scale 3 and shift -5 are at the edge of what is tried" in done.stderr) is is_told
