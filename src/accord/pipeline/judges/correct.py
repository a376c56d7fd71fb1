"""A judge's win rate between two models, corrected by the pairs that people have judged too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.compare.judges.people import PERSON
from accord.compare.store.rows import Selection, StoredResponse, StoredVerdict
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError
from accord.measure.agreement.prediction_powered import prediction_powered_mean
from accord.measure.statistics import Interval, clustered_proportion

SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5, "undecided": 0.5}


@dataclass(frozen=True, slots=True)
class CorrectedWinRate:
    """`model`'s win rate against `against`, a tie counting half: by the `judge` over all its pairs,
    by `people` over the pairs that they judged too, and `corrected`: the judge's over all pairs,
    with its error as people's pairs show it. All take prompts as independent."""

    model: str
    against: str
    judge: Interval
    people: Interval
    corrected: Interval
    pairs: int
    people_pairs: int

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "against": self.against,
            "pairs": self.pairs,
            "people_pairs": self.people_pairs,
            "judge": self.judge.to_json(),
            "people": self.people.to_json(),
            "corrected": self.corrected.to_json(),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.model} against {self.against}: wins, a tie counting half",
            f"  the judge    {_show(self.judge)} of {self.pairs:,} pairs",
            f"  people       {_show(self.people)} of {self.people_pairs:,} of these",
            f"  corrected    {_show(self.corrected)}",
        ]
        return "\n".join(lines)


def correct_win_rate(
    path: str | Path,
    judge: str,
    model: str,
    against: str,
    *,
    people: Sequence[str] = (),
    confidence: float = 0.95,
) -> CorrectedWinRate:
    """The win rates of two models in a store by an annotator `judge`, corrected by people's votes
    (Angelopoulos et al. 2023; weighted as in PPI++, Angelopoulos, Duchi and Zrnic 2023).

    Several people's votes on a pair count as their mean. It holds where people judged a random
    draw of the judge's pairs. Raises DataError where the judge or people have none of these pairs.
    """
    with PreferenceStore.read(path) as store:
        responses = {stored.id: stored for stored in store.responses()}
        by_judge = _scores(store, Selection("pair", annotators=(judge,)), responses, model, against)
        given = Selection(
            "pair", annotators=tuple(people) or None, sources=None if people else (PERSON,)
        )
        by_people = _scores(store, given, responses, model, against)
        shared = [item for item in by_judge if item in by_people]
        others = [item for item in by_judge if item not in by_people]
        if len(shared) < 2 or not others:
            raise DataError(
                f"{store.path} has {len(by_judge):,} pairs of {model} and {against} that the "
                f"annotator {judge!r} judged, {len(shared):,} of them judged by people too. The "
                f"correction needs two or more of these, and others by the judge alone. Check "
                f"the names, or name those who are people with --people."
            )
    prompt = {item: responses[item[0]].prompt_id for item in by_judge}
    judged = {item: _mean(scores) for item, scores in by_judge.items()}
    labels = {item: _mean(by_people[item]) for item in shared}
    corrected = prediction_powered_mean(
        [judged[item] for item in others],
        [judged[item] for item in shared],
        [labels[item] for item in shared],
        weight=None,
        confidence=confidence,
        prompts=[prompt[item] for item in others],
        labelled_prompts=[prompt[item] for item in shared],
    )
    return CorrectedWinRate(
        model,
        against,
        _by_prompt(judged, prompt, confidence),
        _by_prompt(labels, prompt, confidence),
        corrected,
        len(judged),
        len(shared),
    )


Item = tuple[int, int]
"""The ids of two responses, the first the model's."""


def _scores(
    store: PreferenceStore,
    selection: Selection,
    responses: dict[int, StoredResponse],
    model: str,
    against: str,
) -> dict[Item, list[float]]:
    """The scores of `model` in the selected verdicts on pairs with `against`."""
    scores: dict[Item, list[float]] = {}
    for verdict in store.iterate_verdicts(selection):
        score = SCORES.get(verdict.outcome or "")
        if score is None:
            continue
        a, b = _ids(verdict)
        models = (responses[a].response.model, responses[b].response.model)
        if models == (model, against):
            scores.setdefault((a, b), []).append(score)
        elif models == (against, model):
            scores.setdefault((b, a), []).append(1 - score)
    return scores


def _ids(verdict: StoredVerdict) -> Item:
    first, second = verdict.items
    return first.response_id, second.response_id


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _by_prompt(scores: dict[Item, float], prompt: dict[Item, int], confidence: float) -> Interval:
    groups: dict[int, list[float]] = {}
    for item, score in scores.items():
        groups.setdefault(prompt[item], []).append(score)
    return clustered_proportion(list(groups.values()), confidence=confidence)


def _show(rate: Interval) -> str:
    if rate.low is None or rate.high is None:
        return f"{rate.mean:.1%}"
    return f"{rate.mean:.1%} ({rate.low:.1%} to {rate.high:.1%})"
