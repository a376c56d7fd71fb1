"""More responses behind prompts that a pass has read: its keys and values serve again.

A pass that learns has computed keys and values of its prompts in every layer. A further response to
one of them, which is not learned from, need only compute its own tokens. CPU only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from accord.lm.attention.plan import AttentionPlan


@dataclass
class Captured:
    """Keys and values (1, G, T, D) of a pass over T tokens, in the order of attention's calls."""

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def keep(self, key: Tensor, value: Tensor) -> None:
        self.calls.append((key.detach(), value.detach()))


@dataclass
class Behind:
    """A pass over further tokens alone, which see what was captured."""

    captured: Captured
    made: int = 0

    def with_past(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens' keys and values; the queries of the captured ones ask nothing."""
        past_key, past_value = self.captured.calls[self.made]
        self.made += 1
        nothing = query.new_zeros(1, query.shape[1], past_key.shape[2], query.shape[3])
        return (
            torch.cat([nothing, query], 2),
            torch.cat([past_key.to(key.dtype), key], 2),
            torch.cat([past_value.to(value.dtype), value], 2),
        )


def plan_behind(plan: AttentionPlan, others: Sequence[tuple[int, ...]]) -> AttentionPlan:
    """The plan of further responses, one a group, that follow on all tokens of a packed batch."""
    return AttentionPlan(plan.groups, plan.device, others=tuple(map(len, others)))
