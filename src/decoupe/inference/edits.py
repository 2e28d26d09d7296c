"""Changes of a matte that a user asks for: hard, its largest part, solid, larger or smaller, softer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from decoupe.arrays import Box, Floats, Mask
from decoupe.errors import InputError
from decoupe.inference.checks import check_number
from decoupe.inference.regions import components, dilated
from decoupe.inference.sampling import divided, on_threads, strips
from decoupe.readings import bounding_box

MARGIN = 0.03
"""How far a matte, as of hair, may reach beyond its sure part: a share of the longer side of its box."""

CERTAIN = 0.5
"""Alpha from which a pixel counts as the subject's where connected parts are told apart."""

FARTHEST = 1000
"""Most pixels by which a matte is grown, shrunk or feathered."""

_STRIP = 1 << 16  # pixels blurred at a time: what belongs to them fits a core's cache


@dataclass(frozen=True)
class Edits:
    """What is changed of a matte, in this order.

    Attributes:
        threshold: alpha from which a pixel is the subject, all others are not; None keeps it soft.
        keep_largest: keep the largest connected part alone, with its soft edge.
        fill_holes: make the subject solid: what it encloses belongs to it.
        grow: pixels by which it becomes larger on all sides; negative: smaller.
        feather: standard deviation of a Gaussian blur of alpha, in pixels.
        invert: cut the background instead.

    Raises:
        InputError: a threshold outside [0, 1], or pixels out of range.
    """

    threshold: float | None = None
    keep_largest: bool = False
    fill_holes: bool = False
    grow: int = 0
    feather: float = 0.0
    invert: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("threshold", self.threshold, "a number from 0 to 1", least=0, most=1)
        check_number("grow", self.grow, "whole pixels", whole=True)
        if abs(self.grow) > FARTHEST:
            raise InputError(f"grow is {self.grow}, expected at most {FARTHEST} pixels either way")
        check_number("feather", self.feather, f"pixels from 0 to {FARTHEST}", least=0, most=FARTHEST)


def edited(alpha: Floats, edits: Edits) -> Floats:
    """A matte ``(H, W)`` in [0, 1], changed."""
    if edits.threshold is not None:
        alpha = (alpha >= edits.threshold).astype(np.float32)
    if edits.keep_largest:
        alpha = largest_part(alpha)
    if edits.fill_holes:
        alpha = without_holes(alpha)
    if edits.grow:
        alpha = grown(alpha, edits.grow) if edits.grow > 0 else 1 - grown(1 - alpha, -edits.grow)
    if edits.feather:
        alpha = feathered(alpha, edits.feather)
    return 1 - alpha if edits.invert else alpha


def reach(box: Box) -> int:
    """How many pixels the soft edge of what fills a box ``(x0, y0, x1, y1)`` may reach beyond it."""
    x0, y0, x1, y1 = box
    return max(4, round(MARGIN * max(x1 - x0, y1 - y0)))


def soft_part(alpha: Floats, labels: npt.NDArray[np.int32], label: int) -> Floats:
    """One of the connected `components` of a matte's sure pixels, with its soft edge.

    Softer pixels stay within `MARGIN` of the part, and none of another part does.
    """
    chosen = labels == label
    inside = dilated(chosen, reach(bounding_box(chosen))) & ((labels == 0) | chosen)
    return np.where(inside, alpha, np.float32(0))


def largest_part(alpha: Floats) -> Floats:
    """The connected part of most pixels with alpha of at least `CERTAIN`; where there is none, all of it."""
    labels, count = components(alpha >= CERTAIN)
    if count == 0:
        return alpha
    return soft_part(alpha, labels, int(np.bincount(labels.ravel())[1:].argmax()) + 1)


def without_holes(alpha: Floats) -> Floats:
    """Alpha 1 wherever the subject encloses something, up to the hole's soft rim."""
    labels, count = components(alpha < CERTAIN)
    outside = np.zeros(count + 1, bool)
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[border] = True
    outside[0] = True  # the subject
    beyond = outside.take(labels)
    hole = ~beyond
    if not hole.any():
        return alpha
    beyond &= labels > 0
    solid = np.zeros(alpha.shape, bool)
    rims = _reaches(labels, count, hole)
    for rim in np.unique(rims[~outside]).tolist():  # each hole's own, those of one width together
        solid |= dilated(hole & (rims == rim).take(labels), rim) & ~dilated(beyond, rim)
    return np.where(solid, np.float32(1), np.maximum(alpha, hole))


def _reaches(labels: npt.NDArray[np.int32], count: int, chosen: Mask) -> npt.NDArray[np.int64]:
    """The `reach` of each of the labelled parts, ``(count + 1,)``; only that of chosen ones has a meaning."""
    flat = np.flatnonzero(chosen)
    owners, places = labels.take(flat), divided(flat, labels.shape[1])
    first, last = np.full((2, count + 1), max(labels.shape)), np.zeros((2, count + 1), np.int64)
    for axis in range(2):
        np.minimum.at(first[axis], owners, places[axis])
        np.maximum.at(last[axis], owners, places[axis] + 1)
    boxes = np.concatenate([first[::-1], last[::-1]]).T.tolist()
    return np.array([reach((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes])


def grown(alpha: Floats, pixels: int) -> Floats:
    """Each pixel as its greatest neighbour within ``pixels``: an octagon, which is nearly a disc."""
    # Of every five steps two are a king's at chess and three a rook's: the octagon is regular.
    king = sum(step % 5 in (1, 3) for step in range(pixels))
    square = _spread(_spread(alpha, king, 0), king, 1)
    return _spread(square, pixels - king, 0, 1)


def _spread(alpha: Floats, steps: int, *axes: int) -> Floats:
    """Each pixel as its greatest neighbour within so many steps along the axes."""
    done = 0
    while done < steps:
        # What is within a + b steps is within a of what is 0 or b away along an axis, if b is not above a.
        more = min(max(done, 1), steps - done)
        wider = alpha.copy()
        for axis in axes:
            old, new = alpha.swapaxes(0, axis), wider.swapaxes(0, axis)
            np.maximum(new[more:], old[:-more], out=new[more:])
            np.maximum(new[:-more], old[more:], out=new[:-more])
        alpha, done = wider, done + more
    return alpha


def feathered(alpha: Floats, deviation: float) -> Floats:
    """Alpha blurred by a Gaussian of this standard deviation in pixels; beyond the border it goes on.

    Three boxes of fractional width: Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by
    Extended Box Filtering", SSVM 2011.
    """
    variance = deviation**2 / 3
    radius = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance) / (6 * (variance - (radius + 1) ** 2))
    height, width = alpha.shape
    blurred = np.empty((height, width), np.float32)

    def across(rows: slice) -> None:
        blurred[rows] = _boxes(alpha[rows].T, radius, edge).T

    def down(columns: slice) -> None:
        blurred[:, columns] = _boxes(blurred[:, columns], radius, edge)

    on_threads(across, strips(height, width, _STRIP))
    on_threads(down, strips(width, height, _STRIP))
    return blurred.clip(0, 1, out=blurred)


def _boxes(plane: Floats, radius: int, edge: float) -> Floats:
    """Three times the means of windows of ``radius`` rows either way, and ``edge`` of one more."""
    for _ in range(3):
        plane = _box(plane, radius, edge)
    return plane


def _box(plane: Floats, radius: int, edge: float) -> Floats:
    far = radius + 1
    padded = np.pad(plane, ((far, far), (0, 0)), mode="edge")
    sums = np.concatenate([np.zeros((1, plane.shape[1])), padded.cumsum(axis=0, dtype=np.float64)])
    inner = sums[2 * radius + 2 : -1] - sums[1 : -2 * radius - 2]
    whole = inner + edge * (padded[: -2 * far] + padded[2 * far :])
    means: Floats = (whole / (2 * radius + 1 + 2 * edge)).astype(np.float32)
    return means
