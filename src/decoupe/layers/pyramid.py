"""Image pyramids (Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983) and morphology.

Every map is ``(N, 1, H, W)``. Each level of a pyramid is half as large as the finer one, rounded up: cell
``(i, j)`` of the coarser lies where cell ``(2i, 2j)`` of the finer does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, SIGMA = 3, 1.0
"""Radius and deviation of the Gaussian in cells: 7×7 taps."""


def blur(x: Tensor) -> Tensor:
    """``x`` under the Gaussian, edges mirrored: ``(N, 1, H, W)`` -> the same size; sides of 4 and more."""
    weights = [math.exp(-((i / SIGMA) ** 2) / 2) for i in range(-RADIUS, RADIUS + 1)]
    line = x.new_tensor([weight / sum(weights) for weight in weights])
    x = F.pad(x, (RADIUS,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))


def reduce(x: Tensor) -> Tensor:
    """The next coarser level: ``(N, 1, H, W)`` -> ``(N, 1, ceil(H/2), ceil(W/2))``; sides of 4 and more."""
    return blur(x)[..., ::2, ::2]


def expand(x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """The coarser level ``x`` ``(N, 1, h, w)`` at the finer level's size.

    Args:
        x: sides of 2 and more.
        size: of the finer level; ``(2h, 2w)`` unless given, or one less where that side is odd.
    """
    spread = F.pixel_shuffle(F.pad(x, (0, 0, 0, 0, 0, 3)), 2)  # (N, 1, 2h, 2w), x at the even cells
    height, width = size or spread.shape[-2:]
    return 4 * blur(spread)[..., :height, :width]  # three of four cells are zeros


def reconstruct(coarse: Tensor, laplacian: Tensor) -> Tensor:
    """The finer level: the expanded coarser one plus the detail ``laplacian`` ``(N, 1, H, W)`` it lacks."""
    return expand(coarse, laplacian.shape[-2:]) + laplacian


def ellipse(size: int) -> tuple[int, ...]:
    """An ellipse in a square of ``size`` cells (odd): half widths of its rows, from the middle one outwards.

    The row ``d`` cells from the middle covers the columns within ``ellipse(size)[d]`` of the middle. These
    are OpenCV's ``getStructuringElement(MORPH_ELLIPSE, (size, size))``.
    """
    radius = size // 2
    return tuple(round(math.sqrt(radius**2 - row**2)) for row in range(radius + 1))


def dilate(x: Tensor, size: int) -> Tensor:
    """The maximum over an elliptic neighbourhood of ``size`` cells (odd); nothing beyond the edges counts."""
    # An ellipse is a union of centred rectangles, so its maximum is the largest of theirs. Of rows that are
    # equally wide only the outermost is needed.
    heights = {width: height for height, width in enumerate(ellipse(size))}
    maxima = []
    for width, height in heights.items():
        rows = F.max_pool2d(x, (2 * height + 1, 1), stride=1, padding=(height, 0))
        maxima.append(F.max_pool2d(rows, (1, 2 * width + 1), stride=1, padding=(0, width)))
    return functools.reduce(torch.maximum, maxima)


def morphological_gradient(x: Tensor, size: int) -> Tensor:
    """Dilation minus erosion over an elliptic neighbourhood of ``size`` cells (odd): large at outlines."""
    return dilate(x, size) + dilate(-x, size)
