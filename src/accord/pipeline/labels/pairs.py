"""The pairs of a store that judges are asked about, some at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice

from accord.compare.dataset import load_records
from accord.compare.judges.questions import Candidates
from accord.compare.store.connection import transaction
from accord.compare.store.items import item_name
from accord.compare.store.pairs import (
    AnsweredPrompt,
    StoredVote,
    different_pairs,
    select_answered,
    select_models,
    select_pair_votes,
)
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError
from accord.records import Prompt, PromptOnly, prompt_text
from accord.settings.label import LabelSettings

PROMPTS = 200  # read at a time
FIRST = 8  # pairs of the first batch: each answer may cost money, and tokens are measured early
BATCH = 50  # pairs of the others


@dataclass(frozen=True, slots=True)
class StoredPair:
    """Two responses to one prompt, by their ids, and `item`, the store's name of the pair."""

    ids: tuple[int, int]
    item: str
    candidates: Candidates


@dataclass(frozen=True)
class PairSource:
    """The pairs of a store that the settings select; each iteration reads them again, so that no
    more than a batch is in memory."""

    store: PreferenceStore
    settings: LabelSettings
    prompts: frozenset[bytes] | None = field(default=None)

    @classmethod
    def open(cls, store: PreferenceStore, settings: LabelSettings) -> PairSource:
        """Raises DataError where the store lacks a model, or a prompt's file can't be used."""
        with transaction(store.engine, store.path, writes=False) as connection:
            known = select_models(connection)
        for model in settings.models:
            if model not in known:
                raise DataError(
                    f"{store.path} has no responses of {model!r}. Its models are "
                    f"{', '.join(known) or 'none'}."
                )
        prompts = None
        if settings.prompts is not None:
            records, _ = load_records(settings.prompts, "prompts")
            prompts = frozenset(_short(r.prompt) for r in records if isinstance(r, PromptOnly))
        return cls(store, settings, prompts)

    def batches(self) -> Iterator[list[StoredPair]]:
        """The pairs in the order of their prompts: FIRST of them, then BATCH at a time."""
        pairs = self._pairs()
        size = FIRST
        while batch := list(islice(pairs, size)):
            yield batch
            size = BATCH

    def votes(self, pairs: list[StoredPair]) -> list[StoredVote]:
        """The latest verdicts on these pairs, of all annotators and criteria."""
        with transaction(self.store.engine, self.store.path, writes=False) as connection:
            return select_pair_votes(connection, [pair.item for pair in pairs])

    def _pairs(self) -> Iterator[StoredPair]:
        after = 0
        while prompts := self._read(after):
            after = prompts[-1].id
            for prompt in prompts:
                if self.prompts is None or _short(prompt.prompt) in self.prompts:
                    yield from self._pairs_of(prompt)

    def _read(self, after: int) -> list[AnsweredPrompt]:
        with transaction(self.store.engine, self.store.path, writes=False) as connection:
            return select_answered(connection, after, PROMPTS, self.settings.models)

    def _pairs_of(self, prompt: AnsweredPrompt) -> Iterator[StoredPair]:
        pairs = list(different_pairs(prompt.responses))
        limit = self.settings.pairs_per_prompt
        if limit is not None and limit < len(pairs):
            rng = random.Random(f"label {self.settings.seed} {prompt.id}")
            pairs = [pairs[i] for i in sorted(rng.sample(range(len(pairs)), limit))]
        for a, b in pairs:
            texts, finished = (a.whole, b.whole), (a.finished, b.finished)
            candidates = Candidates(prompt.prompt, texts, finished)
            yield StoredPair((a.id, b.id), item_name((a.id, b.id)), candidates)


def _short(prompt: Prompt) -> bytes:
    """A prompt in a set that may hold a million: plain text and a user's turn are the same."""
    return sha256(prompt_text(prompt).encode("utf-8", "surrogatepass")).digest()[:16]
