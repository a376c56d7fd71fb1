"""A vLLM server, spoken to over HTTP: every failure is an error that says what to do."""

from __future__ import annotations

import os
import time
from typing import Any

import httpx2

from accord.errors import SettingsError, WorkError
from accord.settings.sampling import SamplerSettings

FIRST_WAIT = 0.5  # seconds before a request is sent again; doubles each time
CONNECT = 10.0  # seconds to reach the server
QUOTED = 300  # characters of an answer that an error quotes


class Server:
    """Requests to one server, sent again where the line fails, never where it answered."""

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings
        self.url = str(settings.url).rstrip("/").removesuffix("/v1")
        headers = {}
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env)
            if not key:
                raise SettingsError(
                    f"The environment variable {settings.api_key_env}, which sampler.api_key_env "
                    f"names, is not set. Set it to the vLLM server's key."
                )
            headers["Authorization"] = f"Bearer {key}"
        self.client = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(settings.timeout, connect=CONNECT),
            trust_env=False,
        )

    def get(self, path: str) -> dict[str, Any]:
        return self._json(self._sent("GET", path, None), path)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a JSON request. Raises SettingsError where the server refuses it, and
        WorkError where it fails or answers what can't be read."""
        return self._json(self._sent("POST", path, body), path)

    def command(self, path: str, body: dict[str, Any]) -> None:
        """A request whose answer's text does not matter. A server that goes on running after it
        failed has refused: vLLM says so of an adapter that it can't load."""
        self._sent("POST", path, body, again=False)

    def alive(self) -> bool:
        """Whether the server says that its engine runs."""
        try:
            return bool(self.client.get("/health", timeout=CONNECT).status_code == 200)
        except httpx2.HTTPError:
            return False

    def _sent(
        self, method: str, path: str, body: dict[str, Any] | None, *, again: bool = True
    ) -> httpx2.Response:
        """The answer. `again` says that a failure (status 500) is worth another attempt."""
        fault = ""
        for attempt in range(self.settings.retries + 1):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                answer = self.client.request(method, path, json=body)
            except httpx2.ConnectError as error:
                fault = f"no connection ({error})"
                continue
            except httpx2.TimeoutException as error:
                raise WorkError(
                    f"{self.url}{path} did not answer within {self.settings.timeout:g} s. Raise "
                    f"sampler.timeout, or lower batch_size or max_new_tokens."
                ) from error
            except httpx2.HTTPError as error:
                fault = f"the connection broke ({type(error).__name__}: {error})"
                continue
            if answer.status_code < 400:
                return answer
            fault = f"status {answer.status_code}: {_message(answer)}"
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                raise RefusedError(self.url + path, answer.status_code, _message(answer))
            if not self.alive():
                raise WorkError(
                    f"The engine of the vLLM server at {self.url} is dead: {path} gave {fault}. "
                    f"Look at the server's log, start it anew, and run the same command again: it "
                    f"goes on where it stopped."
                )
            if not again and answer.status_code == 500:
                raise RefusedError(self.url + path, answer.status_code, _message(answer))
        raise WorkError(
            f"The vLLM server at {self.url} did not answer {path} in {self.settings.retries + 1} "
            f"attempts: {fault}. Is it running, and is sampler.url right? Start it with "
            f"`vllm serve MODEL`, wait for its /health, and run the same command again."
        )

    def _json(self, answer: httpx2.Response, path: str) -> dict[str, Any]:
        try:
            found = answer.json()
        except ValueError as error:
            raise self.nonsense(path, f"no JSON but {answer.text[:QUOTED]!r}") from error
        if not isinstance(found, dict):
            raise self.nonsense(path, f"no JSON object but {answer.text[:QUOTED]!r}")
        return found

    def nonsense(self, path: str, what: str) -> WorkError:
        """The error for an answer that does not hold what it must."""
        return WorkError(
            f"{self.url}{path} answered with {what}. sampler.url must be the address of a vLLM "
            f"server (0.10.2 or later), and nothing between may change its answers."
        )


class RefusedError(SettingsError):
    """The server understood a request and refused it."""

    def __init__(self, where: str, status: int, message: str) -> None:
        super().__init__(f"{where} refused the request (status {status}): {message}")
        self.status, self.message = status, message


def _message(answer: httpx2.Response) -> str:
    """What the server says went wrong, in one line."""
    try:
        found = answer.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        told = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        told = answer.text
    return " ".join(str(told).split())[:QUOTED]
