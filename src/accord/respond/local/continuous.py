"""Continuous batching of requests that come and go: rows join and leave at every step.

Each request has its own settings; its `num_responses` rows share one prefill and join together.
Requests wait in the order in which they came. Where keys and values outgrow their memory, the
request that joined last leaves and waits again: what it generated is read again when it rejoins.
Of a request that outgrows it alone, the last rows leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from accord.errors import AccordError, NotFiniteError
from accord.lm.model import LanguageModel
from accord.respond.local.decode_batch import DecodeBatch, NewRow
from accord.respond.local.memory import bytes_of_token, memory_budget, store_capacity
from accord.respond.local.request_draws import UniformStream, draw_rows
from accord.respond.local.separate_batch import SeparateBatch
from accord.respond.protocol import SamplingSettings
from accord.respond.text_stream import TextStream

PREFILL_TOKENS = 2048  # that are read for requests that join in one step; a longer one joins alone
AHEAD_TOKENS = 512  # of a long prompt that are read in one step while other rows run


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """A prompt with its settings; `key` is its name. `settings.max_new_tokens` is its limit, and
    with the prompt within the model's positions. `top_logprobs` None asks for no log-probs."""

    key: Hashable
    prompt: tuple[int, ...]
    settings: SamplingSettings
    seed: int
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token with its log-prob under the model (temperature 1, not truncated), and the likeliest
    tokens at its position with theirs."""

    token: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """What a step gave response `index` of a request: text, and the tokens that are complete with
    it. `finish` says why it ended, and `error` why its whole request failed."""

    key: Hashable
    index: int
    text: str = ""
    tokens: tuple[TokenChoice, ...] = ()
    num_tokens: int = 0
    finish: Literal["stop", "length"] | None = None
    error: AccordError | None = None


@dataclass(eq=False, slots=True)
class _LiveRow:
    request: LocalRequest
    index: int
    uniforms: UniformStream
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    choices: deque[TokenChoice] = field(default_factory=deque)  # not shown yet
    finished: bool = False
    joined: int = 0  # the number of its request among those that have joined
    shares_prompt: bool = False  # a request's rows share one prefill, save after they rejoined


class ContinuousBatch:
    """The requests that run and those that wait. Not safe for several threads.

    At most `max_rows` responses are generated at a time, within `memory` bytes for their keys and
    values (by default `memory_budget`), but at least one.
    """

    def __init__(
        self,
        lm: LanguageModel,
        batch: DecodeBatch | SeparateBatch,
        *,
        max_rows: int,
        memory: float | None = None,
    ) -> None:
        self.lm, self.batch, self.max_rows = lm, batch, max_rows
        self.memory = memory_budget(lm) if memory is None else memory
        self.token_bytes = bytes_of_token(lm)
        self.waiting: deque[list[_LiveRow]] = deque()
        self.rows: list[_LiveRow] = []
        self._eos = lm.eos_ids
        self._num_joined = 0

    def submit(self, request: LocalRequest) -> None:
        """Let a request wait for its turn. Raises ValueError where it can never have one."""
        settings = request.settings
        if settings.num_responses > self.max_rows:
            raise ValueError(f"{settings.num_responses} responses, but only {self.max_rows} rows")
        self.waiting.append(
            [
                _LiveRow(
                    request,
                    k,
                    UniformStream(request.seed, k, settings.max_new_tokens),
                    TextStream(self.lm.tokenizer, request.prompt, settings.stop),
                    shares_prompt=settings.num_responses > 1,
                )
                for k in range(settings.num_responses)
            ]
        )

    def cancel(self, key: Hashable) -> None:
        """Remove a request with all its rows, if it is still here."""
        self.waiting = deque(rows for rows in self.waiting if rows[0].request.key != key)
        self._remove(lambda row: row.request.key == key)

    def drop(self, key: Hashable, indices: Collection[int]) -> None:
        """Remove single responses of a request; nothing more comes of them."""

        def is_dropped(row: _LiveRow) -> bool:
            return row.request.key == key and row.index in indices

        waiting = ([row for row in rows if not is_dropped(row)] for rows in self.waiting)
        self.waiting = deque(rows for rows in waiting if rows)
        self._remove(is_dropped)

    def clear(self) -> None:
        """Remove all requests and free their memory."""
        self.waiting.clear()
        self._remove(lambda row: True)

    def step(self) -> list[Output]:
        """One token for each row that runs, and the first for those that join."""
        outputs: list[Output] = []
        self._make_room()
        if self.rows:
            tokens = torch.tensor([row.tokens[-1] for row in self.rows])
            outputs += self._draw(self.rows, self.batch.decode_step(tokens))
            self._remove_finished()
        joining = [] if self._reads_ahead() else self._next_to_join()
        if joining:
            before = len(self.rows)
            states = self.batch.add_rows([_new_row(row) for row in joining])
            self.rows += joining
            outputs += self._draw(self.rows[before:], states)
            self._remove_finished()
        return outputs

    def _reads_ahead(self) -> bool:
        """Read a part of a long prompt of the next to join, so that those that run wait less."""
        if not (self.rows and self.waiting) or isinstance(self.batch, SeparateBatch):
            return False
        return self.batch.read_ahead(_new_row(self.waiting[0][0]).ids, AHEAD_TOKENS)

    def _next_to_join(self) -> list[_LiveRow]:
        joining: list[_LiveRow] = []
        tokens = 0
        while self.waiting:
            rows = self.waiting[0]
            tokens += _tokens_read(rows)
            together = [*self.rows, *joining, *rows]
            is_first = not (self.rows or joining)
            if not is_first and (len(together) > self.max_rows or not self._fit(together)):
                break
            if joining and tokens > PREFILL_TOKENS:
                break
            self._num_joined += 1
            for row in rows:
                row.joined = self._num_joined
            joining += self.waiting.popleft()
        return joining

    def _make_room(self) -> None:
        """Let the requests that joined last wait again while the next tokens do not fit; of the
        only one, the last rows."""
        while len(self.rows) > 1 and not self._fit(self.rows):
            last = max(self.rows, key=lambda row: (row.joined, row.index))
            leaving = [row for row in self.rows if row.request is last.request]
            if len(leaving) == len(self.rows):
                leaving = [last]
            self._remove(lambda row, leaving=leaving: row in leaving)  # type: ignore[misc]
            for row in leaving:
                row.shares_prompt = False
            self.waiting.appendleft(sorted(leaving, key=lambda row: row.index))

    def _fit(self, rows: Sequence[_LiveRow]) -> bool:
        """Whether the keys and values of rows, with a further token each, fit into memory."""
        lengths, prompts = [], {}
        for row in rows:
            prompt = len(row.request.prompt)
            lengths.append(len(row.tokens) + 1 + (0 if row.shares_prompt else prompt))
            if row.shares_prompt:
                prompts[row.request.key] = prompt
        size = len(lengths) * store_capacity(max(lengths))
        if prompts:
            size += len(prompts) * store_capacity(max(prompts.values()))
        return size * self.token_bytes <= self.memory

    def _draw(self, rows: Sequence[_LiveRow], states: Tensor) -> list[Output]:
        """Draw the next token of each row from states (n, D)."""
        logits = self.batch.logits(states)
        uniforms = [next(row.uniforms) for row in rows]
        tokens, is_finite = draw_rows(logits, uniforms, [row.request.settings for row in rows])
        is_bad = (~is_finite).tolist()
        choices = self._choices(rows, logits, tokens)
        outputs = []
        for i, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            if not is_bad[i] and not row.finished:
                outputs.append(self._append(row, token, choices.get(i)))
        if any(is_bad):
            outputs += self._fail(row for row, bad in zip(rows, is_bad, strict=True) if bad)
        return outputs

    def _append(self, row: _LiveRow, token: int, choice: TokenChoice | None) -> Output:
        row.tokens.append(token)
        finish: Literal["stop", "length"] | None = None
        parts = []
        if token in self._eos:
            finish = "stop"
        else:
            if choice is not None:
                row.choices.append(choice)
            parts.append(row.text.push(token))
            if row.text.stop is not None:
                finish = "stop"
            elif len(row.tokens) == row.request.settings.max_new_tokens:
                finish = "length"
        if finish is not None:
            row.finished = True
            parts.append(row.text.finish())
        count = sum(part.tokens for part in parts) if row.request.top_logprobs is not None else 0
        return Output(
            row.request.key,
            row.index,
            "".join(part.text for part in parts),
            tuple(row.choices.popleft() for _ in range(count)),
            1,
            finish,
        )

    def _choices(
        self, rows: Sequence[_LiveRow], logits: Tensor, tokens: Tensor
    ) -> dict[int, TokenChoice]:
        """The log-probs of the rows that ask for them, by the row's index."""
        index = [i for i, row in enumerate(rows) if row.request.top_logprobs is not None]
        if not index:
            return {}
        max_top = max(rows[i].request.top_logprobs or 0 for i in index)
        drawn = tokens[index].to(logits.device)
        logps = logits[torch.tensor(index, device=logits.device)].log_softmax(1)
        own_logps = logps.gather(1, drawn[:, None]).squeeze(1).tolist()
        top = logps.topk(min(max_top, logps.shape[1]), dim=1)
        ids, values = top.indices.tolist(), top.values.tolist()
        result = {}
        for j, i in enumerate(index):
            k = rows[i].request.top_logprobs or 0
            pairs = tuple(zip(ids[j][:k], values[j][:k], strict=True))
            result[i] = TokenChoice(int(tokens[i]), own_logps[j], pairs)
        return result

    def _fail(self, bad: Iterable[_LiveRow]) -> list[Output]:
        """End the requests of rows whose logits are not finite."""
        failed = {row.request.key: row for row in bad}
        self.waiting = deque(r for r in self.waiting if r[0].request.key not in failed)
        self.batch.erase([i for i, row in enumerate(self.rows) if row.request.key in failed])
        for row in self.rows:
            row.finished = row.finished or row.request.key in failed
        return [
            Output(
                key,
                row.index,
                error=NotFiniteError(
                    f"The logits are not finite (NaN or infinite) at token {len(row.tokens) + 1} "
                    f"of a response. Look at the model's weights, or use precision fp32."
                ),
            )
            for key, row in failed.items()
        ]

    def _remove_finished(self) -> None:
        self._remove(lambda row: row.finished)

    def _remove(self, is_removed: Callable[[_LiveRow], bool]) -> None:
        finished = torch.tensor([is_removed(row) for row in self.rows], dtype=torch.bool)
        if not bool(finished.any()):
            return
        order = self.batch.remove_rows(finished)
        self.rows = [self.rows[i] for i in order.tolist()]
        if not self.rows:
            self.batch.free_memory()


def _tokens_read(rows: Sequence[_LiveRow]) -> int:
    """How many tokens are read as a request's rows join: its prompt, or once they have left for
    lack of memory the prompt and the tokens of each."""
    if rows[0].shares_prompt:
        return len(rows[0].request.prompt)
    return sum(len(row.request.prompt) + len(row.tokens) for row in rows)


def _new_row(row: _LiveRow) -> NewRow:
    """A row as it joins; one that rejoins reads what it generated too."""
    key = row.request.key if row.shares_prompt else None
    return NewRow((*row.request.prompt, *row.tokens), key)
