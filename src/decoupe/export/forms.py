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
from decoupe.models.fuse.contexts import Context, DeformableBranch
from decoupe.models.fuse.references import CollapsedReference
from decoupe.models.fuse.windows import SwinStage

Model = TypeVar("Model", bound=nn.Module)

ALIGNED = 4
"""Channels that ONNX Runtime's blocked layout takes a multiple of."""


def traceable(model: Model, *, phased: bool = False) -> Model:
    """A copy of ``model`` in the form that is traced; ``model`` stays as it is.

    Args:
        model: of `decoupe.models`.
        phased: compute deformable convolutions in phases, see `PhasedContext`.

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
            elif phased and isinstance(child, Context) and deformable(child):
                setattr(module, name, PhasedContext(child, phases.get(child, 1)))
            elif not phased and isinstance(child, DeformableBranch):
                setattr(module, name, TracedBranch(child))
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
        giving = cast(nn.Conv2d, reference.convs[-1])
        assert giving.bias is not None
        readers = [each for each in (block.reduce[0], block.shortcut) if isinstance(each, nn.Conv2d)]
        zeros = -readers[0].in_channels % ALIGNED
        for reading in readers:
            reading.in_channels += zeros
            reading.weight = nn.Parameter(F.pad(reading.weight, (0, 0, 0, 0, 0, zeros)))
        giving.out_channels += zeros
        giving.weight = nn.Parameter(F.pad(giving.weight, (0, 0, 0, 0, 0, 0, 0, zeros)))
        giving.bias = nn.Parameter(F.pad(giving.bias, (0, zeros)))


def deformable(context: Context) -> bool:
    """Whether its branches are deformable convolutions."""
    return all(isinstance(branch, DeformableBranch) for branch in context.branches)


def _phases(decoder: Decoder) -> dict[nn.Module, int]:
    """The phases of each level's context: as many as always divide the rows of its map."""
    blocks = cast("Iterable[ReconstructionBlock]", decoder.blocks)
    return {
        block.context: GRID // stride for block, stride in zip(blocks, reversed(Decoder.STRIDES), strict=True)
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
    """A `DeformableBranch` whose deformable convolution is one operator to the tracer, torchvision's."""

    def __init__(self, plain: DeformableBranch) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        offset, modulation = self.plain.fields(x)
        return F.conv2d(hidden(self.plain, x, offset, modulation), self.plain.mix)


class PhasedContext(nn.Module):
    """A `Context` of deformable branches, computed in phases.

    A runtime writes down all that the taps of a convolution read before it multiplies: for 7×7 taps of 64
    channels at 256×256 places, 822 MB. In n phases, each of every n-th row, there is an n-th of that at a
    time, and what follows works on it while it is warm. The branches are mixed by products of matrices,
    which need none of the layouts of convolutions.

    Args:
        plain: of the fused model.
        phases: a divisor of the map's rows.
    """

    def __init__(self, plain: Context, phases: int) -> None:
        super().__init__()
        self.plain, self.phases = plain, phases

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` -> ``(N, out, H, W)``."""
        plain, branches = self.plain, cast("Iterable[DeformableBranch]", self.plain.branches)
        pooled = F.conv2d(plain.pooled(x), plain.mix, plain.bias)  # (N, out, 1, 1)
        fields = [tuple(map(self.by_phase, branch.fields(x))) for branch in branches]
        parts = []
        for phase in range(self.phases):
            total = pooled
            for branch, (offset, modulation) in zip(branches, fields, strict=True):
                down = torch.tensor([1.0, 0.0]).repeat(branch.taps).view(-1, 1, 1)  # (y, x) of each tap
                place, factor = offset[:, :, :, phase] + phase * down, modulation[:, :, :, phase]
                found = hidden(branch, x, place, factor, self.phases)  # (N, width, H/phases, W)
                mixed = branch.mix.flatten(1) @ found.flatten(2)
                total = total + mixed.reshape(*mixed.shape[:2], *found.shape[2:])
            parts.append(F.relu(total))
        return torch.stack(parts, dim=3).flatten(2, 3)

    def by_phase(self, field: Tensor) -> Tensor:
        """``(N, K, H, W)`` -> ``(N, K, H/phases, phases, W)``."""
        return field.reshape(*field.shape[:2], -1, self.phases, field.shape[3])


def hidden(branch: DeformableBranch, x: Tensor, offset: Tensor, modulation: Tensor, step: int = 1) -> Tensor:
    """What a branch gives before it is mixed, of every ``step``-th row ``(N, width, H/step, W)``."""
    from torchvision.ops import deform_conv2d

    conv, padding = branch.conv, branch.padding
    return F.relu(deform_conv2d(x, offset, conv.weight, conv.bias, (step, 1), padding, mask=modulation))


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
    """A `SwinBlock` whose attention is `window_attention`.

    Of the projection's bias the queries' part is left. A key's adds the same to all the products of a query,
    which softmax takes away again; a value's passes through, for attention adds up to one.
    """

    def __init__(self, plain: SwinBlock, bias: Tensor) -> None:
        super().__init__()
        self.window, self.shift = plain.window, plain.shift
        self.norm1, self.norm2, self.mlp = plain.norm1, plain.norm2, plain.mlp
        attention, self.proj = plain.attention, plain.attention.proj
        query, key, value = attention.qkv.weight.detach().t().chunk(3, dim=1)  # (C, C) each
        query_bias, _, value_bias = attention.qkv.bias.detach().chunk(3)
        # Dot products of queries and keys are divided by the root of a head's width.
        scale = (query_bias.numel() // attention.heads) ** -0.5
        parts = (query * scale, query_bias * scale, key, value, bias.detach())  # bias (1, heads, L, L)
        self.attention = nn.ParameterList(nn.Parameter(part.contiguous()) for part in parts)
        with torch.no_grad():
            self.proj.bias.add_(self.proj.weight @ value_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` -> the same."""
        x = x + self.proj(window_attention()(self.norm1(x), *self.attention, self.window, self.shift))
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
