"""The path of optimisation, followed exactly: proxy, true reward and their covariance along the KL.

The reference is the world's demonstrators, as a table of 128 answers to each of 100 prompts.
The policy is the optimum reference·exp(λ·proxy)/Z for growing λ = 1/β. The proxies are the true
reward with 0.4 more for every ten words, and reward models, linear in the words, trained on 200
and on 2,000 judged pairs of other prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from answer_table import expected, judged_pairs, kl
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


def reward_model(pairs: int, penalty: float) -> Tensor:
    """Scores of the test answers by a linear model of the words, from so many pairs a prompt."""
    chosen, rejected = judged_pairs(table.rewards[test:], pairs, seed=1)
    rows = torch.arange(test, test + train)[:, None]
    better, worse = table.features[rows, chosen], table.features[rows, rejected]

    def loss(weights: Tensor) -> Tensor:
        fitted = bradley_terry_loss(better @ weights, worse @ weights).mean()
        return fitted + penalty * weights.square().sum()

    weights = fit(loss, torch.zeros(better.shape[-1]), steps=experiment.size(400, 5), rate=0.02)
    return table.features[:test] @ weights


PROXIES = {
    "true + length": truth + 0.4 * words / 10,
    "200 pairs": reward_model(2, 1e-2),
    "2,000 pairs": reward_model(experiment.size(20, 2), 1e-3),
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


paths = {name: path(proxy) for name, proxy in PROXIES.items()}


def draw(axes: Any, colours: Any) -> None:
    for axis, key in zip(axes, ("proxy", "truth"), strict=True):
        for (name, rows), colour in zip(paths.items(), colours, strict=False):
            distance = [math.sqrt(max(0.0, row["kl"])) for row in rows]
            axis.plot(distance, [row[key] for row in rows], color=colour, label=name)
            if key == "truth":
                best = max(range(len(rows)), key=lambda i: rows[i][key])
                axis.plot(distance[best], rows[best][key], "o", color=colour, ms=5)
        axis.set(xlabel="distance √KL (√nats)")
    axes[0].set(ylabel="proxy (standard deviations)")
    axes[1].set(ylabel="true reward")
    axes[0].legend(title="proxy")


lines = []
for name, rows in paths.items():
    best = max(range(len(rows)), key=lambda i: rows[i]["truth"])
    turn = next((i for i, row in enumerate(rows) if row["covariance"] < 0), None)
    found = hacking_gap([r["proxy"] for r in rows], [r["truth"] for r in rows], tolerance=0.01)
    lines.append(
        [
            name,
            f"{accuracy(PROXIES[name]):.2f}",
            f"{rows[0]['truth']:.3f}",
            f"{rows[best]['truth']:.3f} at {rows[best]['kl']:.2f}",
            "never" if turn is None else f"{rows[turn - 1]['kl']:.2f} to {rows[turn]['kl']:.2f}",
            f"{rows[-1]['truth']:.3f} at {rows[-1]['kl']:.2f}",
            f"{found.proxy_gain:.2f}, {-found.gold_loss:.3f}",
        ]
    )
experiment.save(
    draw,
    [
        "proxy",
        "accuracy on pairs",
        "true reward at the start",
        "at its best (KL)",
        "covariance becomes negative (KL)",
        "at the end (KL)",
        "change from best to end: proxy, truth",
    ],
    lines,
    note=f"Exact sums over {test} prompts and {truth.shape[1]} answers of one table; the "
    "proxy is in its standard deviations.",
    panels=2,
    size=(8.0, 3.4),
)
