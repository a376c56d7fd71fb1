"""Reinforcement learning from a reward by PPO under a KL penalty (Ouyang et al. 2022).

An iteration: answer prompts, score the answers, lay the KL penalty on every token and the score
on the last, estimate advantages, and take a few epochs of clipped steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from accord.errors import TrainingError
from accord.learn.checkpoints import TrainState
from accord.learn.clipped import RATIO, Targets, clipped_losses
from accord.learn.fit import StepResult, check_finite, set_learning_rate, step_optimiser
from accord.learn.losses import Metric, merge_metrics
from accord.learn.order import RowOrder
from accord.learn.roles import Roles
from accord.learn.rollout import Episodes, answer, measure
from accord.objectives.advantages import gae, token_rewards, whiten
from accord.objectives.divergences import kl_k1, kl_k3
from accord.objectives.policy import adapted_beta
from accord.records import PromptOnly
from accord.respond.protocol import SamplingSettings
from accord.settings.ppo import PpoSettings

RATIO_TOLERANCE = {"fp32": 1e-2, "bf16": 0.2}  # |log ratio| allowed before the first step

HELD_OUT = (  # told of held-out prompts
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "objective/entropy",
    "eos_rate",
    "response_length",
)


def ppo(
    state: TrainState,
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: PpoSettings,
    *,
    iterations: int,
) -> Iterator[StepResult]:
    """Iterate from `state.step`, yielding after each iteration.

    Raises TrainingError when a loss is not finite, or when the policy's log-probs before the
    first step are not those that were recorded. Stops early where `max_kl` is passed.
    """
    order = RowOrder(len(prompts), settings.seed)
    state.numbers.setdefault("beta", settings.beta)
    while state.step < iterations and not state.numbers.get("stopped"):
        began = time.perf_counter()
        factor = _set_rates(state, iterations, settings)
        episodes = collect(roles, prompts, records, settings, order, state.step)
        beta = float(state.numbers["beta"])
        targets, numbers = score(episodes, settings, beta)
        kl = numbers["objective/kl"]
        stop = settings.max_kl is not None and kl > settings.max_kl
        if not stop:
            numbers |= improve(state, roles, episodes, targets, settings)
        state.step += 1
        state.numbers["stopped"] = stop
        if settings.adaptive_kl_target is not None:
            state.numbers["beta"] = adapted_beta(
                beta,
                kl,
                target=settings.adaptive_kl_target,
                episodes=len(episodes.groups),
                horizon=settings.adaptive_kl_horizon,
            )
        state.numbers["num_tokens"] = state.numbers.get("num_tokens", 0) + sum(
            g.tokens for g in episodes.groups
        )
        numbers |= {
            "epoch": state.step * len(episodes.groups) / len(prompts),
            "learning_rate": factor * settings.learning_rate,
            "num_tokens": float(state.numbers["num_tokens"]),
            "seconds": time.perf_counter() - began,
            "stopped_by_kl": float(stop),
        }
        yield StepResult(state.step, state.step if stop else iterations, numbers)
        if stop:
            return


def collect(
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: PpoSettings,
    order: RowOrder,
    iteration: int,
) -> Episodes:
    """The episodes of an iteration (from 0): a function of weights, seed and iteration alone."""
    first = iteration * settings.per_device_train_batch_size
    streams = range(first, first + settings.per_device_train_batch_size)
    rows = [order.at(i) for i in streams]
    chosen = [records[i] for i in rows]
    return _episodes(roles, [prompts[i] for i in rows], chosen, settings, streams)


def held_out(
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: PpoSettings,
) -> dict[str, float]:
    """How the policy does on prompts that it does not learn from, with the same draws each time."""
    episodes = _episodes(roles, prompts, records, settings, range(len(prompts)))
    _, numbers = score(episodes, settings, settings.beta)
    return {name: numbers[name] for name in HELD_OUT}


def _episodes(
    roles: Roles,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: PpoSettings,
    streams: Sequence[int],
) -> Episodes:
    sampling = SamplingSettings(
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature
    )
    answered = answer(
        roles.policy, roles.sampler, prompts, records, sampling, seed=settings.seed, streams=streams
    )
    assert roles.critic is not None
    assert roles.reference is not None
    passes = settings.num_mini_batches * settings.gradient_accumulation_steps
    return measure(
        roles.policy,
        roles.reference,
        roles.critic,
        answered,
        [r.prompt for r in records],
        roles.reward,
        temperature=settings.temperature,
        batch_size=max(1, settings.per_device_train_batch_size // passes),
    )


def score(
    episodes: Episodes, settings: PpoSettings, beta: float
) -> tuple[Targets, dict[str, float]]:
    """Advantages and returns of episodes, and the numbers that tell how they went."""
    mask = episodes.mask
    log_ratio = (episodes.old_logps - episodes.ref_logps) * mask
    scores = episodes.scores
    if settings.reward_clip is not None:
        scores = scores.clamp(-settings.reward_clip, settings.reward_clip)
    scores = scores - settings.missing_eos_penalty * (~episodes.finished).float()
    rewards = token_rewards(scores, log_ratio, mask, beta=beta)
    if settings.whiten_rewards:
        rewards = whiten(rewards, mask, keep_mean=True)
    advantages, returns = gae(
        rewards, episodes.values, mask, gamma=settings.gamma, lam=settings.gae_lambda
    )
    if settings.whiten_advantages:
        advantages = whiten(advantages, mask)
    kl = kl_k1(log_ratio).sum(1)
    unexplained = (returns - episodes.values)[mask].var(unbiased=False)
    spread = returns[mask].var(unbiased=False)
    numbers = {
        "objective/kl": float(kl.mean()),
        "objective/kl_k3": float((kl_k3(log_ratio) * mask).sum(1).mean()),
        "objective/beta": beta,
        "objective/scores": float(episodes.scores.mean()),
        "objective/scores_std": float(episodes.scores.std(unbiased=False)),
        "objective/non_score_reward": float((-beta * kl).mean()),
        "objective/rlhf_reward": float((scores - beta * kl).mean()),
        "objective/entropy": float(episodes.entropy[mask].mean()),
        "val/explained_variance": float(1 - unexplained / spread) if spread > 0 else 0.0,
        "val/mean": float(episodes.values[mask].mean()),
        "eos_rate": float(episodes.finished.float().mean()),
        "response_length": float(episodes.lengths.float().mean()),
    }
    return Targets(advantages, returns), numbers


def improve(
    state: TrainState, roles: Roles, episodes: Episodes, targets: Targets, settings: PpoSettings
) -> dict[str, float]:
    """A few epochs of clipped steps over the episodes; the means of what was measured."""
    parts: list[dict[str, Metric]] = []
    learns = state.step >= settings.critic_warmup_steps
    count = len(episodes.groups)
    for epoch in range(settings.num_ppo_epochs):
        shuffled = np.random.Generator(
            np.random.Philox(key=[settings.seed, (state.step << 16) + epoch + 1])
        ).permutation(count)
        for rows in np.array_split(shuffled, settings.num_mini_batches):
            found = _minibatch(state, roles, episodes, targets, settings, rows.tolist(), learns)
            if not parts:
                _same_policy(found[RATIO], settings)
            parts.append(found)
    means = merge_metrics(parts)
    means.pop(RATIO)
    return {
        "loss": means["loss/policy_avg"] + settings.vf_coef * means["loss/value_avg"],
        **means,
    }


def _minibatch(
    state: TrainState,
    roles: Roles,
    episodes: Episodes,
    targets: Targets,
    settings: PpoSettings,
    rows: list[int],
    learns: bool,
) -> dict[str, Metric]:
    """One step of policy and critic on some episodes, in as many forward passes as set."""
    tokens = float(episodes.mask[rows].sum())
    totals: dict[str, list[float]] = {RATIO: [0.0, 1.0]}
    largest = 0.0
    for part in np.array_split(np.array(rows), settings.gradient_accumulation_steps):
        if len(part) == 0:
            continue
        members = part.tolist()
        groups = [episodes.groups[i] for i in members]
        found: dict[str, Metric] = {}
        for loss, metrics in clipped_losses(roles, episodes, targets, settings, members, learns):
            check_finite(float(loss.detach()), "loss", state.step + 1, groups)
            if loss.requires_grad:
                (loss / tokens).backward()
            found |= metrics
        largest = max(largest, found.pop(RATIO)[0])
        for name, (total, weight) in found.items():
            entry = totals.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight
    totals[RATIO][0] = largest
    everyone = [episodes.groups[i] for i in rows]
    norms = {
        name: step_optimiser(learner, settings.max_grad_norm, state.step + 1, everyone)
        for name, learner in state.learners.items()
        if learns or name != "policy"
    }
    means: dict[str, Metric] = {name: (t, w) for name, (t, w) in totals.items()}
    return means | {f"grad_norm/{name}": (norm, 1.0) for name, norm in norms.items()}


def _same_policy(found: Metric, settings: PpoSettings) -> None:
    """Before the first step of an iteration the ratio must be 1; raise where it is not."""
    largest = found[0] / found[1]
    if largest > RATIO_TOLERANCE[settings.precision]:
        raise TrainingError(
            f"Before the first step the policy's log-probs differ by up to {largest:.3g} nats from "
            f"those recorded for the same tokens, so the ratio is not 1. The model does not give "
            f"the same numbers twice: look for dropout or state in it."
        )


def _set_rates(state: TrainState, iterations: int, settings: PpoSettings) -> float:
    factor = 0.0
    peaks = {"policy": settings.learning_rate, "critic": settings.critic_learning_rate}
    for name, learner in state.learners.items():
        factor = set_learning_rate(learner, state.step, iterations, settings, peaks[name])
    return factor
