"""DPO on the labels of five judges: what noise costs, and what a bias becomes.

A log-linear policy over 32 answers of the world's demonstrators to each prompt. Judges label 6
pairs of each of 96 prompts; reward, length and kappa (with a second careful annotator) are
those of 48 other prompts. The longer answer is shown first in every pair, so that a preference
for what is shown first is one for length.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from typing import Any

import torch
from answer_table import expected, shown
from answer_texts import fit, text_table
from experiment import Experiment
from torch import Tensor

from accord.measure.agreement.kappas import cohen_kappa
from accord.measure.agreement.ratings import code_ratings
from accord.objectives import dpo_loss

experiment = Experiment(__file__, __doc__)
SEEDS, NOISE, FIRST, LENGTH, BETA = experiment.size(3, 2), 0.1, 3.0, 0.4, 0.5
train, test, PAIRS = experiment.size(96, 8), experiment.size(48, 6), 6

Judge = Callable[[float, float, random.Random], int | None]
"""From how much better and how many words longer the answer shown first is, to the preferred one
(0 or 1), or None where there is no verdict."""


def prefers(logit: float, rng: random.Random) -> int:
    return 0 if rng.random() < 1 / (1 + exp(-max(-50.0, min(50.0, logit)))) else 1


def careful(better: float, longer: float, rng: random.Random) -> int:
    return prefers(better / NOISE, rng)


def noisy(better: float, longer: float, rng: random.Random) -> int:
    verdict = careful(better, longer, rng)
    return 1 - verdict if rng.random() < 0.25 else verdict


def first(better: float, longer: float, rng: random.Random) -> int:
    return prefers(better / NOISE + FIRST, rng)


def both_orders(better: float, longer: float, rng: random.Random) -> int | None:
    forward, backward = first(better, longer, rng), 1 - first(-better, -longer, rng)
    return forward if forward == backward else None


def long(better: float, longer: float, rng: random.Random) -> int:
    return prefers((better + LENGTH * longer / 10) / NOISE, rng)


JUDGES: dict[str, Judge] = {
    "careful": careful,
    "noisy": noisy,
    "prefers the first": first,
    "prefers the first, both orders": both_orders,
    "prefers length": long,
}


def pairs_of(words: Tensor, seed: int) -> Tensor:
    """(P, PAIRS, 2): two answers each, the longer one first."""
    rng, rows = random.Random(seed), []
    for row in words.tolist():
        drawn = rng.sample(range(len(row)), 2 * PAIRS)
        rows.append(
            [
                sorted(two, key=lambda i: -row[i])
                for two in zip(drawn[::2], drawn[1::2], strict=True)
            ]
        )
    return torch.tensor(rows)


def judged(
    judge: Judge, values: Tensor, words: Tensor, pairs: Tensor, seed: int
) -> list[int | None]:
    rng = random.Random(seed)
    better = values.gather(1, pairs[..., 0]) - values.gather(1, pairs[..., 1])
    longer = words.gather(1, pairs[..., 0]) - words.gather(1, pairs[..., 1])
    both = zip(better.flatten().tolist(), longer.flatten().tolist(), strict=True)
    return [judge(b, w, rng) for b, w in both]


def kappa(verdicts: list[int | None], people: list[int | None]) -> float:
    rows = [
        (i, v, p) for i, (v, p) in enumerate(zip(verdicts, people, strict=True)) if v is not None
    ]
    items = [i for i, _, _ in rows for _ in (0, 1)]
    values = [value for _, *two in rows for value in two]
    ratings = code_ratings(items, ["judge", "people"] * len(rows), values, categories=[0, 1])
    return cohen_kappa(ratings, rounds=0).value or 0.0


def run(seed: int) -> dict[str, dict[str, float]]:
    table = text_table(
        train + test, experiment.size(32, 14), seed, features=experiment.size(150, 20)
    )
    uniform = torch.full_like(table.rewards, 1 / table.rewards.shape[1])
    pairs = pairs_of(table.words, seed)
    people = judged(careful, table.rewards[train:], table.words[train:], pairs[train:], seed + 500)
    results = {
        "before": {
            "reward": expected(uniform[train:], table.rewards[train:]),
            "words": expected(uniform[train:], table.words[train:]),
        }
    }
    for number, (name, judge) in enumerate(JUDGES.items()):
        labels = judged(
            judge, table.rewards[:train], table.words[:train], pairs[:train], seed + 1000 * number
        )
        used = [i for i, label in enumerate(labels) if label is not None]
        chosen = torch.tensor([int(labels[i] or 0) for i in used])
        two = pairs[:train].reshape(-1, 2)[used]
        prompt = torch.tensor([i // PAIRS for i in used])
        better, worse = (two.gather(1, column[:, None])[:, 0] for column in (chosen, 1 - chosen))
        difference = table.features[prompt, better] - table.features[prompt, worse]

        def loss(weights: Tensor, difference: Tensor = difference) -> Tensor:
            # The reference is uniform: the log-ratios differ as the logits do.
            return dpo_loss(difference @ weights, torch.zeros(len(difference)), beta=BETA).mean()

        weights = fit(
            loss, torch.zeros(difference.shape[1]), steps=experiment.size(150, 5), rate=0.02
        )
        policy = (table.features[train:] @ weights).softmax(1)
        on_test = judged(
            judge, table.rewards[train:], table.words[train:], pairs[train:], seed + 700
        )
        results[name] = {
            "labels": len(used) / len(labels),
            "kappa": kappa(on_test, people),
            "reward": expected(policy, table.rewards[train:]),
            "words": expected(policy, table.words[train:]),
        }
    return results


runs = [run(seed) for seed in range(SEEDS)]


def draw(axes: Any, colours: Any) -> None:
    for name, colour in zip(JUDGES, colours, strict=False):
        axes.plot(
            [r[name]["kappa"] for r in runs],
            [r[name]["reward"] for r in runs],
            "o",
            color=colour,
            label=name,
        )
    axes.axhline(
        sum(r["before"]["reward"] for r in runs) / SEEDS, color=colours[7], ls=":", label="before"
    )
    axes.set(xlabel="Cohen's kappa with a careful annotator", ylabel="true reward, other prompts")
    axes.legend()


lines = [
    [
        "before",
        "",
        "",
        *(shown([r["before"][key] for r in runs], d) for key, d in (("reward", 3), ("words", 1))),
    ]
]
for name in JUDGES:
    row = [
        shown([r[name][key] for r in runs], d)
        for key, d in (("labels", 2), ("kappa", 2), ("reward", 3), ("words", 1))
    ]
    lines.append([name, *row])
experiment.save(
    draw,
    ["judge", "share of pairs with a label", "kappa", "true reward", "words"],
    lines,
    note=f"Means over {SEEDS} seeds (worlds, pairs and labels) with 95% intervals.",
    size=(5.6, 3.8),
)
