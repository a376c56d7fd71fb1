"""Best-of-N: its KL measured beside the closed form, and what the choice truly gains.

The world's demonstrators are the model: 128 answers of theirs to each prompt. A reward chooses
among 64; the other 64 take no part in the choice, and measure the KL. The reward model is
linear in the words, trained on 2,000 judged pairs of other prompts; a flawed reward adds 0.4
for every ten words to the true one; a coarse one says only whether an answer has at most twelve
words.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import judged_pairs
from answer_texts import fit, text_table
from experiment import Experiment

from accord.measure.best_of_n import best_of_n_curve, best_of_n_log_ratio
from accord.measure.over_optimisation import best_of_n_kl
from accord.measure.statistics import Interval, mean_interval
from accord.objectives.reward import bradley_terry_loss

experiment = Experiment(__file__, __doc__)
POOL = experiment.size(64, 8)
test, train = experiment.size(100, 6), experiment.size(100, 12)
table = text_table(test + train, 2 * POOL, 0, features=experiment.size(250, 20))

chosen, rejected = judged_pairs(table.rewards[test:], experiment.size(20, 2))
rows = torch.arange(test, test + train)[:, None]
better, worse = table.features[rows, chosen], table.features[rows, rejected]


def loss(weights: torch.Tensor) -> torch.Tensor:
    return (
        bradley_terry_loss(better @ weights, worse @ weights).mean() + 1e-3 * weights.square().sum()
    )


weights = fit(loss, torch.zeros(better.shape[-1]), steps=experiment.size(400, 5), rate=0.02)
truth, words = table.rewards[:test], table.words[:test]
PROXIES = {
    "reward model": table.features[:test] @ weights,
    "flawed reward": truth + 0.4 * words / 10,
    "coarse reward": (words <= 12).float(),
}
curves = {
    name: best_of_n_curve(proxy[:, :POOL].tolist(), truth[:, :POOL].tolist())
    for name, proxy in PROXIES.items()
}
sizes = [point.n for point in curves["reward model"].points]


def measured(proxy: torch.Tensor, n: int) -> Interval:
    """The KL of best-of-n: POOL/n choices a prompt, measured on answers outside of them."""
    best = proxy[:, :POOL].reshape(test, POOL // n, n).max(2).values.tolist()
    others = proxy[:, POOL:].tolist()
    means = [
        sum(best_of_n_log_ratio(score, row, n) for score in scores) / len(scores)
        for scores, row in zip(best, others, strict=True)
    ]
    return mean_interval(means)


kls = {
    name: {n: measured(PROXIES[name], n) for n in sizes}
    for name in ("reward model", "coarse reward")
}


def draw(axes: Any, colours: Any) -> None:
    left, right = axes
    left.plot(sizes, [best_of_n_kl(n) for n in sizes], color=colours[7], label="log N − (N−1)/N")
    for (name, by_n), colour, shift in zip(kls.items(), colours, (0.97, 1.03), strict=False):
        low = [k.mean - (k.low or 0) for k in by_n.values()]
        high = [(k.high or 0) - k.mean for k in by_n.values()]
        at, means = [n * shift for n in sizes], [k.mean for k in by_n.values()]
        left.errorbar(
            at, means, [low, high], fmt="o", ms=4, color=colour, label=f"measured, {name}"
        )
    left.set(ylabel="KL from the model (nats)")
    for (name, curve), colour in zip(
        curves.items(), (colours[0], colours[2], colours[1]), strict=True
    ):
        points = [p.independent for p in curve.points if p.independent]
        right.plot(sizes, [p.mean for p in points], color=colour, label=name)
        low, high = [p.low or 0 for p in points], [p.high or 0 for p in points]
        right.fill_between(sizes, low, high, color=colour, alpha=0.2, lw=0)
    right.set(ylabel="true reward of the answer")
    for axis in axes:
        axis.set(xscale="log", xlabel="candidates N")
        axis.set_xticks(sizes, [str(n) for n in sizes])
        axis.minorticks_off()
        axis.legend()


def text(value: Interval | None, digits: int) -> str:
    assert value is not None
    return f"{value.mean:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


lines = [
    [
        str(n),
        f"{best_of_n_kl(n):.2f}",
        *(text(kls[name][n], 2) for name in kls),
        *(text(curve.points[i].independent, 3) for curve in curves.values()),
    ]
    for i, n in enumerate(sizes)
]
turns = ", ".join(
    f"{name} {f'N = {curve.turn.n}' if curve.turn else 'none'}" for name, curve in curves.items()
)
experiment.save(
    draw,
    [
        "N",
        "KL, closed form",
        *(f"KL, {name}" for name in kls),
        *(f"true reward, {name}" for name in curves),
    ],
    lines,
    note=f"95% intervals over {test} prompts. A sure fall of the true reward from an earlier "
    f"N: {turns}.",
    panels=2,
    size=(8.0, 3.4),
)
