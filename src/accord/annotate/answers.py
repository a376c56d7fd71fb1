"""What the page sends for an item, checked, and the verdict that it becomes.

The page knows positions only: which response is whose, the server alone knows. So an answer about
"the left one" becomes a verdict on response ids here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.errors import RequestError
from accord.settings.annotate import AnnotateSettings

Action = Literal["vote", "skip", "flag"]
OUTCOMES: dict[str, tuple[int, int]] = {
    "left": (0, 1),
    "right": (1, 0),
    "tie": (0, 0),
    "both_bad": (0, 0),
}
HAVE_STRENGTH = ("left", "right", "broke")
SHORTEST_KEY, LONGEST_KEY, LONGEST_COMMENT = 16, 64, 10_000


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """An answer in terms of what was shown: `ranks[i]` is that of the response shown at i.

    `outcome` is a pair's ("left", "right", "tie", "both_bad"), or a conversation's ("held" or
    "broke", at the model's answer number `turn`, from 0), None for other items. A label is the rank
    0 for good and 1 for bad. `revises` is the verdict that the page means to replace, 0 for an
    answer that has no verdict.
    """

    key: str
    action: Action
    ranks: tuple[int, ...]
    outcome: str | None
    strength: int | None
    comment: str | None
    reason: str | None
    tags: tuple[str, ...]
    view: Literal["rendered", "raw"]
    with_difference: bool
    seconds: float | None
    revises: int | None
    turn: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What is stored of the answer, for the page to show again."""
        return {**asdict(self), "ranks": list(self.ranks), "tags": list(self.tags)}


def read_answer(body: Mapping[str, Any], settings: AnnotateSettings, size: int) -> PageAnswer:
    """The answer in a request's body, for an item of `size` responses. Raises RequestError."""
    action = _one_of(body, "action", ("vote", "skip", "flag"))
    outcome: str | None = None
    ranks: tuple[int, ...] = ()
    if action == "vote":
        outcome, ranks = _read_choice(body, size, settings.task)
    strength = body.get("strength")
    if strength is not None and (
        strength not in (1, 2, 3) or outcome not in HAVE_STRENGTH or not settings.strength
    ):
        raise RequestError(f"A strength of {strength!r} does not belong to this answer.")
    tags = body.get("tags") or []
    if not isinstance(tags, list) or any(tag not in settings.tags for tag in tags):
        raise RequestError(f"The tags {tags!r} are not among {', '.join(settings.tags) or 'none'}.")
    comment = _text(body, "comment")
    turn = None
    if settings.task == "redteam" and action == "vote":
        turn = _read_turn(body, size)
        if outcome == "broke" and (strength is None or not (tags or comment)):
            raise RequestError("Say what broke, by a reason or a comment, and how severe it is.")
    return PageAnswer(
        key=read_key(body),
        action=action,
        ranks=ranks,
        outcome=outcome,
        strength=strength,
        comment=comment,
        reason=_text(body, "reason"),
        tags=tuple(tag for tag in settings.tags if tag in tags),
        view=_one_of(body, "view", ("rendered", "raw")),
        with_difference=body.get("difference") is True,
        seconds=_seconds(body.get("seconds")),
        revises=_whole(body, "revises"),
        turn=turn,
    )


def read_key(body: Mapping[str, Any]) -> str:
    """The client's key of what it sends. Raises RequestError."""
    key = body.get("key")
    if not (
        isinstance(key, str)
        and SHORTEST_KEY <= len(key) <= LONGEST_KEY
        and key.isascii()
        and key.isprintable()
    ):
        raise RequestError(
            f"`key` is not a text of {SHORTEST_KEY} to {LONGEST_KEY} ASCII characters."
        )
    return key


def clean_text(text: str) -> str:
    """The text as a database stores it: neither half a character nor NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def ranks_by_response(answer: PageAnswer, shown: Sequence[int]) -> tuple[int, ...]:
    """The ranks in the order of the item's responses: `shown[i]` is the one shown at i."""
    ranks = [0] * len(shown)
    for position, index in enumerate(shown):
        ranks[index] = answer.ranks[position]
    return tuple(ranks)


def is_correct(ranks: Sequence[int], expected: Sequence[int]) -> bool:
    """Whether all responses that differ in the expected ranks have the same order in `ranks`. Where
    all of them tie, the answer must tie too."""
    if len(expected) == 1 or len(set(expected)) == 1:
        return tuple(ranks) == tuple(expected)
    pairs = [
        (i, j)
        for i in range(len(expected))
        for j in range(len(expected))
        if expected[i] < expected[j]
    ]
    return all(ranks[i] < ranks[j] for i, j in pairs)


def make_verdict(
    answer: PageAnswer,
    ids: Sequence[int],
    shown: Sequence[int],
    *,
    kind: str,
    annotator: str,
    **fields: Any,
) -> Verdict:
    """The verdict on responses `ids` that an answer means; `fields` are the store's others."""
    no_preference = None if answer.action == "vote" else answer.action
    fields |= {"annotator": annotator, **_content(answer)}
    ranks = () if no_preference else ranks_by_response(answer, shown)
    if kind == "pairs":
        outcome: Any = answer.outcome if ranks == (0, 0) else "a" if ranks == (0, 1) else "b"
        return PairVerdict(
            ids[0],
            ids[1],
            no_preference or outcome,
            shown_first="ab"[shown[0]],  # type: ignore[arg-type]
            strength=answer.strength,
            **fields,
        )
    if kind == "rankings":
        return RankingVerdict(
            tuple(ids),
            ranks,
            outcome=no_preference,
            shown=tuple(ids[index] for index in shown),
            **fields,
        )
    score = None if no_preference else float(ranks[0] == 0)
    return RatingVerdict(ids[0], score, outcome=no_preference, **fields)


def make_chat_verdict(answer: PageAnswer, ids: Sequence[int], **fields: Any) -> RatingVerdict:
    """The verdict on one of a conversation's answers `ids`, by default the last."""
    return RatingVerdict(
        ids[-1 if answer.turn is None else answer.turn],
        None if answer.action != "vote" else float(answer.outcome == "held"),
        outcome=None if answer.action == "vote" else answer.action,
        strength=answer.strength,
        **_content(answer),
        **fields,
    )


def _content(answer: PageAnswer) -> dict[str, Any]:
    """What a verdict of any kind holds of an answer."""
    return {
        "reason": answer.reason,
        "comment": answer.comment,
        "tags": answer.tags,
        "view": answer.view,
        "seconds": answer.seconds,
        "key": answer.key,
    }


def _read_choice(
    body: Mapping[str, Any], size: int, task: str
) -> tuple[str | None, tuple[int, ...]]:
    if task == "redteam":
        return _one_of(body, "outcome", ("held", "broke")), ()
    if task == "pairs":
        outcome = _one_of(body, "outcome", tuple(OUTCOMES))
        return outcome, OUTCOMES[outcome]
    ranks = body.get("ranks")
    if not (
        isinstance(ranks, list)
        and len(ranks) == size
        and all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
    ):
        raise RequestError(f"The ranks {ranks!r} are not {size} whole numbers.")
    if size == 1 and ranks[0] in (0, 1):
        return None, (ranks[0],)
    # The rank of a response is how many are better, so that a tie for best is 0, 0, 2.
    counted = tuple(sum(other < rank for other in ranks) for rank in ranks)
    if size == 1 or counted != tuple(ranks):
        raise RequestError(f"The ranks {ranks!r} do not say how many responses are better.")
    return None, counted


def _read_turn(body: Mapping[str, Any], size: int) -> int:
    turn = _whole(body, "turn")
    if turn is None or turn >= size:
        raise RequestError(f"`turn` is {turn!r}, but the model has given {size} answers.")
    return turn


def _one_of(body: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> Any:
    value = body.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise RequestError(f"`{name}` is {value!r}, not one of {', '.join(allowed)}.")
    return value


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST_COMMENT:
        raise RequestError(f"`{name}` is not a text of at most {LONGEST_COMMENT:,} characters.")
    return clean_text(value).strip() or None


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"`{name}` is {value!r}, not a whole number.")
    return value


def finite_number(value: object) -> float | None:
    """A number of a request; None for anything else, and for one that no clock shows."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of any length is JSON
        return None
    return number if math.isfinite(number) else None


def _seconds(value: object) -> float | None:
    number = finite_number(value)
    return None if number is None else round(max(0.0, number), 3)
