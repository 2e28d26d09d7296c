"""Small ONNX models that need no training: alpha is a known function of the picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from decoupe.weights.registry import Preprocessing

KEEP = Preprocessing(size=(64, 64), fit="keep", size_range=(32, 256), multiple=16)
STRETCH = Preprocessing(size=(64, 96), fit="stretch", size_range=(32, 256), multiple=16)


def write_onnx(
    path: Path,
    preprocessing: Preprocessing | None = KEEP,
    *,
    shape: tuple[int | str, ...] = ("N", 3, "H", "W"),
    sigmoid: bool = True,
    outputs: int = 1,
    inputs: int = 1,
    masks: int = 1,
) -> Path:
    """Alpha (or logits) from a 1×1 convolution: bright red pixels are the subject."""
    kernel = np.tile(np.array([3.0, -1.5, -1.5], np.float32).reshape(1, 3, 1, 1), (masks, 1, 1, 1))
    weight = numpy_helper.from_array(kernel, "weight")
    nodes = [helper.make_node("Conv", ["image", "weight"], ["logits"])]
    nodes.append(helper.make_node("Sigmoid" if sigmoid else "Identity", ["logits"], ["alpha"]))
    nodes += [helper.make_node("Identity", ["alpha"], [f"alpha{extra}"]) for extra in range(1, outputs)]
    names = ["alpha", *(f"alpha{extra}" for extra in range(1, outputs))]
    sources = ["image", *(f"other{extra}" for extra in range(1, inputs))]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in sources],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], masks, *shape[2:]])
            for name in names
        ],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if preprocessing is not None:
        metadata = {
            "decoupe.version": "0.1.0",
            "decoupe.name": "tiny",
            "decoupe.family": "birefnet",
            "decoupe.licence": "MIT",
            "decoupe.preprocessing": json.dumps(dataclasses.asdict(preprocessing)),
        }
        helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
