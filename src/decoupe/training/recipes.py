"""Recipes: everything that decides a training run, as frozen data that prints, saves and loads as YAML.

`RECIPES` holds those of the three papers, and of the embedded model. Where a paper and its released code
differ, the released code is followed: it made the weights that people use. ``docs/training.md`` names
the exceptions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from decoupe.errors import ConfigError, InputError, unknown
from decoupe.models.birefnet import PRESETS as BIREFNETS
from decoupe.models.birefnet import BiRefNetConfig
from decoupe.models.inspyrenet import InSPyReNetConfig
from decoupe.models.maskformer import BACKBONE_NAMES, MaskFormerConfig
from decoupe.models.maskformer import PRESETS as MASKFORMERS
from decoupe.training.augment import BIREFNET, INSPYRENET, MATTING, POCKET, Augmentation
from decoupe.training.criteria import GENERAL, BiRefNetCriterion, InSPyReNetCriterion, PixelWeights
from decoupe.training.criteria import MATTING as MATTING_WEIGHTS
from decoupe.training.fields import from_plain, from_yaml, override, to_plain, to_yaml
from decoupe.training.lora import LoRA
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.segment_augment import ADE20K, COCO, SegmentAugmentation
from decoupe.weights import load_model
from decoupe.weights.registry import CATALOGUE, Preprocessing

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


def read_recipe(name: str, settings: Sequence[str] = (), *, start: str | None = None) -> Recipe:
    """A recipe by name or ``.yaml`` file, with ``KEY=VALUE`` settings.

    Args:
        name: of `RECIPES`, or a file.
        settings: see `decoupe.training.fields.override`.
        start: checkpoint to begin from, instead of the recipe's; its configuration is the model's then, and
            ``finetune`` is that of its family.

    Raises:
        InputError: the file cannot be read.
        ConfigError: no recipe of that name, the nearest is suggested; or what `recipe_from` raises.
        UnknownModelError: no checkpoint of that name.
    """
    plain = _read(name)
    if start is not None:
        if name == "finetune":
            plain = FINETUNES[load_model(start).family].plain()
        plain |= {"start": start, "model": None, "backbone": None}
    keys = {setting.partition("=")[0] for setting in settings}
    changed = override(_with_parts(plain, keys), settings)
    # A run's length has one unit: who sets one of them means it instead of the other.
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in keys and other not in keys:
            changed[other] = None
    try:
        return recipe_from(changed)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _with_parts(plain: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A recipe whose parts that are to be set are there: the network is that of its checkpoint."""
    named = {key.partition(".")[0] for key in keys if "." in key}
    start = plain.get("start")
    if start is not None and named & {"model", "preprocessing"}:
        loaded = load_model(start)
        found = {"model": to_plain(loaded.config), "preprocessing": to_plain(loaded.preprocessing)}
        plain = {**plain, **{key: value for key, value in found.items() if plain.get(key) is None}}
    with contextlib.suppress(ConfigError):  # told when the settings are in it
        plain = recipe_from(plain).plain()
    return {**plain, **{part: {} for part in named & {"lora", "last_epochs"} if plain.get(part) is None}}


def _read(name: str) -> dict[str, Any]:
    """A recipe's plain data, by name or from a file."""
    if Path(name).suffix in (".yaml", ".yml"):
        try:
            return from_yaml(Path(name).read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read the recipe {name}: {reason}") from error
    if name not in RECIPES:
        raise ConfigError(unknown("recipe", name, RECIPES))
    return RECIPES[name].plain()


def _birefnet(
    about: str, *, epochs: int, last: int, size: tuple[int, int] = (1024, 1024), **changes: Any
) -> Recipe:
    """A published recipe of BiRefNet: section III-E and the released code."""
    recipe = Recipe(
        family="birefnet",
        about=about,
        model=BIREFNETS["birefnet"],
        backbone="imagenet",
        preprocessing=Preprocessing(size, size_range=(512, 1536)),
        stages=(Stage(size),),
        epochs=epochs,
        batch_size=4,
        optimizer=Optimizer(learning_rate=1e-5, at_batch=4, weight_decay=0.01, undecayed=()),
        last_epochs=LastEpochs(last),
        augmentation=BIREFNET,
        held_out=0.0,
        validate_every=None,
        seed=7,
    )
    return dataclasses.replace(recipe, **changes)


def _inspyrenet(about: str, backbone: str, *, high: bool) -> Recipe:
    """A published recipe of InSPyReNet: section 4.1 of its paper; high-resolution ones see 1024² pixels."""
    side = 1024 if high else 384
    return Recipe(
        family="inspyrenet",
        about=f"{about}, {side}×{side}",
        model=InSPyReNetConfig(backbone=backbone, base_size=(side, side)),
        backbone="imagenet",
        preprocessing=Preprocessing(
            (side, side), size_range=(side // 2, side * 3 // 2), two_scale=None if high else (512, 1280)
        ),
        stages=(Stage((side, side)),),
        epochs=60,
        batch_size=1 if high else 6,
        optimizer=Optimizer(
            *("adam", 1e-4),
            backbone=0.1,
            weight_decay=0,
            shape="poly",
            floor=1e-7,
            warm_up=12_000,
            warm_up_from=0.1,
            warm_up_limits=True,
        ),
        precision="float32",
        criterion=InSPyReNetCriterion(),
        augmentation=INSPYRENET,
        held_out=0.0,
        freeze_norms=high,  # one picture has no statistics
    )


def _maskformer(backbone: str, *, panoptic: bool) -> Recipe:
    """A published recipe of MaskFormer: section 4.1 and appendix A of its paper.

    Args:
        backbone: as the preset's name says it.
        panoptic: panoptic segmentation on COCO; else semantic segmentation on ADE20K.
    """
    kind, data = ("panoptic", "COCO's 133") if panoptic else ("semantic", "ADE20K's 150")
    side = 1024 if panoptic else 640 if backbone in ("swin-base", "swin-large") else 512
    shorter, longest = (800, 1333) if panoptic else (side, 4 * side)
    # As the released configurations have them.
    undecayed = Optimizer(undecayed=("norms", "embeddings"), clip=0.01)
    optimizer = (
        dataclasses.replace(undecayed, learning_rate=6e-5, weight_decay=0.01, warm_up=1500, warm_up_from=1e-6)
        if "swin" in backbone
        else dataclasses.replace(undecayed, learning_rate=1e-4, backbone=0.1, weight_decay=1e-4)
    )
    return Recipe(
        family="maskformer",
        about=f"MaskFormer for {kind} segmentation, on {data} classes",
        model=MASKFORMERS[f"maskformer-{backbone}-{'coco' if panoptic else 'ade'}"],
        backbone="imagenet",
        drop_path=0.3 if "swin" in backbone else None,
        preprocessing=Preprocessing(
            (shorter, shorter), fit="shorter", longest=longest, size_range=(shorter // 2, longest)
        ),
        stages=(Stage((side, side)),),
        steps=554_400 if panoptic else 160_000,
        batch_size=64 if panoptic else 16,
        optimizer=dataclasses.replace(optimizer, shape="steps", milestones=(2 / 3,))
        if panoptic
        else dataclasses.replace(optimizer, shape="poly"),
        precision="float32",
        criterion=MaskFormerCriterion(),
        augmentation=COCO if panoptic else ADE20K,
        held_out=0.0,
        validate_every=5000,
        freeze_norms=panoptic and "resnet" in backbone,
    )


_BIREFNETS = {
    "birefnet-dis": _birefnet(
        "BiRefNet for dichotomous segmentation, on DIS5K's DIS-TR",
        epochs=500,
        last=40,
        model=dataclasses.replace(BIREFNETS["birefnet"], classes=225),
        optimizer=Optimizer(learning_rate=1e-4, at_batch=4, weight_decay=0.01, undecayed=()),
    ),
    "birefnet-cod": _birefnet(
        "BiRefNet for camouflaged objects, on COD10K-TR and CAMO-TR", epochs=150, last=20
    ),
    "birefnet-hrsod": _birefnet(
        "BiRefNet for high-resolution saliency, on DUTS-TR, HRSOD-TR and UHRSD-TR", epochs=150, last=20
    ),
    "birefnet-general": _birefnet(
        "BiRefNet for any picture, on all sets joined",
        epochs=200,
        last=20,
        criterion=BiRefNetCriterion(GENERAL),
    ),
    "birefnet-general-2k": _birefnet(
        "BiRefNet-lite for any picture at 2560×1440",
        epochs=250,
        last=20,
        size=(1440, 2560),
        model=BIREFNETS["birefnet-lite"],
        preprocessing=Preprocessing((1440, 2560), size_range=(720, 3840)),
        criterion=BiRefNetCriterion(GENERAL),
    ),
    "birefnet-dynamic": _birefnet(
        "BiRefNet for any picture at any size from 256 to 2304",
        epochs=200,
        last=20,
        preprocessing=Preprocessing((1024, 1024), fit="keep", size_range=(256, 2304)),
        dynamic=(256, 2304),
        criterion=BiRefNetCriterion(GENERAL),
    ),
    "birefnet-matting": _birefnet(
        "BiRefNet for soft mattes, on P3M-10k, AM-2k and their like",
        epochs=150,
        last=10,
        criterion=BiRefNetCriterion(MATTING_WEIGHTS),
        last_epochs=LastEpochs(10, dataclasses.replace(SHARPENING, bce=1, iou=1, mae=1, mse=0.9, ssim=0.9)),
        augmentation=MATTING,
    ),
}

_INSPYRENETS = {
    f"inspyrenet-{name}{'-hr' if high else ''}": _inspyrenet(about, backbone, high=high)
    for name, about, backbone in (
        ("sod-res2net50", "InSPyReNet with Res2Net-50 for salient objects, on DUTS-TR", "res2net50"),
        ("sod-swin", "InSPyReNet with Swin-B for salient objects, on DUTS-TR, HRSOD-TR, UHRSD-TR", "swin_b"),
        ("dis", "InSPyReNet with Swin-B for dichotomous segmentation, on DIS-TR", "swin_b"),
        ("plus-ultra", "InSPyReNet with Swin-B for any picture, on all sets joined", "swin_b"),
    )
    for high in (False, True)
}

_MASKFORMERS = {
    **{f"maskformer-{name}-ade": _maskformer(name, panoptic=False) for name in BACKBONE_NAMES},
    **{
        f"maskformer-{name}-coco": _maskformer(name, panoptic=True)
        for name in BACKBONE_NAMES
        if name != "resnet101c"
    },
}

FINETUNES = {
    family: Recipe(
        family=family,
        about="a checkpoint of any family on a small set of your own: --from MODEL",
        start=start,
        epochs=20,
        batch_size=4,
        optimizer=Optimizer(learning_rate=1e-4, backbone=0.1, warm_up=20, shape="cosine", clip=clip),
        ema=0.98,
        criterion=criterion,
        augmentation=augmentation,
        held_out=0.1,
        freeze_norms=True,
        patience=8,
    )
    for family, start, clip, criterion, augmentation in (
        ("birefnet", "birefnet-lite", 1.0, BiRefNetCriterion(GENERAL), BIREFNET),
        ("inspyrenet", "inspyrenet-fast", 1.0, InSPyReNetCriterion(), INSPYRENET),
        ("maskformer", "maskformer-swin-tiny-ade", 0.01, MaskFormerCriterion(), ADE20K),
    )
}
"""``finetune`` for each family: small data, a slow backbone, norms as they are."""

RECIPES: dict[str, Recipe] = {
    "pocket": Recipe(
        family="birefnet",
        about="the embedded default model: BiRefNet on EfficientNet-Lite0",
        model=BIREFNETS["pocket"],
        backbone="imagenet",
        preprocessing=CATALOGUE["pocket"].preprocessing,
        stages=(Stage((224, 224), 0.62), Stage((352, 352))),
        steps=2600,
        batch_size=32,
        optimizer=Optimizer(
            learning_rate=1e-3, backbone=0.3, weight_decay=0.05, warm_up=60, cool_down=0.8, clip=5.0
        ),
        ema=0.995,
        criterion=BiRefNetCriterion(
            pixel=PixelWeights(bce=0, iou=0, ssim=0, structure=1.0), gradient=0.3, classification=0
        ),
        augmentation=POCKET,
        sets=(
            SetRule("duts-tr", held_out=500),
            SetRule("people", held_out=100),
            SetRule("cats", repeats=6, held_out=100),
        ),
        # Edges and colours are what they were, and at these sizes half the work of a backward pass.
        frozen=("encoder.backbone.stem", "encoder.backbone.stages.0"),
        validate_every=650,
    ),
    **_BIREFNETS,
    **_INSPYRENETS,
    **_MASKFORMERS,
    "finetune": FINETUNES["birefnet"],
}
"""Runs with a name: those of the papers; ``finetune`` for small data; ``pocket``, the embedded model."""
