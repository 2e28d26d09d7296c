"""The subject's own colours at soft edges, so that no old background bleeds into a new one.

Fast multi-level foreground estimation: Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground
Estimation", ICPR 2020 (arXiv 2006.14970), with two changes that make it fit for large photographs in NumPy.
Fine levels relax soft pixels only, since everywhere else the colours are known; and the levels go up to a
working size, from which there is one step to the full size, for soft pixels alone. `benchmarks/foreground.py`
measures it beside pymatting's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from decoupe.inference.preprocess import Pixels
from decoupe.inference.sampling import Indices, for_chunks, interpolated

Floats = npt.NDArray[np.float32]

HIDDEN = 0.5 / 255
"""Alpha below which a pixel is invisible in 8 bits, and 1 minus which it is opaque."""

_WORKING_PIXELS = 512 * 512
_DENSE_PIXELS = 64 * 64  # levels up to this size relax every pixel, to spread colours into unknown regions
_SMALL_SIDE, _SMALL_SWEEPS, _SWEEPS, _FULL_SWEEPS = 32, 10, 3, 4
_STEEP = 0.05  # change of alpha
_SMOOTHNESS = 1e-5  # the paper's ε_r; its ω, the weight of alpha's gradient, is 1


def estimate_foreground(image: Pixels, alpha: Floats) -> Pixels:
    """The foreground colours F of ``image = alpha · F + (1 − alpha) · B``.

    Args:
        image: RGB ``(H, W, 3)``, uint8 or uint16.
        alpha: float32 ``(H, W)`` in [0, 1].

    Returns:
        RGB ``(H, W, 3)`` of the type of ``image``, and equal to it where alpha is 0 or 1.
    """
    foreground = image.copy()
    soft = _soft(alpha)
    if not soft.any():
        return foreground
    coarse = _coarse_layers(image, alpha)
    steep = _steep(alpha)
    pixels, written = image.reshape(-1, 3), foreground.reshape(-1, 3)

    def finish(places: Indices, *, fine: bool) -> None:
        layers = (
            _fine_layers(image, alpha, coarse, places) if fine else interpolated(coarse, places, alpha.shape)
        )
        a = alpha.ravel()[places, np.newaxis]  # (P, 1)
        front = layers[:, :3] + a * _missing(_unit(pixels[places]), a, layers)
        written[places] = np.rint(front.clip(0, 1) * np.iinfo(image.dtype).max).astype(image.dtype)

    for_chunks(partial(finish, fine=False), np.flatnonzero(soft & ~steep))
    for_chunks(partial(finish, fine=True), np.flatnonzero(soft & steep))
    return foreground


def _soft(alpha: Floats) -> npt.NDArray[np.bool_]:
    return (alpha >= HIDDEN) & (alpha <= 1 - HIDDEN)


def _unit(pixels: Pixels) -> Floats:
    """Integers as colours in [0, 1]."""
    unit: Floats = np.divide(pixels, np.iinfo(pixels.dtype).max, dtype=np.float32)
    return unit


def _missing(colours: Floats, a: Floats, layers: Floats) -> Floats:
    """What estimates ``(P, 6)`` lack to meet the colours ``(P, 3)`` exactly, where alpha is ``a`` ``(P, 1)``.

    F' + a·missing and B' + (1 − a)·missing minimise |F − F'|² + |B − B'|² under a·F + (1 − a)·B = colours.
    """
    residual = colours - a * layers[:, :3] - (1 - a) * layers[:, 3:]
    missing: Floats = residual / (a * a + (1 - a) * (1 - a))
    return missing


def _steep(alpha: Floats) -> npt.NDArray[np.bool_]:
    """Where alpha changes from pixel to pixel, ``(H, W)``: elsewhere the coarse layers lack no detail."""
    steep = np.zeros(alpha.shape, bool)
    for along, result in ((alpha, steep), (alpha.T, steep.T)):
        change = np.abs(np.diff(along, axis=0)) > _STEEP
        result[:-1] |= change
        result[1:] |= change
    return steep


def _fine_layers(image: Pixels, alpha: Floats, coarse: Floats, places: Indices) -> Floats:
    """Foreground and background ``(P, 6)`` at flat indices of the picture, from the coarse ``(h, w, 6)``."""
    height, width = alpha.shape
    rows, columns = np.divmod(places, width)
    neighbours = [
        np.where(rows > 0, places - width, places),
        np.where(columns > 0, places - 1, places),
        np.where(columns < width - 1, places + 1, places),
        np.where(rows < height - 1, places + width, places),
    ]
    seen = np.zeros(alpha.size, bool)
    for some in (places, *neighbours):
        seen[some] = True
    near = np.flatnonzero(seen)
    index = np.empty(alpha.size, np.int32)  # of what is near alone
    index[near] = np.arange(len(near))
    layers, alphas = interpolated(coarse, near, alpha.shape), alpha.ravel()[near]
    colours = _unit(image.reshape(-1, 3)[near])
    _fill_known(layers, colours, alphas)
    own = index[places]
    a = alphas[own, np.newaxis]
    missing = _missing(colours[own], a, layers[own])
    layers[own] = (layers[own] + np.hstack([a * missing, (1 - a) * missing])).clip(0, 1)
    beside = [index[neighbour] for neighbour in neighbours]
    black = (rows + columns) % 2 == 0
    halves = [
        _half(own[half], [neighbour[half] for neighbour in beside], colours[own[half]], alphas)
        for half in (black, ~black)
    ]
    # The farther from the working size, the more there is left to find.
    doublings = math.log2(height * width / (coarse.shape[0] * coarse.shape[1]))
    for _ in range(_FULL_SWEEPS + round(doublings)):
        for half in halves:
            _sweep(layers, half)
    return layers[own]


def _fill_known(layers: Floats, image: Floats, alpha: Floats) -> None:
    """Put the colours ``(…, 3)`` of opaque and of hidden pixels into the layers ``(…, 6)``."""
    opaque, hidden = alpha > 1 - HIDDEN, alpha < HIDDEN
    layers[opaque, :3] = image[opaque]
    layers[hidden, 3:] = image[hidden]


def _coarse_layers(image: Pixels, alpha: Floats) -> Floats:
    """Foreground and background colours in [0, 1] at the working size, ``(h, w, 6)``."""
    height, width = alpha.shape
    scale = min(1.0, math.sqrt(_WORKING_PIXELS / (height * width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return _solve(_unit(_sampled(image, size)), _sampled(alpha, size))


def _solve(image: Floats, alpha: Floats) -> Floats:
    """Foreground and background ``(h, w, 6)`` in [0, 1], level by level from one pixel to full size."""
    height, width = alpha.shape
    levels = max(1, math.ceil(math.log2(max(height, width))))
    layers = _mean_colours(image, alpha)  # (1, 1, 6)
    for level in range(levels + 1):
        size = round(height ** (level / levels)), round(width ** (level / levels))
        layers = _sampled(layers, size)
        _relax(layers, _sampled(image, size), _sampled(alpha, size))
    return layers


def _mean_colours(image: Floats, alpha: Floats) -> Floats:
    """The mean colours of the foreground and of the background, ``(1, 1, 6)``."""
    weights = np.stack([alpha.ravel(), 1 - alpha.ravel()]) + np.float32(_SMOOTHNESS)  # (2, P)
    sums = weights @ image.reshape(-1, 3)  # (2, 3)
    layers: Floats = (sums / weights.sum(axis=1, keepdims=True)).reshape(1, 1, 6)
    return layers


def _relax(layers: Floats, image: Floats, alpha: Floats) -> None:
    """Improve one level's foreground and background, ``(h, w, 6)``, in place."""
    height, width = alpha.shape
    active = np.ones_like(alpha, dtype=bool)
    if height * width > _DENSE_PIXELS:
        active = _soft(alpha)
        _fill_known(layers, image, alpha)
    rows, columns = np.nonzero(active)
    # A border of copies gives edge pixels four neighbours; neighbours in the flat array are offsets.
    padded = np.pad(layers, ((1, 1), (1, 1), (0, 0)), mode="edge").reshape(-1, 6)
    alphas = np.pad(alpha, 1, mode="edge").ravel()
    places = (rows + 1) * (width + 2) + columns + 1
    colours = image[rows, columns]
    # Like the squares of a chessboard: no two of one colour are neighbours, so each half is solved at once.
    black = (rows + columns) % 2 == 0
    offsets = (-width - 2, -1, 1, width + 2)
    halves = [
        _half(places[half], [places[half] + offset for offset in offsets], colours[half], alphas)
        for half in (black, ~black)
    ]
    for _ in range(_SMALL_SWEEPS if max(height, width) <= _SMALL_SIDE else _SWEEPS):
        for half in halves:
            _sweep(padded, half)
    layers[:] = padded.reshape(height + 2, width + 2, 6)[1:-1, 1:-1]


class _Half(NamedTuple):
    """Half the pixels of a level with their 2×2 systems (the paper's equation 4), inverted.

    Attributes:
        places: indices ``(P,)`` into the layers.
        neighbours: four such, of the neighbours.
        weights: four times ``(P, 1)``, how much each neighbour counts.
        inverse: entries [0, 0], [0, 1] and [1, 1] of the inverse matrices, each ``(P, 1)``.
        data: what the pixels' own colours add to the right sides, foreground and background, ``(P, 3)`` each.
    """

    places: Indices
    neighbours: list[Indices]
    weights: list[Floats]
    inverse: tuple[Floats, Floats, Floats]
    data: tuple[Floats, Floats]


def _half(places: Indices, neighbours: list[Indices], colours: Floats, alphas: Floats) -> _Half:
    a = alphas[places][:, np.newaxis]  # (P, 1)
    weights = [_SMOOTHNESS + np.abs(a - alphas[neighbour][:, np.newaxis]) for neighbour in neighbours]
    total: Any = sum(weights)
    front, mixed, back = a * a + total, a * (1 - a), (1 - a) * (1 - a) + total
    determinant = front * back - mixed * mixed
    inverse = back / determinant, -mixed / determinant, front / determinant
    return _Half(places, neighbours, weights, inverse, (a * colours, (1 - a) * colours))


def _sweep(padded: Floats, half: _Half) -> None:
    """Solve the systems of one half, given the other half's colours."""
    spread: Any = sum(
        weight * padded[place] for weight, place in zip(half.weights, half.neighbours, strict=True)
    )
    front, back = spread[:, :3] + half.data[0], spread[:, 3:] + half.data[1]
    first, mixed, last = half.inverse
    padded[half.places, :3] = (first * front + mixed * back).clip(0, 1)
    padded[half.places, 3:] = (mixed * front + last * back).clip(0, 1)


def _sampled(array: Any, size: tuple[int, int]) -> Any:
    """``array`` ``(H, W, …)`` at ``size``, a copy: nearest pixels, as means would not obey the equation."""
    rows, columns = ((np.arange(to) * at) // to for to, at in zip(size, array.shape[:2], strict=True))
    return array.take(rows, axis=0).take(columns, axis=1)
