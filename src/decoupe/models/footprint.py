"""How much memory a model takes for a picture, found out by small ones.

What a network holds at once grows linearly with the picture: two runs at small sizes, in which every tensor
is counted, tell what a large one takes. `benchmarks/memory.py` holds it against what the system measures.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from decoupe.memory import Footprint

WORKSPACE = 1.15
"""What convolutions take for themselves while they compute, as a factor: no tensor shows it."""

HELD = 500 * 10**6
"""Bytes that libraries and the heap hold once a model has run: kernels, buffers, what lies between. See
`benchmarks/memory.py`, whose models took 0.4 to 0.6 GB."""


def footprint(model: nn.Module, run: Callable[[int], object], sides: tuple[int, int]) -> Footprint:
    """What one picture takes beside the model's weights.

    Args:
        model: its weights are not counted.
        run: computes one square picture of so many pixels a side.
        sides: of two pictures, small and different.
    """
    pixels = [side**2 for side in sides]
    small, large = (peak(model, functools.partial(run, side)) for side in sides)
    slope = (large - small) / (pixels[1] - pixels[0])
    fixed = HELD + WORKSPACE * max(0.0, small - slope * pixels[0])
    return Footprint(round(fixed), WORKSPACE * slope)


def peak(model: nn.Module, run: Callable[[], object]) -> int:
    """Bytes of tensors that are alive at the same time at most while ``run`` runs, those of a model apart."""
    with Counted([*model.parameters(), *model.buffers()]) as counted:
        run()
    most: int = counted.most
    return most


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made in its context, and of those alive at once.

    Args:
        known: tensors that were there before; what shares their storage is not counted.

    Attributes:
        most: bytes alive at once, at most.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive, self.most = 0, 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.alive += storage.nbytes()
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)
