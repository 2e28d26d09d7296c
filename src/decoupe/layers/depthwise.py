"""Depthwise convolution whose gradients are quick on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """One odd square kernel per channel, without a bias; the padding keeps the size at stride 1.

    Its gradients are `torch.nn.Conv2d`'s up to rounding. On CPUs in bfloat16, the input's at stride 2 and the
    kernel's at 5×5 take torch some fifty times as long as the forward pass; `_Depthwise` gets both otherwise.
    """

    def __init__(self, channels: int, kernel_size: int = 3, *, stride: int = 1) -> None:
        padding = kernel_size // 2
        super().__init__(channels, channels, kernel_size, stride, padding, groups=channels, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """``(N, C, H, W)`` -> ``(N, C, H/stride, W/stride)``, rounded up."""
        if not (self.training and torch.is_grad_enabled() and input.device.type == "cpu"):
            return super().forward(input)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):  # which does not look into a function of our own
            dtype = torch.get_autocast_dtype("cpu")
            input, weight = input.to(dtype), weight.to(dtype)  # noqa: A001
        out: Tensor = _Depthwise.apply(input, weight, self.stride[0])
        return out


class _Depthwise(torch.autograd.Function):
    """`DepthwiseConv2d`, with gradients of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        kernel, grad_x, grad_weight = weight.shape[-1], None, None

        def gradient(of: int, dtype: torch.dtype) -> Tensor:
            """Of the input (0) or of the weight (1), as torch has it, computed in ``dtype``."""
            pad, wanted = kernel // 2, [of == 0, of == 1, False]
            both = torch.ops.aten.convolution_backward(
                *(tensor.to(dtype) for tensor in (grad, x, weight)),
                *(None, [ctx.stride] * 2, [pad] * 2, [1, 1], False, [0, 0], len(weight), wanted),
            )
            return both[of].to(x.dtype)  # type: ignore[no-any-return]

        exact = torch.promote_types(x.dtype, torch.float32)
        if ctx.needs_input_grad[0] and ctx.stride == 1:
            # The input's gradient is the convolution of the output's with the kernels turned round.
            grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, kernel // 2, 1, len(weight))
        elif ctx.needs_input_grad[0]:
            grad_x = gradient(0, exact)
        if ctx.needs_input_grad[1]:
            grad_weight = gradient(1, x.dtype if kernel == 3 else exact)
        return grad_x, grad_weight, None
