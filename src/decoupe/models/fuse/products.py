"""Products of weights, at the rate and in the precision that fit where they stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decoupe.layers.blocks import without_autocast
from decoupe.layers.linear import linear


def in_blocks(x: Tensor) -> bool:
    """Whether to compute in blocks that stay in the cache: on a CPU, unless a compiler is looking."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def precise(x: Tensor) -> torch.dtype:
    """The precision that sums and places are kept in: float32, or that of ``x`` where it is higher."""
    return torch.promote_types(x.dtype, torch.float32)


class Linear(nn.Linear):
    """`torch.nn.Linear` at the rate of convolutions; it takes over another's parameters."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        return linear(x, self.weight, self.bias)


class PictureConv2d(nn.Conv2d):
    """A convolution of the picture itself, in full precision whatever the rest is computed in.

    bfloat16 holds eight bits of a number, fewer than tell neighbouring values of a normalised photograph
    apart. There are three channels: it costs hardly anything. It takes over another's parameters.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
        options: dict[str, Any] = {name: getattr(plain, name) for name in names.split()}
        super().__init__(**options, bias=plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> ``(N, out, H', W')`` in full precision."""
        with without_autocast(x.device):
            return super().forward(x.to(self.weight.dtype))
