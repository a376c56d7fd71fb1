"""PPO with and without its clip, where the same answers are used for eight steps.

On the embedded world: an answer is five tokens (opening, core, warmth, filler, closing), each a
fragment of the world's grammar, and its text has a true reward. The policy has a table of logits
for each prompt and position, and the critic a table of values.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from answer_table import shown
from experiment import Experiment
from torch import Tensor

from accord.objectives import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_k3,
    token_rewards,
    whiten,
)
from accord.world.build import distinct_tasks
from accord.world.grammar import FILLER
from accord.world.language import capitalised
from accord.world.reward import true_reward
from accord.world.tasks import Task

SAMPLES, BETA, TOKENS = 8, 0.02, 5
FORMS = {  # the clip, the steps on an iteration's answers, the learning rate
    "8 steps, clip 0.2": (0.2, 8, 0.3),
    "8 steps, no clip": (1e9, 8, 0.3),
    "1 step": (0.2, 1, 0.3),
    "8 larger steps, clip 0.2": (0.2, 8, 1.0),
}


def fragments(task: Task) -> list[list[str]]:
    """The choices of each of an answer's five tokens; an empty one leaves its part out."""
    family = task.family
    assert family is not None
    cores = [*family.cores[:2], *family.blunt[:1], *family.vague[:1]]
    parts = [["", *family.openings[:2]], cores, ["", *family.warmth[:2]]]
    parts += [["", *FILLER[:2]], ["", *family.closings[:2]]]
    return [[text.format(**task.slots) for text in part] for part in parts]


def reward_table(task: Task) -> Tensor:
    """The true reward of every combination, (3, 4, 3, 3, 3)."""
    values = []
    for opening, core, *rest in itertools.product(*fragments(task)):
        first = f"{opening} {core}." if opening else capitalised(f"{core}.")
        values.append(true_reward(task.prompt, " ".join([first, *filter(None, rest)])))
    return torch.tensor(values).view([len(part) for part in fragments(task)])


def sample(logp: Tensor, generator: torch.Generator) -> Tensor:
    """Answers (prompts · SAMPLES, TOKENS) of log-probs (prompts, TOKENS, 4)."""
    drawn = torch.multinomial(
        logp.exp().flatten(0, 1), SAMPLES, replacement=True, generator=generator
    )
    return drawn.view(len(logp), TOKENS, SAMPLES).transpose(1, 2).flatten(0, 1)


def train(tables: list[Tensor], form: str, iterations: int, seed: int) -> list[tuple[float, float]]:
    """Each iteration's mean score, and the KL between the policies before and after it."""
    clip, epochs, rate = FORMS[form]
    generator = torch.Generator().manual_seed(seed)
    impossible = torch.full((len(tables), TOKENS, 4), -1e9)
    for p, table in enumerate(tables):
        for t, size in enumerate(table.shape):
            impossible[p, t, :size] = 0.0
    policy = torch.zeros_like(impossible, requires_grad=True)
    critic = torch.zeros(len(tables), TOKENS, requires_grad=True)
    optimiser = torch.optim.Adam([policy, critic], lr=rate)
    reference = impossible.log_softmax(2)
    prompt = torch.arange(len(tables)).repeat_interleave(SAMPLES)
    mask = torch.ones(len(prompt), TOKENS, dtype=torch.bool)
    rows = []
    for _ in range(iterations):
        old = (policy + impossible).log_softmax(2).detach()
        tokens = sample(old, generator)
        index = tokens[..., None]
        old_logps = old[prompt].gather(2, index)[..., 0]
        log_ratio = old_logps - reference[prompt].gather(2, index)[..., 0]
        answers = zip(prompt.tolist(), tokens.tolist(), strict=True)
        scores = torch.stack([tables[p][tuple(answer)] for p, answer in answers])
        rewards = token_rewards(scores, log_ratio, mask, beta=BETA)
        old_values = critic.detach()[prompt]
        advantages, returns = gae(rewards, old_values, mask, gamma=1.0, lam=1.0)
        advantages = whiten(advantages, mask)
        for _ in range(epochs):
            logps = (policy + impossible).log_softmax(2)[prompt].gather(2, index)[..., 0]
            ratio = logps - old_logps
            loss = clipped_policy_loss(ratio, advantages, clip_low=clip, clip_high=clip)
            value_loss = clipped_value_loss(critic[prompt], old_values, returns, clip=0.2)
            optimiser.zero_grad()
            (loss.mean() + value_loss.mean()).backward()
            optimiser.step()
        new = (policy + impossible).log_softmax(2).detach()[prompt].gather(2, index)[..., 0]
        rows.append((float(scores.mean()), float(kl_k3(old_logps - new).mean())))
    return rows


def gae_error() -> float:
    """The recursion against the sum that defines GAE, with λ = 0.9 and random numbers."""
    generator = torch.Generator().manual_seed(0)
    r, v = (torch.randn(3, 6, generator=generator) for _ in range(2))
    advantages, _ = gae(r, v, torch.ones(3, 6, dtype=torch.bool), gamma=1.0, lam=0.9)
    delta = r + torch.cat([v[:, 1:], torch.zeros(3, 1)], 1) - v
    sums = [sum(0.9**k * delta[:, t + k] for k in range(6 - t)) for t in range(6)]
    return float((advantages - torch.stack([torch.as_tensor(s) for s in sums], 1)).abs().max())


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    iterations = experiment.size(60, 3)
    runs: dict[str, list[list[tuple[float, float]]]] = {form: [] for form in FORMS}
    for seed in range(experiment.size(5, 2)):
        drawn = distinct_tasks(random.Random(seed), experiment.size(40, 12), "train_prompts")
        tasks = [task for task in drawn if task.family is not None]
        tables = [reward_table(task) for task in tasks[: experiment.size(16, 3)]]
        for form in FORMS:
            runs[form].append(train(tables, form, iterations, seed))

    def draw(axes: Any, colours: Any) -> None:
        for i, form in enumerate([*FORMS][:3]):
            for n, run in enumerate(runs[form]):
                y = [row[0] for row in run]
                label = "" if n else form
                axes.plot(range(1, iterations + 1), y, color=colours[i], lw=1, label=label)
        axes.set(xlabel="iterations", ylabel="mean true reward of the samples")
        axes.legend(loc="lower right")

    header = ["an iteration", "reward, first 5", "reward, last 10", "KL, new from old, first 5"]
    rows = []
    for form in FORMS:
        parts = ((0, 0, 5), (0, iterations - 10, iterations), (1, 0, 5))
        columns = [
            [sum(row[i] for row in run[a:b]) / len(run[a:b]) for run in runs[form]]
            for i, a, b in parts
        ]
        rows.append([form, *(shown(column) for column in columns)])
    note = (
        f"Means over five seeds and the first 5 or last 10 of 60 iterations, with 95% intervals; "
        f"larger steps have the learning rate 1 and not 0.3. The KL is in nats per token. "
        f"GAE's recursion and its sum differ by {gae_error():.0e}."
    )
    experiment.save(draw, header, rows, note=note)


main()
