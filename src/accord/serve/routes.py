"""The endpoints: what they read, ask of the engine, and answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from accord.serve.answers import make_form
from accord.serve.engine import Accepted, Delta, Engine, Event, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.exchange import Exchange, sse_event
from accord.serve.merging import MergedStreams
from accord.serve.metrics import Metrics
from accord.serve.parameters import Api, ApiRequest, read_request

KEEP_ALIVE = b": still working\n\n"


@dataclass
class Routes:
    """The endpoints on one engine. Bodies of more than `max_body_bytes` are refused."""

    engine: Engine
    metrics: Metrics
    max_body_bytes: int
    started: int = field(default_factory=lambda: int(time.time()))

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions"""
        await self._answer("chat", exchange)

    async def complete(self, exchange: Exchange) -> None:
        """POST /v1/completions"""
        await self._answer("completions", exchange)

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models"""
        data = [self._model(name) for name in self.engine.model_names]
        await exchange.send_json(200, {"object": "list", "data": data})

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/NAME"""
        name = exchange.scope["path_params"]["name"]
        self._check_model(name)
        await exchange.send_json(200, self._model(name))

    async def health(self, exchange: Exchange) -> None:
        """GET /health"""
        await self.engine.check_health()
        await exchange.send_json(200, {"status": "ok"})

    async def show_metrics(self, exchange: Exchange) -> None:
        """GET /metrics"""
        text = self.metrics.render(self.engine.gauges())
        await exchange.send_text(200, text, "text/plain; version=0.0.4; charset=utf-8")

    async def _answer(self, api: Api, exchange: Exchange) -> None:
        request = read_request(api, await exchange.read_json(self.max_body_bytes))
        self._check_model(request.model)
        send = self._stream if request.stream else self._send_whole
        await exchange.while_connected(send(exchange, request))

    async def _send_whole(self, exchange: Exchange, request: ApiRequest) -> None:
        form = make_form(request)
        choices: list[list[Delta]] = [
            [] for _ in range(len(request.requests) * request.num_responses)
        ]
        usage = TokenUsage(0, 0)
        start = time.perf_counter()
        async with aclosing(stream_all(self.engine, request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    if not any(choices):
                        self.metrics.observe("first_token_seconds", time.perf_counter() - start)
                    choices[event.index].append(event)
                elif isinstance(event, TokenUsage):
                    usage = event
        self.metrics.observe("request_seconds", time.perf_counter() - start)
        await exchange.send_json(200, form.whole(choices, usage), usage.headers)

    async def _stream(self, exchange: Exchange, request: ApiRequest) -> None:
        form = make_form(request)
        is_first = True
        start = time.perf_counter()
        async with aclosing(stream_all(self.engine, request)) as events:
            async for event in events:
                if isinstance(event, Accepted):
                    await exchange.start(200, STREAM_HEADERS)
                    await exchange.send_part(b"".join(map(sse_event, form.begin())))
                elif isinstance(event, Delta):
                    if is_first:
                        self.metrics.observe("first_token_seconds", time.perf_counter() - start)
                        is_first = False
                    await exchange.send_part(sse_event(form.chunk(event)))
                elif isinstance(event, TokenUsage):
                    if request.include_usage or event.accord is not None:
                        await exchange.send_part(sse_event(form.usage_chunk(event)))
                else:
                    await exchange.send_part(KEEP_ALIVE)
        self.metrics.observe("request_seconds", time.perf_counter() - start)
        await exchange.send_part(b"data: [DONE]\n\n", is_last=True)

    def _check_model(self, name: str) -> None:
        if name not in self.engine.model_names:
            raise ApiError(
                404,
                f"The model {name!r} is not served here; it is {self.engine.model_names[0]!r}.",
                param="model",
                code="model_not_found",
            )

    def _model(self, name: str) -> dict[str, object]:
        shown = {"id": name, "object": "model", "created": self.started, "owned_by": "accord"}
        warning = self.engine.warning
        return shown if warning is None else {**shown, "accord": {"warning": warning}}


STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}


async def stream_all(engine: Engine, request: ApiRequest) -> AsyncGenerator[Event, None]:
    """The events of all prompts of a request as those of one: choices are numbered prompt by
    prompt, and the usage is the sum."""
    if len(request.requests) == 1:
        async with aclosing(engine.stream(request.requests[0])) as events:
            async for event in events:
                yield event
        return
    merged = MergedStreams({i: engine.stream(one) for i, one in enumerate(request.requests)})
    usages: dict[int, TokenUsage] = {}
    async with aclosing(merged.events()) as numbered:
        async for number, event in numbered:
            if isinstance(event, TokenUsage):
                usages[number] = event
            elif isinstance(event, Delta):
                yield replace(event, index=number * request.num_responses + event.index)
            else:
                yield event
    yield _sum_usages([usages[i] for i in range(len(request.requests))])


def _sum_usages(usages: list[TokenUsage]) -> TokenUsage:
    accord = [usage.accord for usage in usages if usage.accord is not None]
    return TokenUsage(
        sum(usage.prompt_tokens for usage in usages),
        sum(usage.completion_tokens for usage in usages),
        {"prompts": accord} if accord else None,
    )
