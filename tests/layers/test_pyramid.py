from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decoupe.layers.pyramid import blur, dilate, ellipse, expand, morphological_gradient, reconstruct, reduce

# What cv2.getGaussianKernel(7, 1) and cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k)) give.
GAUSSIAN = [0.004433048175243746, 0.054005582622414484, 0.2420362293761143, 0.3990502796524549]
ELLIPSES = {
    3: [1, 3, 1],
    5: [1, 5, 5, 5, 1],
    9: [1, 7, 7, 9, 9, 9, 7, 7, 1],
    17: [1, 9, 11, 13, 15, 15, 17, 17, 17, 17, 17, 15, 15, 13, 11, 9, 1],
}
SIDES = st.integers(4, 40)


def noise(height: int, width: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, height, width, generator=generator, dtype=torch.float64)


def element(size: int) -> np.ndarray:
    """The structuring element as OpenCV gives it: ``(size, size)`` of bools."""
    columns = np.abs(np.arange(size) - size // 2)
    return np.stack([columns <= row // 2 for row in ELLIPSES[size]])


def test_an_impulse_is_blurred_to_the_gaussian() -> None:
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[..., 7, 7] = 1
    line = np.array([*GAUSSIAN, *GAUSSIAN[2::-1]])
    np.testing.assert_allclose(blur(x)[0, 0, 4:11, 4:11].numpy(), np.outer(line, line), rtol=1e-12)


def test_edges_are_mirrored_without_repeating_them() -> None:
    x = noise(12, 9)
    whole = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (6, 6), (6, 6)), mode="reflect"))
    torch.testing.assert_close(blur(x), blur(whole)[..., 6:-6, 6:-6])


@given(height=SIDES, width=SIDES)
@settings(max_examples=20, deadline=None)
def test_a_level_is_half_as_large_and_comes_back(height: int, width: int) -> None:
    x = noise(height, width)
    coarse = reduce(x)
    assert coarse.shape == (2, 1, -(-height // 2), -(-width // 2))
    assert torch.equal(coarse, blur(x)[..., ::2, ::2])
    assert expand(coarse).shape == (2, 1, 2 * coarse.shape[2], 2 * coarse.shape[3])
    laplacian = x - expand(coarse, (height, width))
    torch.testing.assert_close(reconstruct(coarse, laplacian), x)


def test_expanding_keeps_each_cell_at_its_place() -> None:
    """A ramp is resampled at half the step; seven taps weigh even and odd cells 1 ± 0.014 a side."""
    ramp = torch.arange(1.0, 21).view(1, 1, 1, 20).expand(1, 1, 8, 20)
    expected = 1 + torch.arange(40.0) / 2
    torch.testing.assert_close(expand(ramp)[0, 0, 8, 4:-4], expected[4:-4], rtol=0.03, atol=0)


def test_expanding_is_the_transpose_of_reducing_times_four() -> None:
    """Away from the edges: ⟨reduce x, y⟩ = ⟨x, expand y⟩ / 4."""
    x, y = torch.zeros(2, 1, 32, 32, dtype=torch.float64), torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    x[..., 8:24, 8:24], y[..., 4:12, 4:12] = noise(16, 16), noise(8, 8, seed=1)
    torch.testing.assert_close((reduce(x) * y).sum(), (x * expand(y)).sum() / 4)


@pytest.mark.parametrize("size", ELLIPSES)
def test_ellipse_is_opencv_s(size: int) -> None:
    halves = ellipse(size)
    rows = [*halves[:0:-1], *halves]
    assert [2 * half + 1 for half in rows] == ELLIPSES[size]


@pytest.mark.parametrize("size", ELLIPSES)
def test_dilation_is_the_maximum_over_the_ellipse(size: int) -> None:
    x = noise(13, 20)
    radius = size // 2
    around = np.pad(x.numpy(), ((0, 0), (0, 0), (radius, radius), (radius, radius)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(around, (size, size), axis=(2, 3))
    expected = np.where(element(size), windows, -np.inf).max(axis=(-2, -1))
    np.testing.assert_array_equal(dilate(x, size).numpy(), expected)


def test_gradient_is_large_only_at_outlines() -> None:
    x = torch.zeros(1, 1, 40, 40)
    x[..., 20:] = 1
    gradient = morphological_gradient(x, 9)
    assert gradient.shape == x.shape
    assert gradient[0, 0, 20].tolist() == [float(16 <= column < 24) for column in range(40)]
