"""Requests to a language model at an OpenAI-compatible endpoint: concurrent, cached, none twice.

Answers are cached on disk under a digest of endpoint, model, request and settings. The form in
which the server takes a request (`dialect.py`) is no part of that, so the cache is read before
anything is known of the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import httpx2

from accord.compare.judges.cache import AnswerCache, CachedAnswer
from accord.compare.judges.completions import find_completion_fault, read_completion
from accord.compare.judges.dialect import (
    ABOUT_ONE_REQUEST,
    Dialect,
    dialect_warnings,
    first_dialect,
    refusal_advice,
    weaker_dialect,
)
from accord.errors import SettingsError, WorkError
from accord.machine.loopback import is_local
from accord.respond.http import (
    FailedAttempt,
    RefusedError,
    authorization_header,
    make_client,
    request_with_retries,
)
from accord.runs import digest_json
from accord.runs.activity import with_activity
from accord.settings.endpoint import EndpointSettings, TokenPrices

log = logging.getLogger(__name__)

CACHE_VERSION = 1  # of what a request's digest covers
PATH = "/chat/completions"
NO_KEY = "none"  # servers without keys take any, and some require one
REFUSES_THIS_REQUEST = (400, 413, 422)  # another request may be accepted
NOT_IMPLEMENTED = 501  # of a parameter, such as a schema
MAX_BYTES = 2**24  # of an answer with its reasoning

WITHHELD_ADVICE = "Use another judge for such texts, or leave these prompts out."


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The text of a user message, and the JSON schema that the answer should have.

    Requests that differ in `repeat` alone are sent as the same, and answered each.
    """

    text: str
    schema: Mapping[str, Any]
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server does not answer this request, such as one that is too long for the model.

    `advice` is the remedy, in the judge's settings.
    """

    reason: str
    advice: str = ""


@dataclass
class Usage:
    """Calls made since the start, the tokens they took, cached answers, and refused requests.

    `prefix_tokens` are those of `prompt_tokens` that the server took from its cache of prefixes.
    """

    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cached: int = 0
    refused: int = 0
    prefix_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def cost(self, prices: TokenPrices) -> float:
        """What the calls cost at these prices."""
        return prices.cost(self.prompt_tokens, self.prefix_tokens, self.answer_tokens)

    def to_json(self) -> dict[str, int]:
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "prefix_tokens": self.prefix_tokens,
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
        self.client = make_client(
            self.url, timeout=settings.timeout, headers=headers, use_proxies=not is_local(self.url)
        )
        self.cache = AnswerCache({"base_url": self.url, "model": model})
        self.usage = Usage()
        self._dialect = first_dialect(settings)
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
            elif key not in answers:
                answers[key] = self._given(cached)
        self.usage.cached += len(answers)
        failures: list[Exception] = []

        def answer(key: str, request: ChatRequest) -> CachedAnswer | Refusal:
            if self._stop.is_set():
                raise CancelledError
            try:
                return self._answer(key, request)
            except Exception as error:
                failures.append(error)
                self._stop.set()  # no other request begins, whenever this thread's end is seen
                raise

        with ThreadPoolExecutor(self.settings.max_concurrent) as threads:
            pending = {threads.submit(answer, key, r): key for key, r in new.items()}
            try:
                for done in with_activity(as_completed(pending), "asking", len(pending)):
                    answers[pending[done]] = done.result()
            except BaseException as error:
                self._stop.set()
                threads.shutdown(cancel_futures=True)  # requests under way end and are cached
                self._stop.clear()
                if failures and isinstance(error, Exception):
                    raise failures[0] from None  # the others may have ended because of it
                raise
        return [answers[key] for key in keys]

    def cached(self, request: ChatRequest) -> CachedAnswer | None:
        """The cached answer to a request, None where it would be sent."""
        return self.cache.get(self._cache_key(request))

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
                **({"repeat": request.repeat} if request.repeat else {}),
            }
        )

    def _answer(self, key: str, request: ChatRequest) -> CachedAnswer | Refusal:
        try:
            answer = self._negotiate(request)
        except RefusedError as error:
            advice = refusal_advice(error, self.settings, self.model)
            is_one = error.status in REFUSES_THIS_REQUEST and error.kind in ABOUT_ONE_REQUEST
            if not is_one:
                raise SettingsError(
                    f"{self.url} refuses the judge's requests (status {error.status}: "
                    f"{error.message}). {advice}"
                ) from error
            with self._lock:
                self.usage.refused += 1
            return Refusal(f"status {error.status}: {error.message}", advice)
        if answer.text or answer.withheld or answer.answer_tokens:
            self.cache.put(key, answer)  # an empty answer that took no tokens is a fault for once
        self._require_counts(answer)
        return self._given(answer)

    def _given(self, answer: CachedAnswer) -> CachedAnswer | Refusal:
        """An answer, or the Refusal that it is; a refusal is counted."""
        if answer.withheld is None:
            return answer
        with self._lock:
            self.usage.refused += 1
        return Refusal(answer.withheld, WITHHELD_ADVICE)

    def _negotiate(self, request: ChatRequest) -> CachedAnswer:
        """An answer in the strictest form of the request that the server takes.

        A weaker form that it takes is remembered for later requests, with one warning.
        """
        first = dialect = self._dialect
        warnings: list[str] = []
        while True:
            try:
                answer = self._post(request, dialect)
            except RefusedError as error:
                weaker = weaker_dialect(dialect, error, self.settings)
                if weaker is None:
                    raise
                warnings += dialect_warnings(dialect, weaker, error)
                dialect = weaker
                continue
            if dialect != first:
                self._remember(first, dialect, warnings)
            return answer

    def _remember(self, first: Dialect, accepted: Dialect, warnings: Sequence[str]) -> None:
        """Use a form for later requests; the warnings are logged by the first thread to see it."""
        with self._lock:
            if self._dialect != first:
                return
            self._dialect = accepted
        for warning in warnings:
            log.warning("%s %s", self.url, warning)

    def _post(self, request: ChatRequest, dialect: Dialect) -> CachedAnswer:
        """Send one request, with retries. Raises RefusedError, WorkError and SettingsError."""
        body = dialect.body(self.settings, self.model, request.text, request.schema)
        self._count_call()
        failures: list[FailedAttempt] = []
        for result in request_with_retries(
            self.client,
            "POST",
            self.url + PATH,
            body,
            retries=self.settings.retries,
            refusals=(NOT_IMPLEMENTED,),
            stop=self._stop,
            find_fault=find_completion_fault,
            max_bytes=MAX_BYTES,
        ):
            if isinstance(result, httpx2.Response):
                return self._count_tokens(read_completion(result))
            failures.append(result)
        raise WorkError(
            f"The judge at {self.url} did not answer in {len(failures)} attempts: "
            f"{failures[-1].reason}. {_failure_advice(failures[-1])} Its earlier answers are "
            f"cached: run the same command again."
        )

    def _count_call(self) -> None:
        """Count a call. Raises WorkError where the spending limits allow no more calls."""
        settings, usage = self.settings, self.usage
        prices = settings.price_per_million
        with self._lock:
            cost = 0.0 if prices is None else usage.cost(prices)
            spent = {"max_calls": usage.calls, "max_total_tokens": usage.tokens, "max_cost": cost}
            reached = [name for name, value in spent.items() if _is_reached(settings, name, value)]
            if not reached:
                usage.calls += 1
                return
        and_cost = "" if prices is None else f", which cost {cost:,.4g}"
        limit = f"{reached[0]}={getattr(settings, reached[0])}"
        raise WorkError(
            f"The judge's limit {limit} is reached, after {usage.calls} calls and "
            f"{usage.tokens:,} tokens{and_cost}. All answers are cached: run the same command "
            f"again to resume with a new limit of that size, or raise the limit."
        )

    def _count_tokens(self, answer: CachedAnswer) -> CachedAnswer:
        with self._lock:
            self.usage.prompt_tokens += answer.prompt_tokens or 0
            self.usage.answer_tokens += answer.answer_tokens or 0
            self.usage.prefix_tokens += answer.prefix_tokens
        return answer

    def _require_counts(self, answer: CachedAnswer) -> None:
        """Raise SettingsError where tokens are limited and the server does not report them."""
        limits = ("max_total_tokens", "max_cost")
        limit = next((name for name in limits if getattr(self.settings, name) is not None), None)
        if limit is not None and None in (answer.prompt_tokens, answer.answer_tokens):
            raise SettingsError(
                f"{self.url} does not report how many tokens an answer took (`usage`), so "
                f"{limit} can't be enforced. Limit its use by max_calls."
            )


def _is_reached(settings: EndpointSettings, name: str, value: float) -> bool:
    limit = getattr(settings, name)
    return limit is not None and value >= limit


def _failure_advice(failure: FailedAttempt) -> str:
    """The remedy for a request that failed at each attempt, by its last one."""
    if failure.status == 429:
        return "It is too busy, or limits your rate: lower max_concurrent, or raise retries."
    if failure.timed_out:
        return "Raise timeout, or lower max_concurrent or answer_tokens."
    if failure.status is None and not failure.message:
        return "Is it running, and is base_url right?"
    if failure.status is not None and failure.status < 300:
        return (
            "If it never answers otherwise, base_url is not the address of an OpenAI-compatible "
            "server, such as http://127.0.0.1:8000/v1."
        )
    return "The server, or one behind it, fails; look at its log or its status page."
