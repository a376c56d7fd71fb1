"""A client of a vLLM server: every failure is an error that says what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx2

from accord.errors import WorkError
from accord.respond.http import (
    CONNECT_TIMEOUT,
    FailedAttempt,
    RefusedError,
    authorization_header,
    make_client,
    request_with_retries,
)
from accord.respond.server_errors import QUOTED_CHARACTERS
from accord.runs.activity import report_activity
from accord.settings.sampling import SamplerSettings


class ServerDownError(WorkError):
    """The server does not answer. With `restarted`, it does, and lacks what was published to it."""

    restarted = False


class VllmClient:
    """Requests to one server, repeated where they fail and never where they are refused."""

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings
        self.url = str(settings.url).rstrip("/").removesuffix("/v1")
        headers = authorization_header(
            settings.api_key_env, setting="sampler.api_key_env", key_owner="the vLLM server's"
        )
        self.http = make_client(self.url, timeout=settings.timeout, headers=headers)

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path; raises as `post` does."""
        return self._object("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers a JSON request. Raises RefusedError where the server
        refuses it, and WorkError where it fails or its answer can't be read."""
        return self._object("POST", path, body)

    def command(self, path: str, body: dict[str, Any]) -> None:
        """Send a request and ignore the text of the answer; raises as `post` does.

        Status 500 of a server that still runs is a refusal: vLLM answers so to an adapter that it
        can't load.
        """
        self._send("POST", path, body, retry_internal_errors=False)

    def is_healthy(self) -> bool:
        """Whether the server says that its engine runs."""
        try:
            return bool(self.http.get("/health", timeout=CONNECT_TIMEOUT).status_code == 200)
        except httpx2.HTTPError:
            return False

    def wait_until_healthy(self, failure: ServerDownError) -> None:
        """Return when the server's engine runs again. Raises `failure` where it does not within
        `restart_timeout`, and where it never stopped."""
        if failure.restarted:
            return
        if self.is_healthy():
            raise failure
        limit = self.settings.restart_timeout
        deadline = time.monotonic() + limit
        while not self.is_healthy():
            if time.monotonic() >= deadline:
                raise failure
            report_activity(f"waiting up to {limit:.0f} s for the vLLM server at {self.url}")
            time.sleep(min(1.0, limit))
        report_activity("")

    def unexpected_answer(self, path: str, what: str) -> WorkError:
        """The error for an answer that lacks what it must hold."""
        return WorkError(
            f"{self.url}{path} answered with {what}. sampler.url must be the address of a vLLM "
            f"server (0.10.2 or later), and nothing between may change its answers."
        )

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        *,
        retry_internal_errors: bool = True,
        find_fault: Callable[[httpx2.Response], str | None] = lambda response: None,
    ) -> httpx2.Response:
        """The response; without `retry_internal_errors`, status 500 is a refusal. One with a fault
        is requested again."""
        failures: list[FailedAttempt] = []
        for result in request_with_retries(
            self.http, method, path, body, retries=self.settings.retries, find_fault=find_fault
        ):
            if isinstance(result, httpx2.Response):
                return result
            failures.append(result)
            if result.timed_out:
                raise WorkError(
                    f"{self.url}{path} did not answer within {self.settings.timeout:g} s. "
                    f"Raise sampler.timeout, or ask for less at a time: fewer or shorter "
                    f"responses (max_new_tokens; batch_size, where it is a setting)."
                )
            if result.status is None or result.status < 300:
                continue
            if not self.is_healthy():
                raise ServerDownError(
                    f"The engine of the vLLM server at {self.url} is dead: {path} gave "
                    f"{result.reason}. Look at the server's log, restart it, and run the same "
                    f"command again: it resumes where it stopped."
                )
            if result.status == 500 and not retry_internal_errors:
                raise RefusedError(self.url + path, result.status, result.message)
        if failures[-1].status == 200:
            raise self.unexpected_answer(path, failures[-1].reason)
        raise ServerDownError(
            f"The vLLM server at {self.url} did not answer {path} in {len(failures)} "
            f"attempts: {failures[-1].reason}. Is it running, and is sampler.url right? Start it "
            f"with `vllm serve MODEL`, wait for its /health, and run the same command again."
        )

    def _object(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        response = self._send(method, path, body, find_fault=_find_object_fault)
        content: dict[str, Any] = response.json()
        return content


def _find_object_fault(response: httpx2.Response) -> str | None:
    """What a response is instead of a JSON object, such as a part of one; None for an object."""
    quoted = repr(response.text[:QUOTED_CHARACTERS])
    try:
        content = response.json()
    except (ValueError, RecursionError):
        return f"no JSON but {quoted}"
    return None if isinstance(content, dict) else f"no JSON object but {quoted}"
