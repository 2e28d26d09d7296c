"""Batch norms of exported weights, made fit to be trained again.

An exported model's norms are folded into the convolutions before them: the norms that are left add a bias,
and a folded filter may be a thousandth of a fresh one, which a usual learning rate destroys in one step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from decoupe.layers.blocks import normed


def folded_norms(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with the batch norm right behind it that only adds a bias."""
    return [(each.conv, each.norm) for each in normed(model) if _only_adds(each.norm)]


def _only_adds(norm: nn.BatchNorm2d) -> bool:
    assert norm.running_mean is not None  # the models' norms keep statistics
    assert norm.running_var is not None
    one = torch.ones_like(norm.running_var)
    return not bool(norm.running_mean.any()) and torch.allclose(norm.running_var + norm.eps, one)


@torch.no_grad()
def unfold_norms(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Give folded norms the statistics of some pictures; the model computes the same in evaluation.

    Each filter is scaled so that what it gives has a variance of 1, and its norm scales it back.

    Args:
        model: in evaluation mode.
        batches: normalised pictures ``(N, 3, H, W)``, a few dozen in all.

    Returns:
        How many norms there were to unfold.
    """
    pairs = folded_norms(model)
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for _, norm in pairs}

    def count(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].double().transpose(0, 1).flatten(1)  # (C, N·h·w)
        size = torch.full((len(values),), float(values.shape[1]), dtype=torch.float64)
        sums[norm] += torch.stack([size, values.sum(1), values.square().sum(1)]).cpu()  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(count) for _, norm in pairs]
    for batch in batches:
        model(batch)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        size, total, squares = sums[norm]
        mean = total / size
        variance = squares / size - mean.square()
        # A filter that gives nothing on these pictures stays as it is.
        deviation = torch.where(variance > 1e-12, variance.clamp_min(1e-12).sqrt(), 1.0)
        gain = norm.weight.double().cpu()  # of the fold: the norm's own scale is 1
        conv.weight.div_(deviation.to(conv.weight)[:, None, None, None])
        if conv.bias is not None:
            conv.bias.div_(deviation.to(conv.bias))
        norm.running_mean.copy_(mean / deviation)  # type: ignore[union-attr]
        norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr]
        norm.weight.copy_(gain * deviation)
        norm.bias.add_((gain * mean).to(norm.bias))
    return len(pairs)
