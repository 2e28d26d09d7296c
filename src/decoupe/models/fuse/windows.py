"""Swin stages that take a few windows at a time through a whole block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.backbones.swin import SwinBlock, shifted_regions, to_windows
from decoupe.layers.linear import linear
from decoupe.models.fuse.products import in_blocks, precise

CHUNK = 4 * 2**20
"""Bytes of the widest tensor of a chunk of windows: it stays in the cache."""

LEAST_TOKENS = 1024
"""Least tokens of a chunk, however wide: a product of fewer rows spends its time on reading weights."""


class Chunk(NamedTuple):
    """Some windows of a map of H·W cells, L cells each.

    Attributes:
        windows: how many.
        cells: which cells of the map they hold, window by window; padding is left out.
        slots: where those stand among the windows·L; None where nothing is padded.
        apart: −100 between cells that do not see each other ``(windows, 1, L, L)``; None where all do.
    """

    windows: int
    cells: Tensor
    slots: Tensor | None
    apart: Tensor | None


class SwinStage(nn.Module):
    """The blocks of a Swin stage, a few windows at a time through each.

    A token belongs to one window, so a block is computed window by window: gathered, through attention and
    perceptron, and put back, while everything is in the cache. Windows at the border, which are padded or
    hold a seam of the cyclic shift, come by themselves. A padded token is never projected: its query, key
    and value are the projection's bias.

    Args:
        plain: the blocks.
    """

    def __init__(self, plain: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(plain)
        self.biases = nn.ParameterList(
            nn.Parameter(block.attention.bias_table[block.attention.index].permute(2, 0, 1)[None].clone())
            for block in cast("Iterable[SwinBlock]", self.blocks)
        )  # (1, heads, L, L) each

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        if not in_blocks(x):
            for block in self.blocks:
                x = block(x)
            return x
        B, H, W, C = x.shape
        rows = x.reshape(B, H * W, C).to(precise(x), copy=True)  # sums stay precise, whatever multiplies
        chunks: dict[int, list[Chunk]] = {}
        for block, bias in zip(cast("Iterable[SwinBlock]", self.blocks), self.biases, strict=True):
            if block.shift not in chunks:
                chunks[block.shift] = list(windows(H, W, block, C))
            for image in rows:
                for chunk in chunks[block.shift]:
                    step(block, bias, image, chunk)
        return rows.view(B, H, W, C).to(x.dtype)


def step(block: SwinBlock, bias: Tensor, rows: Tensor, chunk: Chunk) -> None:
    """One block for some windows of a map ``(H·W, C)``, in place."""
    attention, (grow, _, shrink) = block.attention, cast("tuple[nn.Linear, nn.Module, nn.Linear]", block.mlp)
    x = rows.index_select(0, chunk.cells)  # (T, C)
    y = linear(block.norm1(x), attention.qkv.weight, attention.qkv.bias)  # (T, 3C)
    length, channels = bias.shape[-1], x.shape[1]
    if chunk.slots is not None:
        whole = attention.qkv.bias.to(y.dtype).repeat(chunk.windows * length, 1)
        y = whole.index_copy_(0, chunk.slots, y)
    heads = (chunk.windows, length, 3, attention.heads, channels // attention.heads)
    q, k, v = y.view(heads).permute(2, 0, 3, 1, 4)  # (windows, heads, L, C/heads) each
    mask = bias if chunk.apart is None else bias + chunk.apart
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    y = y.transpose(1, 2).reshape(-1, channels)  # (windows·L, C)
    if chunk.slots is not None:
        y = y.index_select(0, chunk.slots)
    x += linear(y, attention.proj.weight, attention.proj.bias)
    y = F.gelu(linear(block.norm2(x), grow.weight, grow.bias))  # (T, 4C)
    x += linear(y, shrink.weight, shrink.bias)
    rows.index_copy_(0, chunk.cells, x)


def windows(height: int, width: int, block: SwinBlock, channels: int) -> Iterator[Chunk]:
    """The windows of a map, those that are whole and undivided first."""
    side, shift = block.window, block.shift
    rows, columns = height + -height % side, width + -width % side
    cells = torch.full((rows, columns), -1)
    cells[:height, :width] = torch.arange(height * width).view(height, width)
    regions = shifted_regions(rows, columns, side, shift, cells.device) if shift else torch.zeros_like(cells)
    cells = cells.roll((-shift, -shift), dims=(0, 1))
    cells, regions = (to_windows(each[None, :, :, None], side)[..., 0] for each in (cells, regions))
    divided = (regions != regions[:, :1]).any(dim=1)
    border = divided | (cells < 0).any(dim=1)
    together = max(1, max(LEAST_TOKENS, CHUNK // (16 * channels)) // side**2)
    for start in range(0, len(whole := cells[~border]), together):
        part = whole[start : start + together]
        yield Chunk(len(part), part.flatten(), None, None)
    cells, regions = cells[border], regions[border]
    for start in range(0, len(cells), together):
        part, labels = cells[start : start + together], regions[start : start + together]
        apart = (labels[:, :, None] != labels[:, None, :])[:, None] * -100.0
        slots = (part.flatten() >= 0).nonzero()[:, 0]
        yield Chunk(len(part), part.flatten()[slots], slots, apart if shift else None)
