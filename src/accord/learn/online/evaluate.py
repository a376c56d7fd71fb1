"""Evaluation of the policy on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from accord.compare.rewards.reward import source_metrics
from accord.learn.loop.processes import processes
from accord.learn.online.episodes import measure_rollouts, micro_batches
from accord.learn.online.metrics import episode_metrics
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import Prompts, sample_rollouts, score_rollouts
from accord.records import PromptOnly
from accord.settings.online import OnlineSettings

LOGGED = (
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "objective/entropy",
    "eos_rate",
    "response_length",
)


def evaluate_policy(
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    beta: float,
) -> dict[str, float]:
    """Metrics of one response to each prompt, with the same random numbers at every call."""
    settings = settings.model_copy(update={"num_generations": 1})
    rollouts = sample_rollouts(roles, prompts, records, settings, range(len(prompts)))
    passes_per_iteration = settings.num_mini_batches * settings.gradient_accumulation_steps
    batch_size = max(1, settings.per_device_train_batch_size // passes_per_iteration)
    procs = processes()
    passes = micro_batches(
        rollouts.groups,
        range(len(prompts)),
        count=math.ceil(len(prompts) / (batch_size * procs.world_size)),
        max_tokens=settings.max_tokens_per_forward,
        procs=procs,
        lockstep=roles.is_sharded,
    )
    episodes, _ = measure_rollouts(
        roles,
        rollouts,
        score_rollouts(roles, rollouts, records),
        [passes],
        temperature=settings.temperature,
        reference=settings.needs_reference,
        old=True,
        entropy=True,
    )
    metrics = episode_metrics(episodes, settings, beta)
    logged = {name: metrics[name] for name in LOGGED if name in metrics}
    return logged | source_metrics(episodes.by_source)
