"""Where keys and values outgrow their memory, requests wait again and get the same answers."""

from __future__ import annotations

import pytest
import torch

from accord.respond.local import continuous
from accord.respond.local.continuous import LocalRequest
from accord.respond.protocol import SamplingSettings
from tests.respond.continuous import alone, collect, make_batch, requests, run, toy
from tests.respond.local_sampling import PROMPTS


def test_where_memory_ends_the_last_request_waits_and_resumes_to_the_same_answer() -> None:
    lm = toy("llama")
    expected = {request.key: alone(lm, request) for request in requests()}
    # Room for three rows of 64 tokens: the seven rows of the requests, prompts and all.
    memory = 3 * 64 * make_batch(lm).token_bytes
    batch = make_batch(lm, memory=memory)
    most_rows, outputs = 0, []
    for request in requests():
        batch.submit(request)
    with torch.no_grad():
        while batch.rows or batch.waiting:
            outputs += batch.step()
            most_rows = max(most_rows, len(batch.rows))
    assert collect(outputs) == expected
    assert most_rows == 3


def test_a_request_that_leaves_for_lack_of_memory_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("llama")
    expected = {request.key: alone(lm, request) for request in requests()}
    batch = make_batch(lm)
    fit, steps, evictions = batch._fit, iter(range(1000)), []
    # Every third check finds no room, whatever runs.
    monkeypatch.setattr(batch, "_fit", lambda rows: next(steps) % 3 != 0 and fit(rows))
    remove = batch._remove
    monkeypatch.setattr(batch, "_remove", lambda f: (evictions.append(1), remove(f)))
    assert collect(run(batch, requests())) == expected
    assert len(evictions) > 20


def test_who_joined_last_leaves_first_and_waits_before_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = make_batch(toy("llama"), max_rows=2)
    settings = SamplingSettings(max_new_tokens=20, temperature=0)
    for key in range(3):
        batch.submit(LocalRequest(key, tuple(PROMPTS[0]), settings, seed=key))
    with torch.no_grad():
        batch.step()
    assert [row.request.key for row in batch.rows] == [0, 1]
    monkeypatch.setattr(batch, "_fit", lambda rows: len(rows) == 1)
    batch._make_room()
    assert [row.request.key for row in batch.rows] == [0]
    assert [rows[0].request.key for rows in batch.waiting] == [1, 2]


def test_what_is_read_as_requests_rejoin_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("llama")
    prompt, settings = tuple(PROMPTS[0]), SamplingSettings(num_responses=2, max_new_tokens=30)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    batch = make_batch(lm)
    new = [LocalRequest(key, prompt, settings, seed=key) for key in range(2)]
    # Both prompts are read at once, of which two rows each share one.
    monkeypatch.setattr(continuous, "PREFILL_TOKENS", 2 * len(prompt))
    for request in new:
        batch.submit(request)
    with torch.no_grad():
        batch.step()
        assert len(batch.rows) == 4
        # Both leave: then each row has its own prompt and token to read, and one request suffices.
        waiting = [[row for row in batch.rows if row.request is request] for request in new]
        batch._remove(lambda row: True)
        for rows in waiting:
            for row in rows:
                row.shares_prompt = False
        batch.waiting.extend(waiting)
        batch.step()
        assert {row.request.key for row in batch.rows} == {0}
        batch.step()
        assert {row.request.key for row in batch.rows} == {0, 1}
    # What was generated counts: two rows of a prompt and a token are read, and not of two tokens.
    assert continuous._tokens_read(waiting[1]) == 2 * (len(prompt) + len(waiting[1][0].tokens))


def test_of_a_request_that_outgrows_memory_alone_some_rows_wait() -> None:
    lm = toy("llama")
    settings = SamplingSettings(num_responses=6, max_new_tokens=12, temperature=1.3)
    request = LocalRequest(0, PROMPTS[0], settings, seed=1)
    # Room for the prompt and two rows of 64 tokens, or for three rows without a stored prompt.
    batch = make_batch(lm, memory=3 * 64 * make_batch(lm).token_bytes)
    batch.submit(request)
    with torch.no_grad():
        outputs = batch.step()
        assert len(batch.rows) == 6  # none is long yet
        while batch.rows or batch.waiting:
            outputs += batch.step()
            assert len(batch.rows) <= 3
    assert collect(outputs)[0] == alone(lm, request)
