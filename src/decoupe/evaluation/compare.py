"""Two evaluations of the same pictures side by side, with an interval that tells chance from difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from decoupe.errors import InputError
from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.report import read_report

RESAMPLES = 9999


@dataclass(frozen=True)
class Difference:
    """One column of two evaluations.

    Attributes:
        column: its name.
        first: of all pictures that both have.
        second: the same.
        interval: 95 % of the mean difference, second less first, by a paired bootstrap over pictures
            (Efron and Tibshirani 1993, chapter 13: percentiles).
        wins: share of pictures of which the second is better; those that are equal count half.
    """

    column: str
    first: float
    second: float
    interval: tuple[float, float]
    wins: float

    @property
    def verdict(self) -> str:
        """Which is better, where the interval excludes 0."""
        least, most = self.interval
        if not (least > 0 or most < 0):  # nor where there is no number
            return "no difference shown"
        second = (least > 0) == (COLUMNS[self.column].better == "higher")
        return "B better" if second else "A better"


@dataclass(frozen=True)
class Comparison:
    """Two evaluations.

    Attributes:
        titles: of the two.
        count: pictures that both have.
        alone: pictures that one has and the other has not.
        differences: by column.
    """

    titles: tuple[str, str]
    count: int
    alone: tuple[int, int]
    differences: list[Difference]

    @property
    def notes(self) -> list[str]:
        """What a user should know who holds these numbers against the reports'."""
        maximal = [one.column for one in self.differences if one.column in ("maxF", "maxE")]
        if not maximal:
            return []
        titles = " and ".join(COLUMNS[name].title for name in maximal)
        return [
            f"{titles}: here the mean of each picture's maximum, in reports the mean curve's, which is less"
        ]

    def about(self) -> dict[str, Any]:
        """All of it for programs; numbers that there are not are None."""

        def known(number: float) -> float | None:
            return None if math.isnan(number) else number

        measures = {
            one.column: {
                "a": known(one.first),
                "b": known(one.second),
                "interval": [known(number) for number in one.interval],
                "b_better_in": known(one.wins),
                "verdict": one.verdict,
            }
            for one in self.differences
        }
        return {"a": self.titles[0], "b": self.titles[1], "pictures": self.count, "measures": measures}


def compare(first: Path, second: Path, *, seed: int = 0) -> Comparison:
    """Compare two reports over the pictures that both have.

    Every number is a mean over pictures; of the maximal F and E, of each picture's own maximum.

    Args:
        first: folder that ``decoupe eval … -o`` wrote.
        second: another.
        seed: of the bootstrap.

    Raises:
        InputError: a folder holds no report, both are the same, they share no pictures or no columns, or one
            was scored with stretched predictions and the other without.
    """
    (one, rows), (other, other_rows) = read_report(first), read_report(second)
    if first.resolve() == second.resolve():
        raise InputError(f"{first} is given twice: give two reports")
    if one["stretch"] != other["stretch"]:
        raise InputError("one report stretched its predictions and the other did not: score both alike")
    shared = [name for name in rows if name in other_rows]
    if not shared:
        raise InputError(f"{first} and {second} have no picture in common: score the same set twice")
    columns = [name for name in rows[shared[0]] if name in other_rows[shared[0]] and name in COLUMNS]
    if not columns:
        raise InputError(f"{first} and {second} have no column in common: score both by one protocol")
    return Comparison(
        (one["title"], other["title"]),
        len(shared),
        (len(rows) - len(shared), len(other_rows) - len(shared)),
        [
            difference(
                column,
                np.array([rows[name][column] for name in shared]),
                np.array([other_rows[name][column] for name in shared]),
                seed=seed,
            )
            for column in columns
        ],
    )


def difference(column: str, first: np.ndarray, second: np.ndarray, *, seed: int) -> Difference:
    """One column of two evaluations, picture by picture; pictures without such a number do not count."""
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    if not len(first):
        return Difference(column, np.nan, np.nan, (np.nan, np.nan), np.nan)
    gains = second - first
    interval = (float(gains[0]), float(gains[0]))
    if len(gains) > 1 and np.ptp(gains) > 0:
        found = bootstrap(
            (gains,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=500, rng=seed
        ).confidence_interval
        interval = (float(found.low), float(found.high))
    better = gains if COLUMNS[column].better == "higher" else -gains
    wins = float((better > 0).mean() + (better == 0).mean() / 2)
    return Difference(column, float(first.mean()), float(second.mean()), interval, wins)
