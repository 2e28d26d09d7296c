"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) on torchvision's blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from decoupe.layers.blocks import ConvNormAct, in_turn

RESNET_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class ResNet(nn.Module):
    """Bottleneck ResNet with an output map after each stage; the stem belongs to the first.

    Args:
        depths: blocks per stage.
        deep_stem: three 3×3 convolutions, to 128 channels, instead of one 7×7, to 64 (the "c" variants of
            semantic segmentation, after Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017).

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
    """

    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def __init__(
        self, depths: tuple[int, ...] = RESNET_DEPTHS["resnet50"], *, deep_stem: bool = False
    ) -> None:
        from torchvision.models import resnet

        super().__init__()
        net = resnet.ResNet(resnet.Bottleneck, list(depths))
        stem: list[nn.Module] = [net.conv1, net.bn1, net.relu]
        if deep_stem:
            stem = [ConvNormAct(3, 64, stride=2), ConvNormAct(64, 64), ConvNormAct(64, 128)]
            widen(net.layer1[0], 128)
        first = nn.Sequential(*stem, net.maxpool, net.layer1)
        self.stages = nn.ModuleList([first, net.layer2, net.layer3, net.layer4])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)`` -> maps ``(B, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        return in_turn(self.stages, image)[1:]


def widen(block: Any, channels: int) -> None:
    """Let a stage's first `Bottleneck` take ``channels``: new convolutions where its input enters."""
    block.conv1 = nn.Conv2d(channels, block.conv1.out_channels, 1, bias=False)
    block.downsample[0] = nn.Conv2d(channels, block.downsample[0].out_channels, 1, bias=False)
    for conv in (block.conv1, block.downsample[0]):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
