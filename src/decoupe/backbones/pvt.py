"""Pyramid vision transformer v2 (Wang et al., "PVT v2", 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.backbones.swin import init_linear, rising
from decoupe.layers.blocks import StochasticDepth


@dataclass(frozen=True)
class PVTConfig:
    """Sizes of a PVT v2, per stage, finest first.

    Attributes:
        dims: channels.
        depths: blocks.
        heads: attention heads.
        expansions: hidden channels of the perceptron per channel.
        reductions: side of the patches that become one key each.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    expansions: tuple[int, ...] = (8, 8, 4, 4)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    drop_path: float = 0.1


class ReducedAttention(nn.Module):
    """Self-attention whose keys and values come from a spatially reduced map (PVT, section 3.3)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        _, H, W, C = x.shape
        source = self.norm(self.shrink(x)) if self.reduction > 1 else x  # (B, H/r, W/r, C)
        heads = self.heads, C // self.heads
        q = self.q(x).flatten(1, 2).unflatten(2, heads).transpose(1, 2)  # (B, heads, HW, d)
        kv = self.kv(source).flatten(1, 2).unflatten(2, (2, *heads))
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, HW/r², d) each
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, HW, C)
        projected: Tensor = self.proj(attended).unflatten(1, (H, W))
        return projected

    def shrink(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H//r, W//r, C)``, at least one cell."""
        missing: Any = [torch.sym_max(0, self.reduction - side) for side in x.shape[1:3]]
        # A tracer has to see the padding, which only the smallest maps need.
        if torch.compiler.is_exporting() or any(missing):
            x = F.pad(x, (0, 0, 0, missing[1], 0, missing[0]))
        shrunk: Tensor = self.reduce(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return shrunk


class ConvMLP(nn.Module):
    """PVT v2's convolutional feed-forward: a two-layer perceptron around a depthwise 3×3 convolution."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        x = self.conv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed: Tensor = self.fc2(F.gelu(x))
        return mixed


class PVTBlock(nn.Module):
    """Reduced attention, then the convolutional perceptron, both pre-normalised and residual."""

    def __init__(self, dim: int, heads: int, expansion: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = ReducedAttention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvMLP(dim, expansion * dim)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed


class OverlapPatchEmbed(nn.Module):
    """PVT v2's overlapping patch embedding: a strided convolution and a LayerNorm make tokens."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` -> map ``(B, ceil(H/stride), ceil(W/stride), dim)``."""
        tokens: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return tokens


class PVT(nn.Module):
    """PVT v2 with an output map after each stage.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
    """

    def __init__(self, config: PVTConfig) -> None:
        super().__init__()
        self.channels = config.dims
        self.strides = tuple(4 * 2**i for i in range(len(config.dims)))
        rates = rising(config.drop_path, sum(config.depths))
        inputs = (3, *config.dims[:-1])
        self.embeds = nn.ModuleList(
            OverlapPatchEmbed(before, dim, 3 if i else 7, 2 if i else 4)
            for i, (before, dim) in enumerate(zip(inputs, config.dims, strict=True))
        )
        sizes = zip(
            config.dims, config.heads, config.expansions, config.reductions, config.depths, strict=True
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(PVTBlock(dim, heads, expansion, reduction, next(rates)) for _ in range(depth)))
            for dim, heads, expansion, reduction, depth in sizes
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for dim in config.dims)
        self.apply(init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)`` -> maps ``(B, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        x = image
        maps = []
        for embed, stage, norm in zip(self.embeds, self.stages, self.norms, strict=True):
            x = norm(stage(embed(x))).permute(0, 3, 1, 2)  # (B, channels[i], H/strides[i], W/strides[i])
            maps.append(x)
        return maps


PVT_CONFIGS = {
    "pvt_v2_b0": PVTConfig(dims=(32, 64, 160, 256)),
    "pvt_v2_b1": PVTConfig(),
    "pvt_v2_b2": PVTConfig(depths=(3, 4, 6, 3)),
    "pvt_v2_b5": PVTConfig(depths=(3, 6, 40, 3), expansions=(4, 4, 4, 4)),
}
