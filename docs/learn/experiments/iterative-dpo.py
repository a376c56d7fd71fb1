"""One round of DPO, three and twelve, on the same number of judged pairs and of optimiser steps.

A policy with one logit for each of 64 answers of the world's demonstrators to each of 60
prompts, so that nothing generalises: it learns of an answer only by a pair that has it. Every
round draws pairs of the present policy's answers, has annotators with errors judge them, and
trains on all pairs so far; 24 pairs of each prompt in all.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from answer_table import expected, kl, shown
from answer_texts import draw_answers, text_table
from experiment import Experiment
from torch import Tensor

from accord.objectives import dpo_loss
from accord.world.annotators import simulated_preference

experiment = Experiment(__file__, __doc__)
SEEDS, NOISE, BETA, RATE = experiment.size(3, 2), 0.1, 1.0, 0.1
PROMPTS, ANSWERS = experiment.size(60, 4), experiment.size(64, 8)
PAIRS, STEPS = 24, experiment.size(240, 12)
ARMS = {
    "one round": (1, False),
    "three rounds": (3, False),
    "twelve rounds": (12, False),
    "three rounds, moving reference": (3, True),
}


def judge(rewards: Tensor, policy: Tensor, count: int, seed: int) -> Tensor:
    """(P, count, 2): draws of the policy, the preferred one first."""
    drawn = draw_answers(policy, 2 * count, seed).view(len(rewards), count, 2)
    rng, rows = random.Random(seed), []
    for pairs, row in zip(drawn.tolist(), rewards.tolist(), strict=True):
        for a, b in pairs:
            ranks = simulated_preference((row[a], row[b]), noise=NOISE, rng=rng)
            rows.append((a, b) if ranks[0] == 0 else (b, a))
    return torch.tensor(rows).view(len(rewards), count, 2)


def run(rounds: int, moving: bool, seed: int) -> list[dict[str, float]]:
    """The measures before training and after each round."""
    rewards = text_table(PROMPTS, ANSWERS, seed).rewards
    uniform = torch.full_like(rewards, 1 / ANSWERS)
    logits, reference = torch.zeros_like(rewards), uniform.log()
    pairs = torch.zeros(PROMPTS, 0, 2, dtype=torch.long)
    rows = [{"reward": expected(uniform, rewards), "kl": 0.0}]
    for number in range(rounds):
        policy = logits.softmax(1)
        new = judge(rewards, policy, PAIRS // rounds, 100 * seed + number)
        if moving:
            pairs, reference = new, policy.log()
        else:
            pairs = torch.cat([pairs, new], dim=1)
        logits = logits.clone().requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=RATE)
        for _ in range(STEPS // rounds):
            log_ratio = logits.log_softmax(1) - reference
            chosen, rejected = (log_ratio.gather(1, pairs[..., i]) for i in (0, 1))
            loss = dpo_loss(chosen, rejected, beta=BETA).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        logits = logits.detach()
        policy = logits.softmax(1)
        rows.append({"reward": expected(policy, rewards), "kl": kl(policy, uniform)})
    return rows


def optimum(seed: int) -> float:
    """The true reward of reference·exp(r/β)/Z, with the annotators' r = true reward / NOISE."""
    rewards = text_table(PROMPTS, ANSWERS, seed).rewards
    return expected((rewards / NOISE / BETA).softmax(1), rewards)


runs = {name: [run(*arm, seed) for seed in range(SEEDS)] for name, arm in ARMS.items()}
best = [optimum(seed) for seed in range(SEEDS)]


def draw(axes: Any, colours: Any) -> None:
    for (name, by_seed), colour in zip(runs.items(), colours, strict=False):
        for n, rows in enumerate(by_seed):
            at = [PAIRS * i / (len(rows) - 1) for i in range(len(rows))]
            label = "" if n else name
            axes.plot(
                at,
                [row["reward"] for row in rows],
                color=colour,
                marker="o",
                ms=3,
                lw=1.2,
                label=label,
            )
    axes.axhline(
        sum(best) / SEEDS, color=colours[7], ls=":", label="optimum of the fixed reference"
    )
    axes.set(xlabel="judged pairs of each prompt", ylabel="true reward", ylim=(0.4, 1.0))
    axes.legend(loc="lower right")


lines = [["before", shown([rows[0]["reward"] for rows in runs["one round"]]), "", "0"]]
for name, by_seed in runs.items():
    last = [rows[-1]["reward"] for rows in by_seed]
    gains = [a - rows[-1]["reward"] for a, rows in zip(last, runs["one round"], strict=True)]
    lines.append(
        [
            name,
            shown(last),
            "" if name == "one round" else shown(gains),
            shown([rows[-1]["kl"] for rows in by_seed], 2),
        ]
    )
lines.append(["optimum of the fixed reference", shown(best), "", ""])
experiment.save(
    draw,
    ["training", "true reward", "more than one round", "KL from the start (nats)"],
    lines,
    note=f"Means over {SEEDS} seeds (worlds, draws and labels) with 95% intervals; gains are "
    f"paired by seed. {PAIRS} pairs of each prompt and {STEPS} steps in all.",
)
