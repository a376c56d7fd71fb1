"""The layout of a packed batch: its indices, its pairs, and the plan of its attention."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.lm.attention import plan as attention_plan
from accord.lm.attention.plan import AttentionPlan
from accord.lm.checks import check_packing
from accord.lm.forward import response_logps, states_before, states_last
from accord.lm.packing import PackedBatch, PromptGroup, pack
from tests.lm.models import causal
from tests.lm.packed_groups import (
    GROUPS,
    SHAPES,
    assert_same_gradients,
    gradients,
    weighted,
    wrapped,
)


def test_a_group_does_not_see_other_groups() -> None:
    lm = wrapped(causal("llama"))
    assert check_packing(lm)
    packed = response_logps(lm, pack(GROUPS))
    separate = torch.cat([response_logps(lm, pack([g])) for g in GROUPS])
    torch.testing.assert_close(packed, separate, rtol=0, atol=1e-5)
    reverse = torch.cat(
        response_logps(lm, pack(GROUPS[::-1])).split(
            [sum(map(len, g.responses)) for g in GROUPS[::-1]]
        )[::-1]
    )
    torch.testing.assert_close(packed, reverse, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt-oss"])
@pytest.mark.parametrize(
    "limits",
    [
        {"MAX_BLOCK_CELLS": 1},  # every short row in a separate block
        {"LONG_ROW": 1, "QUERY_TILE": 4},  # every row without a copy, its backward pass in tiles
        {"QUERY_TILE": 5, "MIN_BLOCK_FILL": 0.0},  # few blocks with much padding, in tiles
        {"LONG_ROW": 6},
    ],
)
def test_the_layout_of_rows_in_blocks_changes_no_number(
    monkeypatch: pytest.MonkeyPatch, name: str, limits: dict[str, float]
) -> None:
    lm = wrapped(causal(name))
    assert check_packing(lm)
    whole = response_logps(lm, pack(GROUPS))
    expected = gradients(lm.model, weighted(whole))
    for limit, value in limits.items():
        monkeypatch.setattr(attention_plan, limit, value)
    actual = response_logps(lm, pack(GROUPS))
    torch.testing.assert_close(actual, whole, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(lm.model, weighted(actual)), expected)


LENGTHS = st.tuples(st.integers(1, 12), st.lists(st.integers(1, 15), min_size=1, max_size=4))


@settings(max_examples=150, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=6), st.sampled_from([None, 1, 5]))
def test_the_plan_has_each_token_once_with_the_keys_it_sees(
    groups: list[tuple[int, list[int]]], window: int | None
) -> None:
    plan = AttentionPlan(tuple((p, tuple(rs)) for p, rs in groups), torch.device("cpu"))
    # What each flat token may see, computed independently of the plan: its group's prompt and its
    # response, up to itself, and within the window.
    expected: dict[int, set[int]] = {}
    start = 0
    for prompt, responses in groups:
        first = list(range(start, start + prompt))
        begin = start + prompt
        rows = []
        for n in responses:
            rows.append((first, list(range(begin, begin + n))))
            begin += n
        for prompt_tokens, response_tokens in rows:
            row = prompt_tokens + response_tokens
            for position, token in enumerate(row):
                low = 0 if window is None else max(0, position - window + 1)
                expected[token] = set(row[low : position + 1])
        start = begin

    seen: list[int] = []
    written: set[int] = set()
    for block in plan.blocks:
        keys = torch.cat([block.prefix_index, block.query_index], 1)
        bias = block.bias(window, torch.float32).expand(len(block.rows), -1, -1)
        assert set(block.prefix_index[block.prefix_index != plan.num_tokens].tolist()) <= written
        for i in range(len(block.rows)):
            for j in range(block.num_queries):
                allowed = bias[i, j] == 0
                assert bool(allowed.any())  # softmax over nothing is not a number
                query = int(block.query_index[i, j])
                if query == plan.num_tokens:
                    continue
                seen.append(query)
                visible = keys[i][allowed].tolist()
                assert len(visible) == len(set(visible))
                assert set(visible) == expected[query]
        written |= set(block.query_index.flatten().tolist())
        causal = torch.full(bias.shape[1:], -torch.inf).triu(1)
        assert block.is_causal(window) == (
            block.prefix_length == 0 and torch.equal(bias, causal.expand_as(bias))
        )
        covered = 0
        for start, stop, first in block.tiles(window):
            assert start == covered
            covered = stop
            assert bool((bias[:, start:stop, :first] < 0).all())
            assert bool((bias[:, start:stop, block.prefix_length + stop :] < 0).all())
        assert covered == block.num_queries
    assert plan.num_tokens == sum(p + sum(rs) for p, rs in groups)
    assert sorted(seen) == list(range(plan.num_tokens))


def test_a_packed_batch_by_hand() -> None:
    # Prompt (10, 11) with responses (20, 21) and (30); prompt (12) with response (40).
    batch = pack([PromptGroup((10, 11), ((20, 21), (30,))), PromptGroup((12,), ((40,),))])
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 30, 12, 40]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert batch.targets.tolist() == [20, 21, 30, 40]
    assert batch.predict_index.tolist() == [1, 2, 1, 5]  # the token before each
    assert batch.response_of.tolist() == [0, 0, 1, 2]
    assert batch.last.tolist() == [3, 4, 6]
    assert batch.lengths.tolist() == [2, 1, 1]
    assert batch.per_response(torch.tensor([1.0, 2.0, 4.0, 8.0])).tolist() == [3.0, 4.0, 8.0]


def test_the_pairs_of_a_group_have_a_total_weight_of_one() -> None:
    # Ranks (0, 1, 1): two pairs of weight ½; (1, 0): one pair, the second better, margin 2;
    # all tied: none.
    responses = ((5,), (6,), (7,))
    batch = pack(
        [
            PromptGroup((3,), responses, (0, 1, 1)),
            PromptGroup((3,), responses[:2], (1, 0), margin=2.0),
            PromptGroup((3,), responses[:2], (0, 0)),
        ]
    )
    assert batch.pairs.chosen.tolist() == [0, 0, 4]
    assert batch.pairs.rejected.tolist() == [1, 2, 3]
    assert batch.pairs.weights.tolist() == [0.5, 0.5, 1.0]
    assert batch.pairs.margins.tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    "group", [PromptGroup((), ((1,),)), PromptGroup((1,), ()), PromptGroup((1,), ((),))]
)
def test_a_group_without_tokens_is_refused(group: PromptGroup) -> None:
    with pytest.raises(ValueError, match="need a token each"):
        pack([group])
    with pytest.raises(ValueError, match="at least one group"):
        pack([])


def test_hidden_states_have_a_row_per_token_or_response() -> None:
    lm = wrapped(causal("llama"))
    batch: PackedBatch = pack(GROUPS)
    check_packing(lm)
    assert states_before(lm, batch).shape == (sum(sum(n) for _, n in SHAPES), 32)
    assert states_last(lm, batch).shape == (sum(len(n) for _, n in SHAPES), 32)
