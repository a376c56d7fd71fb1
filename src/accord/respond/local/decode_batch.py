"""The rows that are generated together, and the keys and values of them and of their prompts.

Rows join and leave at every step. Prompts are prefilled packed, without padding. A prompt that
several rows follow is stored once, apart from them; one that a single row follows is stored in
that row, so that its attention is one call.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from accord.lm.attention.decoding import DecodeStep, PrefixCache
from accord.lm.attention.plan import AttentionPlan
from accord.lm.attention.prefixes import BLOCK, PrefixPool, ReusedBlocks
from accord.lm.attention.reuse import plan_after_past
from accord.lm.attention.store import KeyValueStore, Prefill
from accord.lm.model import LanguageModel
from accord.lm.packing import forward_batches
from accord.objectives.logprobs import Head


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that joins: the tokens that it continues, and the `key` of the prompt that other rows
    follow too; None where no other row does."""

    ids: Sequence[int]
    key: Hashable | None = None


class DecodeBatch:
    """The rows of a model that shares prefixes (`lm.checks.check_packing`).

    Row r continues `shared_lengths[r]` tokens of a prompt in the prompt store, and `stored[r]`
    tokens in its own row of the store. With a `pool` (on a CPU, and while the weights do not
    change) the beginnings of prompts that were read before are not read again.
    """

    def __init__(self, lm: LanguageModel, head: Head, pool: PrefixPool | None = None) -> None:
        self.lm, self.head, self.pool = lm, head, pool
        # A row has one query, so its attention is a matrix-vector product, which CPUs compute
        # slowly in bfloat16.
        is_cpu = lm.device.type == "cpu"
        self.store = KeyValueStore(torch.float32 if is_cpu else None, transposes_keys=is_cpu)
        self.prompt_store = KeyValueStore()
        self.keys: list[Hashable | None] = []  # the prompt that each row follows in its store
        self.stored = torch.zeros(0, dtype=torch.long)
        self.shared_lengths = torch.zeros(0, dtype=torch.long)
        self.prompts: dict[Hashable, int] = {}  # the length of each stored prompt, in store order
        self.last_states: dict[Hashable, Tensor] = {}  # each stored prompt's last hidden state
        self.prefix_cache: PrefixCache | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        """Tokens in the longest row of the store."""
        return int(self.stored.max()) if len(self) else 0

    def add_rows(self, new: Sequence[NewRow]) -> Tensor:
        """Add rows, and read their prompts where they are not stored yet; returns the last hidden
        state (n, D) of each row's prompt, which predicts its first token."""
        prompts = {row.key: row.ids for row in new if row.key is not None}
        unread = {key: ids for key, ids in prompts.items() if key not in self.prompts}
        states = self._prefill(list(unread.values()), self.prompt_store, len(self.prompts))
        self.last_states.update(zip(unread, states, strict=True))
        self.prompts.update((key, len(ids)) for key, ids in unread.items())
        alone = [i for i, row in enumerate(new) if row.key is None]
        rows = [len(self) + i for i in alone]
        states = self._prefill([new[i].ids for i in alone], self.store, rows)
        state_of = dict(zip(alone, states, strict=True))
        self.keys += [row.key for row in new]
        stored = [len(row.ids) if row.key is None else 0 for row in new]
        shared = [0 if row.key is None else len(row.ids) for row in new]
        self.stored = torch.cat([self.stored, torch.tensor(stored)])
        self.shared_lengths = torch.cat([self.shared_lengths, torch.tensor(shared)])
        self._update_prefix_cache()
        return torch.stack(
            [
                state_of[i] if row.key is None else self.last_states[row.key]
                for i, row in enumerate(new)
            ]
        )

    def read_ahead(self, ids: Sequence[int], tokens: int) -> bool:
        """Read so many tokens more of a prompt into the pool; False where fewer are left, or the
        pool has no room for them, so that the rest is to be read as its rows join."""
        if self.pool is None:
            return False
        known = self.pool.known(ids)
        if len(ids) - known <= tokens or known + tokens > BLOCK * self.pool.max_blocks:
            return False
        prompt, ahead = self.pool.ahead
        part = ids[: known + tokens]
        self.pool.ahead = (part, known)
        self._read([part], self.store, [])
        read = self.pool.known(ids) - known
        self.pool.ahead = (ids, read + (ahead if prompt == ids else 0))
        return read > 0

    def decode_step(self, tokens: Tensor, active: Tensor | None = None) -> Tensor:
        """Append a token (R,) to each row; returns hidden states (R, D).

        Of rows that are not `active` (R,) the token is not stored, and the state is any.
        """
        device = self.lm.device
        memory = DecodeStep(self.store, self.stored.to(device), self.prefix_cache)
        hidden = self._hidden(tokens, self.stored + self.shared_lengths, memory=memory)
        self.stored = self.stored + (1 if active is None else active.long())
        return hidden

    def logits(self, states: Tensor) -> Tensor:
        """float32 logits (n, V) of hidden states (n, D)."""
        with torch.autocast(states.device.type, enabled=False):  # as in the training pass
            return self.head.logits(states)

    def remove_rows(self, finished: Tensor, retained: Collection[Hashable] = ()) -> Tensor:
        """Remove the rows that `finished` (R,) marks, and prompts that no row follows any more,
        save `retained` ones. Returns the former index of each row that remains."""
        remaining = int((~finished).sum())
        holes = finished[:remaining].nonzero().flatten()
        moved = (~finished)[remaining:].nonzero().flatten() + remaining
        is_written = self.stored[moved] > 0  # a row that has just joined may have nothing there
        sources, targets = moved[is_written], holes[is_written]
        if len(sources):
            self.store.move(sources.tolist(), targets.tolist(), int(self.stored[sources].max()))
        order = torch.arange(len(finished))
        order[holes] = moved
        order = order[:remaining]
        self.keys = [self.keys[i] for i in order.tolist()]
        self.stored, self.shared_lengths = self.stored[order], self.shared_lengths[order]
        self._remove_prompts({*self.keys, *retained})
        self._update_prefix_cache()
        return order

    def erase(self, rows: Sequence[int]) -> None:
        """Overwrite what rows and their prompts stored: it is not finite."""
        self.store.erase(rows)
        if self.pool is not None:
            self.pool.clear()
        keys = list(self.prompts)
        self.prompt_store.erase([keys.index(self.keys[i]) for i in rows if self.keys[i] in keys])

    def free_memory(self) -> None:
        """Free the stores of a batch without rows."""
        self.store.layers.clear()
        self.prompt_store.layers.clear()

    def _remove_prompts(self, needed: Collection[Hashable]) -> None:
        keys = list(self.prompts)
        count = sum(key in needed for key in keys)
        if count == len(keys):
            return
        holes = [j for j, key in enumerate(keys[:count]) if key not in needed]
        moved = [j for j, key in enumerate(keys) if key in needed and j >= count]
        if moved:
            self.prompt_store.move(moved, holes, max(self.prompts[keys[j]] for j in moved))
        for hole, source in zip(holes, moved, strict=True):
            keys[hole] = keys[source]
        self.prompts = {key: self.prompts[key] for key in keys[:count]}
        self.last_states = {key: self.last_states[key] for key in self.prompts}

    def _update_prefix_cache(self) -> None:
        self.prefix_cache = None
        if any(key is not None for key in self.keys):
            index = {key: j for j, key in enumerate(self.prompts)}
            prompt_index = torch.tensor([-1 if k is None else index[k] for k in self.keys])
            lengths = torch.tensor(list(self.prompts.values()))
            device = self.lm.device
            self.prefix_cache = PrefixCache(
                self.prompt_store, prompt_index.to(device), lengths.to(device)
            )

    def _prefill(
        self, prompts: Sequence[Sequence[int]], store: KeyValueStore, rows: Sequence[int] | int
    ) -> list[Tensor]:
        """Read prompts into rows of a store, or those from a row on; returns the last hidden state
        (D,) of each."""
        if isinstance(rows, int):
            rows = range(rows, rows + len(prompts))
        states: list[Tensor] = []
        for chunk in forward_batches([len(ids) for ids in prompts], len(prompts)):
            states += self._read([prompts[i] for i in chunk], store, [rows[i] for i in chunk])
        return states

    def _read(
        self, prompts: Sequence[Sequence[int]], store: KeyValueStore, rows: Sequence[int]
    ) -> list[Tensor]:
        """Read prompts in one pass."""
        device = self.lm.device
        reused = None if self.pool is None else ReusedBlocks(self.pool, prompts)
        past = [0] * len(prompts) if reused is None else reused.past
        lengths = [len(ids) - n for ids, n in zip(prompts, past, strict=True)]
        if any(past):
            plan = plan_after_past(past, lengths, device)
        else:
            plan = AttentionPlan(tuple((0, (n,)) for n in lengths), device)
        starts = [0, *accumulate(lengths)]
        try:
            hidden = self._hidden(
                torch.tensor([t for ids, n in zip(prompts, past, strict=True) for t in ids[n:]]),
                torch.cat(
                    [torch.arange(n, len(ids)) for ids, n in zip(prompts, past, strict=True)]
                ),
                packed=plan,
                memory=Prefill(store, rows, starts, reused),
            )
        except BaseException:
            if self.pool is not None:  # blocks that were to be written are not
                self.pool.clear()
            raise
        return [hidden[stop - 1].clone() for stop in starts[1:]]

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
