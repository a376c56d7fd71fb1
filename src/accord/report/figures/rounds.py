"""Curves over rounds: a panel for each measure of the rounds' models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from accord.measure.measures import Column
from accord.report.figures.curves import Curve
from accord.report.figures.drawing import PALETTE, styled, to_svg
from accord.report.formatting import format_percent
from accord.report.tables.rounds import rounds_columns, value_with_bounds
from accord.report.tables.rows import Row


def round_curves(rows: Sequence[Row], name: str) -> list[Curve]:
    """A panel for each measure that at least two rounds have, with error bars for intervals."""
    curves = []
    for index, (key, column) in enumerate(rounds_columns(rows).items()):
        values = [(row["round"], *value_with_bounds(row, key)) for row in rows]
        points = [(r, v, low, high) for r, v, low, high in values if v is not None]
        if len(points) > 1:
            figure = _draw_curve(points, column, f"{name}-{index}")
            curves.append(Curve(column.heading, column.meaning, figure))
    return curves


def _draw_curve(
    points: Sequence[tuple[int, float, float | None, float | None]], column: Column, name: str
) -> Markup:
    values = np.array([v for _, v, _, _ in points])
    low = np.array([v if end is None else end for _, v, end, _ in points])
    high = np.array([v if end is None else end for _, v, _, end in points])
    with styled():
        figure = Figure(figsize=(2.9, 1.8), layout="constrained")
        axes = figure.add_subplot()
        axes.errorbar(
            [r for r, _, _, _ in points],
            values,
            yerr=np.stack([values - low, high - values]).clip(min=0),
            fmt="o-",
            color=PALETTE[0],
            markersize=4,
            elinewidth=1.0,
        )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if column.format == "share":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: format_percent(share)))
        axes.set_xlabel("round")
        axes.margins(x=0.06, y=0.12)
    return to_svg(figure, name, f"{column.heading} by round")
