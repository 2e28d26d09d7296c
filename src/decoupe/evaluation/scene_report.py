"""The report of segments: a folder with the numbers as CSV and JSON, and one page to look at.

scores.csv      one line for each picture; not of average precision, which ranks all pictures at once
classes.csv     one line for each class
scores.json     the results, and how they came about
index.html      all of it on one page that needs nothing else, with the worst and the best pictures
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from decoupe import __version__
from decoupe.evaluation.page import Page, Table
from decoupe.evaluation.pictures import contact_sheet
from decoupe.evaluation.published import Row
from decoupe.evaluation.report import encoded_csv, encoded_page, ends, write_files
from decoupe.evaluation.scenes import COLUMNS, Reading, SceneScores, class_rows

Pictures = Sequence[NDArray[np.uint8]]
"""What a sheet shows of a picture: photograph, truth, prediction, uint8 ``(H, W, 3)``."""


@dataclass(frozen=True)
class AboutScenes:
    """What a report says of itself.

    Attributes:
        title: what was scored.
        reading: how.
        settings: names and values, as the folders.
        beside: rows of the table from elsewhere.
    """

    title: str
    reading: Reading
    settings: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Row] = ()

    def cells(self, results: Mapping[str, float]) -> list[list[str]]:
        """The table: a row of what was scored, and one of each published result."""
        rows = [(self.title, results, ""), *self.beside]
        return [[label, *(percent(row.get(one)) for one in COLUMNS[self.reading])] for label, row, _ in rows]

    @property
    def sources(self) -> list[str]:
        """The sources of the rows from elsewhere, each once."""
        return list(dict.fromkeys(source for *_, source in self.beside))


def percent(value: float | None) -> str:
    """A share as the papers' tables print it."""
    return "–" if value is None else f"{100 * value:.1f}"


def write_scene_report(
    out: Path, scores: SceneScores, about: AboutScenes, look: Callable[[str], Pictures] | None
) -> None:
    """Write all files, each whole or not at all.

    Args:
        out: folder, made where it does not exist.
        scores: of the set.
        about: what was scored, and how.
        look: from a picture's name to what the sheets show of it; None for no sheets.

    Raises:
        OutputError: a file cannot be written.
    """
    columns = COLUMNS[about.reading]
    results, classes = scores.metric.result(), class_rows(scores, columns)
    summary = {
        "decoupe": __version__,
        "title": about.title,
        "settings": dict(about.settings),
        "reading": about.reading,
        "pictures": len(scores.names),
        "results": results,
        "classes": classes,
        "problems": scores.problems,
        "notes": scores.notes,
    }
    contents = {
        "scores.json": json.dumps(summary, indent=1).encode(),  # first, as in `write_report`
        "classes.csv": encoded_csv("class", list(next(iter(classes.values()))), classes),
        "index.html": encoded_page(_page(scores, about, results, classes, look)),
    }
    if scores.values:
        contents["scores.csv"] = encoded_csv("name", columns, scores.values)
    write_files(out, contents)


def _page(
    scores: SceneScores,
    about: AboutScenes,
    results: Mapping[str, float],
    classes: Mapping[str, Mapping[str, float]],
    look: Callable[[str], Pictures] | None,
) -> Page:
    """What ``index.html`` shows."""
    columns, of_classes = COLUMNS[about.reading], list(next(iter(classes.values())))
    listed = [
        [name, *(str(row[one]) if isinstance(row[one], int) else percent(row[one]) for one in of_classes)]
        for name, row in classes.items()
    ]
    return Page(
        title=about.title,
        settings={
            **about.settings,
            "pictures": str(len(scores.names)),
            "reading": about.reading,
            "decoupe": __version__,
        },
        tables=[
            Table("Scores, %", ["", *columns], about.cells(results)),
            Table("Classes, the lowest first", ["", *of_classes], listed),
        ],
        sheets=[] if look is None else _sheets(scores, columns[0], look),
        sources=about.sources,
        told=[*scores.notes, *scores.problems],
    )


def _sheets(
    scores: SceneScores, column: str, look: Callable[[str], Pictures]
) -> list[tuple[str, str, Image.Image]]:
    """The worst pictures and the best, with their headings."""
    scored = {name: row[column] for name, row in scores.values.items() if column in row}
    sheets = []
    for heading, names in zip(("Worst", "Best"), ends(sorted(scored, key=scored.__getitem__)), strict=True):
        if names:
            captions = [f"{name}: {column} {percent(scored[name])}" for name in names]
            sheet = contact_sheet([look(name) for name in names], captions=captions)
            sheets.append((f"{heading} by {column}", "Photograph, truth, prediction.", sheet))
    return sheets
