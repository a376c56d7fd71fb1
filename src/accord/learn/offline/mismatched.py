"""KTO's mismatched responses: each row's prompt with another row's response, for z₀.

z₀ estimates KL(π‖π_ref) from responses that are not answers to their prompts (Ethayarajh et al.
2024, section 4.1). The reference computes a row's own and its mismatched response behind one
prompt; so does the policy where a step has a single forward pass (`fits_in_one_pass`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accord.learn.loop.objective import Reference
from accord.learn.loop.processes import Processes
from accord.learn.loop.schedule import make_schedule, own_passes
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.tokens.derived_rows import DerivedRows
from accord.lm.tokens.token_rows import TokenRows, target_counts, token_counts
from accord.runs import digest_json
from accord.settings.preferences import KtoSettings

log = logging.getLogger(__name__)

SHIFT = 1 << 40  # the random stream that matches prompts with other rows' responses


def mismatched_groups(
    groups: Sequence[PromptGroup], settings: KtoSettings
) -> Sequence[PromptGroup]:
    """Each row's prompt with a response of a row whose prompt differs; empty if all are equal.

    Row i takes the row a fixed shift further on, or the next after it that has another prompt. The
    shift, and which of several responses, depend on the seed alone. The response is cut to
    `max_length`.
    """
    count, prompts = len(groups), _comparable_prompts(groups)
    offsets = _next_other_prompt(prompts)
    if not any(offsets):
        if groups:
            log.warning(
                "All rows have the same prompt, so no response can be matched to another one: z₀ "
                "of the loss is 0 throughout, as with loss_type=apo_zero_unpaired."
            )
        return []
    generator = np.random.Generator(np.random.Philox(key=[settings.seed, SHIFT]))
    shift = int(generator.integers(1, count))
    draws = generator.random(count)
    sources = np.empty(count, dtype=np.int64)
    for i in range(count):
        source = (i + shift) % count
        if prompts[source] == prompts[i]:
            source = (source + offsets[source]) % count
        sources[i] = source

    def make(i: int) -> PromptGroup:
        group, source = groups[i], groups[int(sources[i])]
        response = source.responses[int(draws[i] * len(source.responses))]
        room = max(1, settings.max_length - len(group.prompt))
        return PromptGroup(group.prompt, (response[:room],), source=source.source)

    if not isinstance(groups, TokenRows):
        return [make(i) for i in range(count)]
    lengths = _response_lengths(groups, sources, draws, settings.max_length)
    prompt_lengths = np.concatenate([reader.lengths[0] for reader in groups.readers()])
    choice = [shift, settings.seed, settings.max_length]
    return DerivedRows(
        make,
        (prompt_lengths + lengths).astype(np.int32),
        lengths.astype(np.int32),
        digest_json([groups.digest, "mismatched", *choice]),
    )


def _comparable_prompts(groups: Sequence[PromptGroup]) -> Sequence[Any]:
    if not isinstance(groups, TokenRows):
        return [group.prompt for group in groups]
    hashes: list[int] = np.concatenate([r.prompt_hashes for r in groups.readers()]).tolist()
    return hashes


def _response_lengths(
    groups: TokenRows, sources: NDArray[np.int64], draws: NDArray[np.float64], max_length: int
) -> NDArray[np.int64]:
    """Tokens of each row's mismatched response, after the cut."""
    parts = zip(*(reader.lengths for reader in groups.readers()), strict=True)
    prompts, counts, responses = map(np.concatenate, parts)
    starts = np.cumsum(counts) - counts
    drawn = (draws * counts[sources]).astype(np.int64)
    room = np.maximum(1, max_length - prompts)
    lengths: NDArray[np.int64] = np.minimum(responses[starts[sources] + drawn], room)
    return lengths


def _next_other_prompt(prompts: Sequence[Any]) -> list[int]:
    """The distance, cyclically, from each row to the next with another prompt; 0 if none has."""
    count = len(prompts)
    steps = [0] * count
    for i in range(2 * count - 2, -1, -1):
        here, after = i % count, (i + 1) % count
        if prompts[here] != prompts[after]:
            steps[here] = 1
        elif steps[after]:
            steps[here] = steps[after] + 1
    return steps


def append_mismatched(
    groups: Sequence[PromptGroup], mismatched: Sequence[PromptGroup]
) -> Sequence[PromptGroup]:
    """Each row with its mismatched response as its last, so that the reference computes the prompt
    once for both."""
    if not mismatched:
        return groups

    def make(i: int) -> PromptGroup:
        group, (response,) = groups[i], mismatched[i].responses
        loss_mask = (*group.loss_mask, (True,) * len(response)) if group.loss_mask else ()
        responses = (*group.responses, response)
        return replace(group, responses=responses, loss_mask=loss_mask, ranks=(), labels=())

    if not isinstance(mismatched, DerivedRows):
        return [make(i) for i in range(len(groups))]
    return DerivedRows(
        make,
        token_counts(groups) + mismatched.num_targets,
        target_counts(groups) + mismatched.num_targets,
        digest_json([mismatched.digest, "appended"]),
    )


def fits_in_one_pass(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    rows: Sequence[int],
    settings: KtoSettings,
    procs: Processes,
) -> bool:
    """Whether the step has one forward pass, which can compute the mismatched responses behind its
    prompts: z₀, a mean over the whole step, is then known within that pass."""
    return (
        lm.shares_prefixes
        and lm.device.type == "cpu"
        and not settings.gradient_checkpointing  # layers would be computed again going back
        and procs.world_size == 1
        and len(make_schedule(len(groups), settings).micro_batches(rows, groups)) == 1
    )


@torch.no_grad()
def reference_log_probs(
    lm: LanguageModel,
    appended: Sequence[PromptGroup],
    mismatched: Sequence[PromptGroup],
    reference: Reference,
    rows: Sequence[int],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """By row number, the reference's log-probs of its own response tokens and of its mismatched
    response's (empty where there is none)."""
    distinct = list(dict.fromkeys(rows))
    flat = reference(pack([appended[i] for i in distinct], lm.device), distinct).cpu()
    parts = dict(
        zip(distinct, flat.split([appended[i].num_targets for i in distinct]), strict=True)
    )
    num_row_tokens = {
        i: appended[i].num_targets - (mismatched[i].num_targets if mismatched else 0)
        for i in distinct
    }
    return (
        {i: part[: num_row_tokens[i]] for i, part in parts.items()},
        {i: part[num_row_tokens[i] :] for i, part in parts.items()},
    )


@torch.no_grad()
def log_probs_and_mismatched_ratios(
    lm: LanguageModel,
    appended: Sequence[PromptGroup],
    mismatched: Sequence[PromptGroup],
    reference: Reference,
    rows: Sequence[int],
    settings: KtoSettings,
    procs: Processes,
) -> tuple[dict[int, Tensor], Tensor]:
    """By row number, the reference's log-probs of its own response tokens; and log π/π_ref (rows,)
    of each mismatched response, 0 where there is none. Processes share the passes."""
    distinct = list(dict.fromkeys(rows))
    schedule = make_schedule(len(appended), settings, procs.world_size)
    passes = schedule.micro_batches(distinct, appended)
    computed: dict[int, tuple[Tensor, float]] = {}
    for part, _ in own_passes(passes, procs, lockstep=lm.sharded is not None):
        row_logps, extra_logps = reference_log_probs(lm, appended, mismatched, reference, part)
        ratios = [0.0] * len(part)
        if mismatched:
            batch = pack([mismatched[i] for i in part], lm.device)
            ref_logps = torch.cat([extra_logps[i] for i in part]).to(batch.device)
            ratios = batch.per_response(response_logps(lm, batch) - ref_logps).tolist()
        computed.update({i: (row_logps[i], r) for i, r in zip(part, ratios, strict=True)})
    for shard in procs.all_gather(computed):
        computed.update(shard)
    row_ratios = torch.tensor([computed[i][1] for i in rows])
    return {i: logps for i, (logps, _) in computed.items()}, row_ratios
