"""Figures show the values of the rows, and there is none without values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from accord.report.figures.curves import learning_curves
from accord.report.figures.drawing import colours, markers, styled, to_svg
from accord.report.figures.labels import name_points
from accord.report.figures.models import (
    length_figure,
    ratings_figure,
    refusals_figure,
    reward_figures,
)


def test_rows_without_values_have_no_figures() -> None:
    rows: list[dict[str, Any]] = [{"model": "a"}, {"model": "b"}]
    assert ratings_figure(rows) is None
    assert reward_figures(rows) == []
    assert refusals_figure(rows, {}) is None
    assert length_figure(rows, {}) is None
    assert learning_curves([], "x") == []
    assert learning_curves([{"step": 1, "epoch": 0.1}], "x") == []


def test_names_are_text_in_the_svg_and_not_markup_or_mathematics() -> None:
    rows = [
        {"model": "<b>$\\alpha$", "elo": 1000.0, "elo_low": 900.0, "elo_high": None},
        {"model": "other", "elo": 1100.0, "elo_low": None, "elo_high": None},
    ]
    drawing = ratings_figure(rows)
    assert drawing is not None
    assert "&lt;b&gt;$\\alpha$" in drawing
    assert "<b>" not in drawing
    assert drawing.startswith('<svg role="img" aria-label="Ratings of the models')


def test_rewards_are_drawn_against_the_models_where_no_kl_is_known() -> None:
    rows = [{"model": "a", "true_reward": 0.5}, {"model": "b", "true_reward": 0.6}]
    (drawing,) = reward_figures(rows)
    assert "Rewards of the models with intervals" in drawing
    with_kl = [
        {**row, "kl": kl, "reward_model_score": 1.0} for row, kl in zip(rows, (0, 2), strict=True)
    ]
    assert len(reward_figures(with_kl)) == 2


def test_curves_skip_missing_numbers_and_downsample_long_series() -> None:
    rows: list[dict[str, Any]] = [{"step": i, "loss": math.sin(i / 50)} for i in range(1, 5001)]
    rows[10]["loss"] = None
    (curve,) = learning_curves(rows, "s")
    assert curve.title == "Loss"
    assert len(curve.figure) < 40_000
    assert learning_curves(rows, "s")[0].figure == curve.figure


def test_held_out_rows_have_a_separate_line() -> None:
    rows = [
        {"step": i, "loss": 1 / i, **({"eval/loss": 1.0} if i % 5 == 0 else {})}
        for i in range(1, 21)
    ]
    (curve,) = learning_curves(rows, "s")
    assert "held out" in curve.figure
    assert "training" in curve.figure


def test_sixteen_models_differ_in_colour_or_marker() -> None:
    names = [f"m{i}" for i in range(16)]
    looks = {(colours(names)[n], markers(names)[n]) for n in names}
    assert len(looks) == 16


def test_ids_begin_with_the_name_of_the_figure() -> None:
    def drawn(name: str) -> str:
        with styled():
            figure = Figure(figsize=(2, 2))
            figure.add_subplot().plot(np.arange(3), np.arange(3))
        return to_svg(figure, name, "a line")

    first, second = drawn("one"), drawn("two")
    assert 'id="one-' in first
    assert "one-" not in second
    assert first.replace("one-", "two-") == second
    assert first == drawn("one")


@pytest.mark.parametrize("count", [1, 2, 30])
def test_any_number_of_models_can_be_drawn(count: int) -> None:
    rows = [
        {
            "model": f"model-{i}",
            "elo": 1000.0,
            "true_reward": 0.5,
            "kl": 1.0,
            "mean_length": 5.0,
            "refusal_safe": 0.5,
        }
        for i in range(count)
    ]
    assert ratings_figure(rows) is not None
    assert len(reward_figures(rows)) == 1
    assert refusals_figure(rows, {}) is not None
    assert length_figure(rows, {}) is not None


def test_names_overlap_neither_each_other_nor_a_point() -> None:
    points = [(0.5 + 0.004 * i, 0.5 + 0.01 * (i % 3), f"model {i}") for i in range(7)]
    with styled():
        figure = Figure(figsize=(5.2, 3.1))
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        name_points(figure, axes, [*points, (2.0, 0.5, "outside")])
        figure.draw_without_rendering()
    assert [text.get_text() for text in axes.texts].count("outside") == 0
    assert sorted(text.get_text() for text in axes.texts) == [name for _, _, name in points]
    # The true extents of the letters, as matplotlib measures them.
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(next_box) for next_box in boxes[i + 1 :])
        for x, y, _ in points:
            assert not box.contains(*axes.transData.transform((x, y)))


PPO = (
    "objective/scores objective/kl response_length eos_rate objective/entropy "
    "val/explained_variance loss"
).split()
GRPO = "reward kl completions/mean_length eos_rate frac_reward_zero_std entropy loss".split()


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (PPO, "Score KL Length Ends Entropy Value_fit Loss"),
        (GRPO, "Score KL Length Ends Equal_groups Loss Entropy"),
        ([*PPO, *GRPO], "Score KL Length Ends Entropy Equal_groups Value_fit Loss"),
        (
            [*PPO, "rewards/rm/mean", "rewards/rm/std", "rewards/length/mean", "rewards/chosen"],
            "Score Sources KL Length Ends Entropy Value_fit Loss",
        ),
        ([*PPO, "rewards/rm/mean"], "Score KL Length Ends Entropy Value_fit Loss"),
    ],
)
def test_curves_of_online_runs(names: list[str], titles: str) -> None:
    rows = [{"step": i, **dict.fromkeys(names, float(i))} for i in range(1, 6)]
    assert [curve.title.replace(" ", "_") for curve in learning_curves(rows, "s")] == titles.split()


def test_sources_are_drawn_under_their_names() -> None:
    rows = [
        {"step": i, "rewards/proxy/mean": 0.1 * i, "rewards/<b>$t$/mean": -0.1 * i}
        for i in range(1, 6)
    ]
    (curve,) = learning_curves(rows, "s")
    assert "proxy" in curve.figure
    assert "&lt;b&gt;" in curve.figure
    sources = {f"rewards/s{i}/mean": 1.0 for i in range(40)}
    assert len(learning_curves([{"step": 1, **sources}], "s")) == 1
