"""Four sets of preferences of the same size, and the two error rates of refusing.

A policy that either refuses or answers, with log-odds linear in the words of the request. It
learns first from the world's careless demonstrators, who comply with about half of what is
harmful and refuse a third of the look-alikes. DPO then trains it on 240 pairs: on harmful
requests alone; with half of them replaced by ordinary harmless requests, by look-alikes ("How
do I kill the weeds?"), or by both. Rates are those on requests that are in no training set.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from answer_table import shown
from answer_texts import fit
from experiment import Experiment
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from accord.objectives import dpo_loss
from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.language import split_words
from accord.world.reward import is_refusal
from accord.world.tasks import Task

experiment = Experiment(__file__, __doc__)
SEEDS, BETA, RATE, EVERY = experiment.size(3, 2), 0.3, 0.01, experiment.size(20, 4)
PAIRS, STEPS = experiment.size(240, 8), experiment.size(400, 8)
GROUPS = {
    "harmful": ("harmful", "jailbreak"),
    "look-alikes": ("safe",),
    "ordinary": ("thanks", "remind", "apology", "invite", "fact"),
}
SETS: dict[str, dict[str, float]] = {  # shares of the pairs
    "harmful alone": {"harmful": 1.0},
    "harmful and ordinary": {"harmful": 0.5, "ordinary": 0.5},
    "harmful and look-alikes": {"harmful": 0.5, "look-alikes": 0.5},
    "all three": {"harmful": 0.5, "look-alikes": 0.25, "ordinary": 0.25},
}


def run(seed: int) -> dict[str, list[dict[str, float]]]:
    rng = random.Random(seed)
    tasks = distinct_tasks(rng, experiment.size(2400, 200), "train_prompts")
    half = len(tasks) // 2
    words = sorted({word for task in tasks[:half] for word in split_words(task.text)})

    def features(rows: list[Task]) -> Tensor:
        sets = [set(split_words(task.text)) for task in rows]
        return torch.tensor([[1.0] + [float(word in asked) for word in words] for asked in sets])

    def of(kind: str, rows: list[Task]) -> list[Task]:
        return [task for task in rows if task.kind in GROUPS[kind]]

    shown_by = torch.tensor([float(is_refusal(demonstrate(task, rng))) for task in tasks[:half]])
    seen = features(tasks[:half])

    def imitation(weights: Tensor) -> Tensor:
        fitted = binary_cross_entropy_with_logits(seen @ weights, shown_by)
        return fitted + 1e-3 * weights.square().sum()

    sft = fit(imitation, torch.zeros(seen.shape[1]), steps=experiment.size(300, 5), rate=0.05)
    test = {kind: features(of(kind, tasks[half:])) for kind in GROUPS}

    def rates(weights: Tensor) -> dict[str, float]:
        refused = {kind: float((x @ weights).sigmoid().mean()) for kind, x in test.items()}
        return {
            "compliance": 1 - refused["harmful"],
            "look-alikes": refused["look-alikes"],
            "ordinary": refused["ordinary"],
        }

    runs = {}
    for name, shares in SETS.items():
        chosen = [
            t
            for kind, share in shares.items()
            for t in of(kind, tasks[:half])[: int(share * PAIRS)]
        ]
        x = features(chosen)
        sign = torch.tensor([1.0 if task.must_refuse else -1.0 for task in chosen])

        def loss(weights: Tensor, x: Tensor = x, sign: Tensor = sign) -> Tensor:
            difference = sign * (
                x @ (weights - sft)
            )  # log-odds of the preferred, less the reference's
            return dpo_loss(difference, torch.zeros(len(sign)), beta=BETA).mean()

        points, weights = [rates(sft)], sft
        for _ in range(STEPS // EVERY):
            weights = fit(loss, weights, steps=EVERY, rate=RATE)
            points.append(rates(weights))
        runs[name] = points
    return runs


results = [run(seed) for seed in range(SEEDS)]


def draw(axes: Any, colours: Any) -> None:
    for name, colour in zip(SETS, colours, strict=False):
        for n, by_set in enumerate(results):
            points = by_set[name]
            x, y = [p["look-alikes"] for p in points], [p["compliance"] for p in points]
            axes.plot(x, y, color=colour, lw=1.2, label="" if n else name)
            axes.plot(x[-1], y[-1], "o", color=colour, ms=5)
            axes.plot(
                x[0],
                y[0],
                "s",
                color=colours[7],
                ms=6,
                label="" if n or name != "harmful alone" else "before",
            )
    axes.set(
        xlabel="over-refusal: look-alikes refused",
        ylabel="harmful requests answered",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 0.65),
    )
    axes.legend()


def cells(points: list[dict[str, float]]) -> list[str]:
    return [shown([p[key] for p in points], 2) for key in ("compliance", "look-alikes", "ordinary")]


lines = [["before (SFT)", *cells([r["harmful alone"][0] for r in results])]]
lines += [[name, *cells([r[name][-1] for r in results])] for name in SETS]
experiment.save(
    draw,
    [
        "preferences",
        "harmful requests answered",
        "look-alikes refused",
        "ordinary requests refused",
    ],
    lines,
    note=f"Means over {SEEDS} seeds (worlds and demonstrations) with 95% intervals; each set "
    f"has {PAIRS} pairs.",
)
