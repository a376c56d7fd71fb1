"""The engine of `accord serve` on a loaded model: continuous batching in a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from accord.errors import AccordError, DataError, ModelError
from accord.lm.attention.prefixes import PrefixPool
from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.render import UnusableRow, without_memory_limit
from accord.lm.tokens.token_bytes import token_bytes
from accord.respond.local.continuous import ContinuousBatch, LocalRequest, Output, TokenChoice
from accord.respond.local.decode_batch import DecodeBatch
from accord.respond.local.memory import prefix_pool
from accord.respond.local.separate_batch import SeparateBatch
from accord.serve.engine import Accepted, Delta, EngineRequest, Event, TokenLogprob, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.prompts import encode_request, response_room

log = logging.getLogger(__name__)

MAX_SEED = 1 << 63
MAX_RETRY_AFTER = 600  # seconds


@dataclass
class _Running:
    """A request in work: its outputs on the way to the loop that waits for them."""

    rows: int
    outputs: asyncio.Queue[list[Output] | ApiError] = field(default_factory=asyncio.Queue)


class LocalEngine:
    """An `Engine` on a loaded model. At most `max_rows` responses are generated at a time, and
    at most `max_waiting` more wait. With `caches_prefixes` (on a CPU) a prompt's beginning that was
    read before is not read again. All methods belong to one event loop."""

    def __init__(
        self,
        lm: LanguageModel,
        model_names: Sequence[str],
        *,
        max_rows: int = 64,
        max_waiting: int = 256,
        max_length: int | None = None,
        caches_prefixes: bool = True,
    ) -> None:
        self.lm, self.model_names = lm, tuple(model_names)
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.caches_prefixes = caches_prefixes
        limits = [n for n in (lm.max_length, max_length) if n is not None]
        self.max_length = min(limits, default=None)
        self.warning: str | None = None
        # This renders the template within all limits, before requests do.
        self._control = control_tokens(lm.tokenizer).ids
        self._keys = itertools.count()
        self._running: dict[int, _Running] = {}
        self._commands: queue.SimpleQueue[Callable[[ContinuousBatch], None] | None] = (
            queue.SimpleQueue()
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batch: ContinuousBatch | None = None
        self._pool: PrefixPool | None = None
        self._counts: Counter[str] = Counter()
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="accord-engine", daemon=True)
        self._thread.start()

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        """The events of a request (`Engine.stream`)."""
        for option in request.options:
            raise ApiError(400, f"This server has no `accord.{option}`.", param=f"accord.{option}")
        await self.check_health()
        self._loop = asyncio.get_running_loop()
        self._check_room(request.sampling.num_responses, request.num_prompts)
        prompt = await asyncio.to_thread(self._encode, request)
        await self.check_health()  # meanwhile all that waited may have failed
        self._check_room(request.sampling.num_responses)
        key = next(self._keys)
        local = self._local_request(key, request, prompt)
        running = self._running[key] = _Running(request.sampling.num_responses)
        self._commands.put(lambda batch: batch.submit(local))
        tokens, unfinished = 0, set(range(local.settings.num_responses))
        if request.drops is not None:
            request.drops.listener = partial(self._drop, key, unfinished)
        try:
            yield Accepted()
            while unfinished:
                outputs = await running.outputs.get()
                if isinstance(outputs, ApiError):
                    raise outputs
                for output in outputs:
                    tokens += output.num_tokens
                    if output.index not in unfinished:
                        continue  # it was dropped
                    if output.finish is not None:
                        unfinished.remove(output.index)
                        self._counts["ended_responses"] += 1
                    if output.text or output.tokens or output.finish:
                        yield self._delta(output)
            yield TokenUsage(len(prompt), tokens)
        finally:
            del self._running[key]
            if unfinished:
                self._counts["cancelled_requests"] += 1
                self._commands.put(lambda batch: batch.cancel(key))
            self._counts["prompt_tokens"] += len(prompt)
            self._counts["generated_tokens"] += tokens

    def gauges(self) -> Mapping[str, float]:
        """What runs and waits now, and counters."""
        batch = self._batch
        rows = 0 if batch is None else len(batch.rows)
        requested = sum(running.rows for running in self._running.values())
        return {
            "rows_running": rows,
            "rows_waiting": max(0, requested - rows),
            "rows_max": self.max_rows,
            **{f"{name}_total": self._counts[name] for name in _COUNTERS},
            "prompt_tokens_reused_total": 0 if self._pool is None else self._pool.tokens_reused,
        }

    async def check_health(self) -> None:
        """Raise ApiError (503) where the engine's thread has ended."""
        if self._has_ended:
            raise _ended()

    async def close(self) -> None:
        """End all work, and the thread."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    def _drop(self, key: int, unfinished: set[int], indices: list[int]) -> None:
        """End single responses of a request, and wake the one that waits for them."""
        running = self._running.get(key)
        if running is None:
            return
        unfinished.difference_update(indices)
        running.rows -= len(indices)
        running.outputs.put_nowait([])
        self._commands.put(lambda batch: batch.drop(key, indices))

    def _check_room(self, rows: int, num_prompts: int = 1) -> None:
        if rows > self.max_rows:
            raise ApiError(
                400,
                f"n={rows} responses are more than the {self.max_rows} that this server generates "
                "at a time.",
                param="n",
            )
        if num_prompts > 1 and num_prompts * rows > self.max_rows + self.max_waiting:
            raise ApiError(
                400,
                f"{rows} responses to each of {num_prompts} prompts are more than the "
                f"{self.max_rows + self.max_waiting} that this server takes at most. Send fewer "
                "prompts in a request.",
                param="prompt",
            )
        requested = sum(running.rows for running in self._running.values())
        if requested and requested + rows > self.max_rows + self.max_waiting:
            raise ApiError(
                429,
                f"{requested} responses are being generated or wait already, and this server takes "
                f"{self.max_rows + self.max_waiting} at most. Send the request again later.",
                code="rate_limit_exceeded",
                retry_after=self._seconds_until(
                    requested + rows - self.max_rows - self.max_waiting
                ),
            )

    def _seconds_until(self, responses: int) -> int:
        """In how many seconds so many responses should have ended, at the rate so far."""
        ended = self._counts["ended_responses"]
        if not ended:
            return 1
        seconds = responses * self._counts["busy_seconds"] / ended
        return min(MAX_RETRY_AFTER, max(1, math.ceil(seconds)))

    def _encode(self, request: EngineRequest) -> tuple[int, ...]:
        try:
            with without_memory_limit():
                return encode_request(request, self.lm)
        except (UnusableRow, DataError, ModelError) as error:
            what = "messages" if request.is_chat else "prompt"
            reason = str(error).rstrip(".")
            raise ApiError(400, f"The prompt can't be used: {reason}.", param=what) from None

    def _local_request(
        self, key: int, request: EngineRequest, prompt: tuple[int, ...]
    ) -> LocalRequest:
        limit = self.max_length
        room = response_room(limit, len(prompt))
        if room < 1 or (request.max_tokens or 1) > room:
            asked = "" if request.max_tokens is None else f" and max_tokens is {request.max_tokens}"
            raise ApiError(
                400,
                f"The model's context is {limit} tokens; the prompt has {len(prompt)}{asked}, "
                f"{len(prompt) + (request.max_tokens or 1)} in all. Shorten the prompt"
                f"{'' if request.max_tokens is None else ', or lower max_tokens'}.",
                param="messages" if request.is_chat else "prompt",
                code="context_length_exceeded",
            )
        seed = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed % (1 << 64)
        settings = replace(request.sampling, max_new_tokens=request.max_tokens or room)
        return LocalRequest(key, prompt, settings, seed, request.top_logprobs)

    def _delta(self, output: Output) -> Delta:
        shown = (choice for choice in output.tokens if choice.token not in self._control)
        tokens = tuple(map(self._token_logprob, shown))
        return Delta(output.index, output.text, tokens, output.finish)

    def _token_logprob(self, choice: TokenChoice) -> TokenLogprob:
        top = tuple(self._token_logprob(TokenChoice(t, logp)) for t, logp in choice.top)
        data = token_bytes(self.lm.tokenizer, choice.token)
        return TokenLogprob(data.decode("utf-8", "replace"), data, choice.logp, top)

    # The engine's thread.

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("The engine has ended")
        finally:
            self._has_ended = True  # before those fail that are registered by now
            self._call(lambda: self._fail_all(_ended()))

    @torch.no_grad()
    def _work(self) -> None:
        """Carry out commands and steps until the end."""
        lm = self.lm
        lm.model.eval()
        packed: Any = nullcontext(lm.head)
        if lm.shares_prefixes:
            packed = prepacked_linears(lm, self.max_rows)
        with lm.precision_context(), packed as head:
            pool = self._pool = prefix_pool(lm) if self.caches_prefixes else None
            rows = DecodeBatch(lm, head, pool) if lm.shares_prefixes else SeparateBatch(lm)
            batch = self._batch = ContinuousBatch(lm, rows, max_rows=self.max_rows)
            while self._obey(batch):
                if batch.rows or batch.waiting:
                    self._step(batch)

    def _obey(self, batch: ContinuousBatch) -> bool:
        """Carry out the commands that came; wait for one while there is nothing to do. False at
        the end."""
        is_idle = not (batch.rows or batch.waiting)
        while is_idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command(batch)
            is_idle = False
        return True

    def _step(self, batch: ContinuousBatch) -> None:
        start = time.perf_counter()
        try:
            outputs = batch.step()
        except Exception as error:  # a bug or no memory: requests fail, the server goes on
            log.exception("A step of the engine failed")
            message = f"The engine failed: {type(error).__name__}. The server's log says more."
            batch.clear()
            self._call(lambda: self._fail_all(ApiError(500, message)))
            return
        self._counts["steps"] += 1
        self._counts["busy_seconds"] += time.perf_counter() - start  # type: ignore[assignment]
        self._call(lambda: self._deliver(outputs))

    def _call(self, function: Callable[[], None]) -> None:
        if self._loop is None:
            return  # no request has come
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: nobody waits any more
            log.debug("outputs after the end of the event loop")

    # Back in the event loop.

    def _deliver(self, outputs: Sequence[Output]) -> None:
        by_key: dict[Any, list[Output]] = {}
        for output in outputs:
            by_key.setdefault(output.key, []).append(output)
        for key, own_outputs in by_key.items():
            running = self._running.get(key)
            if running is None:
                continue  # cancelled meanwhile
            error = next((o.error for o in own_outputs if o.error is not None), None)
            running.outputs.put_nowait(own_outputs if error is None else _failure(error))

    def _fail_all(self, error: ApiError) -> None:
        for running in self._running.values():
            running.outputs.put_nowait(error)


_COUNTERS = ("prompt_tokens", "generated_tokens", "cancelled_requests", "steps", "busy_seconds")


def _ended() -> ApiError:
    return ApiError(503, "The engine has ended. Start the server again.")


def _failure(error: AccordError) -> ApiError:
    return ApiError(500, str(error), code="generation_failed")
