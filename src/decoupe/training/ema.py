"""A running average of the weights, where the weights are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's trained parameters and floating buffers.

    It keeps one tensor beside each and swaps them when the average is used. Unlike
    `torch.optim.swa_utils.AveragedModel`, which copies the model, it works on whatever part of each tensor
    this process holds, so a sharded model (FSDP) is averaged shard by shard.

    Args:
        model: whose state is averaged.
        decay: share of the average that a step keeps; 0 follows the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters = len(trained)
        self.live: list[Tensor] = trained + buffers
        self.mean = [tensor.detach().clone() for tensor in self.live]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Follow one optimiser step; the first one is taken over as it is."""
        share = 1 - self.decay if self.updates else 1.0
        # Parameters may be sharded where buffers are not, and one call takes only one kind.
        for part in (slice(self.parameters), slice(self.parameters, None)):
            if mean := self.mean[part]:
                torch._foreach_lerp_(mean, [tensor.detach() for tensor in self.live[part]], share)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model is the average, for as long as it lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, list[Tensor] | int]:
        """What a resumed run needs."""
        return {"mean": self.mean, "updates": self.updates}

    def load_state_dict(self, state: dict[str, list[Tensor] | int]) -> None:
        """Go on from what `state_dict` gave."""
        mean, updates = state["mean"], state["updates"]
        assert isinstance(mean, list)
        assert isinstance(updates, int)
        for own, stored in zip(self.mean, mean, strict=True):
            own.copy_(stored)
        self.updates = updates
