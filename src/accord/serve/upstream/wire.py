"""What goes to an OpenAI-compatible server, and what its stream brings back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from accord.records import Message, prompt_context, turns_json
from accord.serve.engine import Delta, EngineRequest, TokenLogprob
from accord.serve.errors import ApiError

FINISHES = {"stop": "stop", "length": "length", "max_tokens": "length", "eos": "stop"}
MAX_LINE = 1 << 24  # bytes of an event
CUT = "length"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The usage that a server reports at the end of a stream."""

    prompt: int
    completion: int


def body_of(request: EngineRequest, model: str, n: int, seed: int | None) -> dict[str, Any]:
    """The body of a streamed request for `n` responses."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,  # some servers have another default
    }
    optional: Mapping[str, tuple[Any, Any]] = {  # those that only some servers know, where set
        "top_k": (sampling.top_k, 0),
        "min_p": (sampling.min_p, 0.0),
        "stop": (list(sampling.stop), []),
        "n": (n, 1),
        "seed": (seed, None),
        "max_tokens": (request.max_tokens, None),
    }
    body |= {key: value for key, (value, unset) in optional.items() if value != unset}
    if request.is_chat:
        turns = cast(tuple[Message, ...], request.prompt)
        body["messages"] = turns_json(turns)
        context = prompt_context(turns)
        if context:
            body["chat_template_kwargs"] = context
        if request.continues:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    else:
        prompt = request.prompt
        body["prompt"] = list(prompt) if isinstance(prompt, tuple) else prompt
        if request.top_logprobs is not None:
            body["logprobs"] = request.top_logprobs
    return body


async def read_events(parts: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The objects of a server-sent stream, up to `[DONE]`; comments are left out.

    Raises ApiError for an event that is no JSON object, and for an error among the events.
    """
    async for line in _read_lines(parts):
        if not line.startswith(b"data:"):
            continue  # a comment, or another field
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise _no_object(data)
        error = event.get("error")
        if error:
            raise ApiError(502, f"The upstream server failed: {quoted_error(error)}")
        yield event


async def _read_lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream, which end with CR, LF or both: a model's text may hold other
    characters that end a line of Python's, such as U+2028."""
    rest = b""
    async for part in parts:
        lines = (rest + part).splitlines(keepends=True)
        rest = b"" if not lines or lines[-1].endswith((b"\r", b"\n")) else lines.pop()
        for line in lines:
            yield line
        if len(rest) > MAX_LINE:
            raise _no_object(rest)
    yield rest


def _no_object(data: bytes) -> ApiError:
    shown = data[:80].decode("utf-8", "replace")
    return ApiError(
        502, f"The upstream server sent no JSON object: {shown!r}.", code="bad_upstream"
    )


def read_chunk(event: Mapping[str, Any]) -> tuple[list[Delta], Tokens | None]:
    """The deltas of a chunk, and the usage where it has one. Raises ApiError (502) where it has
    another form."""
    try:
        deltas = [_read_choice(choice) for choice in event.get("choices") or []]
        usage = event.get("usage")
        if not usage:
            return deltas, None
        return deltas, Tokens(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ApiError(
            502,
            f"The upstream server sent a chunk of another form ({type(error).__name__}: {error}).",
            code="bad_upstream",
        ) from None


def _read_choice(choice: Mapping[str, Any]) -> Delta:
    delta = choice.get("delta")
    text = choice.get("text") if delta is None else delta.get("content")
    reason = choice.get("finish_reason")
    finish = None if reason is None else FINISHES.get(str(reason), "stop")
    tokens = _read_logprobs(choice.get("logprobs"))
    return Delta(int(choice["index"]), str(text or ""), tokens, finish)  # type: ignore[arg-type]


def _read_logprobs(logprobs: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
    if not logprobs:
        return ()
    if "content" in logprobs:  # of chats
        return tuple(
            _token(t, tuple(_token(top, ()) for top in t.get("top_logprobs") or ()))
            for t in logprobs["content"] or ()
        )
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops: Sequence[Any] = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprob(
            text,
            text.encode(),
            float(value),
            tuple(TokenLogprob(t, t.encode(), float(v)) for t, v in (top or {}).items()),
        )
        for text, value, top in zip(tokens, values, tops, strict=True)
    )


def _token(token: Mapping[str, Any], top: tuple[TokenLogprob, ...]) -> TokenLogprob:
    data = token.get("bytes")
    text = str(token["token"])
    return TokenLogprob(
        text, text.encode() if data is None else bytes(data), float(token["logprob"]), top
    )


def quoted_error(error: Any) -> str:
    """What an error says, in OpenAI's form or any other."""
    fields = error if isinstance(error, Mapping) else {}
    message = fields.get("message", fields.get("detail"))
    text = message if isinstance(message, str) else json.dumps(error)[:300]
    return f"{text[:500]}"
