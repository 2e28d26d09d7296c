"""InSPyReNet's attention in stripes of its map, so that no feature of full resolution ever is whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import resize, without_autocast
from decoupe.models.fuse.products import in_blocks
from decoupe.models.inspyrenet import ScaleInvariantAttention, joined, twice

STRIPE = 12 * 2**20
"""Bytes of a stripe of a map at full resolution."""


class StripedAttention(nn.Module):
    """A `ScaleInvariantAttention` computed in stripes of the map, which stay in the cache.

    Every convolution of a stripe computes as many rows more as those after it see beyond the stripe.

    Args:
        plain: with batch norms folded.

    Attributes:
        last: nobody asks for its feature, and it comes back without channels.
    """

    ASKING, SEEN = 3, 5  # rows: two 3×3 convolutions make the query, one the context, two mix

    def __init__(self, plain: ScaleInvariantAttention) -> None:
        super().__init__()
        self.plain, self.last = plain, False

    def forward(
        self, maps: Sequence[Tensor], saliency: Tensor, detail: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `ScaleInvariantAttention.forward`."""
        if not in_blocks(saliency):
            found: tuple[Tensor, Tensor] = self.plain(maps, saliency, detail)
            return found
        height, width = size = twice(saliency)
        key, value = self.plain.memory(self.contexts(maps, self.plain.regions(size, saliency, detail)))
        bytes_of_row = sum(each.shape[1] * width * each.element_size() for each in maps)
        count = math.ceil(height / max(4 * self.SEEN, STRIPE // bytes_of_row))  # none lower than `SEEN`
        whole: list[Tensor] = []
        for top, bottom in pairwise(height * part // count for part in range(count + 1)):
            seen = slice(max(0, top - self.SEEN), min(bottom + self.SEEN, height))
            stripe = joined([resized_rows(each, size, seen) for each in maps])
            feature = self.refined(stripe, key, value, (top == 0, bottom == height))
            parts = feature[:, : 0 if self.last else None], self.plain.head(feature)
            whole = whole or [
                torch.empty(
                    (*part.shape[:2], height, width), dtype=part.dtype, memory_format=torch.channels_last
                )
                for part in parts
            ]
            for each, part in zip(whole, parts, strict=True):
                each[:, :, top:bottom] = part
        return whole[0], whole[1]

    def refined(self, x: Tensor, key: Tensor, value: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """As `ScaleInvariantAttention.refine`, without `SEEN` rows of ``x`` above and below.

        At ``edges`` of the map, the upper and the lower one, there are none.
        """
        plain = self.plain
        shares = plain.shares(in_rows(plain.query, x, edges), key)
        # One by one: a batch seen as groups of channels would not lie channels last.
        context = torch.cat([self.context(shares[i : i + 1], value[i], edges) for i in range(len(value))])
        upper, lower = (0 if edge else self.ASKING for edge in edges)
        beside = x[:, :, upper : x.shape[2] - lower]
        return in_rows(plain.mix, torch.cat([beside, context], dim=1), edges)

    def context(self, shares: Tensor, value: Tensor, edges: tuple[bool, bool]) -> Tensor:
        """What the context convolution gives where a picture's cells get ``shares`` of the regions' values.

        A convolution of weighted values is one of the weights, by kernels that the values are multiplied
        into; there are far fewer regions than channels.

        Args:
            shares: ``(1, R, rows, w)``.
            value: ``(depth, R)``.
            edges: as for `refined`.
        """
        conv = cast(nn.Conv2d, self.plain.context[0])
        kernel = torch.einsum("oihw,ir->orhw", conv.weight, value)
        return F.relu(conv_rows(shares, kernel, conv.bias, edges), inplace=True)

    def contexts(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """As `ScaleInvariantAttention.contexts`, a few channels at a time: the feature never is whole."""
        height, width = self.plain.pooled_size
        size, channels = regions.shape[-2:], sum(each.shape[1] for each in maps)
        if height * width % channels:
            whole = joined([resize(each, size, align_corners=False) for each in maps])
            return self.plain.contexts(whole, regions)
        with without_autocast(regions.device):
            weights = self.plain.pooled(regions).flatten(2)  # (N, R, cells·C)
            step = max(1, STRIPE // (height * width * weights.element_size()))
            # A million of them are summed, and attention magnifies what is rounded off.
            sums = weights.new_zeros(*weights.shape[:2], channels, dtype=torch.float64)
            first = 0
            for some in chain.from_iterable(torch.split(each, step, dim=1) for each in maps):
                pooled = self.plain.pooled(resize(some, size, align_corners=False))
                cells = pooled.reshape(len(pooled), -1, channels)  # of the view, which these channels fill
                last = first + cells.shape[1]
                sums += weights[:, :, first:last].to(sums.dtype) @ cells.to(sums.dtype)
                first = last
        return sums.to(weights.dtype).transpose(1, 2)[..., None]


def in_rows(blocks: Iterable[nn.Module], x: Tensor, edges: tuple[bool, bool]) -> Tensor:
    """What some 3×3 `ConvNormAct` give for rows of a map, one after the other, as `conv_rows`."""
    for conv, *others in cast("Iterable[nn.Sequential]", blocks):
        conv = cast(nn.Conv2d, conv)
        x = conv_rows(x, conv.weight, conv.bias, edges)
        for other in others:
            x = other(x)
    return x


def conv_rows(x: Tensor, weight: Tensor, bias: Tensor | None, edges: tuple[bool, bool]) -> Tensor:
    """A 3×3 convolution of rows of a map, which uses up one above and one below.

    At ``edges`` of the map, the upper and the lower one, there are zeros beyond.
    """
    x = F.pad(x, (0, 0, *edges)) if any(edges) else x
    return F.conv2d(x, weight, bias, padding=(0, 1))


def resized_rows(x: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of ``x`` ``(N, C, h, w)`` resized to ``size``, without resizing all of it.

    ``size`` is whole multiples of ``(h, w)``.
    """
    ratio = size[0] // x.shape[2]
    if ratio == 1:
        return x[:, :, rows]
    first = max(rows.start // ratio - 1, 0)  # a row of the coarse map more on either side
    some = x[:, :, first : -(-rows.stop // ratio) + 1]
    enlarged = resize(some, (some.shape[2] * ratio, size[1]), align_corners=False)
    return enlarged[:, :, rows.start - first * ratio : rows.stop - first * ratio]
