"""The size of a step: KL after one iteration, and where a run goes, for five learning rates.

GRPO with PPO's clip, as accord has them, on a log-linear policy over 32 answers of the world's
demonstrators to each of 48 prompts. Adam takes four passes over each iteration's draws. All KLs
are exact sums over the table, and the true reward at the end is that on 24 other prompts too.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import expected, kl
from answer_texts import draw_answers, text_table
from experiment import Experiment

from accord.measure.statistics import mean_interval
from accord.objectives.advantages import group_advantages
from accord.objectives.policy import clipped_policy_loss

experiment = Experiment(__file__, __doc__)
RATES, SEEDS = (0.001, 0.003, 0.01, 0.03, 0.1), experiment.size(3, 2)
ITERATIONS, PASSES, GROUP, CLIP = experiment.size(50, 4), 4, 4, 0.2


def run(rate: float, seed: int) -> list[dict[str, float]]:
    """The reward, the KLs and the clipped share of each iteration."""
    half, answers = experiment.size(48, 4), experiment.size(32, 8)
    table = text_table(half * 3 // 2, answers, seed, features=experiment.size(150, 20))
    x, rewards = table.features[:half], table.rewards[:half]
    uniform = torch.full_like(rewards, 1 / answers)
    weights = torch.zeros(x.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=rate)
    rows = []
    for iteration in range(ITERATIONS):
        old = (x @ weights.detach()).log_softmax(1)
        after = []
        drawn = draw_answers(old.exp(), GROUP, seed=1000 * seed + iteration)
        advantages = group_advantages(rewards.gather(1, drawn), scale=True)
        for _ in range(PASSES):
            logp = (x @ weights).log_softmax(1)
            log_ratio = (logp - old).gather(1, drawn)
            loss = clipped_policy_loss(log_ratio, advantages, clip_low=CLIP, clip_high=CLIP).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            after.append(kl(old.exp(), (x @ weights.detach()).softmax(1)))
        policy = (x @ weights.detach()).softmax(1)
        others = (table.features[half:] @ weights.detach()).softmax(1)
        ratio = (policy.log() - old).gather(1, drawn).exp()
        rows.append(
            {
                "reward": expected(policy, rewards),
                "others": expected(others, table.rewards[half:]),
                "first pass": after[0],
                "all passes": after[-1],
                "KL": kl(policy, uniform),
                "clipped": float(((ratio - 1).abs() > CLIP).float().mean()),
                "entropy": -expected(policy, policy.clamp(min=1e-30).log()),
            }
        )
    return rows


runs = {rate: [run(rate, seed) for seed in range(SEEDS)] for rate in RATES}


def draw(axes: Any, colours: Any) -> None:
    left, right = axes
    for i, key in enumerate(("first pass", "all passes")):
        for rate in RATES:
            values = [rows[0][key] for rows in runs[rate]]
            label = f"after the {key}" if i == 0 else f"after {PASSES} passes"
            label = label if rate == RATES[0] else ""
            left.plot([rate] * SEEDS, values, "o", color=colours[i], ms=4, label=label)
    start = sum(rows[0]["first pass"] for rows in runs[RATES[0]]) / SEEDS
    line = [start * (rate / RATES[0]) ** 2 for rate in RATES]
    left.plot(RATES, line, color=colours[7], ls=":", label="square of the learning rate")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel="KL in the first iteration (nats)",
    )
    left.legend()
    for rate, colour in zip(RATES, colours, strict=False):
        for n, rows in enumerate(runs[rate]):
            label = "" if n else f"{rate:g}"
            at = range(1, len(rows) + 1)
            right.plot(at, [row["reward"] for row in rows], color=colour, lw=1, label=label)
    right.set(xlabel="iterations", ylabel="true reward", ylim=(0.4, 1.0))
    right.legend(title="learning rate", ncols=2)


def span(values: list[float], digits: int) -> str:
    interval = mean_interval(values)
    return f"{interval.mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


smallest = sum(rows[0]["first pass"] for rows in runs[RATES[0]]) / SEEDS
lines = [
    [
        f"{rate:g}",
        f"{sum(rows[0]['first pass'] for rows in runs[rate]) / SEEDS:.2g}",
        f"{smallest * (rate / RATES[0]) ** 2:.2g}",
        f"{sum(rows[0]['all passes'] for rows in runs[rate]) / SEEDS:.2g}",
        f"{sum(rows[0]['clipped'] for rows in runs[rate]) / SEEDS:.2f}",
        span([rows[-1]["reward"] for rows in runs[rate]], 3),
        span([rows[-1]["others"] for rows in runs[rate]], 3),
        span([rows[-1]["KL"] for rows in runs[rate]], 2),
        span([rows[-1]["entropy"] for rows in runs[rate]], 2),
    ]
    for rate in RATES
]
experiment.save(
    draw,
    [
        "learning rate",
        "KL after one pass",
        "by the square of the rate",
        "after four",
        "clipped",
        "true reward at the end",
        "other prompts",
        "KL (nats)",
        "entropy (nats)",
    ],
    lines,
    note=f"Means of {SEEDS} seeds, with the lowest and highest; {ITERATIONS} iterations of "
    f"{PASSES} passes. KL after passes is KL(before‖after) of the first iteration; clipped is the "
    f"share of drawn answers whose ratio lies outside 1 ± {CLIP} then.",
    panels=2,
    size=(8.0, 3.4),
)
