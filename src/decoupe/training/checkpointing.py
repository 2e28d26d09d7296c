"""Activation checkpointing: a network's blocks are computed twice, and what is inside them is not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

LEAST = 2
"""Blocks of one class in a row from which they are checkpointed."""


def checkpoint_activations(model: nn.Module) -> int:
    """Checkpoint every block of the model's repeated stages, in place; outputs and gradients stay the same.

    Repeated blocks are neighbours of one class in a sequence or list, each with layers of its own inside; the
    outermost are taken. While training only: evaluation is as before.

    Returns:
        How many blocks.
    """
    blocks = list(_blocks(model))
    for block in blocks:
        block.forward = partial(_twice, block, block.forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inside = list(child.children())
        kinds = {type(block) for block in inside}
        repeated = (
            isinstance(child, nn.Sequential | nn.ModuleList) and len(inside) >= LEAST and len(kinds) == 1
        )
        if repeated and not isinstance(inside[0], nn.Sequential | nn.ModuleList) and _computes(inside[0]):
            yield from inside
        else:
            yield from _blocks(child)


def _computes(block: nn.Module) -> bool:
    """Whether a block is worth it: it has layers of its own, and something to compute."""
    return any(True for _ in block.children()) and any(True for _ in block.parameters())


def _twice(block: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    if not block.training:
        return forward(*inputs, **options)
    again = iter((False,))  # the first computation, then the second

    def once(*inputs: Any, **options: Any) -> Any:
        with _kept_statistics(block) if next(again, True) else nullcontext():
            return forward(*inputs, **options)

    return checkpoint(once, *inputs, use_reentrant=False, **options)


@contextmanager
def _kept_statistics(block: nn.Module) -> Iterator[None]:
    """The second computation must not enter the batch into the running statistics again."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
