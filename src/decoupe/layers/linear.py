"""Linear layers at the processor's full rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` computes, on a CPU by a 1×1 convolution.

    PyTorch multiplies float32 matrices on a CPU with MKL, which on AMD's processors reaches half the rate of
    oneDNN's convolutions (``benchmarks/fast.py`` prints both). Elsewhere, and where a compiler chooses for
    itself, it is the plain function.

    Args:
        x: ``(..., in)``.
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.

    Returns:
        ``(..., out)``, contiguous.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or x.dtype not in _CONVOLVED:
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


_CONVOLVED = (torch.float32, torch.bfloat16)
