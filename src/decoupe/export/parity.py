"""Whether an exported file gives the model's numbers, at sizes and batches that it was not traced at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from decoupe.export.graphs import GRID
from decoupe.export.onnx_file import TRACED

log = logging.getLogger("decoupe.export")

PARITY = 1e-4
"""Largest difference from torch in float64 that an exported file may have, of the output's spread."""

LEAST_SPREAD = 1e-3
"""What an output's spread counts as at least: of a flat one, rounding alone would be any part."""

SHAPES = (TRACED, (1, 14, 8), (3, 7, 10))
"""Batch, rows and columns of `GRID` pixels that are compared; the first was traced."""

Arrays = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True)
class Parity:
    """How far a file is from torch in float64 at one input shape, in standard deviations of the output.

    Attributes:
        shape: of the first input.
        largest: the largest difference, of all outputs.
        mean: the mean difference, of the output whose is largest.
        rounded: whether the weights are in half precision, which is told and not judged.
    """

    shape: tuple[int, ...]
    largest: float
    mean: float
    rounded: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the file may be kept."""
        return self.rounded or self.largest <= PARITY  # False for NaN


def compared(
    expected: Callable[..., Any], run: Callable[..., Arrays], looks: Sequence[int] = (1,)
) -> list[Parity]:
    """Compare two ways of computing on drawn pictures.

    Args:
        expected: tensors of pictures ``(N, 3, H, W)`` -> a tensor, or several.
        run: the same pictures as arrays -> arrays.
        looks: how many pictures a call takes, one entry for each way of calling.
    """
    report = []
    for count in looks:
        for batch, rows, columns in SHAPES:
            shapes = [(batch, rows, columns), (batch, 4, 5)][:count]
            pictures = [drawn(n, GRID * h, GRID * w, seed=h) for n, h, w in shapes]
            with torch.inference_mode():
                # One at a time: float64 takes its room, and no picture depends on its neighbours.
                alone = [expected(*one) for one in zip(*(one[:, None] for one in pictures), strict=True)]
            each = [[one] if isinstance(one, Tensor) else one for one in alone]
            wanted = [torch.cat(parts).numpy() for parts in zip(*each, strict=True)]
            found = run(*(picture.numpy() for picture in pictures))
            report.append(_row(tuple(pictures[0].shape), wanted, found))
    return report


def _row(shape: tuple[int, ...], wanted: Arrays, found: Arrays) -> Parity:
    rows = []
    for one, other in zip(wanted, found, strict=True):
        difference = np.abs(other - one) / max(float(one.std()), LEAST_SPREAD)
        rows.append((float(difference.max()), float(difference.mean())))
    largest, mean = (float(np.max([row[index] for row in rows])) for index in (0, 1))  # NaN if any is
    log.info("parity at %s: largest %.2g, mean %.2g", shape, largest, mean)
    return Parity(shape, largest, mean)


def drawn(batch: int, height: int, width: int, *, seed: int) -> Tensor:
    """Normalised pictures ``(N, 3, height, width)``: noise, and a disc that stands out of it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 3, height, width, generator=generator)
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    disc = (x**2 + y**2 < 0.4).float()
    return 0.3 * noise + 1.5 * disc * torch.randn(batch, 3, 1, 1, generator=generator)
