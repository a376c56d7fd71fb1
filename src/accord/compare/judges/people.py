"""People's verdicts on pairs of responses, from a preference store or from files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from accord.compare.store.connection import is_store
from accord.compare.store.rows import Selection, StoredResponse, StoredVerdict
from accord.compare.store.store import PreferenceStore
from accord.data.report import ReadReport
from accord.data.voted_pairs import PairVote, VotedPair, read_voted_pairs
from accord.errors import DataError
from accord.reasoning import whole_text
from accord.records import Source

PERSON = "person"
"""The source of a verdict that a person gave on accord's page."""

NAMED_SIDES = {"a": "a", "b": "b", "tie": "tie", "both_bad": "tie"}


def load_voted_pairs(
    path: str | Path,
    *,
    where: Mapping[str, str] | None = None,
    people: Sequence[str] = (),
    criterion: str | None = None,
) -> tuple[list[VotedPair], ReadReport]:
    """The pairs of responses that people have judged, each with all votes on it.

    Of a file `where` selects rows. Of a store, the verdicts of `people` are read (by default those
    with the source `person`) on the criterion; a ranking is a vote on each two of its responses,
    and skips and flags are none. Raises DataError where nothing is left.
    """
    if not is_store(path):
        if people or criterion is not None:
            raise DataError(
                f"{path} is a file, in which annotators and criteria can't be selected. Leave "
                f"--people and --criterion out, or select rows with --where COLUMN=VALUE."
            )
        return read_voted_pairs(path, where)
    if where:
        raise DataError(f"{path} is a store, which has no columns. Leave --where out.")
    with PreferenceStore.read(path) as store:
        sources = None if people else (PERSON,)
        selection = Selection(
            annotators=tuple(people) or None, sources=sources, criteria=(criterion,)
        )
        verdicts = [v for v in store.iterate_verdicts(selection) if v.judge is None]
        pairs = _group(store, verdicts)
        if not pairs:
            raise _nobody(store, people, criterion)
        used = len(verdicts)
        return pairs, ReadReport(store.path, used, used, len(pairs))


def _group(store: PreferenceStore, verdicts: Sequence[StoredVerdict]) -> list[VotedPair]:
    """A pair for every two responses that were judged, with the votes in the order they came."""
    votes: dict[tuple[int, int], list[tuple[PairVote, int]]] = {}
    for verdict in verdicts:
        for a, b, side in _preferences(verdict):
            if a > b:
                a, b, side = b, a, {"a": "b", "b": "a"}.get(side, side)
            vote = PairVote(verdict.annotator, side)  # type: ignore[arg-type]
            votes.setdefault((a, b), []).append((vote, verdict.id))
    if not votes:
        return []
    responses = {stored.id: stored for stored in store.responses()}
    return [
        _make_pair(store.path, responses[a], responses[b], given) for (a, b), given in votes.items()
    ]


def _make_pair(
    path: str, a: StoredResponse, b: StoredResponse, given: Sequence[tuple[PairVote, int]]
) -> VotedPair:
    latest = {vote.annotator: vote for vote, _ in given}
    return VotedPair(
        a.response.prompt,
        whole_text(a.response.text, a.response.opened),
        whole_text(b.response.text, b.response.opened),
        tuple(latest.values()),
        Source(path, given[0][1]),
        (a.response.model, b.response.model),
        (a.response.finished, b.response.finished),
    )


def _preferences(verdict: StoredVerdict) -> Iterator[tuple[int, int, str]]:
    """The ids of each two responses that a verdict compares, and the better side."""
    if verdict.kind == "pair":
        side = NAMED_SIDES.get(verdict.outcome or "")
        if side is not None:
            yield verdict.items[0].response_id, verdict.items[1].response_id, side
    elif verdict.kind == "ranking" and verdict.outcome is None:
        for one, two in itertools.combinations(verdict.items, 2):
            if one.rank is not None and two.rank is not None:
                side = "tie" if one.rank == two.rank else "a" if one.rank < two.rank else "b"
                yield one.response_id, two.response_id, side


def _nobody(store: PreferenceStore, people: Sequence[str], criterion: str | None) -> DataError:
    verdicts = [v for v in store.iterate_verdicts(Selection()) if v.judge is None]
    names = sorted({v.annotator for v in verdicts})
    criteria = sorted({v.criterion for v in verdicts if v.criterion is not None})
    of_criterion = "" if criterion is None else f" on the criterion {criterion!r}"
    whose_votes = f"of {', '.join(people)}" if people else f"with the source {PERSON!r}"
    known = f" The annotators are {', '.join(names[:12])}." if names else ""
    known += f" The criteria are {', '.join(criteria[:12])}." if criteria else ""
    return DataError(
        f"{store.path} has no verdict {whose_votes}{of_criterion} that compares two responses."
        f"{known} Name those who are people with --people, or another criterion with --criterion."
    )
