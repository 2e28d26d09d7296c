"""Res2Net (Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021), version 1b."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import ConvNormAct, in_turn


class Res2NetBlock(nn.Module):
    """Bottleneck whose 3×3 convolution works on splits of the channels, each seeing the one before (3.1).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        width: channels of each split.
        splits: how many there are; the last is not convolved.
        stride: of the convolutions.
        dilation: of the convolutions.
        first: whether the block begins a stage: its splits do not see each other, the last is average
            pooled, and the shortcut is projected.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        splits: int,
        stride: int = 1,
        dilation: int = 1,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.first, self.splits = first, splits
        self.reduce = ConvNormAct(in_channels, width * splits, 1)
        self.convs = nn.ModuleList(
            ConvNormAct(width, width, stride=stride, dilation=dilation) for _ in range(splits - 1)
        )
        self.pool = nn.AvgPool2d(3, stride, padding=1) if first else nn.Identity()
        self.expand = ConvNormAct(width * splits, out_channels, 1, activation=False)
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                ConvNormAct(in_channels, out_channels, 1, activation=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``, rounded up."""
        *parts, last = self.reduce(x).chunk(self.splits, dim=1)
        outputs: list[Tensor] = []
        for part, conv in zip(parts, self.convs, strict=True):
            outputs.append(conv(part if self.first or not outputs else part + outputs[-1]))
        outputs.append(self.pool(last))
        return F.relu(self.expand(torch.cat(outputs, dim=1)) + self.shortcut(x))


class Res2Net(nn.Module):
    """Res2Net-50 26w×4s with an output map after each stage; the last two stages are dilated too.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
        stem_channels: channels of the stem's map.
    """

    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)
    stem_channels = 64
    WIDTH = 26  # channels of each split in the first stage; each later stage has twice as many
    DILATIONS = (1, 1, 1), (1,) * 4, (2,) * 6, (4, 8, 16)  # of each block's 3×3 convolutions, by stage

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(3, 32, stride=2),
            ConvNormAct(32, 32),
            ConvNormAct(32, self.stem_channels),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList()
        inputs = self.stem_channels
        for i, (channels, dilations) in enumerate(zip(self.channels, self.DILATIONS, strict=True)):
            blocks: list[nn.Module] = []
            for dilation in dilations:
                first = not blocks
                stride = 2 if first and i else 1
                blocks.append(
                    Res2NetBlock(
                        inputs,
                        channels,
                        width=self.WIDTH * 2**i,
                        splits=4,
                        stride=stride,
                        dilation=dilation,
                        first=first,
                    )
                )
                inputs = channels
            self.stages.append(nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> maps ``(N, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        return self.with_stem(image)[1:]

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """`forward`'s maps behind the stem's, ``(N, stem_channels, H/4, W/4)``."""
        return in_turn(self.stages, self.stem(image))
