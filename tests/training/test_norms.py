"""Exported weights are trained on: their folded norms get statistics again."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from decoupe.training.norms import folded_norms, unfold_norms
from decoupe.weights import load_model


def test_unfolded_norms_compute_the_same_and_are_fit_to_be_trained() -> None:
    torch.manual_seed(0)
    model = load_model("pocket").model.eval()
    plain = copy.deepcopy(model)
    pictures = [torch.randn(2, 3, 64, 96) for _ in range(3)]
    other = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert unfold_norms(model, pictures) == len(folded_norms(plain)) > 20
        assert not folded_norms(model)
        expected = plain(other).logits
        assert torch.allclose(model(other).logits, expected, atol=1e-4 * float(expected.std()))

        variances: list[Tensor] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and "pooled" not in name:  # one value a picture there
                module.register_forward_pre_hook(
                    lambda _, given: variances.append(given[0].var((0, 2, 3)).mean())
                )
        model(torch.cat(pictures))
    spread = torch.stack(variances)
    assert float(spread.min()) > 0.2, "a usual learning rate would destroy such filters"
    assert float(spread.max()) < 5
