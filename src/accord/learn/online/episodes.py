"""Episodes: the policy's responses to prompts, K to each, measured under policy, reference and
critic; and how they are split into optimiser steps and forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from accord.compare.rewards.reward import RewardScores
from accord.learn.loop.processes import Processes, processes
from accord.learn.loop.schedule import balance_by_tokens, own_passes
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import Rollouts
from accord.lm.forward import response_logps, response_stats, share_forward_pass, token_values
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.settings.online import OnlineSettings

MEASURED = ("old_logps", "known", "ref_logps", "values", "entropy")  # by forward passes


@dataclass(frozen=True, slots=True)
class Episodes:
    """P prompts with K responses each: E = P·K episodes; episode e is response e % K of prompt
    e // K. On each response token (E, T), masked: log-probs under the policy that sampled (`old`),
    under the engine that sampled and under the reference, the critic's values, the entropy.

    scores (E,) are the reward's, and `by_source` the sources that were summed; finished (E,) says
    which responses ended with EOS. `known` (E,) says whose old log-probs and entropies are
    computed; the first training pass over the others fills theirs in. `off_policy`: another
    engine sampled. `positions` (P,) are those of the prompts in the run's order, `sampling` what
    sampling logs of itself, and `discarded_tokens` the tokens that it did not use.
    """

    groups: tuple[PromptGroup, ...]
    texts: tuple[str, ...]
    mask: Tensor
    scores: Tensor
    finished: Tensor
    sampler_logps: Tensor
    old_logps: Tensor
    known: Tensor
    ref_logps: Tensor | None = None
    values: Tensor | None = None
    entropy: Tensor | None = None
    off_policy: bool = False
    by_source: Mapping[str, Sequence[float]] = field(default_factory=dict)
    positions: tuple[int, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    discarded_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and responses, with those that were sampled and not used."""
        return sum(group.num_tokens for group in self.groups) + self.discarded_tokens

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)

    @property
    def group_size(self) -> int:
        """K, the responses to each prompt."""
        return len(self.scores) // len(self.groups)

    def episodes_of_prompts(self, prompts: Sequence[int]) -> list[int]:
        """The episode numbers of some prompts."""
        k = self.group_size
        return [e for p in prompts for e in range(p * k, (p + 1) * k)]


@dataclass(slots=True)
class SavedForward:
    """A forward pass with its graph, saved for the first optimiser step: its episodes, and the
    log-probs (R,) of their tokens until the graph is released."""

    rows: list[int]
    logps: Tensor | None

    def release(self) -> None:
        """Free the graph and its activations."""
        self.logps = None


def length_mask(lengths: Sequence[int]) -> Tensor:
    """(E, T) bools: True on the first lengths[e] cells of row e."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def pad_flat(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of response tokens (R,), in order of response and token, padded to (E, T)."""
    padded = torch.zeros(mask.shape, dtype=flat.dtype)
    padded[mask] = flat.cpu()
    return padded


def write_flat(padded: Tensor, rows: Sequence[int], mask: Tensor, flat: Tensor) -> None:
    """Write values (R,) of some rows' tokens, in order, into their cells of `padded` (E, T)."""
    padded[list(rows)] = pad_flat(flat.detach(), mask[list(rows)])


def all_gather_rows(episodes: Episodes, rows: Sequence[int], procs: Processes) -> None:
    """Share with all processes what each has measured on its rows."""
    if procs.world_size == 1:
        return
    fields = {n: getattr(episodes, n) for n in MEASURED if getattr(episodes, n) is not None}
    measured = {name: values[list(rows)] for name, values in fields.items()}
    for shard_rows, shard in procs.all_gather((list(rows), measured)):
        for name, values in shard.items():
            fields[name][shard_rows] = values


def select_groups(groups: Sequence[PromptGroup], rows: Sequence[int]) -> list[PromptGroup]:
    """The token groups that hold some episodes, given in order; each prompt occurs once."""
    k = len(groups[0].responses)
    selected: list[PromptGroup] = []
    for prompt, members in _by_prompt(rows, k):
        group = groups[prompt]
        if group.ranks or members != [*range(prompt * k, (prompt + 1) * k)]:
            responses = tuple(group.responses[e % k] for e in members)
            group = replace(group, responses=responses, ranks=())
        selected.append(group)
    return selected


def _by_prompt(rows: Sequence[int], k: int) -> Iterator[tuple[int, list[int]]]:
    members: list[int] = []
    for e in rows:
        if members and members[0] // k != e // k:
            yield members[0] // k, members
            members = []
        members.append(e)
    if members:
        yield members[0] // k, members


def minibatches(
    prompts: Sequence[int], settings: OnlineSettings, iteration: int, epoch: int
) -> list[list[int]]:
    """The prompts of each optimiser step of an epoch, shuffled by seed, iteration and epoch; no
    minibatch is empty."""
    key = [settings.seed, (iteration << 16) + epoch + 1]
    shuffled = np.random.Generator(np.random.Philox(key=key)).permutation(len(prompts))
    parts = np.array_split(shuffled, settings.num_mini_batches)
    return [[prompts[i] for i in part] for part in parts if len(part)]


def micro_batches(
    groups: Sequence[PromptGroup],
    prompts: Sequence[int],
    *,
    count: int,
    max_tokens: int | None,
    procs: Processes = Processes(),  # noqa: B008 - frozen
    lockstep: bool = False,
) -> list[list[int]]:
    """The episodes of some prompts, balanced by tokens over `count` forward passes of at most
    `max_tokens`.

    A prompt's responses stay together, unless they alone exceed that. Of several processes each
    has `count` passes and gets its own; where prompts are few, it may get none, or in `lockstep`
    another's last (see `own_passes`).
    """
    parts = all_micro_batches(groups, prompts, count=count, max_tokens=max_tokens, procs=procs)
    return [part for part, _ in own_passes(parts, procs, lockstep=lockstep)]


def all_micro_batches(
    groups: Sequence[PromptGroup],
    prompts: Sequence[int],
    *,
    count: int,
    max_tokens: int | None,
    procs: Processes,
) -> list[list[int]]:
    """The `micro_batches` of all processes, which take them in turn."""
    units = [unit for p in prompts for unit in _units(groups[p], p, max_tokens)]
    sizes = [tokens for _, tokens in units]
    count = min(len(units), count * procs.world_size)
    parts = balance_by_tokens(sizes, count, max_tokens=max_tokens, multiple=procs.world_size)
    return [sorted(e for unit in part for e in units[unit][0]) for part in parts]


def _units(
    group: PromptGroup, prompt: int, max_tokens: int | None
) -> Iterator[tuple[list[int], int]]:
    """A prompt's episodes with their tokens, in as many runs as keep each within `max_tokens`."""
    k = len(group.responses)
    run: list[int] = []
    tokens = len(group.prompt)
    for i, response in enumerate(group.responses):
        if run and max_tokens is not None and tokens + len(response) > max_tokens:
            yield run, tokens
            run, tokens = [], len(group.prompt)
        run.append(prompt * k + i)
        tokens += len(response)
    yield run, tokens


def measure_rollouts(
    roles: Roles,
    rollouts: Rollouts,
    scores: RewardScores,
    passes: Sequence[Sequence[list[int]]],
    *,
    temperature: float,
    reference: bool,
    old: bool,
    entropy: bool,
    save_graph: bool = False,
) -> tuple[Episodes, SavedForward | None]:
    """Episodes from scored rollouts: log-probs and values, one forward pass at a time.

    `passes` holds the episodes of each forward pass of each optimiser step, of several processes
    this one's, and last of a step, where models are sharded, one of another process that waits for
    it (see `own_passes`); measured in the passes that train, the first ratio is 1 to the bit.
    `reference`, `old` and `entropy` say what is measured besides values. With `save_graph`, the
    pass of a first step that has only one keeps its graph, so that the step need not compute it
    again.

    Log-probs are recomputed here, never taken from the sampler.
    """
    groups = rollouts.groups
    mask = length_mask([len(r) for g in groups for r in g.responses])
    episodes = Episodes(
        groups=groups,
        texts=rollouts.texts,
        mask=mask,
        scores=torch.tensor(scores.total),
        finished=torch.tensor(rollouts.finished),
        sampler_logps=pad_flat(torch.tensor(rollouts.logps), mask),
        old_logps=torch.zeros(mask.shape),
        known=torch.full((len(mask),), old),
        ref_logps=torch.zeros(mask.shape) if reference else None,
        values=None if roles.critic is None else torch.zeros(mask.shape),
        entropy=torch.zeros(mask.shape) if entropy else None,
        off_policy=not rollouts.exact,
        by_source=scores.by_source,
    )
    first_pass = None
    numbered = list(enumerate(rows for step in passes for rows in step))
    # The first pass comes last: its graph stays in memory from then on.
    for number, rows in numbered[1:] + numbered[:1]:
        batch = pack(select_groups(groups, rows), roles.policy.device)
        with torch.no_grad():
            if episodes.ref_logps is not None and roles.reference is not None:
                logps = response_logps(roles.reference, batch, temperature=temperature)
                write_flat(episodes.ref_logps, rows, mask, logps)
            critic_alone = not (old and share_forward_pass(roles.policy, roles.critic))
            if episodes.values is not None and roles.critic is not None and critic_alone:
                write_flat(episodes.values, rows, mask, token_values(roles.critic, batch))
        if not old:
            continue
        keeps_graph = save_graph and number == 0 and len(passes[0]) == 1
        with torch.set_grad_enabled(keeps_graph):
            logps = _measure_policy(roles, batch, temperature, episodes, rows)
        write_flat(episodes.old_logps, rows, mask, logps)
        if keeps_graph:
            first_pass = SavedForward(rows, logps)
    all_gather_rows(episodes, [e for _, rows in numbered for e in rows], processes())
    return episodes, first_pass


def _measure_policy(
    roles: Roles,
    batch: PackedBatch,
    temperature: float,
    episodes: Episodes,
    rows: Sequence[int],
) -> Tensor:
    """The policy's log-probs (R,); entropies, where requested, and the values of a critic that
    shares the pass are written into the episodes."""
    shared_critic = roles.critic if share_forward_pass(roles.policy, roles.critic) else None
    stats = response_stats(
        roles.policy,
        batch,
        want=() if episodes.entropy is None else {"entropy"},
        temperature=temperature,
        critic=shared_critic,
    )
    if stats.values is not None and episodes.values is not None:
        write_flat(episodes.values, rows, episodes.mask, stats.values)
    if stats.entropy is not None and episodes.entropy is not None:
        write_flat(episodes.entropy, rows, episodes.mask, stats.entropy)
    return stats.logps
