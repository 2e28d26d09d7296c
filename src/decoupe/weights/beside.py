"""What stands beside a weights file in transformers' format, and leaves no trace in its tensors.

The names of its classes, its input's size, how its attentions are divided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoupe.errors import CheckpointError
from decoupe.weights.registry import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


def labels(weights: Path) -> tuple[str, ...] | None:
    """The names of the classes in the ``config.json`` beside ``weights``, by index; None where it has none.

    Raises:
        CheckpointError: a ``config.json`` that cannot be read.
    """
    config = _read(weights.with_name("config.json"))
    names = config.get("id2label")
    if not isinstance(names, Mapping) or not names:
        return None
    try:
        ordered = tuple(str(names[str(index)]) for index in range(len(names)))
    except KeyError as error:
        raise CheckpointError(
            f"{weights.with_name('config.json')} has no label {error} among {len(names)}: number them from 0"
        ) from None
    # What transformers writes where nobody named the classes.
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(ordered)) else ordered


def heads(weights: Path) -> int | None:
    """Of each attention, as the ``config.json`` beside ``weights`` tells it; None where it does not.

    Raises:
        CheckpointError: a ``config.json`` that cannot be read, or tells of a MaskFormer that computes
            otherwise than decoupe's.
    """
    path = weights.with_name("config.json")
    config = _read(path)
    decoder, backbone = (_part(config, name) for name in ("decoder_config", "backbone_config"))
    activation = {"resnet": "relu", "swin": "gelu"}.get(str(backbone.get("model_type")))
    for part, name, expected in (
        (decoder, "activation_function", "relu"),
        (backbone, "hidden_act", activation),
        (backbone, "downsample_in_bottleneck", False),
        (backbone, "downsample_in_first_stage", False),
    ):
        if expected is not None and part.get(name, expected) != expected:
            raise CheckpointError(
                f"{path} says {name} {part[name]!r}, decoupe's MaskFormer has {expected!r}: "
                "its numbers would be others, open it with transformers"
            )
    told = decoder.get("decoder_attention_heads")
    if told is not None and (not isinstance(told, int) or isinstance(told, bool) or told < 1):
        raise CheckpointError(
            f"{path} says decoder_attention_heads {told!r}, expected a whole number from 1: get it again"
        )
    return told


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def preprocessing(weights: Path) -> Preprocessing | None:
    """How pictures enter a model, from the ``preprocessor_config.json`` beside ``weights``; None without one.

    Raises:
        CheckpointError: one that cannot be read, or asks for what no MaskFormer is fed with.
    """
    path = weights.with_name("preprocessor_config.json")
    config = _read(path)
    size: Any = config.get("size")
    if isinstance(size, Mapping):
        longest = size.get("longest_edge", config.get("max_size"))
        sides = [size.get(key) for key in ("height", "width")]
        size = size.get("shortest_edge", sides if all(sides) else None)
    else:
        longest = config.get("max_size")
    if size is None:
        return None
    stretched = isinstance(size, list)
    try:
        height, width = size if stretched else (int(size), int(size))
        return Preprocessing(
            size=(int(height), int(width)),
            fit="stretch" if stretched else "shorter",
            size_range=(min(height, width) // 2, int(longest or 2 * max(height, width))),
            multiple=int(config.get("size_divisor") or config.get("size_divisibility") or 32),
            mean=_three(config.get("image_mean", IMAGENET_MEAN)),
            std=_three(config.get("image_std", IMAGENET_STD)),
            longest=None if stretched or longest is None else int(longest),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used ({error}): get it again, or remove it") from None


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 6) for value in values)  # float32's digits, written in full
    return red, green, blue


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): get it again, or remove it") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected an object: get it again")
    return content
