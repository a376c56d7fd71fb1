"""HTTP requests, repeated where the connection fails or the server is busy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from accord.errors import SettingsError

FIRST_WAIT = 0.5  # seconds before the first retry; doubles each time
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not tried again
CONNECT_TIMEOUT = 10.0  # seconds to reach a server
QUOTED_CHARACTERS = 300  # of a response, in an error message
RETRIED_STATUSES = (408, 429)  # below 500, yet worth a retry


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt to send a request that a retry may repeat.

    `reason` is for an error message. `status` is None where no response arrived, `message` is what
    the response says, and `timed_out` is True where the client's timeout passed.
    """

    reason: str
    status: int | None = None
    message: str = ""
    timed_out: bool = False


class RefusedError(SettingsError):
    """The server understood a request and refused it."""

    def __init__(self, where: str, status: int, message: str) -> None:
        super().__init__(f"{where} refused the request (status {status}): {message}")
        self.where, self.status, self.message = where, status, message

    def __reduce__(self) -> tuple[Any, ...]:
        return RefusedError, (self.where, self.status, self.message)  # it may cross processes


def make_client(
    url: str, *, timeout: float, headers: dict[str, str], use_proxies: bool = False
) -> httpx2.Client:
    """A client of one server, for any number of threads; `timeout` is in seconds per response.

    With `use_proxies` the environment's proxies and certificates apply.
    """
    return httpx2.Client(
        base_url=url,
        headers=headers,
        timeout=httpx2.Timeout(timeout, connect=CONNECT_TIMEOUT),
        trust_env=use_proxies,
    )


def authorization_header(variable: str | None, *, setting: str, key_owner: str) -> dict[str, str]:
    """The header with the key from an environment variable, which `setting` names; none without.

    Raises SettingsError if the variable is not set.
    """
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise SettingsError(
            f"The environment variable {variable}, which {setting} names, is not set. Set it to "
            f"{key_owner} key."
        )
    return {"Authorization": f"Bearer {key}"}


def request_with_retries(
    client: httpx2.Client,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    *,
    retries: int,
    refusals: Collection[int] = (),
    stop: threading.Event | None = None,
) -> Iterator[httpx2.Response | FailedAttempt]:
    """Send a request up to `retries` + 1 times: yields each failed attempt, then the response.

    The wait before a retry doubles each time and is at least as long as the last Retry-After. No
    retry follows a Retry-After above LONGEST_WAIT, or `stop` once it is set, so the last item may
    be a FailedAttempt. Raises RefusedError for a status in `refusals`, and for any from 400 to 499
    but RETRIED_STATUSES.
    """
    requested_wait, stop = 0.0, stop or threading.Event()
    for attempt in range(retries + 1):
        if attempt and stop.wait(max(requested_wait, FIRST_WAIT * 2 ** (attempt - 1))):
            return
        requested_wait = 0.0
        try:
            response = client.request(method, path, json=body)
        except httpx2.ConnectError as error:
            yield FailedAttempt(f"no connection ({error})")
        except httpx2.TimeoutException:
            reason = f"no answer in time ({client.timeout.read:g} s)"
            yield FailedAttempt(reason, timed_out=True)
        except httpx2.HTTPError as error:
            yield FailedAttempt(f"the connection broke ({type(error).__name__}: {error})")
        else:
            if response.status_code < 400:
                yield response
                return
            requested_wait = retry_after(response)
            yield _failed_response(response, requested_wait, refusals)
            if requested_wait > LONGEST_WAIT:
                return


def _failed_response(
    response: httpx2.Response, requested_wait: float, refusals: Collection[int]
) -> FailedAttempt:
    """The failed attempt of a response with an error status. Raises RefusedError for a refusal."""
    status, message = response.status_code, error_message(response)
    if status in refusals or (status < 500 and status not in RETRIED_STATUSES):
        raise RefusedError(str(response.url), status, message)
    reason = f"status {status}: {message}"
    if requested_wait:
        reason += f" (wait {requested_wait:,.0f} s, it says)"
    return FailedAttempt(reason, status, message)


def retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait, as a number or until a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def error_message(response: httpx2.Response) -> str:
    """The server's error message, in one line."""
    try:
        content = response.json()
        error = content.get("error", content) if isinstance(content, dict) else content
        message = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        message = response.text
    return " ".join(str(message).split())[:QUOTED_CHARACTERS]
