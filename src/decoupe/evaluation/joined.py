"""Several reports as one table, the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decoupe.errors import InputError
from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    latex_rows,
    latex_title,
    markdown_rows,
    of_columns,
    rounded,
    text_rows,
    title_of,
)
from decoupe.evaluation.report import read_csv, read_summary
from decoupe.evaluation.scenes import COLUMNS as SCENES

MARKS = {
    "text": ("{}*", "{}"),
    "markdown": ("**{}**", "{}"),
    "latex": (r"\textbf{{{}}}", r"\underline{{{}}}"),
}
"""What the best and the second best of a column become in each form."""


class Row(NamedTuple):
    """A report.

    Attributes:
        label: of the row.
        pictures: that were scored.
        results: by column; what is not known is left out.
    """

    label: str
    pictures: int
    results: dict[str, float]


class Joined(NamedTuple):
    """Reports of one kind.

    Attributes:
        rows: in the order given.
        protocol: columns and digits; None of segments.
        columns: names.
        notes: what keeps the rows from being compared, one line each.
    """

    rows: list[Row]
    protocol: Protocol | None
    columns: tuple[str, ...]
    notes: list[str]

    def about(self) -> list[dict[str, Any]]:
        """The rows for programs, each as ``decoupe eval --table json`` prints it."""
        return [
            {
                "title": row.label,
                "pictures": row.pictures,
                "results": {name: row.results.get(name) for name in self.columns},
            }
            for row in self.rows
        ]

    def table(self, form: str) -> str:
        """The table as ``text``, ``markdown`` or ``latex``."""
        printed = [
            [self._printed(row.results.get(name), place) for place, name in enumerate(self.columns)]
            for row in self.rows
        ]
        best, second = MARKS[form]
        for place, name in enumerate(self.columns):
            lower = name in COLUMNS and COLUMNS[name].better == "lower"
            known = {row[place]: float(row[place]) for row in printed if row[place] != "–"}
            ranks = sorted(set(known.values()), reverse=not lower)
            for row in printed if len(self.rows) > 1 else ():
                if row[place] in known and (rank := ranks.index(known[row[place]])) < 2:
                    row[place] = (best, second)[rank].format(row[place])
            if form == "text":  # digits stay below digits
                width = max(map(len, (row[place] for row in printed)))
                for row in printed:
                    row[place] += " " * (not row[place].endswith("*") and len(row[place]) < width)
        titles = [""]
        for name in self.columns:
            if self.protocol is None:
                titles.append(name.replace("_", " "))
            else:
                titles.append(latex_title(name) if form == "latex" else title_of(name, long=form != "text"))
        cells = [[row.label, *figures] for row, figures in zip(self.rows, printed, strict=True)]
        return {"text": text_rows, "markdown": markdown_rows, "latex": latex_rows}[form](titles, cells)

    def _printed(self, value: float | None, place: int) -> str:
        value = math.nan if value is None else value
        if self.protocol is None:
            return rounded(100 * value, 1)
        return rounded(value, self.protocol.columns[place][1])


def join(reports: Sequence[tuple[str, Path]], protocol: Protocol | None = None) -> Joined:
    """Reports side by side.

    Args:
        reports: a label, or nothing for the report's title, and the folder that ``decoupe eval … -o`` wrote.
        protocol: columns to show; None shows those of the first report.

    Raises:
        InputError: a folder holds no report, the reports are of different kinds, or they share no column.
    """
    summaries = [read_summary(folder) for _, folder in reports]
    kinds = {_kind(summary): folder for summary, (_, folder) in zip(summaries, reports, strict=True)}
    if len(kinds) > 1:
        told = ", ".join(f"{folder} {kind}" for kind, folder in kinds.items())
        raise InputError(f"reports of different kinds are not comparable ({told}): score all alike")
    reading = summaries[0].get("reading")
    if reading is not None:
        columns = SCENES[reading]
    else:
        names = [name for name in summaries[0]["results"] if name in COLUMNS]
        same = (one for one in PROTOCOLS.values() if list(one.names) == names)
        protocol = protocol or next(same, None) or of_columns(names, stretch=summaries[0]["stretch"])
        columns = protocol.names
    rows = [
        Row(label or str(summary["title"]), int(summary["pictures"]), _known(summary["results"], columns))
        for summary, (label, _) in zip(summaries, reports, strict=True)
    ]
    if not any(row.results for row in rows):
        raise InputError(f"no report has any of {', '.join(columns)}: score with these measures")
    return Joined(rows, None if reading is not None else protocol, columns, _notes(rows, reports))


def _kind(summary: Mapping[str, Any]) -> str:
    if "reading" in summary:
        return f"is of {summary['reading']} segments"
    return "is of stretched mattes" if summary["stretch"] else "is of mattes as they are"


def _known(results: Mapping[str, float | None], columns: Sequence[str]) -> dict[str, float]:
    found = ((name, results.get(name)) for name in columns)
    return {name: value for name, value in found if value is not None and not math.isnan(value)}


def _notes(rows: Sequence[Row], reports: Sequence[tuple[str, Path]]) -> list[str]:
    """A line for each report that is not of the first one's pictures."""
    pictures = [_pictures(folder) or row.pictures for row, (_, folder) in zip(rows, reports, strict=True)]
    return [
        f"{row.label} was scored on {row.pictures} pictures that are not the {rows[0].pictures} of "
        f"{rows[0].label}: score both on the same"
        for row, own in zip(rows, pictures, strict=True)
        if own != pictures[0]
    ]


def _pictures(folder: Path) -> frozenset[str]:
    """The names of a report's pictures; none where it does not tell them."""
    try:
        return frozenset(row["name"] for row in read_csv(folder))
    except (OSError, ValueError, KeyError):
        return frozenset()
