"""A language model as a judge: of responses against each other, and of one by itself.

A verdict that can't be read is asked for again, and is then missing: it is never a tie, half a win
or a score.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from accord.compare.judges.endpoint import Ask, Endpoint, Refused
from accord.compare.judges.questions import (
    PAIR,
    again,
    guide_of,
    pair_question,
    scale_of,
    score_question,
    stated,
)
from accord.compare.rewards.reward import PromptResponse, WeightedSource, shorten
from accord.errors import RewardError
from accord.records import Prompt, prompt_text
from accord.settings.endpoint import EndpointSettings
from accord.settings.rewards import JudgeSource

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """Responses to one prompt, to be set in order. `seed` is for the noise of those who have any.

    `finished[i]` is False for a response that was cut before its end.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    finished: tuple[bool, ...]
    seed: int = 0


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """A judge could not judge; nothing may be made of it."""

    why: str


Ranks = tuple[int, ...]
"""The place of each response, 0 best, equal = tie."""


@dataclass
class Verdicts:
    """What was said of pairs, each asked in both orders, and of what could not be read.

    `first`, `second` and `tie` count single verdicts by the place of the response that was
    preferred: a judge without a leaning to a place says first as often as second.
    """

    pairs: int = 0
    order_disagreements: int = 0
    first: int = 0
    second: int = 0
    tie: int = 0
    unreadable_answers: int = 0
    missing: int = 0


class AiJudge:
    """A judge at an endpoint. `told` says what it cost, and how its verdicts fell out."""

    def __init__(self, settings: EndpointSettings, model: str) -> None:
        """Raises SettingsError where key or principles can't be had."""
        self.endpoint = Endpoint(settings, model)
        self.guide = guide_of(settings)
        self.attempts = settings.attempts
        self.verdicts = Verdicts()

    def usage(self) -> dict[str, int]:
        """Calls, tokens and kept answers of this start, and the counts of its verdicts."""
        return {**self.endpoint.usage(), **asdict(self.verdicts)}

    def ranks(self, questions: Sequence[Question]) -> list[Ranks | NoVerdict]:
        """The places by wins over the others, each pair in both orders: K·(K − 1) calls.

        A pair whose two verdicts differ is a tie, half a win for each. A prompt with a pair that
        has no verdict has none. Raises WorkError and SettingsError as `Endpoint.ask`.
        """
        pairs = [_pairs(question) for question in questions]
        outcomes = iter(self._outcomes([pair for own in pairs for pair in own]))
        found: list[Ranks | NoVerdict] = []
        for question, own in zip(questions, pairs, strict=True):
            results = list(itertools.islice(outcomes, len(own)))
            missing = next((r for r in results if isinstance(r, NoVerdict)), None)
            known = [r for r in results if not isinstance(r, NoVerdict)]
            found.append(missing or places_by_wins(len(question.responses), known))
        return found

    def scores(
        self, rows: Sequence[PromptResponse], *, lowest: int, highest: int
    ) -> list[int | NoVerdict]:
        """A score from `lowest` to `highest` for each response: one call. Raises as `ranks`."""
        questions = [
            score_question(
                self.guide, row.prompt, row.response, row.finished, lowest=lowest, highest=highest
            )
            for row in rows
        ]
        return self._read(questions, "score", scale_of(lowest, highest))

    def _outcomes(self, pairs: Sequence[Question]) -> list[int | NoVerdict | None]:
        """The better one of each pair, 0 or 1, or None where neither is."""
        orders = [order for pair in pairs for order in (pair, _swapped(pair))]
        questions = [pair_question(self.guide, o.prompt, o.responses, o.finished) for o in orders]
        # Two texts that are the same need no judge.
        needed = [i for i, o in enumerate(orders) if not _same(o)]
        read = self._read([questions[i] for i in needed], "verdict", PAIR)
        said = dict(zip(needed, read, strict=True))
        return [
            None if _same(pair) else self._outcome(said[2 * i], said[2 * i + 1])
            for i, pair in enumerate(pairs)
        ]

    def _outcome(
        self, one: int | NoVerdict | None, other: int | NoVerdict | None
    ) -> int | NoVerdict | None:
        """Of the verdicts in both orders: what they agree on."""
        counts = self.verdicts
        counts.pairs += 1
        if isinstance(one, NoVerdict) or isinstance(other, NoVerdict):
            return one if isinstance(one, NoVerdict) else other
        for place in (one, other):
            counts.first += place == 0
            counts.second += place == 1
            counts.tie += place is None
        turned = None if other is None else 1 - other
        counts.order_disagreements += one != turned
        return one if one == turned else None

    def _read(
        self, questions: Sequence[Ask], key: str, may_be: Mapping[str, T]
    ) -> list[T | NoVerdict]:
        """What is answered to each question; those that can't be read are put again."""
        found: list[T | NoVerdict] = [NoVerdict("not asked")] * len(questions)
        left = list(range(len(questions)))
        for attempt in range(self.attempts):
            answers = self.endpoint.ask([again(questions[i], attempt) for i in left])
            still = []
            for i, answer in zip(left, answers, strict=True):
                if isinstance(answer, Refused):
                    found[i] = NoVerdict(f"the server refused the question ({answer.why})")
                    continue
                value = None if answer.cut else stated(answer.text, key, may_be)
                if value is not None:
                    found[i] = value[0]
                    continue
                why = "was cut before its end" if answer.cut else "holds no such value"
                found[i] = NoVerdict(f"the answer {shorten(repr(answer.text))} {why}")
                still.append(i)
            self.verdicts.unreadable_answers += len(still)
            left = still
        missing = [value for value in found if isinstance(value, NoVerdict)]
        self.verdicts.missing += len(missing)
        if missing:
            log.warning(
                "The judge %s gave no verdict on %d of %d questions. Of the first: %s.",
                self.endpoint.model,
                len(missing),
                len(found),
                missing[0].why,
            )
        return found


def places_by_wins(count: int, outcomes: Sequence[int | None]) -> Ranks:
    """The places of `count` responses from the outcomes of their pairs, in the order of
    `itertools.combinations`: 0 for the earlier one, 1 for the later, None for a tie, half a win."""
    wins = [0.0] * count
    for (i, j), outcome in zip(itertools.combinations(range(count), 2), outcomes, strict=True):
        wins[i] += 0.5 if outcome is None else outcome == 0
        wins[j] += 0.5 if outcome is None else outcome == 1
    return tuple(sum(other > own for other in wins) for own in wins)


def judge_sources(source: JudgeSource) -> Iterator[WeightedSource]:
    """A judge's score as a source of a reward, and beside it the share that had none."""
    judge = AiJudge(source, source.model)
    missing: list[float] = []

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        found = judge.scores(rows, lowest=source.lowest, highest=source.highest)
        missing[:] = [float(isinstance(score, NoVerdict)) for score in found]
        return with_means(source, rows, found)

    yield WeightedSource(source.title, source.weight, scores, judge.usage)
    if source.unreadable == "mean":
        yield WeightedSource(f"{source.title}.unreadable", 0.0, lambda rows: list(missing))


def with_means(
    source: JudgeSource, rows: Sequence[PromptResponse], found: Sequence[int | NoVerdict]
) -> list[float]:
    """The scores, and where one is missing the mean of the others to its prompt, or of all.

    Raises RewardError where `unreadable` is `error` and one is missing, or where all are.
    """
    by_prompt: dict[Prompt, list[int]] = defaultdict(list)
    for row, score in zip(rows, found, strict=True):
        if not isinstance(score, NoVerdict):
            by_prompt[row.prompt].append(score)
    everyone = [score for own in by_prompt.values() for score in own]
    scores = []
    for row, score in zip(rows, found, strict=True):
        if isinstance(score, NoVerdict):
            if source.unreadable == "error" or not everyone:
                raise RewardError(_no_score(source, row, score))
            own = by_prompt[row.prompt] or everyone
            scores.append(sum(own) / len(own))
        else:
            scores.append(float(score))
    return scores


def _no_score(source: JudgeSource, row: PromptResponse, missing: NoVerdict) -> str:
    return (
        f"The judge `{source.title}` gave no score for the response "
        f"{shorten(repr(row.response))} to the prompt "
        f"{shorten(repr(prompt_text(row.prompt)))} in {source.attempts} attempts: {missing.why}. "
        f"Take a model that follows the form, raise answer_tokens, or set unreadable=mean, which "
        f"puts the mean of the others in its place and counts it."
    )


def _pairs(question: Question) -> list[Question]:
    """Each two of the responses."""
    both = list(zip(question.responses, question.finished, strict=True))
    return [
        Question(question.prompt, (a[0], b[0]), (a[1], b[1]))
        for a, b in itertools.combinations(both, 2)
    ]


def _swapped(pair: Question) -> Question:
    return Question(pair.prompt, pair.responses[::-1], pair.finished[::-1])


def _same(pair: Question) -> bool:
    return len(set(zip(pair.responses, pair.finished, strict=True))) == 1
