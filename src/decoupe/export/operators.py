"""Operators of a traced graph in ONNX: what the exporter would not find, or would find slow.

Importing it needs onnxscript.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401 - registers its operators
from onnxscript import opset20

op: Any = opset20

APART = -1000.0
"""Added between cells that do not see each other. Its exponential is zero, as that of Swin's −100 is beside
others, but −100 leaves denormal numbers, with which processors compute slowly."""


def translations() -> dict[Any, Callable[..., Any]]:
    """Operator of torch -> function that builds it of ONNX's, as ``torch.onnx.export`` takes them."""
    return {
        torch.ops.torchvision.deform_conv2d.default: deformable,
        torch.ops.decoupe.patches.default: patches,
        torch.ops.decoupe.window_attention.default: window_attention,
    }


def deformable(
    x: Any,
    weight: Any,
    offset: Any,
    mask: Any,
    bias: Any,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    offset_groups: int,
    use_mask: bool,
) -> Any:
    """Torchvision's deformable convolution as ONNX's, which orders everything alike."""
    return op.DeformConv(
        x,
        weight,
        offset,
        bias,
        mask if use_mask else None,
        strides=[stride_h, stride_w],
        pads=[pad_h, pad_w, pad_h, pad_w],
        dilations=[dilation_h, dilation_w],
        group=groups,
        offset_group=offset_groups,
    )


def patches(x: Any) -> Any:
    """`decoupe.backbones.swin.regroup`: four maps of every second cell, concatenated."""
    sides = op.Shape(x, start=1, end=3)
    # Not Mod: OpenVINO takes what it gives for the ends of a range as the ends of what it gives.
    odd = op.Sub(op.Mul(op.Div(op.Add(sides, _ints(1)), _ints(2)), _ints(2)), sides)
    x = op.Pad(x, op.Concat(_ints(0, 0), odd, axis=0), None, _ints(1, 2))
    ends, axes, steps = _ints(2**31, 2**31), _ints(1, 2), _ints(2, 2)
    parts = [op.Slice(x, _ints(*start), ends, axes, steps) for start in ((0, 0), (1, 0), (0, 1), (1, 1))]
    return op.Concat(*parts, axis=3)


def window_attention(
    x: Any, query: Any, query_bias: Any, key: Any, value: Any, bias: Any, side: int, shift: int
) -> Any:
    """`decoupe.backbones.swin_operators.attend` by gathering: heads' parts into windows, and back home."""
    heads, length, width = bias.shape[1], side**2, query.shape[1] // bias.shape[1]
    each = op.Constant(value_ints=list(range(heads)))
    height, breadth = op.Shape(x, start=1, end=2), op.Shape(x, start=2, end=3)
    rows, row_region, row_home = _line(height, side, shift)
    columns, column_region, column_home = _line(breadth, side, shift)
    across = op.Div(op.Add(breadth, _ints(side - 1)), _ints(side))  # windows beside each other

    rows, columns = op.Unsqueeze(rows, _ints(1, 3)), op.Unsqueeze(columns, _ints(0, 2))
    inside = op.And(op.Less(rows, height), op.Less(columns, breadth))
    cells = op.Where(inside, op.Add(op.Mul(rows, breadth), columns), op.Mul(height, breadth))
    cells = op.Reshape(cells, _ints(-1, 1, length))  # of each window; one past the last where it is padding
    parts = op.Add(op.Mul(cells, _ints(heads)), op.Unsqueeze(each, _ints(1)))  # (windows, heads, L)

    tokens = op.Pad(op.Reshape(x, _ints(0, -1, heads * width)), _ints(0, 0, 0, 0, 1, 0))
    q, k, v = (
        op.Gather(op.Reshape(projected, _ints(0, -1, width)), parts, axis=1)  # (B, windows, heads, L, width)
        for projected in (
            op.Add(op.MatMul(tokens, query), query_bias),
            op.MatMul(tokens, key),
            op.MatMul(tokens, value),
        )
    )
    seen = op.Add(op.MatMul(q, op.Transpose(k, perm=[0, 1, 2, 4, 3])), bias)  # (B, windows, heads, L, L)
    if shift:
        row_region, column_region = (
            op.Unsqueeze(row_region, _ints(1, 3)),
            op.Unsqueeze(column_region, _ints(0, 2)),
        )
        region = op.Reshape(op.Add(op.Mul(row_region, _ints(2)), column_region), _ints(-1, length))
        together = op.Equal(op.Unsqueeze(region, _ints(2)), op.Unsqueeze(region, _ints(1)))
        apart = op.Where(together, op.Constant(value_float=0.0), op.Constant(value_float=APART))
        seen = op.Add(seen, op.Unsqueeze(apart, _ints(1)))
    attended = op.MatMul(op.Softmax(seen, axis=-1), v)

    window = op.Add(
        op.Unsqueeze(op.Mul(op.Div(row_home, _ints(side)), across), _ints(1)),
        op.Div(column_home, _ints(side)),
    )
    within = op.Add(
        op.Unsqueeze(op.Mul(op.Mod(row_home, _ints(side)), _ints(side)), _ints(1)),
        op.Mod(column_home, _ints(side)),
    )
    window, within = op.Unsqueeze(window, _ints(2)), op.Unsqueeze(within, _ints(2))  # (H, W, 1)
    places = op.Add(
        op.Mul(op.Add(op.Mul(window, _ints(heads)), each), _ints(length)), within
    )  # (H, W, heads)
    home = op.Gather(op.Reshape(attended, _ints(0, -1, width)), places, axis=1)  # (B, H, W, heads, width)
    return op.Reshape(home, op.Shape(x))


def _line(size: Any, side: int, shift: int) -> tuple[Any, Any, Any]:
    """Along one side: the cell at each place ``(windows, side)``, its region, the place of each cell."""
    whole = op.Mul(op.Div(op.Add(size, _ints(side - 1)), _ints(side)), _ints(side))
    place = op.Range(_int(0), op.Squeeze(whole), _int(1))
    moved = op.Add(place, _ints(shift))
    cell = op.Where(op.Less(moved, whole), moved, op.Sub(moved, whole))
    region = op.Cast(op.GreaterOrEqual(moved, whole), to=7)
    home = op.Sub(op.Range(_int(0), op.Squeeze(size), _int(1)), _ints(shift))
    home = op.Where(op.Less(home, _ints(0)), op.Add(home, whole), home)
    return op.Reshape(cell, _ints(-1, side)), op.Reshape(region, _ints(-1, side)), home


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _int(value: int) -> Any:
    return op.Constant(value_int=value)
