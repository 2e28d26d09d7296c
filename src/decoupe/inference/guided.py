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
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Floats, Indices
from decoupe.inference.colour import colours_of
from decoupe.inference.pictures import Picture
from decoupe.inference.preprocess import colours_at, resize_plane
from decoupe.inference.sampling import for_chunks, interpolated, on_threads, reached, window_means
from decoupe.inference.strands import find_strands

Doubles = npt.NDArray[np.float64]

LEAST_RATIO = 2.0
"""How many times the matte's pixels a photograph has before there is detail to follow."""

_SMOOTHNESS = 1e-4  # the paper's ε, of colours in [0, 1]
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
    written = result.reshape(-1)

    def follow(some: Indices) -> None:
        values = interpolated(maps, some, picture.size)  # (5, P)
        guided = values[3]
        for slope, colour in zip(values[:3], colours_of(picture.pixels, some), strict=True):
            guided += slope * colour
        plain = written[some]
        written[some] = (plain + values[4] * (guided.clip(0, 1) - plain)).clip(0, 1)

    for_chunks(follow, places, picture.size[1])
    return result


def _linear(alpha: Floats, image: Floats) -> Floats:
    """The coefficients a (three) and b of alpha = a·I + b, and how far to trust them: ``(5, h, w)``."""
    sure = (2 * alpha - 1) ** 2
    weight = sure * sure + np.float32(1e-3)
    planes = [*np.ascontiguousarray(np.moveaxis(image, -1, 0)), alpha]
    pairs = list(itertools.combinations_with_replacement(range(4), 2))  # the last is alpha with itself
    products = [planes[one] * planes[other] for one, other in pairs]
    total, *sums = on_threads(window_means, [weight, *(weight * plane for plane in planes + products)])
    means = [plane / total for plane in sums[:4]]
    variance = np.maximum(sums[-1] / total - means[3] ** 2, 0)
    outline = np.flatnonzero(variance > _FLAT)
    here, share = [plane.take(outline) for plane in means], np.reciprocal(total.take(outline))
    slopes, gain = _regression(
        product.take(outline) * share - here[one] * here[other]
        for (one, other), product in zip(pairs, sums[4:], strict=True)
    )
    coefficients = [np.zeros_like(alpha) for _ in slopes]
    explained = np.zeros_like(alpha)
    for plane, values in zip([*coefficients, explained], [*slopes, gain], strict=True):
        plane.reshape(-1)[outline] = values
    explained = np.minimum(explained, variance)
    rest = means[3]
    for slope, mean in zip(coefficients, means[:3], strict=True):
        rest -= slope * mean
    # The paper's equation 8, a mean of all windows that a pixel is in, weighted.
    vote = (variance + 1e-2) / (variance - explained + 1e-3)
    votes = [vote, *(vote * plane for plane in (*coefficients, rest))]
    voted, varied, votes_for, *averaged = on_threads(window_means, [explained, variance, *votes])
    low, high = _EXPLAINED
    trust = ((voted / (varied + 1e-4) - low) / (high - low)).clip(0, 1)
    maps: Floats = np.stack([*(plane / votes_for for plane in averaged), trust])
    return maps


def _regression(covariances: Iterable[Floats]) -> tuple[list[Doubles], Doubles]:
    """The slopes of alpha along each colour (the paper's equation 5), and the variance that they explain.

    Args:
        covariances: ``(P,)`` each, of red with red, green, blue and alpha, of green with green and so on.

    Returns:
        ``(P,)`` each.
    """
    rr, rg, rb, ra, gg, gb, ga, bb, ba, _ = (values.astype(np.float64) for values in covariances)
    for own in (rr, gg, bb):
        own += _SMOOTHNESS
    # The inverse of a symmetric matrix by its cofactors: several times as fast as `np.linalg.solve`.
    red = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    green = red[1], rr * bb - rb * rb, rg * rb - rr * gb
    blue = red[2], green[2], rr * gg - rg * rg
    determinant = rr * red[0] + rg * red[1] + rb * red[2]
    slopes = [(r * ra + g * ga + b * ba) / determinant for r, g, b in (red, green, blue)]
    gains = [slope * (own + _SMOOTHNESS * slope) for slope, own in zip(slopes, (ra, ga, ba), strict=True)]
    return slopes, gains[0] + gains[1] + gains[2]
