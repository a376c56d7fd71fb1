"""The one token shape: a prompt with its K responses, and a packed batch of them.

A packed batch is flat: the tokens of all groups one after another, each group's prompt once and
then its responses, each response at the positions that follow the prompt. No padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from accord.lm.attention.plan import AttentionPlan
from accord.records import UNKNOWN, Source

FORWARD_TOKENS = 8192
"""Tokens of a forward pass that only measures: more are no faster, and each takes memory."""


def forward_batches(
    sizes: Sequence[int], batch_size: int, *, max_tokens: int | None = None
) -> Iterator[range]:
    """Ranges of consecutive rows with `sizes` tokens: up to `batch_size` rows of up to `max_tokens`
    (by default FORWARD_TOKENS) in all; a longer row is a range by itself."""
    max_tokens = max_tokens or FORWARD_TOKENS
    start, tokens = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == batch_size or tokens + size > max_tokens):
            yield range(start, i)
            start, tokens = i, 0
        tokens += size
    if start < len(sizes):
        yield range(start, len(sizes))


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Token ids of a prompt (at least one) and of K responses (at least one token each).

    `ranks[k]` is the rank of response k, 0 best, equal = tie; `margin` is a pair's, if known;
    `labels[k]` says whether it is desirable. `loss_mask[k]` says which of its tokens are trained
    on; empty, all are. `probability` is a pair's soft label: that of the response with rank 0 being
    the better one; None is certainty. `votes` are the ranks that each of several annotators gave.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...] = ()
    margin: float | None = None
    source: Source = UNKNOWN
    labels: tuple[bool, ...] = ()
    loss_mask: tuple[tuple[bool, ...], ...] = ()
    probability: float | None = None
    votes: tuple[tuple[int, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens a packed batch holds of this group."""
        return len(self.prompt) + sum(len(r) for r in self.responses)

    @property
    def preference_pairs(self) -> list[tuple[int, int]]:
        """Pairs of responses with different ranks, by index, the better one first. Two equal
        responses, as after a cut, are no pair."""
        return self._pairs(self.ranks)

    @property
    def weighted_rankings(self) -> list[tuple[tuple[int, ...], float]]:
        """The ranks that the label is a mixture of, with their weights, which sum to 1: those of
        each annotator; of a pair with a soft label p, as it is with p and reversed with 1 − p."""
        if self.votes:
            return [(vote, 1.0 / len(self.votes)) for vote in self.votes]
        if self.probability is None:
            return [(self.ranks, 1.0)]
        p, reversed_ranks = self.probability, tuple(max(self.ranks) - rank for rank in self.ranks)
        return [(self.ranks, p), (reversed_ranks, 1.0 - p)]

    @property
    def weighted_pairs(self) -> list[tuple[int, int, float]]:
        """Pairs of responses, the better one first, with their weights in the loss.

        The weights sum to 1. A ranking's pairs share its weight, so any loss ℓ on pairs becomes the
        mean over `weighted_rankings` of the mean of ℓ over a ranking's pairs. A pair on which they
        differ is here in both directions; of a soft label p it is p·ℓ(w, l) + (1 − p)·ℓ(l, w).
        """
        weights: dict[tuple[int, int], float] = {}
        for ranks, share in self.weighted_rankings:
            pairs = self._pairs(ranks)
            for pair in pairs:
                weights[pair] = weights.get(pair, 0.0) + share / len(pairs)
        return [(i, j, weight) for (i, j), weight in weights.items() if weight]

    @property
    def preferred_weights(self) -> list[float]:
        """The weights of `weighted_pairs` in metrics: a pair's whole weight for the direction that
        has more of it, and half for each where both have as much."""
        weights = {(i, j): weight for i, j, weight in self.weighted_pairs}
        preferred = []
        for (i, j), weight in weights.items():
            reverse = weights.get((j, i), 0.0)
            share = 0.5 if math.isclose(weight, reverse) else float(weight > reverse)
            preferred.append(share * (weight + reverse))
        return preferred

    @property
    def mean_chosen_length(self) -> float:
        """Mean number of tokens of the better responses, over the pairs by their weights."""
        if self.probability is None and not self.votes:
            chosen = [len(self.responses[i]) for i, _ in self.preference_pairs]
            return sum(chosen) / len(chosen)
        return sum(weight * len(self.responses[i]) for i, _, weight in self.weighted_pairs)

    def _pairs(self, ranks: Sequence[int]) -> list[tuple[int, int]]:
        return [
            (i, j)
            for i, rank in enumerate(ranks)
            for j, worse_rank in enumerate(ranks)
            if rank < worse_rank and self.responses[i] != self.responses[j]
        ]

    @property
    def num_targets(self) -> int:
        """Tokens that are trained on."""
        return sum(map(sum, self.loss_mask)) if self.loss_mask else sum(map(len, self.responses))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs (P,) as response indices; a group's weights sum to 1, however many pairs it has.

    A pair with a soft label is here twice, the second time reversed, with the rest of the weight.
    `preferred` are the weights of the preferred directions alone, which metrics use
    (`PromptGroup.preferred_weights`).
    """

    chosen: Tensor
    rejected: Tensor
    weights: Tensor
    margins: Tensor
    preferred: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Groups packed flat, with T tokens, R trained response tokens, N responses in all.

    input_ids, position_ids (T,); targets (R,) the response tokens; predict_index (R,) the flat
    index of the token before each; response_of (R,) which response each belongs to; last (N,)
    the flat index of each response's last token; lengths (N,) how many of the R each response has.
    """

    groups: tuple[PromptGroup, ...]
    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    predict_index: Tensor
    response_of: Tensor
    last: Tensor
    lengths: Tensor
    device: torch.device

    @cached_property
    def attention(self) -> AttentionPlan:
        """Which tokens attend to which, computed once for all layers."""
        groups = tuple((len(g.prompt), tuple(map(len, g.responses))) for g in self.groups)
        return AttentionPlan(groups, self.device)

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs of responses to one prompt that have different ranks; see `Pairs`."""
        chosen: list[int] = []
        rejected: list[int] = []
        weights: list[float] = []
        margins: list[float] = []
        preferred: list[float] = []
        first = 0
        for group in self.groups:
            pairs = group.weighted_pairs
            chosen += [first + i for i, _, _ in pairs]
            rejected += [first + j for _, j, _ in pairs]
            weights += [weight for _, _, weight in pairs]
            margins += [group.margin or 0.0] * len(pairs)
            preferred += group.preferred_weights
            first += len(group.responses)
        return Pairs(
            torch.tensor(chosen, device=self.device),
            torch.tensor(rejected, device=self.device),
            torch.tensor(weights, device=self.device),
            torch.tensor(margins, device=self.device),
            torch.tensor(preferred, device=self.device),
        )

    def per_response(self, token_values: Tensor) -> Tensor:
        """Sums (N,) over each response of token values (R,)."""
        total = token_values.new_zeros(len(self.lengths))
        return total.index_add(0, self.response_of, token_values)


def pack(groups: Sequence[PromptGroup], device: torch.device | str = "cpu") -> PackedBatch:
    """Pack groups into one flat batch on the device. Raises ValueError for an empty sequence."""
    if not groups:
        raise ValueError("a batch needs at least one group")
    ids: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    predict: list[int] = []
    owner: list[int] = []
    last: list[int] = []
    lengths: list[int] = []
    for group in groups:
        if not group.prompt or not group.responses or not all(group.responses):
            raise ValueError(f"{group.source}: a prompt and its responses need a token each")
        ids += group.prompt
        positions += range(len(group.prompt))
        end_of_prompt = len(ids) - 1
        for k, response in enumerate(group.responses):
            start = len(ids)
            ids += response
            positions += range(len(group.prompt), len(group.prompt) + len(response))
            before = [end_of_prompt, *range(start, start + len(response) - 1)]
            trained: Sequence[int] = response
            if group.loss_mask:
                mask = group.loss_mask[k]
                trained = [t for t, on in zip(response, mask, strict=True) if on]
                before = [i for i, on in zip(before, mask, strict=True) if on]
            targets += trained
            predict += before
            owner += [len(lengths)] * len(trained)
            last.append(len(ids) - 1)
            lengths.append(len(trained))
    device = torch.device(device)

    def flat(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedBatch(
        groups=tuple(groups),
        input_ids=flat(ids),
        position_ids=flat(positions),
        targets=flat(targets),
        predict_index=flat(predict),
        response_of=flat(owner),
        last=flat(last),
        lengths=flat(lengths),
        device=device,
    )
