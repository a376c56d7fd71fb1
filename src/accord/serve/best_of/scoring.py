"""Scores of candidates beside the event loop; requests that wait together are scored together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from accord.compare.rewards.reward import CombinedReward
from accord.errors import AccordError
from accord.lm.tokens.render import without_memory_limit
from accord.records import Prompt
from accord.serve.errors import ApiError
from accord.serve.threads import await_thread_of_its_own


def nothing_opened(prompt: Prompt) -> str:
    """Of a prompt that writes nothing of its answer."""
    return ""


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """Answers to one prompt; `opened` gives what the rendered prompt wrote of them already."""

    prompt: Prompt
    texts: tuple[str, ...]
    finished: tuple[bool, ...]
    opened: Callable[[Prompt], str] = nothing_opened


@dataclass(frozen=True, slots=True)
class Scores:
    """The score of each answer, NaN where no source applies, and each source's scores."""

    total: tuple[float, ...]
    by_source: Mapping[str, tuple[float, ...]]


class Scorer:
    """Scores by a reward, in threads of their own.

    A reward with models on this machine is computed one batch at a time, of all candidates that
    wait. One that asks elsewhere (a judge) is asked for each request at once.
    """

    def __init__(self, reward: CombinedReward) -> None:
        self.reward = reward
        self.seconds = 0.0
        self.scored = 0
        self._waiting: list[tuple[ScoreQuestion, asyncio.Future[Scores]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def score(self, candidates: ScoreQuestion) -> Scores:
        """Raises ApiError (500) where the reward fails."""
        if not self.reward.models:
            return await self._in_thread([candidates])
        future: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append((candidates, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                batch = [(c, f) for c, f in batch if not f.done()]  # others hung up
                try:
                    results = await self._all_in_thread([c for c, _ in batch])
                except ApiError as error:
                    if len(batch) == 1:
                        _resolve(batch[0][1], error)
                    for candidates, future in batch if len(batch) > 1 else []:
                        try:  # one request's fault is not that of the others
                            _resolve(future, await self._in_thread([candidates]))
                        except ApiError as own_error:
                            _resolve(future, own_error)
                    continue
                for (_, future), scores in zip(batch, results, strict=True):
                    _resolve(future, scores)
        finally:
            self._worker = None

    async def _in_thread(self, batch: Sequence[ScoreQuestion]) -> Scores:
        return (await self._all_in_thread(batch))[0]

    async def _all_in_thread(self, batch: Sequence[ScoreQuestion]) -> list[Scores]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            return await await_thread_of_its_own(partial(self._compute, batch))
        except AccordError as error:
            message = f"The reward gave no scores: {error}"
            raise ApiError(500, message, code="reward_failed") from error
        except Exception as error:  # of a user's function, or memory
            message = f"The reward failed: {type(error).__name__}."
            raise ApiError(500, message, code="reward_failed") from error
        finally:
            self.seconds += loop.time() - start
            self.scored += sum(len(c.texts) for c in batch)

    def _compute(self, batch: Sequence[ScoreQuestion]) -> list[Scores]:
        with without_memory_limit():  # an engine computes beside this
            opened = [c.opened(c.prompt) for c in batch]
            given = self.reward.scores(
                [c.prompt for c in batch for _ in c.texts],
                [text for c in batch for text in c.texts],
                [finished for c in batch for finished in c.finished],
                opened=[o for o, c in zip(opened, batch, strict=True) for _ in c.texts],
            )
        results, start = [], 0
        for candidates in batch:
            stop = start + len(candidates.texts)
            by_source = {name: tuple(v[start:stop]) for name, v in given.by_source.items()}
            results.append(Scores(tuple(given.total[start:stop]), by_source))
            start = stop
        return results


def _resolve(future: asyncio.Future[Scores], result: Scores | ApiError) -> None:
    if future.done():
        return
    if isinstance(result, ApiError):
        future.set_exception(result)
    else:
        future.set_result(result)
