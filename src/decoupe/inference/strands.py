"""Strands of a subject that its small matte has lost, found in the photograph: hair, fur, whiskers, cords.

What is thinner than a matte's pixels is not in it, however it is enlarged. The photograph shows it: a thin
line of the subject's colour before the background. Where F and B are the colours of the subject and of the
background nearby, alpha is how far a pixel's colour I lies on the way between them,
(I − B)·(F − B) / |F − B|² (Chuang et al., "A Bayesian Approach to Digital Matting", CVPR 2001, equation 10).

Photographs have many thin lines that are not the subject's. A strand is believed where all of this holds:
it is thin, and stands out from what the background itself shows, farther away and in colours that lie on the
other side of B; the two colours explain it; the matte around it is sure; and it is joined to the subject
and does not go on behind it. `benchmarks/guided.py` measures what it brings.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Floats, Indices, Mask
from decoupe.inference.colour import colours_of
from decoupe.inference.pictures import Picture
from decoupe.inference.preprocess import colours_at
from decoupe.inference.regions import components, dilated, largest, opened
from decoupe.inference.sampling import (
    divided,
    for_chunks,
    interpolated,
    on_threads,
    reached,
    strips,
    window_means,
)
from decoupe.readings import bounding_box, neighbours

STEP, MOST_PIXELS = 3, 3 << 19
"""Strands are looked for in at most so many pixels to a side of the matte's, and so many in all."""

REACH = 0.3
"""How far from the subject they are looked for, as a part of the radius of a disc of its area."""

_INSIDE = 0.5  # alpha from which strands may begin
_SUBJECT, _BACKGROUND = 0.97, 0.02  # alpha from which, and up to which, a pixel of the matte has one colour
_SURROUNDINGS = 7 / 4  # how far the background is looked at, in reaches
_ROUNDS, _SAMPLE = 2, 2  # in which the background is freed of the strands before it, by every second pixel
_NOISE, _LEAST = 3.5, 0.06  # a strand's alpha exceeds the background's own so many times, and by so much
_UNSURE = 0.4  # mean of 4·alpha·(1 − alpha) from which a matte is in doubt, and not only at its outline
_CONTRAST = 0.01  # |F − B|² below which the two, in [0, 1], are one colour
_UNEXPLAINED = 0.06, 0.35  # how far I may be from the way from B to F, and how much more, in |F − B|, near F


class Strands(NamedTuple):
    """Where a picture has strands, and the colours around them.

    Attributes:
        where: bool, a few pixels to each of the small matte's, ``(n · h, n · w)``.
        layers: the subject's colour F and the background's B there, in [0, 1], at half the size of the small
            matte: ``(6, ⌈h/2⌉, ⌈w/2⌉)``.
    """

    where: Mask
    layers: Floats

    def add_to(self, matte: Floats, picture: Picture) -> None:
        """Raise a matte ``(H, W)`` of the picture, in place, where there are strands."""
        written = matte.reshape(-1)
        where = self.where.astype(np.float32)[np.newaxis]

        def write(places: Indices) -> None:
            here = interpolated(self.layers, places, picture.size)
            share = _shares(colours_of(picture.pixels, places), _ways(here)).clip(0, 1)
            share *= interpolated(where, places, picture.size)[0]
            written[places] = np.maximum(written[places], share)

        for_chunks(write, reached(self.where, picture.size), picture.size[1])


def find_strands(alpha: Floats, picture: Picture) -> Strands | None:
    """The strands that a picture's small matte ``(h, w)`` has lost, or None."""
    near, far, reach = _around(alpha)
    if not ((alpha > _SUBJECT).any() and near.any() and far.any()):
        return None
    blocks = _blocks(picture, near | far)
    layers = _layers(blocks, alpha, picture)
    share = _shares(blocks.colours, blocks.around(_ways(layers)))
    thin = _thin(blocks, share, alpha)
    noise = _noise(blocks, share, thin, alpha, far, reach)
    sure = near & (window_means(4 * alpha * (1 - alpha)) < _UNSURE)
    found = (thin > _LEAST + _NOISE * noise) & blocks.of(sure)
    _keep_explained(found, share, blocks, layers)
    if not found.any():
        return None
    where = _joined(blocks.laid_out(found, np.zeros(alpha.shape, np.bool_)), alpha)
    return Strands(where, layers) if where.any() else None


def _around(alpha: Floats) -> tuple[Mask, Mask, int]:
    """The matte's pixels that strands may reach, the background's farther out, ``(h, w)`` each; how far."""
    subject = alpha > _INSIDE
    reach = max(1, math.ceil(REACH * math.sqrt(np.count_nonzero(subject) / math.pi)))
    near, wide = dilated(subject, reach), dilated(subject, math.ceil(_SURROUNDINGS * reach))
    return near & ~subject, wide & ~near & (alpha < _BACKGROUND), reach


class _Blocks(NamedTuple):
    """What a picture shows within some pixels of its matte, in squares of values.

    Attributes:
        size: of the matte, ``(h, w)``.
        cells: flat indices ``(P,)`` of the matte's pixels.
        halves: flat indices of these at half the size, at which colours and noise are known.
        step: values along a side of each.
        colours: the values, in [0, 1], ``(3, step², P)``.
        squares: flat indices ``(step², P)`` of the values in a plane of all of them, ``(step·h, step·w)``.
    """

    size: tuple[int, int]
    cells: Indices
    halves: Indices
    step: int
    colours: Floats
    squares: Indices

    def of(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What a plane ``(h, w)`` has for each of the matte's pixels: ``(P,)``."""
        return plane.reshape(-1)[self.cells]

    def around(self, planes: Floats) -> Floats:
        """What planes ``(…, ⌈h/2⌉, ⌈w/2⌉)`` have around each of the matte's pixels: ``(…, P)``."""
        return planes.reshape(*planes.shape[:-2], -1).take(self.halves, axis=-1, mode="clip")

    def means(self, values: Floats) -> Floats:
        """The means of values ``(S, P)``, and elsewhere zero: ``(h, w)``."""
        means = np.zeros(self.size, np.float32)
        means.reshape(-1)[self.cells] = values.mean(axis=0)
        return means

    def laid_out(self, values: npt.NDArray[Any], elsewhere: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values ``(step², P)``, and elsewhere those of a plane ``(h, w)``, as ``(step·h, step·w)``."""
        plane = elsewhere.repeat(self.step, axis=0).repeat(self.step, axis=1)
        plane.reshape(-1)[self.squares.reshape(-1)] = values.reshape(-1)
        return plane

    def read(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values ``(step², P)`` of a plane ``(step·h, step·w)``."""
        return plane.reshape(-1).take(self.squares, mode="clip")


def _blocks(picture: Picture, cells: Mask) -> _Blocks:
    """What is seen in the marked pixels of a matte ``(h, w)``."""
    ratios = [many / few for many, few in zip(picture.size, cells.shape, strict=True)]
    step = max(1, min(STEP, math.ceil(max(ratios)), int(math.sqrt(MOST_PIXELS / cells.size))))
    side = max(1, int(min(ratios) / step))  # of the squares of pixels whose means are the values
    rows, columns = (
        ((np.arange(step * few) + 0.5) * (ratio / step) + 0.5 - side / 2).astype(np.intp).reshape(few, step).T
        for few, ratio in zip(cells.shape, ratios, strict=True)
    )  # (step, few) each
    (height, width), places = cells.shape, np.flatnonzero(cells)
    down, along = divided(places, width)
    pixels = picture.pixels.reshape(-1, 3)
    colours = np.empty((3, step**2, len(places)), np.float32)
    most = np.float32(np.iinfo(pixels.dtype).max * side**2)

    def see(part: slice) -> None:
        tops, lefts = rows.take(down[part], axis=1), columns.take(along[part], axis=1)
        corners = tops[:, np.newaxis] * picture.size[1] + lefts  # (step, step, n)
        total: npt.NDArray[Any] = np.array(0, np.uint32)
        for row, column in itertools.product(range(side), repeat=2):
            total = total + pixels.take(corners + (row * picture.size[1] + column), axis=0, mode="clip")
        np.divide(np.moveaxis(total.reshape(step**2, -1, 3), -1, 0), most, out=colours[:, :, part])

    on_threads(see, strips(len(places), step**2))
    inside = np.add.outer(np.arange(step) * (step * width), np.arange(step))  # of a square, its flat indices
    squares = inside.reshape(-1, 1) + (down * (step**2 * width) + along * step)
    halves = down // 2 * ((width + 1) // 2) + along // 2
    return _Blocks((height, width), places, halves, step, colours, squares)


def _layers(blocks: _Blocks, alpha: Floats, picture: Picture) -> Floats:
    """The subject's colour and the background's at half the matte's size, ``(6, ⌈h/2⌉, ⌈w/2⌉)``."""
    image = np.moveaxis(colours_at(picture, alpha.shape), -1, 0)
    subject, background = (alpha > _SUBJECT).astype(np.float32), (alpha < _BACKGROUND).astype(np.float32)
    front = _spread(_halved(image * subject), _halved(subject))
    layers = np.concatenate([front, _smooth([*(image * background), background])])
    known, colours = blocks.of(background), blocks.colours[:, ::_SAMPLE]
    for _ in range(_ROUNDS):
        rest = 1 - _shares(colours, blocks.around(_ways(layers))).clip(0, 1)
        rest *= rest * rest
        weight = known * rest * rest
        layers[3:] = _smooth([*(blocks.means(weight * colour) for colour in colours), blocks.means(weight)])
    return layers


def _thin(blocks: _Blocks, share: Floats, alpha: Floats) -> Floats:
    """How far thin things stand out, of how far pixels have the subject's colour, ``(step², P)`` each."""
    inside = np.where(alpha > _INSIDE, np.uint8(255), np.uint8(0))  # so that the subject itself is not thin
    plane = blocks.laid_out((share.clip(0, 1) * 255).astype(np.uint8), inside)
    thin = blocks.read(plane - opened(plane, blocks.step)).astype(np.float32)
    thin /= 255
    return thin


def _noise(blocks: _Blocks, share: Floats, thin: Floats, alpha: Floats, far: Mask, reach: int) -> Floats:
    """What the background shows by itself around each pixel, as a standard deviation of alpha: ``(P,)``."""
    ground, beyond = (alpha < _BACKGROUND).astype(np.float32), far.astype(np.float32)
    seen = window_means(blocks.means(thin * thin) * beyond)
    lines = _spread(seen[np.newaxis], window_means(beyond))[0]
    # A line that goes on there is none of the subject's from its beginning, and fills little of a window.
    lines = np.maximum(lines, largest(2 * lines * beyond, reach))
    # Colours on the other side of B are half of those that differ from it.
    below = share.clip(-1, 0)
    opposite = 2 * _smooth([blocks.means(below * below) * ground, ground])[0]
    noise: Floats = np.sqrt(np.maximum(blocks.of(lines), blocks.around(opposite)))
    return noise


def _keep_explained(found: Mask, share: Floats, blocks: _Blocks, layers: Floats) -> None:
    """Unmark, of pixels ``(step², P)``, those whose colours are not on the way from B to F."""
    inside, some = divided(np.flatnonzero(found), found.shape[1])
    here, part = layers.reshape(6, -1)[:, blocks.halves[some]], share[inside, some]
    way = here[:3] - here[3:]
    contrast = (way**2).sum(axis=0)
    apart = np.sqrt(((blocks.colours[:, inside, some] - here[3:] - part * way) ** 2).sum(axis=0))
    least, more = _UNEXPLAINED
    found[inside, some] = (contrast > _CONTRAST) & (apart < least + more * part * np.sqrt(contrast))


def _joined(lines: Mask, alpha: Floats) -> Mask:
    """Those of the lines that are joined to the subject, perhaps by others, and a pixel around them."""
    step = lines.shape[0] // alpha.shape[0]
    x0, y0, x1, y1 = bounding_box(lines)
    around = slice(max(0, y0 - 1), y1 + 1), slice(max(0, x0 - 1), x1 + 1)
    result = np.zeros_like(lines)
    lines = lines[around]
    inside = (alpha > _INSIDE).repeat(step, axis=0).repeat(step, axis=1)[around]
    bridged = lines | inside  # components share edges, and a thin line's pixels their corners
    bridged[:-1, 1:] |= lines[:-1, :-1] & lines[1:, 1:]
    bridged[:-1, :-1] |= lines[:-1, 1:] & lines[1:, :-1]
    labels, count = components(bridged)
    joined = np.zeros(count + 1, np.bool_)
    joined[labels.take(np.flatnonzero(inside))] = True
    result[around] = dilated(joined.take(labels) & lines, 1)
    return result


def _ways(layers: Floats) -> Floats:
    """Of F and B ``(6, …)``: (F − B) / |F − B|², and how far B is along it: ``(4, …)``."""
    way = layers[:3] - layers[3:]
    way /= (way**2).sum(axis=0) + _CONTRAST
    return np.concatenate([way, (layers[3:] * way).sum(axis=0, keepdims=True)])


def _shares(colours: Floats, ways: Floats) -> Floats:
    """How far colours ``(3, …, P)`` are on `_ways` ``(4, P)`` from B to F, in [−1, 1]; below 0 beyond B."""
    red, green, blue, ground = ways
    shares = np.empty(colours.shape[1:], np.float32)

    def compare(part: slice) -> None:
        share = colours[0, ..., part] * red[part]
        share += colours[1, ..., part] * green[part]
        share += colours[2, ..., part] * blue[part]
        share -= ground[part]
        share.clip(-1, 1, out=shares[..., part])

    on_threads(compare, strips(len(ground), math.prod(shares.shape[:-1])))
    return shares


def _smooth(planes: list[Floats]) -> Floats:
    """The means of some planes ``(h, w)`` over windows, weighted by the last one, at half the size."""
    *sums, weights = map(window_means, _halved(np.stack(planes)))
    return _spread(np.stack(sums), weights)


def _spread(sums: Floats, weights: Floats) -> Floats:
    """Weighted means of planes ``(C, h, w)``; where weights ``(h, w)`` are small, those of what is around."""
    means: Floats = sums / np.maximum(weights, np.float32(1e-6))
    if weights.size == 1:
        return means
    around = _spread(_halved(sums), _halved(weights))
    for axis, side in ((1, weights.shape[0]), (2, weights.shape[1])):
        first, second, share = neighbours(side, around.shape[axis])
        share = np.expand_dims(share, (0, 3 - axis))
        around = around.take(first, axis) * (1 - share) + around.take(second, axis) * share
    means -= around
    means *= np.minimum(4 * weights, 1)
    means += around
    return means


def _halved(planes: Floats) -> Floats:
    """Planes ``(…, h, w)`` at half the size, rounded up: means of four pixels, with 0 beyond the border."""
    height, width = planes.shape[-2:]
    even = np.zeros((*planes.shape[:-2], height + height % 2, width + width % 2), np.float32)
    even[..., :height, :width] = planes
    wide = even[..., ::2, :] + even[..., 1::2, :]
    halved: Floats = (wide[..., ::2] + wide[..., 1::2]) / np.float32(4)
    return halved
