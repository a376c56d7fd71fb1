"""Attention of growing responses over their own KV cache and that of shared prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from accord.lm.attention.decoding import (
    DecodeStep,
    PrefixCache,
    ScoreOptions,
    _partial_attention,
)
from accord.lm.attention.store import KeyValueStore, Prefill

HEADS, GROUPS, DIM = 4, 2, 8
PROMPTS = (5, 1, 3)  # tokens
PROMPT_INDEX = (2, 0, 0, 1, 2, 0)  # the prompt of each row, in no order
PAST_LENGTHS = (0, 4, 2, 0, 7, 1)  # tokens of each row before this step


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_by_definition(
    query: Tensor, keys: Tensor, values: Tensor, options: ScoreOptions, sinks: Tensor | None
) -> Tensor:
    """softmax over the keys, head by head, in float64; the query is the last token."""
    out = []
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        s = options.scale * (keys[group].double() @ query[head].double())
        if options.softcap is not None:
            s = options.softcap * torch.tanh(s / options.softcap)
        if options.window is not None:
            s[: max(0, len(s) - options.window)] = -torch.inf
        extra = s[:0] if sinks is None else sinks[head : head + 1].double()
        weights = torch.cat([s, extra]).softmax(0)[: len(s)]
        out.append(weights @ values[group].double())
    return torch.stack(out)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("transposes_keys", [True, False])
def test_each_row_attends_to_its_prompt_and_itself(
    window: int | None, softcap: float | None, sinks: bool, shared: bool, transposes_keys: bool
) -> None:
    options, module = ScoreOptions(0.4, softcap, window), nn.Identity()
    sink = random(HEADS, seed=9) if sinks else None
    prompts = [random(2, GROUPS, n, DIM, seed=n) for n in PROMPTS]
    row_tokens = [random(2, GROUPS, n + 1, DIM, seed=20 + r) for r, n in enumerate(PAST_LENGTHS)]
    query = random(len(PAST_LENGTHS), HEADS, DIM, seed=1)
    store, prefix_cache = KeyValueStore(transposes_keys=transposes_keys), None
    positions = torch.tensor(PAST_LENGTHS)
    if shared:
        flat = torch.cat(prompts, 2)
        prompt_store = KeyValueStore()
        Prefill(prompt_store, range(3), [0, 5, 6, 9]).write(module, flat[0], flat[1])
        prefix_cache = PrefixCache(prompt_store, torch.tensor(PROMPT_INDEX), torch.tensor(PROMPTS))
    for r, tokens in enumerate(row_tokens):
        before = [] if shared else [prompts[PROMPT_INDEX[r]]]
        past = torch.cat([*before, tokens[:, :, :-1]], 2)
        if past.shape[2]:
            store.write((module, 1), r, past[0], past[1])
    if not shared:
        positions = positions + torch.tensor([PROMPTS[i] for i in PROMPT_INDEX])
    new = torch.stack([tokens[:, :, -1] for tokens in row_tokens], 1)
    step = DecodeStep(store, positions, prefix_cache)
    out = step.attend(module, query, new[0], new[1], options, sink)
    for r, tokens in enumerate(row_tokens):
        keys, values = torch.cat([prompts[PROMPT_INDEX[r]], tokens], 2)
        expected = attention_by_definition(query[r], keys, values, options, sink)
        torch.testing.assert_close(out[r].double(), expected, atol=1e-5, rtol=1e-4)


def test_fused_and_plain_attention_agree() -> None:
    # A softcap so high that it changes nothing takes the path of plain products, as on CUDA.
    q, k = random(3, GROUPS, 4, DIM, seed=0), random(3, GROUPS, 9, DIM, seed=1)
    v, mask = random(3, GROUPS, 9, DIM, seed=2), torch.zeros(3, 1, 1, 9)
    mask[1, ..., :4] = -1e30
    fused = _partial_attention(q, k, v, mask, ScoreOptions(0.3))
    plain = _partial_attention(q, k, v, mask, ScoreOptions(0.3, softcap=1e5))
    torch.testing.assert_close(fused[0], plain[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fused[1], plain[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("transposes_keys", [True, False])
def test_moved_rows_retain_their_keys_and_values(transposes_keys: bool) -> None:
    store, module = KeyValueStore(transposes_keys=transposes_keys), nn.Identity()
    rows = [random(2, GROUPS, n, DIM, seed=n) for n in (3, 70, 5)]
    for r, tokens in enumerate(rows):
        store.write((module, 1), r, tokens[0], tokens[1])
    store.move([2], [0], 5)
    keys, values = store.read((module, 1), 2, 70)
    assert torch.equal(keys[0, :, :5], rows[2][0])
    assert torch.equal(values[0, :, :5], rows[2][1])
    assert torch.equal(keys[1], rows[1][0])


def test_a_layer_that_runs_twice_in_a_pass_has_two_caches() -> None:
    store, module, options = KeyValueStore(), nn.Identity(), ScoreOptions(1.0)
    query = random(1, HEADS, DIM, seed=0)
    first, second = (random(1, GROUPS, DIM, seed=s) for s in (1, 2))
    step = DecodeStep(store, torch.tensor([0]))
    for key in (first, second):
        out = step.attend(module, query, key, key, options, None)
        torch.testing.assert_close(out[0], key[0].repeat_interleave(HEADS // GROUPS, 0))
    assert torch.equal(store.read((module, 1), 1, 1)[0][:, :, 0], first)
    assert torch.equal(store.read((module, 2), 1, 1)[0][:, :, 0], second)
