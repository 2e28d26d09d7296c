"""ResNet (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) on torchvision's blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet

RESNET_DEPTHS = {"resnet50": (3, 4, 6, 3)}


class ResNet(nn.Module):
    """Bottleneck ResNet with an output map after each stage; the stem belongs to the first.

    Args:
        depths: blocks per stage.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
    """

    channels = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def __init__(self, depths: tuple[int, ...] = RESNET_DEPTHS["resnet50"]) -> None:
        super().__init__()
        net = resnet.ResNet(resnet.Bottleneck, list(depths))
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.stages = nn.ModuleList([first, net.layer2, net.layer3, net.layer4])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)`` -> maps ``(B, channels[i], H/strides[i], W/strides[i])``, rounded up."""
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
