"""The published systems, one file each; families resolve through `MODELS`."""

from __future__ import annotations

from typing import Any

from torch import nn

from decoupe.models.birefnet import BiRefNet, BiRefNetConfig, BiRefNetOutput
from decoupe.models.inspyrenet import InSPyReNet, InSPyReNetConfig, InSPyReNetOutput
from decoupe.models.maskformer import MaskFormer, MaskFormerConfig, MaskFormerOutput

MODELS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "birefnet": (BiRefNetConfig, BiRefNet),
    "inspyrenet": (InSPyReNetConfig, InSPyReNet),
    "maskformer": (MaskFormerConfig, MaskFormer),
}

__all__ = [
    "MODELS",
    "BiRefNet",
    "BiRefNetConfig",
    "BiRefNetOutput",
    "InSPyReNet",
    "InSPyReNetConfig",
    "InSPyReNetOutput",
    "MaskFormer",
    "MaskFormerConfig",
    "MaskFormerOutput",
]
