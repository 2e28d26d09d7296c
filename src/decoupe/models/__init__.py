"""The published systems, one file each; families resolve through `MODELS`."""

from __future__ import annotations

from torch import nn

from decoupe.models.birefnet import BiRefNet, BiRefNetConfig, BiRefNetOutput

MODELS: dict[str, tuple[type[BiRefNetConfig], type[nn.Module]]] = {
    "birefnet": (BiRefNetConfig, BiRefNet),
}

__all__ = ["MODELS", "BiRefNet", "BiRefNetConfig", "BiRefNetOutput"]
