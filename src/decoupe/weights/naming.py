"""Renaming tensors by rules, and telling about them: what every family's conversion shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from decoupe.backbones import build_backbone
from decoupe.errors import CheckpointError, ConfigError, unknown

State = Mapping[str, Tensor | NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
Section = tuple[str, str, Sequence[Rule]]
"""A part of a model: the prefix of its tensors here, that in the reference, and rules for what follows it."""

# Buffers that are computed from sizes, or count batches or averages: they carry no knowledge.
IGNORED = re.compile(r"(^|\.)(relative_position_index|attn_mask|num_batches_tracked|n_averaged)$")


def rename(key: str, rules: Sequence[Rule]) -> str:
    """``key`` after every rule, one after the other: a pattern, and what replaces it."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def numbered(template: str, first: int, step: int) -> Callable[[re.Match[str]], str]:
    """A replacement: the match's groups in ``template``, the last renumbered ``first + step · number``."""
    return lambda match: template.format(*match.groups()[:-1], first + step * int(match.groups()[-1]))


def filled_in(options: Mapping[str, Any], released: Mapping[str, Any]) -> dict[str, Any]:
    """Options under a reference's names, those left out as ``released``; ConfigError for one it has not."""
    for name in options:
        if name not in released:
            raise ConfigError(unknown("option of the reference", str(name), released))
    return {**released, **options}


def chosen(option: str, value: Any, known: Mapping[Any, Any]) -> Any:
    """What an option's value stands for; ConfigError for one that the reference has not."""
    if value not in list(known):  # a list has no hash
        raise ConfigError(unknown(f"{option} of the reference", str(value), [str(name) for name in known]))
    return known[value]


def reference_names(sections: Sequence[Section], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The reference's name -> ours, of every tensor that carries knowledge, by the first section it is in."""
    names = {}
    for key in knowledge(state):
        ours, theirs, rules = next(section for section in sections if key.startswith(section[0]))
        names[theirs + rename(key.removeprefix(ours), rules)] = key
    return names


def infer_backbone(
    shapes: Shapes, prefix: str, backbones: Iterable[str], rules_of: Callable[[str], Sequence[Rule]]
) -> str:
    """The backbone whose names and shapes are those of a file.

    Args:
        shapes: of the file's tensors, under the reference's names.
        prefix: what the names of the backbone's tensors begin with there.
        backbones: names in `decoupe.backbones.BACKBONES` that may be in it.
        rules_of: of such a name, from our names of its tensors to the reference's.

    Raises:
        CheckpointError: there is no backbone, or it is none of these; the message names the nearest, and what
            of it is missing, of another shape or left over.
    """
    found = {key: shape for key, shape in shapes.items() if key.startswith(prefix)}
    if not found:
        raise CheckpointError(
            f"no backbone ({prefix + '…'!r}) among {len(shapes)} tensors ({some(list(shapes))}): "
            "is it another model's file?"
        )
    known: dict[str, Shapes] = {}
    for name in backbones:
        own, rules = shapes_of(knowledge(meta_backbone(name).state_dict())), rules_of(name)
        known[name] = {prefix + rename(key, rules): shape for key, shape in own.items()}
        if known[name] == found:
            return name
    nearest = max(known, key=lambda name: len(known[name].items() & found.items()))
    expected = known[nearest]
    faults = {
        "missing": [key for key in expected if key not in found],
        "of another shape": [key for key in expected if key in found and found[key] != expected[key]],
        "left over": [key for key in found if key not in expected],
    }
    told = [f"{len(keys)} {fault} ({some(keys)})" for fault, keys in faults.items() if keys]
    raise CheckpointError(
        f"the backbone fits none that decoupe knows; nearest is {nearest!r}: {', '.join(told)}; "
        "is it another model's file?"
    )


@cache
def meta_backbone(name: str) -> Any:
    """The backbone ``name`` of decoupe, of which only names and shapes exist."""
    with torch.device("meta"):
        return build_backbone(name)


def knowledge(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict that carry knowledge."""
    return {key: value for key, value in state.items() if not IGNORED.search(key)}


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor or array."""
    return {key: tuple(value.shape) for key, value in state.items()}


def width_of(shapes: Shapes, key: str, axis: int = 0, default: int | None = None) -> int:
    """How many channels one tensor has along ``axis``, or ``default`` where there is no such tensor.

    Raises:
        CheckpointError: it is not there and there is no default, or it has too few axes.
    """
    if key not in shapes and default is not None:
        return default
    shape = shapes.get(key, ())
    if axis >= len(shape):
        found = f"tensor {key!r} is {shape}" if key in shapes else f"no tensor {key!r} among {len(shapes)}"
        raise CheckpointError(f"{found}: is it another model's file?")
    return shape[axis]


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a tensor or an array."""
    return isinstance(value, Tensor | np.ndarray)


def as_tensor(name: str, value: Tensor | NDArray[Any]) -> Tensor:
    """A tensor of the reference's as one of PyTorch's.

    Raises:
        CheckpointError: it holds no real numbers.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # PyTorch takes no foreign order of bytes and no step backwards, and warns of what cannot be written.
        value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, Tensor) or value.is_complex():
        raise CheckpointError(
            f"tensor {name!r} holds {value.dtype}, expected real numbers: is it a weights file?"
        )
    return value


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of ``names``, as text."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
