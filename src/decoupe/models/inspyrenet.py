"""InSPyReNet: an inverse saliency pyramid for high-resolution salient object detection.

Kim, Kim, Lee, Cha, Lee and Kim, "Revisiting Image Pyramid Structure for High Resolution Salient Object
Detection", ACCV 2022, arXiv 2209.09475 ("the paper" below).

A decoder draws a small saliency map; three stages of attention each add the detail that the next finer map
lacks, as a Laplacian pyramid does. Since every stage speaks of detail only, the stages of a pass at high
resolution can be blended into those of a pass at the size that the network was trained at.

    image ── backbone, 5 maps ── PAA encoder each ── PAA decoder ── d3
                       d3 ── SICA ── + p2 = d2 ── SICA ── + p1 = d1 ── SICA ── + p0 = d0, the logits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.backbones import STEM_BACKBONES, StemBackbone, build_backbone
from decoupe.errors import ConfigError, InputError, unknown
from decoupe.layers.blocks import ConvNormAct, resize, without_autocast
from decoupe.layers.pyramid import morphological_gradient, reconstruct
from decoupe.models.checks import check_fields

MULTIPLE = 32
"""Sides that are no multiple of it are padded for the network, and the logits cropped."""


@dataclass(frozen=True)
class InSPyReNetConfig:
    """What an InSPyReNet is made of; the defaults are the paper's larger model.

    Attributes:
        backbone: name in `decoupe.backbones.STEM_BACKBONES`.
        depth: channels of every map after the encoder; a multiple of 8.
        base_size: ``(height, width)`` in pixels that the network was trained at; context is pooled at it,
            whatever the picture's own size.
    """

    backbone: str = "swin_b"
    depth: int = 64
    base_size: tuple[int, int] = (384, 384)

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no model can be built from."""
        check_fields(self)
        if self.backbone not in STEM_BACKBONES:
            raise ConfigError(unknown("backbone with a stem", self.backbone, STEM_BACKBONES))
        if self.depth % 8:
            raise ConfigError(f"depth is {self.depth}, expected a positive multiple of 8")
        if min(self.base_size) < MULTIPLE or any(side % MULTIPLE for side in self.base_size):
            raise ConfigError(f"base_size is {self.base_size}, expected two multiples of {MULTIPLE}")


class InSPyReNetOutput(NamedTuple):
    """What an InSPyReNet gives, in both modes; what only training uses is empty otherwise.

    Attributes:
        logits: ``(N, 1, H, W)``; their sigmoid is the matte.
        side_logits: the coarser saliency maps d3, d2, d1, coarsest first: ``(N, 1, H/8, W/8)`` and on, each
            twice as large, sides rounded up; the next is ``logits``.
        laplacian: the detail maps p2, p1, p0: ``(N, 1, H/4, W/4)`` and on.
    """

    logits: Tensor
    side_logits: tuple[Tensor, ...] = ()
    laplacian: tuple[Tensor, ...] = ()


class AxialAttention(nn.Module):
    """Self-attention along one axis, weighted by a learned gain (the paper's section 3.1, after UACANet).

    Args:
        channels: of the map.
        axis: −2 for the height, −1 for the width.
    """

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.query = ConvNormAct(channels, channels // 8, 1, activation=False)
        self.key = ConvNormAct(channels, channels // 8, 1, activation=False)
        self.value = ConvNormAct(channels, channels, 1, activation=False)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same, attended."""
        length = x.shape[self.axis]
        # The released weights were trained on flat views, not transposed ones: along the height a view holds
        # runs of H values, row after row.
        projections = (self.query, self.key, self.value)
        query, key, value = (project(x).reshape(x.shape[0], -1, length) for project in projections)
        attention = (query.transpose(1, 2) @ key).softmax(dim=-1)  # (N, L, L)
        attended: Tensor = (value @ attention.transpose(1, 2)).reshape(x.shape)
        return x + self.gain * attended


class BothAxes(nn.Module):
    """Attention along the height plus attention along the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.height = AxialAttention(channels, -2)
        self.width = AxialAttention(channels, -1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> the same size."""
        attended: Tensor = self.height(x) + self.width(x)
        return attended


class ContextEncoder(nn.Module):
    """Parallel axial attention on a map of the backbone: a 1×1 branch, three of growing reach (PAA-e)."""

    def __init__(self, in_channels: int, depth: int) -> None:
        super().__init__()
        attending = (
            nn.Sequential(
                ConvNormAct(in_channels, depth, 1, activation=False),
                ConvNormAct(depth, depth, (1, size), activation=False),
                ConvNormAct(depth, depth, (size, 1), activation=False),
                BothAxes(depth),
                ConvNormAct(depth, depth, 3, dilation=size, activation=False),
            )
            for size in (3, 5, 7)
        )
        self.branches = nn.ModuleList([ConvNormAct(in_channels, depth, 1, activation=False), *attending])
        self.fuse = ConvNormAct(len(self.branches) * depth, depth, 3, activation=False)
        self.shortcut = ConvNormAct(in_channels, depth, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, h, w)`` -> ``(N, depth, h, w)``."""
        fused = self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))
        return F.relu(fused + self.shortcut(x))


class ContextDecoder(nn.Module):
    """The three deeper maps together: a feature and the first saliency map (PAA-d)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(3 * depth, depth, 3, activation=False)
        self.attention = BothAxes(depth)
        self.mix = nn.Sequential(*(ConvNormAct(depth, depth, 3, activation=False) for _ in range(3)))
        self.head = nn.Conv2d(depth, 1, 3, padding=1, bias=False)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps ``(N, depth, …)``, finest first -> a feature and logits ``(N, 1, h, w)`` at the finest."""
        size = maps[0].shape[-2:]
        x = torch.cat([resize(x, size) for x in reversed(maps)], dim=1)
        x = self.mix(self.attention(self.reduce(x)))
        return x, self.head(x)


class ScaleInvariantAttention(nn.Module):
    """Scale-invariant context attention (SICA, the paper's section 3.2): detail where the saliency is unsure.

    Args:
        in_channels: of the feature.
        depth: channels of everything inside.
        pooled_size: ``(height, width)`` at which context is pooled, whatever the picture's own size.
        detail: whether the coarser stage's detail map gives two further regions.
    """

    def __init__(self, in_channels: int, depth: int, pooled_size: tuple[int, int], *, detail: bool) -> None:
        super().__init__()
        self.pooled_size = pooled_size
        self.threshold = nn.Parameter(torch.tensor([0.5]))
        self.detail_threshold = nn.Parameter(torch.tensor([0.5])) if detail else None
        self.query = nn.Sequential(ConvNormAct(in_channels, depth, 3), ConvNormAct(depth, depth, 3))
        self.key = nn.Sequential(ConvNormAct(in_channels, depth, 1), ConvNormAct(depth, depth, 1))
        self.value = nn.Sequential(ConvNormAct(in_channels, depth, 1), ConvNormAct(depth, depth, 1))
        self.context = ConvNormAct(depth, depth, 3)
        self.mix = nn.Sequential(ConvNormAct(in_channels + depth, depth, 3), ConvNormAct(depth, depth, 3))
        self.head = ConvNormAct(depth, 1, 1, activation=False)

    def forward(
        self, maps: Sequence[Tensor], saliency: Tensor, detail: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Detail of a map twice as large as the coarser one.

        Args:
            maps: of any size, ``in_channels`` together: the feature, once they are resized and put together.
            saliency: the coarser stage's logits, ``(N, 1, h/2, w/2)``.
            detail: its detail map, likewise, where there is one.

        Returns:
            A feature ``(N, depth, h, w)`` and a detail map ``(N, 1, h, w)``.
        """
        size = twice(saliency)
        x = joined([resize(each, size, align_corners=False) for each in maps])
        contexts = self.contexts(x, self.regions(size, saliency, detail))
        x = self.refine(x, *self.memory(contexts))
        return x, self.head(x)

    def memory(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts ``(N, in_channels, R, 1)`` -> key and value of each region ``(N, depth, R)``."""
        with without_autocast(contexts.device):
            return self.key(contexts).flatten(2), self.value(contexts).flatten(2)

    def refine(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Feature ``(N, in_channels, h, w)`` -> ``(N, depth, h, w)``, every cell told of the regions."""
        shares = self.shares(self.query(x), key)
        attended = (value @ shares.flatten(2)).reshape(x.shape[0], -1, *x.shape[-2:])
        out: Tensor = self.mix(torch.cat([x, self.context(attended)], dim=1))
        return out

    def shares(self, query: Tensor, key: Tensor) -> Tensor:
        """How much of each region's value a cell of ``query`` ``(N, depth, h, w)`` gets: ``(N, R, h, w)``."""
        cells = query.flatten(2).transpose(1, 2)  # (N, h·w, depth)
        shares = (cells @ key * key.shape[1] ** -0.5).softmax(dim=-1)  # (N, h·w, R)
        found: Tensor = shares.transpose(1, 2).reshape(query.shape[0], -1, *query.shape[-2:])
        return found

    def contexts(self, x: Tensor, regions: Tensor) -> Tensor:
        """The feature's sum over each region, pooled at the trained size: ``(N, in_channels, R, 1)``."""
        # Sums over every cell: float16 would overflow before the batch norm that follows.
        with without_autocast(x.device):
            pooled = self.pooled(x)
            # The released weights were trained with the feature viewed as (cells, channels), not transposed.
            cells = pooled.reshape(x.shape[0], -1, x.shape[1])  # (N, cells, C)
            return (self.pooled(regions).flatten(2) @ cells).transpose(1, 2)[..., None]

    def pooled(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` at the trained size, in full precision."""
        return resize(x.to(self.threshold.dtype), self.pooled_size, align_corners=False)

    def regions(self, size: Sequence[int], saliency: Tensor, detail: Tensor | None) -> Tensor:
        """How much each pixel is foreground, background and in doubt: ``(N, 3 or 5, h, w)`` (equation 3)."""
        above = resize(saliency, size, align_corners=False).sigmoid() - self.threshold
        parts = [above.clamp(0, 1), (-above).clamp(0, 1), self.threshold - above.abs()]
        if detail is not None and self.detail_threshold is not None:
            above = resize(detail, size, align_corners=False).sigmoid() - self.detail_threshold
            parts += [above.clamp(0, 1), (-above).clamp(0, 1)]
        return torch.cat(parts, dim=1)


class InSPyReNet(nn.Module):
    """InSPyReNet of any configuration: normalised images in, logits out.

    Args:
        config: what it is made of; the paper's Swin-B at 384² by default.
    """

    # Detail is kept where the outline is at most this many pixels wide, at d2, d1 and d0.
    OUTLINES = (5, 9, 17)

    def __init__(self, config: InSPyReNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or InSPyReNetConfig()
        depth = self.config.depth
        self.backbone = cast(nn.Module, build_backbone(self.config.backbone))
        backbone = cast(StemBackbone, self.backbone)
        channels = (backbone.stem_channels, *backbone.channels)
        self.encoders = nn.ModuleList(ContextEncoder(width, depth) for width in channels)
        self.decoder = ContextDecoder(depth)
        height, width = self.config.base_size
        # Coarsest first: they stand at a quarter of the picture's size, at half of it and at all of it.
        self.stages = nn.ModuleList(
            ScaleInvariantAttention(inputs, depth, (height // stride, width // stride), detail=stride < 4)
            for stride, inputs in ((4, 2 * depth), (2, 2 * depth), (1, depth))
        )

    def forward(self, image: Tensor, low: Tensor | None = None) -> InSPyReNetOutput:
        """Segment a batch, in one pass or blended from two.

        Args:
            image: ``(N, 3, H, W)``, normalised with ImageNet's mean and deviation, sides from 32 pixels.
            low: the same pictures at the size that the network was trained at, ``(N, 3, h, w)``: the subject
                is found there, and only outlines are taken from ``image`` (the paper's section 3.3). For
                evaluation.

        Returns:
            Logits ``(N, 1, H, W)``; in training also what is supervised beside them.

        Raises:
            InputError: the shape is not that of such a batch, or ``low`` is not of as many pictures, or was
                given in training.
        """
        out = self.maps(image) if low is None else self.blended(image, low)
        return out if self.training else InSPyReNetOutput(out.logits)

    def maps(self, image: Tensor) -> InSPyReNetOutput:
        """Every map of one pass, in either mode: see `forward`."""
        seen = cast(StemBackbone, self.backbone).with_stem(padded(image))
        stem, finest, *deeper = [encode(x) for encode, x in zip(self.encoders, seen, strict=True)]
        del seen  # wide maps, of which no stage knows
        x, d = self.decoder(deeper)  # (N, depth, H/8, W/8), (N, 1, H/8, W/8)
        levels, laplacian = [d], []
        p: Tensor | None = None
        for stage, skips in zip(self.stages, ([finest], [stem], []), strict=True):
            x, p = stage([*skips, x], d.detach(), None if p is None else p.detach())
            d = reconstruct(d.detach(), p)  # twice as large
            levels.append(d)
            laplacian.append(p)
        *sides, logits = cropped(levels, image)
        return InSPyReNetOutput(logits, tuple(sides), cropped(laplacian, image))

    def blended(self, image: Tensor, low: Tensor) -> InSPyReNetOutput:
        """Every map of pyramid blending (the paper's algorithm 1): see `forward`."""
        if self.training:
            raise InputError("low is for evaluation: training looks at one size, leave low out")
        if low.shape[0] != image.shape[0]:
            raise InputError(
                f"low has {low.shape[0]} pictures, image {image.shape[0]}: give the same ones twice"
            )
        coarse, fine = self.maps(low), self.maps(image)
        d = resize(coarse.logits, fine.side_logits[0].shape[-2:], align_corners=False)
        levels, laplacian = [d], []
        for detail, size in zip(fine.laplacian, self.OUTLINES, strict=True):
            near = (morphological_gradient(d.sigmoid(), size) > 0.5).to(d.dtype)
            p = detail * resize(near, detail.shape[-2:], align_corners=False)
            d = reconstruct(d, p)
            levels.append(d)
            laplacian.append(p)
        return InSPyReNetOutput(d, tuple(levels[:-1]), tuple(laplacian))


def padded(image: Tensor) -> Tensor:
    """``image`` with its right and lower edges repeated up to multiples of 32.

    Raises:
        InputError: not a batch of images with sides from 32 pixels.
    """
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < MULTIPLE:
        raise InputError(
            f"image is {tuple(image.shape)}, expected (N, 3, H, W), H and W at least {MULTIPLE}: resize it"
        )
    right, below = -image.shape[3] % MULTIPLE, -image.shape[2] % MULTIPLE
    return F.pad(image, (0, right, 0, below), mode="replicate") if right or below else image


def twice(saliency: Tensor) -> tuple[int, int]:
    """The size of the level that is finer than ``saliency`` ``(N, 1, h, w)``."""
    return 2 * saliency.shape[-2], 2 * saliency.shape[-1]


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(N, …, h, w)`` of one size, their channels one after the other; a single one is not copied."""
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), dim=1)


def cropped(levels: list[Tensor], image: Tensor) -> tuple[Tensor, ...]:
    """Levels of a pyramid, the last as large as the padded image, without what the padding added."""
    height, width = image.shape[-2:]
    strides = reversed([2**i for i in range(len(levels))])
    return tuple(x[..., : -(-height // n), : -(-width // n)] for x, n in zip(levels, strides, strict=True))


PRESETS: dict[str, InSPyReNetConfig] = {
    "inspyrenet": InSPyReNetConfig(base_size=(1024, 1024)),
    "inspyrenet-fast": InSPyReNetConfig(),
    "inspyrenet-res2net50": InSPyReNetConfig(backbone="res2net50"),
}
"""Configurations with a name of their own: the released general models, and the paper's smaller one."""
