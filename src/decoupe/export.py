"""A trained model -> one portable ONNX file that gives the same numbers.

The file holds one input ``image`` ``(N, 3, H, W)``, normalised float32, and one output ``alpha``
``(N, 1, H, W)`` in [0, 1]; batch, height and width are free (sides in the model's multiples). What
decoupe needs to run it stands in its metadata, so that ``decoupe cut -m FILE`` needs nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decoupe.errors import ConfigError, MissingExtraError, OutputError
from decoupe.models import MaskFormer
from decoupe.models.fuse import fold_batch_norm
from decoupe.weights.registry import Preprocessing

log = logging.getLogger("decoupe.export")

OPSET = 20
PARITY = 1e-4
"""Largest difference from torch that an exported file may have, of the alpha's range."""


class MatteGraph(nn.Module):
    """What is exported: the model's logits and their sigmoid, nothing of its training outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> alpha ``(N, 1, H, W)`` in [0, 1]."""
        alpha: Tensor = self.model(image).logits.sigmoid()
        return alpha


@dataclasses.dataclass(frozen=True)
class Parity:
    """Largest and mean difference of alpha between an exported file and torch, at one input shape."""

    shape: tuple[int, ...]
    largest: float
    mean: float


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    preprocessing: Preprocessing,
    metadata: Mapping[str, str],
    half_weights: bool = False,
) -> list[Parity]:
    """Write ``model`` to ``path`` and check it against torch at sizes and batches it was not traced at.

    Args:
        model: a matte model of decoupe; batch norms are folded in a copy of it.
        path: the ``.onnx`` file to write; written under a temporary name first and kept only if it agrees.
        preprocessing: how a picture becomes the input; stored in the file.
        metadata: more to store, under ``decoupe.`` names: ``name``, ``family``, ``licence``, ``version``.
        half_weights: store the weights in half precision, at half the size; computation stays float32.

    Returns:
        The differences found, one per shape.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ConfigError: a model that gives no mattes, or a file whose numbers differ from torch's by more than
            `PARITY`; nothing is written.
        OutputError: ``path`` cannot be written.
    """
    path = Path(path)
    if isinstance(model, MaskFormer):
        raise ConfigError("a MaskFormer gives segments: only models that give mattes are exported")
    preprocessing = dataclasses.replace(preprocessing, two_scale=None)  # an exported graph looks once
    model = fold_batch_norm(model)  # a copy: the caller's model stays as it is
    if half_weights:
        round_to_half(model)
    graph = MatteGraph(model)
    program = trace(graph, preprocessing)
    content = finish(program, preprocessing, metadata, half_weights=half_weights)
    report = parity(graph, content, preprocessing)
    worst = np.max([row.largest for row in report])  # NaN if any is, which max() may lose
    if not worst <= PARITY:
        raise ConfigError(
            f"the exported graph differs from torch by {worst:.2g}, at most {PARITY:g} is right: not written"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    return report


def trace(graph: nn.Module, preprocessing: Preprocessing) -> Any:
    """The graph as an ``onnx.ModelProto`` with free batch, height and width."""
    try:
        import onnxscript  # noqa: F401 - what torch's exporter is built on
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", "export") from error
    from torch.export import Dim

    multiple = preprocessing.multiple
    image = torch.zeros(2, 3, 4 * multiple, 5 * multiple)
    sides = {2: multiple * Dim("rows", min=1, max=256), 3: multiple * Dim("columns", min=1, max=256)}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            graph,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["alpha"],
            dynamic_shapes={"image": {0: Dim("batch", min=1, max=1024), **sides}},
            verbose=False,
        )
    if program is None:  # what the older exporter returns
        raise ConfigError("torch exported nothing: update it, pip install -U 'decoupe[export]'")
    return program.model_proto


def finish(
    model: Any, preprocessing: Preprocessing, metadata: Mapping[str, str], *, half_weights: bool
) -> bytes:
    """Metadata in, names of the tracing machine out, weights halved if told; the file's bytes."""
    import onnx

    stored = {f"decoupe.{key}": value for key, value in metadata.items()}
    stored["decoupe.preprocessing"] = json.dumps(dataclasses.asdict(preprocessing))
    onnx.helper.set_model_props(model, stored)
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the exporter's paths
        node.doc_string = ""
    if half_weights:
        halve_weights(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def round_to_half(model: nn.Module) -> None:
    """Round every large weight to what half precision can hold, in place, so that parity is exact."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() >= HALVED_FROM:
                parameter.copy_(parameter.half().float())


HALVED_FROM = 256
"""Tensors of at least this many numbers are stored in half precision; biases and constants are not."""


def halve_weights(model: Any) -> None:
    """Store large float32 initialisers in half precision, each behind a Cast that runtimes fold."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < HALVED_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def parity(graph: nn.Module, content: bytes, preprocessing: Preprocessing) -> list[Parity]:
    """Compare an ONNX file's bytes with torch on noise, at three shapes other than the traced one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    multiple = preprocessing.multiple
    sizes: Sequence[tuple[int, int, int]] = ((1, 3, 3), (3, 6, 4), (1, 10, 8))
    report = []
    for batch, rows, columns in sizes:
        generator = torch.Generator().manual_seed(rows)
        image = torch.randn(batch, 3, rows * multiple, columns * multiple, generator=generator)
        with torch.inference_mode():
            expected = graph(image).numpy()
        difference = np.abs(session.run(None, {"image": image.numpy()})[0] - expected)
        report.append(Parity(tuple(image.shape), float(difference.max()), float(difference.mean())))
        log.info("parity at %s: largest %.2g, mean %.2g", *dataclasses.astuple(report[-1]))
    return report
