"""Modulated deformable convolution (DCNv2), one meaning in three forms.

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, equation 1::

    y(p) = sum over taps k of  weight_k · x(p + p_k + Δp_k) · Δm_k

where ``x`` at a fractional place is the bilinear mix of its four neighbours and zero outside the map.

- ``"rows"``: with the map as a table of one row per pixel, every tap is a weighted sum of four rows, so
  one ``embedding_bag`` samples and one matrix product convolves. A block of output pixels at a time:
  the columns stay in cache and the working memory is bounded. The fast form on a CPU.
- ``"torchvision"``: torchvision's operator, the fast form on CUDA.
- ``"gather"``: ``grid_sample`` and a matrix product, standard operators only; for export.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from decoupe.errors import ConfigError, InputError, unknown
from decoupe.layers.linear import linear

Method = Literal["auto", "rows", "torchvision", "gather"]
METHODS: tuple[Method, ...] = get_args(Method)
Pair = tuple[int, int]

WORKING_MEMORY = 4 * 2**20
"""Bytes that one block of columns may take in the rows form: small enough to stay in the cache and to be
allocated again without new pages, large enough for the matrix product to run at full speed."""


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    method: Method = "auto",
    working_memory: int = WORKING_MEMORY,
) -> Tensor:
    """Modulated deformable convolution; differentiable in every tensor.

    Positions are computed in float32 (float64 for a float64 map) whatever the precision of the map:
    half precision cannot tell pixel 300 from pixel 301.

    Args:
        x: the map ``(N, C, H, W)``.
        offset: displacement of every tap in pixels ``(N, 2·kh·kw, H', W')``, ordered (y, x) per tap.
        modulation: factor of every tap ``(N, kh·kw, H', W')``.
        weight: ``(out, C, kh, kw)``.
        bias: ``(out,)`` or None.
        stride: pixels between neighbouring outputs.
        padding: zeros around the map, in pixels.
        dilation: pixels between neighbouring taps.
        method: the form to compute it in; ``"auto"`` takes rows on a CPU, torchvision on CUDA, and
            gather while exporting and elsewhere.
        working_memory: bytes that one block of columns may take, rows form only; at least one output
            pixel is computed at a time.

    Returns:
        ``(N, out, H', W')`` in the precision of ``x``, or in autocast's where that is on.

    Raises:
        InputError: shapes that do not belong together.
        ConfigError: an unknown method, a working memory below 1.
    """
    geometry = Geometry(pair(weight.shape[2:]), pair(stride), pair(padding), pair(dilation))
    _check_shapes(x, offset, modulation, weight, geometry)
    if working_memory < 1:
        raise ConfigError(f"working_memory is {working_memory} bytes: give 1 or more")
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
    x, weight = x.to(dtype), weight.to(dtype)
    precise = torch.promote_types(dtype, torch.float32)
    offset, modulation = offset.to(precise), modulation.to(precise)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        out: Tensor
        match _choose(method, device):
            case "rows":
                out = _Rows.apply(x, offset, modulation, weight, geometry, working_memory)
            case "torchvision":
                out = _torchvision(x, offset, modulation, weight, geometry)
            case _:
                out = _gather(x, offset, modulation, weight, geometry)
        return out if bias is None else out + bias.to(dtype)[:, None, None]


class DeformConv2d(nn.Module):
    """Modulated deformable convolution that predicts its own offsets and modulation.

    Both predictors are plain convolutions of the same geometry, initialised at zero: the layer begins as
    an ordinary convolution with every tap's factor 1 (``2 · sigmoid(0)``).

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        kernel_size: side of the square kernel.
        stride: pixels between neighbouring outputs.
        padding: zeros around the map; None keeps the map's size at stride 1 and an odd kernel.
        bias: whether the deformable convolution itself adds a bias.
        method: see `deform_conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = False,
        method: Method = "auto",
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        taps = kernel_size**2
        self.method: Method = method
        self.padding = padding
        self.offset = nn.Conv2d(in_channels, 2 * taps, kernel_size, stride, padding)
        self.modulation = nn.Conv2d(in_channels, taps, kernel_size, stride, padding)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        for predictor in (self.offset, self.modulation):
            nn.init.zeros_(predictor.weight)
            if predictor.bias is not None:
                nn.init.zeros_(predictor.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` -> ``(N, out_channels, H', W')``."""
        return deform_conv2d(
            x,
            self.offset(x),
            2 * torch.sigmoid(self.modulation(x)),
            self.conv.weight,
            self.conv.bias,
            stride=pair(self.conv.stride),
            padding=self.padding,
            method=self.method,
        )


class Geometry(NamedTuple):
    """Where a convolution's taps lie: sides in pixels, each ``(rows, columns)``."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def output_size(self, height: int, width: int) -> Pair:
        """Height and width of the output; below 1 where the kernel does not fit the map."""
        rows, columns = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip((height, width), *self, strict=True)
        )
        return rows, columns

    def grid(self, output: Pair, like: Tensor) -> tuple[Tensor, Tensor]:
        """Where the taps lie before any offset, as two parts to be added, (y, x) in pixels of the map.

        Returns:
            the corner of every output's window ``(H'·W', 1, 2)``, the taps within the window ``(taps, 2)``.
        """
        corner = [
            torch.arange(side, dtype=like.dtype, device=like.device) * stride - padding
            for side, stride, padding in zip(output, self.stride, self.padding, strict=True)
        ]
        tap = [
            torch.arange(side, dtype=like.dtype, device=like.device) * dilation
            for side, dilation in zip(self.kernel, self.dilation, strict=True)
        ]
        return torch.cartesian_prod(*corner)[:, None], torch.cartesian_prod(*tap)


class _Rows(torch.autograd.Function):
    """The rows form; its backward samples every block anew, so that no columns are kept in between."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor,
        modulation: Tensor,
        weight: Tensor,
        geometry: Geometry,
        working_memory: int,
    ) -> Tensor:
        ctx.save_for_backward(x, offset, modulation, weight)
        ctx.geometry, ctx.working_memory = geometry, working_memory
        kernel = kernel_matrix(weight)  # (out, taps·C)
        shape = (len(x), len(kernel), *offset.shape[2:])
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))
        rows = out.flatten(2).transpose(1, 2)  # (N, H'·W', out), a view in either layout
        for n, image in enumerate(x):
            found = columns(table_of(image), offset[n], modulation[n], geometry, working_memory)
            for block, taps in found:
                rows[n, block] = linear(taps, kernel)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors  # read once: activation checkpointing gives them no second time
        x, offset, modulation, weight = inputs
        x, weight, grad = (tensor.to(offset.dtype) for tensor in (x, weight, grad.flatten(2)))
        kernel = kernel_matrix(weight)
        corner, tap = ctx.geometry.grid(pair(offset.shape[2:]), offset)
        grad_x = torch.empty_like(x)
        grad_offset = torch.empty_like(offset.flatten(2), memory_format=torch.contiguous_format)
        grad_modulation = torch.empty_like(modulation.flatten(2), memory_format=torch.contiguous_format)
        grad_kernel = torch.zeros_like(kernel)
        for n, image in enumerate(x):
            table = table_of(image)
            grad_table = torch.zeros_like(table.rows)
            for block in _blocks(grad.shape[2], kernel.shape[1], kernel.dtype, ctx.working_memory):
                place = (_taps_last(offset[n], block, 2) + corner[block] + tap).requires_grad_()
                factor = _taps_last(modulation[n], block).detach().requires_grad_()
                with torch.enable_grad():
                    index, share = _bags(place, factor, table)
                    sampled = _sample(table, index, share)
                grad_kernel.addmm_(grad[n, :, block], sampled.detach().view(-1, kernel.shape[1]))
                grad_sampled = (grad[n, :, block].T @ kernel).view_as(sampled)
                grad_place, grad_factor = torch.autograd.grad(sampled, (place, factor), grad_sampled)
                grad_offset[n, :, block] = grad_place.flatten(1).T
                grad_modulation[n, :, block] = grad_factor.T
                for row, part in zip(index.long().T, share.detach().T, strict=True):
                    grad_table.index_add_(0, row, grad_sampled * part[:, None])
            grad_x[n] = _table_gradient(grad_table, table)
        grad_weight = grad_kernel.view(len(kernel), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        gradients = (
            grad_x,
            grad_offset.view(offset.shape),
            grad_modulation.view(modulation.shape),
            grad_weight,
        )
        return *(g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True)), None, None


def _layout(x: Tensor) -> torch.memory_format:
    """Channels last if the map is, else plain: the layout that the output takes too."""
    plain = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


def kernel_matrix(weight: Tensor) -> Tensor:
    """Weight ``(out, C, kh, kw)`` -> ``(out, taps·C)``, the order of a row of columns."""
    return weight.permute(0, 2, 3, 1).flatten(1)


class Table(NamedTuple):
    """A map as a table of pixels.

    Attributes:
        rows: one per pixel ``((H+3)·(W+3), C)``.
        height: H.
        width: W.
    """

    rows: Tensor
    height: int
    width: int


def table_of(image: Tensor) -> Table:
    """Map ``(C, H, W)`` -> its table.

    The map stands in a frame of zeros, one pixel before it and two after, so that every neighbour of a
    place in [-1, H] × [-1, W] has a row, and those outside the map count nothing.
    """
    channels, height, width = image.shape
    table = image.new_empty(height + 3, width + 3, channels)
    table[1 : height + 1, 1 : width + 1] = image.permute(1, 2, 0)
    for edge in (table[:1], table[-2:], table[:, :1], table[:, -2:]):
        edge.zero_()
    return Table(table.flatten(0, 1), height, width)


def _table_gradient(grad: Tensor, table: Table) -> Tensor:
    """The way back of `table_of`: rows ``((H+3)·(W+3), C)`` -> map ``(C, H, W)``."""
    rows = grad.view(table.height + 3, table.width + 3, -1)
    return rows[1 : table.height + 1, 1 : table.width + 1].permute(2, 0, 1)


def columns(
    table: Table,
    offset: Tensor,
    modulation: Tensor,
    geometry: Geometry,
    working_memory: int = WORKING_MEMORY,
) -> Iterator[tuple[slice, Tensor]]:
    """What the taps of every output pixel read, a block of pixels after the other.

    Args:
        table: the map's.
        offset: ``(2·taps, H', W')``, as `deform_conv2d` takes it; float32 or float64.
        modulation: ``(taps, H', W')``.
        geometry: of the convolution.
        working_memory: bytes that one block may take.

    Yields:
        The block among the H'·W' output pixels, its columns ``(P, taps·C)`` in the table's precision.
    """
    corner, tap = geometry.grid(pair(offset.shape[1:]), offset)
    width = len(tap) * table.rows.shape[1]
    for block in _blocks(len(corner), width, table.rows.dtype, working_memory):
        place = _taps_last(offset, block, 2) + corner[block] + tap
        sampled = _sample(table, *_bags(place, _taps_last(modulation, block), table))
        yield block, sampled.view(-1, width)


def _blocks(pixels: int, width: int, dtype: torch.dtype, working_memory: int) -> Iterator[slice]:
    """Slices of the output's pixels, each of at most ``working_memory`` bytes of columns ``width`` wide."""
    step = max(1, working_memory // (width * dtype.itemsize))
    for start in range(0, pixels, step):
        yield slice(start, min(start + step, pixels))


def _taps_last(field: Tensor, block: slice, *values: int) -> Tensor:
    """Field ``(taps·values, H', W')`` -> a block of its pixels ``(P, taps, *values)``."""
    return field.flatten(1)[:, block].T.contiguous().view(-1, field.shape[0] // math.prod(values), *values)


def _bags(place: Tensor, factor: Tensor, table: Table) -> tuple[Tensor, Tensor]:
    """Which four rows of the table every tap mixes, and how much of each.

    Args:
        place: (y, x) of every tap ``(P, taps, 2)`` in pixels of the map.
        factor: the modulation ``(P, taps)``.
        table: the map's, for its size.

    Returns:
        index int32 ``(P·taps, 4)``, share ``(P·taps, 4)``.
    """
    height, width = table.height, table.width
    line = width + 3
    y, x = place[..., 0].clamp(-1, height), place[..., 1].clamp(-1, width)
    top, left = y.detach().floor(), x.detach().floor()
    # The clamp of the index is for places that are not a number: their share carries the NaN on.
    first = ((top.int() + 1) * line + left.int() + 1).clamp(0, (height + 1) * line + width + 1)
    index = first.view(-1, 1) + torch.tensor([0, 1, line, line + 1], dtype=torch.int32, device=first.device)
    below, right = (y - top) * factor, x - left
    above = factor - below
    lower_right, upper_right = below * right, above * right
    share = torch.stack((above - upper_right, upper_right, below - lower_right, lower_right), dim=-1)
    return index, share.view(-1, 4)


def _sample(table: Table, index: Tensor, share: Tensor) -> Tensor:
    """Weighted sums of four rows of the table -> ``(P·taps, C)``."""
    weights = share.to(table.rows.dtype)
    return F.embedding_bag(index, table.rows, per_sample_weights=weights, mode="sum")


def _torchvision(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    from torchvision.ops import deform_conv2d as operator

    out: Tensor = operator(
        x.to(offset.dtype),
        offset,
        weight.to(offset.dtype),
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        mask=modulation,
    )
    return out.to(x.dtype)


def _gather(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """All taps in one ``grid_sample``: the columns are ``(N, C, H'·W', taps)``, whole."""
    height, width = x.shape[2:]
    corner, tap = geometry.grid(pair(offset.shape[2:]), offset)
    shape = x.shape[0], corner.shape[0], tap.shape[0], 2
    place = offset.flatten(2).transpose(1, 2).reshape(shape) + corner + tap  # (N, H'·W', taps, 2)
    y = (2 * place[..., 0].clamp(-1, height) + 1) / height - 1
    x_ = (2 * place[..., 1].clamp(-1, width) + 1) / width - 1
    columns = F.grid_sample(x.to(offset.dtype), torch.stack((x_, y), dim=-1), align_corners=False)
    columns = columns * modulation.flatten(2).transpose(1, 2)[:, None]
    out = torch.einsum("ncpt,oct->nop", columns.to(x.dtype), weight.flatten(2))
    return out.view(x.shape[0], weight.shape[0], *offset.shape[2:])


def _choose(method: Method, device: str) -> Method:
    if method not in METHODS:
        raise ConfigError(unknown("method of deformable convolution", method, METHODS))
    if method != "auto":
        return method
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return "gather"
    if torch.compiler.is_compiling() and device == "cpu":
        return "gather"  # the loop over blocks would be unrolled
    fastest: dict[str, Method] = {"cpu": "rows", "cuda": "torchvision"}
    return fastest.get(device, "gather")


def pair(value: int | Sequence[int]) -> Pair:
    """Rows and columns of what may be told as one number for both."""
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _check_shapes(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor, geometry: Geometry) -> None:
    if x.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise InputError(
            f"map is {tuple(x.shape)}, weight {tuple(weight.shape)}: give a map (N, {weight.shape[1]}, H, W)"
        )
    height, width = geometry.output_size(*pair(x.shape[2:]))
    if height < 1 or width < 1:
        raise InputError(
            f"map is {x.shape[2]}×{x.shape[3]}, smaller than the kernel: give a larger map or more padding"
        )
    taps = geometry.kernel[0] * geometry.kernel[1]
    for name, field, channels in (("offset", offset, 2 * taps), ("modulation", modulation, taps)):
        expected = (x.shape[0], channels, height, width)
        if tuple(field.shape) != expected:
            raise InputError(f"{name} is {tuple(field.shape)}, the map and the kernel want {expected}")
