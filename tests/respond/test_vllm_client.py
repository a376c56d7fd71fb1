"""What the vLLM sampler requests, how it reads the answers, and how it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from accord.errors import SettingsError, WorkError
from accord.respond.build import make_sampler
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.client import VllmClient
from accord.respond.vllm.sampler import VllmSampler
from accord.settings.sampling import SamplerSettings
from tests.respond.fake_vllm import MODELS, FakeVllm, completion


def connect(fake: FakeVllm, **settings: Any) -> VllmSampler:
    sampler = make_sampler(SamplerSettings(kind="vllm", url=fake.url, **settings), None)
    assert isinstance(sampler, VllmSampler)
    return sampler


def generate(sampler: VllmSampler, prompts: Any = ((5, 6), (7,)), **settings: Any) -> Any:
    sampling = SamplingSettings(**{"num_responses": 2, "max_new_tokens": 8, **settings})
    return sampler(prompts, sampling, seed=0, streams=range(len(prompts)))


def with_change(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], tuple[int, Any]]:
    """Answers of `completion` whose first choice is changed."""

    def answer(body: Any) -> tuple[int, Any]:
        content = completion(body)
        change(content["choices"][0])
        return 200, content

    return answer


def test_responses_come_by_prompt_with_tokens_and_log_probs(fake: FakeVllm) -> None:
    samples = generate(connect(fake))
    logps = (-0.5, -1.5, -0.25)
    assert samples == [
        [Sample((p, j, 2), logps, True, exact=False) for j in range(2)] for p in (5, 7)
    ]


def test_a_request_leaves_nothing_to_the_models_defaults(fake: FakeVllm) -> None:
    generate(connect(fake), top_k=3, stop=("\n", "END"))
    (body,) = [b for path, b in fake.seen if path == "/v1/completions" and b["n"] == 2]
    assert body == {
        "model": "base",
        "prompt": [[5, 6], [7]],
        "n": 2,
        "max_tokens": 8,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 3,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": ["\n", "END"],
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
    }  # and no seed, which kills the engine of the CPU build


def test_batches_hold_no_more_responses_than_batch_size(fake: FakeVllm) -> None:
    prompts = [(i,) for i in range(5, 12)]
    samples = generate(connect(fake), prompts, batch_size=4)
    sizes = [len(b["prompt"]) for path, b in fake.seen if path == "/v1/completions"]
    assert sizes == [2, 2, 2, 1]
    assert [samples_of_prompt[0].tokens[0] for samples_of_prompt in samples] == [
        p[0] for p in prompts
    ]


def test_temperature_zero_is_requested_once(fake: FakeVllm) -> None:
    (first, second), _ = generate(connect(fake), temperature=0)
    assert first == second
    assert fake.seen[-1][1]["n"] == 1


def test_a_stop_string_is_reported(fake: FakeVllm) -> None:
    def ends_by_string(choice: dict[str, Any]) -> None:
        choice["stop_reason"] = "END"

    fake.answers["/v1/completions"] = with_change(ends_by_string)
    samples = [s for group in generate(connect(fake), stop=("END",)) for s in group]
    assert [s.stop for s in samples] == [None, None, None, "END"]
    assert all(s.finished for s in samples)


def test_a_response_cut_by_the_limit_is_not_finished(fake: FakeVllm) -> None:
    fake.answers["/v1/completions"] = with_change(lambda c: c.update(finish_reason="length"))
    assert not generate(connect(fake))[1][1].finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("token_ids"), "without token_ids"),
        (lambda c: c.update(token_ids=[]), "without token_ids"),
        (lambda c: c.update(token_ids=["token_id:5"] * 3), "without token_ids"),
        (lambda c: c.update(logprobs=None), "without a log-prob for each token"),
        (lambda c: c["logprobs"].update(token_logprobs=[-1.0]), "a log-prob for each token"),
        (lambda c: c["logprobs"].update(token_logprobs=[None] * 3), "a log-prob for each token"),
        (lambda c: c["logprobs"].update(token_logprobs=[-9e999] * 3), "not finite"),
        (lambda c: c.update(finish_reason="abort"), "ended by 'abort'"),
        (lambda c: c.update(index=0), "not numbered"),
        (lambda c: c.update(index=None), "not numbered"),
        (
            lambda c: c.update(token_ids=[4] * 9, logprobs={"token_logprobs": [-1.0] * 9}),
            "a response of 9 tokens",
        ),
    ],
)
def test_a_malformed_response_is_an_error(fake: FakeVllm, change: Any, message: str) -> None:
    fake.answers["/v1/completions"] = with_change(change)
    with pytest.raises(WorkError, match=message):
        generate(connect(fake))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("<html>proxy</html>", "no JSON but '<html>"),
        ([1], "no JSON object"),
        ({}, "no responses where 4"),
        ({"choices": []}, "0 responses where 4"),
        ({"choices": [1, 2, 3, 4]}, "not numbered"),
    ],
)
def test_a_malformed_answer_is_an_error(fake: FakeVllm, answer: Any, message: str) -> None:
    fake.answers["/v1/completions"] = lambda body: (200, answer)
    with pytest.raises(WorkError, match=message):
        generate(connect(fake))


def failing(count: int, failure: tuple[int, Any]) -> Callable[[Any], tuple[int, Any]]:
    """Returns `failure` for the first `count` requests, then completions."""
    remaining = [count]

    def answer(body: Any) -> tuple[int, Any]:
        remaining[0] -= 1
        return failure if remaining[0] >= 0 else (200, completion(body))

    return answer


@pytest.mark.parametrize(
    "failure", [(0, ""), (500, {"error": {"message": "busy"}}), (503, "later")]
)
def test_a_failed_request_is_retried(fake: FakeVllm, failure: tuple[int, Any]) -> None:
    sampler = connect(fake, retries=2)
    fake.answers["/v1/completions"] = failing(2, failure)
    assert len(generate(sampler)) == 2
    fake.answers["/v1/completions"] = failing(3, failure)
    with pytest.raises(WorkError, match="in 3 attempts"):
        generate(sampler)


def test_a_dead_engine_is_reported_without_a_retry(fake: FakeVllm) -> None:
    sampler = connect(fake, retries=9, restart_timeout=0)
    fake.answers["/v1/completions"] = lambda body: (
        500,
        {"error": {"message": "EngineCore encountered an issue."}},
    )
    fake.answers["/health"] = lambda body: (503, "")
    with pytest.raises(WorkError, match=r"is dead: .*EngineCore encountered.*restart it"):
        generate(sampler)
    assert sum(path == "/v1/completions" for path, _ in fake.seen) == 1


def test_without_a_server(fake: FakeVllm) -> None:
    sampler = connect(fake, retries=1, restart_timeout=0)
    fake.close()
    with pytest.raises(WorkError, match=r"did not answer .* in 2 attempts: no connection"):
        generate(sampler)
    with pytest.raises(WorkError, match="Is it running"):
        connect(fake, retries=0)


def test_an_answer_that_takes_too_long(fake: FakeVllm) -> None:
    sampler = connect(fake)  # which may take its time
    sampler.client = VllmClient(SamplerSettings(kind="vllm", url=fake.url, timeout=0.2))
    has_failed = threading.Event()

    def slow(body: Any) -> tuple[int, Any]:
        has_failed.wait(60)
        return 200, completion(body)

    fake.answers["/v1/completions"] = slow
    with pytest.raises(WorkError, match=r"within 0.2 s. Raise sampler.timeout"):
        generate(sampler)
    has_failed.set()


def test_a_refusal_quotes_the_server(fake: FakeVllm) -> None:
    sampler = connect(fake)
    refusal = {"error": {"message": "max_tokens=8 cannot be greater than max_model_len"}}
    fake.answers["/v1/completions"] = lambda body: (400, refusal)
    with pytest.raises(SettingsError, match=r"max_tokens=8 cannot.* may have 64 tokens"):
        generate(sampler)


def test_which_model_is_sampled_from(fake: FakeVllm) -> None:
    sampler = connect(fake, model="base")
    assert sampler.max_length == 64
    with pytest.raises(SettingsError, match="no model 'nope', only base"):
        connect(fake, model="nope")
    models = [*MODELS["data"], {"id": "adapter", "parent": "base"}, {"id": "other", "parent": None}]
    fake.answers["/v1/models"] = lambda body: (200, {"data": models})
    with pytest.raises(SettingsError, match=r"serves base, other: set sampler.model"):
        connect(fake)
    fake.answers["/v1/models"] = lambda body: (200, {"models": []})
    with pytest.raises(WorkError, match="no list of models"):
        connect(fake)


def test_the_key_is_sent(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    connect(fake, api_key_env="A_KEY")
    assert set(fake.keys) == {"Bearer secret"}
    monkeypatch.delenv("A_KEY")
    with pytest.raises(SettingsError, match=r"A_KEY, which sampler\.api_key_env names, is not set"):
        connect(fake, api_key_env="A_KEY")


@pytest.mark.parametrize("url", [None, "localhost:8000"])
def test_a_server_needs_an_address(url: str | None) -> None:
    with pytest.raises(ValidationError, match="needs the server's address"):
        SamplerSettings(kind="vllm", url=url)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text("{}")
    return tmp_path


def test_each_version_of_an_adapter_has_a_new_name(fake: FakeVllm, adapter: Path) -> None:
    sampler = connect(fake)
    for _ in range(3):
        sampler.publish(adapter)
        generate(sampler)
    sampler.close()
    loaded = [b["lora_name"] for path, b in fake.seen if path == "/v1/load_lora_adapter"]
    unloaded = [b["lora_name"] for path, b in fake.seen if path == "/v1/unload_lora_adapter"]
    sampled_from = [b["model"] for path, b in fake.seen if path == "/v1/completions"]
    assert len(set(loaded)) == 3
    assert unloaded == loaded == sampled_from
    paths = [b["lora_path"] for path, b in fake.seen if path == "/v1/load_lora_adapter"]
    assert paths == [str(adapter.resolve())] * 3


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        ((404, {"detail": "Not Found"}), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ((400, {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16"}}), "lora.r"),
        ((404, {"error": {"message": "No adapter found for /x"}}), "must see the same folder"),
        ((400, {"error": {"message": "lora is broken"}}), "Look at the server's log"),
        # What vLLM 0.32 answers: a failure of the worker, after which the server still runs.
        ((500, {"error": {"message": "LoRA rank 16 is greater than max_lora_rank 8."}}), "lora.r"),
    ],
)
def test_an_adapter_that_is_refused(
    fake: FakeVllm, adapter: Path, refusal: tuple[int, Any], remedy: str
) -> None:
    sampler = connect(fake)
    fake.answers["/v1/load_lora_adapter"] = lambda body: refusal
    with pytest.raises(SettingsError, match=remedy):
        sampler.publish(adapter)
    generate(sampler)
    assert fake.seen[-1][1]["model"] == "base"  # as before


def test_an_adapter_whose_first_answer_was_lost_is_loaded(fake: FakeVllm, adapter: Path) -> None:
    sampler = connect(fake)
    answer = {"error": {"message": "The lora adapter 'x' has already been loaded."}}
    fake.answers["/v1/load_lora_adapter"] = lambda body: (400, answer)
    sampler.publish(adapter)
    generate(sampler)
    assert fake.seen[-1][1]["model"] != "base"


def test_log_probs_before_the_temperature_are_refused(fake: FakeVllm) -> None:
    # The fake's likeliest token has one log-prob at all temperatures: raw ones.
    with pytest.raises(SettingsError, match=r"temperature=0.7 .*processed_logprobs"):
        generate(connect(fake), temperature=0.7)

    def processed(body: Any) -> tuple[int, Any]:
        content = completion(body)
        for choice in content["choices"]:
            choice["logprobs"]["top_logprobs"] = [{"x": -0.5 * body["temperature"]}] * 3
        return 200, content

    fake.answers["/v1/completions"] = processed
    sampler = connect(fake)
    generate(sampler, temperature=0.7)
    before = len(fake.seen)
    generate(sampler, temperature=0.9)
    assert len(fake.seen) == before + 1  # no second probe


def test_closing_without_a_server_raises_nothing(fake: FakeVllm, tmp_path: Path) -> None:
    # The trained model is saved after the sampler is closed.
    (tmp_path / "adapter_config.json").write_text("{}")
    sampler = connect(fake, retries=0)
    sampler.publish(tmp_path)
    fake.close()
    sampler.close()
    assert sampler.model == "base"
