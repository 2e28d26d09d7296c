"""BiRefNet: a bilateral reference for high-resolution dichotomous image segmentation.

Zheng et al., CAAI Artificial Intelligence Research 2024, arXiv 2401.03407 ("the paper" below).

A localisation module (encoder) finds the subject; a reconstruction module (decoder) rebuilds its outline,
at every level with two references beside it: the *inward* reference, patches of the original picture that
no resizing has blurred, and the *outward* reference, attention trained on the picture's own gradients
where the subject is.

    image ── backbone ×2 scales ── context fusion ── squeeze ── 4 × [inward ‖ block × outward] ── logits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.backbones import BACKBONES, build_backbone
from decoupe.errors import ConfigError, InputError, unknown
from decoupe.layers.blocks import ASPP, ConvNormAct, resize
from decoupe.models.checks import check_fields

MultiScale = Literal["none", "add", "cat"]
Squeeze = Literal["none", "basic", "residual", "aspp", "aspp_deformable"]
Block = Literal["basic", "residual"]
Context = Literal["none", "aspp", "aspp_deformable"]
Inward = Literal["none", "split", "unshuffle", "resize"]
Refiner = Literal["none", "unet"]


@dataclass(frozen=True)
class BiRefNetConfig:
    """What a BiRefNet is made of; the defaults are the released models'.

    Attributes:
        backbone: name in `decoupe.backbones.BACKBONES`.
        multi_scale: whether the backbone also sees the image at half size, and how its maps join.
        context_fusion: whether the three finer maps are concatenated to the deepest.
        squeeze: kind of the blocks that bring the fused map back to the deepest map's channels.
        squeeze_depth: how many of them follow each other.
        block: kind of the reconstruction blocks.
        context: context module inside the ``basic`` and ``residual`` blocks.
        block_width: channels inside a block; None for a quarter of its input's.
        context_width: channels of each branch of a context module.
        dropout: share of a context module's values that training leaves out.
        inward: inward reference: the image ``split`` into a grid of patches stacked on channels (the
            paper), ``unshuffle``d so that each cell sees its own pixels, ``resize``d, or ``none``.
        inward_width: channels between its two convolutions.
        outward: whether there is an outward reference.
        outward_width: channels of its gradient feature.
        side_outputs: whether the three deeper levels give logits in training (multi-stage supervision).
        classes: object classes of the auxiliary classification in training; 0 for none.
        refiner: optional last stage over the image and the coarse matte.
    """

    backbone: str = "swin_l"
    multi_scale: MultiScale = "cat"
    context_fusion: bool = True
    squeeze: Squeeze = "basic"
    squeeze_depth: int = 1
    block: Block = "basic"
    context: Context = "aspp_deformable"
    block_width: int | None = 64
    context_width: int = 256
    dropout: float = 0.5
    inward: Inward = "split"
    inward_width: int = 64
    outward: bool = True
    outward_width: int = 16
    side_outputs: bool = True
    classes: int = 0
    refiner: Refiner = "none"

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that names nothing."""
        check_fields(self, {"classes": 0}, layers=["squeeze_depth"])
        choices = {
            "backbone": tuple(BACKBONES),
            "multi_scale": get_args(MultiScale),
            "squeeze": get_args(Squeeze),
            "block": get_args(Block),
            "context": get_args(Context),
            "inward": get_args(Inward),
            "refiner": get_args(Refiner),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(unknown(name.replace("_", "-"), getattr(self, name), known))
        if self.squeeze == "none" and self.context_fusion:
            raise ConfigError(
                "context_fusion=True needs a squeeze block to bring the channels back: name one in squeeze"
            )


class BiRefNetOutput(NamedTuple):
    """What a BiRefNet gives, in both modes; what only training uses is empty otherwise.

    Attributes:
        logits: ``(N, 1, H, W)``; their sigmoid is the matte.
        side_logits: of the three deeper levels, deepest first: ``(N, 1, H/32, W/32)`` and on; with a refiner
            also the coarse logits, at full size, last.
        gradient_logits: predicted gradient maps of the same levels and sizes.
        class_logits: ``(N, classes)``, or None.
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()
    gradient_logits: tuple[Tensor, ...] = ()
    class_logits: Tensor | None = None


class ReconstructionBlock(nn.Module):
    """3×3 convolution, context, 3×3 convolution (the paper's figure 3); ``residual`` adds a 1×1 shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, config: BiRefNetConfig, *, residual: bool
    ) -> None:
        super().__init__()
        width = in_channels // 4 if config.block_width is None else config.block_width
        self.reduce = ConvNormAct(in_channels, width, bias=True)
        self.context: nn.Module = nn.Identity()
        if config.context != "none":
            deformable = config.context == "aspp_deformable"
            self.context = context_module(width, width, config, deformable=deformable)
        self.expand = ConvNormAct(width, out_channels, bias=True, activation=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, out_channels, h, w)``."""
        out: Tensor = self.expand(self.context(self.reduce(x)))
        return out if self.shortcut is None else out + self.shortcut(x)


class InwardReference(nn.Module):
    """Two 3×3 convolutions, no activation between, of the picture at full detail (the paper's section III-C).

    Args:
        stride: pixels of the picture per cell of the level's map.
        out_channels: channels to concatenate to the level's map.
        config: the model's.
    """

    def __init__(self, stride: int, out_channels: int, config: BiRefNetConfig) -> None:
        super().__init__()
        self.kind, self.stride = config.inward, stride
        channels = 3 if self.kind == "resize" else 3 * stride**2
        self.convs = nn.Sequential(
            nn.Conv2d(channels, config.inward_width, 3, padding=1),
            nn.Conv2d(config.inward_width, out_channels, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(N, 3, H, W)`` -> ``(N, out_channels, H/stride, W/stride)``."""
        out: Tensor = self.convs(self.patches(image))
        return out

    def patches(self, image: Tensor) -> Tensor:
        """The picture at the level's size, its detail on channels: ``(N, 3·stride², H/stride, W/stride)``."""
        height, width = image.shape[-2] // self.stride, image.shape[-1] // self.stride
        if self.kind == "resize":
            return resize(image, (height, width))
        if self.kind == "unshuffle":
            return F.pixel_unshuffle(image, self.stride)
        # (N, 3, rows, h, columns, w) -> (N, 3·rows·columns, h, w)
        grid = image.reshape(image.shape[0], 3, self.stride, height, self.stride, width)
        return grid.permute(0, 1, 2, 4, 3, 5).flatten(1, 3)


class OutwardReference(nn.Module):
    """Attention from a feature that the picture's gradients supervise (the paper's section III-D)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.feature = ConvNormAct(channels, width, bias=True)
        self.attention = nn.Conv2d(width, 1, 1)
        self.gradient = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(N, C, h, w)`` -> the attended map; in training also gradient logits ``(N, 1, h, w)``."""
        feature = self.feature(x)
        return x * self.attention(feature).sigmoid(), self.gradient(feature) if self.training else None


class Encoder(nn.Module):
    """The localisation module: backbone at one or two scales, context fusion, squeeze (the paper's III-B)."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone)
        self.multi_scale, self.context_fusion = config.multi_scale, config.context_fusion
        doubled = 2 if config.multi_scale == "cat" else 1
        self.channels = tuple(doubled * channels for channels in self.backbone.channels)
        self.strides = self.backbone.strides
        deepest = self.channels[-1]
        blocks: list[nn.Module] = []
        width = sum(self.channels) if config.context_fusion else deepest
        for _ in range(config.squeeze_depth if config.squeeze != "none" else 0):
            blocks.append(squeeze_block(width, deepest, config))
            width = deepest
        self.squeeze = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Image ``(N, 3, H, W)`` -> four maps, finest first, and the deepest as it was before the squeeze."""
        maps = self.backbone(image)
        if self.multi_scale != "none":
            half = self.backbone(resize(image, (image.shape[-2] // 2, image.shape[-1] // 2)))
            half = [resize(coarse, fine.shape[-2:]) for coarse, fine in zip(half, maps, strict=True)]
            if self.multi_scale == "add":
                maps = [fine + coarse for fine, coarse in zip(maps, half, strict=True)]
            else:
                maps = [torch.cat(pair, dim=1) for pair in zip(maps, half, strict=True)]
        deepest = fused = maps[-1]
        if self.context_fusion:
            fused = torch.cat([*(resize(x, deepest.shape[-2:]) for x in maps[:-1]), deepest], dim=1)
        return [*maps[:-1], self.squeeze(fused)], deepest


def context_module(
    in_channels: int, out_channels: int, config: BiRefNetConfig, *, deformable: bool
) -> nn.Module:
    """An atrous pyramid as wide as ``config`` says."""
    return ASPP(
        in_channels, out_channels, width=config.context_width, deformable=deformable, dropout=config.dropout
    )


def squeeze_block(in_channels: int, out_channels: int, config: BiRefNetConfig) -> nn.Module:
    """One block of the kind that ``config.squeeze`` names."""
    if config.squeeze.startswith("aspp"):
        deformable = config.squeeze == "aspp_deformable"
        return context_module(in_channels, out_channels, config, deformable=deformable)
    return ReconstructionBlock(in_channels, out_channels, config, residual=config.squeeze == "residual")


class Decoder(nn.Module):
    """The reconstruction module: four levels, deepest first, each with its references (the paper's III-C, D).

    Args:
        channels: of the encoder's maps, finest first.
        strides: of the encoder's maps; maps that are not at strides 4..32 (those of a plain vision
            transformer) are resized to them and projected by a pyramid neck.
        config: the model's.
    """

    STRIDES = (4, 8, 16, 32)
    NECK_CHANNELS = (192, 384, 768, 1536)

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], config: BiRefNetConfig) -> None:
        super().__init__()
        widths = channels
        self.neck: nn.ModuleList | None = None
        if strides != self.STRIDES:
            widths = tuple(width * (2 if config.multi_scale == "cat" else 1) for width in self.NECK_CHANNELS)
            self.neck = nn.ModuleList(
                nn.Conv2d(c, width, 1) for c, width in zip(channels, widths, strict=True)
            )

        # Deepest first from here on. The inward reference of a level is an eighth as wide as the map that
        # comes into it, so the deepest two are equally wide; the last one stands at full resolution.
        inputs = [*reversed(widths)]
        outputs = [*inputs[1:], inputs[-1] // 2]
        encoder = [*reversed(channels)]
        references = [c // 8 for c in (encoder[0], *encoder)] if config.inward != "none" else [0] * 5
        residual = config.block == "residual"
        self.inward = nn.ModuleList(
            InwardReference(stride, width, config)
            for stride, width in zip((*reversed(self.STRIDES), 1), references, strict=True)
            if width
        )
        self.laterals = nn.ModuleList(nn.Conv2d(c, c, 1) for c in inputs[1:])
        self.blocks = nn.ModuleList(
            ReconstructionBlock(c + reference, out, config, residual=residual)
            for c, reference, out in zip(inputs, references[:4], outputs, strict=True)
        )
        sides = outputs[:3]
        self.side_heads = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in sides if config.side_outputs)
        self.outward = nn.ModuleList(
            OutwardReference(c, config.outward_width) for c in sides if config.outward
        )
        self.head = nn.Conv2d(outputs[-1] + references[-1], 1, 1)

    def forward(self, image: Tensor, maps: list[Tensor]) -> BiRefNetOutput:
        """Image ``(N, 3, H, W)`` and the encoder's maps, finest first -> logits at the image's size."""
        if self.neck is not None:
            sizes = [(image.shape[-2] // stride, image.shape[-1] // stride) for stride in self.STRIDES]
            maps = [conv(resize(x, size)) for conv, x, size in zip(self.neck, maps, sizes, strict=True)]
        side_logits, gradient_logits = [], []
        x = maps[-1]  # (N, C4, H/32, W/32)
        for level, block in enumerate(self.blocks):
            if level:
                skip = maps[-1 - level]
                x = resize(x, skip.shape[-2:]) + self.laterals[level - 1](skip)
            if self.inward:
                x = torch.cat([x, self.inward[level](image)], dim=1)
            x = block(x)
            if self.training and level < len(self.side_heads):
                side_logits.append(self.side_heads[level](x))
            if level < len(self.outward):
                x, gradient = self.outward[level](x)
                # Their label is made of the side output of the same level.
                gradient_logits += [gradient] if gradient is not None and self.side_heads else []
        return BiRefNetOutput(self.logits(image, x), tuple(side_logits), tuple(gradient_logits))

    def logits(self, image: Tensor, x: Tensor) -> Tensor:
        """The last map ``(N, C, H/4, W/4)`` and the image -> ``(N, 1, H, W)``.

        The 1×1 head of [resized map ‖ reference]. It commutes with bilinear resizing, so the map is
        projected to one channel first and resized after: the same numbers without a map at full size.
        """
        own, size = x.shape[1], image.shape[-2:]
        if own == self.head.in_channels:
            logits = resize(self.head(x), size)
            return logits + self.inward[-1](image) if self.inward else logits  # a fused one gives logits
        weight = self.head.weight
        logits = resize(F.conv2d(x, weight[:, :own], self.head.bias), size)
        return logits + F.conv2d(self.inward[-1](image), weight[:, own:])


class RefinerUNet(nn.Module):
    """A small U-Net over the image and the coarse matte: five 64-channel stages, skips concatenated."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(4, width, 3, padding=1), ConvNormAct(width, width, bias=True))
        rest = (ConvNormAct(width, width, bias=True) for _ in range(3))
        self.encoder = nn.ModuleList([first, *rest])
        self.bottleneck = ConvNormAct(width, width, bias=True)
        self.decoder = nn.ModuleList(ConvNormAct(2 * width, width, bias=True) for _ in range(4))
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        """Image ``(N, 3, H, W)`` and coarse logits ``(N, 1, H, W)`` -> refined logits ``(N, 1, H, W)``."""
        x = torch.cat([image, logits.sigmoid()], dim=1)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if skips else x)
            skips.append(x)
        x = self.bottleneck(F.max_pool2d(x, 2, ceil_mode=True))
        for stage in self.decoder:
            skip = skips.pop()
            x = stage(torch.cat([resize(x, skip.shape[-2:]), skip], dim=1))
        out: Tensor = self.head(x)
        return out


class BiRefNet(nn.Module):
    """BiRefNet of any configuration: normalised images in, logits out.

    Args:
        config: what it is made of; the released general model's by default.
    """

    def __init__(self, config: BiRefNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or BiRefNetConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.encoder.channels, self.encoder.strides, self.config)
        classes = self.config.classes
        self.classifier = nn.Linear(self.encoder.channels[-1], classes) if classes else None
        self.refiner = RefinerUNet() if self.config.refiner == "unet" else None

    def forward(self, image: Tensor) -> BiRefNetOutput:
        """Segment a batch.

        Args:
            image: ``(N, 3, H, W)``, normalised as the weights' `Preprocessing` says; H and W
                multiples of 32.

        Returns:
            Logits ``(N, 1, H, W)``; in training also what is supervised beside them.

        Raises:
            InputError: the shape is not that of such a batch.
        """
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] % 32 or image.shape[3] % 32:
            raise InputError(
                f"image is {tuple(image.shape)}, expected (N, 3, H, W), H and W multiples of 32: resize it"
            )
        maps, deepest = self.encoder(image)
        out: BiRefNetOutput = self.decoder(image, maps)
        if self.classifier is not None and self.training:
            out = out._replace(class_logits=self.classifier(deepest.mean(dim=(2, 3))))
        if self.refiner is not None:
            # The coarse logits stay supervised: they take their place after the other side outputs.
            sides = (*out.side_logits, out.logits) if self.training else ()
            out = out._replace(logits=self.refiner(image, out.logits), side_logits=sides)
        return out


PRESETS: dict[str, BiRefNetConfig] = {
    "birefnet": BiRefNetConfig(),
    "birefnet-lite": BiRefNetConfig(backbone="swin_t"),
    "pocket": BiRefNetConfig(
        backbone="efficientnet_lite0",
        multi_scale="none",
        context_fusion=False,
        squeeze="aspp",
        context="none",
        block_width=48,
        context_width=64,
        dropout=0.1,
        inward="unshuffle",
        inward_width=16,
    ),
}
"""Configurations with a name of their own: the two released general models, and the embedded default."""
