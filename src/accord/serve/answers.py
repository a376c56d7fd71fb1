"""The answers of both APIs in OpenAI's form: whole, and as chunks of a stream."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from accord.serve.engine import Delta, TokenLogprob, TokenUsage
from accord.serve.parameters import ApiRequest

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's API writes this number


class AnswerForm(Protocol):
    """How one answer is written. `begin` chunks come before the first text."""

    def begin(self) -> Iterable[dict[str, Any]]: ...

    def chunk(self, delta: Delta) -> dict[str, Any]: ...

    def whole(self, choices: Sequence[Sequence[Delta]], usage: TokenUsage) -> dict[str, Any]: ...

    def usage_chunk(self, usage: TokenUsage) -> dict[str, Any]: ...


class _Form:
    prefix, chunk_object, whole_object = "", "", ""

    def __init__(self, request: ApiRequest, num_choices: int) -> None:
        self.request, self.num_choices = request, num_choices
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def begin(self) -> Iterable[dict[str, Any]]:
        return ()

    def usage_chunk(self, usage: TokenUsage) -> dict[str, Any]:
        """The last chunk, which has the usage and no choice."""
        body = self._body(self.chunk_object, [])
        return {**body, "usage": _usage(usage), **_accord(usage)}

    def _chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        body = self._body(self.chunk_object, [dict(choice)])
        # As OpenAI's: with include_usage every chunk has the key.
        return {**body, "usage": None} if self.request.include_usage else body

    def _whole(self, choices: list[dict[str, Any]], usage: TokenUsage) -> dict[str, Any]:
        return {
            **self._body(self.whole_object, choices),
            "usage": _usage(usage),
            **_accord(usage),
        }

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }


class ChatForm(_Form):
    """Answers of /v1/chat/completions."""

    prefix, chunk_object, whole_object = "chatcmpl", "chat.completion.chunk", "chat.completion"

    def begin(self) -> Iterable[dict[str, Any]]:
        """A chunk for each choice that says whose message it is."""
        for index in range(self.num_choices):
            delta = {"role": "assistant", "content": ""}
            yield self._chunk(
                {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            )

    def chunk(self, delta: Delta) -> dict[str, Any]:
        return self._chunk(
            {
                "index": delta.index,
                "delta": {"content": delta.text} if delta.text else {},
                "logprobs": self._logprobs(delta.tokens) if delta.tokens else None,
                "finish_reason": delta.finish_reason,
            }
        )

    def whole(self, choices: Sequence[Sequence[Delta]], usage: TokenUsage) -> dict[str, Any]:
        return self._whole(
            [
                {
                    "index": index,
                    "message": {
                        "role": "assistant",
                        "content": "".join(delta.text for delta in deltas),
                        "refusal": None,
                    },
                    "logprobs": self._logprobs([t for delta in deltas for t in delta.tokens]),
                    "finish_reason": deltas[-1].finish_reason,
                }
                for index, deltas in enumerate(choices)
            ],
            usage,
        )

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.request.has_logprobs:
            return None
        content = [
            {**_token(token), "top_logprobs": [_token(top) for top in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionForm(_Form):
    """Answers of /v1/completions."""

    prefix, chunk_object, whole_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, request: ApiRequest, num_choices: int) -> None:
        super().__init__(request, num_choices)
        self.offsets = [_Offset() for _ in range(num_choices)]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        return self._chunk(self._choice(delta.index, delta.text, delta.tokens, delta.finish_reason))

    def whole(self, choices: Sequence[Sequence[Delta]], usage: TokenUsage) -> dict[str, Any]:
        return self._whole(
            [
                self._choice(
                    index,
                    "".join(delta.text for delta in deltas),
                    [token for delta in deltas for token in delta.tokens],
                    deltas[-1].finish_reason,
                )
                for index, deltas in enumerate(choices)
            ],
            usage,
        )

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self.request.has_logprobs:
            logprobs = {
                "tokens": [token.text for token in tokens],
                "token_logprobs": [_logprob(token) for token in tokens],
                "top_logprobs": [{t.text: _logprob(t) for t in token.top} for token in tokens],
                "text_offset": [self.offsets[index].next(token) for token in tokens],
            }
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class _Offset:
    """Where each token begins in the text of a choice, in characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._end = 0

    def next(self, token: TokenLogprob) -> int:
        start = self._end
        self._end += len(self._decoder.decode(token.bytes))
        return start


def make_form(request: ApiRequest) -> AnswerForm:
    """The form of a request's answer."""
    num_choices = len(request.requests) * request.num_responses
    form = ChatForm if request.api == "chat" else CompletionForm
    return form(request, num_choices)


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": _logprob(token), "bytes": list(token.bytes)}


def _logprob(token: TokenLogprob) -> float:
    return max(LEAST_LOGPROB, token.logprob)


def _usage(usage: TokenUsage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _accord(usage: TokenUsage) -> dict[str, Any]:
    return {} if usage.accord is None else {"accord": dict(usage.accord)}
