"""What servers refuse, by a table of their words, and how their errors are read."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from accord.respond.refusals import RefusalKind, refusal_kind
from accord.respond.server_errors import error_within, response_error, retry_after

# In the structure of each server's refusals, as its documentation and public reports show them.
OPENAI = [
    (
        "limit_name",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        {"type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter"},
    ),
    (
        "temperature",
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default "
        "(1) value is supported.",
        {"param": "temperature", "code": "unsupported_value"},
    ),
    (
        "temperature",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        {"param": "temperature"},
    ),
    (
        "schema",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model.",
        {"param": None},
    ),
    (
        "schema",
        "Invalid schema for response_format 'verdict': In context=(), 'additionalProperties' is "
        "required to be supplied and to be false.",
        {"param": "response_format"},
    ),
    (
        "too_long",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9000 tokens. Please reduce the length of the messages.",
        {"param": "messages", "code": "context_length_exceeded"},
    ),
    (
        "limit_too_high",
        "max_tokens is too large: 50000. This model supports at most 16384 completion tokens, "
        "whereas you provided 50000.",
        {"param": "max_tokens", "code": "invalid_value"},
    ),
    (
        "limit_too_low",
        "Could not finish the message because max_tokens or model output limit was reached. "
        "Please try again with higher max_tokens.",
        {},
    ),
    ("model", "The model `gpt-9` does not exist or you do not have access to it.", {}),
    ("key", "Incorrect API key provided: sk-abc.", {"code": "invalid_api_key"}),
    (
        "credit",
        "You exceeded your current quota, please check your plan and billing details.",
        {"type": "insufficient_quota", "code": "insufficient_quota"},
    ),
    ("parameter", "Unrecognized request argument supplied: top_k", {}),
]
AZURE = [
    (
        "filtered",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management "
        "policy. Please modify your prompt and retry.",
        {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    ),
    (
        "model",
        "The API deployment for this resource does not exist.",
        {"code": "DeploymentNotFound"},
    ),
    (
        "key",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to "
        "provide a valid key for an active subscription.",
        {"code": "401"},
    ),
    (
        "schema",
        "response_format value as json_schema is enabled only for api versions 2024-08-01-preview "
        "and later",
        {},
    ),
]
ANTHROPIC = [
    ("limit_too_high", "max_tokens: 9000 > 8192, which is the maximum allowed number of output "
     "tokens for claude-3-5-sonnet", {}),
    ("too_long", "prompt is too long: 210000 tokens > 200000 maximum", {}),
    ("temperature", "`temperature` is deprecated for this model.", {}),
    ("temperature", "`temperature` may only be set to 1 when thinking is enabled.", {}),
    ("credit", "Your credit balance is too low to access the Anthropic API. Please go to Plans & "
     "Billing to upgrade or purchase credits.", {}),
    ("parameter", "top_k: Extra inputs are not permitted", {}),
]  # fmt: skip
GOOGLE = [
    ("key", "API key not valid. Please pass a valid API key.", {"status": "INVALID_ARGUMENT"}),
    ("schema", 'Invalid JSON payload received. Unknown name "additionalProperties" at '
     "'generation_config.response_schema': Cannot find field.", {"status": "INVALID_ARGUMENT"}),
    ("too_long", "The input token count (1200000) exceeds the maximum number of tokens allowed "
     "(1048576).", {"status": "INVALID_ARGUMENT"}),
    ("limit_too_high", "Unable to submit request because it has a maxOutputTokens value of 100000 "
     "but the supported range is from 1 (inclusive) to 8193 (exclusive).", {}),
    ("model", "models/gemini-9 is not found for API version v1main, or is not supported for "
     "generateContent.", {"status": "NOT_FOUND"}),
]  # fmt: skip
LOCAL = [
    # vLLM
    ("too_long", "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum "
     "context length is 300 tokens and your request has 200 input tokens (512 > 300 - 200).", {}),
    ("too_long", "This model's maximum context length is 4096 tokens. However, you requested 512 "
     "output tokens and your prompt contains at least 3585 input tokens. Please reduce the length "
     "of the input prompt or the number of requested output tokens.", {}),
    ("model", "The model `m` does not exist.", {"type": "NotFoundError", "code": 404}),
    ("schema", "Grammar error: Unimplemented keys: ['x']", {}),
    ("parameter", "[{'type': 'extra_forbidden', 'loc': ('body', 'seed')}]", {}),
    # Ollama
    ("model", 'model "qwen9" not found, try pulling it first', {}),
    ("schema", "invalid format: expected \"json\" or a JSON schema", {}),
    # llama.cpp
    ("too_long", "the request exceeds the available context size, try increasing it", {}),
    ("schema", 'Failed to parse grammar: JSON schema conversion failed', {}),
    # text-generation-inference
    ("temperature", "Input validation error: `temperature` must be strictly positive", {}),
    ("too_long", "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
     "Given: 4000 `inputs` tokens and 512 `max_new_tokens`", {}),
]  # fmt: skip
GATEWAYS = [
    # LiteLLM
    ("temperature", "litellm.UnsupportedParamsError: O-series models don't support temperature=0.0."
     " Only temperature=1 is supported. To drop unsupported openai params from the call, set "
     "`litellm.drop_params = True`", {"type": "None", "param": "None", "code": "400"}),
    ("model", "/chat/completions: Invalid model name passed in model=m. Call `/v1/models` to view "
     "available models for your key.", {"code": "400"}),
    ("too_long", "litellm.ContextWindowExceededError: the input is longer than the maximum", {}),
    # OpenRouter
    ("credit", "This request requires more credits, or fewer max_tokens. You requested up to 512 "
     "tokens, but can only afford 100.", {"code": 402}),
    ("parameter", "No endpoints found that support the requested parameters.", {"code": 404}),
    ("model", "m is not a valid model ID", {"code": 400}),
    ("filtered", "Your chosen model requires moderation and your input was flagged", {"code": 403}),
    # Groq, DeepSeek, Mistral, Moonshot
    ("limit_too_high", "`max_tokens` must be less than or equal to `8192`, the maximum value for "
     "`max_tokens` is less than the `context_window` for this model", {}),
    ("schema", "This response_format type is unavailable now", {}),
    ("credit", "Insufficient Balance", {"code": "invalid_request_error"}),
    ("temperature", "invalid temperature: only 1 is allowed for this model", {}),
    ("model", "The model `x` has been decommissioned and is no longer supported.", {}),
    ("other", "Bad Request", {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message", "more"), [*OPENAI, *AZURE, *ANTHROPIC, *GOOGLE, *LOCAL, *GATEWAYS]
)
def test_what_a_refusal_is_about(kind: RefusalKind, message: str, more: dict[str, Any]) -> None:
    status = {"credit": 402, "key": 401}.get(kind, 400)
    error = response_error(httpx2.Response(status, json={"error": {"message": message, **more}}))
    assert error.message == message
    assert refusal_kind(error.status, error.message, error.names, error.parameter) == kind


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "key"), (402, "credit"), (403, "key"), (413, "too_long")]
)
def test_a_status_without_words(status: int, kind: RefusalKind) -> None:
    assert refusal_kind(status, "no") == kind


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"error": {"message": "Provider returned error", "code": 502}}, 502, "Provider returned"),
        ({"error": {"message": "x", "code": "503"}}, 503, "x"),
        ({"error": {"message": "x", "code": "429 Too Many Requests"}}, 429, "x"),
        ({"error": {"message": "x", "type": "rate_limit_error"}}, 429, "x"),
        ({"error": {"message": "x", "type": "overloaded_error"}}, None, "x"),
        ({"error": {"message": "x", "status": "INVALID_ARGUMENT"}}, 400, "x"),
        ([{"error": {"message": "x", "code": 500}}], 500, "x"),
        ({"error": "model runner has unexpectedly stopped"}, None, "model runner"),
        ({"object": "error", "message": "x", "code": 400}, 400, "x"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "x"}}, 400, "x"),
        ({"choices": [{"error": {"code": 502, "message": "x"}}]}, 502, "x"),
        ({"choices": [{"message": {}, "finish_reason": "error"}]}, None, "by an error"),
        ({"detail": "Not Found"}, None, "Not Found"),
        (
            {
                "error": {
                    "message": "Provider returned error",
                    "metadata": {"raw": json.dumps({"error": {"code": 400, "message": "too bad"}})},
                }
            },
            400,
            "too bad",
        ),
        ({"error": {"message": "x", "code": 1302}}, None, "x"),  # a number of its own
        ({"error": {"error": {"message": "x", "status_code": 408}}}, 408, "x"),
    ],
)  # fmt: skip
def test_an_error_within_a_200(body: Any, status: int | None, message: str) -> None:
    error = error_within(httpx2.Response(200, json=body))
    assert error is not None
    assert error.status == status
    assert message in error.message


@pytest.mark.parametrize(
    "body", [{"choices": [{"message": {"content": "x"}}], "error": None}, {"data": []}, [], 3, {}]
)
def test_a_body_without_an_error(body: Any) -> None:
    assert error_within(httpx2.Response(200, json=body)) is None
    assert error_within(httpx2.Response(200, text="{cut")) is None


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, {}, 7.0),
        ({"Retry-After-Ms": "1500", "Retry-After": "9"}, {}, 1.5),
        ({}, {"error": {"details": [{"retryDelay": "34.5s"}]}}, 34.5),
        ({}, {"error": {"metadata": {"retry_after_seconds": 12}}}, 12.0),
        ({}, {"error": {"message": "x"}, "retry_after": "3"}, 3.0),
        ({}, {"error": {"metadata": {"headers": {"Retry-After": "20"}}}}, 20.0),
        ({}, {"error": {"message": "Rate limit reached. Please try again in 1m2.5s."}}, 62.5),
        ({}, {"error": {"message": "Please try again in 350ms. Visit x"}}, 0.35),
        ({}, {"error": {"message": "Please retry after 26 seconds."}}, 26.0),
        ({}, {"error": {"message": "busy"}}, 0.0),
        ({}, {"error": {"message": "Please try again in a while"}}, 0.0),
        ({"Retry-After": "soon"}, "text", 0.0),
        ({"Retry-After": "-3"}, {}, 0.0),
        ({"Retry-After": "nan"}, {}, 0.0),
    ],
)
def test_the_wait_that_a_server_asks_for(
    headers: dict[str, str], body: Any, seconds: float
) -> None:
    error = response_error(httpx2.Response(429, headers=headers, json=body))
    assert error.wait == pytest.approx(seconds)


def test_a_wait_until_a_time() -> None:
    reset = str(int((time.time() + 50) * 1000))  # OpenRouter counts milliseconds since 1970
    body = {"error": {"metadata": {"headers": {"X-RateLimit-Reset": reset}}}}
    assert 40 < response_error(httpx2.Response(429, json=body)).wait <= 50
    past = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after(httpx2.Response(429, headers=past)) == 0.0
