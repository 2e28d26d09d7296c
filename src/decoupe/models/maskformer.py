"""MaskFormer: a picture as a set of masks, each with one class.

Cheng, Schwing and Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
NeurIPS 2021, arXiv 2107.06278 ("the paper" below).

A pixel-level module embeds every pixel; a transformer module asks, with learnt queries, what there is; each
answer becomes a class and, as a dot product with the embeddings, a mask. Semantic, instance and panoptic
segmentation are three readings of the same answers. The paper's baselines, which classify pixels instead,
stand beside it on the same modules.

    image ── backbone ── pixel decoder ──┬─ embeddings ──────────── · ── mask logits
                                         └─ memory ── queries ──┬── masks' embeddings
                                                                └── class logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from decoupe import readings
from decoupe.arrays import Floats
from decoupe.backbones import BACKBONES, build_backbone
from decoupe.errors import ConfigError, InputError, unknown
from decoupe.models.checks import check_fields
from decoupe.models.maskformer_decoders import GROUPS, PixelDecoder, Sizes, TransformerDecoder
from decoupe.readings import Reading

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class MaskFormerConfig:
    """What a MaskFormer is made of; the defaults are the released models' (the paper's section 4).

    Attributes:
        backbone: name in `decoupe.backbones.BACKBONES`, with maps at strides 4, 8, 16 and 32.
        classes: K; "no object" is one more.
        queries: Q, the most segments that one picture can have.
        width: channels of the transformer decoder.
        heads: of each attention.
        feed_forward: channels inside each transformer layer.
        layers: of the transformer decoder; in training each is supervised.
        encoder_layers: of the transformer encoder inside the pixel decoder, 0 for none. The panoptic models
            on ResNets have 6.
        pyramid_width: channels of the pixel decoder.
        mask_width: channels of the per-pixel embedding.
        dropout: of the transformers, in training.
    """

    backbone: str = "resnet50"
    classes: int = 150
    queries: int = 100
    width: int = 256
    heads: int = 8
    feed_forward: int = 2048
    layers: int = 6
    encoder_layers: int = 0
    pyramid_width: int = 256
    mask_width: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that names or builds nothing."""
        check_fields(self, {"encoder_layers": 0}, layers=["layers", "encoder_layers"])
        if self.backbone not in BACKBONES:
            raise ConfigError(unknown("backbone", self.backbone, BACKBONES))
        if self.width % 4 or self.width % self.heads:
            raise ConfigError(
                f"width is {self.width}, expected a multiple of 4 and of heads ({self.heads}): "
                "sine positions and heads share it"
            )
        groups = self.pyramid_width // GROUPS
        # A group of one channel would be one number, without a spread, where a map is one cell.
        if (
            self.pyramid_width % GROUPS
            or groups < 2
            or (self.encoder_layers and self.pyramid_width % self.heads)
        ):
            raise ConfigError(
                f"pyramid_width is {self.pyramid_width}, expected a multiple of {GROUPS} from {2 * GROUPS} "
                f"(groups of a norm), and with encoder_layers of heads ({self.heads})"
            )

    def sizes(self, width: int) -> Sizes:
        """The sizes of transformer layers that are ``width`` channels wide."""
        return Sizes(width, self.heads, self.feed_forward, self.dropout)


class MaskFormerOutput(NamedTuple):
    """What a MaskFormer gives, in both modes; what only training uses is empty otherwise.

    Attributes:
        class_logits: ``(N, Q, K + 1)``; their softmax is each query's class, the last is "no object".
        mask_logits: ``(N, Q, H/4, W/4)``, rounded up; their sigmoid is each query's mask.
        side_class_logits: of the earlier decoder layers, the first layer's first; shaped alike.
        side_mask_logits: likewise.
    """

    class_logits: Tensor
    mask_logits: Tensor
    side_class_logits: tuple[Tensor, ...] = ()
    side_mask_logits: tuple[Tensor, ...] = ()


def semantic(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The likeliest class of every pixel (the paper's section 3.4, "semantic inference").

    Args:
        class_logits: ``(N, Q, K + 1)``.
        mask_logits: ``(N, Q, h, w)``.
        size: ``(H, W)`` to read at, as of the original pictures.

    Returns:
        Class indices ``(N, H, W)``, int64, on the logits' device.

    Raises:
        InputError: logits of other shapes.
    """
    labels = [readings.semantic(*one, size) for one in _pictures(class_logits, mask_logits)]
    if not labels:
        return torch.empty(0, *size, dtype=torch.int64, device=class_logits.device)
    return torch.stack([torch.from_numpy(one) for one in labels]).to(class_logits.device)


def instances(
    class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int], score: float = 0.5
) -> list[list[Reading]]:
    """Objects, each for itself (the paper's appendix A); see `decoupe.readings.instances`.

    Args:
        class_logits: ``(N, Q, K + 1)``.
        mask_logits: ``(N, Q, h, w)``.
        size: ``(H, W)`` to read at.
        score: least score of an object.

    Returns:
        One list per picture; masks are bool tensors ``(H, W)`` on the logits' device.

    Raises:
        InputError: logits of other shapes.
    """
    return [
        _on_device(readings.instances(*one, size, score), class_logits.device)
        for one in _pictures(class_logits, mask_logits)
    ]


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    score: float = 0.8,
    mask: float = 0.5,
    overlap: float = 0.8,
    fuse: Sequence[int] = (),
) -> list[list[Reading]]:
    """Every pixel to at most one segment (the paper's section 3.4); see `decoupe.readings.panoptic`.

    Args:
        class_logits: ``(N, Q, K + 1)``.
        mask_logits: ``(N, Q, h, w)``.
        size: ``(H, W)`` to read at.
        score: a query counts when its likeliest class has more than this probability.
        mask: a query's own mask is where its score times its mask probability reaches this.
        overlap: least part of its own mask that a query must win to be a segment.
        fuse: classes of which all segments are one, as those of "stuff" such as sky are.

    Returns:
        One list per picture; masks are bool tensors ``(H, W)`` on the logits' device.

    Raises:
        InputError: logits of other shapes.
    """
    return [
        _on_device(readings.panoptic(*one, size, score, mask, overlap, fuse), class_logits.device)
        for one in _pictures(class_logits, mask_logits)
    ]


def _pictures(class_logits: Tensor, mask_logits: Tensor) -> Iterator[tuple[Floats, Floats]]:
    """The logits of one picture after the other, as arrays."""
    if class_logits.ndim != 3 or mask_logits.ndim != 4 or class_logits.shape[:2] != mask_logits.shape[:2]:
        raise InputError(
            f"class logits are {tuple(class_logits.shape)}, mask logits {tuple(mask_logits.shape)}; expected "
            "(N, Q, K + 1) and (N, Q, h, w) of one output"
        )
    arrays = (logits.detach().float().cpu().numpy() for logits in (class_logits, mask_logits))
    return zip(*arrays, strict=True)


def _on_device(found: list[Reading], device: torch.device) -> list[Reading]:
    return [one._replace(mask=torch.from_numpy(one.mask).to(device)) for one in found]


class PixelLevel(nn.Module):
    """The pixel-level module: backbone and pixel decoder (the paper's section 3.3).

    Args:
        config: the model's.

    Attributes:
        memory_channels: channels of what the transformer module attends to.
    """

    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone)
        if self.backbone.strides != STRIDES:
            raise ConfigError(
                f"backbone {config.backbone!r} has maps at strides {self.backbone.strides}, "
                f"the pixel decoder needs {STRIDES}: take a ResNet or a Swin"
            )
        self.decoder = PixelDecoder(
            self.backbone.channels,
            config.sizes(config.pyramid_width),
            config.encoder_layers,
            config.mask_width,
        )
        self.memory_channels = self.decoder.memory_channels

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image ``(N, 3, H, W)`` -> embeddings ``(N, mask_width, H/4, W/4)``, memory ``(N, C, H/32, W/32)``.

        Raises:
            InputError: the shape is not that of a batch of images.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < STRIDES[-1]:
            raise InputError(
                f"image is {tuple(image.shape)}, expected (N, 3, H, W), H and W at least {STRIDES[-1]}"
            )
        out: tuple[Tensor, Tensor] = self.decoder(self.backbone(image))
        return out


def mask_head(width: int, mask_width: int) -> nn.Sequential:
    """The three-layer perceptron from what a query knows to its mask's embedding (section 3.4)."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, mask_width),
    )


def products(masks: Tensor, pixels: Tensor) -> Tensor:
    """Mask embeddings ``(N, Q, C)`` times pixels' ``(N, C, h, w)`` -> mask logits ``(N, Q, h, w)``."""
    return torch.einsum("nqc,nchw->nqhw", masks, pixels)


class MaskFormer(nn.Module):
    """MaskFormer of any configuration: normalised images in, classes and masks out.

    `semantic`, `instances` and `panoptic` read its output; they are the module's functions, in reach here.

    Args:
        config: what it is made of; the paper's ResNet-50 for ADE20K by default.
    """

    semantic = staticmethod(semantic)
    instances = staticmethod(instances)
    panoptic = staticmethod(panoptic)

    def __init__(self, config: MaskFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskFormerConfig()
        self.pixel_level = PixelLevel(config)
        self.transformer = TransformerDecoder(
            self.pixel_level.memory_channels, config.queries, config.layers, config.sizes(config.width)
        )
        self.class_head = nn.Linear(config.width, config.classes + 1)
        self.mask_head = mask_head(config.width, config.mask_width)

    def forward(self, image: Tensor) -> MaskFormerOutput:
        """Segment a batch.

        Args:
            image: ``(N, 3, H, W)``, normalised with ImageNet's mean and deviation; any H and W of at least
                32 pixels.

        Returns:
            Class logits ``(N, Q, K + 1)`` and mask logits ``(N, Q, H/4, W/4)``; in training also those of
            the earlier decoder layers.

        Raises:
            InputError: the shape is not that of such a batch.
        """
        pixels, memory = self.pixel_level(image)
        states = self.transformer(memory)
        *side_classes, classes = (self.class_head(state) for state in states)
        *side_masks, masks = (products(self.mask_head(state), pixels) for state in states)
        return MaskFormerOutput(classes, masks, tuple(side_classes), tuple(side_masks))


class PerPixelOutput(NamedTuple):
    """What a per-pixel baseline gives, in both modes.

    Attributes:
        logits: ``(N, K, H/4, W/4)``, rounded up; their softmax over K is each pixel's class.
        side_logits: of the earlier decoder layers of `PerPixelBaselinePlus`, in training.
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()


class PerPixelBaseline(nn.Module):
    """Per-pixel classification on the same pixel-level module (the paper's section 4, "baseline models").

    Args:
        config: what it is made of; what concerns queries and the transformer decoder is not used.
    """

    def __init__(self, config: MaskFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskFormerConfig()
        self.pixel_level = PixelLevel(config)
        self.head = nn.Conv2d(config.mask_width, config.classes, 1)

    def forward(self, image: Tensor) -> PerPixelOutput:
        """Image ``(N, 3, H, W)`` -> logits ``(N, K, H/4, W/4)``; raises InputError as `MaskFormer` does."""
        pixels, _ = self.pixel_level(image)
        return PerPixelOutput(self.head(pixels))


class PerPixelBaselinePlus(nn.Module):
    """The baseline with the transformer module and the mask embeddings (section 4): one query per class.

    The product of masks and pixels is one map of class logits; nothing is matched and no query is free.

    Args:
        config: what it is made of; ``queries`` is not used, there are as many as classes.
    """

    def __init__(self, config: MaskFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskFormerConfig()
        self.pixel_level = PixelLevel(config)
        self.transformer = TransformerDecoder(
            self.pixel_level.memory_channels, config.classes, config.layers, config.sizes(config.width)
        )
        self.mask_head = mask_head(config.width, config.mask_width)

    def forward(self, image: Tensor) -> PerPixelOutput:
        """Image ``(N, 3, H, W)`` -> logits ``(N, K, H/4, W/4)``; raises InputError as `MaskFormer` does."""
        pixels, memory = self.pixel_level(image)
        *side_logits, logits = (products(self.mask_head(state), pixels) for state in self.transformer(memory))
        return PerPixelOutput(logits, tuple(side_logits))


BACKBONE_NAMES = {
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet101c": "resnet101c",
    "swin-tiny": "swin_t",
    "swin-small": "swin_s",
    "swin-base": "swin_b",
    "swin-large": "swin_l",
}
"""The released models' backbones, as their names say it, under decoupe's names."""

_SETS = {
    "ade": (150, BACKBONE_NAMES),
    "coco": (133, BACKBONE_NAMES.keys() - {"resnet101c"}),
    "ade-full": (847, ("resnet50", "resnet101", "resnet101c")),
    "ade-panoptic": (150, ("resnet50", "resnet101")),
    "cityscapes": (19, ("resnet101", "resnet101c")),
    "coco-stuff": (171, ("resnet50", "resnet101", "resnet101c")),
    "mapillary": (65, ("resnet50",)),
}

PRESETS: dict[str, MaskFormerConfig] = {
    f"maskformer-{name}-{data}": MaskFormerConfig(
        backbone=backbone,
        classes=classes,
        encoder_layers=6 if data in ("coco", "ade-panoptic") and name.startswith("resnet") else 0,
    )
    for data, (classes, trained) in _SETS.items()
    for name, backbone in BACKBONE_NAMES.items()
    if name in trained
}
"""The paper's models by backbone and data set; ``coco`` and ``ade-panoptic`` are its panoptic ones."""
