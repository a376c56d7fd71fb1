"""The demonstrators' ceiling, and what is above it: the best policy at each strength λ.

On the embedded world, with 64 answers of the demonstrators to each of 100 prompts.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import answer_table, expected, kl, shown
from experiment import Experiment

STRENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    prompts, answers = experiment.size(100, 4), experiment.size(64, 8)
    columns: dict[float, list[tuple[float, ...]]] = {strength: [] for strength in STRENGTHS}
    curves, best = [], []
    for seed in range(experiment.size(5, 2)):
        rewards = answer_table(prompts, answers, seed).rewards.double()
        uniform = torch.full_like(rewards, 1 / answers)
        best.append(float(rewards.max(1).values.mean()))
        curve = []
        for strength in torch.linspace(0, 6, 60).exp().sub(1).tolist():
            policy = (strength * rewards).softmax(1)
            curve.append((kl(policy, uniform), expected(policy, rewards)))
        curves.append(curve)
        for strength in STRENGTHS:
            policy = (strength * rewards).softmax(1)
            mean = (policy * rewards).sum(1, keepdim=True)
            variance = expected(policy, (rewards - mean).square())
            # d E[r] / dλ by a central difference, which the page derives to be the variance.
            high, low = (((strength + d) * rewards).softmax(1) for d in (1e-4, -1e-4))
            slope = (expected(high, rewards) - expected(low, rewards)) / 2e-4
            columns[strength].append(
                (expected(policy, rewards), kl(policy, uniform), variance, slope)
            )

    def draw(axes: Any, colours: Any) -> None:
        for i, curve in enumerate(curves):
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=colours[0], alpha=0.6, lw=1.2, label="" if i else "best policy")
        ceiling = sum(c[0][1] for c in curves) / len(curves)
        axes.axhline(ceiling, color=colours[1], ls="--", label="demonstrators' mean: SFT's ceiling")
        top = sum(best) / len(best)
        axes.axhline(top, color=colours[7], ls=":", label=f"best of {answers} demonstrations")
        axes.set(xlabel="KL from the demonstrators (nats)", ylabel="expected true reward")
        axes.set(ylim=(0.4, 1.02), xlim=(0, 3.5))
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.18))

    header = ["λ = 1/β", "expected reward", "KL (nats)", "variance of reward", "d reward / dλ"]
    rows = []
    for strength, values in columns.items():
        cells = [shown(column) for column in zip(*values, strict=True)]
        rows.append([f"{strength:g}", *cells])
    note = "Means over five seeds, each with its own prompts and answers, with 95% intervals."
    experiment.save(draw, header, rows, note=note)


main()
