"""What a red team's rates show: exact intervals, success within N attempts, a grader that errs.

The target answers as the world's demonstrators do, but was trained: its policy over 24 answers
of theirs to each request is uniform·exp(λ·true reward)/Z. So the chance of a harmful answer
differs between requests, and is known exactly. The second grader is right in 99% of its
verdicts.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from experiment import Experiment

from accord.measure.audits.attack_success import GraderError, fit_success
from accord.measure.statistics import Interval, proportion_interval
from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.reward import is_refusal, true_reward

experiment = Experiment(__file__, __doc__)
TASKS, ANSWERS, ATTEMPTS = experiment.size(3000, 300), experiment.size(24, 8), 10
STRENGTH, RIGHT, MEASURED = 5.0, 0.99, 2000  # the grader was measured on so many of either kind
AT = (1, 3, 10, 30, 100, 1000)

rng = random.Random(0)
before: dict[str, list[float]] = {}
after: dict[str, list[float]] = {}
for task in distinct_tasks(rng, TASKS, "train_prompts"):
    if task.must_refuse:
        texts = [demonstrate(task, rng) for _ in range(ANSWERS)]
        rewards = np.array([true_reward(task.prompt, text) for text in texts])
        harmful = np.array([not is_refusal(text) for text in texts])
        weights = np.exp(STRENGTH * rewards)
        attack = task.slots.get("wrapper", "direct")
        before.setdefault(attack, []).append(float(harmful.mean()))
        after.setdefault(attack, []).append(float(weights[harmful].sum() / weights.sum()))
ATTACKS = ["direct", *sorted(set(after) - {"direct"})]
numbers = np.random.default_rng(0)


def one_attempt(chances: list[float], count: int, tests: int) -> Interval:
    """The rate of one attempt at each of the first `count` requests, for all tests at once."""
    tried = numbers.random(len(chances[:count])) < np.array(chances[:count])
    return proportion_interval(int(tried.sum()), len(tried), confidence=1 - 0.05 / tests)


FEW = 20
rates = {
    name: {attack: one_attempt(table[attack], 10**6, len(ATTACKS)) for attack in ATTACKS}
    for name, table in (("before", before), ("after", after))
}
few = {attack: one_attempt(after[attack], FEW, 1) for attack in ATTACKS}

# Ten attempts at each request, by all attacks: success within N, by the fit and in truth.
chances = np.array([q for attack in ATTACKS for q in after[attack]])
broken = numbers.random((len(chances), ATTEMPTS)) < chances[:, None]
wrong = numbers.random(broken.shape) > RIGHT
seen = (broken ^ wrong).sum(1).tolist()
error = GraderError(round(RIGHT * MEASURED), MEASURED, round(RIGHT * MEASURED), MEASURED)
trials, resamples = [ATTEMPTS] * len(chances), experiment.size(25, 3)
fits = {
    "no grader's error": fit_success(broken.sum(1).tolist(), trials, AT, resamples=resamples),
    "grader errs in 1%, not corrected": fit_success(seen, trials, AT, resamples=resamples),
    "grader errs in 1%, corrected": fit_success(seen, trials, AT, error=error, resamples=resamples),
}
truth = {n: float((1 - (1 - chances) ** n).mean()) for n in AT}
alike = {n: 1 - (1 - float(chances.mean())) ** n for n in AT}


def draw(axes: Any, colours: Any) -> None:
    left, right = axes
    for i, (name, table) in enumerate((("before", before), ("after", after))):
        at = [x + 0.24 * i - 0.12 for x in range(len(ATTACKS))]
        means = [rates[name][attack].mean for attack in ATTACKS]
        low = [rates[name][a].mean - (rates[name][a].low or 0) for a in ATTACKS]
        high = [(rates[name][a].high or 1) - rates[name][a].mean for a in ATTACKS]
        left.errorbar(
            at,
            means,
            [low, high],
            fmt="o",
            ms=4,
            capsize=2,
            color=colours[i],
            label=f"{name} training",
        )
        exact = [float(np.mean(table[attack])) for attack in ATTACKS]
        left.plot(at, exact, "_", ms=12, color=colours[7], label="" if i else "true rate")
    left.set_xticks(range(len(ATTACKS)), ATTACKS, rotation=45, ha="right")
    left.set(ylabel="harmful requests answered", ylim=(0, 1.3), yticks=(0, 0.25, 0.5, 0.75, 1))
    left.legend(loc="upper right")
    right.plot(AT, list(truth.values()), color=colours[7], lw=3, alpha=0.6, label="truth")
    right.plot(
        AT, list(alike.values()), color=colours[7], ls=":", label="if all requests were alike"
    )
    for (name, curve), colour in zip(fits.items(), colours[2:], strict=False):
        if curve is not None:
            right.plot(
                AT,
                [curve.at[n].mean for n in AT],
                color=colour,
                marker="o",
                ms=3,
                lw=1.2,
                label=name,
            )
    right.axvline(ATTEMPTS, color=colours[7], lw=0.7)
    right.set(
        xscale="log", xlabel="attempts N (10 were made)", ylabel="broken within N", ylim=(0, 1.02)
    )
    right.legend(fontsize=7, loc="lower right")


def text(value: Interval) -> str:
    return f"{value.mean:.2f} ({value.low:.2f} to {value.high:.2f})"


lines = [
    [
        attack,
        str(len(after[attack])),
        text(rates["before"][attack]),
        text(rates["after"][attack]),
        f"{np.mean(after[attack]):.3f}",
        f"{few[attack].mean:.2f} ({few[attack].low:.2f} to {few[attack].high:.2f})",
    ]
    for attack in ATTACKS
]
within = ", ".join(f"{n:,} attempts: {value:.2f}" for n, value in truth.items())
fitted = "; ".join(
    f"{name} {', '.join(f'{curve.at[n].mean:.2f}' for n in AT)}"
    for name, curve in fits.items()
    if curve
)
experiment.save(
    draw,
    ["attack", "requests", "before", "after", "true rate after", f"after, from {FEW} requests"],
    lines,
    note="One attempt at each request; exact intervals that hold for all attacks at once "
    f"(the last column: 95% for each attack alone). Broken within N in truth: {within}. "
    f"By the fits to ten attempts, at the same N: {fitted}.",
    panels=2,
    size=(8.4, 3.8),
)
