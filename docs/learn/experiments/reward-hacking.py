"""The path of optimisation, followed exactly: proxy, true reward and their covariance along the KL.

The reference is the world's demonstrators, as a table of 128 answers to each of 100 prompts.
The policy is the optimum reference·exp(λ·proxy)/Z for growing λ = 1/β. The proxies are the true
reward with 0.4 more for every ten words, and reward models, linear in the words, trained on 200
and on 2,000 judged pairs of other prompts, each with five sets of labels. The first set of 2,000
is that of the experiment on best-of-N.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from answer_table import expected, judged_pairs, kl, shown
from answer_texts import fit, text_table
from experiment import Experiment
from torch import Tensor

from accord.measure.over_optimisation import hacking_gap
from accord.objectives.reward import bradley_terry_loss

experiment = Experiment(__file__, __doc__)
test, train = experiment.size(100, 6), experiment.size(100, 8)
table = text_table(test + train, experiment.size(128, 16), 0, features=experiment.size(250, 20))
truth, words = table.rewards[:test], table.words[:test]
uniform = torch.full_like(truth, 1 / truth.shape[1])


def reward_model(pairs: int, penalty: float, labels: int) -> Tensor:
    """Scores of the test answers by a linear model of the words, from so many pairs a prompt."""
    chosen, rejected = judged_pairs(table.rewards[test:], pairs, seed=labels)
    rows = torch.arange(test, test + train)[:, None]
    better, worse = table.features[rows, chosen], table.features[rows, rejected]

    def loss(weights: Tensor) -> Tensor:
        fitted = bradley_terry_loss(better @ weights, worse @ weights).mean()
        return fitted + penalty * weights.square().sum()

    weights = fit(loss, torch.zeros(better.shape[-1]), steps=experiment.size(400, 5), rate=0.02)
    return table.features[:test] @ weights


LABELS = range(experiment.size(5, 2))
PROXIES = {
    "true + length": [truth + 0.4 * words / 10],
    "200 pairs": [reward_model(2, 1e-2, labels) for labels in LABELS],
    "2,000 pairs": [reward_model(experiment.size(20, 2), 1e-3, labels) for labels in LABELS],
}


def covariance(policy: Tensor, a: Tensor, b: Tensor) -> float:
    """The mean over prompts of the covariance under the policy."""
    return expected(policy, (a - (policy * a).sum(1, True)) * (b - (policy * b).sum(1, True)))


def accuracy(proxy: Tensor) -> float:
    """The share of pairs of a prompt's answers, of different true reward, in the right order."""
    right = (proxy[:, :, None] > proxy[:, None, :]) & (truth[:, :, None] > truth[:, None, :])
    return float(right.sum() / (truth[:, :, None] > truth[:, None, :]).sum())


def path(proxy: Tensor) -> list[dict[str, float]]:
    scores = (proxy - proxy.mean(1, keepdim=True)) / proxy.std()
    rows = []
    for step in range(61):
        strength = 0.0 if step == 0 else 10 ** (-1.5 + step / 20)
        policy = (strength * scores).softmax(1)
        rows.append(
            {
                "strength": strength,
                "kl": kl(policy, uniform),
                "proxy": expected(policy, scores),
                "truth": expected(policy, truth),
                "covariance": covariance(policy, truth, scores),
            }
        )
    return rows


paths = {name: [path(proxy) for proxy in proxies] for name, proxies in PROXIES.items()}


def best(rows: list[dict[str, float]]) -> int:
    return max(range(len(rows)), key=lambda i: rows[i]["truth"])


def draw(axes: Any, colours: Any) -> None:
    for axis, key in zip(axes, ("proxy", "truth"), strict=True):
        for (name, runs), colour in zip(paths.items(), colours, strict=False):
            for n, rows in enumerate(runs):
                distance = [math.sqrt(max(0.0, row["kl"])) for row in rows]
                label, width = ("" if n else name), (1.6 if len(runs) == 1 else 1.0)
                axis.plot(distance, [row[key] for row in rows], color=colour, lw=width, label=label)
                if key == "truth" and best(rows) < len(rows) - 1:
                    i = best(rows)
                    axis.plot(distance[i], rows[i][key], "o", color=colour, ms=4.5)
        axis.set(xlabel="distance √KL (√nats)")
    axes[0].set(ylabel="proxy (standard deviations)")
    axes[1].set(ylabel="true reward")
    axes[0].legend(title="proxy")


def turns(runs: list[list[dict[str, float]]]) -> str:
    """How many of the covariances become negative, and between which KL."""
    at = []
    for rows in runs:
        turn = next((i for i, row in enumerate(rows) if row["covariance"] < 0), None)
        at += [] if turn is None else [rows[turn]["kl"]]
    found = f"{len(at)} of {len(runs)}"
    return f"{found}: {min(at):.2f} to {max(at):.2f}" if len(at) > 1 else f"{found}: {at[0]:.2f}"


lines = []
for name, runs in paths.items():
    found = [
        hacking_gap([r["proxy"] for r in o], [r["truth"] for r in o], tolerance=0.01) for o in runs
    ]
    lines.append(
        [
            name,
            shown([accuracy(proxy) for proxy in PROXIES[name]], 2),
            shown([rows[best(rows)]["truth"] for rows in runs]),
            shown([rows[best(rows)]["kl"] for rows in runs], 2),
            turns(runs),
            shown([rows[-1]["truth"] for rows in runs]),
            f"{shown([gap.proxy_gain for gap in found], 2)}; "
            f"{shown([-gap.gold_loss for gap in found])}",
        ]
    )
start = paths["true + length"][0][0]["truth"]
experiment.save(
    draw,
    [
        "proxy",
        "accuracy on pairs",
        "true reward at its best",
        "KL there",
        "covariance becomes negative (KL)",
        "true reward at the end",
        "change from best to end: proxy; truth",
    ],
    lines,
    note=f"Exact sums over {test} prompts and {truth.shape[1]} answers of one table; of the reward "
    f"models means over {len(LABELS)} sets of labels with 95% intervals. The true reward starts "
    f"at {start:.3f}; the proxy is in its standard deviations.",
    panels=2,
    size=(8.0, 3.4),
)
