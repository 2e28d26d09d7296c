"""What the queries of a mask classifier say about one picture: three readings, in NumPy alone.

Cheng, Schwing and Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation",
NeurIPS 2021, section 3.4 and appendix A ("the paper" below). A mask classifier gives for each of Q queries a
distribution over K classes and "no object", and one mask at a quarter of the network's size. Everything is
read at the size that the caller names, tile by tile, so that memory stays bounded on large photographs; of a
tile only those maps are enlarged whose values can matter there, which most of the time is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Box, Floats, Indices, Mask
from decoupe.errors import InputError

_TILE = 256  # side in pixels of what is enlarged at a time


class Reading(NamedTuple):
    """One segment of a picture, before its class has a name.

    Attributes:
        label: index of the class.
        score: how sure the model is, in [0, 1].
        mask: bool ``(H, W)``.
    """

    label: int
    score: float
    mask: Any  # an array here; the torch functions of decoupe.models.maskformer put a tensor in its place

    @property
    def box(self) -> Box:
        """The smallest ``(x0, y0, x1, y1)`` in pixels that holds the mask; x1 and y1 are just outside."""
        return bounding_box(np.asarray(self.mask))


def bounding_box(mask: Mask) -> Box:
    """The smallest ``(x0, y0, x1, y1)`` around the true pixels of ``mask``; zeros where there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def semantic(class_logits: Floats, mask_logits: Floats, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The likeliest class of every pixel (the paper's section 3.4, "semantic inference").

    Args:
        class_logits: ``(Q, K + 1)``, the last is "no object".
        mask_logits: ``(Q, h, w)``.
        size: ``(H, W)`` to read at.

    Returns:
        Class indices ``(H, W)``.

    Raises:
        InputError: logits that are not of one picture's queries.
    """
    _check(class_logits, mask_logits, size)
    if len(mask_logits) == 0:
        raise InputError("there are no queries, expected at least one: nothing says what a pixel is")
    classes = softmax(class_logits)[:, :-1]  # (Q, K)
    # Resizing commutes with the sum over queries, so K maps are resized, not Q for each of them.
    maps = np.tensordot(classes.T, sigmoid(mask_logits), axes=1)  # (K, h, w)
    labels = np.empty(size, np.int64)
    for tile in _tiles(maps, size):
        contenders = np.flatnonzero(tile.most >= tile.least.max())
        labels[tile.place] = contenders[0]
        if len(contenders) > 1:
            labels[tile.place] = contenders[tile.enlarged(contenders).argmax(axis=0)]
    return labels


def instances(
    class_logits: Floats,
    mask_logits: Floats,
    size: tuple[int, int],
    score: float = 0.5,
    *,
    smooth: bool = False,
) -> list[Reading]:
    """Objects, each for itself; they may overlap (the paper's appendix A, "instance segmentation").

    The Q likeliest pairs of a query and a class; a pair's score is the class's probability times the mean
    probability of the mask inside itself.

    Args:
        class_logits: ``(Q, K + 1)``, the last is "no object".
        mask_logits: ``(Q, h, w)``.
        size: ``(H, W)`` to read at.
        score: least score of an object.
        smooth: interpolate masks before they are cut at one half. The reference enlarges them afterwards, in
            steps of a whole cell, which is the default.

    Returns:
        Objects, the best score first, none with an empty mask.

    Raises:
        InputError: logits that are not of one picture's queries.
    """
    _check(class_logits, mask_logits, size)
    classes = softmax(class_logits)[:, :-1]  # (Q, K)
    queries, kinds = classes.shape
    likeliest = np.argsort(-classes, axis=None, kind="stable")[:queries]
    probabilities = sigmoid(mask_logits)
    found = []
    for query, label in zip(*np.divmod(likeliest, kinds), strict=True):
        inside = mask_logits[query] > 0
        certainty = probabilities[query][inside].sum() / (inside.sum() + 1e-6)
        whole = float(classes[query, label] * certainty)
        if not inside.any() or whole < score:
            continue
        if smooth:
            mask = _above_zero(mask_logits[query], size)
        else:
            mask = inside[np.ix_(*map(_nearest, size, inside.shape))]
        if mask.any():
            found.append(Reading(int(label), whole, mask))
    return sorted(found, key=lambda reading: -reading.score)


def panoptic(
    class_logits: Floats,
    mask_logits: Floats,
    size: tuple[int, int],
    score: float = 0.8,
    mask: float = 0.5,
    overlap: float = 0.8,
    fuse: Sequence[int] = (),
    *,
    void: float = 0.0,
) -> list[Reading]:
    """Every pixel to at most one segment (the paper's section 3.4, "general inference").

    Each pixel goes to the query whose class probability times mask probability is largest; a query that
    keeps too little of its own mask is dropped.

    Args:
        class_logits: ``(Q, K + 1)``, the last is "no object".
        mask_logits: ``(Q, h, w)``.
        size: ``(H, W)`` to read at.
        score: a query counts when its likeliest class has more than this probability.
        mask: a query's own mask is where its score times its mask probability reaches this.
        overlap: least part of its own mask that a query must win to be a segment.
        fuse: classes of which all segments are one, as those of "stuff" such as sky are.
        void: pixels at which the winner's own mask probability is below this belong to no segment. Zero, the
            reference's, gives each pixel to some segment, however far from it.

    Returns:
        Segments that share no pixel, in the order of their queries; a fused one stands where its first does,
        with the best of their scores.

    Raises:
        InputError: logits that are not of one picture's queries.
    """
    _check(class_logits, mask_logits, size)
    probabilities = softmax(class_logits)
    labels, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    kept = np.flatnonzero((labels != probabilities.shape[1] - 1) & (scores > score))
    if len(kept) == 0:
        return []
    weighed = sigmoid(mask_logits[kept]) * scores[kept, None, None]
    owner = np.empty(size, np.min_scalar_type(len(kept)))  # of queries: read once for each of them
    sure = np.empty(size, np.bool_)
    own_areas = np.zeros(len(kept), np.int64)
    for tile in _tiles(weighed, size):
        contenders = np.flatnonzero(tile.most >= tile.least.max())
        rivals = tile.enlarged(contenders)  # (contenders, rows, columns)
        owner[tile.place] = contenders[rivals.argmax(axis=0)]
        best = rivals.max(axis=0)
        sure[tile.place] = best >= void * scores[kept][owner[tile.place]]
        own_areas += (tile.least >= mask) * best.size
        for partly in np.flatnonzero((tile.most >= mask) & (tile.least < mask)):
            own_areas[partly] += np.count_nonzero(tile.enlarged(partly) >= mask)
    segments: dict[int, Reading] = {}
    for place, query in enumerate(kept):
        won = owner == place
        area = won.sum()
        if area == 0 or own_areas[place] == 0 or area / own_areas[place] <= overlap:
            continue
        won &= sure
        if not won.any():
            continue
        label, certainty = int(labels[query]), float(scores[query])
        fused = label in fuse
        key = -1 - label if fused else place
        if key in segments:
            first = segments[key]
            won, certainty = first.mask | won, max(first.score, certainty)
        segments[key] = Reading(label, certainty, won)
    return list(segments.values())


def softmax(logits: Floats) -> Floats:
    """Probabilities ``(Q, K)`` of logits ``(Q, K)``."""
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of logits of any shape."""
    with np.errstate(over="ignore"):
        probabilities: Floats = np.reciprocal(1 + np.exp(-logits))
    return probabilities


def _check(class_logits: Floats, mask_logits: Floats, size: tuple[int, int]) -> None:
    fits = class_logits.ndim == 2 and mask_logits.ndim == 3 and len(class_logits) == len(mask_logits)
    if not fits or class_logits.shape[1] < 2 or 0 in mask_logits.shape[1:]:
        raise InputError(
            f"class logits are {class_logits.shape}, mask logits {mask_logits.shape}; "
            "expected (Q, K + 1) and (Q, h, w) of one picture"
        )
    if not (np.isfinite(class_logits).all() and np.isfinite(mask_logits).all()):
        raise InputError("the logits hold NaN or infinity: compute them in float32")
    if not isinstance(size, Sequence) or len(size) != 2 or not all(map(_is_side, size)):
        raise InputError(f"size is {size}, expected (height, width) in pixels")


def _is_side(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and bool(value >= 1)


class _Tile(NamedTuple):
    """A part of maps that are to be enlarged.

    Attributes:
        place: its rows and columns at full size.
        window: the cells ``(C, h, w)`` that it is interpolated from.
        least: the smallest value of each map there, ``(C,)``.
        most: the largest.
        across: matrix ``(w, columns)`` that interpolates along the width.
        down: matrix ``(rows, h)`` that interpolates along the height.
    """

    place: tuple[slice, slice]
    window: Floats
    least: Floats
    most: Floats
    across: Floats
    down: Floats

    def enlarged(self, maps: Indices | int) -> Floats:
        """The maps of these indices at full size, ``(…, rows, columns)``."""
        values: Floats = np.matmul(self.down @ self.window[maps], self.across, dtype=self.window.dtype)
        return values


def _tiles(maps: Floats, size: tuple[int, int]) -> Iterator[_Tile]:
    """Maps ``(C, h, w)``, to be bilinearly enlarged to ``size``, tile by tile.

    Cells are aligned at their centres and edges are held, as torch does with ``align_corners=False``.
    """
    sides = [list(_strips(fine, coarse)) for fine, coarse in zip(size, maps.shape[1:], strict=True)]
    for rows, cells_down, down in sides[0]:
        for columns, cells_across, across in sides[1]:
            window = maps[:, cells_down, cells_across]
            least, most = window.min(axis=(1, 2)), window.max(axis=(1, 2))
            yield _Tile((rows, columns), window, least, most, across.T, down)


def _strips(fine: int, coarse: int) -> Iterator[tuple[slice, slice, Floats]]:
    """One side in strips: their pixels, the cells they lie among, and weights ``(pixels, cells)``."""
    first, second, weight = neighbours(fine, coarse)
    for start in range(0, fine, _TILE):
        pixels = slice(start, min(start + _TILE, fine))
        cells = slice(int(first[pixels][0]), int(second[pixels][-1]) + 1)
        count = len(first[pixels])
        weights = np.zeros((count, cells.stop - cells.start), np.float32)
        weights[np.arange(count), second[pixels] - cells.start] = weight[pixels]
        weights[np.arange(count), first[pixels] - cells.start] += 1 - weight[pixels]
        yield pixels, cells, weights


def _above_zero(logits: Floats, size: tuple[int, int]) -> Mask:
    """Where one map ``(h, w)``, enlarged to ``size``, is above zero."""
    mask = np.empty(size, np.bool_)
    for tile in _tiles(logits[np.newaxis], size):
        mask[tile.place] = tile.least[0] > 0
        if tile.most[0] > 0 >= tile.least[0]:
            mask[tile.place] = tile.enlarged(0) > 0
    return mask


def neighbours(fine: int, coarse: int) -> tuple[Indices, Indices, Floats]:
    """For each of ``fine`` places: the two nearest of ``coarse``, and the weight of the second."""
    exact = ((np.arange(fine) + 0.5) * (coarse / fine) - 0.5).clip(0, coarse - 1)
    first = exact.astype(np.intp)
    return first, np.minimum(first + 1, coarse - 1), (exact - first).astype(np.float32)


def _nearest(fine: int, coarse: int) -> Indices:
    """For each of ``fine`` places the one of ``coarse`` that torch's ``"nearest"`` takes: its float32."""
    places = np.arange(fine, dtype=np.float32) * np.float32(coarse / fine)
    return np.minimum(places.astype(np.intp), coarse - 1)
