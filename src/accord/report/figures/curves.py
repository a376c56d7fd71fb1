"""Learning curves of a training stage, from its metrics.jsonl."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from accord.measure.statistics import Floats
from accord.report.figures.drawing import MUTED, PALETTE, styled, to_svg
from accord.report.formatting import visible

Rows = Sequence[Mapping[str, Any]]
MAX_PANELS = 8
MAX_POINTS = 240


@dataclass(frozen=True, slots=True)
class Panel:
    """A title, its meaning, and the metrics drawn with their labels, held-out ones as dots."""

    title: str
    meaning: str
    metrics: tuple[tuple[str, str], ...]


REWARD_SOURCE = re.compile(r"rewards/(?P<name>.+)/mean")

PANELS = (
    Panel(
        "Score",
        "of the policy's responses by the reward",
        (("objective/scores", "training"), ("eval/objective/scores", "held out")),
    ),
    Panel(
        "Refusals",
        "of the prompts of safety_dataset: low is good for both",
        (
            ("safety/harmful_compliance", "harmful, not refused"),
            ("safety/over_refusal", "harmless, refused"),
        ),
    ),
    Panel("Score", "of the policy's responses by the reward", (("reward", ""),)),
    Panel(
        "KL",
        "of the policy from its reference, in nats per response",
        (("objective/kl", "training"), ("eval/objective/kl", "held out")),
    ),
    Panel("KL", "of the policy from its reference, in nats per token", (("kl", ""),)),
    Panel("Length", "tokens in a response", (("response_length", ""),)),
    Panel("Length", "tokens in a response", (("completions/mean_length", ""),)),
    Panel("Ends", "share of responses that end before the token limit", (("eos_rate", ""),)),
    Panel("Entropy", "of the next token, in nats", (("objective/entropy", ""),)),
    Panel(
        "Equal groups",
        "share of prompts whose answers all score the same",
        (("frac_reward_zero_std", ""),),
    ),
    Panel(
        "Value fit",
        "share of the returns' variance that the critic explains",
        (("val/explained_variance", ""),),
    ),
    Panel("Loss", "minimised by training", (("loss", "training"), ("eval/loss", "held out"))),
    Panel(
        "Accuracy",
        "share of preferences with which the rewards agree",
        (("rewards/accuracies", "training"), ("eval/rewards/accuracies", "held out")),
    ),
    Panel(
        "Rewards",
        "of chosen and rejected responses",
        (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
    ),
    Panel(
        "Margin",
        "reward of the chosen less that of the rejected response",
        (("rewards/margins", "training"), ("eval/rewards/margins", "held out")),
    ),
    Panel(
        "Token accuracy",
        "share of tokens that are the model's most likely prediction",
        (("mean_token_accuracy", "training"), ("eval/mean_token_accuracy", "held out")),
    ),
    Panel("Entropy", "of the next token, in nats", (("entropy", ""),)),
)
"""In order; of panels with the same title the first that has numbers is drawn."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawn panel with its heading."""

    title: str
    meaning: str
    figure: Markup


def learning_curves(rows: Rows, name: str) -> list[Curve]:
    """The panels for which the rows have numbers, the most informative first. `name` is the prefix
    of ids in the SVG."""
    curves: list[Curve] = []
    for panel in (PANELS[0], *_source_panels(rows), *PANELS[1:]):
        metrics = [(key, label) for key, label in panel.metrics if _series(rows, key)[0].size]
        drawn = any(curve.title == panel.title for curve in curves)
        if metrics and not drawn and len(curves) < MAX_PANELS:
            figure = _draw_panel(rows, metrics, f"{name}-{len(curves)}", panel.title)
            curves.append(Curve(panel.title, panel.meaning, figure))
    return curves


def _source_panels(rows: Rows) -> list[Panel]:
    """A panel of the sources that the score is summed from, where there is more than one."""
    keys = dict.fromkeys(key for row in rows for key in row)
    metrics = [(key, visible(m["name"])) for key in keys if (m := REWARD_SOURCE.fullmatch(key))]
    metrics = metrics[: len(PALETTE)]
    meaning = "mean of each source of the score, before its weight"
    return [Panel("Sources", meaning, tuple(metrics))] if len(metrics) > 1 else []


def _draw_panel(rows: Rows, metrics: Sequence[tuple[str, str]], name: str, title: str) -> Markup:
    with styled():
        figure = Figure(figsize=(2.9, 1.8), layout="constrained")
        axes = figure.add_subplot()
        for (key, label), colour in zip(metrics, PALETTE, strict=False):
            steps, values = _series(rows, key)
            if key.startswith(("eval/", "safety/")) or len(steps) < 3:
                axes.plot(steps, values, "o-", color=colour, markersize=4, label=label)
            else:
                _plot_smoothed(axes, steps, values, colour, label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02, y=0.1)
        if len(metrics) > 1:
            axes.legend(loc="best", labelcolor=MUTED, handlelength=1.2)
    return to_svg(figure, name, f"{title} by training step")


def _plot_smoothed(axes: Axes, steps: Floats, values: Floats, colour: str, label: str) -> None:
    """Every step as a faint line, and the moving mean on top."""
    steps, values = _downsample(steps, values)
    window = max(1, len(values) // 20)
    if window > 1:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(steps, _moving_mean(values, window), color=colour, label=label)


def _moving_mean(values: Floats, window: int) -> Floats:
    """Centred, of fewer values near the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(0, index - window), np.minimum(len(values), index + window + 1)
    return (sums[stop] - sums[start]) / (stop - start)


def _downsample(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means over segments of equal length where there are more points than can be seen."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), MAX_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(steps)))
    return np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts


def _series(rows: Rows, key: str) -> tuple[Floats, Floats]:
    """Steps and values where the metric was logged and finite."""
    points = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]
    pairs = np.array(points, dtype=np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
