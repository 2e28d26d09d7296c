"""Choosing the subject: which parts of a picture are cut, each by itself and finely, and how they join.

A segment model or the user says roughly where the subject is; a matte model looks at each chosen part at full
resolution, in a box with some surroundings. What lies outside the chosen parts stays out of the matte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from decoupe.arrays import Box, Floats, Mask
from decoupe.errors import InputError
from decoupe.inference.edits import CERTAIN, reach, soft_part
from decoupe.inference.regions import components, dilated
from decoupe.inference.segments import Segment

PADDING = 0.1
"""What the matte model sees around a part, on each side: a share of the longer side of its box."""


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a picture that is cut by itself.

    Attributes:
        box: what the matte model sees.
        inside: bool, of the box's size: where its matte may stand.
    """

    box: Box
    inside: Mask


def part_of_segment(segment: Segment, others: Iterable[Segment]) -> Part:
    """A segment with its surroundings.

    Its matte may stand in the segment and in a margin around it, but not in another thing: two dogs side by
    side are parted where the segments part.

    Args:
        segment: the chosen one.
        others: the segments that are not chosen.
    """
    longer = _longer(segment.box)
    margin = reach(segment.box)
    # The box holds the whole margin.
    box = padded(segment.box, max(margin, round(PADDING * longer)), segment.mask.shape)
    inside = dilated(crop(segment.mask, box), margin)
    for other in others:
        if other.thing:
            inside &= ~crop(other.mask, box)
    return Part(box, inside | crop(segment.mask, box))


def part_of_box(box: Box, size: tuple[int, ...]) -> Part:
    """A user's box with its surroundings; its matte may stand in the box only.

    Raises:
        InputError: a box that is empty, or not within a picture of ``size`` ``(height, width)``.
    """
    box = check_box(box, size)
    around = padded(box, round(PADDING * _longer(box)), size)
    inside = np.zeros(size, np.bool_)
    inside[box[1] : box[3], box[0] : box[2]] = True
    return Part(around, crop(inside, around))


def joined(parts: Sequence[Part], alphas: Sequence[Floats], size: tuple[int, ...]) -> Floats:
    """The parts' mattes as one of the whole picture, by soft union: 1 − Π(1 − alpha).

    Args:
        parts: where they are.
        alphas: the matte of each, float32, of its box's size.
        size: ``(height, width)`` of the picture.
    """
    rest = np.ones(size, np.float32)
    for part, alpha in zip(parts, alphas, strict=True):
        x0, y0, x1, y1 = part.box
        rest[y0:y1, x0:x1] *= 1 - alpha * part.inside
    whole: Floats = 1 - rest
    return whole


def under_point(alpha: Floats, point: tuple[int, int]) -> Floats:
    """The connected part of a matte ``(H, W)`` that holds the pixel ``point`` ``(x, y)``, with its soft edge.

    Parts are connected where alpha is at least `CERTAIN`.

    Raises:
        InputError: a point outside the picture, or where the matte has no subject.
    """
    x, y = check_point(point, alpha.shape)
    if alpha[y, x] < CERTAIN:
        raise InputError(
            f"at the point {x},{y} there is no subject (alpha {alpha[y, x]:.2f}): choose a point on it"
        )
    labels, _ = components(alpha >= CERTAIN)
    return soft_part(alpha, labels, int(labels[y, x]))


def chosen_segments(
    segments: Sequence[Segment],
    indices: Iterable[int],
    *,
    box: Box | None = None,
    point: tuple[int, int] | None = None,
) -> list[Segment]:
    """The segments of the classes ``indices``: mostly in the box and at the point, where these are given."""
    classes = set(indices)
    chosen = [segment for segment in segments if segment.index in classes]
    if box is not None:
        chosen = [segment for segment in chosen if 2 * crop(segment.mask, box).sum() > segment.area]
    if point is not None:
        x, y = point
        chosen = [segment for segment in chosen if segment.mask[y, x]]
    return chosen


def labels_of(what: str | Iterable[str]) -> list[str]:
    """The labels that a caller asks for.

    Raises:
        InputError: none, an empty one, or what is no text.
    """
    labels = [what] if isinstance(what, str) or not isinstance(what, Iterable) else list(what)
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise InputError(f"what is {labels}, expected one label or several: such as what='dog'")
    return labels


def check_box(box: Sequence[int], size: tuple[int, ...]) -> Box:
    """``box`` in plain integers.

    Raises:
        InputError: a box that is empty or leaves a picture of ``size`` ``(height, width)``.
    """
    height, width = size
    whole = _are_whole(box, 4)
    if not whole or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise InputError(
            f"box is {_shown(box)}, expected x0,y0,x1,y1 in whole pixels with x0 < x1 and y0 < y1, "
            f"inside the picture of {width}×{height}"
        )
    x0, y0, x1, y1 = (int(value) for value in box)
    return x0, y0, x1, y1


def check_point(point: Sequence[int], size: tuple[int, ...]) -> tuple[int, int]:
    """``point`` in plain integers.

    Raises:
        InputError: a point outside a picture of ``size`` ``(height, width)``.
    """
    height, width = size
    whole = _are_whole(point, 2)
    if not whole or not (0 <= point[0] < width and 0 <= point[1] < height):
        raise InputError(
            f"point is {_shown(point)}, expected x,y in whole pixels inside the picture of {width}×{height}"
        )
    x, y = (int(value) for value in point)
    return x, y


def padded(box: Box, padding: int, size: tuple[int, ...]) -> Box:
    """``box`` with ``padding`` pixels more on each side, within a picture of ``size`` ``(height, width)``."""
    x0, y0, x1, y1 = box
    return max(0, x0 - padding), max(0, y0 - padding), min(size[1], x1 + padding), min(size[0], y1 + padding)


def crop(mask: Mask, box: Box) -> Mask:
    """The part of ``mask`` in ``box``, a view."""
    x0, y0, x1, y1 = box
    return mask[y0:y1, x0:x1]


def _longer(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _are_whole(values: object, count: int) -> bool:
    """Whether ``values`` are ``count`` whole numbers."""
    return (
        isinstance(values, (Sequence, np.ndarray))
        and len(values) == count
        and all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in values)
    )


def _shown(values: object) -> str:
    if isinstance(values, str) or not isinstance(values, (Sequence, np.ndarray)):
        return str(values)
    return ",".join(map(str, values))
