"""A small encoder to be trained from random weights: a few dense 3×3 convolutions per stride.

Dense small convolutions keep CPUs busier than depthwise ones.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import ConvNormAct, in_turn


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormAct(channels, channels), ConvNormAct(channels, channels, activation=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, C, H, W)``."""
        return F.relu(x + self.body(x))


class Nano(nn.Module):
    """Image ``(N, 3, H, W)`` -> maps at strides 4, 8, 16, 32; H and W multiples of 32.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
        stem_channels: channels of the stem's map, at stride 2.
    """

    channels = (40, 80, 144, 192)
    strides = (4, 8, 16, 32)
    stem_channels = 24
    DEPTHS = (1, 2, 3, 2)  # residual blocks at each stride

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, self.stem_channels, stride=2)
        inputs = (self.stem_channels, *self.channels[:-1])
        self.stages = nn.ModuleList()
        for before, width, depth in zip(inputs, self.channels, self.DEPTHS, strict=True):
            blocks = [ResidualBlock(width) for _ in range(depth)]  # drawn first: seeded runs depend on it
            self.stages.append(nn.Sequential(ConvNormAct(before, width, stride=2), *blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> four maps ``(N, channels[i], H/strides[i], W/strides[i])``."""
        return self.with_stem(image)[1:]

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """`forward`'s maps behind the stem's, ``(N, stem_channels, H/2, W/2)``."""
        return in_turn(self.stages, self.stem(image))
