"""An engine that asks another OpenAI-compatible server, such as vLLM: `accord serve --upstream`.

What it samples, how fast, and how many at a time is that server's; this one passes streams and
errors on. A server that refuses or ignores `n` is sent as many requests instead, at the same time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from accord.machine.loopback import is_local
from accord.serve.engine import Accepted, Delta, EngineRequest, Event, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.merging import MergedStreams
from accord.serve.upstream.server import is_about_n, refusal
from accord.serve.upstream.stops import StopCut
from accord.serve.upstream.wire import Tokens, body_of, read_chunk, read_events

CONNECT_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass
class _Counts:
    requests: int = 0
    failures: int = 0
    running: int = 0


class UpstreamEngine:
    """The model `model` at `url` (with `/v1`), with the interface of `serve.engine.Engine`.

    `timeout` is in seconds until the next part of an answer. Of `n` it learns from the first
    answers whether the server honours it (`honours_n`; None: not known yet).
    """

    def __init__(
        self, url: str, model: str, *, key: str | None = None, timeout: float = 300.0
    ) -> None:
        self.url, self.model = url.rstrip("/"), model
        self.model_names: tuple[str, ...] = (model,)
        self.warning: str | None = None
        self.honours_n: bool | None = None
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not is_local(self.url),
        )
        self._counts = _Counts()

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        if request.options:
            key = next(iter(request.options))
            raise ApiError(400, f"This server knows no `accord.{key}`.", param=f"accord.{key}")
        n = request.sampling.num_responses
        self._counts.requests += 1
        try:
            if n > 1 and self.honours_n is not False and request.drops is None:
                async with aclosing(self._stream_native(request, n)) as events:
                    async for event in events:
                        yield event
            else:
                async with aclosing(self._stream_separate(request, range(n))) as events:
                    async for event in events:
                        yield event
        except ApiError:
            self._counts.failures += 1
            raise

    def gauges(self) -> Mapping[str, float]:
        """What runs there now, and counters."""
        return {
            "upstream_running": float(self._counts.running),
            "upstream_requests_total": float(self._counts.requests),
            "upstream_failures_total": float(self._counts.failures),
        }

    async def check_health(self) -> None:
        """Raise ApiError (503) where the server does not answer."""
        try:
            response = await self._client.get(self.url + "/models")
        except httpx2.HTTPError as error:
            raise ApiError(
                503, f"The upstream server does not answer ({type(error).__name__})."
            ) from None
        if response.status_code >= 400:
            raise ApiError(
                503, f"The upstream server answers /models with status {response.status_code}."
            )

    async def close(self) -> None:
        await self._client.aclose()

    async def _stream_native(self, request: EngineRequest, n: int) -> AsyncGenerator[Event, None]:
        """Ask for `n` responses in one request, and for those that it does not give apart."""
        seen: set[int] = set()
        usage = TokenUsage(0, 0)
        is_accepted = False
        try:
            async with aclosing(self._stream_one(request, n, request.seed)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        seen.add(event.index)
                    if isinstance(event, TokenUsage):
                        usage = event
                    else:
                        is_accepted = is_accepted or isinstance(event, Accepted)
                        yield event
        except ApiError as error:
            if is_accepted or not is_about_n(error) or self.honours_n:
                raise
            self._learn(False, f"refuses `n` ({error})")
        else:
            if seen == set(range(n)):
                self._learn(True, "honours `n`")
                yield usage
                return
            self._learn(False, f"gives {len(seen)} of {n} responses: it ignores `n`")
        missing = [index for index in range(n) if index not in seen]
        async with aclosing(self._stream_separate(request, missing)) as events:
            async for event in events:
                if isinstance(event, TokenUsage):
                    yield _joined(usage, event)
                elif not (isinstance(event, Accepted) and is_accepted):
                    yield event

    async def _stream_separate(
        self, request: EngineRequest, indices: range | list[int]
    ) -> AsyncGenerator[Event, None]:
        """One request for each response, all at the same time."""
        if len(indices) == 1 and request.drops is None:
            seed = _seed_of(request.seed, indices[0])
            async with aclosing(self._stream_one(request, 1, seed)) as events:
                async for event in events:
                    yield replace(event, index=indices[0]) if isinstance(event, Delta) else event
            return
        merged = MergedStreams(
            {i: self._stream_one(request, 1, _seed_of(request.seed, i)) for i in indices}
        )
        if request.drops is not None:
            request.drops.listener = merged.drop
        usages: dict[int, TokenUsage] = {}
        pieces = dict.fromkeys(indices, 0)
        async with aclosing(merged.events()) as numbered:
            async for index, event in numbered:
                if isinstance(event, TokenUsage):
                    usages[index] = event
                elif isinstance(event, Delta):
                    pieces[index] += 1
                    yield replace(event, index=index)
                else:
                    yield event
        # Of what was cut off no usage came: a piece is a token on most servers.
        cut = sum(count for index, count in pieces.items() if index not in usages)
        estimate = TokenUsage(0, cut, {"usage_estimated": True} if cut else None)
        yield _joined(estimate, *usages.values())

    async def _stream_one(
        self, request: EngineRequest, n: int, seed: int | None
    ) -> AsyncGenerator[Event, None]:
        """One request to the server. Raises ApiError."""
        body = body_of(request, self.model, n, seed)
        path = "/chat/completions" if request.is_chat else "/completions"
        tokens: Tokens | None = None
        pieces, begun, finished = 0, set[int](), set[int]()
        ended = set[int]()
        has_logprobs = goes_on = False
        cuts = [StopCut(request.sampling.stop) for _ in range(n)]
        async with self._opened(path, body) as response:
            yield Accepted()
            async with aclosing(read_events(response.aiter_bytes())) as events:
                async for event in events:
                    deltas, usage = read_chunk(event)
                    tokens = usage or tokens
                    for delta in deltas:
                        if not 0 <= delta.index < n:
                            raise ApiError(
                                502,
                                f"The upstream server answers response {delta.index}, and {n} "
                                "were asked for.",
                                code="bad_upstream",
                            )
                        pieces += bool(delta.text)
                        has_logprobs = has_logprobs or bool(delta.tokens)
                        if delta.finish_reason:
                            finished.add(delta.index)
                        goes_on |= cuts[delta.index].has_ended and bool(delta.text)
                        if delta.text or delta.tokens or delta.finish_reason:
                            begun.add(delta.index)
                            shown = cuts[delta.index].cut(delta)
                            if shown and (shown.text or shown.tokens or shown.finish_reason):
                                yield shown
                    ended = finished | {k for k, cut in enumerate(cuts) if cut.has_ended}
                    if goes_on and len(ended) == n:
                        break  # the server ignores `stop`: the rest may be long
        if not ended or not begun <= ended:
            raise ApiError(
                502, "The upstream server's answer ended before its end.", code="bad_upstream"
            )
        if request.top_logprobs is not None and pieces and not has_logprobs:
            raise ApiError(
                400,
                "The upstream server gives no log-probs. Leave `logprobs` out.",
                param="logprobs",
                code="unsupported_parameter",
            )
        if tokens is None:
            yield TokenUsage(0, pieces, {"usage_estimated": True})
        else:
            yield TokenUsage(tokens.prompt, tokens.completion)

    @asynccontextmanager
    async def _opened(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[httpx2.Response, None]:
        """The response to a request with status 200, while it comes. Raises ApiError."""
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(
                    self._client.stream("POST", self.url + path, json=body)
                )
                if response.status_code != 200:
                    raise await refusal(response)
                self._counts.running += 1
                stack.callback(self._ended)
                yield response
            except httpx2.TimeoutException as error:
                raise ApiError(
                    504, f"The upstream server did not answer in time ({type(error).__name__})."
                ) from None
            except httpx2.HTTPError as error:
                raise ApiError(
                    502,
                    f"The connection to the upstream server failed ({type(error).__name__}: "
                    f"{error}).",
                ) from None

    def _ended(self) -> None:
        self._counts.running -= 1

    def _learn(self, honours_n: bool, what: str) -> None:
        if self.honours_n is None:
            log.info("The upstream server %s.", what)
        self.honours_n = honours_n


def _seed_of(seed: int | None, index: int) -> int | None:
    """The seed of one response, so that they differ; the first one's is the request's."""
    return seed if seed is None or not index else (seed + index * 0x9E3779B1) % (1 << 63)


def _joined(*usages: TokenUsage) -> TokenUsage:
    """The usage of several requests for one prompt, whose tokens count once."""
    prompt = max(usage.prompt_tokens for usage in usages)
    estimated = any(usage.accord for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return TokenUsage(prompt, completion, {"usage_estimated": True} if estimated else None)
