"""Small convolutional parts that more than one model is built from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoupe.layers.deform import DeformConv2d, pair


def resize(x: Tensor, size: Sequence[int], *, align_corners: bool = True) -> Tensor:
    """``x`` ``(N, C, h, w)`` bilinearly resized to ``size`` ``(H, W)``; untouched when it has that size."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def in_turn(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """``x``, and what each stage makes of what the one before it gave."""
    maps = [x]
    for stage in stages:
        maps.append(stage(maps[-1]))
    return maps


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast; nothing to do on devices that do not know it, such as meta."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


class StochasticDepth(nn.Module):
    """A residual branch left out for some of the pictures of a batch (Huang et al., ECCV 2016), in training.

    As torchvision's of mode "row", whose import takes a second and 0.2 GB.

    Args:
        rate: how often, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``(N, …)`` -> the same, of the pictures that keep it scaled by 1/(1 − rate)."""
        if not self.training or not self.rate:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, ReLU; the padding keeps the size at stride 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        activation: bool = True,
    ) -> None:
        kernel_size = pair(kernel_size)
        padding = (dilation * (kernel_size[0] // 2), dilation * (kernel_size[1] // 2))
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias),
            nn.BatchNorm2d(out_channels),
        ]
        if activation:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Normed(NamedTuple):
    """A convolution with the batch norm right behind it in a sequence.

    Attributes:
        conv_name: of the convolution in the model.
        conv: the convolution.
        norm_name: of the norm.
        norm: the norm.
    """

    conv_name: str
    conv: nn.Conv2d
    norm_name: str
    norm: nn.BatchNorm2d


def normed(model: nn.Module) -> list[Normed]:
    """Every `Normed` of a model, in the order of its modules."""
    return [
        Normed(f"{place}.{first}", conv, f"{place}.{second}", norm)
        for place, sequence in model.named_modules()
        if isinstance(sequence, nn.Sequential)
        for (first, conv), (second, norm) in pairwise(sequence.named_children())
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    ]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: context at several ranges, and of the whole picture.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation" (2017), section 3.3; with
    ``deformable=True`` the dilated branches become modulated deformable convolutions of growing kernels
    (Zheng et al. 2024, section III-C, after Huynh et al. 2023).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at the input's size.
        width: channels of each branch.
        deformable: deformable kernels 1, 1, 3, 7 instead of a 1×1 and dilations 6, 12, 18.
        dropout: share of the fused map's values that training leaves out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 256,
        deformable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if deformable:
            branches = [
                nn.Sequential(
                    DeformConv2d(in_channels, width, kernel), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
                )
                for kernel in (1, 1, 3, 7)
            ]
        else:
            shapes = ((1, 1), (3, 6), (3, 12), (3, 18))
            branches = [
                ConvNormAct(in_channels, width, kernel, dilation=dilation) for kernel, dilation in shapes
            ]
        self.branches = nn.ModuleList(branches)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvNormAct(in_channels, width, 1))
        self.fuse = nn.Sequential(
            ConvNormAct(width * (len(branches) + 1), out_channels, 1), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` ``(N, in_channels, H, W)`` -> ``(N, out_channels, H, W)``."""
        maps = [branch(x) for branch in self.branches]
        # One value per channel: expanding it is what bilinear resizing of a 1×1 map does.
        maps.append(self.pooled(x).expand(-1, -1, *x.shape[-2:]))
        out: Tensor = self.fuse(torch.cat(maps, dim=1))
        return out
