"""The golden cases: what the reference implementations computed, and how closely it has to be met."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from decoupe.layers.blocks import StochasticDepth
from decoupe.training.matching import Truth
from decoupe.weights import convert
from golden import fill

FLOAT64 = 1e-5
FLOAT32 = 1e-4


@dataclass(frozen=True)
class GoldenCase:
    """One case: its manifest, and the reference's outputs."""

    name: str

    @cached_property
    def _loaded(self) -> tuple[dict, dict[str, np.ndarray]]:
        return fill.load(self.name)

    @property
    def config(self) -> dict:
        return self._loaded[0]["config"]

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return self._loaded[1]

    def shapes(self) -> dict[str, np.ndarray]:
        """The state dict's names and shapes, as arrays that take no memory."""
        return {key: np.broadcast_to(np.float32(0), shape) for key, shape in self._loaded[0]["state"].items()}

    def state(self) -> dict[str, np.ndarray]:
        return fill.state_dict(self._loaded[0])

    def image(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(fill.image(self.name, tuple(self._loaded[0]["shape"]))).to(dtype)

    def mask(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(fill.mask(self.name, tuple(self._loaded[0]["shape"]))).to(dtype)

    def truth(self, dtype: torch.dtype = torch.float64) -> list[Truth]:
        """The true segments of each picture, of a case that has them."""
        height, width = self._loaded[0]["shape"][2:]
        classes = self._loaded[0]["ground_truth"]["classes"]
        masks = [
            [fill.mask(f"{self.name}:{i}:{j}", (1, 1, height, width))[0, 0] for j in range(len(labels))]
            for i, labels in enumerate(classes)
        ]
        return [
            Truth(torch.from_numpy(np.stack(one)).to(dtype), torch.tensor(labels))
            for one, labels in zip(masks, classes, strict=True)
        ]

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The converted model, in evaluation mode."""
        return convert.from_reference(self.name.split("_")[0], self.state(), self.config).to(dtype)

    def training_model(self) -> nn.Module:
        """The converted model as the stored training outputs want it: float64, nothing random."""
        model = self.model().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.MultiheadAttention | StochasticDepth):
                module.eval()
        return model

    def check(
        self, key: str, output: Tensor, tolerance: float = FLOAT64, *, pictures: int | None = None
    ) -> None:
        """Assert that ``output``, of all pictures or the first few, is the stored array ``key``.

        The largest error is at most ``tolerance`` of the stored array's standard deviation.
        """
        stored = self.outputs[key]
        spread = stored.std() if stored.size > 1 else np.abs(stored).max()
        stored = stored[:pictures]
        step = self._loaded[0].get("sampled", {}).get(key, 1)
        computed = np.atleast_1d(output.detach().numpy())
        if stored.ndim == 4:
            computed = computed[..., ::step, ::step]
        assert computed.shape == stored.shape
        error = np.abs(computed - stored).max() / spread
        assert error <= tolerance, f"{self.name} {key}: off by {error:.2g} of the spread"


def cases(family: str) -> list[GoldenCase]:
    """Every stored case of ``family``."""
    return [GoldenCase(path.stem) for path in sorted(fill.HERE.glob(f"{family}_*.json"))]
