"""Batches are bounded by what their tokens take in memory, and give the same responses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from accord.compare.rewards import models as reward_models
from accord.compare.rewards.reward import PromptResponse
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, forward_batches
from accord.records import Message
from accord.respond.local import memory
from accord.respond.local.memory import rows_in_memory
from tests.lm.models import causal
from tests.respond.local_sampling import make_lm, sample, token_ids


def test_a_forward_pass_has_a_limited_number_of_tokens() -> None:
    batches = [list(b) for b in forward_batches([3, 3, 3, 9, 1, 1, 1, 1], 3, max_tokens=7)]
    assert batches == [[0, 1], [2], [3], [4, 5, 6], [7]]  # a long row by itself; three rows
    assert list(forward_batches([], 3)) == []
    assert [len(b) for b in forward_batches([1024] * 64, 64)] == [8] * 8


def test_rows_are_as_many_as_their_keys_and_values_leave_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = make_lm(causal("llama"))
    config = lm.inner.config
    width = config.hidden_size // config.num_attention_heads
    # Keys and values in float32; a store of 100 tokens has room for 128.
    row = 128 * 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * width
    monkeypatch.setattr(memory, "CPU_BYTES", 10 * row)
    assert rows_in_memory(lm, 512, 100) == 10
    assert rows_in_memory(lm, 4, 100) == 4
    # Four responses share a prompt of 128 tokens: a row takes 128 + 32.
    assert rows_in_memory(lm, 512, 100, 128, sharing=4) == 8
    monkeypatch.setattr(memory, "CPU_BYTES", 1)
    assert rows_in_memory(lm, 512, 100) == 1


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_little_memory_changes_no_response(
    k: int, shares_prefixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(causal("llama"))
    lm.shares_prefixes = shares_prefixes
    expected = token_ids(sample(lm, num_responses=k))
    monkeypatch.setattr(memory, "CPU_BYTES", 1)
    assert token_ids(sample(lm, num_responses=k)) == expected


def test_long_responses_are_scored_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm(causal("llama"))
    prompt = (Message("user", "x"),)
    rows = [PromptResponse(prompt, "y" * n, True) for n in range(40)]

    def encode(lm: LanguageModel, prompt: object, response: str, finished: bool) -> PromptGroup:
        return PromptGroup((1,), ((2,) * (1000 + len(response)),), (0,))

    sizes: list[int] = []

    def lengths(lm: LanguageModel, batch: PackedBatch) -> torch.Tensor:
        sizes.append(sum(g.num_tokens for g in batch.groups))
        return torch.tensor([float(len(r)) for g in batch.groups for r in g.responses])

    monkeypatch.setattr(reward_models, "encode_for_reward", encode)
    values: Sequence[float] = reward_models.compute_by_length(lm, rows, lengths).tolist()
    assert values == [1000.0 + n for n in range(40)]
    assert max(sizes) <= 8192
