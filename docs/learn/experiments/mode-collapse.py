"""Policy gradient on a reward that many answers share: how many of them are left?

The reference is the world's demonstrators, 64 answers to each of 60 prompts. The reward is 1
for an answer whose true reward is at least 0.5 and 0 for another, so that no good answer is
better than another good one. REINFORCE with a leave-one-out baseline draws 8 answers to each
prompt at each step and moves the logits of the answers; the KL penalty is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import expected, kl, shown
from answer_texts import draw_answers, text_table
from experiment import Experiment
from torch import Tensor

from accord.objectives.advantages import leave_one_out

experiment = Experiment(__file__, __doc__)
BETAS, GROUP, RATE = (0.0, 0.02, 0.1), 8, 0.3
STEPS, EVERY = experiment.size(15_000, 20), experiment.size(100, 5)
SHOWN = (experiment.size(1500, 5), STEPS)
answers = experiment.size(64, 8)


def different(policy: Tensor, texts: list[list[str]], drawn: int = 10) -> float:
    """The expected number of different texts among ten draws: Σ 1 − (1 − p)^10."""
    total = 0.0
    for row, names in zip(policy.tolist(), texts, strict=True):
        by_text: dict[str, float] = {}
        for p, name in zip(row, names, strict=True):
            by_text[name] = by_text.get(name, 0.0) + p
        total += sum(1 - (1 - min(1.0, p)) ** drawn for p in by_text.values())
    return total / len(policy)


def measure(
    policy: Tensor, good: Tensor, texts: list[list[str]], uniform: Tensor
) -> dict[str, float]:
    return {
        "reward": expected(policy, good),
        "different": different(policy, texts),
        "entropy": -expected(policy, policy.clamp(min=1e-30).log()),
        "kl": kl(policy, uniform),
    }


def run(beta: float, seed: int) -> list[dict[str, float]]:
    table = text_table(experiment.size(60, 4), answers, seed)
    good = (table.rewards >= 0.5).float()
    uniform = torch.full_like(good, 1 / answers)
    logits = torch.zeros_like(good)
    rows = [measure(uniform, good, table.texts, uniform)]
    for step in range(1, STEPS + 1):
        policy = logits.softmax(1)
        drawn = draw_answers(policy, GROUP, seed=10_000 * seed + step)
        advantages = leave_one_out(good.gather(1, drawn)) / GROUP
        # Σ A·∇log π of the drawn answers, by their logits: A at the answer, −ΣA·π everywhere.
        gradient = torch.zeros_like(logits).scatter_add(1, drawn, advantages)
        gradient -= advantages.sum(1, keepdim=True) * policy
        log_ratio = (policy * answers).clamp(min=1e-30).log()
        mean = (policy * log_ratio).sum(1, keepdim=True)
        logits += RATE * (gradient - beta * policy * (log_ratio - mean))
        if step % EVERY == 0:
            rows.append(measure(logits.softmax(1), good, table.texts, uniform))
    return rows


SEEDS = experiment.size(3, 1)
runs = {beta: [run(beta, seed) for seed in range(SEEDS)] for beta in BETAS}
ideal = []
for seed in range(SEEDS):
    table = text_table(experiment.size(60, 4), answers, seed)
    good = (table.rewards >= 0.5).float()
    policy = good / good.sum(1, keepdim=True).clamp(min=1)
    policy = torch.where(good.sum(1, keepdim=True) > 0, policy, torch.full_like(good, 1 / answers))
    ideal.append(measure(policy, good, table.texts, torch.full_like(good, 1 / answers)))


def draw(axes: Any, colours: Any) -> None:
    for axis, key in zip(axes, ("reward", "different"), strict=True):
        for beta, colour in zip(BETAS, colours, strict=False):
            for n, rows in enumerate(runs[beta]):
                at = [EVERY * i for i in range(1, len(rows))]
                label = "" if n else f"$\\beta$ = {beta:g}"
                axis.plot(at, [row[key] for row in rows[1:]], color=colour, lw=1.2, label=label)
        axis.axhline(
            sum(r[key] for r in ideal) / SEEDS,
            color=colours[7],
            ls=":",
            label="all good answers, equally",
        )
        axis.set(xlabel="steps", xscale="log")
    axes[0].set(ylabel="reward: share of good answers", ylim=(0, 1.03))
    axes[1].set(ylabel="different answers among ten", ylim=(0, 10.3))
    axes[1].legend()


def cells(rows: list[dict[str, float]]) -> list[str]:
    keys = (("reward", 3), ("different", 2), ("entropy", 2), ("kl", 2))
    return [shown([row[key] for row in rows], digits) for key, digits in keys]


lines = [
    ["reference", *cells([rows[0] for rows in runs[0.0]])],
    ["all good answers, equally", *cells(ideal)],
]
for beta in BETAS:
    for steps in SHOWN:
        at_step = [rows[steps // EVERY] for rows in runs[beta]]
        lines.append([f"beta {beta:g}, {steps:,} steps", *cells(at_step)])
experiment.save(
    draw,
    ["policy", "reward", "different answers of ten", "entropy (nats)", "KL (nats)"],
    lines,
    note=f"Means over {SEEDS} seeds (worlds and draws) with 95% intervals.",
    panels=2,
    size=(8.0, 3.4),
)
