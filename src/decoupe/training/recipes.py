"""Recipes by name, and how they are read.

`RECIPES` holds those of the three papers, and of the embedded model. Where a paper and its released code
differ, the released code is followed: it made the weights that people use. ``docs/training.md`` names
the exceptions.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from decoupe.errors import ConfigError, InputError, unknown
from decoupe.models.birefnet import PRESETS as BIREFNETS
from decoupe.models.inspyrenet import InSPyReNetConfig
from decoupe.models.maskformer import BACKBONE_NAMES
from decoupe.models.maskformer import PRESETS as MASKFORMERS
from decoupe.training.augment import BIREFNET, INSPYRENET, MATTING, POCKET
from decoupe.training.criteria import GENERAL, BiRefNetCriterion, InSPyReNetCriterion, PixelWeights
from decoupe.training.criteria import MATTING as MATTING_WEIGHTS
from decoupe.training.fields import from_yaml, override, to_plain
from decoupe.training.matching import MaskFormerCriterion
from decoupe.training.recipe import (
    SHARPENING,
    LastEpochs,
    Optimizer,
    Recipe,
    SetRule,
    Stage,
    recipe_from,
)
from decoupe.training.segment_augment import ADE20K, COCO
from decoupe.weights import load_model
from decoupe.weights.registry import CATALOGUE, Preprocessing


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
