"""Requests to a language model at an OpenAI-compatible endpoint: concurrent, cached, none twice.

Answers are cached on disk under a digest of endpoint, model, request and settings. The request is
the same whether or not the server takes a JSON schema, so the cache is read before anything is
known of the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from accord.compare.judges.cache import AnswerCache, CachedAnswer
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

CACHE_VERSION = 1  # of what a request's digest covers
PATH = "/chat/completions"
NO_KEY = "none"  # servers without keys take any, and some require one
REFUSES_THIS_REQUEST = (400, 413, 422)  # another request may be accepted
REFUSES_SCHEMAS = (400, 404, 422, 501)  # how servers without JSON schemas answer


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The text of a user message, and the JSON schema that the answer should have."""

    text: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server does not answer this request, such as one that is too long for the model."""

    reason: str


@dataclass
class Usage:
    """Calls made since the start, the tokens they took, cached answers, and refused requests."""

    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cached: int = 0
    refused: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def to_json(self) -> dict[str, int]:
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "kept": self.cached,
            "refused": self.refused,
        }


class Endpoint:
    """A model at an endpoint. `complete` sends requests; `usage` counts their cost."""

    def __init__(self, settings: EndpointSettings, model: str) -> None:
        """Raises SettingsError where the key is not set, StorageError where the cache fails."""
        self.settings, self.model, self.url = settings, model, str(settings.base_url)
        headers = {"Authorization": f"Bearer {NO_KEY}"} | authorization_header(
            settings.api_key_env, setting="the judge's api_key_env", key_owner="the endpoint's"
        )
        is_local = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        self.client = make_client(
            self.url, timeout=settings.timeout, headers=headers, use_proxies=not is_local
        )
        self.cache = AnswerCache({"base_url": self.url, "model": model})
        self.usage = Usage()
        self._send_schemas = settings.output != "text"
        self._limit_key = "max_tokens"
        self._lock = threading.Lock()
        self._stop = threading.Event()  # once set, no request is retried

    def complete(self, requests: Sequence[ChatRequest]) -> list[CachedAnswer | Refusal]:
        """The answer to each request. Equal requests are sent once, cached ones not at all.

        Raises WorkError when the server can't be reached or a spending limit is met; the answers
        received until then are cached. Raises SettingsError when the server refuses every request.
        """
        keys = [self._cache_key(request) for request in requests]
        new: dict[str, ChatRequest] = {}
        answers: dict[str, CachedAnswer | Refusal] = {}
        for key, request in zip(keys, requests, strict=True):
            cached = self.cache.get(key)
            if cached is None:
                new[key] = request
            else:
                answers[key] = cached
        self.usage.cached += len(answers)
        with ThreadPoolExecutor(self.settings.max_concurrent) as threads:
            pending = {threads.submit(self._answer, key, r): key for key, r in new.items()}
            try:
                for done in as_completed(pending):
                    answers[pending[done]] = done.result()
            except BaseException:
                self._stop.set()
                threads.shutdown(cancel_futures=True)  # requests under way end and are cached
                self._stop.clear()
                raise
        return [answers[key] for key in keys]

    def _cache_key(self, request: ChatRequest) -> str:
        settings = self.settings
        return digest_json(
            {
                "layout": CACHE_VERSION,
                "base_url": self.url,
                "model": self.model,
                "question": request.text,
                "schema": request.schema,
                "temperature": settings.temperature,
                "answer_tokens": settings.answer_tokens,
                "output": settings.output,
            }
        )

    def _answer(self, key: str, request: ChatRequest) -> CachedAnswer | Refusal:
        try:
            answer = self._negotiate(request)
        except RefusedError as error:
            if error.status not in REFUSES_THIS_REQUEST:
                raise SettingsError(
                    f"{self.url} refuses the judge's requests (status {error.status}: "
                    f"{error.message}). Check base_url, model ({self.model!r}) and api_key_env."
                ) from error
            with self._lock:
                self.usage.refused += 1
            return Refusal(f"status {error.status}: {error.message}")
        if answer.text and not answer.cut:  # a temporary fault must not be cached
            self.cache.put(key, answer)
        return answer

    def _negotiate(self, request: ChatRequest) -> CachedAnswer:
        """An answer in the strictest form that the server takes: with a JSON schema, or without.

        What the server refuses is remembered for later requests.
        """
        schema, limit = self._send_schemas, self._limit_key
        try:
            return self._post(request, schema=schema, limit=limit)
        except RefusedError as error:
            if limit == "max_tokens" and "max_completion_tokens" in error.message:
                self._limit_key = "max_completion_tokens"  # OpenAI's reasoning models
                return self._negotiate(request)
            if not schema or self.settings.output != "auto" or error.status not in REFUSES_SCHEMAS:
                raise
            answer = self._post(request, schema=False, limit=limit)
            if self._send_schemas:
                log.warning(
                    "%s takes no JSON schema (status %d: %s); verdicts are read from text.",
                    self.url,
                    error.status,
                    error.message,
                )
            self._send_schemas = False
            return answer

    def _post(self, request: ChatRequest, *, schema: bool, limit: str) -> CachedAnswer:
        """Send one request, with retries. Raises RefusedError, WorkError and SettingsError."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": request.text}],
            limit: self.settings.answer_tokens,
        }
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        if schema:
            json_schema = {"name": "verdict", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        self._count_call()
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
                return self._parse(result)
            failures.append(result)
        raise WorkError(
            f"The judge at {self.url} did not answer in {len(failures)} attempts: "
            f"{failures[-1].reason}. Is it running, and is base_url right? Its earlier answers are "
            f"cached: run the same command again, with a lower max_concurrent or a longer timeout "
            f"if it is too busy."
        )

    def _count_call(self) -> None:
        """Count a call. Raises WorkError where the spending limits allow no more calls."""
        settings, usage = self.settings, self.usage
        with self._lock:
            calls_left = settings.max_calls is None or usage.calls < settings.max_calls
            max_tokens = settings.max_total_tokens
            if calls_left and (max_tokens is None or usage.tokens < max_tokens):
                usage.calls += 1
                return
        name = "max_total_tokens" if calls_left else "max_calls"
        raise WorkError(
            f"The judge's limit {name}={getattr(settings, name)} is reached, after {usage.calls} "
            f"calls and {usage.tokens:,} tokens. All answers are cached: run the same command "
            f"again to resume with a new limit of that size, or raise the limit."
        )

    def _parse(self, reply: httpx2.Response) -> CachedAnswer:
        """The answer in a chat completion, whose tokens are counted."""
        try:
            completion = reply.json()
            choice = completion["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str | None):
                raise TypeError("content that is no text")
            usage = completion.get("usage") or {}
            tokens = [usage.get(f"{part}_tokens") for part in ("prompt", "completion")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise WorkError(
                f"{self.url}{PATH} answered with no chat completion but "
                f"{reply.text[:QUOTED_CHARACTERS]!r}. base_url must be the address of an "
                f"OpenAI-compatible server, such as http://127.0.0.1:8000/v1."
            ) from error
        prompt_tokens, answer_tokens = (t if isinstance(t, int) else None for t in tokens)
        if self.settings.max_total_tokens is not None and None in (prompt_tokens, answer_tokens):
            raise SettingsError(
                f"{self.url} does not report how many tokens an answer took (`usage`), so "
                f"max_total_tokens can't be enforced. Limit its use by max_calls."
            )
        with self._lock:
            self.usage.prompt_tokens += prompt_tokens or 0
            self.usage.answer_tokens += answer_tokens or 0
        cut = choice.get("finish_reason") == "length"
        # A reasoning model that spent all its tokens on reasoning gives no text.
        return CachedAnswer(text or "", cut, prompt_tokens, answer_tokens)
