"""DINOv3 vision transformers (Siméoni et al., "DINOv3", 2025), as timm builds them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from decoupe.errors import MissingExtraError

TIMM_NAMES = {
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
}


class DINOv3(nn.Module):
    """A DINOv3 vision transformer whose last four blocks each give a map, without the final norm.

    Args:
        name: key of `TIMM_NAMES`.

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
        self.model = create_model(TIMM_NAMES[name], pretrained=False, features_only=True, out_indices=4).model
        self.channels = (self.model.embed_dim,) * 4

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image ``(B, 3, H, W)``, sides multiples of 16 -> four maps ``(B, channels[i], H/16, W/16)``."""
        maps: list[Tensor] = self.model.forward_intermediates(image, indices=4, intermediates_only=True)
        return maps
