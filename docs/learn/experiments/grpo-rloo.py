"""The noise of policy-gradient estimates from 256 responses, for groups of K and four advantages.

On the embedded world, with 64 answers of the demonstrators to each of 64 prompts, and a log-linear
policy on their words that starts uniform: the exact gradient is a sum that can be computed.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import AnswerTable, answer_table, shown
from experiment import Experiment
from torch import Tensor

from accord.objectives import group_advantages, leave_one_out

SIZES = (2, 4, 8, 16, 32)
RESPONSES = 256
FORMS = {
    "none": "no baseline",
    "batch": "the batch's mean",
    "rloo": "the group's others (RLOO)",
    "mean": "the group's mean (Dr. GRPO)",
    "grpo": "mean and deviation (GRPO)",
}


def advantages(scores: Tensor, form: str) -> Tensor:
    """Of scores (groups, K)."""
    if form == "none":
        return scores
    if form == "batch":
        return scores - scores.mean()
    if form == "rloo":
        return leave_one_out(scores)
    return group_advantages(scores, scale=form == "grpo")


def estimates(table: AnswerTable, form: str, size: int, draws: int, seed: int) -> Tensor:
    """Gradient estimates (draws, D) of the mean reward of all prompts."""
    generator = torch.Generator().manual_seed(seed)
    prompts, answers = table.rewards.shape
    # ∇log π(y|x) of a log-linear policy: the features of y less their expectation.
    slopes = table.features - table.features.mean(1, keepdim=True)
    rows = []
    for _ in range(draws):
        x = torch.randint(prompts, (RESPONSES // size, 1), generator=generator)
        y = torch.randint(answers, (RESPONSES // size, size), generator=generator)
        weights = advantages(table.rewards[x, y], form)
        rows.append((weights[..., None] * slopes[x, y]).mean((0, 1)))
    return torch.stack(rows)


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    draws, seeds = experiment.size(200, 4), experiment.size(5, 2)
    noise: dict[tuple[str, int], list[float]] = {}
    size_of_mean: dict[tuple[str, int], list[float]] = {}
    angle: dict[tuple[str, int], list[float]] = {}
    for seed in range(seeds):
        table = answer_table(experiment.size(64, 4), experiment.size(64, 8), seed, words=60)
        slopes = table.features - table.features.mean(1, keepdim=True)
        exact = (table.rewards[..., None] * slopes).mean((0, 1))
        for form in FORMS:
            for size in SIZES:
                g = estimates(table, form, size, draws, seed)
                mean = g.mean(0)
                spread = (g - mean).square().sum(1).mean() / exact.square().sum()
                scale = mean @ exact / exact.square().sum()  # 1 where unbiased
                noise.setdefault((form, size), []).append(float(spread / scale.square()))
                size_of_mean.setdefault((form, size), []).append(float(scale))
                cosine = torch.cosine_similarity(mean, exact, dim=0)
                angle.setdefault((form, size), []).append(float(cosine))

    def draw(axes: Any, colours: Any) -> None:
        for i, form in enumerate(("none", "batch", "rloo", "grpo")):
            values = [noise[form, size] for size in SIZES]
            y = [sum(v) / len(v) for v in values]
            axes.plot(SIZES, y, "os^D"[i] + "-", color=colours[i], ms=5, label=FORMS[form])
        axes.set_xscale("log", base=2)
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.set(xlabel="responses to each prompt, K (256 in all)", ylim=(0, None))
        axes.set_ylabel("noise, squared, relative to the gradient")
        axes.legend()

    header = ["advantage", "K", "noise", "length of the mean", "cosine to the exact gradient"]
    rows = [
        [
            name,
            str(k),
            shown(noise[form, k], 2),
            shown(size_of_mean[form, k]),
            shown(angle[form, k]),
        ]
        for form, name in FORMS.items()
        for k in (2, 8, 32)
    ]
    note = "Means over five seeds with 95% intervals; 200 estimates each."
    experiment.save(draw, header, rows, note=note)


main()
