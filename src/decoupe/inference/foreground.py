"""The subject's own colours at soft edges, so that no old background bleeds into a new one.

Fast multi-level foreground estimation: Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground
Estimation", ICPR 2020 (arXiv 2006.14970), with two changes that make it fit for large photographs in NumPy.
Fine levels relax soft pixels only, since everywhere else the colours are known. And levels beyond a working
size hold no more than is needed of them: soft pixels where alpha changes, and what lies around these; where
alpha does not change, the working size lacks no detail. `benchmarks/foreground.py` measures it beside
pymatting's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from decoupe.arrays import Floats, Indices, Mask
from decoupe.inference.preprocess import Pixels, colour_planes
from decoupe.inference.sampling import (
    corners,
    divided,
    for_chunks,
    interpolated,
    on_threads,
    strips,
    weighted,
)

Pair = tuple[int, int]

HIDDEN = 0.5 / 255
"""Alpha below which a pixel is invisible in 8 bits, and 1 minus which it is opaque."""

_WORKING_PIXELS = 384 * 384
_DENSE_PIXELS = 64 * 64  # levels up to this size relax every pixel, to spread colours into unknown regions
_SMALL_SIDE, _SMALL_SWEEPS, _SWEEPS = 32, 10, 8  # up to the working size, where a sweep takes little
_FINE_SWEEPS = 4  # beyond it
_LAST_SWEEPS, _ONLY_SWEEPS = 1, 6  # of the full size, above several levels or straight above the working size
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
    if not image.flags.c_contiguous:  # a part of a picture, which flat indices do not reach
        image = foreground.copy()
    alpha = np.ascontiguousarray(alpha)
    level, steep = _soft_places(alpha)
    if not len(level) + len(steep):
        return foreground
    levels = _Levels(image, alpha, _coarse_layers(image, alpha))
    pixels, written = image.reshape(-1, 3), foreground.reshape(-1, 3)

    def finish(places: Indices, *, fine: bool) -> None:
        layers = levels.at(places) if fine else interpolated(levels.coarse, places, levels.sizes[-1])
        _add_missing(layers, colour_planes(pixels[places]), alpha.reshape(-1)[places])
        front = np.rint(layers[:3].clip(0, 1) * np.iinfo(image.dtype).max)
        written[places] = front.astype(image.dtype).T

    for_chunks(partial(finish, fine=False), level)
    for_chunks(partial(finish, fine=True), steep)
    return foreground


def _soft(alpha: Floats) -> Mask:
    return (alpha >= HIDDEN) & (alpha <= 1 - HIDDEN)


def _soft_places(alpha: Floats) -> tuple[Indices, Indices]:
    """Flat indices of soft pixels: those whose alpha is like their neighbours', and those where it changes.

    Where it does not change, the coarse layers lack no detail.
    """
    height, width = alpha.shape

    def look(rows: slice) -> tuple[Indices, Indices]:
        soft = _soft(alpha[rows])
        if not soft.any():
            return np.empty(0, np.intp), np.empty(0, np.intp)
        above = min(rows.start, 1)
        near = alpha[rows.start - above : rows.stop + 1]
        steep = np.zeros(near.shape, bool)
        down, along = np.abs(near[1:] - near[:-1]) > _STEEP, np.abs(near[:, 1:] - near[:, :-1]) > _STEEP
        steep[1:] |= down
        steep[:-1] |= down
        steep[:, 1:] |= along
        steep[:, :-1] |= along
        steep = steep[above : above + len(soft)]
        first = rows.start * width
        return np.flatnonzero(soft & ~steep) + first, np.flatnonzero(soft & steep) + first

    level, steep = zip(*on_threads(look, strips(height, width)), strict=True)
    return np.concatenate(level), np.concatenate(steep)


def _add_missing(layers: Floats, colours: Floats, a: Floats, divisor: Floats | None = None) -> None:
    """Move estimates ``(6, P)`` towards meeting the colours ``(3, P)``, where alpha is ``a`` ``(P,)``.

    With no ``divisor`` they meet them exactly: F' + a·r and B' + (1 − a)·r minimise |F − F'|² + |B − B'|²
    under a·F + (1 − a)·B = colours.
    """
    rest = 1 - a
    missing = colours - a * layers[:3]
    missing -= rest * layers[3:]
    missing /= a * a + rest * rest if divisor is None else divisor
    layers[:3] += a * missing
    layers[3:] += rest * missing


def _fill_known(layers: Floats, colours: Floats, alpha: Floats) -> None:
    """Put the colours ``(3, …)`` of opaque and of hidden pixels into the layers ``(6, …)``."""
    np.copyto(layers[:3], colours, where=alpha > 1 - HIDDEN)
    np.copyto(layers[3:], colours, where=alpha < HIDDEN)


class _Levels:
    """Layers of single pixels at the picture's size, by levels that hold only what these pixels need.

    Args:
        image: RGB ``(H, W, 3)``.
        alpha: ``(H, W)``.
        coarse: the layers at the working size, ``(6, h, w)``.
    """

    def __init__(self, image: Pixels, alpha: Floats, coarse: Floats) -> None:
        self.coarse = coarse
        self._pixels, self._alpha = image.reshape(-1, 3), alpha.reshape(-1)
        first, last = coarse.shape[1:], alpha.shape
        doublings = max(1, round(math.log2(max(last) / max(first))))
        self.sizes: list[Pair] = [
            (_between(first[0], last[0], step / doublings), _between(first[1], last[1], step / doublings))
            for step in range(doublings + 1)
        ]

    def at(self, places: Indices, level: int = -1) -> Floats:
        """Foreground and background ``(6, P)`` at ascending flat indices of a level, the last by default."""
        level %= len(self.sizes)
        if level == 0:
            return np.take(self.coarse.reshape(6, -1), places, axis=1, mode="clip")
        halves = _chessboard(places[_soft(self._alpha[self._sources(places, level)])], self.sizes[level])
        around = [_neighbours(half, self.sizes[level]) for half in halves]
        near = _Subset([places, *around[0], *around[1]], first=halves)
        layers = self._enlarged(near.places, level)
        sources = self._sources(near.places, level)
        colours, alphas = colour_planes(self._pixels[sources]), self._alpha[sources]
        _fill_known(layers, colours, alphas)
        black, white = (len(half) for half in halves)
        systems = [
            _system(own, [near.order(some) for some in beside], colours, alphas)
            for own, beside in zip((slice(black), slice(black, black + white)), around, strict=True)
        ]
        # The black are solved from the white, whatever they were before.
        start = layers[:, black : black + white]
        _add_missing(start, systems[1].colours, systems[1].alpha)
        start.clip(0, 1, out=start)
        last = len(self.sizes) - 1
        sweeps = _FINE_SWEEPS if level < last else _LAST_SWEEPS if last > 1 else _ONLY_SWEEPS
        _sweep(layers, systems, sweeps)
        return np.take(layers, near.order(places), axis=1, mode="clip")

    def _enlarged(self, places: Indices, level: int) -> Floats:
        """The layers ``(6, P)`` of the level below, enlarged to a level."""
        found = corners(places, self.sizes[level], self.sizes[level - 1])
        below = _Subset(found.places)
        there = found._replace(places=tuple(below.order(some) for some in found.places))
        return there.of(self.at(below.places, level - 1))

    def _sources(self, places: Indices, level: int) -> Indices:
        """The picture's pixels that those of a level are: nearest ones, as in `_sampled`."""
        if level == len(self.sizes) - 1:
            return places
        (height, width), (full_height, full_width) = self.sizes[level], self.sizes[-1]
        rows, columns = divided(places, width)
        return rows * full_height // height * full_width + columns * full_width // width


def _between(first: int, last: int, share: float) -> int:
    """A side on the way from the first to the last, in steps of equal ratio."""
    return round(float(first * (last / first) ** share))


class _Subset:
    """Some pixels of a level: what is stored for them is stored in their order.

    Args:
        parts: flat indices, not all empty, which may repeat.
        first: those of ``parts`` that come first, in this order, each once.

    Attributes:
        places: each once, behind the first ascending.
    """

    def __init__(self, parts: Sequence[Indices], first: Sequence[Indices] = ()) -> None:
        parts = [part for part in parts if len(part)]
        self._least = min(int(part.min()) for part in parts)
        seen = np.zeros(max(int(part.max()) for part in parts) + 1 - self._least, bool)
        for part in parts:
            seen[part - self._least] = True
        for part in first:
            seen[part - self._least] = False
        self.places: Indices = np.concatenate([*first, np.flatnonzero(seen) + self._least])
        self._order = np.empty(len(seen), np.intp)
        self._order[self.places - self._least] = np.arange(len(self.places))

    def order(self, places: Indices) -> Indices:
        """Where each of some of the subset's pixels is stored."""
        return np.take(self._order, places - self._least, mode="clip")


def _neighbours(places: Indices, size: Pair) -> list[Indices]:
    """The pixels above, left, right and below; beyond the border each is its own."""
    height, width = size
    rows, columns = divided(places, width)
    return [
        places - width * (rows > 0),
        places - (columns > 0),
        places + (columns < width - 1),
        places + width * (rows < height - 1),
    ]


def _coarse_layers(image: Pixels, alpha: Floats) -> Floats:
    """Foreground and background colours in [0, 1] at the working size, ``(6, h, w)``."""
    height, width = alpha.shape
    scale = min(1.0, math.sqrt(_WORKING_PIXELS / (height * width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows, columns = _nearest(alpha.shape, size)
    return _solve(colour_planes(image.take(rows, axis=0).take(columns, axis=1)), _sampled(alpha, size))


def _solve(colours: Floats, alpha: Floats) -> Floats:
    """Foreground and background ``(6, h, w)`` in [0, 1], level by level from one pixel to full size."""
    height, width = alpha.shape
    levels = max(1, math.ceil(math.log2(max(height, width))))
    layers = _mean_colours(colours, alpha)  # (6, 1, 1)
    for level in range(levels + 1):
        size = round(height ** (level / levels)), round(width ** (level / levels))
        layers = _sampled(layers, size)
        _relax(layers, _sampled(colours, size), _sampled(alpha, size))
    return layers


def _mean_colours(colours: Floats, alpha: Floats) -> Floats:
    """The mean colours of the foreground and of the background, ``(6, 1, 1)``."""
    weights = np.stack([alpha.ravel(), 1 - alpha.ravel()]) + np.float32(_SMOOTHNESS)  # (2, P)
    # Not a matrix product: OpenBLAS waits for ever for memory that a server's worker may not have.
    sums = np.einsum("kp,cp->kc", weights, colours.reshape(3, -1))  # (2, 3)
    layers: Floats = (sums / weights.sum(axis=1, keepdims=True)).reshape(6, 1, 1)
    return layers


def _relax(layers: Floats, colours: Floats, alpha: Floats) -> None:
    """Improve one level's foreground and background, ``(6, h, w)``, in place."""
    height, width = alpha.shape
    if height * width > _DENSE_PIXELS:
        _fill_known(layers, colours, alpha)
        places = np.flatnonzero(_soft(alpha))
    else:
        places = np.arange(alpha.size)
    flat, alphas = colours.reshape(3, -1), alpha.reshape(-1)
    systems = [
        _system(half, _neighbours(half, (height, width)), flat, alphas)
        for half in _chessboard(places, (height, width))
    ]
    sweeps = _SMALL_SWEEPS if max(height, width) <= _SMALL_SIDE else _SWEEPS
    _sweep(layers.reshape(6, -1), systems, sweeps)


def _chessboard(places: Indices, size: Pair) -> list[Indices]:
    """The black and the white squares of flat indices: no two of one colour are neighbours."""
    rows, columns = divided(places, size[1])
    black = (rows + columns) % 2 == 0
    return [places[black], places[~black]]


class _System(NamedTuple):
    """The 2×2 systems of some pixels (the paper's equation 4), in solved form.

    Where F' and B' are the weighted means of the neighbours, and s is the sum of the weights, the solution is
    F' + a·r and B' + (1 − a)·r with r = (I − a·F' − (1 − a)·B') / (a² + (1 − a)² + s).

    Attributes:
        places: where the ``P`` pixels are in the layers.
        neighbours: four times indices ``(P,)`` into the layers.
        weights: four times ``(P,)``, how much each neighbour counts; they sum to 1.
        alpha: ``(P,)``.
        divisor: of r, ``(P,)``.
        colours: the pixels' own, ``(3, P)``.
    """

    places: Indices | slice
    neighbours: list[Indices]
    weights: list[Floats]
    alpha: Floats
    divisor: Floats
    colours: Floats


def _system(places: Indices | slice, neighbours: list[Indices], colours: Floats, alphas: Floats) -> _System:
    """The systems of pixels of which no two are neighbours, so that they are solved at once.

    ``colours`` ``(3, Q)`` and ``alphas`` ``(Q,)`` are of the layers' pixels.
    """
    a = alphas[places]
    weights = [np.abs(a - alphas[some]) + np.float32(_SMOOTHNESS) for some in neighbours]
    total: Any = sum(weights)
    for weight in weights:
        weight /= total
    divisor = a * a + (1 - a) * (1 - a) + total
    return _System(places, neighbours, weights, a, divisor, colours[:, places])


def _sweep(layers: Floats, systems: list[_System], times: int) -> None:
    """Solve one half of the layers ``(6, Q)`` given the other half's colours, in turns."""
    for system in systems * times:
        means = weighted(layers, system.neighbours, system.weights)
        _add_missing(means, system.colours, system.alpha, system.divisor)
        layers[:, system.places] = means.clip(0, 1, out=means)


def _sampled(planes: Floats, size: Pair) -> Floats:
    """``(…, H, W)`` at ``size``, a copy: nearest pixels, as means would not obey the equation."""
    rows, columns = _nearest(planes.shape[-2:], size)
    return planes.take(rows, axis=-2).take(columns, axis=-1)


def _nearest(full: tuple[int, ...], size: Pair) -> tuple[Indices, Indices]:
    """The rows and the columns of the full size that a smaller or larger size shows."""
    rows, columns = ((np.arange(to) * at) // to for to, at in zip(size, full, strict=True))
    return rows, columns
