"""HTTP requests, repeated where the connection fails or the server is busy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from accord.errors import SettingsError
from accord.respond.refusals import RefusalKind, refusal_kind
from accord.respond.server_errors import ServerError, error_within, response_error

FIRST_WAIT = 0.5  # seconds before the first retry; doubles each time
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not tried again
CONNECT_TIMEOUT = 10.0  # seconds to reach a server
MAX_BYTES = 2**30  # of a response
_OF_THE_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")
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
    """The server understood a request and refused it; `kind` is what the refusal is about."""

    def __init__(
        self, where: str, status: int, message: str, kind: RefusalKind | None = None
    ) -> None:
        super().__init__(f"{where} refused the request (status {status}): {message}")
        self.where, self.status, self.message = where, status, message
        self.kind: RefusalKind = kind or refusal_kind(status, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return RefusedError, (self.where, self.status, self.message, self.kind)  # for processes


class EndlessResponseError(httpx2.HTTPError):
    """A response is longer than any that is expected."""


def make_client(
    url: str, *, timeout: float, headers: dict[str, str], use_proxies: bool = False
) -> httpx2.Client:
    """A client of one server, for any number of threads; `timeout` is in seconds until a response
    begins and, with `request_with_retries`, until it ends.

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
    key = key_of_environment(variable, setting=setting, key_owner=key_owner)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def key_of_environment(variable: str | None, *, setting: str, key_owner: str) -> str | None:
    """The key from an environment variable, which `setting` names; None where it names none.

    Raises SettingsError if the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise SettingsError(
            f"The environment variable {variable}, which {setting} names, is not set. Set it to "
            f"{key_owner} key."
        )
    return key


def request_with_retries(
    client: httpx2.Client,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    *,
    retries: int,
    refusals: Collection[int] = (),
    stop: threading.Event | None = None,
    find_fault: Callable[[httpx2.Response], str | None] = lambda response: None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[httpx2.Response | FailedAttempt]:
    """Send a request up to `retries` + 1 times: yields each failed attempt, then the response.

    A response with status 200 whose body states an error fails as the error's code says. So does
    one in which `find_fault` sees a fault: what the server does not mean to say, such as a body
    that is cut, and one that has not ended in the client's timeout or in `max_bytes`.

    The wait before a retry doubles each time and is at least as long as the server asks for. No
    retry follows a request to wait for more than LONGEST_WAIT, or `stop` once it is set, so the
    last item may be a FailedAttempt. Raises RefusedError for a status in `refusals`, for any from
    300 to 499 but RETRIED_STATUSES, and where the account has nothing left to pay with.
    """
    requested_wait, stop = 0.0, stop or threading.Event()
    for attempt in range(retries + 1):
        if attempt and stop.wait(max(requested_wait, FIRST_WAIT * 2 ** (attempt - 1))):
            return
        requested_wait = 0.0
        try:
            response = _receive(client, method, path, body, max_bytes)
        except httpx2.ConnectError as error:
            yield FailedAttempt(f"no connection ({error})")
        except httpx2.TimeoutException:
            reason = f"no answer in time ({client.timeout.read:g} s)"
            yield FailedAttempt(reason, timed_out=True)
        except EndlessResponseError as error:
            yield FailedAttempt(str(error), 200)
        except httpx2.HTTPError as error:
            yield FailedAttempt(f"the connection broke ({type(error).__name__}: {error})")
        else:
            stated = _stated_error(response)
            if stated is not None:
                requested_wait = stated.wait
                yield _failed_attempt(response, stated, refusals)
                if requested_wait > LONGEST_WAIT:
                    return
                continue
            fault = find_fault(response)
            if fault is None:
                yield response
                return
            yield FailedAttempt(fault, response.status_code)


def _receive(
    client: httpx2.Client, method: str, path: str, body: dict[str, Any] | None, max_bytes: int
) -> httpx2.Response:
    """The whole response to a request. Raises TimeoutException and EndlessResponseError where it
    does not end; a client's own timeout starts again with each piece of a response."""
    deadline = time.monotonic() + (client.timeout.read or float("inf"))
    pieces: list[bytes] = []
    size = 0
    with client.stream(method, path, json=body) as response:
        for piece in response.iter_bytes():
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise EndlessResponseError(f"an answer without an end ({size:,} bytes of it)")
            if time.monotonic() > deadline:
                raise httpx2.ReadTimeout("the response did not end", request=response.request)
    headers = [(k, v) for k, v in response.headers.multi_items() if k not in _OF_THE_TRANSFER]
    return httpx2.Response(
        response.status_code, headers=headers, content=b"".join(pieces), request=response.request
    )


def _stated_error(response: httpx2.Response) -> ServerError | None:
    """The error that a response states by its status or in its body."""
    if response.status_code < 300:
        return error_within(response)
    if response.status_code < 400:
        target = response.headers.get("Location", "another address")
        return ServerError(response.status_code, f"it has moved to {target}")
    return response_error(response)


def _failed_attempt(
    response: httpx2.Response, error: ServerError, refusals: Collection[int]
) -> FailedAttempt:
    """The failed attempt that an error is. Raises RefusedError for a refusal.

    An error without a code, which only a body may state, is worth a retry.
    """
    kind = refusal_kind(error.status, error.message, error.names, error.parameter)
    status, message = error.status, error.quoted
    is_refused = status is not None and (
        status in refusals or (status < 500 and status not in RETRIED_STATUSES)
    )
    if status == 429 and kind == "credit" and not error.wait:
        is_refused = True
    if is_refused:
        raise RefusedError(str(response.url), status or response.status_code, message, kind)
    within = " in its body" if response.status_code < 300 else ""
    reason = f"{f'status {status}' if status else 'an error'}{within}: {message}"
    if error.wait:
        reason += f" (wait {error.wait:,.0f} s, it says)"
    return FailedAttempt(reason, status, message)
