"""Decoding over shared prompts: rows that end make room for responses that wait.

The prompts are read packed, without padding, and their keys and values are kept once, however many
responses follow them. A step is a token more of each row, whatever prompts the rows follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from accord.lm.attention.decoding import DecodeStep, KeyValueStore, Prefill, PrefixCache
from accord.lm.attention.plan import AttentionPlan
from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.objectives.logprobs import Head
from accord.respond.local.draw import draw
from accord.respond.local.responses import Responses

LEAVE_AT = 1 / 8  # rows that are over leave together, once they are this share of all
PREFILL_TOKENS = 8192  # prompt tokens read at a time
LONG = 16  # tokens of a response from which weights are laid out anew
HEAD_ROWS = 256  # rows whose logits are held at a time


def write_shared(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], responses: Responses
) -> None:
    """Write all responses. The model must share prefixes (`lm.forward.check_packing`)."""
    rows = min(responses.settings.batch_size, len(responses.lengths))
    long = responses.settings.max_new_tokens >= LONG
    with prepacked_linears(lm, rows) if long else nullcontext(lm.head) as head:
        batch = _Batch(lm, head, prompts, responses)
        while batch.waiting or len(batch.rows):
            batch.admit()
            batch.step()
            batch.leave()


class _Batch:
    """The rows being written, and the prompts that they follow.

    `rows` (R,) are the numbers of the rows' responses, `over` (R,) those that wait to leave. With
    one response a prompt a row's memory holds its prompt too, and there is no `prompt_store`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        head: Head,
        prompts: Sequence[tuple[int, ...]],
        responses: Responses,
    ) -> None:
        self.lm, self.head, self.prompts, self.responses = lm, head, prompts, responses
        self.k, self.size = responses.settings.num_responses, responses.settings.batch_size
        self.lengths = torch.tensor([len(p) for p in prompts])
        # Prompts of like length together, the longest first.
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        self.waiting = deque(i * self.k + k for i in order for k in range(self.k))
        self.rows = torch.zeros(0, dtype=torch.long)
        self.over = torch.zeros(0, dtype=torch.bool)
        # One query a row is a product with a vector, at which CPUs are slow in bfloat16.
        self.store = KeyValueStore(torch.float32 if lm.device.type == "cpu" else None)
        self.prompt_store = KeyValueStore() if self.k > 1 else None
        self.held: list[int] = []  # the prompt in each row of the prompt store
        self.states: dict[int, Tensor] = {}  # at the end of held prompts
        self.sharing: PrefixCache | None = None

    def admit(self) -> None:
        """Fill the batch up with waiting responses, reading their prompts; draw first tokens."""
        count = min(len(self.waiting), self.size - len(self.rows))
        if count == 0:
            return
        new = [self.waiting.popleft() for _ in range(count)]
        read = [i for i in dict.fromkeys(n // self.k for n in new) if i not in self.states]
        first = len(self.rows) if self.prompt_store is None else len(self.held)
        for part in _parts([len(self.prompts[i]) for i in read], PREFILL_TOKENS):
            self._read([read[j] for j in part], first + part.start)
        self.held += read
        self.rows = torch.cat([self.rows, torch.tensor(new)])
        over = self._draw(torch.tensor(new), [self.states[n // self.k] for n in new])
        self.over = torch.cat([self.over, over])
        self._share()

    def step(self) -> None:
        """A token more of each row that is not over."""
        if bool(self.over.all()):
            return
        token = self.responses.last_token(self.rows)
        written = self.responses.lengths[self.rows] - 1  # the last token is not in memory yet
        position = self.lengths[self.rows // self.k] + written
        device = self.lm.device
        at = (position if self.prompt_store is None else written).to(device)
        hidden = self._hidden(token, position, memory=DecodeStep(self.store, at, self.sharing))
        going = ~self.over
        self.over[going] = self._draw(self.rows[going], hidden[going.to(device)])

    def leave(self) -> None:
        """Rows that are over leave once they are many, and prompts that none is left to follow."""
        if self.over.float().sum() < max(1.0, LEAVE_AT * len(self.over)):
            return
        going = ~self.over
        stay = int(going.sum())
        holes = self.over[:stay].nonzero().flatten()
        movers = going[stay:].nonzero().flatten() + stay
        width = int(self.responses.lengths[self.rows[movers]].max()) if len(movers) else 0
        if self.prompt_store is None and len(movers):
            width = int((self.lengths[self.rows[movers] // self.k]).max()) + width
        self.store.move(movers.tolist(), holes.tolist(), width)
        self.rows[holes] = self.rows[movers]
        self.rows, self.over = self.rows[:stay], torch.zeros(stay, dtype=torch.bool)
        self._forget()
        self._share()

    def _forget(self) -> None:
        """Prompts that no row follows and no waiting response will make room."""
        needed = set((self.rows // self.k).tolist())
        if self.waiting:
            needed.add(self.waiting[0] // self.k)
        stay = [i for i in self.held if i in needed]
        if self.prompt_store is not None and stay:
            holes = [j for j, i in enumerate(self.held[: len(stay)]) if i not in needed]
            movers = [j for j, i in enumerate(self.held) if i in needed and j >= len(stay)]
            width = max(len(self.prompts[i]) for i in stay)
            self.prompt_store.move(movers, holes, width)
            for hole, mover in zip(holes, movers, strict=True):
                self.held[hole] = self.held[mover]
        self.held = self.held[: len(stay)]
        self.states = {i: self.states[i] for i in self.held}

    def _share(self) -> None:
        if self.prompt_store is None or not len(self.rows):
            return
        place = {prompt: j for j, prompt in enumerate(self.held)}
        of = torch.tensor([place[i] for i in (self.rows // self.k).tolist()])
        lengths = self.lengths[self.held]
        self.sharing = PrefixCache(
            self.prompt_store, of.to(self.lm.device), lengths.to(self.lm.device)
        )

    def _read(self, which: Sequence[int], first: int) -> None:
        """Read prompts, keeping their keys and values in rows from `first` on."""
        lengths = [len(self.prompts[i]) for i in which]
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        store = self.store if self.prompt_store is None else self.prompt_store
        hidden = self._hidden(
            torch.tensor([t for i in which for t in self.prompts[i]]),
            torch.cat([torch.arange(n) for n in lengths]),
            packed=AttentionPlan(tuple((0, (n,)) for n in lengths), self.lm.device),
            memory=Prefill(store, range(first, first + len(which)), starts),
        )
        for i, stop in zip(which, starts[1:], strict=True):
            self.states[i] = hidden[stop - 1].clone()

    def _hidden(self, ids: Tensor, positions: Tensor, **told: object) -> Tensor:
        """Hidden states (T, D) of flat tokens."""
        device = self.lm.device
        out: Tensor = self.lm.backbone(
            input_ids=ids[None].to(device),
            position_ids=positions[None].to(device),
            # A ready-made 4-d mask keeps transformers from building one.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            use_cache=False,
            **told,
        ).last_hidden_state[0]
        return out

    def _draw(self, who: Tensor, hidden: Tensor | Sequence[Tensor]) -> Tensor:
        """Draw the next token of responses (n,) from states (n, D); says who is over."""
        uniform = self.responses.uniform(who)
        tokens, logps = [], []
        for a in range(0, len(who), HEAD_ROWS):
            states = hidden[a : a + HEAD_ROWS]
            states = states if isinstance(states, Tensor) else torch.stack(list(states))
            with torch.autocast(states.device.type, enabled=False):  # as the training pass does it
                logits = self.head.logits(states)
            token, logp = draw(
                logits, uniform[a : a + HEAD_ROWS].to(logits.device), self.responses.settings
            )
            tokens.append(token)
            logps.append(logp)
        return self.responses.take(who, torch.cat(tokens).cpu(), torch.cat(logps).cpu())


def _parts(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Ranges of prompts with at most so many tokens in all, or a single one."""
    start, held = 0, 0
    for i, length in enumerate(lengths):
        if i > start and held + length > most:
            yield range(start, i)
            start, held = i, 0
        held += length
    if start < len(lengths):
        yield range(start, len(lengths))
