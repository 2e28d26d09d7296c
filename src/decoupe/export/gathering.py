"""Deformable convolution of operators that every ONNX runtime has, in place of ``DeformConv``.

As in `decoupe.layers.deform`: with the map as a table of one row per cell, each tap is a weighted sum of four
rows. One row of the output is made at a time, so that what is gathered stays in the cache; the ReLU and the
1×1 convolution that follow in a `decoupe.models.fuse.contexts.Context` are computed there as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_FUNCTION = """
<domain: "decoupe", opset_import: ["" : 20]>
{name} (x, weight, offset, bias, modulation{mix}) => (y)
{{
    batch = Shape <start = 0, end = 1> (x)
    height = Shape <start = 2, end = 3> (x)
    width = Shape <start = 3, end = 4> (x)
    rows = Shape <start = 2, end = 3> (offset)
    columns = Shape <start = 3, end = 4> (offset)
    zeros = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    three = Constant <value_ints = [3]> ()
    minus = Constant <value_ints = [-1]> ()
    zero = Constant <value_int = 0> ()
    unit = Constant <value_int = 1> ()
    line = Add (width, three)
    lines = Add (height, three)
    cells = Mul (line, lines)

    last = Transpose <perm = [0, 2, 3, 1]> (x)
    frame = Constant <value_ints = [0, 1, 1, 0, 0, 2, 2, 0]> ()
    framed = Pad (last, frame)
    as_cells = Constant <value_ints = [-1, {channels}]> ()
    cell = Reshape (framed, as_cells)
    all_cells = Mul (cells, batch)
    beyond = Add (line, one)
    corners = Sub (all_cells, beyond)
    corners_b = Add (corners, one)
    corners_c = Add (corners, line)
    cell_a = Slice (cell, zeros, corners, zeros)
    cell_b = Slice (cell, one, corners_b, zeros)
    cell_c = Slice (cell, line, corners_c, zeros)
    cell_d = Slice (cell, beyond, all_cells, zeros)
    neighbours = Concat <axis = 1> (cell_a, cell_b, cell_c, cell_d)
    by_four = Constant <value_ints = [-1, 4, {channels}]> ()
    table = Reshape (neighbours, by_four)

    offset_last = Transpose <perm = [0, 2, 3, 1]> (offset)
    pair = Constant <value_ints = [{taps}, 2]> ()
    by_tap = Concat <axis = 0> (batch, rows, columns, pair)
    offsets = Reshape (offset_last, by_tap)
    shift_y = Gather <axis = 4> (offsets, zero)
    shift_x = Gather <axis = 4> (offsets, unit)
    factor = Transpose <perm = [0, 2, 3, 1]> (modulation)

    batch_ = Squeeze (batch)
    rows_ = Squeeze (rows)
    columns_ = Squeeze (columns)
    image = Range (zero, batch_, unit)
    row = Range (zero, rows_, unit)
    column = Range (zero, columns_, unit)
    first_cell = Mul (image, cells)
    first_inside = Add (first_cell, beyond)
    by_image = Constant <value_ints = [-1, 1, 1, 1]> ()
    by_row = Constant <value_ints = [-1, 1, 1]> ()
    by_column = Constant <value_ints = [-1, 1]> ()
    start = Reshape (first_inside, by_image)
    row_ = Cast <to = 1> (row)
    down = Reshape (row_, by_row)
    column_ = Cast <to = 1> (column)
    across = Reshape (column_, by_column)
    tap_y = Constant <value_floats = {tap_y}> ()
    tap_x = Constant <value_floats = {tap_x}> ()
    place_y = Add (down, tap_y)
    place_x = Add (across, tap_x)
    y0 = Add (shift_y, place_y)
    x0 = Add (shift_x, place_x)
    before = Constant <value_float = -1.0> ()
    bottom = Cast <to = 1> (height)
    right = Cast <to = 1> (width)
    y1 = Max (y0, before)
    x1 = Max (x0, before)
    y2 = Min (y1, bottom)
    x2 = Min (x1, right)
    top = Floor (y2)
    left = Floor (x2)
    lower = Sub (y2, top)
    righter = Sub (x2, left)
    top_ = Cast <to = 7> (top)
    left_ = Cast <to = 7> (left)
    top_line = Mul (top_, line)
    corner = Add (top_line, left_)
    index0 = Add (corner, start)
    index1 = Max (index0, zeros)
    most = Sub (corners, one)
    index2 = Min (index1, most)
    below = Mul (lower, factor)
    above = Sub (factor, below)
    share_d = Mul (below, righter)
    share_b = Mul (above, righter)
    share_a = Sub (above, share_b)
    share_c = Sub (below, share_d)
    taps = Constant <value_ints = [{taps}]> ()
    places = Mul (columns, taps)
    by_place = Concat <axis = 0> (minus, places)
    by_share = Concat <axis = 0> (minus, places, one, one)
    index = Reshape (index2, by_place)
    a = Reshape (share_a, by_share)
    b = Reshape (share_b, by_share)
    c = Reshape (share_c, by_share)
    d = Reshape (share_d, by_share)
    shares = Concat <axis = 3> (a, b, c, d)

    by_pixel = Constant <value_ints = [-1, {wide}]> ()
    kernel_last = Transpose <perm = [2, 3, 1, 0]> (weight)
    as_kernel = Constant <value_ints = [{wide}, {out}]> ()
    kernel = Reshape (kernel_last, as_kernel)
    {mixing}
    found = Scan <num_scan_inputs = 2, body = one_row (
        int64[places] at, float[places, 1, 4] share
    ) => (float[columns, {made}] made) {{
        four = Gather <axis = 0> (table, at)
        tap = MatMul (share, four)
        sampled = Reshape (tap, by_pixel)
        product = MatMul (sampled, kernel)
        {rest}
    }}> (index, shares)

    channels = Constant <value_ints = [{made}]> ()
    whole = Concat <axis = 0> (batch, rows, columns, channels)
    maps = Reshape (found, whole)
    y = Transpose <perm = [0, 3, 1, 2]> (maps)
}}
"""
_MIXING = """as_mix = Constant <value_ints = [{made}, {out}]> ()
    mix_ = Reshape (mix, as_mix)
    mixing = Transpose <perm = [1, 0]> (mix_)"""
_MIXED = """biased = Add (product, bias)
        hidden = Relu (biased)
        made = MatMul (hidden, mixing)"""


class _Form(NamedTuple):
    """What a function is written for.

    Attributes:
        channels: of the map.
        out: of the deformable convolution.
        side: of its kernel.
        pad: zeros around the map.
        made: channels that the ReLU and the 1×1 convolution make of it; None where they do not follow.
    """

    channels: int
    out: int
    side: int
    pad: int
    made: int | None

    def text(self) -> tuple[str, str]:
        """The function's name, and itself."""
        name = "Deform" + "x".join(map(str, self))
        reach = [place - self.pad for place in range(self.side)]
        taps = [(row, column) for row in reach for column in reach]
        made = self.made or self.out
        return name, _FUNCTION.format(
            name=name,
            mix=", mix" if self.made else "",
            channels=self.channels,
            out=self.out,
            made=made,
            taps=len(taps),
            wide=len(taps) * self.channels,
            tap_y=[float(y) for y, _ in taps],
            tap_x=[float(x) for _, x in taps],
            mixing=_MIXING.format(made=made, out=self.out) if self.made else "",
            rest=_MIXED if self.made else "made = Add (product, bias)",
        )


def without_deform_conv(model: Any) -> Any:
    """An ``onnx.ModelProto`` whose ``DeformConv`` nodes are gathered sums; of stride and dilation 1 alone."""
    from onnx import inliner, parser

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    functions: dict[str, Any] = {}
    for node in [node for node in graph.node if node.op_type == "DeformConv"]:
        out, channels, side, _ = weights[node.input[1]].dims
        pad = next(attribute.ints[0] for attribute in node.attribute if attribute.name == "pads")
        relu, mix = _behind(graph, node, weights)
        made = weights[mix.input[1]].dims[0] if mix else None
        name, text = _Form(channels, out, side, pad, made).text()
        if name not in functions:
            functions[name] = parser.parse_function(text)
        node.op_type, node.domain = name, "decoupe"
        del node.attribute[:]
        if mix:
            node.input.append(mix.input[1])
            node.output[0] = mix.output[0]
            graph.node.remove(relu)
            graph.node.remove(mix)
    if not functions:
        return model
    model.functions.extend(functions.values())
    model.opset_import.add(domain="decoupe", version=1)
    model = inliner.inline_local_functions(model)
    del model.functions[:]
    for opset in [opset for opset in model.opset_import if opset.domain == "decoupe"]:
        model.opset_import.remove(opset)
    return model


def _behind(graph: Any, node: Any, weights: Mapping[str, Any]) -> tuple[Any, Any]:
    """The ReLU and the 1×1 convolution without a bias that alone read a node in turn; else None twice."""
    from onnx import numpy_helper

    found = []
    for kind in ("Relu", "Conv"):
        readers = [one for one in graph.node if node.output[0] in one.input]
        if len(readers) != 1 or readers[0].op_type != kind:
            return None, None
        (node,) = readers
        found.append(node)
    relu, mix = found
    if any(name not in weights for name in mix.input[1:]):
        return None, None
    kernel, *bias = (weights[name] for name in mix.input[1:])
    if tuple(kernel.dims[2:]) != (1, 1) or any(numpy_helper.to_array(each).any() for each in bias):
        return None, None
    return relu, mix
