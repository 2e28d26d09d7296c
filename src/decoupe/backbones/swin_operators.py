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
    operator.register_fake(lambda x, *_: torch.empty_like(x))
    return operator


def attend(
    x: Tensor,
    query: Tensor,
    query_bias: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    side: int,
    shift: int,
) -> Tensor:
    """Shifted window attention (Swin, section 3.2) of normalised tokens.

    Args:
        x: tokens ``(B, H, W, C)``.
        query: their projection to scaled queries ``(C, C)``, from x's channels to the heads'.
        query_bias: added to the queries ``(C,)``.
        key: the projection to keys ``(C, C)``; their bias would not change the attention.
        value: the projection to values ``(C, C)``; their bias goes into what follows.
        bias: of each pair of places in a window ``(1, heads, L, L)``, L = side².
        side: of the windows, in cells.
        shift: cells by which the windows are shifted, cyclically.

    Returns:
        ``(B, H, W, C)``, before the last projection.
    """
    B, H, W, _ = x.shape
    down, right = -H % side, -W % side

    def by_window(projected: Tensor) -> Tensor:
        whole = F.pad(projected, (0, 0, 0, right, 0, down)).roll((-shift, -shift), dims=(1, 2))
        tokens = to_windows(whole, side)
        return tokens.view(*tokens.shape[:2], bias.shape[1], -1).transpose(1, 2)

    q, k, v = map(by_window, (x @ query + query_bias, x @ key, x @ value))  # (B·windows, heads, L, C/heads)
    regions = shifted_regions(H + down, W + right, side, shift, x.device)
    label = to_windows(regions[None, :, :, None], side)[..., 0]
    apart = (label[:, :, None] != label[:, None, :])[:, None] * (-100.0 if shift else 0.0)
    seen = bias + apart.repeat(B, 1, 1, 1)  # (B·windows, heads, L, L)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    attended = from_windows(attended.transpose(1, 2).flatten(2), side, H + down, W + right)
    return attended.roll((shift, shift), dims=(1, 2))[:, :H, :W].contiguous()
