"""Figures about the models: ratings, reward against KL, refusals, reward against length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from accord.measure.over_optimisation import kl_distance
from accord.report.figures.drawing import INK, colours, markers, styled, to_svg
from accord.report.figures.labels import name_points
from accord.report.formatting import format_number, visible
from accord.report.tables.rows import Row, has_value

WIDTH = 5.2  # inches; a page shows an inch as some 100 pixels
_REWARDS = (("true_reward", "True reward"), ("reward_model_score", "Reward model score"))
_REFUSALS = (
    ("harmful", "Harmful", "higher is better"),
    ("jailbreak", "Jailbreak", "higher is better"),
    ("safe", "Safe look-alikes", "lower is better"),
)


def ratings_figure(rows: Sequence[Row]) -> Markup | None:
    """A forest plot of the ratings, the best on top; None where no model has one."""
    rated = sorted((row for row in rows if has_value(row, "elo")), key=lambda row: row["elo"])
    if not rated:
        return None
    colour, marker = _styles(rows)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.36 * len(rated)), layout="constrained")
        axes = figure.add_subplot()
        for y, row in enumerate(rated):
            _interval_mark(axes, row, "elo", y, colour[row["model"]], marker[row["model"]])
            text = format_number(row["elo"], 0)
            axes.annotate(
                text, (row["elo"], y), (0, 6), textcoords="offset points", ha="center", va="bottom",
                fontsize=8.5, color=INK,
            )  # fmt: skip
        _names_on_y(axes, [row["model"] for row in rated])
        axes.set_xlabel("Rating (400 points = odds of 10 to 1)")
        axes.margins(x=0.1)
    return to_svg(figure, "ratings", "Ratings of the models with intervals")


def reward_figures(rows: Sequence[Row]) -> list[Markup]:
    """A figure of each reward against √KL, or one of the rewards by model without two KLs."""
    panels = [(key, title) for key, title in _REWARDS if any(has_value(row, key) for row in rows)]
    measured = [row for row in rows if has_value(row, "kl")]
    if not panels or len(measured) >= 2:
        return [_reward_by_distance(rows, measured, key, title) for key, title in panels]
    return [_rewards_by_model(rows, panels)]


def _reward_by_distance(
    rows: Sequence[Row], measured: Sequence[Row], key: str, title: str
) -> Markup:
    colour, marker = _styles(rows)
    points = [row for row in measured if has_value(row, key)]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for row in points:
            _kl_mark(axes, row, key, colour[row["model"]], marker[row["model"]])
        axes.set_title(title)
        axes.set_xlabel("Distance from the reference, √KL (√nats)")
        axes.margins(x=0.12, y=0.16)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        name_points(figure, axes, [(_distance(r), r[key], visible(r["model"])) for r in points])
    name = f"distance-{key.replace('_', '-')}"
    return to_svg(figure, name, f"{title} of the models against their distance by KL")


def refusals_figure(rows: Sequence[Row], details: Mapping[str, Row]) -> Markup | None:
    """Refusal rates with intervals, a panel for each kind of prompt; None where there are none."""
    panels = [p for p in _REFUSALS if any(has_value(row, f"refusal_{p[0]}") for row in rows)]
    if not panels:
        return None
    colour, marker = _styles(rows)
    shown = list(reversed(rows))
    with styled():
        figure = Figure(figsize=(WIDTH, 1.15 + 0.3 * len(rows)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (kind, title, direction) in zip(grid, panels, strict=True):
            for y, row in enumerate(shown):
                bounds = (details.get(row["model"], {}).get("refusals") or {}).get(kind) or {}
                rate = row.get(f"refusal_{kind}")
                if rate is not None:
                    point = {"x": rate, "x_low": bounds.get("low"), "x_high": bounds.get("high")}
                    name = row["model"]
                    _interval_mark(axes, point, "x", y, colour[name], marker[name])
            axes.set_title(title)
            axes.set_xlabel(direction)
            axes.set_xlim(-0.06, 1.06)
            axes.set_xticks([0, 0.5, 1])
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        _names_on_y(grid[0], [row["model"] for row in shown])
    return to_svg(figure, "refusals", "Share of prompts refused, by kind of prompt and model")


def length_figure(rows: Sequence[Row], details: Mapping[str, Row]) -> Markup | None:
    """Reward against length: each model's mean, and its mean within bins of length."""
    available = [
        (key, title)
        for key, title in (*_REWARDS, ("elo", "Rating"))
        if any(has_value(row, key) and has_value(row, "mean_length") for row in rows)
    ]
    if not available:
        return None
    key, title = available[0]
    points = [row for row in rows if has_value(row, key) and has_value(row, "mean_length")]
    colour, marker = _styles(rows)
    with styled():
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.add_subplot()
        for row in points:
            name = row["model"]
            bins = details.get(name, {}).get("by_length") or []
            filled = [b for b in bins if b.get(key) is not None]
            middles = [(b["least"] + b["most"]) / 2 for b in filled]
            axes.plot(
                middles, [b[key] for b in filled], color=colour[name], linewidth=1.2, alpha=0.55
            )
            axes.plot(
                row["mean_length"], row[key], marker[name], color=colour[name], markersize=8,
                markeredgecolor="white",
            )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("Words in a response")
        axes.margins(x=0.1, y=0.14)
        name_points(figure, axes, [(r["mean_length"], r[key], visible(r["model"])) for r in points])
    return to_svg(figure, "length", "Reward of the models against the length of their responses")


def _rewards_by_model(rows: Sequence[Row], panels: Sequence[tuple[str, str]]) -> Markup:
    colour, marker = _styles(rows)
    shown = list(reversed(rows))
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (key, title) in zip(grid, panels, strict=True):
            for y, row in enumerate(shown):
                if has_value(row, key):
                    _interval_mark(axes, row, key, y, colour[row["model"]], marker[row["model"]])
            axes.set_title(title)
            axes.margins(x=0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        _names_on_y(grid[0], [row["model"] for row in shown])
    return to_svg(figure, "rewards", "Rewards of the models with intervals")


def _interval_mark(axes: Axes, row: Row, key: str, y: float, colour: str, marker: str) -> None:
    """A point with its interval; an open end is an arrow."""
    value, low, high = row[key], row.get(f"{key}_low"), row.get(f"{key}_high")
    if low is not None or high is not None:
        start, stop = value if low is None else low, value if high is None else high
        axes.plot([start, stop], [y, y], color=colour, linewidth=2.4, alpha=0.45)
        for bound, x, arrow in ((low, start, "<"), (high, stop, ">")):
            if bound is None:
                axes.plot(x, y, arrow, color=colour, markersize=11, alpha=0.45)
    axes.plot(value, y, marker, color=colour, markersize=7.5, markeredgecolor="white")


def _kl_mark(axes: Axes, row: Row, key: str, colour: str, marker: str) -> None:
    x, y = _distance(row), row[key]
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    if low is not None and high is not None:
        axes.plot([x, x], [low, high], color=colour, linewidth=2.4, alpha=0.4)
    left, right = row.get("kl_low"), row.get("kl_high")
    if left is not None and right is not None:
        axes.plot(
            [kl_distance(left), kl_distance(right)], [y, y], color=colour, linewidth=2.4, alpha=0.4
        )
    axes.plot(x, y, marker, color=colour, markersize=8, markeredgecolor="white")


def _distance(row: Row) -> float:
    return kl_distance(row["kl"])


def _styles(rows: Sequence[Row]) -> tuple[dict[str, str], dict[str, str]]:
    names = [row["model"] for row in rows]
    return colours(names), markers(names)


def _names_on_y(axes: Axes, names: Sequence[str]) -> None:
    shown = [visible(name) for name in names]
    axes.set_yticks(range(len(names)), [n if len(n) <= 24 else f"{n[:23]}…" for n in shown])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="y", visible=False)
