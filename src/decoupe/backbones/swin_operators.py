"""Parts of a Swin as operators of torch, opaque to its tracer: ``decoupe::patches`` and the attention.

A traced program holds them by name, so whoever runs it calls `register` first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from decoupe.backbones.swin import from_windows, regroup, shifted_regions, to_windows


def register() -> None:
    """Make the operators known to torch; a second time changes nothing."""
    patches()
    window_attention()


@functools.cache
def patches() -> Callable[..., Tensor]:
    """The operator ``decoupe::patches``: `regroup`, opaque to a tracer."""
    operator = torch.library.custom_op("decoupe::patches", regroup, mutates_args=())

    @operator.register_fake
    def _(x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        return x.new_empty(B, (H + 1) // 2, (W + 1) // 2, 4 * C)

    return operator


@functools.cache
def window_attention() -> Callable[..., Tensor]:
    """The operator ``decoupe::window_attention``: `attend`, opaque to a tracer.

    Traced through, sizes rounded up to windows would make expressions that the tracer takes minutes over.
    """
    operator = torch.library.custom_op("decoupe::window_attention", attend, mutates_args=())
    operator.register_fake(lambda qkv, *_: qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3))
    return operator


def attend(qkv: Tensor, padding: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    """Shifted window attention (Swin, section 3.2) of projected tokens.

    Args:
        qkv: scaled queries, keys and values ``(B, H, W, 3C)``.
        padding: those of cells beyond the map, which is padded to whole windows, ``(3C,)``.
        bias: of each pair of places in a window ``(1, heads, L, L)``, L = side².
        side: of the windows, in cells.
        shift: cells by which the windows are shifted, cyclically.

    Returns:
        ``(B, H, W, C)``, before the projection.
    """
    B, H, W, _ = qkv.shape
    down, right = -H % side, -W % side
    whole = padding.repeat(B, H + down, W + right, 1)
    whole[:, :H, :W] = qkv
    regions = shifted_regions(H + down, W + right, side, shift, qkv.device)
    tokens = to_windows(whole.roll((-shift, -shift), dims=(1, 2)), side)  # (B·windows, L, 3C)
    q, k, v = tokens.view(*tokens.shape[:2], 3, bias.shape[1], -1).permute(2, 0, 3, 1, 4)
    label = to_windows(regions[None, :, :, None], side)[..., 0]
    apart = (label[:, :, None] != label[:, None, :])[:, None] * (-100.0 if shift else 0.0)
    seen = bias + apart.repeat(B, 1, 1, 1)  # (B·windows, heads, L, L)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    x = from_windows(x.transpose(1, 2).flatten(2), side, H + down, W + right)
    return x.roll((shift, shift), dims=(1, 2))[:, :H, :W].contiguous()
