"""A trained model -> an equal, faster one."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from decoupe.layers.deform import DeformConv2d

Model = TypeVar("Model", bound=nn.Module)


def fold_batch_norm(model: Model) -> Model:
    """A copy of ``model`` whose batch norms are folded into the convolutions that they follow in a sequence.

    In evaluation mode a batch norm is a fixed scale and shift of each channel, so the numbers are the same
    up to rounding. The copy is for inference: it cannot be trained as the original could.

    Args:
        model: left as it is.

    Returns:
        The copy, in evaluation mode.
    """
    model = copy.deepcopy(model).eval()
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        children = list(sequence.named_children())
        for (name, layer), (norm_name, norm) in pairwise(children):
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            if isinstance(layer, nn.Conv2d):
                setattr(sequence, name, fuse_conv_bn_eval(layer, norm))
            elif isinstance(layer, DeformConv2d):
                layer.conv = fuse_conv_bn_eval(layer.conv, norm)
            else:
                continue
            setattr(sequence, norm_name, nn.Identity())
    return model
