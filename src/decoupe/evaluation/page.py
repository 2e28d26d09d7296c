"""The page of an evaluation: table, curves and pictures in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from decoupe import __version__
from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.protocols import Protocol, arrow, rounded
from decoupe.evaluation.run import Evaluation
from decoupe.inference.media import encode


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
    beside: Sequence[tuple[str, dict[str, float], str]] = ()


def ranked_by(protocol: Protocol) -> str:
    """The column that decides which pictures are worst and best."""
    return "S" if "S" in protocol.names else protocol.names[0]


def precision_recall_plot(evaluation: Evaluation) -> str | None:
    """Mean precision over mean recall, as SVG; None where they were not measured."""
    curves, count = evaluation.scores.curves, len(evaluation.names)
    if "precision" not in curves:
        return None
    precision, recall = curves["precision"] / count, curves["recall"] / count

    def draw(axes: Any) -> None:
        axes.plot(recall, precision, color="#1f6f54", linewidth=1.8)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))

    return _svg(draw)


def threshold_plot(evaluation: Evaluation) -> str | None:
    """The mean F and E curves over the threshold, as SVG; None where neither was measured."""
    curves, count = evaluation.scores.curves, len(evaluation.names)
    known = [name for name in ("F", "E") if name in curves]
    if not known:
        return None

    def draw(axes: Any) -> None:
        for name, colour in zip(known, ("#1f6f54", "#c4652a"), strict=False):
            axes.plot(np.arange(255, -1, -1), curves[name] / count, color=colour, linewidth=1.8, label=name)
        axes.set(xlabel="threshold", xlim=(0, 255), ylim=(0, 1.02))
        axes.legend(frameon=False)

    return _svg(draw)


def histogram(evaluation: Evaluation, about: About) -> str | None:
    """How the pictures' scores are spread, as SVG."""
    column = ranked_by(about.protocol)
    values = [value for value in evaluation.scores.values[column] if not np.isnan(value)]
    if not values:
        return None

    def draw(axes: Any) -> None:
        span = (0, 1) if COLUMNS[column].better == "higher" else (0, max(values) or 1)
        axes.hist(values, bins=25, range=span, color="#1f6f54", rwidth=0.92)
        axes.set(xlabel=COLUMNS[column].title, ylabel="pictures", xlim=span)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return _svg(draw)


def _svg(draw: Callable[[Any], None]) -> str:
    """A figure as SVG, text as text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "decoupe", "font.size": 10}):
        figure = Figure(figsize=(4.6, 3.3), layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


STYLE = """
:root { color-scheme: light dark; --ink: #17211d; --paper: #fbfaf7; --line: #d9d6cd; --quiet: #5d6660; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6df; --paper: #161a18; --line: #39413d; --quiet: #9aa49e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.2rem 4rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; }
p, dl { color: var(--quiet); margin: .2rem 0; }
dt { float: left; clear: left; width: 8rem; } dd { margin-left: 8rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:first-child td { font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; padding: .8rem; background: #fff; color: #17211d; }
figure, img { border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: .9rem; } svg { max-width: 100%; height: auto; display: block; }
img { max-width: 100%; height: auto; } li { color: var(--quiet); }
"""


def page(
    evaluation: Evaluation,
    about: About,
    results: dict[str, float],
    sheets: dict[str, Image.Image],
    plots: Sequence[tuple[str, str | None]],
) -> str:
    """The report as one HTML page without any request to elsewhere."""
    columns = about.protocol.columns
    rows = [(f"{about.title}, {len(evaluation.names)} pictures", results, ""), *about.beside]
    heads = "".join(
        f"<th scope='col'>{html.escape(COLUMNS[name].title)} {arrow(name)}</th>" for name, _ in columns
    )
    body = "".join(
        f"<tr><td>{html.escape(label)}</td>"
        + "".join(f"<td>{rounded(row[name], n) if name in row else '–'}</td>" for name, n in columns)
        + "</tr>"
        for label, row, _ in rows
    )
    sources = dict.fromkeys(source for _, _, source in rows if source)
    figures = "".join(
        f"<figure>{svg}<figcaption>{html.escape(title)}</figcaption></figure>" for title, svg in plots if svg
    )
    settings = {**about.settings, "protocol": about.protocol.about, "decoupe": __version__}
    settings["values"] = "stretched to [0, 1]" if evaluation.scores.stretch else "as they are"
    listed = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in settings.items())
    told = [*evaluation.notes, *evaluation.problems]
    title = html.escape(about.title)
    column = COLUMNS[ranked_by(about.protocol)].title
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1><dl>{listed}</dl>",
        f"<h2>Scores</h2><div class='wide'><table><thead><tr><th></th>{heads}</tr></thead>",
        f"<tbody>{body}</tbody></table></div>",
        *(f"<p>Published: {html.escape(source)}</p>" for source in sources),
        f"<h2>Curves</h2><div class='plots'>{figures}</div>" if figures else "",
        *(
            f"<h2>{head} by {html.escape(column)}</h2>"
            "<p>Photograph if known, truth, prediction, difference: red is too much, blue too little.</p>"
            f"<img alt='{head} pictures' src='data:image/jpeg;base64,{_base64(sheets[name])}'>"
            for head, name in (("Worst", "worst"), ("Best", "best"))
            if sheets[name].width > 8
        ),
        "<h2>Told</h2><ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in told) + "</ul>"
        if told
        else "",
        "</body></html>",
    ]
    return "\n".join(parts)


def _base64(picture: Image.Image) -> str:
    return base64.b64encode(encode(picture, ".jpg")).decode()
