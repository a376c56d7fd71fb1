"""Continuous batching of a call's responses: finished rows make room for waiting responses."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.respond.local.decode_batch import DecodeBatch, NewRow
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
        batch = _Responses(DecodeBatch(lm, head), prompts, responses, rows)
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


class _Responses:
    """The responses that are being generated, as rows of a batch, and those that wait.

    `rows` (R,) are the response numbers of the rows; `finished` (R,) marks those that are to be
    removed.
    """

    def __init__(
        self,
        batch: DecodeBatch,
        prompts: Sequence[tuple[int, ...]],
        responses: Responses,
        size: int,
    ) -> None:
        self.batch, self.prompts, self.responses, self.size = batch, prompts, responses, size
        self.k = responses.settings.num_responses
        # Prompts of similar length together, the longest first.
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        self.waiting = deque(i * self.k + k for i in order for k in range(self.k))
        self.rows = torch.zeros(0, dtype=torch.long)
        self.finished = torch.zeros(0, dtype=torch.bool)

    def add_waiting(self) -> None:
        """Fill the batch with waiting responses: prefill their prompts, draw first tokens."""
        count = min(len(self.waiting), self.size - len(self.rows))
        if count == 0:
            return
        new = [self.waiting.popleft() for _ in range(count)]
        prompts = [n // self.k for n in new]
        states = self.batch.add_rows(
            [NewRow(self.prompts[i], i if self.k > 1 else None) for i in prompts]
        )
        self.rows = torch.cat([self.rows, torch.tensor(new)])
        self.finished = torch.cat([self.finished, self._draw(torch.tensor(new), states)])

    def decode_step(self) -> None:
        """Append one token to each row that is not finished."""
        if bool(self.finished.all()):
            return
        active = ~self.finished
        hidden = self.batch.decode_step(self.responses.last_tokens(self.rows), active)
        states = hidden[active.to(hidden.device)]
        self.finished[active] = self._draw(self.rows[active], states)

    def remove_finished(self) -> None:
        """Remove finished rows once their share is COMPACT_AT, and prompts without a response."""
        if self.finished.float().sum() < max(1.0, COMPACT_AT * len(self.finished)):
            return
        retained = {self.waiting[0] // self.k} if self.waiting else set()
        self.rows = self.rows[self.batch.remove_rows(self.finished, retained)]
        self.finished = torch.zeros(len(self.rows), dtype=torch.bool)

    def _draw(self, responses: Tensor, states: Tensor) -> Tensor:
        """Draw the next token of responses (n,) from states (n, D); returns which are finished."""
        uniform = self.responses.next_uniforms(responses)
        tokens, logps = [], []
        for a in range(0, len(responses), LOGITS_ROWS):
            logits = self.batch.logits(states[a : a + LOGITS_ROWS])
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
