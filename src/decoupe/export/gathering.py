"""Deformable convolution of operators that every ONNX runtime has, in place of ``DeformConv``.

As in `decoupe.layers.deform`: with the map as a table of one row per cell, each tap is a weighted sum of four
rows. One row of the output is made at a time, so that what is gathered stays in the cache.
"""

from __future__ import annotations

from typing import Any

_FUNCTION = """
<domain: "decoupe", opset_import: ["" : 20]>
{name} (x, weight, offset, bias, modulation) => (y)
{{
    batch = Shape <start = 0, end = 1> (x)
    height = Shape <start = 2, end = 3> (x)
    width = Shape <start = 3, end = 4> (x)
    rows = Shape <start = 2, end = 3> (offset)
    columns = Shape <start = 3, end = 4> (offset)
    minus = Constant <value_ints = [-1]> ()
    one = Constant <value_ints = [1]> ()
    three = Constant <value_ints = [3]> ()
    line = Add (width, three)
    lines = Add (height, three)
    cells = Mul (line, lines)

    last = Transpose <perm = [0, 2, 3, 1]> (x)
    frame = Constant <value_ints = [0, 1, 1, 0, 0, 2, 2, 0]> ()
    framed = Pad (last, frame)
    as_table = Constant <value_ints = [-1, {channels}]> ()
    table = Reshape (framed, as_table)
    all_cells = Mul (cells, batch)
    beyond = Add (line, one)
    beyond_next = Add (beyond, one)
    most = Sub (all_cells, beyond_next)
    zeros = Constant <value_ints = [0]> ()

    taps_last = Transpose <perm = [0, 2, 3, 1]> (offset)
    pair = Constant <value_ints = [{taps}, 2]> ()
    by_row = Concat <axis = 0> (minus, columns, pair)
    offsets = Reshape (taps_last, by_row)
    factors_last = Transpose <perm = [0, 2, 3, 1]> (modulation)
    taps = Constant <value_ints = [{taps}]> ()
    factors_by_row = Concat <axis = 0> (minus, columns, taps)
    factors = Reshape (factors_last, factors_by_row)

    zero = Constant <value_int = 0> ()
    unit = Constant <value_int = 1> ()
    all_rows = Mul (batch, rows)
    all_rows_ = Squeeze (all_rows)
    row = Range (zero, all_rows_, unit)
    image = Div (row, rows)
    first_cell = Mul (image, cells)
    own_row = Mod (row, rows)
    down = Cast <to = 1> (own_row)
    columns_ = Squeeze (columns)
    column = Range (zero, columns_, unit)
    column_ = Cast <to = 1> (column)
    across = Unsqueeze (column_, one)
    tap_y = Constant <value_floats = {tap_y}> ()
    tap_x = Constant <value_floats = {tap_x}> ()
    places_x = Add (across, tap_x)
    before = Constant <value_float = -1.0> ()
    bottom = Cast <to = 1> (height)
    right = Cast <to = 1> (width)
    flat = Constant <value_ints = [-1]> ()
    as_share = Constant <value_ints = [-1, 1]> ()
    as_columns = Constant <value_ints = [-1, {wide}]> ()
    kernel_last = Transpose <perm = [2, 3, 1, 0]> (weight)
    as_kernel = Constant <value_ints = [{wide}, {out}]> ()
    kernel = Reshape (kernel_last, as_kernel)

    found = Scan <num_scan_inputs = 4, body = one_row (
        float[columns, {taps}, 2] shift, float[columns, {taps}] factor, float d, int64 start
    ) => (float[columns, {out}] made) {{
        shift_y = Gather <axis = 2> (shift, zero)
        shift_x = Gather <axis = 2> (shift, unit)
        place_y = Add (tap_y, d)
        y0 = Add (shift_y, place_y)
        x0 = Add (shift_x, places_x)
        y1 = Max (y0, before)
        x1 = Max (x0, before)
        y2 = Min (y1, bottom)
        x2 = Min (x1, right)
        top = Floor (y2)
        left = Floor (x2)
        top_ = Cast <to = 7> (top)
        left_ = Cast <to = 7> (left)
        top_line = Mul (top_, line)
        corner = Add (top_line, left_)
        from_start = Add (start, beyond)
        index0 = Add (corner, from_start)
        index1 = Max (index0, zeros)
        index2 = Min (index1, most)
        index = Reshape (index2, flat)
        index_right = Add (index, one)
        index_below = Add (index, line)
        index_across = Add (index_below, one)
        lower = Sub (y2, top)
        righter = Sub (x2, left)
        below = Mul (lower, factor)
        above = Sub (factor, below)
        lower_right = Mul (below, righter)
        upper_right = Mul (above, righter)
        upper_left = Sub (above, upper_right)
        lower_left = Sub (below, lower_right)
        share_a = Reshape (upper_left, as_share)
        share_b = Reshape (upper_right, as_share)
        share_c = Reshape (lower_left, as_share)
        share_d = Reshape (lower_right, as_share)
        cell_a = Gather <axis = 0> (table, index)
        part_a = Mul (cell_a, share_a)
        cell_b = Gather <axis = 0> (table, index_right)
        part_b = Mul (cell_b, share_b)
        sum_b = Add (part_a, part_b)
        cell_c = Gather <axis = 0> (table, index_below)
        part_c = Mul (cell_c, share_c)
        sum_c = Add (sum_b, part_c)
        cell_d = Gather <axis = 0> (table, index_across)
        part_d = Mul (cell_d, share_d)
        sum_d = Add (sum_c, part_d)
        sampled = Reshape (sum_d, as_columns)
        product = MatMul (sampled, kernel)
        made = Add (product, bias)
    }}> (offsets, factors, down, first_cell)

    outs = Constant <value_ints = [{out}]> ()
    whole = Concat <axis = 0> (batch, rows, columns, outs)
    maps = Reshape (found, whole)
    y = Transpose <perm = [0, 3, 1, 2]> (maps)
}}
"""


def without_deform_conv(model: Any) -> Any:
    """An ``onnx.ModelProto`` whose ``DeformConv`` nodes are gathered sums; of stride and dilation 1 alone."""
    from onnx import inliner, parser

    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    functions: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type != "DeformConv":
            continue
        out, channels, side, _ = shapes[node.input[1]]
        pad = next(attribute.ints[0] for attribute in node.attribute if attribute.name == "pads")
        name = f"Deform{channels}x{out}x{side}x{pad}"
        if name not in functions:
            functions[name] = parser.parse_function(_text(name, channels, out, side, pad))
        node.op_type, node.domain = name, "decoupe"
        del node.attribute[:]
    if not functions:
        return model
    model.functions.extend(functions.values())
    model.opset_import.add(domain="decoupe", version=1)
    model = inliner.inline_local_functions(model)
    del model.functions[:]
    for opset in [opset for opset in model.opset_import if opset.domain == "decoupe"]:
        model.opset_import.remove(opset)
    return model


def _text(name: str, channels: int, out: int, side: int, pad: int) -> str:
    taps = [(row - pad, column - pad) for row in range(side) for column in range(side)]
    return _FUNCTION.format(
        name=name,
        channels=channels,
        out=out,
        taps=len(taps),
        wide=len(taps) * channels,
        tap_y=[float(y) for y, _ in taps],
        tap_x=[float(x) for _, x in taps],
    )
