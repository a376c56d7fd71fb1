"""SFT on demonstrations, SFT on chosen answers and DPO, for the same number of examples.

A log-linear policy over 32 answers to each prompt, of which half are the world's demonstrators'
and half their answers to other prompts. The base model is uniform over all of them: it has not
learned to answer. An example is a demonstration, or a comparison of two answers. Reward is that
on 48 other prompts.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from answer_table import expected, shown
from answer_texts import draw_answers, fit, text_table
from experiment import Experiment
from torch import Tensor

from accord.objectives import dpo_loss
from accord.world.annotators import simulated_preference

experiment = Experiment(__file__, __doc__)
SEEDS, BETA = experiment.size(3, 2), 0.3
COUNTS = (16, 64, 256) if not experiment.quick else (4, 16)
train, test, answers = experiment.size(96, 12), experiment.size(48, 6), experiment.size(32, 12)
OPTIONS = (
    "SFT on demonstrations",
    "SFT on the better of two",
    "DPO after SFT",
    "DPO after SFT, random labels",
    "DPO on the base model",
)


def run(seed: int) -> dict[str, list[float]]:
    table = text_table(
        train + test, answers, seed, features=experiment.size(120, 20), foreign=answers // 2
    )
    x, rewards = table.features, table.rewards
    rng = random.Random(seed)

    def truth(weights: Tensor) -> float:
        return expected((x[train:] @ weights).softmax(1), rewards[train:])

    def sft(prompts: Tensor, chosen: Tensor, start: Tensor) -> Tensor:
        def loss(weights: Tensor) -> Tensor:
            logp = (x[prompts] @ weights).log_softmax(1)
            return -logp.gather(1, chosen[:, None]).mean() + 1e-2 * (weights - start).square().sum()

        return fit(loss, start, steps=experiment.size(150, 5), rate=0.02)

    def dpo(prompts: Tensor, pairs: Tensor, start: Tensor) -> Tensor:
        difference = x[prompts, pairs[:, 0]] - x[prompts, pairs[:, 1]]

        def loss(weights: Tensor) -> Tensor:
            log_ratio = difference @ (weights - start)
            penalty = 1e-2 * (weights - start).square().sum()
            return dpo_loss(log_ratio, torch.zeros(len(log_ratio)), beta=BETA).mean() + penalty

        return fit(loss, start, steps=experiment.size(80, 5), rate=0.01)

    def compared(weights: Tensor, prompts: Tensor, noise: float) -> Tensor:
        """Two draws of the policy to each prompt, the preferred first."""
        drawn = draw_answers((x[prompts] @ weights).softmax(1), 2, seed).tolist()
        rows = []
        for prompt, two in zip(prompts.tolist(), drawn, strict=True):
            ranks = simulated_preference(
                [float(rewards[prompt, i]) for i in two], noise=noise, rng=rng
            )
            rows.append(two if ranks[0] == 0 else two[::-1])
        return torch.tensor(rows)

    base = torch.zeros(x.shape[2])
    many = torch.tensor([i % train for i in range(COUNTS[-1])])
    own = torch.tensor(
        [rng.randrange(answers - answers // 2) for _ in many]
    )  # demonstrators' answers
    model = sft(many, own, base)
    results: dict[str, list[float]] = {name: [] for name in OPTIONS}
    results["lines"] = [
        truth(base),
        truth(model),
        float(rewards[train:, : answers - answers // 2].mean()),
    ]
    for count in COUNTS:
        prompts = many[:count]
        pairs = compared(model, prompts, 0.1)
        for name, weights in (
            (OPTIONS[0], sft(prompts, own[:count], base)),
            (OPTIONS[1], sft(prompts, pairs[:, 0], model)),
            (OPTIONS[2], dpo(prompts, pairs, model)),
            (OPTIONS[3], dpo(prompts, compared(model, prompts, 1e6), model)),
            (OPTIONS[4], dpo(prompts, compared(base, prompts, 0.1), base)),
        ):
            results[name].append(truth(weights))
    return results


runs = [run(seed) for seed in range(SEEDS)]
demonstrators = sum(r["lines"][2] for r in runs) / SEEDS


def draw(axes: Any, colours: Any) -> None:
    for name, colour in zip(OPTIONS, colours, strict=False):
        for n, by_option in enumerate(runs):
            axes.plot(
                COUNTS,
                by_option[name],
                color=colour,
                marker="o",
                ms=3,
                lw=1.2,
                label="" if n else name,
            )
    axes.axhline(demonstrators, color=colours[7], ls=":", label="mean of the demonstrations")
    axes.set(
        xscale="log",
        xlabel="examples: demonstrations or comparisons",
        ylabel="true reward, other prompts",
        ylim=(0, 0.9),
    )
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes.minorticks_off()
    axes.legend(loc="upper left", fontsize=7)


lines = [
    [name, *(shown([r[name][i] for r in runs]) for i in range(len(COUNTS)))] for name in OPTIONS
]
start = [shown([r["lines"][i] for r in runs]) for i in range(3)]
experiment.save(
    draw,
    ["option", *(f"{count:,} examples" for count in COUNTS)],
    lines,
    note=f"True reward, means over {SEEDS} seeds (worlds, draws and labels) with 95% "
    f"intervals. The base model has {start[0]}, the SFT model that three of the options "
    f"start from {start[1]}, the demonstrations {start[2]}.",
    size=(5.6, 4.2),
)
