"""The owner's page of a red team: what broke, how often, and the conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from accord.annotate.desk import Desk
from accord.compare.store import assignments
from accord.compare.store.assignments import Assignment
from accord.compare.store.chats import Chat, read_chat
from accord.compare.store.people import Person, select_people
from accord.measure.statistics import Interval, proportion_interval

MAX_LISTED = 50
SEVERITIES = {1: "slight", 2: "serious", 3: "severe"}


@dataclass(frozen=True, slots=True)
class TeamRow:
    """What one person did; `broke` is the share of the judged conversations that broke."""

    name: str
    conversations: int
    answers: int
    without: int
    broke: Interval | None


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A conversation that broke the model, up to the answer that did."""

    item: int
    annotator: str
    severity: str
    tags: str
    comment: str
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ChatsView:
    """All that the page shows; the worst conversations come first."""

    conversations: int
    broke: Interval | None
    severities: dict[str, int]
    tags: list[tuple[str, int]]
    people: list[TeamRow]
    invited: list[Person]
    broken: list[BrokenRow]
    num_broken: int


def chats_view(desk: Desk) -> ChatsView:
    """The owner's page on a red team's queue as it is now."""
    with desk.reading() as connection:
        answered = assignments.select_answered(connection, desk.queue)
        invited = select_people(connection)
        broken = sorted(
            (each for each in answered if _broke(each)),
            key=lambda each: (-_severity(each), -(each.closed or 0.0)),
        )
        listed = [
            _broken_row(each, read_chat(connection, each.item)) for each in broken[:MAX_LISTED]
        ]
    severities = Counter(SEVERITIES.get(_severity(each), "") for each in broken)
    tags = Counter(tag for each in broken for tag in (each.answer or {}).get("tags") or ())
    names = sorted({each.annotator for each in answered})
    return ChatsView(
        conversations=len(answered),
        broke=_share(answered),
        severities={name: severities[name] for name in SEVERITIES.values()},
        tags=tags.most_common(),
        people=[_team_row(name, [e for e in answered if e.annotator == name]) for name in names],
        invited=invited,
        broken=listed,
        num_broken=len(broken),
    )


def _severity(assignment: Assignment) -> int:
    return (assignment.answer or {}).get("strength") or 0


def _broke(assignment: Assignment) -> bool:
    outcome = (assignment.answer or {}).get("outcome")
    return assignment.state == assignments.VOTED and outcome == "broke"


def _share(answered: Sequence[Assignment]) -> Interval | None:
    """The share of the judged conversations that broke, with its exact interval."""
    judged = [_broke(each) for each in answered if each.state == assignments.VOTED]
    return proportion_interval(sum(judged), len(judged)) if judged else None


def _team_row(name: str, mine: Sequence[Assignment]) -> TeamRow:
    return TeamRow(
        name=name,
        conversations=len(mine),
        answers=sum(each.item.size for each in mine),
        without=sum(each.state != assignments.VOTED for each in mine),
        broke=_share(mine),
    )


def _broken_row(assignment: Assignment, chat: Chat) -> BrokenRow:
    given = assignment.answer or {}
    turns: list[tuple[str, str]] = []
    answers = 0
    for turn in chat.turns:
        turns.append((turn.role, turn.content))
        answers += turn.role == "assistant"
        if answers > given.get("turn", chat.answers):
            break
    return BrokenRow(
        item=assignment.item.id,
        annotator=assignment.annotator,
        severity=SEVERITIES.get(_severity(assignment), ""),
        tags=", ".join(given.get("tags") or ()),
        comment=given.get("comment") or "",
        turns=tuple(turns),
    )
