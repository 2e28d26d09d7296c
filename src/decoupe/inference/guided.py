"""A small matte enlarged along the outlines of its photograph.

The guided filter: around each pixel alpha is taken to be a linear function of the photograph's colours,
alpha = a·I + b (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, equations 4 to 8, with colours).
It is solved at the matte's size and applied at the photograph's, as in He and Sun, "Fast Guided Filter"
(arXiv 1505.00996).

Three things are added. A pixel counts by how sure its alpha is, |2·alpha − 1|⁴: a network's outlines are soft
where it cannot tell, and that is nothing to imitate. A window has the more to say the better its colours
explain alpha. Where they explain nothing, as on one grey, the matte is enlarged plainly.

Hair that the small matte has lost is found in the photograph, by `decoupe.inference.strands`.
`benchmarks/guided.py` measures what both bring.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from decoupe.arrays import Floats, Indices
from decoupe.inference.preprocess import Picture, colours_at, resize_plane
from decoupe.inference.sampling import for_chunks, interpolated, on_threads, reached, window_means
from decoupe.inference.strands import find_strands

LEAST_RATIO = 2.0
"""How many times the matte's pixels a photograph has before there is detail to follow."""

_SMOOTHNESS = 1e-4  # the paper's ε, of colours in [0, 1]
_CERTAINTY = 4
_FLAT = 1e-5  # variance of alpha below which a window has no outline
# Shares of alpha's variance: below the first the matte is plain, above the second guided.
_EXPLAINED = 0.1, 0.4


def followed(alpha: Floats, picture: Picture) -> Floats:
    """A matte ``(h, w)`` in [0, 1] `enlarged` to the picture's size, with the strands that it has lost."""
    steps: list[Callable[[Floats, Picture], Any]] = [find_strands, enlarged]
    strands, result = on_threads(lambda step: step(alpha, picture), steps)
    if strands is not None:
        strands.add_to(result, picture)
    matte: Floats = result
    return matte


def enlarged(alpha: Floats, picture: Picture) -> Floats:
    """A matte ``(h, w)`` in [0, 1] at the picture's size, ``(H, W)`` in [0, 1], along the picture's outlines.

    Away from the matte's outlines it is the plain bilinear enlargement.
    """
    result = resize_plane(alpha, picture.size)
    result.clip(0, 1, out=result)
    height, width = alpha.shape
    maps = _linear(alpha, colours_at(picture, (height, width)))
    places = reached(maps[4] > 0, picture.size)
    pixels, top = picture.pixels.reshape(-1, 3), np.float32(np.iinfo(picture.pixels.dtype).max)
    written = result.reshape(-1)

    def follow(some: Indices) -> None:
        values = interpolated(maps, some, picture.size)  # (5, P)
        guided = (values[:3] * pixels[some].T).sum(axis=0) / top + values[3]
        plain = written[some]
        written[some] = (plain + values[4] * (guided.clip(0, 1) - plain)).clip(0, 1)

    for_chunks(follow, places)
    return result


def _linear(alpha: Floats, image: Floats) -> Floats:
    """The coefficients a (three) and b of alpha = a·I + b, and how far to trust them: ``(5, h, w)``."""
    weight = np.abs(2 * alpha - 1) ** _CERTAINTY + np.float32(1e-3)
    planes = [*np.moveaxis(image, -1, 0), alpha]
    pairs = list(itertools.combinations_with_replacement(range(4), 2))  # the last is alpha with itself
    products = [planes[one] * planes[other] for one, other in pairs]
    total, *sums = on_threads(window_means, [weight, *(weight * plane for plane in planes + products)])
    means = np.stack(sums[:4]) / total  # (4, h, w)
    variance = np.maximum(sums[-1] / total - means[3] ** 2, 0)
    outline = variance > _FLAT
    covariances = np.empty((np.count_nonzero(outline), 4, 4))
    for (one, other), product in zip(pairs, sums[4:], strict=True):
        covariance = product[outline] / total[outline] - means[one][outline] * means[other][outline]
        covariances[:, one, other] = covariances[:, other, one] = covariance
    colours, with_alpha = covariances[:, :3, :3], covariances[:, :3, 3]
    slopes = np.linalg.solve(colours + _SMOOTHNESS * np.eye(3), with_alpha[..., np.newaxis])[..., 0]  # (P, 3)
    coefficients = np.zeros((4, *alpha.shape), np.float32)
    coefficients[:3, outline] = slopes.T
    coefficients[3] = means[3] - (coefficients[:3] * means[:3]).sum(axis=0)
    explained = np.zeros(alpha.shape, np.float32)
    explained[outline] = (slopes * with_alpha).sum(axis=1) + _SMOOTHNESS * (slopes**2).sum(axis=1)
    explained = np.minimum(explained, variance)
    # The paper's equation 8, a mean of all windows that a pixel is in, weighted.
    vote = (variance + 1e-2) / (variance - explained + 1e-3)
    summed = on_threads(window_means, [explained, variance, vote, *(vote * plane for plane in coefficients)])
    share = summed[0] / (summed[1] + 1e-4)
    low, high = _EXPLAINED
    trust = ((share - low) / (high - low)).clip(0, 1)
    averaged = [plane / summed[2] for plane in summed[3:]]
    maps: Floats = np.stack([*averaged, trust])
    return maps
