"""The same battles, rated by Bradley-Terry and by Elo's rule in 200 orders.

The contestants are the best of 1, 2, 3, 4 and 6 answers of the world's demonstrators, by the
true reward, each from answers of its own. Every two meet once on each of 200 prompts, and an
annotator with noise decides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from answer_texts import text_table
from experiment import Experiment

import accord
from accord.measure.ratings.elo import online_elo
from accord.records import Battle
from accord.world.annotators import simulated_preference

experiment = Experiment(__file__, __doc__)
SIZES, NOISE = (1, 2, 3, 4, 6), 0.3
ORDERS, DRAWS = experiment.size(200, 5), experiment.size(1000, 20)
prompts = experiment.size(200, 8)
names = [f"best of {n}" for n in SIZES]

rewards = text_table(prompts, sum(SIZES), 0).rewards.numpy()
starts = np.cumsum([0, *SIZES])
qualities = {name: rewards[:, starts[i] : starts[i + 1]].max(1) for i, name in enumerate(names)}
rng = random.Random(0)
battles = []
for question in range(prompts):
    for a, b in combinations(names, 2):
        both = (float(qualities[a][question]), float(qualities[b][question]))
        ranks = simulated_preference(both, noise=NOISE, rng=rng)
        battles.append(Battle(a, b, "a" if ranks[0] == 0 else "b", str(question)))

FEW = prompts // 4
few = [battle for battle in battles if int(battle.prompt) < FEW]
fitted = {
    label: {m.model: m for m in accord.rate(rows, anchor=names[0], bootstrap=DRAWS).models}
    for label, rows in (("all", battles), ("few", few))
}
orders: dict[float, dict[str, list[float]]] = {k: {name: [] for name in names} for k in (4.0, 32.0)}
for k, by_model in orders.items():
    for order in range(ORDERS):
        rated = online_elo(random.Random(order).sample(battles, len(battles)), k=k)
        for name, values in by_model.items():
            values.append(1000 + rated[name] - rated[names[0]])


def bounds(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.025, 0.5, 0.975))
    return float(low), float(middle), float(high)


def draw(axes: Any, colours: Any) -> None:
    series = {
        "Bradley-Terry, 95% interval": [
            (m.low or m.rating, m.rating, m.high or m.rating)
            for m in (fitted["all"][name] for name in names[1:])
        ],
        "Elo, K = 4, 95% of orders": [bounds(orders[4.0][name]) for name in names[1:]],
        "Elo, K = 32, 95% of orders": [bounds(orders[32.0][name]) for name in names[1:]],
    }
    for i, (label, rows) in enumerate(series.items()):
        at = [x + 0.22 * (i - 1) for x in range(len(rows))]
        low = [middle - low for low, middle, _ in rows]
        high = [high - middle for _, middle, high in rows]
        middles = [middle for _, middle, _ in rows]
        axes.errorbar(
            at, middles, [low, high], fmt="o", ms=4, capsize=3, color=colours[i], label=label
        )
    axes.set_xticks(range(len(names) - 1), names[1:])
    axes.set(ylabel=f"rating ({names[0]} = 1000)", xlim=(-0.5, len(names) - 1.5))
    axes.legend(loc="upper left")


def shown(label: str, name: str) -> str:
    m = fitted[label][name]
    if name == names[0] or m.low is None or m.high is None:
        return f"{m.rating:.0f}"
    return f"{m.rating:.0f} ({m.low:.0f} to {m.high:.0f})"


def spread(k: float, name: str) -> str:
    low, _, high = bounds(orders[k][name])
    return "1000" if name == names[0] else f"{low:.0f} to {high:.0f}"


lines = [
    [
        name,
        f"{quality.mean():.3f}",
        shown("all", name),
        shown("few", name),
        spread(4.0, name),
        spread(32.0, name),
    ]
    for name, quality in qualities.items()
]
experiment.save(
    draw,
    [
        "contestant",
        "true reward",
        f"Bradley-Terry, {prompts} prompts",
        f"{FEW} prompts",
        "Elo, K = 4",
        "Elo, K = 32",
    ],
    lines,
    note=f"{len(battles):,} battles on {prompts} prompts. Bradley-Terry with 95% intervals "
    f"(bootstrap over prompts); Elo: the range of 95% of {ORDERS} orders of the same battles.",
)
