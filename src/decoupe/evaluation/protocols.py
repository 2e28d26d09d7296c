"""Protocols: the columns that papers of one field report, in their order and rounding, as ready tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decoupe.errors import InputError, unknown
from decoupe.evaluation.measures import COLUMNS


@dataclass(frozen=True)
class Protocol:
    """What a field's tables show.

    Attributes:
        about: the field, in a line.
        columns: names and the digits that are printed of each.
        stretch: whether predictions are stretched to fill [0, 1] first, as the field's evaluation code does.
        source: the table whose columns these are.
    """

    about: str
    columns: tuple[tuple[str, int], ...]
    stretch: bool
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(name for name, _ in self.columns)


def _three(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, 3) for name in names)


PROTOCOLS: dict[str, Protocol] = {
    "dis": Protocol(
        "dichotomous segmentation, as on DIS5K",
        (*_three("maxF", "wF", "MAE", "S", "meanE"), ("HCE", 0)),
        True,
        "Qin et al., ECCV 2022, the table of DIS5K",
    ),
    "cod": Protocol(
        "camouflaged objects, as on CAMO, COD10K and NC4K",
        _three("S", "wF", "meanF", "meanE", "maxE", "MAE"),
        True,
        "Zheng et al. 2024, the table of camouflaged object detection",
    ),
    "sod": Protocol(
        "salient objects, as on DUTS, ECSSD and HKU-IS",
        _three("S", "maxF", "meanE", "wF", "MAE"),
        True,
        "Kim et al., ACCV 2022, and U²-Net's tables joined",
    ),
    "hrsod": Protocol(
        "salient objects at high resolution, as on DAVIS-S, HRSOD and UHRSD",
        _three("S", "maxF", "MAE", "mBA"),
        True,
        "Kim et al., ACCV 2022, the table of high-resolution benchmarks",
    ),
    "matting": Protocol(
        "soft mattes, as on P3M-500 and AM-2k; SAD, Grad and Conn in thousands",
        (("SAD", 2), ("MSE", 4), ("Grad", 2), ("Conn", 2)),
        False,
        "Rhemann et al., CVPR 2009",
    ),
    "all": Protocol(
        "every measure of mattes, the alpha as it is",
        tuple((name, 0 if name == "HCE" else 4) for name in COLUMNS),
        False,
        "decoupe",
    ),
}

READINGS = {
    "semantic": "semantic segmentation, as on ADE20K; in percent",
    "panoptic": "panoptic segmentation, as on COCO; in percent",
    "instances": "instance segmentation, as on COCO; in percent",
}
"""Protocols of segments, whose columns `decoupe.evaluation.scenes` holds."""

SYMBOLS = {
    "S": r"$S_\alpha$",
    "maxF": r"$F_\beta^x$",
    "meanF": r"$F_\beta^m$",
    "adpF": r"$F_\beta^a$",
    "wF": r"$F_\beta^\omega$",
    "maxE": r"$E_\phi^x$",
    "meanE": r"$E_\phi^m$",
    "adpE": r"$E_\phi^a$",
    "MAE": r"$\mathcal{M}$",
    "HCE": r"$HCE_\gamma$",
}
"""How papers write a column; others are written as they are called."""


def protocol(name: str) -> Protocol:
    """The protocol of a name; InputError suggests the nearest."""
    if name not in PROTOCOLS:
        raise InputError(unknown("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def of_columns(names: Sequence[str], *, stretch: bool) -> Protocol:
    """A protocol of columns that a user names; InputError for an unknown one."""
    for name in names:
        if name not in COLUMNS:
            raise InputError(unknown("measure", name, COLUMNS))
    columns = tuple((name, 0 if name == "HCE" else 4) for name in dict.fromkeys(names))
    return Protocol("chosen measures", columns, stretch, "the command line")


def rounded(value: float, digits: int) -> str:
    """A number as tables print it; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(columns: Sequence[tuple[str, int]], rows: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: a row for each name; a number that is not known is a dash."""
    return markdown_rows(["", *(title_of(name) for name, _ in columns)], cells(columns, rows))


def markdown_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells: the first column to the left, figures to the right."""
    body = [[label.replace("|", r"\|"), *figures] for label, *figures in rows]
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def latex(columns: Sequence[tuple[str, int]], rows: Mapping[str, Mapping[str, float]]) -> str:
    """A LaTeX table with booktabs' rules."""
    return latex_rows(["", *(latex_title(name) for name, _ in columns)], cells(columns, rows))


def title_of(name: str, *, long: bool = True) -> str:
    """What stands above a column, with the way it is better."""
    return f"{COLUMNS[name].title if long else name} {arrow(name)}"


def latex_title(name: str) -> str:
    """The same in LaTeX."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    return SYMBOLS.get(name, COLUMNS[name].title) + arrows[arrow(name)]


def latex_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A LaTeX table of cells with booktabs' rules; titles and figures are LaTeX already, labels are not."""
    body = [" & ".join([_escaped(label), *figures]) + r" \\" for label, *figures in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'c' * (len(titles) - 1)}}}",
            r"\toprule",
            " & ".join(titles) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def text_rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first to the left, the others to the right."""
    lines = [titles, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def arrow(name: str) -> str:
    """Which way a column is better."""
    return "↑" if COLUMNS[name].better == "higher" else "↓"


def cells(columns: Sequence[tuple[str, int]], rows: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Rows of cells, rounded; a number that is not known is a dash."""
    return [
        [label, *(rounded(row.get(name, math.nan), digits) for name, digits in columns)]
        for label, row in rows.items()
    ]


def _escaped(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(words.get(mark, "\\" + mark if mark in "&%$#_{}" else mark) for mark in text)
