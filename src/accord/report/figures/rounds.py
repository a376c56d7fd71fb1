"""Curves over rounds: reward, wins, KL, length and diversity of each round's model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from accord.report.figures.curves import Curve
from accord.report.figures.drawing import PALETTE, styled, svg
from accord.report.plain import percent
from accord.report.tables.rounds import Measure, Row, known_measures, value_of


def round_curves(rows: Sequence[Row], name: str) -> list[Curve]:
    """A panel for each measure that two rounds have; bars are its intervals."""
    curves = []
    for place, measure in enumerate(known_measures(rows)):
        told = [(row["round"], *value_of(row, measure.key)) for row in rows]
        points = [(r, v, low, high) for r, v, low, high in told if v is not None]
        if len(points) > 1:
            figure = _draw(points, measure, f"{name}-{place}")
            curves.append(Curve(measure.heading, measure.meaning, figure))
    return curves


def _draw(
    points: Sequence[tuple[int, float, float | None, float | None]], measure: Measure, name: str
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
        if measure.share:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
        axes.set_xlabel("round")
        axes.margins(x=0.06, y=0.12)
    return svg(figure, name, f"{measure.heading} by round")
