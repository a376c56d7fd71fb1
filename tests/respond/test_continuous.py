"""Continuous batching of requests: each gets what it would get alone, whoever else is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from accord.lm.forward import response_logps
from accord.lm.packing import PromptGroup, pack
from accord.respond.local.continuous import LocalRequest
from accord.respond.local.decode_batch import DecodeBatch
from accord.respond.local.request_draws import UniformStream
from accord.respond.protocol import SamplingSettings
from tests.lm.models import causal
from tests.lm.toys import save_toy
from tests.respond.continuous import SETTINGS, alone, collect, make_batch, requests, run, toy
from tests.respond.local_sampling import PROMPTS, make_lm


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "gpt-oss"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_request_gets_what_it_gets_alone(name: str, every: int) -> None:
    lm = toy(name)
    expected = {request.key: alone(lm, request) for request in requests()}
    batch = make_batch(lm)
    assert collect(run(batch, requests(), every)) == expected
    assert len(batch.batch) == 0
    assert isinstance(batch.batch, DecodeBatch)
    assert not batch.batch.store.layers  # nothing stays in memory


@pytest.mark.parametrize("name", ["mamba", "jamba", "lfm2"])
def test_models_that_cannot_share_prefixes_give_the_same_as_the_sampler(name: str) -> None:
    lm = toy(name)
    assert not lm.shares_prefixes
    expected = {request.key: alone(lm, request) for request in requests()}
    assert collect(run(make_batch(lm), requests(), 2)) == expected


def test_few_rows_change_no_answer_and_are_never_exceeded() -> None:
    lm = toy("llama")
    expected = {request.key: alone(lm, request) for request in requests()}
    batch = make_batch(lm, max_rows=3)
    outputs = []
    for request in requests():
        batch.submit(request)
    with torch.no_grad():
        while batch.rows or batch.waiting:
            outputs += batch.step()
            assert len(batch.rows) <= 3
    assert collect(outputs) == expected


def test_a_cancelled_request_frees_its_rows_at_once_and_disturbs_nobody() -> None:
    lm = toy("llama")
    expected = {request.key: alone(lm, request) for request in requests()}
    batch = make_batch(lm)
    outputs = []
    with torch.no_grad():
        for request in requests():
            batch.submit(request)
        outputs += batch.step()
        rows = len(batch.rows)
        batch.cancel(1)  # runs: three rows
        assert len(batch.rows) == len(batch.batch) == rows - 3
        batch.submit(LocalRequest("late", PROMPTS[0], SETTINGS[0], seed=1))
        batch.cancel("late")  # waits
        batch.cancel("unknown")
        while batch.rows or batch.waiting:
            outputs += batch.step()
    answers = collect(outputs)
    assert {key: answers[key] for key in (0, 2, 3)} == {key: expected[key] for key in (0, 2, 3)}
    assert "late" not in answers


def test_log_probs_are_the_models_own_whatever_the_temperature() -> None:
    lm = toy("llama")
    lm.tokenizer.eos_token_id  # noqa: B018
    outputs = run(make_batch(lm), requests(top_logprobs=3))
    for request in requests():
        for k in range(request.settings.num_responses):
            own = [o for o in outputs if o.key == request.key and o.index == k]
            choices = [choice for output in own for choice in output.tokens]
            response = tuple(choice.token for choice in choices)
            with torch.no_grad():
                batch = pack([PromptGroup(request.prompt, (response,))])
                expected = response_logps(lm, batch).tolist()
            assert [choice.logp for choice in choices] == pytest.approx(expected, abs=1e-4)
            for choice in choices:
                values = [logp for _, logp in choice.top]
                assert values == sorted(values, reverse=True)
                assert len(values) == 3
                assert choice.logp <= values[0] + 1e-6
                assert dict(choice.top).get(choice.token, choice.logp) == choice.logp


def test_a_request_with_bad_logits_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("llama")
    expected = {request.key: alone(lm, request) for request in requests()}
    batch = make_batch(lm)
    logits, steps = batch.batch.logits, iter(range(1000))

    def spoiled(states: torch.Tensor) -> torch.Tensor:
        out = logits(states)
        if next(steps) == 4:  # by then all requests run
            out[[row.request.key for row in batch.rows].index(1)] = float("nan")
            for keys, values in batch.batch.store.layers.values():  # type: ignore[union-attr]
                index = [row.request.key for row in batch.rows].index(1)
                keys[index], values[index] = float("nan"), float("nan")
        return out

    monkeypatch.setattr(batch.batch, "logits", spoiled)
    for request in requests():
        batch.submit(request)
    outputs = []
    with torch.no_grad():
        while batch.rows or batch.waiting:
            outputs += batch.step()
    (failed,) = [output for output in outputs if output.error is not None]
    assert failed.key == 1
    assert "not finite" in str(failed.error)
    answers = collect(o for o in outputs if o.key != 1)
    assert answers == {key: expected[key] for key in (0, 2, 3)}
    # Who comes next into those rows is not spoiled by what they held.
    again = collect(run(batch, [LocalRequest(9, *_rest(requests()[1]))]))
    assert again[9] == expected[1]


def test_rows_of_a_failed_request_that_wait_leave_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = toy("llama")
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    # Room for three rows without a stored prompt: of the six some wait.
    batch = make_batch(lm, memory=3 * 64 * make_batch(lm).token_bytes)
    batch.submit(LocalRequest(0, PROMPTS[0], SamplingSettings(6, max_new_tokens=12), seed=1))
    with torch.no_grad():
        batch.step()
        assert len(batch.rows) == 6
        while not batch.waiting:
            batch.step()
        assert batch.rows
        monkeypatch.setattr(
            batch.batch, "logits", lambda states: torch.full((len(states), 99), torch.nan)
        )
        outputs = batch.step()
    assert [output.key for output in outputs if output.error is not None] == [0]
    assert not batch.rows
    assert not batch.waiting


def _rest(request: LocalRequest) -> tuple[Any, ...]:
    return request.prompt, request.settings, request.seed


def test_uniform_numbers_are_those_of_the_sampler() -> None:
    # The sampler draws an array (responses, tokens) from one generator, row by row.
    for responses, tokens in ((3, 7), (2, 64), (4, 129)):
        generator = np.random.Generator(np.random.Philox(key=[7, 0]))
        expected = generator.random((responses, tokens))
        for k in range(responses):
            stream = UniformStream(7, k, tokens)
            assert [next(stream) for _ in range(tokens)] == expected[k].tolist()
    # Seeds of all 64 bits are different ones, as those of negative numbers are.
    seeds = [0, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1]
    assert len({next(UniformStream(seed, 0, 4)) for seed in seeds}) == len(seeds)


def test_more_responses_than_rows_are_refused() -> None:
    lm = toy("llama")
    with pytest.raises(ValueError, match="4 responses"):
        make_batch(lm, max_rows=3).submit(
            LocalRequest(0, (5,), SamplingSettings(num_responses=4), seed=0)
        )


def test_stop_strings_end_a_response_where_the_sampler_ends_it(tmp_path: Any) -> None:
    from accord.lm.load import load_causal

    lm = load_causal(save_toy(tmp_path))
    prompt = tuple(lm.tokenizer("the cat")["input_ids"])
    settings = SamplingSettings(num_responses=8, max_new_tokens=40, stop=("at", "e", "on the"))
    request = LocalRequest(0, prompt, settings, seed=3)
    expected = alone(lm, request)
    assert {finish for _, finish in expected} == {"stop", "length"} or expected
    assert collect(run(make_batch(lm), [request]))[0] == expected
    assert not any(s in text for text, _ in expected for s in settings.stop)


def test_a_stop_string_may_begin_with_a_blank_in_training_as_in_serving() -> None:
    # Online methods and rounds sample with the local sampler, `accord serve` with a continuous
    # batch. Decoding alone drops the blank before the first word.
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "▁",
        *(f"▁{c}{i}" for c in "abc" for i in range(30)),
        "d",
        "e",
    ]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    lm = make_lm(causal("llama"))
    lm.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    stops = (" a", "1 c")
    settings = SamplingSettings(num_responses=8, max_new_tokens=12, temperature=3.0, stop=stops)
    request = LocalRequest(0, PROMPTS[0], settings, seed=3)
    expected = alone(lm, request)
    assert ("", "stop") in expected  # the first word began with it
    assert not any(stop in text for text, _ in expected for stop in stops)
    assert collect(run(make_batch(lm), [request]))[0] == expected
