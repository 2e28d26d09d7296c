"""Scores of mattes and saliency maps, entered picture by picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from decoupe.errors import InputError, unknown
from decoupe.evaluation.measures import COLUMNS, Array, Column, Pair

SOFT = 2.0
"""Width in pixels from which outlines are soft: those of hard masks, smoothed as they were drawn or resized,
have 1.5 at most."""


class Scores(NamedTuple):
    """What one picture scores.

    Attributes:
        values: its numbers by column; of a curve's column, the summary of its own curve.
        curves: by name, 256 numbers each.
    """

    values: dict[str, float]
    curves: dict[str, Array]


def score(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    columns: Sequence[str] = tuple(COLUMNS),
    *,
    stretch: bool = False,
) -> Scores:
    """The scores of one picture.

    Args:
        prediction: alpha ``(H, W)``: floats in [0, 1], uint8, uint16 or bool.
        truth: the same.
        columns: names in `COLUMNS`.
        stretch: stretch the prediction to fill [0, 1] first; the errors of mattes take it as it is.

    Raises:
        InputError: sizes that differ, values outside [0, 1], or an unknown column.
    """
    pair = Pair(prediction, truth, stretch=stretch)
    wanted = [_column(name) for name in columns]
    numbers: dict[str, Any] = {}
    for measure in dict.fromkeys(column.measure for column in wanted):
        numbers |= measure(pair)
    curves = {name: value for name, value in numbers.items() if isinstance(value, np.ndarray)}
    values = {
        name: column.of(curves[column.curve]) if column.curve else float(numbers[name])
        for name, column in zip(columns, wanted, strict=True)
    }
    return Scores(values, curves)


class MatteScores:
    """Means over pictures; the maximal and mean F and E are those of the mean curve, as published.

    Args:
        columns: names in `COLUMNS`.
        stretch: see `score`.

    Attributes:
        values: of each picture in the order they were entered, by column.
        curves: sums over pictures, by name.
    """

    def __init__(self, columns: Sequence[str] = ("S", "MAE", "maxF", "wF"), *, stretch: bool = False) -> None:
        self.columns, self.stretch = tuple(columns), stretch
        self.values: dict[str, list[float]] = {name: [] for name in columns if _column(name)}
        self.curves: dict[str, Array] = {}

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Enter one picture; see `score`."""
        self.add(score(prediction, truth, self.columns, stretch=self.stretch))

    def add(self, scores: Scores) -> None:
        """Enter what one picture scores."""
        for name, values in self.values.items():
            values.append(scores.values[name])
        self._add_curves(scores.curves)

    def merge(self, other: MatteScores) -> None:
        """Enter what another process has seen.

        Raises:
            InputError: it was scored by other columns, or by another rule.
        """
        (own, rule), (others, other_rule) = self._scored_as(), other._scored_as()
        if (own, rule) != (others, other_rule):
            raise InputError(
                f"scores of {own} of {rule} do not merge with those of {others} of {other_rule}: "
                "score all pictures alike"
            )
        for name, values in other.values.items():
            self.values[name] += values
        self._add_curves(other.curves)

    def _scored_as(self) -> tuple[str, str]:
        """Columns and rule, as messages name them."""
        return ", ".join(self.columns), "stretched mattes" if self.stretch else "mattes as they are"

    def _add_curves(self, curves: Mapping[str, Array]) -> None:
        for name, curve in curves.items():
            self.curves[name] = self.curves.get(name, 0) + curve

    def result(self) -> dict[str, float]:
        """The columns over the pictures so far; where a picture has no such number, over the others.

        Raises:
            InputError: there were none.
        """
        count = len(next(iter(self.values.values()), ()))
        if not count:
            raise InputError("nothing to score: give at least one picture")
        results = {}
        for name, values in self.values.items():
            column = COLUMNS[name]
            numbers = [value for value in values if not math.isnan(value)]
            mean = math.fsum(numbers) / len(numbers) if numbers else math.nan
            results[name] = column.of(self.curves[column.curve] / count) if column.curve else mean
        return results


def are_soft(truths: Iterable[NDArray[np.uint8]]) -> bool:
    """Whether truths, uint8 ``(H, W)`` each, are mattes with outlines as wide as those of hair are."""
    between = outline = 0
    for truth in truths:
        subject = truth >= 128
        between += int(np.count_nonzero((truth > 25) & (truth < 230)))  # JPEG's noise is nearer to the ends
        outline += sum(int(np.count_nonzero(np.diff(subject, axis=axis))) for axis in (0, 1))
    return between > SOFT * outline


def _column(name: str) -> Column:
    if name not in COLUMNS:
        raise InputError(unknown("measure", name, COLUMNS))
    return COLUMNS[name]
