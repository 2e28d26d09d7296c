"""Low-rank updates of linear layers: a large backbone is tuned by few parameters (Hu et al. 2022, LoRA)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from decoupe.errors import ConfigError


@dataclass(frozen=True)
class LoRA:
    """How linear layers are updated.

    Attributes:
        rank: of the update.
        alpha: the update counts ``alpha / rank``.
    """

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        """Raise ConfigError for an update of no rank."""
        if self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank}, expected at least 1")


class LowRank(nn.Module):
    """``W`` -> ``W + alpha / rank · up @ down``, which begins as ``W`` (Hu et al. 2022, section 4.1).

    Args:
        weight: of a linear layer, ``(out, in)``.
        lora: rank and scale.
    """

    def __init__(self, weight: Tensor, lora: LoRA) -> None:
        super().__init__()
        rank = min(lora.rank, *weight.shape)
        self.scale = lora.alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_lora(module: nn.Module, lora: LoRA) -> int:
    """Freeze a module, but for new low-rank updates of its linear layers' weights.

    Returns:
        How many layers are updated.

    Raises:
        ConfigError: there are no linear layers to update.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ConfigError("lora updates linear layers, and this backbone has none: --set lora=null")
    module.requires_grad_(False)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, lora))
    return len(layers)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model whose updates are part of the weights: no name tells of them any more."""
    state = {}
    for key, value in model.state_dict().items():
        layer, updated, part = key.partition(".parametrizations.weight.")
        if not updated:
            state[key] = value
        elif part == "original":
            updated_layer: Any = model.get_submodule(layer)
            state[f"{layer}.weight"] = updated_layer.weight.detach()
    return state
