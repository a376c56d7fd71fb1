"""Continuous batching over shared prompts: finished rows make room for waiting responses.

Prompts are prefilled packed, without padding, and their keys and values are stored once, however
many responses follow them. A decoding step appends a token to each row, whichever prompt it
follows.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from accord.lm.attention.decoding import DecodeStep, KeyValueStore, Prefill, PrefixCache
from accord.lm.attention.plan import AttentionPlan
from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.lm.packing import forward_batches
from accord.objectives.logprobs import Head
from accord.respond.local.draw import draw_tokens
from accord.respond.local.memory import rows_in_memory
from accord.respond.local.responses import Responses
from accord.runs.activity import describe_activity, report_activity

COMPACT_AT = 1 / 8  # share of finished rows at which they are removed from the batch
REPACK_FROM = 16  # tokens of a response from which repacking the weights pays off
REPORT_STEPS = 8  # tokens of a row between two reports of how many responses are done
LOGITS_ROWS = 256  # rows whose logits are in memory at a time


def generate_shared_prefix(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], responses: Responses
) -> None:
    """Generate all responses. The model must share prefixes (`lm.checks.check_packing`)."""
    rows = min(_batch_rows(lm, prompts, responses), len(responses.lengths))
    should_repack = responses.settings.max_new_tokens >= REPACK_FROM
    with prepacked_linears(lm, rows) if should_repack else nullcontext(lm.head) as head:
        batch = _Batch(lm, head, prompts, responses)
        total = len(responses.lengths)
        for step in itertools.count():
            if step % REPORT_STEPS == 0:
                done = total - len(batch.waiting) - len(batch.rows)
                report_activity(describe_activity("sampling", done, total))
            if not (batch.waiting or len(batch.rows)):
                return
            batch.add_waiting()
            batch.decode_step()
            batch.remove_finished()


class _Batch:
    """The rows being generated, and the prompts that they follow.

    `rows` (R,) are the response numbers of the rows; `finished` (R,) marks those that are to be
    removed. With one response per prompt a row's store holds its prompt too, and `prompt_store` is
    None.
    """

    def __init__(
        self,
        lm: LanguageModel,
        head: Head,
        prompts: Sequence[tuple[int, ...]],
        responses: Responses,
    ) -> None:
        self.lm, self.head, self.prompts, self.responses = lm, head, prompts, responses
        self.k = responses.settings.num_responses
        self.size = _batch_rows(lm, prompts, responses)
        self.lengths = torch.tensor([len(p) for p in prompts])
        # Prompts of similar length together, the longest first.
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        self.waiting = deque(i * self.k + k for i in order for k in range(self.k))
        self.rows = torch.zeros(0, dtype=torch.long)
        self.finished = torch.zeros(0, dtype=torch.bool)
        # A row has one query, so its attention is a matrix-vector product, which CPUs compute
        # slowly in bfloat16.
        self.store = KeyValueStore(torch.float32 if lm.device.type == "cpu" else None)
        self.prompt_store = KeyValueStore() if self.k > 1 else None
        self.stored_prompts: list[int] = []  # the prompt in each row of the prompt store
        self.last_states: dict[int, Tensor] = {}  # by stored prompt: its last hidden state
        self.prefix_cache: PrefixCache | None = None

    def add_waiting(self) -> None:
        """Fill the batch with waiting responses: prefill their prompts, draw first tokens."""
        count = min(len(self.waiting), self.size - len(self.rows))
        if count == 0:
            return
        new = [self.waiting.popleft() for _ in range(count)]
        unread = [i for i in dict.fromkeys(n // self.k for n in new) if i not in self.last_states]
        first = len(self.rows) if self.prompt_store is None else len(self.stored_prompts)
        for chunk in forward_batches([len(self.prompts[i]) for i in unread], len(unread)):
            self._prefill([unread[j] for j in chunk], first + chunk.start)
        self.stored_prompts += unread
        self.rows = torch.cat([self.rows, torch.tensor(new)])
        finished = self._draw(torch.tensor(new), [self.last_states[n // self.k] for n in new])
        self.finished = torch.cat([self.finished, finished])
        self._update_prefix_cache()

    def decode_step(self) -> None:
        """Append one token to each row that is not finished."""
        if bool(self.finished.all()):
            return
        token = self.responses.last_tokens(self.rows)
        cached = self.responses.lengths[self.rows] - 1  # the last token is not in the store yet
        position = self.lengths[self.rows // self.k] + cached
        device = self.lm.device
        index = (position if self.prompt_store is None else cached).to(device)
        memory = DecodeStep(self.store, index, self.prefix_cache)
        hidden = self._hidden(token, position, memory=memory)
        active = ~self.finished
        self.finished[active] = self._draw(self.rows[active], hidden[active.to(device)])

    def remove_finished(self) -> None:
        """Remove finished rows once their share is COMPACT_AT, and prompts without a response."""
        if self.finished.float().sum() < max(1.0, COMPACT_AT * len(self.finished)):
            return
        active = ~self.finished
        remaining = int(active.sum())
        holes = self.finished[:remaining].nonzero().flatten()
        moved = active[remaining:].nonzero().flatten() + remaining
        width = int(self.responses.lengths[self.rows[moved]].max()) if len(moved) else 0
        if self.prompt_store is None and len(moved):
            width = int((self.lengths[self.rows[moved] // self.k]).max()) + width
        self.store.move(moved.tolist(), holes.tolist(), width)
        self.rows[holes] = self.rows[moved]
        self.rows, self.finished = self.rows[:remaining], torch.zeros(remaining, dtype=torch.bool)
        self._remove_unused_prompts()
        self._update_prefix_cache()

    def _remove_unused_prompts(self) -> None:
        """Free the store of prompts that neither a row nor the next waiting response follows."""
        needed = set((self.rows // self.k).tolist())
        if self.waiting:
            needed.add(self.waiting[0] // self.k)
        remaining = [i for i in self.stored_prompts if i in needed]
        count = len(remaining)
        if self.prompt_store is not None and remaining:
            holes = [j for j, i in enumerate(self.stored_prompts[:count]) if i not in needed]
            moved = [j for j, i in enumerate(self.stored_prompts) if i in needed and j >= count]
            width = max(len(self.prompts[i]) for i in remaining)
            self.prompt_store.move(moved, holes, width)
            for hole, source in zip(holes, moved, strict=True):
                self.stored_prompts[hole] = self.stored_prompts[source]
        self.stored_prompts = self.stored_prompts[:count]
        self.last_states = {i: self.last_states[i] for i in self.stored_prompts}

    def _update_prefix_cache(self) -> None:
        if self.prompt_store is None or not len(self.rows):
            return
        store_rows = {prompt: j for j, prompt in enumerate(self.stored_prompts)}
        prompt_of = torch.tensor([store_rows[i] for i in (self.rows // self.k).tolist()])
        lengths = self.lengths[self.stored_prompts]
        self.prefix_cache = PrefixCache(
            self.prompt_store, prompt_of.to(self.lm.device), lengths.to(self.lm.device)
        )

    def _prefill(self, prompts: Sequence[int], first: int) -> None:
        """Read prompts, and store their keys and values in rows from `first` on."""
        lengths = [len(self.prompts[i]) for i in prompts]
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        store = self.store if self.prompt_store is None else self.prompt_store
        hidden = self._hidden(
            torch.tensor([t for i in prompts for t in self.prompts[i]]),
            torch.cat([torch.arange(n) for n in lengths]),
            packed=AttentionPlan(tuple((0, (n,)) for n in lengths), self.lm.device),
            memory=Prefill(store, range(first, first + len(prompts)), starts),
        )
        for i, stop in zip(prompts, starts[1:], strict=True):
            self.last_states[i] = hidden[stop - 1].clone()

    def _hidden(self, ids: Tensor, positions: Tensor, **attention: object) -> Tensor:
        """Hidden states (T, D) of flat tokens; `attention` goes to the attention functions."""
        device = self.lm.device
        hidden: Tensor = self.lm.backbone(
            input_ids=ids[None].to(device),
            position_ids=positions[None].to(device),
            # A ready-made 4-d mask prevents transformers from building one.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            use_cache=False,
            **attention,
        ).last_hidden_state[0]
        return hidden

    def _draw(self, responses: Tensor, hidden: Tensor | Sequence[Tensor]) -> Tensor:
        """Draw the next token of responses (n,) from states (n, D); returns which are finished."""
        uniform = self.responses.next_uniforms(responses)
        tokens, logps = [], []
        for a in range(0, len(responses), LOGITS_ROWS):
            states = hidden[a : a + LOGITS_ROWS]
            states = states if isinstance(states, Tensor) else torch.stack(list(states))
            with torch.autocast(states.device.type, enabled=False):  # as in the training pass
                logits = self.head.logits(states)
            token, logp = draw_tokens(
                logits, uniform[a : a + LOGITS_ROWS].to(logits.device), self.responses.settings
            )
            tokens.append(token)
            logps.append(logp)
        return self.responses.append_tokens(
            responses, torch.cat(tokens).cpu(), torch.cat(logps).cpu()
        )


def _batch_rows(lm: LanguageModel, prompts: Sequence[tuple[int, ...]], responses: Responses) -> int:
    """The rows generated at a time: `batch_size`, or as many as fit into memory."""
    settings, longest = responses.settings, max(map(len, prompts))
    new, k = settings.max_new_tokens, settings.num_responses
    if k == 1:  # a row's store holds its prompt too
        return rows_in_memory(lm, settings.batch_size, new + longest)
    return rows_in_memory(lm, settings.batch_size, new, longest, sharing=k)
