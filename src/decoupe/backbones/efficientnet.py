"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) with ReLU6 and without squeeze-and-excitation.

Google released these variants in 2020 for processors of phones.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from decoupe.layers.blocks import in_turn
from decoupe.layers.depthwise import DepthwiseConv2d

EFFICIENTNET_CONFIGS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}
"""What the channels and the depths of lite0 are multiplied with."""


class InvertedResidual(nn.Module):
    """1×1 convolution to more channels, depthwise convolution, 1×1 back (Sandler et al., CVPR 2018).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: channels inside per channel of the input; 1 leaves the first convolution out.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        expand = normed_conv(nn.Conv2d(in_channels, width, 1, bias=False)) if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *normed_conv(DepthwiseConv2d(width, kernel_size, stride=stride)),
            *normed_conv(nn.Conv2d(width, out_channels, 1, bias=False), activation=False),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``, rounded up."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """Image ``(N, 3, H, W)`` -> maps at strides 4, 8, 16, 32.

    Strided convolutions pad all sides alike, where the authors' pad below and on the right only: away from
    the borders each map is theirs of a picture that was moved by a part of its stride. Their weights expect
    pictures in [-1, 1]: `decoupe.weights.registry.EFFICIENTNET_MEAN` and its deviation.

    Args:
        name: one of `EFFICIENTNET_CONFIGS`.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
        stem_channels: channels of the stem's map, at stride 2.
    """

    strides = (4, 8, 16, 32)
    STEM = 32  # channels of the first convolution, of every variant
    # lite0's groups of blocks behind the stem, by stage: depth, channels, kernel, stride. The last group has
    # one block in every variant.
    GROUPS = (
        ((2, 24, 3, 2),),
        ((2, 40, 5, 2),),
        ((3, 80, 3, 2), (3, 112, 5, 1)),
        ((4, 192, 5, 2), (1, 320, 3, 1)),
    )

    def __init__(self, name: str = "efficientnet_lite0") -> None:
        super().__init__()
        wider, deeper = EFFICIENTNET_CONFIGS[name]
        self.stem_channels = before = multiple_of_eight(16 * wider)
        first = InvertedResidual(self.STEM, before, 3, stride=1, expansion=1)
        self.stem = nn.Sequential(
            *normed_conv(nn.Conv2d(3, self.STEM, 3, stride=2, padding=1, bias=False)), first
        )
        self.stages = nn.ModuleList()
        widths = []
        for groups in self.GROUPS:
            stage = nn.Sequential()
            for depth, channels, kernel_size, stride in groups:
                width = multiple_of_eight(channels * wider)
                blocks = nn.Sequential()
                for index in range(1 if depth == 1 else math.ceil(depth * deeper)):
                    step = 1 if index else stride
                    blocks.append(InvertedResidual(before, width, kernel_size, stride=step, expansion=6))
                    before = width
                stage.append(blocks)
            self.stages.append(stage)
            widths.append(before)
        self.channels = tuple(widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> maps ``(N, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        return self.with_stem(image)[1:]

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """`forward`'s maps behind the stem's, ``(N, stem_channels, H/2, W/2)``."""
        return in_turn(self.stages, self.stem(image))


def normed_conv(conv: nn.Conv2d, *, activation: bool = True) -> list[nn.Module]:
    """A convolution, its batch norm with the authors' constants, and ReLU6 if there is an activation."""
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.01)
    return [conv, norm, nn.ReLU6(inplace=True)] if activation else [conv, norm]


def multiple_of_eight(channels: float) -> int:
    """The nearest multiple of eight; the next where that lies more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
