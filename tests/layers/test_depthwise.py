from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupe.layers.depthwise import DepthwiseConv2d


def gradients(conv: DepthwiseConv2d, x: torch.Tensor, *, plain: bool) -> list[torch.Tensor]:
    """The output, and the gradients of the input and of the kernels."""
    x = x.clone().requires_grad_()
    out = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups) if plain else conv(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), (x, conv.weight))]


@given(
    size=st.tuples(st.integers(3, 20), st.integers(3, 20)),
    kernel=st.sampled_from([3, 5]),
    stride=st.sampled_from([1, 2]),
)
@settings(max_examples=40, deadline=None)
def test_the_gradients_are_those_of_torch(size: tuple[int, int], kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(6, kernel, stride=stride).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    for ours, theirs in zip(gradients(conv, x, plain=False), gradients(conv, x, plain=True), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_in_bfloat16_they_are_as_near_as_torch_s(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(16, kernel, stride=stride)
    x = torch.randn(4, 16, 24, 24).to(memory_format=torch.channels_last)
    exact = gradients(conv, x, plain=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(conv, x, plain=False)
    assert found[0].dtype == torch.bfloat16
    assert found[2].dtype == torch.float32
    for ours, true in zip(found, exact, strict=True):
        assert (ours - true).abs().max() < 0.02 * true.abs().max()


def test_a_frozen_kernel_passes_the_gradient_on() -> None:
    conv = DepthwiseConv2d(4, 5).requires_grad_(requires_grad=False)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
