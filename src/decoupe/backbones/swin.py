"""Swin transformer (Liu et al., "Swin Transformer: Hierarchical Vision Transformer", ICCV 2021).

The dense-prediction form: any image size, one LayerNorm per output map. Maps travel as ``(B, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import StochasticDepth


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin transformer.

    Attributes:
        dim: channels of the finest map; each coarser one has twice as many.
        depths: blocks per stage.
        heads: attention heads per stage.
        window: side of the attention windows, in cells of a map.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
    """

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learnt bias per relative position (section 3.2)."""

    index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        nn.init.normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor, regions: Tensor | None = None) -> Tensor:
        """Attend inside each window.

        Args:
            x: map ``(B, H, W, C)``, sides multiples of the window.
            regions: ``(H, W)`` labels; cells of one window with different labels do not see each other.

        Returns:
            Map ``(B, H, W, C)``.
        """
        B, H, W, C = x.shape
        bias = self.bias_table[self.index].permute(2, 0, 1)[None]  # (1, heads, L, L), L = window²
        if regions is not None:
            label = to_windows(regions[None, :, :, None], self.window)[..., 0]  # (windows, L)
            apart = (label[:, :, None] != label[:, None, :])[:, None]  # (windows, 1, L, L)
            bias = bias + apart.to(bias.dtype) * -100.0
            bias = bias.expand(B, *bias.shape).flatten(0, 1)  # (B·windows, heads, L, L)
        qkv = self.qkv(to_windows(x, self.window))  # (B·windows, L, 3C)
        q, k, v = qkv.unflatten(2, (3, self.heads, C // self.heads)).permute(2, 0, 3, 1, 4)
        # (B·windows, heads, L, C/heads)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = self.proj(x.transpose(1, 2).flatten(2))
        return from_windows(x, self.window, H, W)


class SwinBlock(nn.Module):
    """Window attention, then a two-layer perceptron, both pre-normalised and residual (equation 3)."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed

    def attend(self, x: Tensor) -> Tensor:
        """Attention in windows that are shifted cyclically, with the map padded to whole windows."""
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, -W % self.window, 0, -H % self.window))
        if not self.shift:
            attended: Tensor = self.attention(x)
            return attended[:, :H, :W]
        regions = shifted_regions(x.shape[1], x.shape[2], self.window, self.shift, x.device)
        x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        x = self.attention(x, regions).roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :H, :W]


class PatchMerging(nn.Module):
    """Halve the map: 2×2 cells concatenated, normalised, projected to twice the channels (section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, ceil(H/2), ceil(W/2), 2C)``."""
        merged: Tensor = self.reduction(self.norm(regroup(x)))
        return merged


class PatchEmbed(nn.Module):
    """Non-overlapping 4×4 patches, each a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(B, 3, H, W)`` -> map ``(B, ceil(H/4), ceil(W/4), C)``."""
        image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
        tokens: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return tokens


class Swin(nn.Module):
    """Swin transformer with an output map after each stage.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
        stem_channels: channels of the patch embedding's map, whose stride is 4.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        stages = len(config.depths)
        self.channels = tuple(config.dim * 2**i for i in range(stages))
        self.strides = tuple(4 * 2**i for i in range(stages))
        self.stem_channels = config.dim
        rates = rising(config.drop_path, sum(config.depths))
        shifts = (0, config.window // 2)
        self.patch_embed = PatchEmbed(config.dim)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(SwinBlock(dim, heads, config.window, shifts[i % 2], next(rates)) for i in range(depth))
            )
            for dim, heads, depth in zip(self.channels, config.heads, config.depths, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(dim) for dim in self.channels[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in self.channels)
        self.apply(init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)`` -> maps ``(B, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        return self.with_stem(image)[1:]

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """The maps of `forward` after the patch embedding's own ``(B, stem_channels, H/4, W/4)``."""
        x = self.patch_embed(image)  # (B, H/4, W/4, C)
        maps = [x.permute(0, 3, 1, 2)]
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = self.merges[i - 1](x) if i else x
            x = stage(x)
            maps.append(norm(x).permute(0, 3, 1, 2))
        return maps


def to_windows(x: Tensor, window: int) -> Tensor:
    """Map ``(B, H, W, C)`` -> windows ``(B·H/window·W/window, window², C)``."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Windows ``(B·height/window·width/window, window², C)`` -> map ``(B, height, width, C)``."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[2])
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def regroup(x: Tensor) -> Tensor:
    """Map ``(B, H, W, C)`` -> its 2×2 cells as one ``(B, ceil(H/2), ceil(W/2), 4C)``, zeros beyond it."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2)).reshape(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # rows vary faster than columns


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of cells in a window: ``(window², window²)``."""
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # (L, 2)
    apart = cells[:, None] - cells[None] + window - 1  # (L, L, 2), each in [0, 2·window - 2]
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def shifted_regions(height: int, width: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Labels ``(height, width)`` of a shifted map: in one window, cells of one side of the seam agree."""
    rows = (torch.arange(height, device=device) >= height - shift).long()
    columns = (torch.arange(width, device=device) >= width - shift).long()
    return rows[:, None] * 2 + columns


def rising(rate: float, blocks: int) -> Iterator[float]:
    """Stochastic depth of each of ``blocks`` blocks: linearly from 0 at the first to ``rate`` at the last."""
    return (rate * i / max(1, blocks - 1) for i in range(blocks))


def init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as vision transformers do: normal of deviation 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


SWIN_CONFIGS = {
    "swin_t": SwinConfig(),
    "swin_s": SwinConfig(depths=(2, 2, 18, 2)),
    "swin_b": SwinConfig(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12),
    "swin_l": SwinConfig(dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12),
}
