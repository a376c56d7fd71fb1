"""Ratings over the checkpoints or rounds of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from accord.report.figures.drawing import MARKERS, PALETTE, styled, to_svg
from accord.report.formatting import visible

MAX_RUNS = len(PALETTE)


def rating_run_figures(runs: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """A figure for each unit, steps and rounds, with a line for each run: at most `MAX_RUNS`."""
    units = dict.fromkeys(run["unit"] for run in runs)
    return [_draw([r for r in runs if r["unit"] == unit][:MAX_RUNS], unit) for unit in units]


def _draw(runs: Sequence[Mapping[str, Any]], unit: str) -> Markup:
    with styled():
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for run, colour, marker in zip(runs, PALETTE, MARKERS, strict=False):
            moments = run["moments"]
            ratings = np.array([moment["rating"] for moment in moments])
            ends = [
                [m["rating"] if m[bound] is None else m[bound] for m in moments]
                for bound in ("low", "high")
            ]
            axes.errorbar(
                [moment["number"] for moment in moments],
                ratings,
                yerr=np.abs(np.array(ends) - ratings),
                fmt=f"{marker}-",
                color=colour,
                markersize=4.5,
                elinewidth=1.0,
                label=visible(run["run"]) or "all",
            )
        axes.set_xlabel(unit)
        axes.set_ylabel("Rating")
        axes.margins(x=0.06, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        if len(runs) > 1:
            axes.legend()
    return to_svg(figure, f"ratings-by-{unit}", f"Ratings by {unit}")
