"""Prompts whose beginning was read before: by an earlier request, or in parts."""

from __future__ import annotations

import pytest
import torch

from accord.lm.attention.prefixes import PrefixPool
from accord.respond.local import continuous
from accord.respond.local.continuous import ContinuousBatch, LocalRequest
from accord.respond.local.decode_batch import DecodeBatch, NewRow
from accord.respond.protocol import SamplingSettings
from tests.respond.continuous import alone, collect, run, toy
from tests.respond.local_sampling import PROMPTS

LONG = tuple(range(3, 90)) + tuple(range(3, 40))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt-oss"])
def test_prompts_that_begin_as_earlier_ones_get_the_answers_of_whole_prompts(name: str) -> None:
    lm = toy(name)
    pool = PrefixPool(40)
    batch = ContinuousBatch(lm, DecodeBatch(lm, lm.head, pool), max_rows=8)
    lengths = (40, 70, 71, 16, 17, 124, 125 - 16)
    prompts = [LONG[:n] for n in lengths] + [LONG[:35] + LONG[:20]]
    given = {}
    with torch.no_grad():
        for turn in range(2):  # in the second one all prompts were read before
            for i, prompt in enumerate(prompts):
                responses = 2 if i % 3 == 0 else 1  # a stored prompt, and one in its row
                settings = SamplingSettings(num_responses=responses, max_new_tokens=6)
                batch.submit(LocalRequest((turn, i), prompt, settings, seed=i))
            given |= collect(run(batch, []))
            assert (pool.tokens_reused > 300) == (turn == 1)
    for (_, i), texts in given.items():
        responses = 2 if i % 3 == 0 else 1
        settings = SamplingSettings(num_responses=responses, max_new_tokens=6)
        assert texts == alone(lm, LocalRequest(i, prompts[i], settings, seed=i))


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral"])
def test_a_long_prompt_is_read_in_parts_while_others_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = toy(name)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(continuous, "AHEAD_TOKENS", 32)
    pool = PrefixPool(40)
    batch = ContinuousBatch(lm, DecodeBatch(lm, lm.head, pool), max_rows=8)
    short = LocalRequest(0, PROMPTS[0], SamplingSettings(max_new_tokens=9), seed=0)
    long = LocalRequest(1, LONG, SamplingSettings(num_responses=2, max_new_tokens=5), seed=1)
    expected = {request.key: alone(lm, request) for request in (short, long)}
    with torch.no_grad():
        batch.submit(short)
        outputs = batch.step()
        batch.submit(long)
        for known in (32, 64, 96):  # of 124 tokens, 28 remain
            step = batch.step()
            assert [output.key for output in step] == [0]
            assert pool.known(LONG) == known
            outputs += step
        outputs += run(batch, [])
    assert collect(outputs) == expected
    assert pool.tokens_reused == 0  # nobody else's
    # A pool without room for them is no reason to wait for ever.
    batch = ContinuousBatch(lm, DecodeBatch(lm, lm.head, PrefixPool(3)), max_rows=8)
    assert collect(run(batch, [short, long])) == expected


def test_of_a_prompt_longer_than_the_pool_no_part_is_read_twice_while_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = toy("llama")
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(continuous, "AHEAD_TOKENS", 32)
    pool = PrefixPool(5)  # 80 tokens
    rows = DecodeBatch(lm, lm.head, pool)
    batch = ContinuousBatch(lm, rows, max_rows=1)
    read, num_read = rows._read, []
    monkeypatch.setattr(rows, "_read", lambda *args: num_read.append(args[0]) or read(*args))
    with torch.no_grad():
        batch.submit(LocalRequest(0, PROMPTS[0], SamplingSettings(max_new_tokens=12), seed=0))
        outputs = batch.step()
        batch.submit(LocalRequest(1, LONG, SamplingSettings(max_new_tokens=2), seed=1))
        while batch.waiting:
            outputs += batch.step()
        assert [len(ids) for (ids,) in num_read] == [len(PROMPTS[0]), 32, 64, len(LONG)]
        assert pool.tokens_reused == 0
        batch.cancel(1)
        batch.submit(LocalRequest(2, LONG[:70], SamplingSettings(max_new_tokens=2), seed=1))
        outputs += run(batch, [])
    assert pool.tokens_reused == 64


def test_what_is_read_for_a_request_that_is_cancelled_is_not_taken_off_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = toy("llama")
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(continuous, "AHEAD_TOKENS", 32)
    pool = PrefixPool(40)
    batch = ContinuousBatch(lm, DecodeBatch(lm, lm.head, pool), max_rows=8)
    settings, other = SamplingSettings(max_new_tokens=9), LONG[::-1][:40]
    with torch.no_grad():
        batch.submit(LocalRequest(0, other, settings, seed=0))
        batch.step()
        batch.submit(LocalRequest(1, LONG, settings, seed=1))
        batch.step()
        assert pool.known(LONG) == 32
        batch.cancel(1)
        batch.submit(LocalRequest(2, other, settings, seed=2))
        run(batch, [])
    assert pool.tokens_reused == 32


def test_what_is_erased_is_not_reused() -> None:
    lm = toy("llama")
    pool = PrefixPool(40)
    batch = DecodeBatch(lm, lm.head, pool)
    with torch.no_grad():
        batch.add_rows([NewRow(LONG)])
    assert pool.reuse([LONG]) != [[]]
    batch.erase([0])
    assert pool.reuse([LONG]) == [[]]


def test_a_pass_that_fails_leaves_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("llama")
    pool = PrefixPool(40)
    batch = DecodeBatch(lm, lm.head, pool)

    def fail(*args: object, **kwargs: object) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(batch, "_hidden", fail)
    with pytest.raises(MemoryError):
        batch.add_rows([NewRow(LONG)])
    assert pool.reuse([LONG]) == [[]]
