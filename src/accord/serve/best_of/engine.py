"""An engine that answers with the best of N of another engine's responses.

Candidates are drawn together and share their prompt. Their text is held back until it is scored;
a stream gets comments meanwhile. What is not worth finishing is pruned, and with sequential
stopping candidates are drawn in waves until the best is good enough.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from accord.records import Prompt
from accord.serve.best_of.choice import BestOfOptions, Choice, read_choice
from accord.serve.best_of.scoring import ScoreQuestion, Scorer, Scores, nothing_opened
from accord.serve.best_of.stopping import rank, survivors
from accord.serve.engine import (
    Accepted,
    Delta,
    Drops,
    Engine,
    EngineRequest,
    Event,
    FinishReason,
    StillWorking,
    TokenLogprob,
    TokenUsage,
)
from accord.serve.errors import ApiError

KEEP_ALIVE_SECONDS = 5.0
SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of two waves
MAX_SEED = 1 << 63


@dataclass
class _Candidate:
    """A response while it comes. `pieces` are the deltas that brought text."""

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    pieces: int = 0
    dropped: bool = False

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens += delta.tokens
        self.pieces += bool(delta.text)
        self.finish_reason = delta.finish_reason or self.finish_reason

    def has_reached(self, pieces: int) -> bool:
        return self.dropped or self.finish_reason is not None or self.pieces >= pieces


@dataclass
class _Drawn:
    """All candidates of a request so far, and what they cost."""

    candidates: list[_Candidate] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimated: bool = False
    pruned: int = 0


class BestOfEngine:
    """Best-of-N on an engine, with its interface (`serve.engine.Engine`).

    `opened` gives what a rendered prompt writes of its answer, such as `<think>`.
    """

    def __init__(
        self,
        engine: Engine,
        scorer: Scorer,
        options: BestOfOptions,
        opened: Callable[[Prompt], str] = nothing_opened,
    ) -> None:
        self.engine, self.scorer, self.options, self.opened = engine, scorer, options, opened
        self.model_names = engine.model_names
        self._counts = {"requests": 0, "candidates": 0, "pruned": 0, "below_floor": 0}

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        choice = read_choice(request, self.options)
        request = replace(request, options={})
        if choice.passes_through:
            async with aclosing(self.engine.stream(request)) as events:
                async for event in events:
                    yield _with_note(event, choice)
            return
        _check_text(request)
        self._counts["requests"] += 1
        drawn, scores = _Drawn(), Scores((), {})
        is_accepted = False
        for number, size in enumerate(self.options.stopping.waves(choice.n, choice.chosen)):
            wave = _wave(request, number, size)
            num_scored, num_pruned = len(drawn.candidates), drawn.pruned
            try:
                async with aclosing(self._draw(wave, choice, drawn)) as events:
                    async for event in events:
                        if not isinstance(event, Accepted):
                            yield event
                        elif not is_accepted:
                            is_accepted = True
                            yield event
            except ApiError as error:
                if error.status != 429 or not number:
                    raise
                # One of several requests of a wave may be refused after others were accepted.
                del drawn.candidates[num_scored:]
                drawn.pruned = num_pruned
                break  # no room for more candidates: the best of those that there are
            remaining = [c for c in drawn.candidates if not c.dropped]
            task = asyncio.ensure_future(self._score(request, remaining))
            async with aclosing(_until_done(task)) as pauses:
                async for pause in pauses:
                    yield pause
            scores = task.result()
            if self.options.stopping.is_done(scores.total, choice.chosen):
                break
        self._counts["candidates"] += len(drawn.candidates)
        self._counts["pruned"] += drawn.pruned
        for event in self._answer(choice, drawn, scores):
            yield event

    @property
    def warning(self) -> str | None:
        """What the curve warns of."""
        return self.options.warning

    def gauges(self) -> Mapping[str, float]:
        """Those of the engine, and counters of best-of-N."""
        counts = {f"best_of_{name}_total": float(count) for name, count in self._counts.items()}
        scored = {
            "best_of_scored_total": float(self.scorer.scored),
            "best_of_scoring_seconds_total": self.scorer.seconds,
        }
        return {**self.engine.gauges(), **counts, **scored}

    async def check_health(self) -> None:
        await self.engine.check_health()

    async def close(self) -> None:
        await self.engine.close()

    async def _draw(
        self, request: EngineRequest, choice: Choice, drawn: _Drawn
    ) -> AsyncGenerator[Event, None]:
        """Draw a wave of candidates, and prune it on the way."""
        size = request.sampling.num_responses
        wave = [_Candidate() for _ in range(size)]
        checkpoints = list(self.options.prune if choice.prune else ())
        drops = Drops()
        loop = asyncio.get_running_loop()
        last = loop.time()
        events = self.engine.stream(replace(request, drops=drops) if checkpoints else request)
        async with aclosing(_with_pauses(events)) as inner:
            async for event in inner:
                if isinstance(event, Accepted | StillWorking):
                    if isinstance(event, Accepted):
                        drawn.candidates += wave
                    last = loop.time()
                    yield event
                elif isinstance(event, TokenUsage):
                    drawn.prompt_tokens = max(drawn.prompt_tokens, event.prompt_tokens)
                    drawn.completion_tokens += event.completion_tokens
                    drawn.is_estimated |= bool((event.accord or {}).get("usage_estimated"))
                elif not wave[event.index].dropped:
                    wave[event.index].add(event)
                if loop.time() - last > KEEP_ALIVE_SECONDS:
                    last = loop.time()
                    yield StillWorking()
                while checkpoints and all(c.has_reached(checkpoints[0].tokens) for c in wave):
                    keep = checkpoints.pop(0).keep
                    task = asyncio.ensure_future(self._prune(request, choice, wave, keep, drops))
                    async with aclosing(_until_done(task)) as pauses:
                        async for pause in pauses:
                            last = loop.time()
                            yield pause
                    drawn.pruned += task.result()

    async def _prune(
        self,
        request: EngineRequest,
        choice: Choice,
        wave: Sequence[_Candidate],
        keep: float,
        drops: Drops,
    ) -> int:
        """Drop the worst of a wave by the scores of what there is of them; how many."""
        live = [i for i, c in enumerate(wave) if not c.dropped]
        if all(wave[i].finish_reason is not None for i in live):
            return 0
        scores = await self._score(request, [wave[i] for i in live])
        going_on = {live[j] for j in survivors(scores.total, keep, len(wave), choice.chosen)}
        dropped = [i for i in live if i not in going_on]
        for i in dropped:
            wave[i].dropped = True
        drops.add([i for i in dropped if wave[i].finish_reason is None])
        return len(dropped)

    async def _score(self, request: EngineRequest, candidates: Sequence[_Candidate]) -> Scores:
        prompt, beginning = cast(Prompt, request.prompt), ""
        opened: Callable[[Prompt], str] = nothing_opened
        if request.continues and isinstance(prompt, tuple):
            beginning, prompt = prompt[-1].content, prompt[:-1]
        elif isinstance(prompt, tuple):
            opened = self.opened
        return await self.scorer.score(
            ScoreQuestion(
                prompt,
                tuple(beginning + c.text for c in candidates),
                tuple(c.finish_reason == "stop" for c in candidates),
                opened,
            )
        )

    def _answer(self, choice: Choice, drawn: _Drawn, scores: Scores) -> list[Event]:
        remaining = [c for c in drawn.candidates if not c.dropped]
        order = rank(scores.total)[: choice.chosen]
        if all(math.isnan(score) for score in scores.total):
            raise ApiError(
                500,
                "The reward applies to none of the candidates, so none of them is the best.",
                code="reward_failed",
            )
        events: list[Event] = []
        below = []
        for index, number in enumerate(order):
            candidate, score = remaining[number], scores.total[number]
            is_below = choice.floor is not None and not score >= choice.floor
            below.append(is_below)
            if is_below:
                events.append(Delta(index, self.options.floor_text, (), "stop"))
            else:
                finish: FinishReason = candidate.finish_reason or "stop"
                events.append(Delta(index, candidate.text, tuple(candidate.tokens), finish))
        self._counts["below_floor"] += sum(below)
        report: dict[str, Any] = {"best_of": len(drawn.candidates)}
        headers = {"X-Accord-Best-Of": str(len(drawn.candidates))}
        if drawn.pruned:
            report["pruned"] = drawn.pruned
        if len(remaining) > len({candidate.text for candidate in remaining}) == 1:
            report["note"] = "All candidates are equal, so there was no choice."
        if drawn.is_estimated:
            report["usage_estimated"] = True
        if choice.scores:
            report |= _report_of(scores, order)
            headers["X-Accord-Score"] = _number(scores.total[order[0]])
        if choice.floor is not None:
            report["none_good_enough"] = below[0]
            headers["X-Accord-None-Good-Enough"] = str(below[0]).lower()
        if self.options.warning is not None:
            report["warning"] = self.options.warning
        usage = TokenUsage(drawn.prompt_tokens, drawn.completion_tokens, report, headers)
        return [*events, usage]


def _report_of(scores: Scores, order: Sequence[int]) -> dict[str, Any]:
    """The scores of the answers in their order, by source too, and those of all candidates."""
    by_source = {
        name: [_json_number(values[i]) for i in order] for name, values in scores.by_source.items()
    }
    return {
        "scores": [_json_number(scores.total[i]) for i in order],
        "sources": by_source,
        "candidate_scores": [_json_number(score) for score in scores.total],
    }


def _json_number(value: float) -> float | None:
    return value + 0.0 if math.isfinite(value) else None  # −0.0 + 0.0 is 0.0


def _number(value: float) -> str:
    return f"{value + 0.0:.6g}"


def _with_note(event: Event, choice: Choice) -> Event:
    """The usage of an answer that is not chosen, though the server would choose."""
    if not isinstance(event, TokenUsage) or not choice.greedy:
        return event
    note = "With temperature 0 all candidates are equal: one was drawn, and none was scored."
    return replace(event, accord={**(event.accord or {}), "best_of": 1, "note": note})


def _check_text(request: EngineRequest) -> None:
    if request.is_ids:
        raise ApiError(
            400,
            "A reward reads text, and this prompt is token ids. Send text, or `accord: "
            "{best_of: 1}`.",
            param="prompt",
        )


def _wave(request: EngineRequest, number: int, size: int) -> EngineRequest:
    """The request of a wave: its own seed, so that it draws other responses."""
    seed = request.seed
    if seed is not None and number:
        seed = (seed + number * SEED_STEP) % MAX_SEED
    return replace(request, seed=seed, sampling=replace(request.sampling, num_responses=size))


async def _until_done(task: asyncio.Future[Any]) -> AsyncGenerator[Event, None]:
    """A `StillWorking` now and then until the task is done, which ends with this generator."""
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=KEEP_ALIVE_SECONDS)
            if not task.done():
                yield StillWorking()
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _with_pauses(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    """The events, and a `StillWorking` where the next one takes long."""
    try:
        while True:
            task = asyncio.ensure_future(anext(events))
            async with aclosing(_until_done(task)) as pauses:
                async for pause in pauses:
                    yield pause
            try:
                event = task.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        await events.aclose()
