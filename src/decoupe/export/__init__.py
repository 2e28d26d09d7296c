"""A trained model -> one portable file that gives the same numbers, checked against torch.

A file of a matte model has one input ``image`` ``(N, 3, H, W)``, normalised float32, and one output ``alpha``
``(N, 1, H, W)`` in [0, 1]; that of an InSPyReNet which looks twice has a second input ``low``, and that of a
MaskFormer gives ``class_logits`` and ``mask_logits``. Batch, height and width are free, sides in multiples
of 32. What decoupe needs to run a file stands in its metadata: ``decoupe cut -m FILE`` needs nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from decoupe.errors import ConfigError, unknown
from decoupe.export import onnx_file
from decoupe.export.forms import traceable
from decoupe.export.gathering import without_deform_conv
from decoupe.export.graphs import MatteGraph, SegmentGraph, TwoScaleGraph
from decoupe.export.parity import PARITY, Parity, compared
from decoupe.export.pixels import with_preprocessing
from decoupe.export.two_scale import joined
from decoupe.inference.media import replacing
from decoupe.models import InSPyReNet, MaskFormer
from decoupe.runtimes.sessions import Session, returning_memory
from decoupe.telemetry import import_onnxruntime
from decoupe.weights.labels import NO_NAMES, Vocabulary
from decoupe.weights.registry import Preprocessing

__all__ = ["PARITY", "Parity", "export_onnx"]

DEFORMS = ("onnx", "gather")


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    metadata: Mapping[str, str],
    vocabulary: Vocabulary = NO_NAMES,
    deform: str = "onnx",
    half_weights: bool = False,
    pixels: bool = False,
    force: bool = False,
) -> list[Parity]:
    """Write ``model`` to ``path`` and check it against torch at sizes and batches it was not traced at.

    Args:
        model: of decoupe; left as it is.
        path: the ``.onnx`` file to write; written under a temporary name first and kept only if it agrees.
        preprocessing: how a picture becomes the input; stored in the file.
        metadata: more to store, under ``decoupe.`` names: ``name``, ``family``, ``licence``, ``version``.
        vocabulary: the names of a segment model's classes; stored.
        deform: deformable convolutions as the operator ``DeformConv`` (``onnx``), or as sums of what is
            gathered by operators that every runtime has (``gather``).
        half_weights: store the weights in half precision, at half the size; computation stays float32.
        pixels: take ``picture`` uint8 ``(N, H, W, 3)`` of any size and give alpha at that size.
        force: keep the file though it differs from torch.

    Returns:
        The differences found, one per shape; with ``half_weights`` also those that rounding makes.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ConfigError: a form that this model cannot have, or a file whose numbers differ from torch's by more
            than `PARITY`; nothing is written.
        OutputError: ``path`` cannot be written.
    """
    check_deform(deform)
    if pixels or not isinstance(model, InSPyReNet):
        preprocessing = once(preprocessing)
    if pixels and (isinstance(model, MaskFormer) or preprocessing.fit not in ("stretch", "keep")):
        raise ConfigError("preprocessing inside the file is for models that give mattes: leave it out")
    model = prepared(model)
    proto = graph_of(model, preprocessing, phased=deform == "onnx")
    if deform == "gather":
        proto = without_deform_conv(proto)
    stored = described(model, preprocessing, metadata, vocabulary)
    content = onnx_file.finish(proto, stored)
    if not (half_weights or pixels):
        del proto  # as large as the weights
    report = checked(model, content, preprocessing)
    if not force:
        refuse(report)
    if half_weights:
        onnx_file.halve_weights(proto)
        content = onnx_file.finish(proto, stored)
        rows = checked(model, content, preprocessing)
        report += [dataclasses.replace(row, rounded=True) for row in rows]
    if pixels:
        stored["input"] = "pixels"
        content = onnx_file.finish(with_preprocessing(proto, preprocessing), stored)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
    return report


def check_deform(form: str) -> None:
    """Raise ConfigError for what is no form of deformable convolutions."""
    if form not in DEFORMS:
        raise ConfigError(unknown("form of deformable convolution", form, DEFORMS))


def prepared(model: nn.Module) -> nn.Module:
    """The model that the file has to equal: in evaluation mode."""
    return copy.deepcopy(model).eval() if model.training else model


def described(
    model: nn.Module, preprocessing: Preprocessing, metadata: Mapping[str, str], vocabulary: Vocabulary
) -> dict[str, str]:
    """What a file tells of itself."""
    stored = {**metadata, "preprocessing": json.dumps(dataclasses.asdict(preprocessing))}
    if isinstance(model, MaskFormer):
        stored["vocabulary"] = json.dumps(dataclasses.asdict(vocabulary))
    return stored


def once(preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing of a file that sees each picture once."""
    return dataclasses.replace(preprocessing, two_scale=None)


def graph_of(model: nn.Module, preprocessing: Preprocessing, *, phased: bool = False) -> Any:
    """The ``onnx.ModelProto`` of a model, without metadata; ``phased`` as `traceable` takes it.

    Raises:
        ConfigError: a model that cannot be traced, or that is larger than such a file can be.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if weights >= onnx_file.LARGEST:
        raise ConfigError(
            f"the model has {weights / 1e9:.1f} GB of weights, and files by way of ONNX hold less than "
            f"{onnx_file.LARGEST / 1e9:.1f} GB: export it to .pt2"
        )
    form = traceable(model, phased=phased)
    proto = onnx_file.trace(SegmentGraph(form) if isinstance(model, MaskFormer) else MatteGraph(form))
    if preprocessing.two_scale is not None:
        proto = joined(proto, onnx_file.trace(TwoScaleGraph(form)))
    return proto


def checked(model: nn.Module, content: bytes, preprocessing: Preprocessing) -> list[Parity]:
    """How far the bytes of a file are from the model, at every shape and with one look and two."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(image: Any, low: Any = None) -> Any:
        nothing = np.zeros((len(image), 3, 0, 0), np.float32)
        pictures = (image, nothing if low is None else low)
        return session.run(None, dict(zip(names, pictures, strict=False)), returning_memory())

    return compared(outputs_of(model), run, (1,) if preprocessing.two_scale is None else (1, 2))


def checked_session(model: nn.Module, session: Session) -> list[Parity]:
    """How far an open file that looks once is from the model, at every shape."""
    name = session.inputs[0].name
    return compared(outputs_of(model), lambda image: session.run({name: image}))


def outputs_of(model: nn.Module) -> Callable[..., Any]:
    """What a file of ``model`` should give, computed by a copy of it in float64.

    In float32 torch's own rounding can be larger than the file's: the released default is 1.7e-4 of the
    spread from its exact numbers by torch, and 0.8e-4 by ONNX Runtime.
    """
    exact = copy.deepcopy(model).double()
    graph = SegmentGraph(exact) if isinstance(model, MaskFormer) else None

    def outputs(*pictures: Tensor) -> Any:
        doubled = [picture.double() for picture in pictures]
        return exact(*doubled).logits.sigmoid() if graph is None else graph(*doubled)

    return outputs


def refuse(report: list[Parity]) -> None:
    """Raise ConfigError where a file differs from torch."""
    # NaN if any is, which max() may lose.
    worst = float(np.max([row.largest for row in report if not row.rounded]))
    if not worst <= PARITY:
        raise ConfigError(
            f"the exported graph differs from torch in float64 by {worst:.2g} of the output's spread, "
            f"at most {PARITY:g} is allowed: not written (--force keeps it)"
        )
