"""One HTML page that needs nothing else: tables, drawings and pictures, without any request to elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from decoupe.inference.media import encode


@dataclass(frozen=True)
class Table:
    """A table: what stands above it, its titles, and rows whose first cell is a name."""

    heading: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """What a page shows, from top to bottom; parts without content are left out.

    Attributes:
        title: of the page.
        settings: names and values.
        tables: one after the other.
        sources: of numbers in the tables.
        figures: captions and SVGs.
        sheets: headings, what is on them, and pictures.
        told: what a reader should know, line by line.
    """

    title: str
    settings: Mapping[str, str]
    tables: Sequence[Table]
    sources: Sequence[str] = ()
    figures: Sequence[tuple[str, str]] = ()
    sheets: Sequence[tuple[str, str, Image.Image]] = ()
    told: Sequence[str] = ()


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
.wide:first-of-type tbody tr:first-child td { font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; padding: .8rem; background: #fff; color: #17211d; }
figure, img { border: 1px solid var(--line); border-radius: 6px; }
figcaption { font-size: .9rem; } svg { max-width: 100%; height: auto; display: block; }
img { max-width: 100%; height: auto; } li { color: var(--quiet); }
"""


def render(page: Page) -> str:
    """The page as HTML."""
    settings = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in page.settings.items())
    figures = "".join(f"<figure>{svg}<figcaption>{_text(c)}</figcaption></figure>" for c, svg in page.figures)
    told = "".join(f"<li>{_text(line)}</li>" for line in page.told)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{_text(page.title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(page.title)}</h1><dl>{settings}</dl>",
        *map(_table, page.tables),
        *(f"<p>Published: {_text(source)}</p>" for source in page.sources),
        f"<h2>Curves</h2><div class='plots'>{figures}</div>" if figures else "",
        *(
            f"<h2>{_text(heading)}</h2><p>{_text(about)}</p>"
            f"<img alt='{_text(heading)}' src='data:image/jpeg;base64,{_base64(sheet)}'>"
            for heading, about, sheet in page.sheets
        ),
        f"<h2>Told</h2><ul>{told}</ul>" if told else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    heads = "".join(f"<th scope='col'>{_text(title)}</th>" for title in table.titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<h2>{_text(table.heading)}</h2><div class='wide'><table>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: str) -> str:
    return html.escape(value)


def _base64(picture: Image.Image) -> str:
    return base64.b64encode(encode(picture, ".jpg")).decode()


def svg(draw: Callable[[Any], None]) -> str:
    """A drawing on axes as SVG, text as text."""
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
