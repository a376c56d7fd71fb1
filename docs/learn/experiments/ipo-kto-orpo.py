"""How far DPO, IPO, KTO and ORPO move on pairs that were judged once, and where they stop.

On the embedded world, with 32 answers of the demonstrators to each prompt and a log-linear policy
on their words. Four pairs of each of 48 prompts are judged once, by annotators with errors; the
reward and the KL are those of 48 other prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from answer_table import AnswerTable, answer_table, expected, judged_pairs, kl, shown
from experiment import Experiment
from torch import Tensor

from accord.objectives import (
    dpo_loss,
    ipo_summed_loss,
    kto_loss,
    kto_reference_point,
    odds_ratio_loss,
)

BETA, PAIRS = 0.1, 4
METHODS = ("DPO", "IPO", "KTO", "ORPO")


def pair_loss(method: str, logp: Tensor, reference: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """The mean loss over pairs, of log-probs (prompts, answers)."""
    chosen, rejected = pairs
    log_ratio = logp - reference
    c, r = log_ratio.gather(1, chosen), log_ratio.gather(1, rejected)
    if method == "DPO":
        return dpo_loss(c, r, beta=BETA).mean()
    if method == "IPO":
        return ipo_summed_loss(c, r, beta=BETA).mean()
    if method == "KTO":
        mismatched = log_ratio.gather(1, chosen.roll(1, 0))  # an answer of another prompt
        both = torch.cat([c, r]).flatten()
        desirable = torch.arange(len(both)) < c.numel()
        point = kto_reference_point(mismatched.flatten())
        return kto_loss(both, desirable, point, beta=BETA).mean()
    logp_c, logp_r = logp.gather(1, chosen), logp.gather(1, rejected)
    return (odds_ratio_loss(logp_c, logp_r) - logp_c).mean()  # λ = 1; an answer is one token


def train(
    method: str, table: AnswerTable, half: int, marks: list[int], seed: int
) -> list[tuple[float, float, float]]:
    """At each marked step: the pairs' log-ratio difference, and KL and reward on other prompts."""
    pairs = judged_pairs(table.rewards[:half], PAIRS, seed=seed)
    uniform = torch.full_like(table.rewards, 1 / table.rewards.shape[1])
    weights = torch.zeros(table.features.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.01)
    rows = []
    for step in range(1, marks[-1] + 1):
        logp = (table.features[:half] @ weights).log_softmax(1)
        loss = pair_loss(method, logp, uniform[:half].log(), pairs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step in marks:
            logits = table.features @ weights.detach()
            logp, policy = logits[:half].log_softmax(1), logits[half:].softmax(1)
            difference = (logp.gather(1, pairs[0]) - logp.gather(1, pairs[1])).mean()
            held_out = table.rewards[half:]
            rows.append((float(difference), kl(policy, uniform[half:]), expected(policy, held_out)))
    return rows


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    half, steps = experiment.size(48, 6), experiment.size(1000, 20)
    marks = sorted({round(10 ** (i / 10)) for i in range(int(10 * math.log10(steps)) + 1)})
    runs: dict[str, list[list[tuple[float, float, float]]]] = {method: [] for method in METHODS}
    for seed in range(experiment.size(3, 2)):
        table = answer_table(2 * half, experiment.size(32, 8), seed, words=experiment.size(250, 20))
        for method in METHODS:
            runs[method].append(train(method, table, half, marks, seed))

    def draw(axes: Any, colours: Any) -> None:
        for i, method in enumerate(METHODS):
            for n, run in enumerate(runs[method]):
                label = "" if n else method
                difference = [row[0] for row in run]
                axes.plot(marks, difference, color=colours[i], lw=1.3, label=label)
        target = 1 / (2 * BETA)
        axes.axhline(target, color=colours[7], ls=":", label=f"IPO's target, {target:g} nats")
        axes.set(xscale="log", xlabel="optimiser steps", ylim=(0, None))
        axes.set_ylabel("log-ratio, chosen − rejected (nats)")
        axes.legend(loc="upper left")

    header = ["method", "steps", "difference (nats)", "KL, other prompts", "reward, other prompts"]
    rows = []
    for method in METHODS:
        for i in (len(marks) // 3, 2 * len(marks) // 3, len(marks) - 1):
            columns = zip(*(run[i] for run in runs[method]), strict=True)
            rows.append([method, str(marks[i]), *(shown(column, 2) for column in columns)])
    note = (
        "Means over three seeds with 95% intervals; the reference has KL 0 and a reward near 0.5."
    )
    experiment.save(draw, header, rows, note=note)


main()
