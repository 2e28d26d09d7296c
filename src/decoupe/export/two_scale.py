"""One look and two in one file: the closer look is taken where a second picture is given."""

from __future__ import annotations

from typing import Any


def joined(once: Any, twice: Any) -> Any:
    """Two models of the same weights as one, which sees ``low`` where it has pixels.

    Args:
        once: ``onnx.ModelProto`` of ``image`` -> ``alpha``.
        twice: of ``image`` and ``low`` -> ``alpha``.

    Returns:
        ``image``, ``low`` -> ``alpha``; an empty ``low`` ``(N, 3, 0, 0)`` is one look.
    """
    from onnx import helper, parser

    held = {tensor.name: tensor for tensor in twice.graph.initializer}
    branches = []
    for word, model in (("once", once), ("twice", twice)):
        own = {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
        # What both hold under one name and equal is shared; the rest is renamed apart.
        shared = {
            name
            for name, content in own.items()
            if name in held and held[name].SerializeToString() == content
        }
        given = {"image", "low"} | shared
        graph = model.graph
        for node in graph.node:
            node.name = f"{word}/{node.name}" if node.name else ""
            _rename(node, given, word)
        for tensor in graph.initializer:
            if tensor.name not in shared:
                tensor.name = f"{word}/{tensor.name}"
        branches.append(
            helper.make_graph(
                list(graph.node), word, [], [helper.make_tensor_value_info(f"{word}/alpha", 1, None)]
            )
        )
    weights = {tensor.name: tensor for model in (once, twice) for tensor in model.graph.initializer}
    condition = parser.parse_graph(
        """test (float[n, 3, h, w] low) => (bool near) {
            pixels = Size (low)
            none = Constant <value_int = 0> ()
            near = Greater (pixels, none)
        }"""
    )
    choice = helper.make_node("If", ["near"], ["alpha"], then_branch=branches[1], else_branch=branches[0])
    graph = helper.make_graph(
        [*condition.node, choice], "decoupe", twice.graph.input, twice.graph.output, list(weights.values())
    )
    return helper.make_model(graph, opset_imports=twice.opset_import, ir_version=twice.ir_version)


def _rename(node: Any, given: set[str], word: str) -> None:
    """Every name of a node and of the graphs in it but those ``given``, under ``word``."""

    def new(name: str) -> str:
        return name if not name or name in given else f"{word}/{name}"

    node.input[:] = map(new, node.input)
    node.output[:] = map(new, node.output)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                _rename(inner, given, word)
            for port in (*attribute.g.input, *attribute.g.output, *attribute.g.initializer):
                port.name = new(port.name)
