"""A graph -> an ``onnx.ModelProto``: traced, cleaned, with what decoupe needs to run it in its metadata."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from decoupe.backbones import swin_operators
from decoupe.errors import ConfigError, MissingExtraError
from decoupe.export.graphs import GRID, Gridded
from decoupe.notices import hushed

OPSET = 20
LARGEST = 2**31
"""Bytes that a protocol buffer, which such a file is, cannot hold any more."""
TRACED = (2, 9, 13)
"""Batch, rows and columns of `GRID` pixels of what is traced: several windows of every backbone."""

HALVED_FROM = 4096
"""Tensors of at least this many numbers are stored in half precision; biases and constants are not, nor
the parts of a collapsed tail, of which some are products of others and have to stay so."""


def trace(graph: Any) -> Any:
    """The graph as an ``onnx.ModelProto`` with free batch, height and width.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ConfigError: an operator that the exporter cannot translate, or a torch whose exporter gives nothing.
    """
    try:
        import onnx_ir.passes.common as passes
        from onnxscript import optimizer
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", "export") from error
    from decoupe.export.operators import translations

    with warnings.catch_warnings(), hushed("onnxscript"), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            captured(graph),
            (),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            optimize=False,  # its search for patterns takes minutes, and runtimes have theirs
            verbose=False,
        )
        if program is None:  # what the older exporter returns
            raise ConfigError("torch exported nothing: update it, pip install -U 'decoupe[export]'")
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
        # Windows are the same in all blocks of a stage.
        passes.CommonSubexpressionEliminationPass()(program.model)
        optimizer.remove_unused_nodes(program.model)
    return named(program.model_proto, graph.inputs, graph.outputs)


def captured(graph: Any, *, gridded: bool = True) -> torch.export.ExportedProgram:
    """The graph as torch's exporter sees it, with free batch and sides.

    Args:
        graph: of `decoupe.export.graphs`.
        gridded: take pictures as grids, see `Gridded`, in half the time; else ``(N, 3, H, W)``.

    Raises:
        ConfigError: a model whose sizes cannot be free.
    """
    from torch._dynamo.exc import UserError
    from torch.export import Dim

    swin_operators.register()
    batch, rows, columns = TRACED
    pictures = tuple(
        torch.zeros(batch, 3, rows - 2 * index, GRID, columns - 2 * index, GRID)
        for index, _ in enumerate(graph.inputs)
    )
    count = Dim("batch", min=1, max=1024)
    free: dict[int, Any] = {0: count, 2: Dim.DYNAMIC, 4: Dim.DYNAMIC}
    dims: tuple[Any, ...] = (tuple(free for _ in graph.inputs),)  # of *pictures
    module = Gridded(graph)
    if not gridded:
        sides = {2 + axis: GRID * Dim(name, min=1, max=1024) for axis, name in enumerate(("rows", "columns"))}
        pictures = tuple(picture.flatten(2, 3).flatten(3, 4) for picture in pictures)
        dims, module = tuple({0: count, **sides} for _ in pictures), graph
    try:
        return torch.export.export(
            module.eval(),
            pictures,
            dynamic_shapes=dims,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,  # sizes that meet are resized all the same
        )
    except (UserError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"this model cannot be traced with free sizes ({reason}): export another") from None


def named(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Pictures ``(batch, 3, height, width)`` in place of their grids; inputs and outputs by their names."""
    from onnx import helper, parser

    graph = model.graph
    # Sizes that the tracer inferred: equal names for sizes that differ would make ONNX Runtime reuse buffers.
    del graph.value_info[:]
    first = []
    for port, name in zip(list(graph.input), inputs, strict=True):
        grid = port.name if port.name != name else f"{name}_grid"
        for node in graph.node:
            node.input[:] = [grid if each == port.name else each for each in node.input]
        side = "" if name == inputs[0] else f"_{name}"
        port.CopyFrom(helper.make_tensor_value_info(name, 1, ["batch", 3, f"height{side}", f"width{side}"]))
        cut = parser.parse_graph(_GRIDDING.format(image=name, grid=grid, side=GRID))
        first += list(cut.node)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *nodes])
    for port, name in zip(graph.output, outputs, strict=True):
        graph.node.append(helper.make_node("Identity", [port.name], [name]))
        rank = len(port.type.tensor_type.shape.dim)
        free = ["batch", *(f"{name}_{axis}" for axis in range(1, rank))]
        dims: list[Any] = ["batch", 1, "height", "width"] if name == "alpha" else free
        port.CopyFrom(helper.make_tensor_value_info(name, 1, dims))
    return model


_GRIDDING = """
gridding (float[n, 3, h, w] {image}) => (float[n, 3, r, {side}, c, {side}] {grid})
{{
    {image}_batch = Shape <start = 0, end = 2> ({image})
    {image}_height = Shape <start = 2, end = 3> ({image})
    {image}_width = Shape <start = 3, end = 4> ({image})
    {image}_side = Constant <value_ints = [{side}]> ()
    {image}_rows = Div ({image}_height, {image}_side)
    {image}_columns = Div ({image}_width, {image}_side)
    {image}_parts = Concat <axis = 0> (
        {image}_batch, {image}_rows, {image}_side, {image}_columns, {image}_side
    )
    {grid} = Reshape ({image}, {image}_parts)
}}
"""


def finish(model: Any, metadata: Mapping[str, str]) -> bytes:
    """Metadata in, names of the tracing machine out; the file's bytes."""
    import onnx

    onnx.helper.set_model_props(model, {f"decoupe.{key}": value for key, value in metadata.items()})
    model.graph.doc_string = model.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the exporter's paths
        node.doc_string = ""
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


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
