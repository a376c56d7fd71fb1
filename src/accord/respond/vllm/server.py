"""A vLLM server, spoken to over HTTP: every failure is an error that says what to do."""

from __future__ import annotations

from typing import Any

import httpx2

from accord.errors import WorkError
from accord.respond.http import (
    BUSY,
    CONNECT,
    QUOTED,
    Disconnected,
    RefusedError,
    attempts,
    connection,
    error_message,
    key_header,
)
from accord.settings.sampling import SamplerSettings


class Server:
    """Requests to one server, sent again where the line fails, never where it answered."""

    def __init__(self, settings: SamplerSettings) -> None:
        self.settings = settings
        self.url = str(settings.url).rstrip("/").removesuffix("/v1")
        headers = key_header(
            settings.api_key_env, named_by="sampler.api_key_env", whose="the vLLM server's"
        )
        self.client = connection(self.url, timeout=settings.timeout, headers=headers)

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
        fault, tried, retries = "", 0, self.settings.retries
        for answer in attempts(self.client, method, path, body, retries=retries):
            tried += 1
            if isinstance(answer, Disconnected):
                fault = answer.what
                if answer.late:
                    raise WorkError(
                        f"{self.url}{path} did not answer within {self.settings.timeout:g} s. "
                        f"Raise sampler.timeout, or ask for less at a time: fewer or shorter "
                        f"responses (max_new_tokens; batch_size, where it is a setting)."
                    )
                continue
            if answer.status_code < 400:
                return answer
            fault = f"status {answer.status_code}: {error_message(answer)}"
            if answer.status_code < 500 and answer.status_code not in BUSY:
                raise RefusedError(self.url + path, answer.status_code, error_message(answer))
            if not self.alive():
                raise WorkError(
                    f"The engine of the vLLM server at {self.url} is dead: {path} gave {fault}. "
                    f"Look at the server's log, start it anew, and run the same command again: it "
                    f"goes on where it stopped."
                )
            if not again and answer.status_code == 500:
                raise RefusedError(self.url + path, answer.status_code, error_message(answer))
        raise WorkError(
            f"The vLLM server at {self.url} did not answer {path} in {tried} "
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
