"""Where a run begins: the recipe completed by its checkpoint, and the network filled with what there is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from decoupe.backbones.swin import rising
from decoupe.errors import CheckpointError, ConfigError
from decoupe.layers.blocks import StochasticDepth
from decoupe.models import MODELS
from decoupe.training.recipe import Recipe, Stage
from decoupe.weights import load_model
from decoupe.weights.checkpoint import LoadedModel, licence_of
from decoupe.weights.naming import some
from decoupe.weights.pretrained import load_backbone

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
"""Modules whose weights and biases are a norm's."""
MOST_APART = 1.3
"""How many times larger one side may be, of the sizes at which a network is trained and used."""


class Beginning(NamedTuple):
    """Where a run begins.

    Attributes:
        recipe: with nothing left open.
        model: its network, filled with its checkpoint.
        notes: what there is to tell.
        licence: of the checkpoint, which holds for what is made of it; empty where none is known.
        classes: names of the rows of its class head, which came from the checkpoint; empty where there is no
            such head, or it begins at random, or nobody named them.
    """

    recipe: Recipe
    model: nn.Module
    notes: list[str]
    licence: str
    classes: tuple[str, ...] = ()


def begin(recipe: Recipe) -> Beginning:
    """The recipe with nothing left open, and its network filled with its checkpoint.

    A backbone of its own gets its weights by `pretrain`.

    Raises:
        CheckpointError: the checkpoint is broken, or its weights do not fit the recipe's model.
        ConfigError: the checkpoint is of another family, or the network lacks what is frozen.
        UnknownModelError: no checkpoint of that name; the message suggests the nearest.
    """
    loaded = load_model(recipe.start) if recipe.start is not None else None
    if loaded is not None and loaded.family != recipe.family:
        raise ConfigError(
            f"{recipe.start} holds a model of the family {loaded.family!r}, "
            f"the recipe trains {recipe.family!r}: "
            "choose a checkpoint or a recipe of the other's family"
        )
    recipe = completed(recipe, loaded)
    torch.manual_seed(recipe.seed)
    model: nn.Module = MODELS[recipe.family][1](recipe.model)
    names = [name for name, _ in model.named_parameters()]
    for part in recipe.frozen:
        if not any(is_in(name, part) for name in names):
            raise ConfigError(
                f"frozen names {part!r}, which no tensor's name begins with: they are such as {some(names)}"
            )
    if recipe.drop_path is not None:
        set_drop_path(backbone_of(model), recipe.drop_path)
    notes = sizes_apart(recipe)
    if loaded is None:
        return Beginning(recipe, model, notes, "")
    told = fill(model, loaded, str(recipe.start))
    licence = licence_of(str(recipe.start), loaded)
    named = tuple(loaded.vocabulary.names or loaded.extra.get("labels", ()))
    known = named if class_head_of(model) and not told else ()
    return Beginning(recipe, model, notes + loaded.notes + told, licence, known)


def pretrain(recipe: Recipe, model: nn.Module) -> list[str]:
    """Fill the backbone with what the recipe begins it from, if it does; what there is to tell.

    Raises:
        CheckpointError: the file is broken, or another backbone's.
        ConfigError, DownloadError: see `decoupe.weights.pretrained.load_backbone`.
    """
    if recipe.backbone is None or recipe.start is not None:
        return []
    name = recipe.model.backbone  # type: ignore[union-attr]  # completed
    return load_backbone(backbone_of(model), name, recipe.backbone)


def completed(recipe: Recipe, loaded: LoadedModel | None) -> Recipe:
    """The recipe with what it leaves to its checkpoint, and the checkpoint's normalisation.

    Where its size has been set to one beyond the range that it says to be known, the range is one about it.
    """
    model = recipe.model or (loaded.config if loaded else None)
    preprocessing = recipe.preprocessing or (loaded.preprocessing if loaded else None)
    assert model is not None, "a recipe without a checkpoint has both"
    assert preprocessing is not None
    if loaded is not None:  # its weights know pictures as they were given to them
        known = loaded.preprocessing
        preprocessing = dataclasses.replace(
            preprocessing, mean=known.mean, std=known.std, multiple=known.multiple
        )
    (least, most), longest = preprocessing.size_range, preprocessing.longest
    smaller, larger = min(preprocessing.size), max(preprocessing.size)
    if not least <= smaller <= larger <= most:  # a range about the size that the recipe had before
        known_range = smaller // 2, longest or larger * 3 // 2
        preprocessing = dataclasses.replace(preprocessing, size_range=known_range)
    stages = recipe.stages or (Stage(preprocessing.size),)
    return dataclasses.replace(recipe, model=model, preprocessing=preprocessing, stages=stages)


def sizes_apart(recipe: Recipe) -> list[str]:
    """A note where the weights would be used at quite another size than the run ends with."""
    preprocessing = recipe.preprocessing
    if recipe.dynamic is not None or preprocessing is None or preprocessing.fit not in ("stretch", "keep"):
        return []
    trained, used = recipe.stages[-1].size, preprocessing.size
    ratio = math.sqrt(math.prod(trained) / math.prod(used))
    if 1 / MOST_APART <= ratio <= MOST_APART:
        return []
    return [
        f"the run ends at {trained[1]}×{trained[0]}, its weights are judged and used at {used[1]}×{used[0]}: "
        f"--set preprocessing.size=[{trained[0]},{trained[1]}] makes them one"
    ]


def fill(model: nn.Module, loaded: LoadedModel, name: str) -> list[str]:
    """Copy a checkpoint's tensors; a head for other classes stays as it is, anything else must fit."""
    own, given = model.state_dict(), loaded.model.state_dict()
    other = [key for key in own if key not in given or given[key].shape != own[key].shape]
    of_classes = class_head_of(model)
    head = [key for key in other if key in of_classes]
    if other != head or given.keys() - own.keys() - set(head):
        wrong = [key for key in (*other, *given) if key not in head and (key in other or key not in own)]
        raise CheckpointError(
            f"{name} does not fit the recipe's model: {len(wrong)} tensors differ, {wrong[0]} first; "
            "set model to null to take the checkpoint's configuration"
        )
    model.load_state_dict({**own, **{key: value for key, value in given.items() if key not in head}})
    return [f"the class head ({', '.join(head)}) begins at random: it has other classes"] if head else []


def class_head_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with a row for each class."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in ("classifier", "class_head")
    }


def match_classes(model: nn.Module, known: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    """Give the rows of a class head to the classes of its names, however the data number them.

    Args:
        model: with the head.
        known: names of its rows, from the first on.
        wanted: names of the data's classes, in their order; the new ones get the rows that are left over.

    Returns:
        What there is to tell.
    """
    if not known or not wanted:
        return []
    heads = class_head_of(model).values()
    left = list(range(max(map(len, heads))))
    found: list[int | None] = []
    for name in wanted:
        row = next((row for row in left if known[row : row + 1] == (name,)), None)
        found.append(row)
        if row is not None:
            left.remove(row)
    new = [name for name, row in zip(wanted, found, strict=True) if row is None]
    rows = [left.pop(0) if row is None else row for row in found]
    with torch.no_grad():
        for parameter in heads:
            parameter.copy_(parameter[rows + left])
    told = f"the class head does not know {some(new)}: their rows begin as those of other classes"
    return [told] if new else []


def backbone_of(model: nn.Module) -> nn.Module:
    """The image encoder inside a model of any family."""
    found = [module for name, module in model.named_modules() if name.split(".")[-1] == "backbone"]
    backbone: nn.Module = found[0]
    return backbone


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Stochastic depth of its blocks, rising to ``rate`` at the last.

    Raises:
        ConfigError: the backbone has none.
    """
    blocks = [module for module in backbone.modules() if isinstance(module, StochasticDepth)]
    if not blocks:
        raise ConfigError("drop_path is for backbones with stochastic depth, Swin and PVT v2: set it to null")
    for block, own in zip(blocks, rising(rate, len(blocks)), strict=True):
        block.rate = own


def in_backbone(name: str) -> bool:
    """Whether a parameter's name says that it belongs to the backbone."""
    return "backbone" in name.split(".")


def is_in(name: str, part: str) -> bool:
    """Whether a parameter belongs to a part of the network: none of ``stages.10`` does to ``stages.1``."""
    return name == part or name.startswith(f"{part}.")


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trained parameters for the optimiser, by what its learning rate is multiplied with and by weight decay.

    Parameters of a share of 0, and those that the recipe names, are frozen.
    """
    settings = recipe.optimizer
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        share = settings.backbone if in_backbone(name) and recipe.lora is None else 1.0
        if share == 0 or any(is_in(name, part) for part in recipe.frozen):
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        decay = 0.0 if kind_of(model, name) in settings.undecayed else settings.weight_decay
        groups.setdefault((share, decay), []).append(parameter)
    return [
        {"params": parameters, "share": share, "weight_decay": decay, "lr": settings.learning_rate}
        for (share, decay), parameters in groups.items()
    ]


def kind_of(model: nn.Module, name: str) -> str:
    """Whether a parameter is one of ``weights``, ``biases``, ``norms`` or ``embeddings``."""
    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, NORMS):
        return "norms"
    if isinstance(module, nn.Embedding) or not (own.endswith("bias") or "weight" in name):
        return "embeddings"  # tables of positions, tokens, scales of layers
    return "biases" if own.endswith("bias") else "weights"
