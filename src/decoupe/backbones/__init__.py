"""Image encoders that a model can be built on.

A backbone turns a normalised image batch into four feature maps, finest first. Names resolve through
`BACKBONES`; an unknown one lists what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor

from decoupe.backbones.efficientnet import EFFICIENTNET_CONFIGS, EfficientNetLite
from decoupe.backbones.nano import Nano
from decoupe.backbones.pvt import PVT, PVT_CONFIGS
from decoupe.backbones.res2net import Res2Net
from decoupe.backbones.resnet import RESNET_DEPTHS, ResNet
from decoupe.backbones.swin import SWIN_CONFIGS, Swin
from decoupe.backbones.vgg import VGG16
from decoupe.backbones.vit import DINOV3_CONFIGS, DINOv3
from decoupe.errors import ConfigError, unknown


@runtime_checkable
class Backbone(Protocol):
    """What a model relies on, whatever the encoder.

    Attributes:
        channels: channels of each feature map, finest first.
        strides: pixels of the image per cell of each feature map, finest first. Most encoders give
            ``(4, 8, 16, 32)``; a plain vision transformer ``(16, 16, 16, 16)``.
    """

    @property
    def channels(self) -> tuple[int, ...]: ...  # noqa: D102 - see above

    @property
    def strides(self) -> tuple[int, ...]: ...  # noqa: D102 - see above

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> one map ``(N, channels[i], H/strides[i], W/strides[i])`` per stride."""


@runtime_checkable
class StemBackbone(Backbone, Protocol):
    """A backbone that also gives the map before its first stage.

    Attributes:
        stem_channels: channels of that map, at stride 2 or 4.
    """

    @property
    def stem_channels(self) -> int: ...  # noqa: D102 - see above

    def with_stem(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> the stem's map ``(N, stem_channels, …)``, then those of a plain call."""


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "nano": Nano,
    **{name: partial(EfficientNetLite, name) for name in EFFICIENTNET_CONFIGS},
    **{name: partial(Swin, config) for name, config in SWIN_CONFIGS.items()},
    **{name: partial(PVT, config) for name, config in PVT_CONFIGS.items()},
    "vgg16": partial(VGG16, batch_norm=False),
    "vgg16_bn": partial(VGG16, batch_norm=True),
    **{name: partial(ResNet, depths) for name, depths in RESNET_DEPTHS.items()},
    "resnet101c": partial(ResNet, RESNET_DEPTHS["resnet101"], deep_stem=True),
    "res2net50": Res2Net,
    **{name: partial(DINOv3, name) for name in DINOV3_CONFIGS},
}

STEM_BACKBONES = ("nano", *EFFICIENTNET_CONFIGS, *SWIN_CONFIGS, "res2net50")
"""Names of those that are a `StemBackbone` too."""


def build_backbone(name: str) -> Backbone:
    """The backbone called ``name``, with random weights.

    Raises:
        ConfigError: no backbone of that name; the message suggests the nearest.
    """
    if name not in BACKBONES:
        raise ConfigError(unknown("backbone", name, BACKBONES))
    return BACKBONES[name]()
