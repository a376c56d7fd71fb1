"""Questions to a language model at an OpenAI-compatible endpoint: many at a time, none twice.

Answers are kept on disk under a digest of endpoint, model, question and settings. The question is
the same whether the server takes a JSON schema or not, so what was kept is found again before
anything is known of the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from accord.compare.judges.answers import AnswerCache, CachedAnswer
from accord.errors import SettingsError, WorkError
from accord.respond.http import (
    QUOTED_CHARACTERS,
    FailedAttempt,
    RefusedError,
    authorization_header,
    make_client,
    request_with_retries,
)
from accord.runs import digest_json
from accord.settings.endpoint import EndpointSettings

log = logging.getLogger(__name__)

LAYOUT = 1  # of what is kept
PATH = "/chat/completions"
NO_KEY = "none"  # servers without keys take any, and some want one
NOT_THIS_QUESTION = (400, 413, 422)  # refusals that another question may not meet
NO_SCHEMA = (400, 404, 422, 501)  # how servers without schemas refuse them


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, and the JSON schema that its answer should have."""

    text: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """The server does not answer this question, such as one that is too long for the model."""

    why: str


@dataclass
class Tally:
    """Calls made since the start, the tokens they took, and answers that were kept from before."""

    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    kept: int = 0
    refused: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


class Endpoint:
    """A model at an endpoint. `ask` puts questions to it; `tally` counts what that took."""

    def __init__(self, settings: EndpointSettings, model: str) -> None:
        """Raises SettingsError where the key is not set, StorageError where the cache fails."""
        self.settings, self.model, self.url = settings, model, str(settings.base_url)
        headers = {"Authorization": f"Bearer {NO_KEY}"} | authorization_header(
            settings.api_key_env, setting="the judge's api_key_env", key_owner="the endpoint's"
        )
        here = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        self.client = make_client(
            self.url, timeout=settings.timeout, headers=headers, use_proxies=not here
        )
        self.answers = AnswerCache({"base_url": self.url, "model": model})
        self.tally = Tally()
        self._schemas = settings.output != "text"
        self._limit_key = "max_tokens"
        self._lock = threading.Lock()
        self._stop = threading.Event()  # set, no request is sent again

    def ask(self, questions: Sequence[Ask]) -> list[CachedAnswer | Refused]:
        """The answer to each. Equal questions are put once, and kept ones not at all.

        Raises WorkError when the server can't be reached or a limit on spending is met: what was
        answered until then is kept. Raises SettingsError when it refuses whatever it is asked.
        """
        keys = [self._key(question) for question in questions]
        new: dict[str, Ask] = {}
        found: dict[str, CachedAnswer | Refused] = {}
        for key, question in zip(keys, questions, strict=True):
            kept = self.answers.get(key)
            if kept is None:
                new[key] = question
            else:
                found[key] = kept
        self.tally.kept += len(found)
        with ThreadPoolExecutor(self.settings.max_concurrent) as threads:
            under_way = {threads.submit(self._answer, key, q): key for key, q in new.items()}
            try:
                for done in as_completed(under_way):
                    found[under_way[done]] = done.result()
            except BaseException:
                self._stop.set()
                threads.shutdown(cancel_futures=True)  # what comes back of those sent is kept
                self._stop.clear()
                raise
        return [found[key] for key in keys]

    def usage(self) -> dict[str, int]:
        """The tally, for a file."""
        return asdict(self.tally)

    def _key(self, question: Ask) -> str:
        settings = self.settings
        return digest_json(
            {
                "layout": LAYOUT,
                "base_url": self.url,
                "model": self.model,
                "question": question.text,
                "schema": question.schema,
                "temperature": settings.temperature,
                "answer_tokens": settings.answer_tokens,
                "output": settings.output,
            }
        )

    def _answer(self, key: str, question: Ask) -> CachedAnswer | Refused:
        try:
            answer = self._asked(question)
        except RefusedError as refused:
            if refused.status not in NOT_THIS_QUESTION:
                raise SettingsError(
                    f"{self.url} refuses the judge's questions (status {refused.status}: "
                    f"{refused.message}). Check base_url, model ({self.model!r}) and api_key_env."
                ) from refused
            with self._lock:
                self.tally.refused += 1
            return Refused(f"status {refused.status}: {refused.message}")
        if answer.text and not answer.cut:  # else a fault of the moment would be one for good
            self.answers.keep(key, answer)
        return answer

    def _asked(self, question: Ask) -> CachedAnswer:
        """An answer to the request in the forms that the server may take, the strictest first."""
        schema, limit = self._schemas, self._limit_key
        try:
            return self._sent(question, schema=schema, limit=limit)
        except RefusedError as refused:
            if limit == "max_tokens" and "max_completion_tokens" in refused.message:
                self._limit_key = "max_completion_tokens"  # OpenAI's reasoning models
                return self._asked(question)
            if not schema or self.settings.output != "auto" or refused.status not in NO_SCHEMA:
                raise
            answer = self._sent(question, schema=False, limit=limit)
            if self._schemas:
                log.warning(
                    "%s takes no JSON schema (status %d: %s); verdicts are read from text.",
                    self.url,
                    refused.status,
                    refused.message,
                )
            self._schemas = False
            return answer

    def _sent(self, question: Ask, *, schema: bool, limit: str) -> CachedAnswer:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.text}],
            limit: self.settings.answer_tokens,
        }
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        if schema:
            named = {"name": "verdict", "strict": True, "schema": question.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        self._spend()
        failures: list[FailedAttempt] = []
        for result in request_with_retries(
            self.client,
            "POST",
            self.url + PATH,
            body,
            retries=self.settings.retries,
            refusals=(501,) if schema else (),
            stop=self._stop,
        ):
            if isinstance(result, httpx2.Response):
                return self._read(result)
            failures.append(result)
        raise WorkError(
            f"The judge at {self.url} did not answer in {len(failures)} attempts: "
            f"{failures[-1].reason}. Is it running, and is base_url right? What it answered before "
            f"is kept: run the same command again, with a lower max_concurrent or a longer timeout "
            f"if it is too busy."
        )

    def _spend(self) -> None:
        """Count a call, where the limits allow one more. Raises WorkError where they do not."""
        settings, tally = self.settings, self.tally
        with self._lock:
            calls_left = settings.max_calls is None or tally.calls < settings.max_calls
            most = settings.max_total_tokens
            if calls_left and (most is None or tally.tokens < most):
                tally.calls += 1
                return
        name = "max_total_tokens" if calls_left else "max_calls"
        raise WorkError(
            f"The judge's limit {name}={getattr(settings, name)} is reached, after {tally.calls} "
            f"calls and {tally.tokens:,} tokens. All answers are kept: run the same command again "
            f"to go on with as many more, or raise the limit."
        )

    def _read(self, answer: httpx2.Response) -> CachedAnswer:
        try:
            found = answer.json()
            choice = found["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError("content that is no text")
            usage = found.get("usage") or {}
            tokens = [usage.get(f"{part}_tokens") for part in ("prompt", "completion")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise WorkError(
                f"{self.url}{PATH} answered with no chat completion but "
                f"{answer.text[:QUOTED_CHARACTERS]!r}. base_url must be the address of an "
                f"OpenAI-compatible server, such as http://127.0.0.1:8000/v1."
            ) from error
        read, written = (t if isinstance(t, int) else None for t in tokens)
        if self.settings.max_total_tokens is not None and None in (read, written):
            raise SettingsError(
                f"{self.url} does not tell how many tokens an answer took (`usage`), so "
                f"max_total_tokens can't be kept. Limit its use by max_calls."
            )
        with self._lock:
            self.tally.prompt_tokens += read or 0
            self.tally.answer_tokens += written or 0
        cut = choice.get("finish_reason") == "length"
        return CachedAnswer(text or "", cut, read, written)  # no text where all was reasoning
