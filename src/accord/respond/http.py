"""Requests over HTTP: sent again where the line fails or a server is busy, and what it said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from accord.errors import SettingsError

FIRST_WAIT = 0.5  # seconds before a request is sent again; doubles each time
LONGEST_WAIT = 300.0  # a server that asks for a longer one is not waited for
CONNECT = 10.0  # seconds to reach a server
QUOTED = 300  # characters of an answer that an error quotes
BUSY = (408, 429)  # below 500, and worth another attempt


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An attempt without an answer: `what` went wrong; `late` if it took longer than it may."""

    what: str
    late: bool = False


class RefusedError(SettingsError):
    """The server understood a request and refused it."""

    def __init__(self, where: str, status: int, message: str) -> None:
        super().__init__(f"{where} refused the request (status {status}): {message}")
        self.where, self.status, self.message = where, status, message

    def __reduce__(self) -> tuple[Any, ...]:
        return RefusedError, (self.where, self.status, self.message)  # it may cross processes


def connection(
    url: str, *, timeout: float, headers: dict[str, str], proxies: bool = False
) -> httpx2.Client:
    """A client of one server, for any number of threads; `timeout` is seconds for an answer.

    `proxies` says that the environment's proxies and certificates hold for it.
    """
    return httpx2.Client(
        base_url=url,
        headers=headers,
        timeout=httpx2.Timeout(timeout, connect=CONNECT),
        trust_env=proxies,
    )


def key_header(variable: str | None, *, named_by: str, whose: str) -> dict[str, str]:
    """The header with the key in an environment variable. Raises SettingsError if it is not set."""
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise SettingsError(
            f"The environment variable {variable}, which {named_by} names, is not set. Set it to "
            f"{whose} key."
        )
    return {"Authorization": f"Bearer {key}"}


def attempts(
    client: httpx2.Client,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    *,
    retries: int,
    stop: threading.Event | None = None,
) -> Iterator[httpx2.Response | Disconnected]:
    """What comes of each attempt, at most `retries` + 1 of them: stop asking when content.

    The waits between them double, and are as long as the last answer's Retry-After says; a server
    that asks for more than LONGEST_WAIT is not asked again. Once `stop` is set none begins.
    """
    asked, stop = 0.0, stop or threading.Event()
    for attempt in range(retries + 1):
        if attempt and stop.wait(max(asked, FIRST_WAIT * 2 ** (attempt - 1))):
            return
        try:
            answer: httpx2.Response | Disconnected = client.request(method, path, json=body)
        except httpx2.ConnectError as error:
            answer = Disconnected(f"no connection ({error})")
        except httpx2.TimeoutException:
            answer = Disconnected("no answer in time", late=True)
        except httpx2.HTTPError as error:
            answer = Disconnected(f"the connection broke ({type(error).__name__}: {error})")
        yield answer
        asked = 0.0 if isinstance(answer, Disconnected) else retry_after(answer)
        if asked > LONGEST_WAIT:
            return


def retry_after(answer: httpx2.Response) -> float:
    """Seconds that the server asks to wait, as a number or until a date (RFC 9110, 10.2.3)."""
    said = answer.headers.get("Retry-After", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def error_message(answer: httpx2.Response) -> str:
    """What the server says went wrong, in one line."""
    try:
        found = answer.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        told = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        told = answer.text
    return " ".join(str(told).split())[:QUOTED]
