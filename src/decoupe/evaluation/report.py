"""The report of an evaluation: a folder with the numbers as CSV and JSON, and one page to look at.

scores.csv      one line for each picture
scores.json     the results, how they came about, the mean curves
worst.png       the pictures with the lowest scores: photograph, truth, prediction, difference
best.png        those with the highest
index.html      all of it on one page that needs nothing else, neither files nor network
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from decoupe import __version__
from decoupe.errors import InputError, OutputError
from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.page import Page, Table, render
from decoupe.evaluation.pictures import Array, contact_sheet
from decoupe.evaluation.plots import histogram, precision_recall_plot, ranked_by, threshold_plot
from decoupe.evaluation.protocols import Protocol, arrow, cells
from decoupe.evaluation.published import Row
from decoupe.evaluation.run import Evaluation
from decoupe.inference.media import encode, replacing

SHOWN = 8
"""Pictures on each of the two sheets."""
TOO_MUCH, TOO_LITTLE = (214, 40, 57), (40, 98, 214)
FILES = ("scores.csv", "classes.csv", "scores.json", "worst.png", "best.png", "index.html")
"""What reports consist of, those of mattes and those of segments."""


class Look(NamedTuple):
    """What a sheet shows of a picture, uint8: the photograph ``(H, W, 3)`` where there is one, two mattes."""

    photograph: Array | None
    truth: Array
    prediction: Array


@dataclass(frozen=True)
class About:
    """What a report says of itself.

    Attributes:
        title: what was scored.
        protocol: its columns and rules.
        settings: names and values, as the folders.
        beside: rows of the table from elsewhere: label, scores, source.
    """

    title: str
    protocol: Protocol
    settings: dict[str, str] = field(default_factory=dict)
    beside: Sequence[Row] = ()


def check_folder(out: Path) -> None:
    """Raise OutputError where a report would take the place of other files."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: name a folder for the report")
    if out.is_dir() and (others := sorted(path.name for path in out.iterdir() if path.name not in FILES)):
        raise OutputError(f"{out} holds {others[0]}, which is not part of a report: name a folder of its own")
    if (stands := [name for name in FILES if (out / name).exists()]) and not _holds_report(out):
        raise OutputError(f"{out} holds a {stands[0]} that is not a report's: name a folder of its own")


def _holds_report(folder: Path) -> bool:
    """Whether the files of a report's names in a folder are a report's."""
    try:
        summary = json.loads((folder / "scores.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and {"decoupe", "title", "results"} <= summary.keys()


def write_report(out: Path, evaluation: Evaluation, about: About, look: Callable[[str], Look]) -> None:
    """Write all files, each whole or not at all.

    Args:
        out: folder, made where it does not exist.
        evaluation: the scores.
        about: what was scored, and how.
        look: from a picture's name to what the sheets show of it.

    Raises:
        OutputError: a file cannot be written.
    """
    results, columns = evaluation.scores.result(), evaluation.scores.values
    # Of each picture's own; the maximum of a curve is that of the picture's.
    listed = zip(evaluation.names, *columns.values(), strict=True)
    rows = {name: dict(zip(columns, numbers, strict=True)) for name, *numbers in listed}
    column = ranked_by(about.protocol)
    worst, best = (sheet(evaluation, names, column, look) for names in ends(ranked(evaluation, column)))
    write_files(
        out,
        {
            # First, since by this file a report is known: one that was broken off can be written again.
            "scores.json": json.dumps(_summary(evaluation, about, results), indent=1).encode(),
            "scores.csv": encoded_csv("name", list(columns), rows),
            "worst.png": encode(worst),
            "best.png": encode(best),
            "index.html": encoded_page(_page(evaluation, about, results, worst, best)),
        },
    )


def write_files(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, which is made where it does not exist, each whole or not at all."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out} ({error.strerror}): name another") from error
    for name, content in contents.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(content)


def _page(
    evaluation: Evaluation, about: About, results: dict[str, float], worst: Image.Image, best: Image.Image
) -> Page:
    """What ``index.html`` shows."""
    columns, column = about.protocol.columns, ranked_by(about.protocol)
    rows = cells(columns, {about.title: results, **{label: row for label, row, _ in about.beside}})
    drawn = {
        "Precision and recall": precision_recall_plot(evaluation),
        "F and E over thresholds": threshold_plot(evaluation),
        f"{COLUMNS[column].title} of the pictures": histogram(evaluation, about.protocol),
    }
    shows = "Photograph if known, truth, prediction, difference: red is too much, blue too little."
    sheets = ((f"Worst by {COLUMNS[column].title}", worst), (f"Best by {COLUMNS[column].title}", best))
    return Page(
        title=about.title,
        settings={
            **about.settings,
            "pictures": str(len(evaluation.names)),
            "protocol": about.protocol.about,
            "values": "stretched to [0, 1]" if evaluation.scores.stretch else "as they are",
            "decoupe": __version__,
        },
        tables=[Table("Scores", ["", *(f"{COLUMNS[n].title} {arrow(n)}" for n, _ in columns)], rows)],
        sources=list(dict.fromkeys(source for *_, source in about.beside)),
        figures=[(caption, svg) for caption, svg in drawn.items() if svg],
        sheets=[(heading, shows, one) for heading, one in sheets if one.width > 8],  # one picture has no best
        told=[*evaluation.notes, *evaluation.problems],
    )


def ranked(evaluation: Evaluation, column: str) -> list[str]:
    """Names of the pictures that have such a number, the worst first."""
    sign = 1 if COLUMNS[column].better == "higher" else -1
    values = zip(evaluation.names, evaluation.scores.values[column], strict=True)
    known = [(name, sign * value) for name, value in values if not np.isnan(value)]
    return [name for name, _ in sorted(known, key=itemgetter(1))]


def ends(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The worst of ``names``, which are in this order, and the best, best first; none is in both."""
    half = min(SHOWN, (len(names) + 1) // 2)
    return names[:half], names[half:][::-1][:SHOWN]


def sheet(
    evaluation: Evaluation, names: Sequence[str], column: str, look: Callable[[str], Look]
) -> Image.Image:
    """A row for each picture: photograph, truth, prediction, and where they differ."""
    rows, captions = [], []
    for name in names:
        shown = look(name)
        pictures = [shown.truth, shown.prediction, difference(shown.prediction, shown.truth)]
        rows.append(([shown.photograph] if shown.photograph is not None else []) + pictures)
        value = evaluation.scores.values[column][evaluation.names.index(name)]
        captions.append(f"{name}: {COLUMNS[column].title} {value:.3f}")
    return contact_sheet(rows, captions=captions)


def difference(prediction: Array, truth: Array) -> Array:
    """Red where a prediction ``(H, W)`` has too much, blue where too little, on white."""
    error = (prediction.astype(np.float32) - truth)[..., None] / 255
    colours = np.where(error > 0, np.array(TOO_MUCH), np.array(TOO_LITTLE))
    mixed: Array = (255 - np.abs(error) * (255 - colours)).astype(np.uint8)
    return mixed


def encoded_page(page: Page) -> bytes:
    """``index.html``; of names that are not UTF-8 on disk, question marks for what cannot be shown."""
    return render(page).encode(errors="replace")


def encoded_csv(first: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> bytes:
    """One line for each row, by its name under ``first``; a number that is not there is left empty.

    Names that are not UTF-8 keep the bytes that they have on disk.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([first, *columns])
    for name, row in rows.items():
        writer.writerow([name, *(f"{row[column]:.6g}" if column in row else "" for column in columns)])
    return text.getvalue().encode(errors="surrogateescape")


def read_csv(folder: Path) -> list[dict[str, str]]:
    """The lines of a report's ``scores.csv``."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def _summary(evaluation: Evaluation, about: About, results: dict[str, float]) -> dict[str, Any]:
    """What ``scores.json`` holds."""
    count = len(evaluation.names)
    return {
        "decoupe": __version__,
        "title": about.title,
        "settings": about.settings,
        "stretch": evaluation.scores.stretch,
        "pictures": count,
        "results": {name: None if np.isnan(value) else value for name, value in results.items()},
        "problems": evaluation.problems,
        "notes": evaluation.notes,
        "curves": {
            name: [round(float(value), 6) for value in total / count]
            for name, total in evaluation.scores.curves.items()
        },
    }


def read_report(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What `write_report` wrote: the summary, and each picture's scores by name.

    Raises:
        InputError: the folder holds no report, or one of segments.
    """
    summary = read_summary(folder)
    if "reading" in summary:
        raise InputError(f"{folder} is a report of segments: only those of mattes are compared")
    try:
        rows = {row.pop("name"): {k: float(v) for k, v in row.items()} for row in read_csv(folder)}
        return summary, rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_report(folder, error) from error


def read_summary(folder: Path) -> dict[str, Any]:
    """What ``scores.json`` of a report of mattes or of segments holds.

    Raises:
        InputError: the folder holds no report.
    """
    try:
        summary = json.loads((folder / "scores.json").read_bytes())
        required = ("title", "pictures", "reading" if "reading" in summary else "stretch")
        return {**summary, "results": dict(summary["results"]), **{key: summary[key] for key in required}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_report(folder, error) from error


def _no_report(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder} holds no report: expected what decoupe eval … -o {folder} writes ({error})")
