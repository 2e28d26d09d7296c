"""Context modules that add up what their branches give, block by block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import ASPP
from decoupe.layers.deform import DeformConv2d, Geometry, columns, deform_conv2d, kernel_matrix, table_of
from decoupe.layers.linear import linear
from decoupe.models.fuse.products import in_blocks, precise


class Context(nn.Module):
    """An `ASPP` that adds up what its branches give instead of concatenating it.

    Its 1×1 convolution of a concatenation is the sum of a 1×1 convolution of each part.

    Args:
        plain: with batch norms folded.
    """

    def __init__(self, plain: ASPP) -> None:
        super().__init__()
        mix = cast(nn.Conv2d, cast(nn.Sequential, plain.fuse[0])[0])
        *mixes, pooled = mix.weight.chunk(len(plain.branches) + 1, dim=1)  # (out, width, 1, 1) each
        branches = cast("list[nn.Sequential]", list(plain.branches))
        self.branches = nn.ModuleList(
            DeformableBranch(branch[0], part) if isinstance(branch[0], DeformConv2d) else Branch(branch, part)
            for branch, part in zip(branches, mixes, strict=True)
        )
        self.pooled = plain.pooled
        self.mix = nn.Parameter(pooled.clone())
        self.bias = mix.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        total = F.conv2d(self.pooled(x), self.mix, self.bias)  # (N, out, 1, 1)
        if in_blocks(x):
            total = total.to(precise(x)).expand(-1, -1, *x.shape[-2:])
            total = total.contiguous(memory_format=torch.channels_last)
            for branch in cast("Iterable[Branch | DeformableBranch]", self.branches):
                branch.add_to(total, x)
        else:
            for each in self.branches:
                total = total + each(x)
        return F.relu(total, inplace=True)


class Branch(nn.Module):
    """One branch of a `Context`, mixed.

    Args:
        plain: the branch.
        mix: its part ``(out, width, 1, 1)`` of the 1×1 convolution.
    """

    def __init__(self, plain: nn.Module, mix: Tensor) -> None:
        super().__init__()
        self.plain, self.mix = plain, nn.Parameter(mix.clone())

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        return F.conv2d(self.plain(x), self.mix)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add what the branch gives for ``x`` to ``total`` ``(N, out, H, W)``."""
        total += self(x)


class DeformableBranch(nn.Module):
    """A deformable convolution, its ReLU and its mixing; one convolution predicts offsets and modulation.

    Args:
        plain: with its batch norm folded.
        mix: its part ``(out, width, 1, 1)`` of the 1×1 convolution.
    """

    def __init__(self, plain: DeformConv2d, mix: Tensor) -> None:
        super().__init__()
        self.conv, self.mix = plain.conv, nn.Parameter(mix.clone())
        self.taps, self.padding = plain.modulation.out_channels, plain.padding
        kernel = cast("tuple[int, int]", plain.conv.kernel_size)
        predictors = plain.offset, plain.modulation
        self.predict = nn.Conv2d(plain.offset.in_channels, 3 * self.taps, kernel, padding=plain.padding)
        self.predict.weight = nn.Parameter(torch.cat([each.weight for each in predictors]))
        self.predict.bias = nn.Parameter(torch.cat([cast(Tensor, each.bias) for each in predictors]))

    def fields(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` -> offset ``(N, 2·taps, H, W)`` and modulation ``(N, taps, H, W)``."""
        fields = self.predict(x).to(precise(x))
        return fields[:, : 2 * self.taps], 2 * fields[:, 2 * self.taps :].sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        found = deform_conv2d(x, *self.fields(x), self.conv.weight, self.conv.bias, padding=self.padding)
        return F.conv2d(F.relu(found, inplace=True), self.mix)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add what the branch gives for ``x`` to ``total`` ``(N, out, H, W)``, a block at a time."""
        kernel, mix = kernel_matrix(self.conv.weight), self.mix[:, :, 0, 0]
        side = cast("tuple[int, int]", self.conv.kernel_size)
        geometry = Geometry(side, (1, 1), (self.padding, self.padding), (1, 1))
        for image, offset, modulation, sums in zip(x.to(kernel.dtype), *self.fields(x), total, strict=True):
            rows = sums.flatten(1).T  # (H·W, out)
            for block, taps in columns(table_of(image), offset, modulation, geometry):
                hidden = linear(taps, kernel, self.conv.bias).relu_()
                rows[block] += linear(hidden, mix)
