"""A server's error as it says it: its code, its words, and how long to wait.

Errors come with an error status, or within a 200 from gateways whose provider failed. Their bodies
have the structures of OpenAI and Azure (`error.message`, `.code`, `.type`, `.param`), Google
(`error.status`, `.details`, sometimes in a list), Anthropic (`error.type`), OpenRouter
(`error.metadata`), vLLM (`error` or the same keys at the top), Ollama and llama.cpp (`error` as a
text) and FastAPI (`detail`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

QUOTED_CHARACTERS = 300  # of a response, in an error message
READ_CHARACTERS = 4000  # of a message, to see what it refuses

STATUS_OF_NAME = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "failed_precondition": 400,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "insufficient_quota": 402,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "not_found": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
}
"""The statuses of errors that are named and not numbered."""

_UNITS = {"ms": 0.001, "milliseconds": 0.001, "s": 1.0, "sec": 1.0, "seconds": 1.0, "second": 1.0}
_UNITS |= {"m": 60.0, "min": 60.0, "minutes": 60.0, "minute": 60.0}
_WAIT = re.compile(r"(?:try again|retry) (?:in|after)\s+((?:[\d.]+\s*[a-z]+\s*)+)", re.IGNORECASE)
_WAIT_KEYS = ("retry_after", "retryafter", "retry_after_seconds", "retry-after", "retrydelay")


@dataclass(frozen=True, slots=True)
class ServerError:
    """What a server says is wrong. `status` is None where neither a number nor a name gives it;
    `names` are its codes and types in lower case, `parameter` the one that it names, and `wait`
    the seconds after which to send the request again."""

    status: int | None
    message: str
    names: tuple[str, ...] = ()
    parameter: str = ""
    wait: float = 0.0

    @property
    def quoted(self) -> str:
        """The message as an error of ours quotes it."""
        return self.message[:QUOTED_CHARACTERS]


def response_error(response: httpx2.Response) -> ServerError:
    """The error of a response with an error status."""
    content = _parse_json(response)
    if content is None:
        message = _one_line(response.text)
        return ServerError(response.status_code, message, wait=_wait(response, {}, message))
    found_error = _error_of(content)
    return _read_error(response, content if found_error is None else found_error, content)


def error_within(response: httpx2.Response) -> ServerError | None:
    """The error in the body of a response whose status is none; None where there is none."""
    content = _parse_json(response)
    stated = _error_of(content)
    if stated is None:
        return None
    error = _read_error(response, stated, content)
    return ServerError(_code_of(stated), error.message, error.names, error.parameter, error.wait)


def _parse_json(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _error_of(content: Any) -> Any:
    """The error that a body states, itself or in its first choice; None where it states none."""
    if isinstance(content, list) and content:
        content = content[0]  # as Google streams errors
    if not isinstance(content, Mapping):
        return None
    if content.get("error"):
        return content["error"]
    if content.get("object") == "error" or content.get("type") == "error":
        return content
    choices = content.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        first = choices[0]
        if first.get("error"):
            return first["error"]
        if first.get("finish_reason") == "error":
            return {"message": "its answer ended by an error (finish_reason=error)"}
    if not choices and "detail" in content:
        return {"message": content["detail"]}
    return None


def _read_error(response: httpx2.Response, stated: Any, content: Any) -> ServerError:
    fields = list(_fields(stated))
    names = tuple(
        str(value).strip().casefold()
        for key, value in fields
        if key in ("code", "type", "status") and isinstance(value, str)
    )
    parameter = next((v for k, v in fields if k == "param" and isinstance(v, str)), "")
    message = _message_of(stated)
    wait = _wait(response, content, message)
    return ServerError(response.status_code, message, names, parameter.casefold(), wait)


def _message_of(stated: Any) -> str:
    """The error's words; with those of the provider behind a gateway, where it passes them on."""
    if not isinstance(stated, Mapping):
        return _one_line(stated)
    message = stated.get("message") or stated.get("detail") or stated.get("error") or stated
    if isinstance(message, Mapping) and "message" in message:
        message = message["message"]
    text = _one_line(message)
    metadata = stated.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    return text if not raw else f"{text}: {_one_line(raw)}"[:READ_CHARACTERS]


def _one_line(text: Any) -> str:
    text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str)
    return " ".join(text.split())[:READ_CHARACTERS]


def _fields(stated: Any, depth: int = 4) -> Iterator[tuple[str, Any]]:
    """The keys and values of an error, the outer ones first; `metadata.raw` is JSON in a text."""
    if isinstance(stated, str) and stated.lstrip().startswith("{"):
        try:
            stated = json.loads(stated)
        except (ValueError, RecursionError):
            return
    if isinstance(stated, list):
        stated = {str(i): item for i, item in enumerate(stated[:10])}
    if not isinstance(stated, Mapping) or depth == 0:
        return
    yield from ((str(key).casefold(), value) for key, value in stated.items())
    for value in stated.values():
        if isinstance(value, Mapping | list) or (isinstance(value, str) and "{" in value[:5]):
            yield from _fields(value, depth - 1)


def _code_of(stated: Any) -> int | None:
    """The status that an error states: the outermost number, or what its name stands for."""
    fields = [(k, v) for k, v in _fields(stated) if k in ("code", "status", "status_code", "type")]
    for _, value in fields:
        number = re.match(r"\s*([1-5]\d\d)(?!\d)", str(value))
        if number and not isinstance(value, bool):
            return int(number[1])
    for _, value in fields:
        status = STATUS_OF_NAME.get(str(value).strip().casefold())
        if status is not None:
            return status
    return None


def _wait(response: httpx2.Response, content: Any, message: str) -> float:
    """Seconds that a server asks to wait, in its headers or its body."""
    headers = retry_after(response)
    if headers:
        return headers
    fields = list(_fields(content, depth=6))
    for key, value in fields:
        if key in _WAIT_KEYS and not isinstance(value, bool):
            seconds = _seconds(str(value))
            if seconds:
                return seconds
    for key, value in fields:
        if key == "x-ratelimit-reset" and re.fullmatch(r"\d{13}", str(value)):
            return max(0.0, int(value) / 1000 - time.time())  # milliseconds since 1970
    words = _WAIT.search(message)
    return _seconds(words[1]) if words else 0.0


def _seconds(text: str) -> float:
    """A duration such as 7, 34.5s, 1m2s or 250 ms, in seconds; 0 for what is none."""
    total = 0.0
    for number, unit in re.findall(r"([\d.]+)\s*([a-z]*)", text.casefold()):
        if unit and unit not in _UNITS:
            continue
        try:
            total += float(number) * _UNITS.get(unit, 1.0)
        except ValueError:
            return 0.0
    return total


def retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait, as a number or until a date (RFC 9110, 10.2.3); or in
    milliseconds, as OpenAI and Azure say it too."""
    value = response.headers.get("Retry-After", "")
    try:
        milliseconds = float(response.headers.get("Retry-After-Ms", ""))
        return max(0.0, milliseconds / 1000)
    except ValueError:
        pass
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
