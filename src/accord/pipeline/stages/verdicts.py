"""A judge's ranks, or its verdicts in both orders, as verdicts of a preference store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from accord.compare.judges.questions import BothOrders, NoVerdict, Preferred, Ranks
from accord.compare.store.fingerprint import JudgeAnswer
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.pipeline.stages.judges import NamedJudge
from accord.records import Outcome, Response, labels_from_ranks
from accord.settings.stages import CompareSettings

NumberedResponse = tuple[int, Response]
"""A response with its id in the store."""

JUDGE = "judge"
"""The source of a language model's verdicts."""


def source_of(judge: NamedJudge) -> str | None:
    return None if judge.fingerprint is None else JUDGE


def outcome_of_ranks(ranks: Sequence[int]) -> Outcome:
    """A pair's outcome from the ranks of its two responses."""
    first, second = ranks
    return "tie" if first == second else "a" if first < second else "b"


def verdicts_of_ranks(
    responses: Sequence[NumberedResponse],
    ranks: Ranks,
    judge: NamedJudge,
    settings: CompareSettings,
    pairs: Sequence[BothOrders] = (),
) -> list[Verdict]:
    """The judge's ranks in the requested form. `pairs` are the verdicts that the ranks are made of,
    in the order of `itertools.combinations`; a ranking has their answers, and the pair of its best
    and worst those on this pair.
    """
    name = judge.name
    about: dict[str, Any] = {"source": source_of(judge), "judge": judge.fingerprint}
    ids = tuple(i for i, _ in responses)
    couples = zip(itertools.combinations(ids, 2), pairs, strict=False)
    answers = tuple(x for ab, both in couples for x in _answers(*ab, both))
    if settings.form == "pairs":
        (a, _), (b, _) = responses
        outcome = outcome_of_ranks(ranks)
        first = judge.shown_first
        return [PairVerdict(a, b, outcome, name, settings.round, shown_first=first, **about)]
    if settings.form == "rankings":
        return [RankingVerdict(ids, ranks, name, settings.round, answers=answers, **about)]
    if settings.form == "best_worst":
        ends = (ranks.index(min(ranks)), ranks.index(max(ranks)))  # equal if all responses tie
        best, worst = ends if ends[0] != ends[1] else (0, 1)
        outcome = outcome_of_ranks((ranks[best], ranks[worst]))
        a, b = ids[best], ids[worst]
        about["answers"] = tuple(answer for answer in answers if {a, b} == set(answer.shown))
        return [PairVerdict(a, b, outcome, name, settings.round, **about)]
    labels = zip(responses, labels_from_ranks(ranks), strict=True)
    return [
        RatingVerdict(i, float(label), name, settings.round, **about)
        for (i, _), label in labels
        if label is not None
    ]


def verdict_of_orders(
    pair: tuple[int, int],
    both: BothOrders,
    judge: NamedJudge,
    number: int,
    criterion: str | None = None,
) -> PairVerdict:
    """The verdict on a pair, by the ids of its responses, in round `number`; with the raw answers
    and the mean probability of both orders. Undecided where the orders differ, which is no tie."""
    a, b = pair
    outcome: Any = "undecided" if both.undecided else _outcome(both.forward)
    return PairVerdict(
        a,
        b,
        outcome,
        judge.name,
        number,
        criterion=criterion,
        probability=both.probability,
        source=source_of(judge),
        judge=judge.fingerprint,
        answers=_answers(a, b, both) if judge.fingerprint is not None else (),
    )


def _answers(a: int, b: int, both: BothOrders) -> tuple[JudgeAnswer, ...]:
    """The raw answers on the responses a and b, in both orders."""
    orders = ((both.forward, (a, b), "AB"), (both.backward, (b, a), "BA"))
    return tuple(
        JudgeAnswer(text, shown, _word(verdict, names), probability)
        for (verdict, shown, names), text, probability in zip(
            orders, both.answers, both.shown_first, strict=True
        )
        if text is not None
    )


def _outcome(verdict: Preferred | NoVerdict) -> Outcome:
    return "a" if verdict == 0 else "b" if verdict == 1 else "tie"


def _word(verdict: Preferred | NoVerdict, names: str) -> str | None:
    """A verdict in the prompt's words, for the names under which a and b were shown."""
    if isinstance(verdict, NoVerdict):
        return None
    return "tie" if verdict is None else names[verdict]
