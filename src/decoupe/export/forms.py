"""Forms of a model's parts for tracing: equal numbers, few operators, and none that works in place.

What a tracer sees is computed whole maps at a time by a runtime that allocates each result, so these forms
differ from those of `decoupe.models.fuse`, which keep what they work on in the cache.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decoupe.backbones.swin import PatchMerging, Swin, SwinBlock
from decoupe.backbones.swin_operators import patches, window_attention
from decoupe.backbones.vit import DINOv3
from decoupe.export.graphs import GRID
from decoupe.layers.deform import DeformConv2d
from decoupe.models import fuse as fusion
from decoupe.models.birefnet import BiRefNet, Decoder, InwardReference, ReconstructionBlock
from decoupe.models.fuse import CollapsedReference, DeformableBranch, SwinStage

Model = TypeVar("Model", bound=nn.Module)

ALIGNED = 4
"""Channels that ONNX Runtime's blocked layout takes a multiple of."""


def traceable(model: Model, *, phased: bool = False) -> Model:
    """A copy of ``model`` in the form that is traced; ``model`` stays as it is.

    Args:
        model: of `decoupe.models`.
        phased: compute the deformable convolutions of a decoder in phases, see `TracedBranch`.

    Returns:
        The copy, in evaluation mode.
    """
    model = fusion.fuse(copy.deepcopy(model)).to(memory_format=torch.contiguous_format)
    phases: Mapping[nn.Module, int] = {}
    if isinstance(model, BiRefNet):
        align(model.decoder)
        phases = _phases(model.decoder) if phased else {}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, CollapsedReference):
                setattr(module, name, JoinedReference(child))
            elif isinstance(child, DeformableBranch):
                setattr(module, name, TracedBranch(child, phases.get(child, 1)))
        if isinstance(module, DINOv3):
            module.model.rope = TracedRope(module.model.rope)
        elif isinstance(module, DeformConv2d):
            module.method = "torchvision"
        elif isinstance(module, Swin):
            module.stages = nn.ModuleList(TracedStage(cast(SwinStage, stage)) for stage in module.stages)
            merges = cast("Iterable[PatchMerging]", module.merges)
            module.merges = nn.ModuleList(TracedMerging(merge) for merge in merges)
    return model


def align(decoder: Decoder) -> None:
    """Bring what each level concatenates to a multiple of `ALIGNED` channels: the references end in zeros.

    For a convolution of another number ONNX Runtime leaves its blocked layout, and takes longer.
    """
    blocks = cast("Iterable[ReconstructionBlock]", decoder.blocks)
    references = cast("Iterable[InwardReference]", decoder.inward)  # or strided ones; the last stands alone
    for block, reference in zip(blocks, references, strict=False):
        reading, giving = cast("tuple[nn.Conv2d, nn.Conv2d]", (block.reduce[0], reference.convs[-1]))
        assert giving.bias is not None
        zeros = -reading.in_channels % ALIGNED
        reading.in_channels += zeros
        giving.out_channels += zeros
        reading.weight = nn.Parameter(F.pad(reading.weight, (0, 0, 0, 0, 0, zeros)))
        giving.weight = nn.Parameter(F.pad(giving.weight, (0, 0, 0, 0, 0, 0, 0, zeros)))
        giving.bias = nn.Parameter(F.pad(giving.bias, (0, zeros)))


def _phases(decoder: Decoder) -> dict[nn.Module, int]:
    """The phases of each deformable branch: as many as always divide the rows of its level."""
    return {
        branch: GRID // stride
        for block, stride in zip(decoder.blocks, reversed(Decoder.STRIDES), strict=True)
        for branch in block.modules()
        if isinstance(branch, DeformableBranch)
    }


class JoinedReference(nn.Module):
    """A `CollapsedReference` that joins the rim and the middle instead of writing over the rim."""

    def __init__(self, plain: CollapsedReference) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> its part of the logits ``(N, 1, H, W)``."""
        plain = self.plain
        out = plain.collapsed(image)
        top, bottom = plain.pair(image[:, :, :3])[:, :, :1], plain.pair(image[:, :, -3:])[:, :, -1:]
        left, right = plain.pair(image[..., :3])[..., :1], plain.pair(image[..., -3:])[..., -1:]
        out = torch.cat([top, out[:, :, 1:-1], bottom], dim=2)
        return torch.cat([left, out[..., 1:-1], right], dim=3)


class TracedBranch(nn.Module):
    """A `DeformableBranch` whose deformable convolution is one operator to the tracer, torchvision's.

    A runtime writes down all that the taps read before it multiplies: for 7×7 taps of 64 channels at 256×256
    places, 822 MB. In n phases, each of every n-th row, there is an n-th of that at a time, and the ReLU and
    the mixing follow while it is warm.

    Args:
        plain: of the fused model.
        phases: a divisor of the map's rows.
    """

    def __init__(self, plain: DeformableBranch, phases: int) -> None:
        super().__init__()
        self.plain, self.phases = plain, phases

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        offset, modulation = self.plain.fields(x)
        if self.phases == 1:
            return self.mixed(x, offset, modulation)
        offset, modulation = (
            field.reshape(*field.shape[:2], -1, self.phases, field.shape[3]) for field in (offset, modulation)
        )
        down = torch.tensor([1.0, 0.0]).repeat(self.plain.taps).view(-1, 1, 1)  # a row: (y, x) of each tap
        parts = [
            self.mixed(x, offset[:, :, :, phase] + phase * down, modulation[:, :, :, phase])
            for phase in range(self.phases)
        ]
        return torch.stack(parts, dim=3).flatten(2, 3)

    def mixed(self, x: Tensor, offset: Tensor, modulation: Tensor) -> Tensor:
        """What every ``phases``-th row gives: ``(N, out, H/phases, W)``."""
        from torchvision.ops import deform_conv2d

        conv, padding, stride = self.plain.conv, self.plain.padding, (self.phases, 1)
        found = deform_conv2d(x, offset, conv.weight, conv.bias, stride, padding, mask=modulation)
        return F.conv2d(F.relu(found), self.plain.mix)


class TracedStage(nn.Module):
    """The blocks of a Swin stage over tokens, the attention of each one operator to the tracer.

    Padding is never projected: its query, key and value are the projection's bias.

    Args:
        plain: the fused stage.
    """

    def __init__(self, plain: SwinStage) -> None:
        super().__init__()
        blocks = cast("Iterable[SwinBlock]", plain.blocks)
        self.blocks = nn.ModuleList(map(TracedBlock, blocks, plain.biases))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, H, W, C)``."""
        for block in self.blocks:
            x = block(x)
        return x


class TracedBlock(nn.Module):
    """A `SwinBlock` whose attention is `window_attention`."""

    def __init__(self, plain: SwinBlock, bias: Tensor) -> None:
        super().__init__()
        self.window, self.shift = plain.window, plain.shift
        self.norm1, self.norm2, self.mlp = plain.norm1, plain.norm2, plain.mlp
        self.qkv, self.proj = plain.attention.qkv, plain.attention.proj
        width = self.proj.in_features
        with torch.no_grad():  # dot products of queries and keys are divided by the root of a head's width
            for part in (self.qkv.weight, self.qkv.bias):
                part[:width] *= (width // plain.attention.heads) ** -0.5
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)  # (1, heads, L, L)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> the same."""
        qkv = self.qkv(self.norm1(x))
        x = x + self.proj(window_attention()(qkv, self.qkv.bias, self.bias, self.window, self.shift))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TracedMerging(nn.Module):
    """A `PatchMerging` whose padding and regrouping is `patches`."""

    def __init__(self, plain: PatchMerging) -> None:
        super().__init__()
        self.norm, self.reduction = plain.norm, plain.reduction

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> map ``(B, ceil(H/2), ceil(W/2), 2C)``."""
        merged: Tensor = self.reduction(self.norm(patches()(x)))
        return merged


class TracedRope(nn.Module):
    """The rotary embedding of a DINOv3 of any size: timm's makes plain numbers of the sides.

    Args:
        plain: timm's ``RotaryEmbeddingDinoV3``, each axis from −1 to 1 as the released models have it.
    """

    periods: Tensor

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.rotate_half: bool = plain.rotate_half
        self.register_buffer("periods", plain.periods.clone(), persistent=False)

    def get_embed(self, shape: Sequence[int]) -> Tensor:
        """The sines and cosines ``(H·W, 2·width of a head)`` of a map of ``(H, W)`` tokens."""
        axes = [2 * (torch.arange(side, device=self.periods.device) + 0.5) / side - 1 for side in shape]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)  # (H·W, 2)
        angles = (2 * math.pi * places[..., None] / self.periods).flatten(1)
        waves = torch.stack([angles.sin(), angles.cos()], dim=1)
        waves = waves.tile(2) if self.rotate_half else waves.repeat_interleave(2, dim=-1)
        return waves.flatten(1)
