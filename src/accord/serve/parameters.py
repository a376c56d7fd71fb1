"""A request's body as engine requests. What is not honoured is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accord.respond.protocol import SamplingSettings
from accord.serve.engine import EngineRequest
from accord.serve.errors import ApiError
from accord.serve.messages import read_messages
from accord.serve.values import (
    read_flag,
    read_integer,
    read_number,
    read_object,
    read_strings,
)

Api = Literal["chat", "completions"]

MAX_RESPONSES = 1024
MAX_PROMPTS = 256
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 1 << 30
MAX_SEED = (1 << 63) - 1
MIN_TEMPERATURE = 1e-6  # below it logits overflow; 0 is greedy
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI's

LABELS = ("user", "safety_identifier", "prompt_cache_key", "metadata")
"""Names that a client gives a request for its own records: they ask for nothing."""

NEUTRAL: Mapping[str, Sequence[Any]] = {
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
}
"""Parameters that are not honoured, with the values that ask for nothing; null asks for nothing
of any parameter."""

REMEDIES: Mapping[str, str] = {
    "tools": "Tools are not supported: describe them in a message, and parse the answer yourself.",
    "functions": "Functions are not supported: describe them in a message.",
    "response_format": "Answers are plain text only: say in a message which form they should have.",
    "best_of": "Best-of-N is asked for with `accord: {best_of: N}`, of a server that was started "
    "with --reward; several answers with n.",
    "echo": "The answer holds what was generated only.",
}

SHARED = (
    "model stream stream_options n seed stop max_tokens temperature top_p top_k min_p accord"
).split()
KNOWN: Mapping[Api, frozenset[str]] = {
    "chat": frozenset(
        [
            *SHARED,
            *"messages max_completion_tokens logprobs top_logprobs chat_template_kwargs "
            "add_generation_prompt continue_final_message".split(),
        ]
    ),
    "completions": frozenset([*SHARED, "prompt", "logprobs"]),
}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """What a client asked for: a request for each prompt, whose answers are numbered prompt by
    prompt, and the form of the answer."""

    api: Api
    model: str
    requests: tuple[EngineRequest, ...]
    stream: bool
    include_usage: bool

    @property
    def num_responses(self) -> int:
        """Responses to each prompt."""
        return self.requests[0].sampling.num_responses

    @property
    def has_logprobs(self) -> bool:
        return self.requests[0].top_logprobs is not None


def read_request(api: Api, body: Any) -> ApiRequest:
    """The request that a body makes. Raises ApiError (400) with the key that is wrong."""
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    _refuse_unknown(api, body)
    model = body.get("model")
    if not isinstance(model, str):
        raise ApiError(400, "`model` must name the model. GET /v1/models lists it.", param="model")
    stream = read_flag(body, "stream")
    sampling = SamplingSettings(
        num_responses=read_integer(body, "n", 1, 1, MAX_RESPONSES) or 1,
        temperature=_read_temperature(body),
        top_p=read_number(body, "top_p", 1.0, 0.0, 1.0),
        top_k=max(0, read_integer(body, "top_k", 0, -1, MAX_TOKENS) or 0),
        min_p=read_number(body, "min_p", 0.0, 0.0, 1.0),
        stop=read_strings(body, "stop", MAX_STOPS),
    )
    shared: dict[str, Any] = {
        "sampling": sampling,
        "max_tokens": _read_max_tokens(api, body),
        "seed": read_integer(body, "seed", None, -MAX_SEED - 1, MAX_SEED),
        "top_logprobs": _read_logprobs(api, body),
        "options": read_object(body, "accord"),
    }
    if api == "chat":
        shared["continues"] = _read_continues(body)
        template = read_object(body, "chat_template_kwargs")
        prompts: list[Any] = [read_messages(body.get("messages"), template)]
        if shared["continues"] and prompts[0][-1].role != "assistant":
            raise ApiError(
                400,
                "`continue_final_message` continues the assistant's message, and the last one is "
                f"of the {prompts[0][-1].role}.",
                param="continue_final_message",
            )
    else:
        prompts = _read_prompts(body.get("prompt"))
    shared["num_prompts"] = len(prompts)
    requests = tuple(EngineRequest(prompt, **shared) for prompt in prompts)
    return ApiRequest(api, model, requests, stream, _read_include_usage(body, stream))


def _refuse_unknown(api: Api, body: Mapping[str, Any]) -> None:
    for key, value in body.items():
        if key in KNOWN[api] or key in LABELS or value is None:
            continue
        if any(_is_same(value, neutral) for neutral in NEUTRAL.get(key, ())):
            continue
        what = "is not supported by this server" if key in NEUTRAL else "is not a known parameter"
        remedy = REMEDIES.get(key, "Leave it out.")
        raise ApiError(400, f"`{key}` {what}. {remedy}", param=key, code="unsupported_parameter")


def _is_same(value: Any, neutral: Any) -> bool:
    """Equality in which true is not 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _read_temperature(body: Mapping[str, Any]) -> float:
    temperature = read_number(body, "temperature", 1.0, 0.0, 100.0)
    if 0 < temperature < MIN_TEMPERATURE:
        raise ApiError(
            400,
            f"`temperature` is {temperature:g}: use 0 for the likeliest tokens.",
            param="temperature",
        )
    return temperature


def _read_max_tokens(api: Api, body: Mapping[str, Any]) -> int | None:
    limit = read_integer(body, "max_tokens", None, 1, MAX_TOKENS)
    if api == "completions":
        return limit or DEFAULT_COMPLETION_TOKENS
    newer = read_integer(body, "max_completion_tokens", None, 1, MAX_TOKENS)
    if limit is not None and newer is not None and limit != newer:
        raise ApiError(
            400,
            f"`max_tokens` is {limit} and `max_completion_tokens` {newer}: give one of them.",
            param="max_completion_tokens",
        )
    return limit if newer is None else newer


def _read_logprobs(api: Api, body: Mapping[str, Any]) -> int | None:
    if api == "completions":
        if body.get("logprobs") is False:
            return None
        return read_integer(body, "logprobs", None, 0, MAX_TOP_LOGPROBS)
    top = read_integer(body, "top_logprobs", None, 0, MAX_TOP_LOGPROBS)
    if read_flag(body, "logprobs"):
        return top or 0
    if top:
        raise ApiError(400, "`top_logprobs` needs `logprobs` true.", param="top_logprobs")
    return None


def _read_continues(body: Mapping[str, Any]) -> bool:
    continues = read_flag(body, "continue_final_message")
    begins = read_flag(body, "add_generation_prompt", not continues)
    if continues == begins:
        raise ApiError(
            400,
            "Either `add_generation_prompt` or `continue_final_message` must be true: the answer "
            "is a new message, or continues the last one.",
            param="add_generation_prompt",
        )
    return continues


def _read_include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = read_object(body, "stream_options")
    for key, value in options.items():
        if key != "include_usage" and value not in (None, False):
            raise ApiError(
                400, f"`stream_options.{key}` is not supported.", param=f"stream_options.{key}"
            )
    if options and not stream:
        raise ApiError(400, "`stream_options` needs `stream` true.", param="stream_options")
    return read_flag(options, "include_usage")


def _read_prompts(prompt: Any) -> list[str | tuple[int, ...]]:
    """The prompts: a text, token ids, or a list of either."""
    if isinstance(prompt, str) or _are_ids(prompt):
        prompt = [prompt]
    if not isinstance(prompt, list) or not 1 <= len(prompt) <= MAX_PROMPTS:
        raise ApiError(
            400,
            f"`prompt` must be a text, a list of token ids, or a list of 1 to {MAX_PROMPTS} of "
            "either.",
            param="prompt",
        )
    for item in prompt:
        if not (isinstance(item, str) or _are_ids(item)):
            raise ApiError(
                400, "`prompt` holds what is neither text nor token ids.", param="prompt"
            )
    return [item if isinstance(item, str) else tuple(item) for item in prompt]


def _are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1 << 31 for i in value)
    )
