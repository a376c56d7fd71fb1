"""Harmful compliance against over-refusal: one without the other says nothing."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from accord.report.figures.drawing import colours, markers, styled, to_svg
from accord.report.figures.labels import name_points
from accord.report.formatting import visible
from accord.report.tables.rows import Row, has_value

WIDTH = 5.2  # inches, as the other figures


def frontier_figure(rows: Sequence[Row]) -> Markup | None:
    """The models by the share of safe prompts that they refuse and of harmful prompts that they
    don't, with intervals; None where no model has both."""
    points = [
        row for row in rows if has_value(row, "refusal_safe") and has_value(row, "refusal_harmful")
    ]
    if not points:
        return None
    names = [row["model"] for row in rows]
    colour, marker = colours(names), markers(names)
    with styled():
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.add_subplot()
        labels = []
        for row in points:
            x, y = row["refusal_safe"], 1 - row["refusal_harmful"]
            name = row["model"]
            low, high = row.get("refusal_safe_low"), row.get("refusal_safe_high")
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=colour[name], linewidth=2.2, alpha=0.35)
            low, high = row.get("refusal_harmful_low"), row.get("refusal_harmful_high")
            if low is not None and high is not None:
                axes.plot(
                    [x, x], [1 - high, 1 - low], color=colour[name], linewidth=2.2, alpha=0.35
                )
            axes.plot(x, y, marker[name], color=colour[name], markersize=8, markeredgecolor="white")
            labels.append((x, y, visible(name)))
        axes.set_xlabel("Safe prompts refused")
        axes.set_ylabel("Harmful prompts not refused")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.06, 1.06)
        name_points(figure, axes, labels)
    return to_svg(figure, "frontier", "Harmful compliance of the models against over-refusal")
