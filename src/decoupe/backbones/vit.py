"""DINOv3 vision transformers (Siméoni et al., "DINOv3", 2025), as timm builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from decoupe.errors import MissingExtraError


@dataclass(frozen=True)
class DINOv3Config:
    """Which vision transformer, and where its maps leave it.

    Attributes:
        timm_name: the architecture's name in timm.
        blocks: index of each block that gives a map.
    """

    timm_name: str
    blocks: tuple[int, int, int, int]


DINOV3_CONFIGS = {
    "dinov3_vits16": DINOv3Config("vit_small_patch16_dinov3", (3, 5, 7, 11)),
    "dinov3_vits16plus": DINOv3Config("vit_small_plus_patch16_dinov3", (3, 5, 7, 11)),
    "dinov3_vitb16": DINOv3Config("vit_base_patch16_dinov3", (3, 5, 7, 11)),
    "dinov3_vitl16": DINOv3Config("vit_large_patch16_dinov3", (5, 11, 17, 23)),
    "dinov3_vith16plus": DINOv3Config("vit_huge_plus_patch16_dinov3", (7, 15, 23, 31)),
    "dinov3_vit7b16": DINOv3Config("vit_7b_patch16_dinov3", (9, 19, 29, 39)),
}


class DINOv3(nn.Module):
    """A DINOv3 vision transformer that gives the maps of four of its blocks, without the final norm.

    Args:
        name: key of `DINOV3_CONFIGS`.

    Attributes:
        channels: channels of each output map, shallowest first.
        strides: pixels of the image per cell of each output map: 16 everywhere.

    Raises:
        MissingExtraError: timm is not installed.
    """

    strides = (16, 16, 16, 16)
    model: Any  # timm is untyped

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from timm import create_model
        except ImportError as error:
            raise MissingExtraError(f"backbone {name}", "timm") from error
        config = DINOV3_CONFIGS[name]
        # features_only drops the final norm, which no map passes through.
        net = create_model(config.timm_name, pretrained=False, features_only=True, out_indices=config.blocks)
        self.model, self.blocks = net.model, config.blocks
        self.channels = (self.model.embed_dim,) * len(config.blocks)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)``, sides multiples of 16 -> four maps ``(B, channels[i], H/16, W/16)``."""
        maps: list[Tensor] = self.model.forward_intermediates(
            image, indices=self.blocks, intermediates_only=True
        )
        return maps
