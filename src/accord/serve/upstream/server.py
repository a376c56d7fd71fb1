"""What an OpenAI-compatible server says of itself: its models, and why it refuses."""

from __future__ import annotations

import json
from contextlib import suppress

import httpx2

from accord.errors import WorkError
from accord.machine.loopback import is_local
from accord.serve.errors import ApiError
from accord.serve.upstream.wire import quoted_error

MAX_ERROR_BYTES = 1 << 16
PASSED_ON = (400, 404, 413, 415, 422, 429, 503)
"""Statuses that are as true of this server's answer; others of 400 and more become 502."""


def find_model(url: str, *, key: str | None = None, timeout: float = 30.0) -> str:
    """The first model that a server lists. Raises WorkError where it lists none."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    address = url.rstrip("/") + "/models"
    try:
        with httpx2.Client(headers=headers, timeout=timeout, trust_env=not is_local(url)) as client:
            response = client.get(address)
        if response.status_code != 200:
            raise WorkError(
                f"{address} answers with status {response.status_code}: "
                f"{response.text[:200]!r}. Check the address and the key."
            )
        names = [str(model["id"]) for model in response.json()["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        raise WorkError(
            f"{address} lists no models ({type(error).__name__}: {error}). Give the address of an "
            f"OpenAI-compatible server with its path, such as http://127.0.0.1:8000/v1."
        ) from None
    if not names:
        raise WorkError(f"{address} lists no model. Name the one to ask for.")
    return names[0]


async def refusal(response: httpx2.Response) -> ApiError:
    """The error that a server's status and body state, as this server passes it on."""
    data = b""
    with suppress(httpx2.HTTPError):
        async for part in response.aiter_bytes():
            data += part
            if len(data) > MAX_ERROR_BYTES:
                break
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = data.decode("utf-8", "replace")[:300]
    error = content.get("error", content) if isinstance(content, dict) else content
    message, status = quoted_error(error), response.status_code
    fields = error if isinstance(error, dict) else {}
    wait = response.headers.get("Retry-After", "")
    if status in (401, 403):
        message = (
            f"The upstream server refuses this server's key (status {status}): {message}. Its "
            f"owner must set another one."
        )
    if status not in PASSED_ON:
        return ApiError(502, f"The upstream server failed (status {status}): {message}")
    return ApiError(
        status,
        message,
        param=fields.get("param") if isinstance(fields.get("param"), str) else None,
        code=fields.get("code") if isinstance(fields.get("code"), str) else None,
        retry_after=int(wait) if wait.isdigit() else 1 if status == 429 else None,
    )


def is_about_n(error: ApiError) -> bool:
    """Whether a refusal is of several responses to one request."""
    text = error.message.lower()
    named = error.param == "n" or any(
        word in text for word in ("`n`", "'n'", '"n"', " n ", "n=", "n must", "n >", "multiple")
    )
    return error.status in (400, 422) and named
