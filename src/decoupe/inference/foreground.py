"""The subject's own colours at soft edges, so that no old background bleeds into a new one.

Fast multi-level foreground estimation: Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground
Estimation", ICPR 2020 (arXiv 2006.14970), with three changes that make it fit for large photographs in NumPy.
Fine levels relax soft pixels only, since everywhere else the colours are known. Sweeps are over-relaxed
(Young, "Iterative Methods for Solving Partial Difference Equations of Elliptic Type", 1954), so that a few
come nearer to the solution than many plain ones. And levels beyond a working size hold no more than is needed
of them: soft pixels where alpha changes, and what lies around these; where alpha does not change, the working
size lacks no detail. `benchmarks/foreground.py` measures it beside pymatting's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from decoupe.arrays import Floats, Indices, Mask, Pixels
from decoupe.inference.colour import colour_planes, colours_of
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
_SWEEPS, _FINE_SWEEPS = 4, 2  # up to the working size, and beyond it
_OVER = 1.5  # how far each goes towards what solves a pixel's equation
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
    written = foreground.reshape(-1, 3)

    def finish(places: Indices, *, fine: bool) -> None:
        layers = levels.at(places) if fine else interpolated(levels.coarse, places, levels.sizes[-1])
        _add_missing(layers, colours_of(image, places), alpha.reshape(-1)[places])
        front = np.rint(layers[:3].clip(0, 1) * np.iinfo(image.dtype).max).astype(image.dtype)
        for channel, values in enumerate(front):  # several times as fast as all at once
            written[:, channel][places] = values

    for_chunks(partial(finish, fine=False), level, image.shape[1])
    for_chunks(partial(finish, fine=True), steep, image.shape[1])
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
        self._image, self._alpha = image, alpha.reshape(-1)
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
        soft = places[_soft(self._alpha[self._sources(places, level)])]
        near, halves = _board(soft, self.sizes[level], places)
        layers = self._enlarged(near.places, level)
        sources = self._sources(near.places, level)
        colours, alphas = colours_of(self._image, sources), self._alpha[sources]
        _fill_known(layers, colours, alphas)
        systems = [_system(half, colours, alphas) for half in halves]
        # The black are solved from the white, whatever they were before.
        start = layers[:, halves[1].places]
        _add_missing(start, systems[1].colours, systems[1].alpha)
        start.clip(0, 1, out=start)
        _sweep(layers, systems, _FINE_SWEEPS)
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


class _Half(NamedTuple):
    """The black or the white squares of some pixels, of which no two are neighbours.

    Attributes:
        places: where these ``P`` are stored.
        neighbours: four times indices ``(P,)``: where those around each are.
    """

    places: slice
    neighbours: list[Indices]


def _board(places: Indices, size: Pair, others: Indices) -> tuple[_Subset, list[_Half]]:
    """Pixels of a level and those around them, in the order in which they are solved: black, white, others.

    Args:
        places: flat indices of those to be solved.
        size: of the level.
        others: of all that are wanted, not empty; they may repeat the first.
    """
    rows, columns = divided(places, size[1])
    is_black = (rows + columns) % 2 == 0
    black, white = places[is_black], places[~is_black]
    around = [_neighbours(black, size), _neighbours(white, size)]
    near = _Subset([*around[0], *around[1], others], first=[black, white])
    slices = slice(len(black)), slice(len(black), len(places))
    return near, [
        _Half(own, [near.order(some) for some in four]) for own, four in zip(slices, around, strict=True)
    ]


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
    means = []
    for weights in (alpha + np.float32(_SMOOTHNESS), 1 - alpha + np.float32(_SMOOTHNESS)):
        # Not a matrix product: OpenBLAS waits for ever for memory that a server's worker may not have.
        means += [(weights * plane).sum() / weights.sum() for plane in colours]
    return np.array(means, np.float32).reshape(6, 1, 1)


def _relax(layers: Floats, colours: Floats, alpha: Floats) -> None:
    """Improve one level's foreground and background, ``(6, h, w)``, in place."""
    height, width = alpha.shape
    if height * width > _DENSE_PIXELS:
        _fill_known(layers, colours, alpha)
        places = np.flatnonzero(_soft(alpha))
    else:
        places = np.arange(alpha.size)
    if not len(places):
        return
    near, halves = _board(places, (height, width), places)
    held, own, (alphas,) = (
        planes.reshape(-1, alpha.size).take(near.places, axis=1, mode="clip")
        for planes in (layers, colours, alpha)
    )
    _sweep(held, [_system(half, own, alphas) for half in halves], _SWEEPS)
    for plane, values in zip(layers.reshape(6, -1), held, strict=True):
        plane[near.places] = values


class _System(NamedTuple):
    """The 2×2 systems of half of the pixels (the paper's equation 4), in solved form.

    Where F' and B' are the weighted means of the neighbours, and s is the sum of the weights, the solution is
    F' + a·r and B' + (1 − a)·r with r = (I − a·F' − (1 − a)·B') / (a² + (1 − a)² + s).

    Attributes:
        half: where these ``P`` and their neighbours are in the layers.
        weights: four times ``(P,)``, how much each neighbour counts; they sum to 1.
        alpha: ``(P,)``.
        divisor: of r, ``(P,)``.
        colours: the pixels' own, ``(3, P)``.
    """

    half: _Half
    weights: list[Floats]
    alpha: Floats
    divisor: Floats
    colours: Floats


def _system(half: _Half, colours: Floats, alphas: Floats) -> _System:
    """The systems of half of the pixels, of all of which there are colours ``(3, Q)`` and alphas ``(Q,)``."""
    a = alphas[half.places]
    weights = [np.abs(a - alphas[some]) + np.float32(_SMOOTHNESS) for some in half.neighbours]
    total: Any = sum(weights)
    for weight in weights:
        weight /= total
    divisor = a * a + (1 - a) * (1 - a) + total
    return _System(half, weights, a, divisor, colours[:, half.places])


def _sweep(layers: Floats, systems: list[_System], times: int) -> None:
    """Solve one half of the layers ``(6, Q)`` given the other half's colours, in turns."""
    for system in systems * times:
        means = weighted(layers, system.half.neighbours, system.weights)
        _add_missing(means, system.colours, system.alpha, system.divisor)
        before = layers[:, system.half.places]
        means -= before
        means *= _OVER
        before += means
        before.clip(0, 1, out=before)


def _sampled(planes: Floats, size: Pair) -> Floats:
    """``(…, H, W)`` at ``size``: nearest pixels, as means would not obey the equation."""
    if planes.shape[-2:] == size:
        return planes
    rows, columns = _nearest(planes.shape[-2:], size)
    # Whole rows are taken faster than columns, so columns of the smaller size.
    if size[0] < planes.shape[-2]:
        return planes.take(rows, axis=-2).take(columns, axis=-1)
    return planes.take(columns, axis=-1).take(rows, axis=-2)


def _nearest(full: tuple[int, ...], size: Pair) -> tuple[Indices, Indices]:
    """The rows and the columns of the full size that a smaller or larger size shows."""
    rows, columns = ((np.arange(to) * at) // to for to, at in zip(size, full, strict=True))
    return rows, columns
