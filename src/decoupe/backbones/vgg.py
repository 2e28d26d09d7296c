"""VGG-16 (Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from decoupe.errors import InputError
from decoupe.layers.blocks import in_turn


class VGG16(nn.Module):
    """torchvision's VGG-16 feature layers, cut after poolings 2, 3, 4 and 5.

    Layers keep torchvision's numbers: ``stages.1.14`` is ``features.14`` there.

    Args:
        batch_norm: whether each convolution is followed by batch normalisation.

    Attributes:
        channels: channels of each output map, finest first.
        strides: pixels of the image per cell of each output map.
    """

    channels = (128, 256, 512, 512)
    strides = (4, 8, 16, 32)

    def __init__(self, batch_norm: bool = False) -> None:
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        layers = make_layers(cfgs["D"], batch_norm=batch_norm)
        ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][1:]
        starts = [0, *ends[:-1]]
        self.stages = nn.ModuleList(layers[start:end] for start, end in zip(starts, ends, strict=True))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)`` -> maps ``(B, channels[i], H/strides[i], W/strides[i])``, rounded down.

        Raises:
            InputError: a side below 32 pixels, of which five poolings leave nothing.
        """
        height, width = image.shape[2:]
        if min(height, width) < 32:
            raise InputError(f"image is {width}×{height} for VGG-16, which needs 32×32 or more: enlarge it")
        return in_turn(self.stages, image)[1:]
