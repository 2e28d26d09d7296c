"""A model compiled by `torch.compile`, where a compiler is to be had."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from decoupe.notices import CompileWarning, warn


class Compiled:
    """A module that is compiled when it first computes, and computes as it is where that fails.

    The first size is compiled by itself and the second one for all that follow.

    Args:
        module: for inference.
        name: what to call it in messages.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        # Not mode="reduce-overhead": its CUDA graphs run in the one thread that first imported inductor.
        self._compiled: Any = torch.compile(module)
        self._told = False

    def __call__(self, *inputs: Tensor) -> Any:
        """What the module gives."""
        if self._compiled is None:
            return self.module(*inputs)
        if not self._told:
            self._told = True
            size = "×".join(map(str, inputs[0].shape))
            warn(
                f"{self.name} is compiled for {size}: this picture takes minutes, others of its size do not",
                CompileWarning,
            )
        try:
            return self._compiled(*inputs)
        except TorchDynamoException as error:
            self._compiled = None
            reason = " ".join(str(error).split("\n\n")[0].split())
            warn(
                f"{self.name} cannot be compiled here ({reason}): computed as it is; "
                "install a compiler (of C++, on CUDA Triton), or leave compile out",
                CompileWarning,
            )
            return self.module(*inputs)
