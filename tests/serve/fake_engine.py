"""An engine that answers as a test says: words of a script for each response, one a step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

from accord.serve.engine import Accepted, Delta, EngineRequest, Event, FinishReason, TokenUsage
from accord.serve.errors import ApiError

Script = Callable[[EngineRequest], Sequence[str]]


class FakeEngine:
    """Response k is `script(request)[k]`, a word a delta; `asked` are the requests."""

    def __init__(self, script: Script, *, delay: float = 0.0) -> None:
        self.script, self.delay = script, delay
        self.model_names = ("fake",)
        self.warning: str | None = None
        self.asked: list[EngineRequest] = []
        self.words_sent = 0
        self.open = 0
        self.error: ApiError | None = None

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        texts = [text.split(" ") for text in self.script(request)]
        assert len(texts) == request.sampling.num_responses
        ended: set[int] = set()
        if request.drops is not None:
            request.drops.listener = ended.update
        yield Accepted()
        self.open += 1
        sent = 0
        try:
            for step in range(max(map(len, texts))):
                for index, words in enumerate(texts):
                    if step >= len(words) or index in ended:
                        continue
                    await asyncio.sleep(self.delay)
                    is_last = step == len(words) - 1
                    finish: FinishReason | None = "stop" if is_last else None
                    if is_last and words[-1] == "…":
                        words[-1], finish = "", "length"
                    sent += 1
                    self.words_sent += 1
                    yield Delta(index, (" " if step else "") + words[step], (), finish)
            yield TokenUsage(7, sent)
        finally:
            self.open -= 1

    def gauges(self) -> Mapping[str, float]:
        return {"fake": 1.0}

    async def check_health(self) -> None:
        """Always well."""

    async def close(self) -> None:
        """Nothing to free."""
