"""What an evaluation of mattes draws, as SVG."""

from __future__ import annotations

from typing import Any

import numpy as np

from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.page import svg
from decoupe.evaluation.protocols import Protocol
from decoupe.evaluation.run import Evaluation


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

    return svg(draw)


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

    return svg(draw)


def histogram(evaluation: Evaluation, protocol: Protocol) -> str | None:
    """How the pictures' scores are spread, as SVG."""
    column = ranked_by(protocol)
    values = [value for value in evaluation.scores.values[column] if not np.isnan(value)]
    if not values:
        return None

    def draw(axes: Any) -> None:
        span = (0, 1) if COLUMNS[column].better == "higher" else (0, max(values) or 1)
        axes.hist(values, bins=25, range=span, color="#1f6f54", rwidth=0.92)
        axes.set(xlabel=COLUMNS[column].title, ylabel="pictures", xlim=span)
        axes.yaxis.get_major_locator().set_params(integer=True)

    return svg(draw)
