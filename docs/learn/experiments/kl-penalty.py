"""Policies trained from samples at several β, beside the closed-form optimum π_ref·exp(r/β)/Z.

On the embedded world, with 32 answers of the demonstrators to each of 24 prompts, and one logit for
each answer. The KL is a part of the reward, or a loss (k1, k3, or k3 with its correction).
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import answer_table, expected, kl, shown
from experiment import Experiment
from torch import Tensor

from accord.objectives import clipped_policy_loss, kl_k1, kl_loss, leave_one_out, token_rewards

BETAS = (0.4, 0.2, 0.1, 0.05)
SAMPLES = 64
FORMS = {
    "reward": "in the reward",
    "k3 corrected": "k3 as a loss, corrected",
    "k3": "k3 as a loss, plain",
    "k1": "k1 as a loss",
}


def train(rewards: Tensor, beta: float, form: str, steps: int, seed: int) -> Tensor:
    """The policy (P, M) after steps of a policy gradient from samples."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.full_like(rewards, 1 / rewards.shape[1])
    logits = torch.zeros_like(rewards, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    mask = torch.ones(rewards.shape[0] * SAMPLES, 1, dtype=torch.bool)
    for _ in range(steps):
        logp = logits.log_softmax(1)
        chosen = torch.multinomial(
            logp.detach().exp(), SAMPLES, replacement=True, generator=generator
        )
        logps, scores = logp.gather(1, chosen), rewards.gather(1, chosen)
        ratio = logps - reference.log().gather(1, chosen)  # log π − log π_ref
        # A response is one token here; token_rewards has β·log-ratio on it, and its score.
        penalty = beta if form == "reward" else 0.0
        total = token_rewards(
            scores.flatten(), ratio.detach().flatten()[:, None], mask, beta=penalty
        )
        advantages = leave_one_out(total.sum(1).view_as(scores))
        step_ratio = logps - logps.detach()  # log π − log π_old, 0 with a gradient
        loss = clipped_policy_loss(step_ratio, advantages, clip_low=0.2, clip_high=0.2)
        if form == "k1":
            loss = loss + beta * kl_k1(ratio)
        elif form != "reward":
            loss = loss + beta * kl_loss(ratio, step_ratio, corrected=form == "k3 corrected")
        optimiser.zero_grad()
        loss.mean(1).sum().backward()
        optimiser.step()
        schedule.step()
    return logits.detach().softmax(1)


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    prompts, answers = experiment.size(24, 4), experiment.size(32, 8)
    steps, seeds = experiment.size(500, 5), experiment.size(3, 2)
    results: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    optima: dict[float, list[tuple[float, float]]] = {beta: [] for beta in BETAS}
    curves = []
    for seed in range(seeds):
        rewards = answer_table(prompts, answers, seed).rewards
        reference = torch.full_like(rewards, 1 / answers)
        curve = [(s * rewards).softmax(1) for s in torch.linspace(0, 5, 60).exp().sub(1).tolist()]
        curves.append([(kl(policy, reference), expected(policy, rewards)) for policy in curve])
        for beta in BETAS:
            optimum = (reference.log() + rewards / beta).softmax(1)
            optima[beta].append((kl(optimum, reference), expected(optimum, rewards)))
            for form in FORMS:
                policy = train(rewards, beta, form, steps, seed)
                values = kl(policy, reference), expected(policy, rewards), kl(policy, optimum)
                results.setdefault((form, beta), []).append(values)

    def draw(axes: Any, colours: Any) -> None:
        for i, curve in enumerate(curves):
            label = "" if i else "closed form, three worlds"
            axes.plot(*zip(*curve, strict=True), color=colours[7], lw=1.2, label=label)
        for form, marker, colour in (("reward", "o", 0), ("k3", "s", 1)):
            points = [values for beta in BETAS for values in results[form, beta]]
            x, y, _ = zip(*points, strict=True)
            axes.plot(x, y, marker, color=colours[colour], ms=5, label=f"trained, {FORMS[form]}")
        axes.set(xlabel="KL from the reference (nats)", ylabel="expected reward")
        axes.legend(loc="lower right")

    header = ["β", "KL (nats)", "expected reward", "KL to the optimum"]
    rows = []
    for beta in BETAS:
        x, y = zip(*optima[beta], strict=True)
        rows.append([f"{beta:g}: **closed form**", shown(x), shown(y), "0"])
        for form, name in FORMS.items():
            columns = zip(*results[form, beta], strict=True)
            rows.append([f"{beta:g}: {name}", *(shown(column) for column in columns)])
    note = "Means over three seeds, each a world and its samples, with 95% intervals."
    experiment.save(draw, header, rows, note=note)


main()
