"""DPO on all comparisons, where it reaches the optimum; on four pairs a prompt; on a network.

On the embedded world, with 32 answers of the demonstrators to each prompt. First one logit for
each answer and the expected loss over all pairs; then a log-linear policy on the answers' words,
and four pairs of each of 48 prompts. Reward and KL are then those of 48 other prompts. Last, a
language model: the demo's, by accord's own training, on rankings of four of its own answers to
each of 300 prompts, judged once, for ten epochs; reward and KL are those of 100 other prompts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from answer_table import AnswerTable, answer_table, expected, half_width, judged_pairs, kl, shown
from experiment import Experiment, kl_by_prompt, rank, true_reward, world_prompts
from torch import Tensor

import accord
from accord.lm import load_causal
from accord.lm.model import LanguageModel
from accord.measure.statistics import Interval, clustered_interval
from accord.objectives import dpo_loss

NETWORK_BETA = 0.1
NOISE, PAIRS = 0.1, 4  # annotators prefer by Bradley-Terry on reward / NOISE


def expected_loss(logp: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """DPO's loss over all pairs of answers, each in both orders with its probability; the reference
    is uniform, so that it cancels."""
    wins = ((rewards[:, :, None] - rewards[:, None, :]) / NOISE).sigmoid()
    chosen, rejected = torch.broadcast_tensors(logp[:, :, None], logp[:, None, :])
    return (wins * dpo_loss(chosen, rejected, beta=beta)).sum((1, 2)).mean()


def optimum_reached(rewards: Tensor, beta: float, steps: int) -> tuple[float, float]:
    """KL to π_ref·exp(r/(NOISE·β))/Z before and after training on the expected loss."""
    optimum = (rewards / (NOISE * beta)).softmax(1)
    logits = torch.zeros_like(rewards, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        expected_loss(logits.log_softmax(1), rewards, beta).backward()
        optimiser.step()
    uniform = torch.full_like(rewards, 1 / rewards.shape[1])
    return kl(uniform, optimum), kl(logits.detach().softmax(1), optimum)


def gradient_error(table: AnswerTable, beta: float) -> float:
    """The largest difference between autograd's gradient and step 4 of the page, relative to it."""
    torch.manual_seed(0)
    weights = torch.randn(table.features.shape[2], dtype=torch.float64, requires_grad=True)
    features = table.features.double()
    c, r = judged_pairs(table.rewards, 1)
    logp = (features @ weights).log_softmax(1)
    difference = (logp.gather(1, c) - logp.gather(1, r))[:, 0]
    zero = torch.zeros_like(difference)
    (gradient,) = torch.autograd.grad(dpo_loss(difference, zero, beta=beta).mean(), weights)
    rows = torch.arange(len(c))
    slope = features[rows, c[:, 0]] - features[rows, r[:, 0]]  # ∇log π(y_w) − ∇log π(y_l)
    formula = -beta * ((-beta * difference).sigmoid()[:, None] * slope).mean(0).detach()
    return float((gradient - formula).abs().max() / formula.abs().max())


def train(
    table: AnswerTable, half: int, beta: float, marks: list[int], seed: int
) -> list[tuple[float, ...]]:
    """At each marked step: log-ratios of chosen and rejected; accuracy, KL, reward elsewhere."""
    chosen, rejected = judged_pairs(table.rewards[:half], PAIRS, seed=seed)
    others = judged_pairs(table.rewards[half:], PAIRS, seed=seed + 1000)
    uniform = torch.full_like(table.rewards[half:], 1 / table.rewards.shape[1])
    weights = torch.zeros(table.features.shape[2], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.01)
    rows = []
    for step in range(1, marks[-1] + 1):
        log_ratio = (table.features @ weights).log_softmax(1) + math.log(uniform.shape[1])
        c, r = log_ratio[:half].gather(1, chosen), log_ratio[:half].gather(1, rejected)
        optimiser.zero_grad()
        dpo_loss(c, r, beta=beta).mean().backward()
        optimiser.step()
        if step in marks:
            held_out = log_ratio[half:].detach()
            ordered = held_out.gather(1, others[0]) > held_out.gather(1, others[1])
            policy = held_out.softmax(1)
            ratios = c.detach().mean(), r.detach().mean(), ordered.float().mean()
            reward = expected(policy, table.rewards[half:])
            rows.append((*map(float, ratios), kl(policy, uniform), reward))
    return rows


def train_network(
    experiment: Experiment, marks: list[int]
) -> tuple[list[dict[str, float]], list[tuple[Interval, Interval]]]:
    """Metrics of each step, and at the marks (0 is the start) KL and reward on other prompts."""
    sft, world = experiment.shared("sft"), experiment.shared("world")
    prompts = world_prompts(world, "train", experiment.size(300, 8))
    unseen = world_prompts(world, "test", experiment.size(100, 4))
    limit = experiment.size(64, 12)
    rows = rank(accord.sample(sft, prompts, num_responses=4, max_new_tokens=limit), noise=NOISE)
    reference, points = load_causal(str(sft)), []

    def measure(model: LanguageModel) -> None:
        answers = accord.sample(
            model, unseen, num_responses=4, max_new_tokens=limit, seed=1, reward=true_reward
        )
        rewards = [row.scores for row in answers]
        distances = kl_by_prompt(model, reference, answers)
        points.append((clustered_interval(distances), clustered_interval(rewards)))

    measure(reference)
    with accord.steps(
        "dpo",
        model=sft,
        dataset=rows,
        beta=NETWORK_BETA,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        max_steps=marks[-1],
        per_device_train_batch_size=experiment.size(30, 4),
        max_length=256,
    ) as steps:
        for step in steps:
            if step.step in marks:
                measure(steps.model)
    return steps.metrics, points


def mean_log_ratio(rows: list[dict[str, float]], name: str) -> str:
    """The mean log-ratio of the chosen or the rejected answers, from the implicit rewards."""
    return f"{sum(row[f'rewards/{name}'] for row in rows) / len(rows) / NETWORK_BETA:.2f}"


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    half, steps = experiment.size(48, 6), experiment.size(1000, 20)
    answers, words = experiment.size(32, 8), experiment.size(250, 20)
    marks = sorted({round(10 ** (i / 10)) for i in range(int(10 * math.log10(steps)) + 1)})
    tables = [answer_table(2 * half, answers, s, words=words) for s in range(experiment.size(3, 2))]
    runs = {
        beta: [train(table, half, beta, marks, seed) for seed, table in enumerate(tables)]
        for beta in (0.1, 0.5)
    }

    network_marks = [0, 1, 2] if experiment.quick else [0, 5, 10, 20, 40, 70]
    metrics, points = train_network(experiment, network_marks)
    references = [
        expected(torch.full_like(t.rewards[half:], 1 / answers), t.rewards[half:]) for t in tables
    ]

    def draw(axes: Any, colours: Any) -> None:
        for column, colour, name in ((0, 2, "chosen"), (1, 1, "rejected")):
            for n, run in enumerate(runs[0.1]):
                values, label = [row[column] for row in run], "" if n else name
                axes[0].plot(marks, values, color=colours[colour], lw=1.3, label=label)
            values = [row[f"rewards/{name}"] / NETWORK_BETA for row in metrics]
            axes[1].plot(range(len(values)), values, color=colours[colour], lw=1.3, label=name)
        means = [reward.mean for _, reward in points]
        bars = [half_width(reward) for _, reward in points]
        axes[2].errorbar(network_marks, means, bars, fmt="o-", ms=4, color=colours[0])
        titles = ("log-linear policy", "language model", "language model")
        for axis, title in zip(axes, titles, strict=True):
            axis.set(xlabel="optimiser steps", title=title)
        for axis in axes[:2]:
            axis.axhline(0, color=colours[7], lw=0.8)
            axis.legend(loc="lower left")
        axes[0].set(xscale="log", ylabel="log π/π_ref, mean (nats)")
        axes[2].set(ylabel="true reward, other prompts", ylim=(0, 0.8))

    header = ["policy", "β", "steps", "chosen", "rejected", "accuracy", "KL", "reward"]
    rows = [["log-linear", "", "0", "0", "0", "", "0", shown(references, 2)]]
    for beta, seeds in runs.items():
        for i in (len(marks) // 3, 2 * len(marks) // 3, len(marks) - 1):
            columns = [shown(column, 2) for column in zip(*(run[i] for run in seeds), strict=True)]
            rows.append(["log-linear", f"{beta:g}", str(marks[i]), *columns])
    for mark, (distance, reward) in zip(network_marks, points, strict=True):
        ratios = ["0", "0"]
        if mark:
            last = metrics[max(0, mark - 5) : mark]
            ratios = [mean_log_ratio(last, name) for name in ("chosen", "rejected")]
        cells = [f"{v.mean:.2f} ± {half_width(v):.2f}" for v in (distance, reward)]
        rows.append(["language model", f"{NETWORK_BETA:g}", str(mark), *ratios, "", *cells])
    error = gradient_error(tables[0], 0.1)
    before, after = optimum_reached(tables[0].rewards[:half], 4.0, experiment.size(300, 5))
    note = (
        f"Chosen and rejected: mean log-ratios of the pairs (nats; of the language model over the "
        f"last five batches); accuracy, KL and reward: on other prompts. Log-linear: means over "
        f"three seeds with 95% intervals; language model: one run, 95% intervals over 100 prompts. "
        f"With the expected loss over all pairs (β = 4, seed 0) the KL to the optimum falls from "
        f"{before:.3f} to {after:.0e}. Autograd and the gradient of step 4 differ by {error:.0e} "
        f"of its largest entry."
    )
    experiment.save(draw, header, rows, note=note, panels=3, size=(10.2, 3.4))


main()
