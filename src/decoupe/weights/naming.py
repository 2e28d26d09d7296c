"""Renaming tensors by rules, and telling about them: what every family's conversion shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from decoupe.errors import CheckpointError

State = Mapping[str, Tensor | NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

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


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of ``names``, as text."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def backbone_in(found: Shapes, known: Mapping[str, Shapes]) -> str:
    """The backbone whose names and shapes are those found.

    Args:
        found: of a checkpoint's backbone.
        known: of every backbone, by its name.

    Raises:
        CheckpointError: none; the message names the nearest, and what of it is missing, of another shape or
            left over.
    """
    nearest = max(known, key=lambda name: len(known[name].items() & found.items()))
    expected = known[nearest]
    if expected == found:
        return nearest
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
