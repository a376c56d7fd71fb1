"""An iteration's episodes: which prompts, sampled and measured, or as a killed run left them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accord.compare.rewards.reward import source_metrics
from accord.learn.loop.checkpoints import changing
from accord.learn.loop.order import RowOrder
from accord.learn.loop.processes import processes
from accord.learn.online.episodes import Episodes, passes_of
from accord.learn.online.methods import OnlineMethod
from accord.learn.online.metrics import summary
from accord.learn.online.roles import Roles
from accord.learn.online.rollout import Held, Rollouts, answer, joined, measure, score
from accord.learn.online.saved_episodes import keep_episodes, kept_episodes
from accord.lm.forward import share_forward_pass
from accord.records import PromptOnly
from accord.respond.protocol import SamplingSettings
from accord.runs import digest_json
from accord.settings.online import OnlineSettings

HELD_OUT = (  # told of held-out prompts
    "objective/scores",
    "objective/kl",
    "objective/rlhf_reward",
    "objective/entropy",
    "eos_rate",
    "response_length",
)

Prompts = Sequence[tuple[int, ...]]


def episodes_of(
    method: OnlineMethod,
    iteration: int,
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    *,
    logs: bool,
    folder: Path | None,
) -> tuple[Episodes, Held | None]:
    """The iteration's episodes, as a run that was killed has left them, or sampled.

    They are the same in all processes; the main one keeps them, and tells the others what is kept.
    """
    team = processes()
    if folder is None:
        return collect(method, roles, prompts, records, settings, iteration, logs=logs)
    identity = {
        "settings": digest_json(changing(settings.model_dump(mode="json"))),
        "prompts": digest_json([list(p) for p in prompts]),
        "entropy": logs,
    }
    if settings.resume:
        kept = (
            kept_episodes(folder, iteration, prompts, records, identity) if team.is_main else None
        )
        kept = team.broadcast(kept)
        if kept is not None:
            return kept, None
    episodes, held = collect(method, roles, prompts, records, settings, iteration, logs=logs)
    if team.is_main:
        keep_episodes(folder, iteration, episodes, identity)
    return episodes, held


def collect(
    method: OnlineMethod,
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    iteration: int,
    *,
    logs: bool = True,
) -> tuple[Episodes, Held | None]:
    """An iteration's episodes: a function of weights, prompts, seed and iteration alone.

    The policy's log-probs are computed beforehand only where the reward needs them (a KL on the
    tokens), a limit looks at them, or more than one step will be taken from them.
    """
    first = iteration * len(prompts)
    answered = _answered(roles, prompts, records, settings, range(first, first + len(prompts)))
    in_reward = settings.needs_reference and not method.kl_in_loss
    steps = settings.epochs * settings.num_mini_batches
    before = in_reward or settings.max_kl is not None or steps > 1
    plan = [
        passes_of(
            answered.groups,
            members,
            count=settings.gradient_accumulation_steps,
            most=settings.max_tokens_per_forward,
            team=processes(),
        )
        for members in minibatches(range(len(prompts)), settings, iteration, epoch=0)
    ]
    learns = iteration >= getattr(settings, "critic_warmup_steps", 0)
    # A graph that is kept would be of the log-probs alone.
    together = roles.critic is not None and share_forward_pass(roles.policy, roles.critic)
    return measure(
        roles,
        answered,
        score(roles.reward, answered, records),
        plan,
        temperature=settings.temperature,
        reference=settings.needs_reference,
        old=before,
        entropy=logs,
        hold=learns and not settings.entropy_coef and not together,
    )


def held_out(
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    beta: float,
) -> dict[str, float]:
    """How the policy does on prompts that it does not learn from, with the same draws each time,
    one response to each."""
    one = settings.model_copy(update={"num_generations": 1})
    answered = _answered(roles, prompts, records, one, range(len(prompts)))
    passes = settings.num_mini_batches * settings.gradient_accumulation_steps
    a_pass = max(1, settings.per_device_train_batch_size // passes)
    team, most = processes(), settings.max_tokens_per_forward
    count = math.ceil(len(prompts) / (a_pass * team.world_size))
    plan = [passes_of(answered.groups, range(len(prompts)), count=count, most=most, team=team)]
    episodes, _ = measure(
        roles,
        answered,
        score(roles.reward, answered, records),
        plan,
        temperature=settings.temperature,
        reference=settings.needs_reference,
        old=True,
        entropy=True,
    )
    numbers = summary(episodes, one, beta)
    wanted = {name: numbers[name] for name in HELD_OUT if name in numbers}
    return wanted | source_metrics(episodes.by_source)


def rows_of(order: RowOrder, settings: OnlineSettings, iteration: int) -> list[int]:
    """The prompts of an iteration (from 0), of all processes."""
    count = settings.prompts_per_iteration * processes().world_size
    return order.slice(iteration * count, (iteration + 1) * count)


def minibatches(
    prompts: Sequence[int], settings: OnlineSettings, iteration: int, epoch: int
) -> list[list[int]]:
    """The prompts of each optimiser step of an epoch, shuffled anew; none is empty."""
    key = [settings.seed, (iteration << 16) + epoch + 1]
    shuffled = np.random.Generator(np.random.Philox(key=key)).permutation(len(prompts))
    parts = np.array_split(shuffled, settings.num_mini_batches)
    return [[prompts[place] for place in part] for part in parts if len(part)]


def _answered(
    roles: Roles,
    prompts: Prompts,
    records: Sequence[PromptOnly],
    settings: OnlineSettings,
    streams: range,
) -> Rollouts:
    """The responses of the policy as it is now; each process writes those to its share of the
    prompts, or, where a server does, the main one has them all written."""
    team = processes()
    own = team.shard(len(prompts))
    if roles.server:
        own = range(len(prompts)) if team.is_main else range(0)
    sampling = SamplingSettings(
        num_responses=settings.num_generations,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        stop=tuple(settings.stop),
    )

    def write() -> Rollouts:
        if team.is_main:
            roles.publish()
        return answer(
            roles.policy,
            roles.sampler,
            prompts[own.start : own.stop],
            records[own.start : own.stop],
            sampling,
            seed=settings.seed,
            streams=streams[own.start : own.stop],
        )

    return joined(team.run_on_all(write))
