"""Stored verdicts as the records that training reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from accord.compare.store.rows import JudgedResponse, StoredVerdict
from accord.records import Comparison, Prompt, Ranking, Rating, Source


class Judged(NamedTuple):
    """The prompts and responses that verdicts are on, by id, and the store's path."""

    path: str
    prompts: Mapping[int, Prompt]
    responses: Mapping[int, JudgedResponse]

    def source(self, verdict: StoredVerdict) -> Source:
        """The source of this verdict's record: the store, and the verdict's id."""
        return Source(self.path, verdict.id)

    def comparison(self, verdict: StoredVerdict) -> Comparison:
        """A pair with a winner."""
        chosen = self.responses[_response_with_rank(verdict, 0)]
        rejected = self.responses[_response_with_rank(verdict, 1)]
        return Comparison(
            prompt=self.prompts[verdict.prompt_id],
            chosen=chosen.text,
            rejected=rejected.text,
            source=self.source(verdict),
            chosen_finished=chosen.finished,
            rejected_finished=rejected.finished,
        )

    def ranking(self, verdict: StoredVerdict) -> Ranking:
        """A ranking of K responses."""
        responses = [self.responses[item.response_id] for item in verdict.items]
        return Ranking(
            prompt=self.prompts[verdict.prompt_id],
            responses=tuple(response.text for response in responses),
            ranks=tuple(item.rank or 0 for item in verdict.items),
            source=self.source(verdict),
            finished=_finished_or_none([response.finished for response in responses]),
        )

    def rating(self, verdict: StoredVerdict) -> Rating:
        """A rating of one response."""
        (item,) = verdict.items
        response = self.responses[item.response_id]
        return Rating(
            prompt=self.prompts[verdict.prompt_id],
            response=response.text,
            score=item.score or 0.0,
            source=self.source(verdict),
            finished=response.finished,
        )


def _finished_or_none(finished: Sequence[bool]) -> tuple[bool, ...] | None:
    """`Ranking.finished`: None where all responses ended with EOS."""
    return None if all(finished) else tuple(finished)


def _response_with_rank(verdict: StoredVerdict, rank: int) -> int:
    """The id of the pair's response with this rank."""
    return next(item.response_id for item in verdict.items if item.rank == rank)
