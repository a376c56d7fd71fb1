"""Continuous batching of requests: each gets what it would get alone, whoever else is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.respond.local import continuous
from accord.respond.local.continuous import ContinuousBatch, LocalRequest, Output
from accord.respond.local.decode_batch import DecodeBatch
from accord.respond.local.request_draws import UniformStream
from accord.respond.local.sampler import LocalSampler
from accord.respond.local.separate_batch import SeparateBatch
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from tests.lm.models import causal
from tests.lm.toys import save_toy, toy_tokenizer
from tests.respond.local_sampling import EOS, PROMPTS, make_lm

SETTINGS = (
    SamplingSettings(max_new_tokens=12, temperature=0),
    SamplingSettings(num_responses=3, max_new_tokens=9, temperature=1.3, top_p=0.9),
    SamplingSettings(max_new_tokens=20, temperature=0.7, top_k=5),
    SamplingSettings(num_responses=2, max_new_tokens=5, min_p=0.1),
)


def toy(name: str) -> LanguageModel:
    """A toy model with a tokenizer; EOS is a likely token."""
    lm = make_lm(causal(name))
    lm.tokenizer = toy_tokenizer()
    lm.model.generation_config.eos_token_id = EOS
    return lm


def make_batch(lm: LanguageModel, **options: Any) -> ContinuousBatch:
    rows = DecodeBatch(lm, lm.head) if lm.shares_prefixes else SeparateBatch(lm)
    return ContinuousBatch(lm, rows, **{"max_rows": 8, **options})


def requests(top_logprobs: int | None = None) -> list[LocalRequest]:
    return [
        LocalRequest(i, prompt, settings, seed=100 + i, top_logprobs=top_logprobs)
        for i, (prompt, settings) in enumerate(zip(PROMPTS, SETTINGS, strict=True))
    ]


def alone(lm: LanguageModel, request: LocalRequest) -> list[tuple[str, str]]:
    """What `LocalSampler` gives a request: the text and why it ended, of each response."""
    ((*samples,),) = LocalSampler(lm)(
        [request.prompt], request.settings, seed=request.seed, streams=[0]
    )
    return [
        (response_text(s, lm.tokenizer, request.prompt), "stop" if s.finished else "length")
        for s in samples
    ]


def collect(outputs: Iterable[Output]) -> dict[Any, list[tuple[str, str | None]]]:
    texts: dict[Any, dict[int, list[Output]]] = defaultdict(lambda: defaultdict(list))
    for output in outputs:
        assert output.error is None
        texts[output.key][output.index].append(output)
    return {
        key: [
            ("".join(o.text for o in by_index[k]), by_index[k][-1].finish)
            for k in range(len(by_index))
        ]
        for key, by_index in texts.items()
    }


@torch.no_grad()
def run(batch: ContinuousBatch, new: list[LocalRequest], every: int = 1) -> list[Output]:
    """All outputs, where a request comes at every so many steps."""
    pending, outputs, step = list(new), [], 0
    while pending or batch.rows or batch.waiting:
        if pending and step % every == 0:
            batch.submit(pending.pop(0))
        outputs += batch.step()
        step += 1
    return outputs


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
        while not batch.waiting:
            batch.step()
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
