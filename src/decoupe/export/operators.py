"""Operators of a traced graph in ONNX: what the exporter would not find, or would find slow.

Importing it needs onnxscript.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
    heads, width = bias.shape[1], query.shape[1] // bias.shape[1]
    down, right = (_Line.of(op.Shape(x, start=axis, end=axis + 1), side, shift) for axis in (1, 2))
    parts = _inward(down, right, heads, side)  # (windows, heads, L)
    tokens = op.Pad(op.Reshape(x, _ints(0, -1, heads * width)), _ints(0, 0, 0, 0, 1, 0))  # (B, H·W + 1, C)
    projected = op.Add(op.MatMul(tokens, query), query_bias), op.MatMul(tokens, key), op.MatMul(tokens, value)
    # (B, windows, heads, L, width) each
    q, k, v = (op.Gather(op.Reshape(each, _ints(0, -1, width)), parts, axis=1) for each in projected)
    seen = op.Add(op.MatMul(q, op.Transpose(k, perm=[0, 1, 2, 4, 3])), bias)  # (B, windows, heads, L, L)
    if shift:
        seen = op.Add(seen, _apart(down, right, side))
    attended = op.MatMul(op.Softmax(seen, axis=-1), v)
    places = _homeward(down, right, heads, side)  # (H, W, heads)
    return op.Reshape(op.Gather(op.Reshape(attended, _ints(0, -1, width)), places, axis=1), op.Shape(x))


class _Line(NamedTuple):
    """One side of a map, padded to whole windows and moved by the shift."""

    size: Any  # cells
    cells: Any  # at each place of each window (windows, side); beyond the size where it is padding
    regions: Any  # of each place: 1 if the shift brought it round, else 0
    home: Any  # the place of each cell (size,)

    @staticmethod
    def of(size: Any, side: int, shift: int) -> _Line:
        whole = op.Mul(op.Div(op.Add(size, _ints(side - 1)), _ints(side)), _ints(side))
        place = op.Range(_int(0), op.Squeeze(whole), _int(1))
        moved = op.Add(place, _ints(shift))
        cells = op.Where(op.Less(moved, whole), moved, op.Sub(moved, whole))
        regions = op.Cast(op.GreaterOrEqual(moved, whole), to=7)
        home = op.Sub(op.Range(_int(0), op.Squeeze(size), _int(1)), _ints(shift))
        home = op.Where(op.Less(home, _ints(0)), op.Add(home, whole), home)
        return _Line(size, op.Reshape(cells, _ints(-1, side)), op.Reshape(regions, _ints(-1, side)), home)


def _inward(down: _Line, right: _Line, heads: int, side: int) -> Any:
    """The part of a token at each place ``(windows, heads, L)``; padding is the token after the last."""
    rows, columns = op.Unsqueeze(down.cells, _ints(1, 3)), op.Unsqueeze(right.cells, _ints(0, 2))
    inside = op.And(op.Less(rows, down.size), op.Less(columns, right.size))
    token = op.Where(inside, op.Add(op.Mul(rows, right.size), columns), op.Mul(down.size, right.size))
    return op.Add(op.Mul(op.Reshape(token, _ints(-1, 1, side**2)), _ints(heads)), _column(heads))


def _apart(down: _Line, right: _Line, side: int) -> Any:
    """`APART` between cells of different regions ``(windows, 1, L, L)``."""
    rows, columns = op.Unsqueeze(down.regions, _ints(1, 3)), op.Unsqueeze(right.regions, _ints(0, 2))
    region = op.Reshape(op.Add(op.Mul(rows, _ints(2)), columns), _ints(-1, 1, side**2))
    together = op.Equal(op.Unsqueeze(region, _ints(3)), op.Unsqueeze(region, _ints(2)))
    return op.Where(together, op.Constant(value_float=0.0), op.Constant(value_float=APART))


def _homeward(down: _Line, right: _Line, heads: int, side: int) -> Any:
    """Where each cell's parts are among ``(windows, heads, L)``: ``(H, W, heads)``."""
    across = op.Div(op.Add(right.size, _ints(side - 1)), _ints(side))  # windows beside each other
    rows, columns = op.Unsqueeze(down.home, _ints(1, 2)), op.Unsqueeze(right.home, _ints(0, 2))
    window = op.Add(op.Mul(op.Div(rows, _ints(side)), across), op.Div(columns, _ints(side)))  # (H, W, 1)
    inside = op.Add(op.Mul(op.Mod(rows, _ints(side)), _ints(side)), op.Mod(columns, _ints(side)))
    head = op.Add(op.Mul(window, _ints(heads)), op.Squeeze(_column(heads), _ints(1)))
    return op.Add(op.Mul(head, _ints(side**2)), inside)


def _column(count: int) -> Any:
    """The numbers from 0, ``(count, 1)``."""
    return op.Unsqueeze(op.Constant(value_ints=list(range(count))), _ints(1))


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _int(value: int) -> Any:
    return op.Constant(value_int=value)
