"""Errors within a 200 and refusals of a vLLM server: what is sent again, and what is advised."""

from __future__ import annotations

from typing import Any

import pytest

from accord.errors import SettingsError, WorkError
from accord.respond.build import make_sampler
from accord.respond.protocol import SamplingSettings
from accord.settings.sampling import SamplerSettings
from tests.respond.fake_vllm import Answer, FakeVllm, completion


def generate(fake: FakeVllm, **settings: Any) -> Any:
    sampler = make_sampler(SamplerSettings(kind="vllm", url=fake.url, **settings), None)
    sampling = SamplingSettings(num_responses=2, max_new_tokens=8)
    return sampler([(5, 6)], sampling, seed=0, streams=[0])


def moody(fake: FakeVllm, count: int, reply: Answer) -> None:
    left = [count]

    def answer(body: Any) -> Answer:
        left[0] -= 1
        return reply if left[0] >= 0 else (200, completion(body))

    fake.answers["/v1/completions"] = answer


@pytest.mark.parametrize(
    "reply",
    [
        (200, {"error": {"message": "no instance is ready", "code": 503}}),
        (200, {"error": "upstream timed out"}),
        (200, ""),
        (200, '{"choices": [{"index": 0, "token_'),
        (200, "<html>Bad gateway</html>"),
        (429, {"error": {"message": "busy"}}),
    ],
)
def test_what_may_pass_is_sent_again(fake: FakeVllm, reply: Answer) -> None:
    moody(fake, 2, reply)
    assert len(generate(fake, retries=2)[0]) == 2
    moody(fake, 9, reply)
    with pytest.raises(WorkError):
        generate(fake, retries=1)


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (401, "Unauthorized", "sampler.api_key_env"),
        (404, "The model `accord-1` does not exist.", "no longer has this model"),
        (400, "[{'type': 'extra_forbidden', 'loc': ('body', 'top_k')}]", "without a gateway"),
        (400, "This model's maximum context length is 64 tokens.", "may have 64 tokens"),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_the_advice_fits_the_refusal(
    fake: FakeVllm, status: int, message: str, advice: str, within: bool
) -> None:
    error = {"error": {"message": message, "code": status}}
    moody(fake, 9, (200 if within else status, error))
    with pytest.raises(SettingsError) as caught:
        generate(fake)
    assert message in str(caught.value)
    assert advice in str(caught.value)
