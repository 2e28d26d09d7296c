"""A recipe: everything that decides a training run, as frozen data that prints, saves and loads as YAML."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from decoupe.errors import ConfigError, unknown
from decoupe.models.birefnet import BiRefNetConfig
from decoupe.models.inspyrenet import InSPyReNetConfig
from decoupe.models.maskformer import MaskFormerConfig
from decoupe.training.augment import Augmentation
from decoupe.training.criteria import BiRefNetCriterion, InSPyReNetCriterion, PixelWeights
from decoupe.training.fields import from_plain, to_plain, to_yaml
from decoupe.training.lora import LoRA
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.segment_augment import SegmentAugmentation
from decoupe.weights.registry import Preprocessing

Config = BiRefNetConfig | InSPyReNetConfig | MaskFormerConfig
Criterion = BiRefNetCriterion | InSPyReNetCriterion | MaskFormerCriterion


@dataclass(frozen=True)
class Family:
    """The parts of a recipe that differ between families."""

    config: type[Any]
    criterion: type[Any]
    augmentation: type[Any]


FAMILIES = {
    "birefnet": Family(BiRefNetConfig, BiRefNetCriterion, Augmentation),
    "inspyrenet": Family(InSPyReNetConfig, InSPyReNetCriterion, Augmentation),
    "maskformer": Family(MaskFormerConfig, MaskFormerCriterion, SegmentAugmentation),
}


@dataclass(frozen=True)
class Stage:
    """A stretch of the run at one input size.

    Attributes:
        size: ``(height, width)`` of the training pictures in pixels, multiples of 32.
        until: share of all steps at which it ends.
    """

    size: tuple[int, int]
    until: float = 1.0


@dataclass(frozen=True)
class SetRule:
    """What is special about one set of the data.

    Attributes:
        name: of its folder.
        repeats: how often an epoch shows each of its pictures.
        held_out: pairs that are never trained on, for validation.
    """

    name: str
    repeats: int = 1
    held_out: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for pictures that are shown never, or fewer than none held out."""
        for name, least in (("repeats", 1), ("held_out", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{self.name}'s {name} is {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True)
class Optimizer:
    """How gradients become steps.

    Attributes:
        name: ``adamw`` or ``adam``.
        learning_rate: its highest value, at ``at_batch`` pictures a step.
        at_batch: the batch that the learning rate is meant for: at another it is scaled by the square root of
            the ratio, as in BiRefNet's code; None never scales it.
        backbone: the backbone's learning rate, as a share of the rest's; 0 freezes it.
        weight_decay: of every parameter but ``undecayed``.
        undecayed: what weight decay leaves alone: ``biases``, ``norms``, and ``embeddings``, with whatever
            else is learnt of positions.
        shape: of the learning rate over the run: ``constant``, ``linear`` down to 0, ``poly`` (a power of
            what is left), ``cosine``, or ``steps`` (a tenth after each milestone).
        power: of ``poly``.
        milestones: of ``steps``, as shares of the run.
        floor: least learning rate of ``poly`` and ``cosine``.
        warm_up: steps over which the learning rate grows linearly.
        warm_up_from: where it begins to, as a share of its highest value.
        warm_up_limits: the shape's learning rate is the growing one at most, instead of multiplied by it.
        cool_down: share of all steps at the end over which it falls linearly to 0.
        clip: largest norm of all gradients together; None for any.
    """

    name: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 1e-4
    at_batch: int | None = None
    backbone: float = 1.0
    weight_decay: float = 0.01
    undecayed: tuple[Literal["biases", "norms", "embeddings"], ...] = ("biases", "norms", "embeddings")
    shape: Literal["constant", "linear", "poly", "cosine", "steps"] = "constant"
    power: float = 0.9
    milestones: tuple[float, ...] = ()
    floor: float = 0.0
    warm_up: int = 0
    warm_up_from: float = 0.001
    warm_up_limits: bool = False
    cool_down: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for what no step can be made with."""
        for name in ("learning_rate", "backbone", "weight_decay", "floor", "cool_down", "warm_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}, expected a number from 0")
        if not 0 <= self.warm_up_from <= 1:
            raise ConfigError(f"optimizer.warm_up_from is {self.warm_up_from}, expected a share from 0 to 1")
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"optimizer.clip is {self.clip}, expected a positive norm, or null for none")
        if bool(self.milestones) != (self.shape == "steps"):
            raise ConfigError("optimizer.milestones belong to shape 'steps', and it needs some: give both")

    def learning_rate_at(self, step: int, steps: int, batch_size: int) -> float:
        """The learning rate of one step of ``steps``, of everything but the backbone."""
        scale = math.sqrt(batch_size / self.at_batch) if self.at_batch else 1.0
        risen = min(1.0, step / self.warm_up) if self.warm_up else 1.0
        rise = self.warm_up_from * (1 - risen) + risen
        fall = min(1.0, (steps - step) / (self.cool_down * steps)) if self.cool_down else 1.0
        left = 1 - step / steps
        shapes: dict[str, float] = {
            "constant": 1.0,
            "linear": left,
            "poly": left**self.power,
            "cosine": (1 + math.cos(math.pi * (1 - left))) / 2,
            "steps": 0.1 ** sum(1 - left >= milestone for milestone in self.milestones),
        }
        highest = self.learning_rate * scale
        shaped = max(self.floor, highest * shapes[self.shape])
        return fall * (min(shaped, highest * rise) if self.warm_up_limits else shaped * rise)


SHARPENING = PixelWeights(
    bce=0, iou=0.5, ssim=1, mae=0.9, mse=1, patch_iou=1, contour=1, regulariser=1, structure=1
)
"""What weights are multiplied with at each of the last epochs, except for matting."""


@dataclass(frozen=True)
class LastEpochs:
    """Region-level fine-tuning: weights of the pixel losses multiplied anew at each of the last epochs.

    Zheng et al. 2024, section III-E: with the cross entropy off, the last epochs sharpen regions.

    Attributes:
        epochs: how many.
        factors: of each loss's weight, once more at each epoch.
    """

    epochs: int
    factors: PixelWeights = SHARPENING


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of one recipe on one machine's CPU are the same to the bit.

    Attributes:
        family: ``birefnet``, ``inspyrenet`` or ``maskformer``.
        about: what it makes, in a line.
        model: configuration of the network; None takes that of ``start``.
        start: checkpoint to begin from: a name of the catalogue, a file, a hub id; None begins at random.
        backbone: weights of the backbone to begin from: ``imagenet``, or a file; None begins at random.
        drop_path: stochastic depth of the backbone's last block, to which it rises from 0 at the first; None
            is the backbone's own.
        preprocessing: how a picture becomes the trained network's input, saved with the weights; None takes
            that of ``start``.
        stages: input sizes in the order of the run; none takes the size of ``start``.
        dynamic: least and largest side in pixels: each batch draws its own size, a multiple of 32, instead of
            the stage's.
        epochs: passes over the data; None where ``steps`` says how long the run is.
        steps: optimiser steps of the whole run; None where ``epochs`` does.
        batch_size: pictures an optimiser step, over all processes.
        accumulate: parts in which each process computes its share of a batch, one after the other.
        optimizer: see `Optimizer`.
        ema: decay of the running average of the weights, which is what is validated and saved; 0 for none.
        precision: of the forward pass: ``float32``, ``bfloat16``, or ``float16`` with a scaled loss on CUDA.
        criterion: what the output costs.
        last_epochs: see `LastEpochs`; of matte models.
        augmentation: what happens to each sample.
        sets: what is special about some of the data's sets.
        held_out: share of every other set that is held out without validation data; at most 200 of each.
        validate_every: steps between validations; None is once an epoch.
        patience: validations without a better result after which the run stops; None never stops early.
        lora: train low-rank updates of the backbone's linear layers instead of the backbone.
        frozen: parts of the network that stay as they begin, by their names, which those of their tensors
            begin with: ``encoder.backbone.stem``.
        freeze_norms: batch norms keep their statistics, as small batches and small data need.
        checkpointing: compute the activations of repeated blocks twice to save their memory.
        compile: let torch.compile fuse the network.
        seed: of everything random but `split_seed`'s choice.
        split_seed: of the pairs that are held out: apart from ``seed``, so that a run repeated with another
            one, or begun from another's weights, is judged by pairs that neither was trained on.
    """

    family: str
    about: str = ""
    model: Config | None = None
    start: str | None = None
    backbone: str | None = None
    drop_path: float | None = None
    preprocessing: Preprocessing | None = None
    stages: tuple[Stage, ...] = ()
    dynamic: tuple[int, int] | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 4
    accumulate: int = 1
    optimizer: Optimizer = Optimizer()
    ema: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    criterion: Criterion = field(default_factory=BiRefNetCriterion)
    last_epochs: LastEpochs | None = None
    augmentation: Augmentation | SegmentAugmentation = field(default_factory=Augmentation)
    sets: tuple[SetRule, ...] = ()
    held_out: float = 0.05
    validate_every: int | None = None
    patience: int | None = None
    lora: LoRA | None = None
    frozen: tuple[str, ...] = ()
    freeze_norms: bool = False
    checkpointing: bool = False
    compile: bool = False
    seed: int = 20261120
    split_seed: int = 20261120

    def __post_init__(self) -> None:
        """Raise ConfigError for a run that cannot be."""
        if self.family not in FAMILIES:
            raise ConfigError(unknown("family", self.family, FAMILIES))
        family = FAMILIES[self.family]
        for name, kind in (("criterion", family.criterion), ("augmentation", family.augmentation)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name} is {type(getattr(self, name)).__name__}, expected {kind.__name__}")
        if self.model is not None and not isinstance(self.model, family.config):
            raise ConfigError(f"model is {type(self.model).__name__}, expected {family.config.__name__}")
        if self.start is None and (self.model is None or self.preprocessing is None):
            raise ConfigError(
                "a run from random weights needs model and preprocessing; or give start, a checkpoint"
            )
        if self.start is not None and self.backbone is not None:
            raise ConfigError(
                f"start={self.start} fills the backbone as well as the rest: leave it or backbone out"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("the run's length is epochs or steps: set one of them, and the other to null")
        for name in ("epochs", "steps", "batch_size", "accumulate", "validate_every", "patience"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ConfigError(f"{name} is {count}, expected at least 1")
        for name in ("seed", "split_seed"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} is {value}, expected at least 0")
        ends = [stage.until for stage in self.stages]
        if (ends or self.start is None) and (ends != sorted(ends) or ends[-1:] != [1]):
            raise ConfigError(f"stages end at {ends}: expected growing shares of the run, the last one 1")
        sides = [side for stage in self.stages for side in stage.size] + list(self.dynamic or ())
        if any(side % 32 or side < 32 for side in sides):
            raise ConfigError(f"input sides are {sides}, expected multiples of 32")
        if self.dynamic and self.dynamic[0] > self.dynamic[1]:
            raise ConfigError(f"dynamic is {list(self.dynamic)}, expected the least side, then the largest")
        for name, below in (("ema", 1.0), ("held_out", 0.9), ("drop_path", 1.0)):
            if not 0 <= (getattr(self, name) or 0.0) < below:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected from 0 to below {below}")
        if self.last_epochs and not isinstance(self.criterion, BiRefNetCriterion):
            raise ConfigError("last_epochs change the pixel losses of a BiRefNet: set it to null here")
        if self.frozen and self.start is None and self.backbone is None:
            raise ConfigError(
                f"frozen keeps {self.frozen[0]} at random weights: give backbone or start, or frozen=[]"
            )
        if self.lora and self.optimizer.backbone == 0:
            raise ConfigError("lora trains the backbone, optimizer.backbone=0 freezes it: choose one")

    def gives_up(self, worse: int) -> bool:
        """Whether so many validations without a better one end the run."""
        return self.patience is not None and worse >= self.patience

    def size_at(self, step: int, steps: int) -> tuple[int, int]:
        """``(height, width)`` of the stage of a step, in pixels."""
        return next(stage.size for stage in self.stages if step < stage.until * steps)

    def criterion_at(self, epoch: int, epochs: int) -> Criterion:
        """The criterion of an epoch of ``epochs``, counted from 0."""
        tuning = self.last_epochs
        # A run that is shorter than its last epochs begins with the first of them.
        times = min(epoch + 1, epoch + 1 - epochs + tuning.epochs) if tuning else 0
        if tuning is None or times <= 0 or not isinstance(self.criterion, BiRefNetCriterion):
            return self.criterion
        weights = {
            one.name: getattr(self.criterion.pixel, one.name) * getattr(tuning.factors, one.name) ** times
            for one in fields(PixelWeights)
        }
        return dataclasses.replace(self.criterion, pixel=PixelWeights(**weights))

    def plain(self) -> dict[str, Any]:
        """As data that JSON and YAML can hold."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def yaml(self) -> str:
        """As YAML that `read_recipe` reads back to the same recipe."""
        return to_yaml(self.plain())


def recipe_from(plain: dict[str, Any]) -> Recipe:
    """The recipe that plain data describe.

    Raises:
        ConfigError: an unknown setting, with the nearest suggested; a wrong type; a run that cannot be.
    """
    if plain.get("family") not in FAMILIES:
        raise ConfigError(unknown("family", str(plain.get("family")), FAMILIES))
    family = FAMILIES[plain["family"]]
    narrowed = {
        "model": family.config | None,
        "criterion": family.criterion,
        "augmentation": family.augmentation,
    }
    recipe: Recipe = from_plain(Recipe, {"criterion": {}, "augmentation": {}, **plain}, narrowed=narrowed)
    return recipe
