"""Reuse of a pass's keys and values: extra responses to prompts that were already computed.

A training pass computes keys and values of its prompts in every layer. A further response to one of
these prompts, which is not trained on, then needs only its own tokens. CPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from accord.lm.attention.plan import AttentionPlan, ScoreOptions


@dataclass
class CapturedPrefix:
    """Keys and values (1, G, T, D) of a pass over T tokens, in the order of attention's calls."""

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def capture(self, key: Tensor, value: Tensor) -> None:
        self.calls.append((key.detach(), value.detach()))


@dataclass
class RecordedCall:
    """What an attention layer passes to attention, which answers with `output` (1, T, H, D): its
    queries, keys and values (1, ·, T, D), how it scores, and its sinks."""

    output: Tensor
    tensors: tuple[Tensor, ...] = ()
    options: ScoreOptions | None = None
    sinks: Tensor | None = None


@dataclass
class ReusedPrefix:
    """A pass over extra tokens alone, which attend to the captured keys and values."""

    captured: CapturedPrefix
    calls_done: int = 0

    def with_past(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of captured and extra tokens; captured tokens have zero queries, which
        no block of the plan reads."""
        past_key, past_value = self.captured.calls[self.calls_done]
        self.calls_done += 1
        return with_past(past_key, past_value, query, key, value)


def with_past(
    past_key: Tensor, past_value: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, ·, T, D) of past tokens, whose queries no block of a plan reads,
    followed by those of new ones."""
    no_query = query.new_zeros(1, query.shape[1], past_key.shape[2], query.shape[3])
    return (
        torch.cat([no_query, query], 2),
        torch.cat([past_key.to(key.dtype), key], 2),
        torch.cat([past_value.to(value.dtype), value], 2),
    )


def plan_after_past(
    past: Sequence[int], lengths: Sequence[int], device: torch.device
) -> AttentionPlan:
    """The plan of `lengths[i]` new tokens after `past[i]` earlier ones, behind all of those."""
    return AttentionPlan(tuple((n, (0,)) for n in past), device, extra_responses=tuple(lengths))


def plan_extra_responses(plan: AttentionPlan, extra: Sequence[tuple[int, ...]]) -> AttentionPlan:
    """The plan of extra responses, one a group, appended after all tokens of a packed batch."""
    return AttentionPlan(plan.groups, plan.device, extra_responses=tuple(map(len, extra)))
