"""Recipes: everything that decides a training run, as frozen data. Saved beside its weights as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

from decoupe.errors import ConfigError, unknown
from decoupe.models.birefnet import PRESETS, BiRefNetConfig
from decoupe.training.augment import Augmentation
from decoupe.training.criteria import BiRefNetCriterion, PixelWeights
from decoupe.weights.registry import Preprocessing


@dataclass(frozen=True)
class Stage:
    """A stretch of the run at one input size: up to ``until`` of all steps, squares of ``size`` pixels."""

    size: int
    until: float


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        model: configuration of the network.
        preprocessing: how a picture will become the trained network's input; saved with the weights.
        stages: input sizes in the order of the run; the last one's ``until`` is 1.
        steps: optimiser steps of the whole run.
        batch_size: pictures a step.
        learning_rate: of AdamW, after the warm-up and before the cool-down.
        weight_decay: of AdamW, on weights of two or more dimensions.
        warm_up: steps of linear growth of the learning rate.
        cool_down: share of all steps at the end over which it falls linearly to 0.
        ema: decay of the running average of the weights, which is what is validated and exported.
        clip: largest gradient norm.
        precision: ``"bfloat16"`` for autocast of the forward pass, or ``"float32"``.
        criterion: what the output costs.
        augmentation: what happens to each sample.
        repeats: how often an epoch shows the pictures of a set, by its folder's name; 1 for the rest.
        held_out: pairs of each set that are never trained on, by its folder's name.
        seed: of everything random.
    """

    model: BiRefNetConfig
    preprocessing: Preprocessing
    stages: tuple[Stage, ...]
    steps: int
    batch_size: int = 32
    learning_rate: float = 2.5e-3
    weight_decay: float = 0.02
    warm_up: int = 200
    cool_down: float = 0.4
    ema: float = 0.998
    clip: float = 5.0
    precision: str = "bfloat16"
    criterion: BiRefNetCriterion = field(default_factory=BiRefNetCriterion)
    augmentation: Augmentation = field(default_factory=Augmentation)
    repeats: tuple[tuple[str, int], ...] = ()
    held_out: tuple[tuple[str, int], ...] = ()
    seed: int = 20261120

    def __post_init__(self) -> None:
        """Raise ConfigError for a run that cannot be."""
        ends = [stage.until for stage in self.stages]
        if not ends or ends != sorted(ends) or ends[-1] != 1:
            raise ConfigError(f"stages end at {ends}: expected growing shares of the run, the last one 1")
        if any(stage.size % 32 for stage in self.stages):
            raise ConfigError("stage sizes are multiples of 32: the network halves its input five times")
        if self.precision not in ("bfloat16", "float32"):
            raise ConfigError(unknown("precision", self.precision, ("bfloat16", "float32")))
        if self.model.classes:
            raise ConfigError("matte sets tell no classes: set classes=0 in the model's configuration")
        if self.batch_size < 2:
            raise ConfigError(
                "batch_size is at least 2: batch norm has nothing to average over in one picture"
            )

    def size_at(self, step: int) -> int:
        """Side of the training squares at a step, in pixels."""
        return next(stage.size for stage in self.stages if step < stage.until * self.steps)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, a plateau, a linear cool-down to 0."""
        rise = (step + 1) / self.warm_up if self.warm_up else 1.0
        fall = (self.steps - step) / (self.cool_down * self.steps) if self.cool_down else 1.0
        return self.learning_rate * min(1.0, rise, fall)


RECIPES: dict[str, Recipe] = {
    "pocket": Recipe(
        model=PRESETS["pocket"],
        preprocessing=Preprocessing((320, 320), fit="keep", size_range=(160, 640)),
        stages=(Stage(128, 0.42), Stage(160, 0.79), Stage(224, 0.97), Stage(320, 1.0)),
        steps=9600,
        cool_down=0.6,
        criterion=BiRefNetCriterion(
            pixel=PixelWeights(bce=0, iou=0, ssim=0, structure=1.0), gradient=0.3, classification=0
        ),
        augmentation=Augmentation(empty=0.03, paste=0.05, noise=0.05, jpeg=0.05),
        repeats=(("people", 2), ("cats", 2)),
        held_out=(("duts-tr", 500), ("people", 100), ("cats", 100)),
    ),
}
"""Runs with a name: ``pocket`` makes the embedded default model."""
