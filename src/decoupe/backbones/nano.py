"""The encoder of the embedded default model: a few dense 3×3 convolutions per stride.

Dense small convolutions keep CPUs busier than depthwise ones: measured on two cores, a 1.5-GMAC dense
network runs as fast as a 0.3-GMAC depthwise one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.blocks import ConvNormAct


@dataclass(frozen=True)
class NanoConfig:
    """Widths and depths of a nano encoder.

    Attributes:
        stem: channels at stride 2.
        channels: channels at strides 4, 8, 16, 32.
        depths: residual blocks at each of those strides.
    """

    stem: int = 24
    channels: tuple[int, int, int, int] = (40, 80, 144, 192)
    depths: tuple[int, int, int, int] = (1, 2, 3, 2)


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
    """Image ``(N, 3, H, W)`` -> maps at strides 4, 8, 16, 32; H and W multiples of 32."""

    def __init__(self, config: NanoConfig | None = None) -> None:
        super().__init__()
        config = config or NanoConfig()
        self.channels = config.channels
        self.strides = (4, 8, 16, 32)
        self.stem_channels = config.stem
        self.stem = ConvNormAct(3, config.stem, stride=2)
        self.stages = nn.ModuleList()
        width = config.stem
        for channels, depth in zip(config.channels, config.depths, strict=True):
            blocks = [ResidualBlock(channels) for _ in range(depth)]
            self.stages.append(nn.Sequential(ConvNormAct(width, channels, stride=2), *blocks))
            width = channels

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> four maps ``(N, channels[i], H/strides[i], W/strides[i])``."""
        return self.with_stem(image)[1:]

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """`forward`'s maps behind the stem's, ``(N, stem_channels, H/2, W/2)``."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


def nano() -> Nano:
    """The encoder of the embedded default model."""
    return Nano()
