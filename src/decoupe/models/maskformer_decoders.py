"""MaskFormer's two decoders: of pixels and of queries.

Cheng, Schwing and Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
NeurIPS 2021, section 3.4 and appendix A ("the paper" below). The pixel decoder is a feature pyramid (Lin et
al., CVPR 2017); the transformer layers are DETR's (Carion et al., "End-to-End Object Detection with
Transformers", ECCV 2020, appendix A.3), normalised after each residual.

    maps ── pixel decoder ──┬─ per-pixel embedding ────────────── · ── masks
                            └─ memory ── transformer decoder ── queries
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
"""Groups of every group norm; a pyramid's width is a multiple of it."""


class Sizes(NamedTuple):
    """The sizes of transformer layers.

    Attributes:
        width: channels of every token.
        heads: of each attention; they share the width.
        feed_forward: channels between the two linear layers.
        dropout: of attention weights, of the hidden channels and before each residual sum, in training.
    """

    width: int
    heads: int
    feed_forward: int
    dropout: float


def attention(sizes: Sizes) -> nn.MultiheadAttention:
    """Multi-head attention over ``(N, tokens, width)``."""
    return nn.MultiheadAttention(sizes.width, sizes.heads, dropout=sizes.dropout, batch_first=True)


def perceptron(sizes: Sizes) -> nn.Sequential:
    """The two linear layers of a transformer layer."""
    return nn.Sequential(
        nn.Linear(sizes.width, sizes.feed_forward),
        nn.ReLU(inplace=True),
        nn.Dropout(sizes.dropout),
        nn.Linear(sizes.feed_forward, sizes.width),
    )


class EncoderLayer(nn.Module):
    """Self-attention and a perceptron; places are told to queries and keys, not to values."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = attention(sizes)
        self.mlp = perceptron(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in range(2))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Tokens ``(N, L, width)`` and their places ``(1, L, width)`` -> tokens ``(N, L, width)``."""
        placed = x + position
        x = self.norms[0](x + self.dropout(self.attention(placed, placed, x, need_weights=False)[0]))
        out: Tensor = self.norms[1](x + self.dropout(self.mlp(x)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the memory, and a perceptron."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attention = attention(sizes)
        self.cross_attention = attention(sizes)
        self.mlp = perceptron(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in range(3))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, query: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        """One step of what the queries know.

        Args:
            x: ``(N, Q, width)``.
            query: learnt embedding of each, ``(1, Q, width)`` or of a batch; queries and keys see it.
            keys: the memory with its places, ``(N, L, width)``.
            memory: ``(N, L, width)``.

        Returns:
            ``(N, Q, width)``.
        """
        asked = x + query
        x = self.norms[0](x + self.dropout(self.self_attention(asked, asked, x, need_weights=False)[0]))
        seen = self.cross_attention(x + query, keys, memory, need_weights=False)[0]
        x = self.norms[1](x + self.dropout(seen))
        out: Tensor = self.norms[2](x + self.dropout(self.mlp(x)))
        return out


class PixelDecoder(nn.Module):
    """A feature pyramid from the backbone's maps to one embedding per pixel (the paper's section 3.4).

    Each level adds its 1×1 lateral to the coarser level's map and mixes with a 3×3 convolution, both group-
    normalised. The panoptic ResNets put a transformer encoder before the deepest level; the transformer
    decoder then attends to what it gives (appendix A).

    Args:
        channels: of the maps, finest first.
        sizes: of the encoder's layers, as wide as the pyramid.
        encoder_layers: how many there are; 0 for no encoder.
        mask_width: channels of the embedding.

    Attributes:
        memory_channels: channels of what the transformer decoder attends to.
    """

    def __init__(self, channels: tuple[int, ...], sizes: Sizes, encoder_layers: int, mask_width: int) -> None:
        super().__init__()
        width, deepest = sizes.width, channels[-1]
        self.memory_channels = width if encoder_layers else deepest
        self.project = nn.Conv2d(deepest, width, 1) if encoder_layers else nn.Identity()
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(encoder_layers))
        # Deepest first from here on.
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.GroupNorm(GROUPS, width))
            for c in reversed(channels[:-1])
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, width, 3, padding=1, bias=False),
                nn.GroupNorm(GROUPS, width),
                nn.ReLU(inplace=True),
            )
            for c in (self.memory_channels, *(width for _ in self.laterals))
        )
        self.embed = nn.Conv2d(width, mask_width, 3, padding=1)
        initialise(self)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The backbone's maps, finest first, to what masks are made of.

        Returns:
            The per-pixel embedding ``(N, mask_width, H/4, W/4)`` and the memory ``(N, memory_channels, H/32,
            W/32)``.
        """
        memory = self.encode(maps[-1])
        x = self.blocks[0](memory)  # (N, width, H/32, W/32)
        for lateral, block, skip in zip(self.laterals, self.blocks[1:], reversed(maps[:-1]), strict=True):
            x = block(lateral(skip) + F.interpolate(x, size=skip.shape[-2:], mode="nearest"))
        return self.embed(x), memory

    def encode(self, x: Tensor) -> Tensor:
        """The deepest map ``(N, C, h, w)`` -> memory ``(N, memory_channels, h, w)``."""
        x = self.project(x)
        if not self.encoder:
            return x
        shape = x.shape
        position = sine_positions(x)
        x = tokens(x)
        for layer in self.encoder:
            x = layer(x, position)
        return x.transpose(1, 2).reshape(shape)


class TransformerDecoder(nn.Module):
    """Learnt queries that look at the memory, layer by layer (the paper's section 3.4, transformer module).

    Args:
        channels: of the memory.
        queries: how many segments are asked for.
        layers: of the decoder.
        sizes: of its layers.
    """

    def __init__(self, channels: int, queries: int, layers: int, sizes: Sizes) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, sizes.width, 1) if channels != sizes.width else nn.Identity()
        self.queries = nn.Embedding(queries, sizes.width)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)
        initialise(self)

    def forward(self, memory: Tensor) -> list[Tensor]:
        """What the queries know.

        Args:
            memory: ``(N, channels, h, w)``.

        Returns:
            ``(N, Q, width)`` after each layer in training, after the last alone otherwise.
        """
        memory = self.project(memory)
        position = sine_positions(memory)
        memory = tokens(memory)
        keys = memory + position
        query = self.queries.weight.expand(memory.shape[0], -1, -1)
        x = torch.zeros_like(query)
        states = []
        for layer in self.layers:
            x = layer(x, query, keys, memory)
            states.append(x)
        return [self.norm(state) for state in (states if self.training else states[-1:])]


def tokens(x: Tensor) -> Tensor:
    """Map ``(N, C, h, w)`` -> tokens ``(N, h·w, C)``, row by row."""
    return x.flatten(2).transpose(1, 2)


def sine_positions(x: Tensor) -> Tensor:
    """Where each cell of a map ``(N, C, h, w)`` stands, as tokens ``(1, h·w, C)`` (DETR, appendix A.4).

    The first half of the channels tells the row, the second the column: sines and cosines, by turns, of
    waves from 2π to 10000 times as long; a map is always one longest wave high and wide.
    """
    # Half precision cannot count the cells of a large map.
    dtype = torch.promote_types(x.dtype, torch.float32)
    half = x.shape[1] // 2
    lengths = 10000 ** (torch.arange(0, half, 2, dtype=dtype, device=x.device) / half)
    sides = []
    for size in x.shape[-2:]:
        place = torch.arange(1, size + 1, dtype=dtype, device=x.device)
        # By the last place, not by the size: an exporter would hold a number of Python's fixed.
        place = place * (2 * math.pi / (place[-1] + 1e-6))
        angle = place[:, None] / lengths  # (size, C/4)
        sides.append(torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1))  # (size, C/2)
    rows, columns = sides
    height, width = x.shape[-2:]
    places = [rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)]
    return torch.cat(places, dim=2).flatten(0, 1)[None].to(x.dtype)


def initialise(module: nn.Module) -> None:
    """Random weights as the released models began with: Glorot's in transformers, He's in convolutions."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, a=1)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear | nn.MultiheadAttention):
            for parameter in part.parameters(recurse=False):
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
