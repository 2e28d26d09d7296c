"""A trained model -> an equal, faster one.

`fuse` is for inference: the numbers are the same up to rounding, and the model cannot be trained any more.

- Batch norms are folded into the convolutions before them.
- A context module adds up what its branches give instead of concatenating it; deformable branches are
  sampled, multiplied, rectified and mixed a block of pixels at a time: no map as wide as a branch exists.
- A linear reference at full resolution becomes one 5×5 convolution (`CollapsedReference`); those whose pixels
  are unshuffled become strided convolutions of the picture (`StridedReference`).
- An attention at full resolution is computed in stripes, its feature enlarged in them too; what it gives is
  never as wide as a feature before it is convolved (`StripedAttention`).
- A Swin stage takes a few windows at a time through a whole block, without work on padding (`SwinStage`).
- Linear layers are computed at the rate of convolutions (`decoupe.layers.linear`).
- What sees the picture itself does so in full precision (`PictureConv2d`).
- Maps lie channels last.

On a CPU they save time and memory. On CUDA and while a compiler or an exporter traces them, modules that
work in blocks compute whole maps as the plain ones do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from decoupe.backbones.swin import Swin
from decoupe.layers.blocks import ASPP
from decoupe.layers.deform import DeformConv2d
from decoupe.models.birefnet import BiRefNet
from decoupe.models.fuse.contexts import Branch, Context, DeformableBranch
from decoupe.models.fuse.products import Linear, PictureConv2d
from decoupe.models.fuse.references import (
    CHANNELS,
    CollapsedReference,
    StridedReference,
    collapse_tail,
    stride_references,
)
from decoupe.models.fuse.stripes import StripedAttention
from decoupe.models.fuse.windows import SwinStage
from decoupe.models.inspyrenet import InSPyReNet, ScaleInvariantAttention

Model = TypeVar("Model", bound=nn.Module)

FASTER: dict[type[nn.Module], Callable[..., nn.Module]] = {
    ASPP: Context,
    nn.Linear: Linear,
    ScaleInvariantAttention: StripedAttention,
}
"""Modules that are replaced wherever they stand, by what."""

FUSED = Context, Linear, StripedAttention, SwinStage, CollapsedReference, StridedReference

EXACT: dict[type[nn.Module], tuple[str, ...]] = {
    # Sums over a whole map enter here.
    ScaleInvariantAttention: ("key", "value"),
    CollapsedReference: ("",),
    PictureConv2d: ("",),
}
"""Parts that keep their precision: submodules by the class that holds them, "" for all of it."""


def fuse(model: Model) -> Model:
    """Make a model faster, in place; one that is fused already stays as it is.

    Args:
        model: changed; pass ``copy.deepcopy(model)`` to keep it. It cannot be trained or saved any more, nor
            cast to half precision by ``model.half()``: by autocast, and `lower`.

    Returns:
        The model, in evaluation mode.
    """
    if any(isinstance(module, FUSED) for module in model.modules()):
        return model
    fold_(model.eval())
    if isinstance(model, BiRefNet):
        collapse_tail(model)
        stride_references(model)
        model.classifier, model.decoder.side_heads = None, nn.ModuleList()  # of training alone
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (faster := FASTER.get(type(child))) is not None:
                setattr(module, name, faster(child))
            elif type(child) is nn.Conv2d and child.in_channels == CHANNELS:
                setattr(module, name, PictureConv2d(child))
        if isinstance(module, Swin):
            module.stages = nn.ModuleList(SwinStage(cast(nn.Sequential, stage)) for stage in module.stages)
        elif isinstance(module, InSPyReNet):
            cast(StripedAttention, module.stages[-1]).last = True
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


def fold_(model: Model) -> Model:
    """``model`` with its batch norms folded, in place, into the convolutions that they follow in a sequence.

    In evaluation mode a batch norm is a fixed scale and shift of each channel, so the numbers are the same up
    to rounding. It cannot be trained any more as it could.
    """
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        children = list(sequence.named_children())
        for (name, layer), (norm_name, norm) in pairwise(children):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(layer, nn.Conv2d):
                setattr(sequence, name, folded(layer, norm))
            elif isinstance(layer, DeformConv2d):
                layer.conv = folded(layer.conv, norm)
            else:
                continue
            setattr(sequence, norm_name, nn.Identity())
    # A model that has such blocks has imported them; for the rest it would take a second and 0.2 GB.
    resnet = sys.modules.get("torchvision.models.resnet")
    blocks = [module for module in model.modules() if resnet and isinstance(module, resnet.Bottleneck)]
    for block in blocks:
        for name, norm_name in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
            setattr(block, name, folded(getattr(block, name), getattr(block, norm_name)))
            setattr(block, norm_name, nn.Identity())
    return model


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution for both, computed in float64, so that each of its weights is rounded once."""
    dtype = conv.weight.dtype
    both: nn.Conv2d = fuse_conv_bn_eval(conv.double(), norm.double())
    return both.to(dtype)


def lower(model: Model, dtype: torch.dtype) -> Model:
    """Hold the weights of a fused model's products in a lower precision, in place.

    Computed under autocast it then casts no weights. Norms, sums of residuals, places and what `EXACT` names
    keep their precision.

    Args:
        model: what `fuse` gave.
        dtype: such as ``torch.bfloat16``.

    Returns:
        The model.
    """
    exact = {
        part
        for kind, names in EXACT.items()
        for module in model.modules()
        if isinstance(module, kind)
        for name in names
        for part in module.get_submodule(name).modules()
    }
    products = (
        nn.Conv2d,
        nn.Linear,
        nn.MultiheadAttention,
        Context,
        Branch,
        DeformableBranch,
        nn.ParameterList,
    )
    for module in model.modules():
        if isinstance(module, products) and module not in exact:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return model
