from __future__ import annotations

import pytest
import torch
from torch import nn

from decoupe.errors import ConfigError
from decoupe.training.lora import LoRA, add_lora, merged_state


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.Conv1d(3, 3, 1), nn.Sequential(nn.Linear(8, 2, bias=False))
    )


def test_updates_begin_at_nothing_and_are_all_that_is_trained() -> None:
    plain, model, x = network(), network(), torch.randn(4, 3, 6)
    assert add_lora(model, LoRA(rank=4)) == 2
    assert torch.equal(model(x), plain(x))
    trained = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        "0.parametrizations.weight.0.down": (4, 6),
        "0.parametrizations.weight.0.up": (8, 4),
        "3.0.parametrizations.weight.0.down": (2, 8),  # no rank above the matrix's own
        "3.0.parametrizations.weight.0.up": (2, 2),
    }


def test_what_is_saved_is_a_plain_model_of_the_same_output() -> None:
    plain, model, x = network(), network(), torch.randn(4, 3, 6)
    names = list(plain.state_dict())
    add_lora(model, LoRA(rank=2, alpha=3.0))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    before = model(x)
    state = merged_state(model)
    assert sorted(state) == sorted(names)
    assert not any(value.requires_grad for value in state.values())
    low_rank = state["0.weight"] - plain.state_dict()["0.weight"]
    assert torch.linalg.matrix_rank(low_rank) == 2
    plain.load_state_dict(state)
    assert torch.allclose(plain(x), before, atol=1e-6)
    assert torch.equal(model(x), before)  # training goes on


def test_what_cannot_be_updated() -> None:
    with pytest.raises(ConfigError, match="this backbone has none: --set lora=null"):
        add_lora(nn.Conv2d(3, 3, 1), LoRA())
    with pytest.raises(ConfigError, match=r"lora\.rank is 0, expected at least 1"):
        LoRA(rank=0)
