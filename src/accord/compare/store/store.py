"""The preference store: prompts, responses and everything said about them, in a database.

It is SQLite in one file unless a URL says otherwise (such as postgresql+psycopg://user@host/name).
Nothing is overwritten or deleted; ties are kept although training can't use them. Together with
the modules it imports from this folder it is the only part of accord that speaks SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from accord.compare.store import queries
from accord.compare.store.connect import engine_for, transaction
from accord.compare.store.migrations import MIGRATIONS, is_current, migrate
from accord.compare.store.rows import Said, StoredPrompt, StoredResponse, StoredVerdict, VerdictKind
from accord.compare.store.verdicts import (
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
    items_of,
)
from accord.records import (
    Battle,
    Comparison,
    Outcome,
    Prompt,
    Ranking,
    Rating,
    Response,
    Source,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreferenceStore:
    """An open preference store. Use it in a `with` statement, or call `close`."""

    place: str
    engine: sa.Engine

    @classmethod
    def open(cls, place: str | Path, *, create: bool = True) -> Self:
        """The store at `place`, a path or a database URL, brought to the newest version.

        Raises DataError where it is something else, of a newer version, or missing with `create`
        False; StorageError where the database refuses.
        """
        engine, shown = engine_for(place, create=create)
        try:
            with transaction(engine, shown, writes=False) as connection:
                current = is_current(connection, MIGRATIONS)
            if not current:
                with transaction(engine, shown, writes=True) as connection:
                    migrate(connection, shown, create=create, migrations=MIGRATIONS)
        except BaseException:
            engine.dispose()
            raise
        return cls(shown, engine)

    def close(self) -> None:
        """Give the connections back; SQLite's side files go with the last one."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_prompt(self, prompt: Prompt, meta: Mapping[str, Any] | None = None) -> int:
        """The id of `prompt`, which is added if it is new; one that is there keeps its meta."""
        return self.add_prompts([(prompt, meta or {})])[0]

    def add_prompts(self, items: Sequence[tuple[Prompt, Mapping[str, Any]]]) -> list[int]:
        """`add_prompt` for many: prompts with their meta, to one id each."""
        return self._write(lambda connection: queries.add_prompts(connection, items))

    def add_responses(self, items: Sequence[Response]) -> list[int]:
        """Add responses, and their prompts where they are new; one new id each, in order."""
        return self._write(lambda connection: queries.add_responses(connection, items))

    def add_pair(
        self,
        response_a: int,
        response_b: int,
        outcome: Outcome,
        *,
        annotator: str,
        round: int = 0,
        reason: str | None = None,
        shown_first: Literal["a", "b"] | None = None,
        seconds: float | None = None,
    ) -> int:
        """Keep one `PairVerdict`; its id."""
        verdict = PairVerdict(
            response_a, response_b, outcome, annotator, round, reason, shown_first, seconds
        )
        return self.add_verdicts([verdict])[0]

    def add_ranking(
        self,
        response_ids: Sequence[int],
        ranks: Sequence[int],
        *,
        annotator: str,
        round: int = 0,
        reason: str | None = None,
        shown: Sequence[int] | None = None,
        seconds: float | None = None,
    ) -> int:
        """Keep one `RankingVerdict`; its id."""
        order = None if shown is None else tuple(shown)
        verdict = RankingVerdict(
            tuple(response_ids), tuple(ranks), annotator, round, reason, order, seconds
        )
        return self.add_verdicts([verdict])[0]

    def add_rating(
        self,
        response_id: int,
        score: float,
        *,
        annotator: str,
        round: int = 0,
        reason: str | None = None,
        seconds: float | None = None,
    ) -> int:
        """Keep one `RatingVerdict`; its id."""
        return self.add_verdicts(
            [RatingVerdict(response_id, score, annotator, round, reason, seconds)]
        )[0]

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> list[int]:
        """Keep verdicts of any kind, all or none; one id each, in order.

        Raises DataError where a verdict contradicts itself, names a response that is not in the
        store, or puts responses to different prompts together.
        """
        items = [items_of(verdict) for verdict in verdicts]
        return self._write(lambda connection: queries.add_verdicts(connection, verdicts, items))

    def prompts(self) -> list[StoredPrompt]:
        """All prompts, in the order in which they were added."""
        with self._reading() as connection:
            return queries.prompts(connection)

    def responses(
        self, model: str | None = None, prompt_id: int | None = None
    ) -> list[StoredResponse]:
        """All responses, or those of one model or to one prompt, in the order of their ids."""
        with self._reading() as connection:
            return queries.responses(connection, model, prompt_id)

    def verdicts(
        self,
        kind: VerdictKind | None = None,
        round: int | None = None,
        annotator: str | None = None,
    ) -> list[StoredVerdict]:
        """Verdicts as they lie in the store, ties and all, in the order of their ids."""
        with self._reading() as connection:
            return queries.verdicts(connection, kind, round, annotator)

    def comparisons(
        self, round: int | None = None, annotator: str | None = None
    ) -> list[Comparison]:
        """The pairs with a winner. `counts` tells how many had none."""
        verdicts, prompts, said = self._read("pair", round, annotator)
        return [
            Comparison(
                prompt=prompts[v.prompt_id],
                chosen=said[_with_rank(v, 0)].text,
                rejected=said[_with_rank(v, 1)].text,
                source=self.source(v),
                chosen_finished=said[_with_rank(v, 0)].finished,
                rejected_finished=said[_with_rank(v, 1)].finished,
            )
            for v in verdicts
            if v.outcome in ("a", "b")
        ]

    def rankings(self, round: int | None = None, annotator: str | None = None) -> list[Ranking]:
        """The rankings of K responses."""
        verdicts, prompts, said = self._read("ranking", round, annotator)
        return [
            Ranking(
                prompt=prompts[v.prompt_id],
                responses=tuple(said[item.response_id].text for item in v.items),
                ranks=tuple(item.rank or 0 for item in v.items),
                source=self.source(v),
                finished=_finished([said[item.response_id].finished for item in v.items]),
            )
            for v in verdicts
        ]

    def ratings(self, round: int | None = None, annotator: str | None = None) -> list[Rating]:
        """The ratings of single responses."""
        verdicts, prompts, said = self._read("rating", round, annotator)
        return [
            Rating(
                prompt=prompts[v.prompt_id],
                response=said[v.items[0].response_id].text,
                score=v.items[0].score or 0.0,
                source=self.source(v),
                finished=said[v.items[0].response_id].finished,
            )
            for v in verdicts
        ]

    def battles(self, round: int | None = None, annotator: str | None = None) -> list[Battle]:
        """The pairs, ties too, as battles between two models; a model's own pairs are left out."""
        verdicts, _, said = self._read("pair", round, annotator)
        met = [
            (said[v.items[0].response_id].model, said[v.items[1].response_id].model, v)
            for v in verdicts
        ]
        return [Battle(a, b, v.outcome) for a, b, v in met if a != b and v.outcome is not None]

    def counts(self) -> dict[str, int]:
        """How many of everything: prompts, responses, verdicts; pairs, and of these comparisons
        (with a winner), ties and both_bad; rankings; ratings."""
        with self._reading() as connection:
            return queries.counts(connection)

    def source(self, verdict: StoredVerdict) -> Source:
        """Where a record of this verdict comes from: the store, and the verdict's id."""
        return Source(self.place, verdict.id)

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        return transaction(self.engine, self.place, writes=False)

    def _read(
        self, kind: VerdictKind, round: int | None, annotator: str | None
    ) -> tuple[list[StoredVerdict], dict[int, Prompt], dict[int, Said]]:
        with self._reading() as connection:
            return (
                queries.verdicts(connection, kind, round, annotator),
                queries.prompts_judged(connection, kind),
                queries.responses_judged(connection, kind),
            )

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with transaction(self.engine, self.place, writes=True) as connection:
                return work(connection)
        except exc.IntegrityError:
            # Somebody added one of the prompts since it was looked for (not on SQLite, where only
            # one writes at a time): it is there now.
            with transaction(self.engine, self.place, writes=True) as connection:
                return work(connection)


def _finished(ended: Sequence[bool]) -> tuple[bool, ...] | None:
    """What a Ranking holds: nothing, where all responses ended by themselves."""
    return None if all(ended) else tuple(ended)


def _with_rank(verdict: StoredVerdict, rank: int) -> int:
    return next(item.response_id for item in verdict.items if item.rank == rank)
