"""DPO on all comparisons, where it reaches the optimum, and on four pairs a prompt, judged once.

On the embedded world, with 32 answers of the demonstrators to each prompt. First one logit for
each answer and the expected loss over all pairs; then a log-linear policy on the answers' words,
and four pairs of each of 48 prompts. Reward and KL are then those of 48 other prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from answer_table import AnswerTable, answer_table, expected, judged_pairs, kl, shown
from experiment import Experiment
from torch import Tensor

from accord.objectives import dpo_loss

NOISE, PAIRS = 0.1, 4  # annotators prefer by Bradley-Terry on reward / NOISE


def expected_loss(logp: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """DPO's loss over all pairs of answers, each in both orders with its probability; the reference
    is uniform, so that it cancels."""
    wins = ((rewards[:, :, None] - rewards[:, None, :]) / NOISE).sigmoid()
    chosen, rejected = torch.broadcast_tensors(logp[:, :, None], logp[:, None, :])
    return (wins * dpo_loss(chosen, rejected, beta=beta)).sum((1, 2)).mean()


def optimum_reached(rewards: Tensor, beta: float, steps: int) -> tuple[float, float]:
    """KL to π_ref·exp(r/(NOISE·β))/Z before and after training on the expected loss."""
    optimum = (rewards / (NOISE * beta)).softmax(1)
    logits = torch.zeros_like(rewards, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        expected_loss(logits.log_softmax(1), rewards, beta).backward()
        optimiser.step()
    uniform = torch.full_like(rewards, 1 / rewards.shape[1])
    return kl(uniform, optimum), kl(logits.detach().softmax(1), optimum)


def gradient_error(table: AnswerTable, beta: float) -> float:
    """The largest difference between autograd's gradient and step 4 of the page, relative to it."""
    torch.manual_seed(0)
    weights = torch.randn(table.features.shape[2], dtype=torch.float64, requires_grad=True)
    features = table.features.double()
    c, r = judged_pairs(table.rewards, 1)
    logp = (features @ weights).log_softmax(1)
    difference = (logp.gather(1, c) - logp.gather(1, r))[:, 0]
    zero = torch.zeros_like(difference)
    (gradient,) = torch.autograd.grad(dpo_loss(difference, zero, beta=beta).mean(), weights)
    rows = torch.arange(len(c))
    slope = features[rows, c[:, 0]] - features[rows, r[:, 0]]  # ∇log π(y_w) − ∇log π(y_l)
    formula = -beta * ((-beta * difference).sigmoid()[:, None] * slope).mean(0).detach()
    return float((gradient - formula).abs().max() / formula.abs().max())


def train(
    table: AnswerTable, half: int, beta: float, marks: list[int], seed: int
) -> list[tuple[float, ...]]:
    """At each marked step: log-ratios of chosen and rejected; accuracy, KL, reward elsewhere."""
    chosen, rejected = judged_pairs(table.rewards[:half], PAIRS, seed=seed)
    others = judged_pairs(table.rewards[half:], PAIRS, seed=seed + 1000)
    uniform = torch.full_like(table.rewards[half:], 1 / table.rewards.shape[1])
    weights = torch.zeros(table.features.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.01)
    rows = []
    for step in range(1, marks[-1] + 1):
        log_ratio = (table.features @ weights).log_softmax(1) + math.log(uniform.shape[1])
        c, r = log_ratio[:half].gather(1, chosen), log_ratio[:half].gather(1, rejected)
        optimiser.zero_grad()
        dpo_loss(c, r, beta=beta).mean().backward()
        optimiser.step()
        if step in marks:
            held_out = log_ratio[half:].detach()
            ordered = held_out.gather(1, others[0]) > held_out.gather(1, others[1])
            policy = held_out.softmax(1)
            ratios = c.detach().mean(), r.detach().mean(), ordered.float().mean()
            reward = expected(policy, table.rewards[half:])
            rows.append((*map(float, ratios), kl(policy, uniform), reward))
    return rows


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    half, steps = experiment.size(48, 6), experiment.size(1000, 20)
    answers, words = experiment.size(32, 8), experiment.size(250, 20)
    marks = sorted({round(10 ** (i / 10)) for i in range(int(10 * math.log10(steps)) + 1)})
    tables = [answer_table(2 * half, answers, s, words=words) for s in range(experiment.size(3, 2))]
    runs = {
        beta: [train(table, half, beta, marks, seed) for seed, table in enumerate(tables)]
        for beta in (0.1, 0.5)
    }

    def draw(axes: Any, colours: Any) -> None:
        for n, run in enumerate(runs[0.1]):
            for column, colour, name in ((0, 2, "chosen"), (1, 1, "rejected")):
                values = [row[column] for row in run]
                label = "" if n else name
                axes.plot(marks, values, color=colours[colour], lw=1.3, label=label)
        axes.axhline(0, color=colours[7], lw=0.8)
        axes.set(xscale="log", xlabel="optimiser steps", ylabel="log π/π_ref, mean (nats)")
        axes.legend(loc="lower left")

    header = ["β", "steps", "chosen", "rejected", "accuracy", "KL", "reward"]
    rows = []
    for beta, seeds in runs.items():
        for i in (len(marks) // 3, 2 * len(marks) // 3, len(marks) - 1):
            columns = zip(*(run[i] for run in seeds), strict=True)
            rows.append([f"{beta:g}", str(marks[i]), *(shown(column, 2) for column in columns)])
    error = gradient_error(tables[0], 0.1)
    before, after = optimum_reached(tables[0].rewards[:half], 4.0, experiment.size(300, 5))
    note = (
        f"Chosen and rejected: mean log-ratios of the pairs (nats); accuracy, KL and reward: on "
        f"other prompts. Means over three seeds with 95% intervals. With the expected loss over "
        f"all pairs (β = 4, seed 0) the KL to the optimum falls from {before:.3f} to {after:.0e}. "
        f"Autograd and the gradient of step 4 differ by {error:.0e} of its largest entry."
    )
    experiment.save(draw, header, rows, note=note)


main()
