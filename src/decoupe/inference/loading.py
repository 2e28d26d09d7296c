"""The options of `load`, and what of them shows to be wrong before anything is fetched."""

from __future__ import annotations

import os
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from decoupe.errors import InputError, UnknownModelError
from decoupe.inference.media import READABLE
from decoupe.inference.opened import Opened
from decoupe.inference.preprocess import Size, check_size, network_size
from decoupe.memory import parse_memory
from decoupe.runtimes import EXPORTED, check_choices, find_spec
from decoupe.weights.own import resolved
from decoupe.weights.registry import DEFAULT_SEGMENT_MODEL, SEGMENT_FAMILIES, ModelSpec, Preprocessing

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

Kind: TypeAlias = Literal["mattes", "segments"]
"""What a model gives."""


class LoadOptions(TypedDict, total=False):
    """The options of `load`."""

    device: str | torch.device | None
    dtype: str | torch.dtype | None
    size: Size | None
    runtime: str | None
    minmax: bool
    guided: bool | None
    segments: str | Path | None
    fuse: bool
    compile: bool
    memory: int | str | None
    preprocessing: Preprocessing | None
    trust: bool


def check_loading(
    model: str | Path | None, kind: Kind | None = None, **options: Unpack[LoadOptions]
) -> ModelSpec | None:
    """Refuse what the catalogue shows to be wrong; the rest shows when the model is opened.

    Args:
        model: as `load` takes it.
        kind: what it has to give; None where either will do.
        options: of `load`.

    Returns:
        The catalogue's row of the model, or None where it is a file.

    Raises:
        UnknownModelError: no such name or file, of ``model`` or ``segments``.
        InputError: a model of the other kind, or a size, a budget or options that it cannot take.
    """
    spec = _spec_of(model, "model")
    preprocessing = options.get("preprocessing")
    if not isinstance(preprocessing, (Preprocessing, NoneType)):
        raise InputError(
            f"preprocessing is {preprocessing!r}, expected a Preprocessing: decoupe.Preprocessing((320, 320))"
        )
    check_choices(options.get("runtime"), name_of(options.get("dtype")))
    if (memory := options.get("memory")) is not None:
        parse_memory(memory)
    if (size := options.get("size")) is not None:
        check_size(size)
    if (segments := options.get("segments")) is not None:
        _check_kind(_spec_of(segments, "segments"), "segments")
    _check_kind(spec, kind)
    if spec is not None and spec.family:  # of others only the file can tell
        if spec.family in SEGMENT_FAMILIES:
            check_segment_options(spec.name, options)
        network_size((1024, 1024), spec.preprocessing, size)
    return spec


def name_of(chosen: object) -> str | None:
    """A device or a precision as decoupe names it, of PyTorch's own."""
    return None if chosen is None else str(chosen).removeprefix("torch.")


def _spec_of(model: str | Path | None, option: str) -> ModelSpec | None:
    """The catalogue's row of a model; None where it is a file."""
    if isinstance(model, Opened):
        raise InputError(f"{option} is an open model, expected a name or a path: call it with the picture")
    if not isinstance(model, (str, os.PathLike, NoneType)) or model == "":
        raise InputError(f"{option} is {model!r}, expected a name or a path: such as 'birefnet'")
    if model is not None and Path(model).suffix.lower() in READABLE:
        raise UnknownModelError(
            f"{model} is a picture's name, expected a model: an output is named in Matte.save, or with -o"
        )
    return find_spec(model)


def _check_kind(spec: ModelSpec | None, kind: Kind | None) -> None:
    if kind is None or spec is None or not spec.family:
        return
    if (spec.family in SEGMENT_FAMILIES) != (kind == "segments"):
        raise other_kind(spec.name, kind)


def other_kind(name: str, kind: Kind) -> InputError:
    """What tells that a model does not give what it has to."""
    if kind == "mattes":
        return InputError(
            f"{name} names segments and gives no matte: use it with `decoupe segment`, "
            "or beside a matte model (segments=, --segments)"
        )
    return InputError(
        f"{name} gives mattes and names no segments: choose a segment model, such as {DEFAULT_SEGMENT_MODEL}"
    )


def check_segment_options(name: str, options: LoadOptions) -> None:
    """Refuse options of matte models for the segment model ``name``."""
    if options.get("minmax") or options.get("guided") is not None or options.get("segments") is not None:
        raise InputError(f"{name} gives segments, not mattes: leave minmax, guided and segments out")


def shared(
    device: str | None, dtype: str | None, model: str | Path | None, segments: str | Path | None
) -> tuple[str | None, str | None]:
    """Of the device and precision of the matte model, what its segment model takes too."""
    ending = _ending(DEFAULT_SEGMENT_MODEL if segments is None else segments)
    if ending not in EXPORTED:
        return device, dtype
    # Exported files compute in float32, all of them on the CPU; ONNX Runtime has CUDA if it was just used.
    shares = device == "cpu" or ending == _ending(model) == ".onnx"
    return device if shares else None, None


def _ending(model: str | Path | None) -> str:
    """Of the name of a model's file, in small letters."""
    spec = find_spec(model)
    return Path(str(resolved(model)) if spec is None else spec.file).suffix.lower()
