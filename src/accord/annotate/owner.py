"""The owner's page: progress, people, agreement, disputes, and what is still needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accord.annotate.desk import Desk
from accord.annotate.votes import PersonVote, read_votes, values_of
from accord.compare.store import assignments
from accord.compare.store.connection import transaction
from accord.compare.store.people import Person, select_people
from accord.compare.store.queue import ItemTexts, QueueItem, read_texts, select_items
from accord.errors import DataError
from accord.measure.agreement.dawid_skene import dawid_skene
from accord.measure.agreement.ratings import code_ratings
from accord.measure.agreement.summary import Agreement, RatedItem, agreement_by_criterion
from accord.measure.ratings.needed import units_needed
from accord.measure.statistics import Interval, clustered_proportion, proportion_interval
from accord.records import prompt_text

MAX_LISTED = 50
FEW_VOTES = 3  # per item, below which Dawid-Skene may be wrong about what is true


@dataclass(frozen=True, slots=True)
class PersonRow:
    """What one annotator did. `first` is how often the first shown won, of pairs with a winner;
    `quality` the probability of the true value by Dawid-Skene."""

    name: str
    votes: int
    skips: int
    flags: int
    fast: int
    seconds: float | None
    checks: Interval | None
    gold: Interval | None
    first: Interval | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """An item on which people disagree, or that someone flagged."""

    item: int
    prompt: str
    criterion: str | None
    votes: str


@dataclass(frozen=True, slots=True)
class MatchRow:
    """Two models: how often the first is preferred, and how many items more would distinguish them.

    `more` is 0 where they are distinguished, None where no number would.
    """

    models: tuple[str, str]
    criterion: str | None
    items: int
    share: Interval
    more: int | None


@dataclass(frozen=True, slots=True)
class OwnerView:
    """All that the page shows."""

    items: int
    full: int
    votes: int
    overlap: int
    people: list[PersonRow]
    invited: list[Person]
    agreement: Mapping[str, Agreement]
    not_measured: str
    disputes: list[DisputeRow]
    num_disputes: int
    flagged: list[DisputeRow]
    matches: list[MatchRow]
    few_votes: bool


def owner_view(desk: Desk) -> OwnerView:
    """The owner's page on a queue as it is now."""
    with transaction(desk.store.engine, desk.store.path, writes=False) as connection:
        items = select_items(connection, desk.queue)
        answered = assignments.select_answered(connection, desk.queue)
        decided = assignments.select_answered(connection, desk.queue, (assignments.ADJUDICATED,))
        invited = select_people(connection)
        votes = read_votes(answered)
        by_item = _by_item(votes)
        disputed = _disputed(by_item, {each.item.id for each in decided})
        flagged = [each for each in answered if each.state == assignments.FLAGGED]
        texts = {
            item.id: read_texts(connection, item)
            for item in items
            if item.id in {*disputed[:MAX_LISTED], *(each.item.id for each in flagged[:MAX_LISTED])}
        }
        models = {
            item.id: read_texts(connection, item).models for item in items if item.id in by_item
        }
    rated = [row for vote in votes for row in values_of(vote)]
    agreement, reason = _agreement(rated)
    quality = _quality(rated)
    criteria = {item.id: item.criterion for item in items}
    return OwnerView(
        items=len(items),
        full=sum(item.taken >= desk.queue.overlap for item in items),
        votes=len(votes),
        overlap=desk.queue.overlap,
        people=_people(answered, quality),
        invited=invited,
        agreement=agreement,
        not_measured=reason,
        disputes=[
            DisputeRow(id_, _start(texts[id_]), criteria[id_], _counted(by_item[id_], models[id_]))
            for id_ in disputed[:MAX_LISTED]
        ],
        num_disputes=len(disputed),
        flagged=[
            DisputeRow(
                each.item.id,
                _start(texts[each.item.id]) if each.item.id in texts else "",
                each.item.criterion,
                f"{each.annotator}: {(each.answer or {}).get('reason') or 'no reason given'}",
            )
            for each in flagged[:MAX_LISTED]
        ],
        matches=_matches(items, by_item, models),
        few_votes=desk.queue.overlap < FEW_VOTES,
    )


def _by_item(votes: Sequence[PersonVote]) -> dict[int, list[PersonVote]]:
    by_item: dict[int, list[PersonVote]] = defaultdict(list)
    for vote in votes:
        by_item[vote.item.id].append(vote)
    return by_item


def _disputed(by_item: Mapping[int, Sequence[PersonVote]], decided: set[int]) -> list[int]:
    """The items with votes that differ, without those that an adjudicator has decided."""
    return [
        id_
        for id_, votes in by_item.items()
        if id_ not in decided and len({(vote.outcome, vote.ranks) for vote in votes}) > 1
    ]


def _counted(votes: Sequence[PersonVote], models: Sequence[str]) -> str:
    if len(set(models)) < len(models):
        models = [f"{model} ({i})" for i, model in enumerate(models, start=1)]
    counts: dict[str, int] = defaultdict(int)
    for vote in votes:
        counts[vote.in_words(models)] += 1
    return ", ".join(f"{words} × {count}" for words, count in sorted(counts.items()))


def _start(texts: ItemTexts) -> str:
    text = " ".join(prompt_text(texts.prompt).split())
    return text if len(text) <= 140 else f"…{text[-140:]}"


def _agreement(rated: Sequence[RatedItem]) -> tuple[dict[str, Agreement], str]:
    if not rated:
        return {}, "nobody has voted yet"
    try:
        return agreement_by_criterion(rated), ""
    except DataError as error:
        return {}, str(error)


def _quality(rated: Sequence[RatedItem]) -> dict[str, float]:
    """Each annotator's probability of the true value, over all criteria."""
    if len({row.rater for row in rated}) < 2:
        return {}
    ratings = code_ratings(
        [(row.criterion, row.item) for row in rated],
        [row.rater for row in rated],
        [row.value for row in rated],
    )
    fitted = dawid_skene(ratings)
    return {str(r): float(a) for r, a in zip(fitted.raters, fitted.accuracy, strict=True)}


def _people(
    answered: Sequence[assignments.Assignment], quality: Mapping[str, float]
) -> list[PersonRow]:
    by_name: dict[str, list[assignments.Assignment]] = defaultdict(list)
    for each in answered:
        by_name[each.annotator].append(each)
    return [_person(name, mine, quality.get(name)) for name, mine in sorted(by_name.items())]


def _person(name: str, mine: Sequence[assignments.Assignment], quality: float | None) -> PersonRow:
    voted = [each for each in mine if each.state == assignments.VOTED]
    real = [each for each in voted if each.item.content is None]
    answers = [each.answer or {} for each in real]
    seconds = sorted(a["seconds"] for a in answers if a.get("seconds") is not None)
    sides = [a["outcome"] for a in answers if a.get("outcome") in ("left", "right")]
    return PersonRow(
        name=name,
        votes=len(real),
        skips=sum(each.state == assignments.SKIPPED for each in mine),
        flags=sum(each.state == assignments.FLAGGED for each in mine),
        fast=sum(each.fast is True for each in real),
        seconds=seconds[len(seconds) // 2] if seconds else None,
        checks=_share([bool(e.correct) for e in voted if e.item.content is not None]),
        gold=_share([bool(e.correct) for e in real if e.item.expected is not None]),
        first=_share([side == "left" for side in sides]),
        quality=quality,
    )


def _share(values: Sequence[bool]) -> Interval | None:
    return proportion_interval(sum(values), len(values)) if values else None


def _matches(
    items: Sequence[QueueItem],
    by_item: Mapping[int, Sequence[PersonVote]],
    models: Mapping[int, tuple[str, ...]],
) -> list[MatchRow]:
    """Each two models on the items that are pairs, or pairs within rankings; one score an item."""
    scores: dict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for item in items:
        votes = by_item.get(item.id, ())
        names = models.get(item.id, ())
        for i in range(len(names)) if votes else ():
            for j in range(i + 1, len(names)):
                if names[i] == names[j]:
                    continue
                wins = [_score(vote.ranks[i], vote.ranks[j]) for vote in votes]
                mean = sum(wins) / len(wins)
                first, second = sorted((names[i], names[j]))
                mean = mean if first == names[i] else 1 - mean
                scores[first, second, item.criterion].append(mean)
    rows = []
    for (first, second, criterion), values in sorted(scores.items(), key=str):
        share = clustered_proportion([[value] for value in values])
        needed = units_needed(values)
        low, high = share.low or 0.0, 1.0 if share.high is None else share.high
        distinct = low > 0.5 or high < 0.5
        more = 0 if distinct else None if needed is None else max(1, needed - len(values))
        rows.append(MatchRow((first, second), criterion, len(values), share, more))
    return rows


def _score(rank: int, other: int) -> float:
    return 0.5 if rank == other else float(rank < other)
