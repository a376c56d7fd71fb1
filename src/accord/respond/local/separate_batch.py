"""Rows of models that can't share prefixes, such as state-space ones: a cache for each prompt.

State-space layers and similar ones store states that only the model's own cache supports. The rows
that follow one prompt decode together; those of different prompts one prompt after another, so
that no row is padded.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from accord.lm.model import LanguageModel
from accord.respond.local.decode_batch import NewRow
from accord.respond.local.padded import next_logits


@dataclass
class _Group:
    """Rows of equal length with their cache."""

    cache: Any
    rows: int
    length: int


class SeparateBatch:
    """The interface of `DecodeBatch`; a state is the row's logits."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.groups: list[_Group] = []

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return max((group.length for group in self.groups), default=0)

    def add_rows(self, new: Sequence[NewRow]) -> Tensor:
        """Add rows; those with the same key follow each other. Returns logits (n, V)."""
        logits = []
        keys = [(i, None) if row.key is None else (0, row.key) for i, row in enumerate(new)]
        for _, items in groupby(zip(keys, new, strict=True), lambda item: item[0]):
            rows = [row for _, row in items]
            ids = torch.tensor(rows[0].ids, device=self.lm.device)[None]
            cache = DynamicCache(config=self.lm.inner.config)
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
            first = next_logits(self.lm, ids, torch.ones_like(ids), positions, cache)
            # Beam search's call: all kinds of layers have it, state-space ones too.
            cache.reorder_cache(torch.zeros(len(rows), dtype=torch.long, device=ids.device))
            self.groups.append(_Group(cache, len(rows), ids.shape[1]))
            logits.append(first.expand(len(rows), -1))
        return torch.cat(logits)

    def decode_step(self, tokens: Tensor) -> Tensor:
        """Append a token (R,) to each row; returns logits (R, V)."""
        parts = tokens.to(self.lm.device).split([group.rows for group in self.groups])
        return torch.cat([self._decode(g, t) for g, t in zip(self.groups, parts, strict=True)])

    def logits(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states

    def remove_rows(self, finished: Tensor, retained: Collection[Hashable] = ()) -> Tensor:
        """Remove the rows that `finished` (R,) marks; returns the former index of each other."""
        for group, mask in zip(
            self.groups, finished.split([group.rows for group in self.groups]), strict=True
        ):
            remaining = (~mask).nonzero().flatten()
            if 0 < len(remaining) < group.rows:
                group.cache.reorder_cache(remaining.to(self.lm.device))
            group.rows = len(remaining)
        self.groups = [group for group in self.groups if group.rows]
        return (~finished).nonzero().flatten()

    def erase(self, rows: Sequence[int]) -> None:
        """Does nothing: a row's cache is its own."""

    def free_memory(self) -> None:
        """Does nothing: a removed group has no memory."""

    def _decode(self, group: _Group, tokens: Tensor) -> Tensor:
        mask = tokens.new_ones(group.rows, group.length + 1)
        positions = tokens.new_full((group.rows, 1), group.length)
        group.length += 1
        return next_logits(self.lm, tokens[:, None], mask, positions, group.cache)
