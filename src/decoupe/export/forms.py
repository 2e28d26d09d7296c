"""Forms of a model's parts for tracing: equal numbers, few operators, and none that works in place.

What a tracer sees is computed whole maps at a time by a runtime that allocates each result, so these forms
differ from those of `decoupe.models.fuse`, which keep what they work on in the cache.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decoupe.backbones.swin import PatchMerging, Swin, SwinBlock, from_windows, shifted_regions, to_windows
from decoupe.layers.deform import DeformConv2d, deform_conv2d
from decoupe.models import fuse as fusion
from decoupe.models.fuse import CollapsedReference, DeformableBranch, SwinStage, fold_batch_norm

Model = TypeVar("Model", bound=nn.Module)


def traceable(model: Model, *, fuse: bool = True) -> Model:
    """A copy of ``model`` in the form that is traced; ``model`` stays as it is.

    Args:
        model: of `decoupe.models`.
        fuse: merge what can be merged. False folds batch norms alone, so that weights keep their names.

    Returns:
        The copy, in evaluation mode.
    """
    if not fuse:
        return fold_batch_norm(model)
    model = fusion.fuse(copy.deepcopy(model)).to(memory_format=torch.contiguous_format)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, CollapsedReference):
                setattr(module, name, JoinedReference(child))
            elif isinstance(child, DeformableBranch):
                setattr(module, name, TracedBranch(child))
        if isinstance(module, DeformConv2d):
            module.method = "torchvision"
        elif isinstance(module, Swin):
            module.stages = nn.ModuleList(TracedStage(cast(SwinStage, stage)) for stage in module.stages)
            merges = cast("Iterable[PatchMerging]", module.merges)
            module.merges = nn.ModuleList(TracedMerging(merge) for merge in merges)
    return model


class JoinedReference(nn.Module):
    """A `CollapsedReference` that joins the rim and the middle instead of writing over the rim."""

    def __init__(self, plain: CollapsedReference) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> its part of the logits ``(N, 1, H, W)``."""
        plain = self.plain
        out = F.conv2d(image, plain.kernel, plain.constant, padding=2)
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
        conv, padding = self.plain.conv, self.plain.padding
        fields = self.plain.fields(x)
        found = deform_conv2d(x, *fields, conv.weight, conv.bias, padding=padding, method="torchvision")
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


def register() -> None:
    """Make the operators known to torch; a second time changes nothing."""
    patches()
    window_attention()


@functools.cache
def patches() -> Callable[..., Tensor]:
    """The operator ``decoupe::patches``: `regroup`, opaque to a tracer."""
    operator = torch.library.custom_op("decoupe::patches", regroup, mutates_args=())

    @operator.register_fake
    def _(x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        return x.new_empty(B, (H + 1) // 2, (W + 1) // 2, 4 * C)

    return operator


def regroup(x: Tensor) -> Tensor:
    """Map ``(B, H, W, C)`` -> its 2×2 cells as one ``(B, ceil(H/2), ceil(W/2), 4C)``, zeros beyond it."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2)).view(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C)
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # rows vary faster than columns


@functools.cache
def window_attention() -> Callable[..., Tensor]:
    """The operator ``decoupe::window_attention``: `attend`, opaque to a tracer.

    Traced through, sizes rounded up to windows would make expressions that the tracer takes minutes over.
    """
    operator = torch.library.custom_op("decoupe::window_attention", attend, mutates_args=())
    operator.register_fake(lambda qkv, *_: qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3))
    return operator


def attend(qkv: Tensor, padding: Tensor, bias: Tensor, side: int, shift: int) -> Tensor:
    """Shifted window attention (Swin, section 3.2) of projected tokens.

    Args:
        qkv: scaled queries, keys and values ``(B, H, W, 3C)``.
        padding: those of cells beyond the map, which is padded to whole windows, ``(3C,)``.
        bias: of each pair of places in a window ``(1, heads, L, L)``, L = side².
        side: of the windows, in cells.
        shift: cells by which the windows are shifted, cyclically.

    Returns:
        ``(B, H, W, C)``, before the projection.
    """
    B, H, W, _ = qkv.shape
    down, right = -H % side, -W % side
    whole = padding.repeat(B, H + down, W + right, 1)
    whole[:, :H, :W] = qkv
    regions = shifted_regions(H + down, W + right, side, shift, qkv.device)
    tokens = to_windows(whole.roll((-shift, -shift), dims=(1, 2)), side)  # (B·windows, L, 3C)
    q, k, v = tokens.view(*tokens.shape[:2], 3, bias.shape[1], -1).permute(2, 0, 3, 1, 4)
    label = to_windows(regions[None, :, :, None], side)[..., 0]
    apart = (label[:, :, None] != label[:, None, :])[:, None] * (-100.0 if shift else 0.0)
    seen = bias + apart.repeat(B, 1, 1, 1)  # (B·windows, heads, L, L)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
    x = from_windows(x.transpose(1, 2).flatten(2), side, H + down, W + right)
    return x.roll((shift, shift), dims=(1, 2))[:, :H, :W].contiguous()
