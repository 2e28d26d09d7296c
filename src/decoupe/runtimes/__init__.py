"""What computes: PyTorch and what runs exported files, behind one protocol. Importing this imports none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from decoupe.arrays import Floats
from decoupe.errors import DeviceError, InputError, unknown
from decoupe.memory import Footprint
from decoupe.runtimes.checkpoints import Images, open_torch
from decoupe.runtimes.exported import open_file
from decoupe.runtimes.sessions import OPENVINO_SUFFIX, PROGRAM_SUFFIX
from decoupe.weights import download, located, registry
from decoupe.weights.labels import Vocabulary
from decoupe.weights.own import resolved
from decoupe.weights.registry import ModelSpec, Preprocessing

EXPORTED = {".onnx": "onnx", OPENVINO_SUFFIX: "openvino", PROGRAM_SUFFIX: "program"}
"""Endings of exported files, in small letters, and what computes them."""
RUNTIMES = (*EXPORTED.values(), "torch")
DTYPES = ("float32", "bfloat16", "float16")


class OpenModel(Protocol):
    """A model that is ready to compute, whatever it gives.

    Attributes:
        name: the model's name, or its file's.
        engine: what computes, as its makers call it.
        device: where it computes, as ``"cpu"`` or ``"cuda:0"``.
        dtype: the precision it computes in, one of `DTYPES`.
        preprocessing: how a picture becomes its input.
        notes: what had to be assumed or inferred in opening it, one line each.
        normalises: whether it takes 8-bit pictures as they are and normalises them itself.
    """

    name: str
    engine: str
    device: str
    dtype: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]
    normalises: bool

    def footprint(self) -> Footprint:
        """What computing takes beside the weights; measured when it is first asked for."""
        ...


@runtime_checkable
class Runtime(OpenModel, Protocol):
    """A model that gives mattes; the attributes are those of `OpenModel`."""

    def __call__(self, images: Images, low: Images | None = None) -> Floats:
        """Alpha of a batch.

        Args:
            images: normalised, ``(N, 3, H, W)`` float32; or, where it ``normalises``, as they are,
                ``(N, H, W, 3)`` uint8.
            low: the same pictures at the model's own size, ``(N, 3, h, w)``, for models that look twice.

        Returns:
            Alpha ``(N, 1, H, W)`` in [0, 1].
        """
        ...


@runtime_checkable
class SegmentRuntime(OpenModel, Protocol):
    """A model that gives segments; the attributes are those of `OpenModel`.

    Attributes:
        vocabulary: the names of its K classes.
    """

    vocabulary: Vocabulary

    def __call__(self, images: Images) -> tuple[Floats, Floats]:
        """Images as a `Runtime` takes them -> class logits ``(N, Q, K + 1)``, masks ``(N, Q, h, w)``."""
        ...


def open_runtime(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    runtime: str | None = None,
    fuse: bool = True,
    compiled: bool = False,
    preprocessing: Preprocessing | None = None,
    trust: bool = False,
) -> Runtime | SegmentRuntime:
    """Open a model for computing.

    Args:
        model: a path (``.onnx``, ``.xml``, ``.pt2``, ``.safetensors``, ``.pth``), a name in the catalogue or
            of `own_models`, a hub id ``owner/name``, or None for the embedded default.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None or ``"auto"`` takes the fastest there is.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``; None or ``"auto"`` chooses by device.
        runtime: ``"onnx"``, ``"openvino"``, ``"program"`` or ``"torch"``; None or ``"auto"`` follows from the
            model.
        fuse: compute a checkpoint in its equal, faster form (`decoupe.models.fuse`).
        compiled: compile a checkpoint when it first computes (`decoupe.models.compiled`).
        preprocessing: how a picture becomes the input of a file that does not tell: of others' files.
        trust: open a ``.pt2`` file, which may run whatever code its maker put in; no other file runs any.

    Raises:
        UnknownModelError: no such name or file.
        InputError: a runtime that cannot compute this model, ``fuse=False`` or ``compiled=True`` for an
            exported file, a preprocessing for a file that holds its own, or a ``.pt2`` file that is not
            trusted.
        DeviceError: a device or precision that this machine does not have.
        MissingExtraError: the model needs PyTorch, which is not installed.
        ModelError: the weights cannot be had or read.
    """
    spec = find_spec(model)
    model = resolved(model)
    kind = EXPORTED.get(Path(spec.file if spec is not None else str(model)).suffix.lower(), "torch")
    check_choices(runtime, dtype)
    called = "the embedded model" if model is None else str(model)
    if runtime not in (None, "auto", kind):
        remedy = "export it first" if kind == "torch" else "give its checkpoint, or export that again"
        raise InputError(f"{called} runs on {kind}, not on {runtime}: {remedy}, or leave runtime out")
    if kind == "torch":
        return open_torch(str(model), device or "auto", dtype or "auto", fuse, compiled, preprocessing)
    if compiled:
        raise InputError(f"{called} is an exported file, which is not compiled: leave compile out")
    if not fuse:
        raise InputError(f"{called} is an exported file, fused as it was written: leave fuse out")
    if dtype not in (None, "auto", "float32"):
        raise DeviceError(
            f"dtype {dtype} was asked for, exported files compute in float32: leave dtype or --precision out"
        )
    if kind == "program" and not trust:
        raise InputError(
            f"{model} is a program, and opening it can run any code that its maker put in: where you trust "
            "it add trust=True, or --trust to decoupe cut; else export to .onnx, which runs none"
        )
    path, name = (download.fetch(spec), spec.name) if spec is not None else (Path(str(model)), None)
    return open_file(path, device=device or "auto", name=name, preprocessing=preprocessing)


def find_spec(model: str | os.PathLike[str] | None) -> ModelSpec | None:
    """The catalogue's row for ``model``; None where it is a file.

    Raises:
        UnknownModelError: neither a file, a name nor a hub id; the message suggests the nearest name.
    """
    if model is None:
        return registry.spec(registry.DEFAULT_MODEL)
    found = located(model)
    return found if isinstance(found, ModelSpec) else None


def check_choices(runtime: str | None, dtype: str | None) -> None:
    """Refuse, by InputError, a runtime or a precision of which `open_runtime` does not know any."""
    _check_choice("runtime", runtime, RUNTIMES)
    _check_choice("dtype", dtype, DTYPES)


def _check_choice(kind: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and not (isinstance(value, str) and value in (*known, "auto")):
        raise InputError(unknown(kind, str(value), ("auto", *known)))
