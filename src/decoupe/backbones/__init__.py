"""Image encoders that a model can be built on.

A backbone turns a normalised image batch into four feature maps, finest first. Names resolve through
`BACKBONES`; an unknown one lists what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from decoupe.backbones.nano import nano
from decoupe.errors import ConfigError, unknown


@runtime_checkable
class Backbone(Protocol):
    """What a model relies on, whatever the encoder.

    Attributes:
        channels: channels of each feature map, finest first.
        strides: pixels of the image per cell of each feature map, finest first. Most encoders give
            ``(4, 8, 16, 32)``; a plain vision transformer ``(16, 16, 16, 16)``.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Image ``(N, 3, H, W)`` -> one map ``(N, channels[i], H/strides[i], W/strides[i])`` per stride."""
        ...


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "nano": nano,
}


def build_backbone(name: str) -> nn.Module:
    """The backbone called ``name``, with random weights.

    Raises:
        ConfigError: no backbone of that name; the message suggests the nearest.
    """
    if name not in BACKBONES:
        raise ConfigError(unknown("backbone", name, BACKBONES))
    return BACKBONES[name]()
