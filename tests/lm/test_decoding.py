"""Attention of growing responses over their own memory and that of shared prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from accord.lm.attention.decoding import (
    DecodeStep,
    KeyValueStore,
    Prefill,
    PrefixCache,
    Scores,
    _partial,
)

HEADS, GROUPS, DIM = 4, 2, 8
PROMPTS = (5, 1, 3)  # tokens
PROMPT_OF = (2, 0, 0, 1, 2, 0)  # rows follow them in no order
WRITTEN = (0, 4, 2, 0, 7, 1)  # tokens of each row before this step


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_definition(
    query: Tensor, keys: Tensor, values: Tensor, scores: Scores, sinks: Tensor | None
) -> Tensor:
    """softmax over the keys, one head after another, in float64; the query is the last token."""
    out = []
    for head in range(HEADS):
        group = head // (HEADS // GROUPS)
        s = scores.scale * (keys[group].double() @ query[head].double())
        if scores.softcap is not None:
            s = scores.softcap * torch.tanh(s / scores.softcap)
        if scores.window is not None:
            s[: max(0, len(s) - scores.window)] = -torch.inf
        extra = s[:0] if sinks is None else sinks[head : head + 1].double()
        weights = torch.cat([s, extra]).softmax(0)[: len(s)]
        out.append(weights @ values[group].double())
    return torch.stack(out)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_each_row_attends_to_its_prompt_and_itself(
    window: int | None, softcap: float | None, sinks: bool, shared: bool
) -> None:
    scores, module = Scores(0.4, softcap, window), nn.Identity()
    sink = random(HEADS, seed=9) if sinks else None
    prompts = [random(2, GROUPS, n, DIM, seed=n) for n in PROMPTS]
    own = [random(2, GROUPS, n + 1, DIM, seed=20 + r) for r, n in enumerate(WRITTEN)]
    query = random(len(WRITTEN), HEADS, DIM, seed=1)
    store, sharing, at = KeyValueStore(), None, torch.tensor(WRITTEN)
    if shared:
        flat = torch.cat(prompts, 2)
        places = KeyValueStore()
        Prefill(places, range(3), [0, 5, 6, 9]).keep(module, flat[0], flat[1])
        sharing = PrefixCache(places, torch.tensor(PROMPT_OF), torch.tensor(PROMPTS))
    for r, tokens in enumerate(own):
        before = [] if shared else [prompts[PROMPT_OF[r]]]
        past = torch.cat([*before, tokens[:, :, :-1]], 2)
        if past.shape[2]:
            store.keep((module, 1), r, past[0], past[1])
    if not shared:
        at = at + torch.tensor([PROMPTS[i] for i in PROMPT_OF])
    new = torch.stack([tokens[:, :, -1] for tokens in own], 1)
    step = DecodeStep(store, at, sharing)
    out = step.attend(module, query, new[0], new[1], scores, sink)
    for r, tokens in enumerate(own):
        keys, values = torch.cat([prompts[PROMPT_OF[r]], tokens], 2)
        expected = by_definition(query[r], keys, values, scores, sink)
        torch.testing.assert_close(out[r].double(), expected, atol=1e-5, rtol=1e-4)


def test_both_ways_to_attend_agree() -> None:
    # A softcap so high that it changes nothing goes the way of plain products, as on CUDA.
    q, k = random(3, GROUPS, 4, DIM, seed=0), random(3, GROUPS, 9, DIM, seed=1)
    v, mask = random(3, GROUPS, 9, DIM, seed=2), torch.zeros(3, 1, 1, 9)
    mask[1, ..., :4] = -1e30
    fast = _partial(q, k, v, mask, Scores(0.3))
    plain = _partial(q, k, v, mask, Scores(0.3, softcap=1e5))
    torch.testing.assert_close(fast[0], plain[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast[1], plain[1], atol=1e-5, rtol=1e-4)


def test_moved_rows_keep_their_past() -> None:
    store, module = KeyValueStore(), nn.Identity()
    rows = [random(2, GROUPS, n, DIM, seed=n) for n in (3, 70, 5)]
    for r, tokens in enumerate(rows):
        store.keep((module, 1), r, tokens[0], tokens[1])
    store.move([2], [0], 5)
    keys, values = store.read((module, 1), 2, 70)
    assert torch.equal(keys[0, :, :5], rows[2][0])
    assert torch.equal(values[0, :, :5], rows[2][1])
    assert torch.equal(keys[1], rows[1][0])


def test_a_layer_that_is_gone_through_twice_has_two_memories() -> None:
    store, module, scores = KeyValueStore(), nn.Identity(), Scores(1.0)
    query = random(1, HEADS, DIM, seed=0)
    first, second = (random(1, GROUPS, DIM, seed=s) for s in (1, 2))
    step = DecodeStep(store, torch.tensor([0]))
    for key in (first, second):
        out = step.attend(module, query, key, key, scores, None)
        torch.testing.assert_close(out[0], key[0].repeat_interleave(HEADS // GROUPS, 0))
    assert torch.equal(store.read((module, 1), 1, 1)[0][:, :, 0], first)
    assert torch.equal(store.read((module, 2), 1, 1)[0][:, :, 0], second)
