from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from decoupe.models import MODELS
from decoupe.models.birefnet import PRESETS
from decoupe.models.inspyrenet import InSPyReNetConfig
from decoupe.models.maskformer import MaskFormerConfig
from decoupe.training.checkpointing import checkpoint_activations

CONFIGS = {
    "birefnet": dataclasses.replace(
        PRESETS["birefnet"], backbone="pvt_v2_b0", block_width=16, context_width=16
    ),
    "inspyrenet": InSPyReNetConfig(backbone="swin_t", base_size=(64, 64)),
    "maskformer": MaskFormerConfig(
        backbone="swin_t", classes=2, queries=4, layers=2, width=32, feed_forward=32, heads=4
    ),
}


def outputs(out: object) -> list[Tensor]:
    """Every tensor of an output, in its order."""
    if isinstance(out, Tensor):
        return [out]
    if isinstance(out, (list, tuple)):
        return [tensor for part in out for tensor in outputs(part)]
    return [] if out is None or not hasattr(out, "__dict__") else outputs(list(vars(out).values()))


def step(model: nn.Module, image: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)  # of dropout
    model.train()
    out = outputs(model(image))
    sum(tensor.float().square().mean() for tensor in out).backward()
    return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", CONFIGS)
def test_outputs_gradients_and_statistics_are_the_same(family: str) -> None:
    torch.manual_seed(0)
    plain = MODELS[family][1](CONFIGS[family])
    model = copy.deepcopy(plain)
    assert checkpoint_activations(model) >= 8
    image = torch.randn(2, 3, 64, 64)
    (first, gradients), (second, again) = step(plain, image), step(model, image)
    assert len(first) == len(second) > 0
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert gradients.keys() == again.keys()
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)
    for (name, one), other in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name  # batch norms have seen the batch once


def test_fewer_activations_are_kept() -> None:
    model = MODELS["birefnet"][1](CONFIGS["birefnet"])
    image = torch.randn(2, 3, 64, 64)

    def kept(model: nn.Module) -> int:
        sizes = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model.train()(image)
        del out
        return sum(sizes.values())

    before = kept(model)
    checkpoint_activations(model)
    assert kept(model) < 0.75 * before


def test_evaluation_is_as_before() -> None:
    model = MODELS["maskformer"][1](CONFIGS["maskformer"]).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = outputs(model(image))
        checkpoint_activations(model)
        assert all(torch.equal(one, other) for one, other in zip(before, outputs(model(image)), strict=True))
