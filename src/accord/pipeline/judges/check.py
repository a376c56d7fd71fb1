"""Measures a judge on pairs that people have judged (`accord judge check`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accord.compare.judges.questions import BothOrders, Candidates, NoVerdict, Preferred
from accord.data.report import ReadReport
from accord.data.voted_pairs import VotedPair
from accord.errors import DataError, WorkError
from accord.measure.agreement.judged import NONE, TIE, A, B, JudgedPairs, code_people
from accord.measure.agreement.preferences import repeatability
from accord.measure.agreement.proof import Proof, prove_judge
from accord.measure.agreement.ratings import code_ratings
from accord.measure.agreement.summary import Agreement, measure_agreement
from accord.measure.statistics import Interval
from accord.pipeline.judges.asking import Ask, AskedJudge
from accord.pipeline.progress import Progress
from accord.records import Prompt, prompt_text

CHUNK = 100  # pairs between two yields of progress
TRIAL = 4  # pairs asked before the others, since each answer may cost money
SIDES = {"a": A, "b": B, "tie": TIE}


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How a judge is measured.

    `min_kappa` is the bar that its kappa must surely pass, 0 that of the best constant answer.
    `max_pairs` are drawn by `seed` from more. `repeats` pairs are asked again. `own_model` is the
    name of the model whose answers count as the judge's own.
    """

    min_kappa: float = 0.0
    confidence: float = 0.95
    max_pairs: int | None = None
    repeats: int = 15
    own_model: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What the check of a judge found.

    `skipped` counts the pairs that were not asked about, by reason. `agreement` is that of people
    with each other, None where each pair has one vote. `repeated` is the share of questions with
    the same verdict when asked again.
    """

    judge: str
    fingerprint: Mapping[str, Any] | None
    people: str
    rows: ReadReport
    annotators: int
    skipped: Mapping[str, int]
    proof: Proof
    repeated: Interval
    agreement: Agreement | None
    options: CheckOptions
    usage: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.proof.result == "pass"

    def to_json(self) -> dict[str, Any]:
        options = self.options
        return {
            "judge": self.judge,
            "fingerprint": None if self.fingerprint is None else dict(self.fingerprint),
            "people": {
                "path": self.people,
                "rows": self.rows.rows,
                "dropped": {reason: len(rows) for reason, rows in self.rows.dropped.items()},
                "annotators": self.annotators,
                "skipped": dict(self.skipped),
                "agreement": None if self.agreement is None else self.agreement.to_json(),
            },
            **self.proof.to_json(),
            "repeated": self.repeated.to_json(),
            "usage": dict(self.usage),
            "options": {
                "confidence": options.confidence,
                "max_pairs": options.max_pairs,
                "repeats": options.repeats,
                "own_model": options.own_model,
                "seed": options.seed,
            },
        }


def check_judge(
    judge: AskedJudge,
    pairs: Sequence[VotedPair],
    rows: ReadReport,
    options: CheckOptions,
    *,
    tuned_on: Sequence[Prompt] = (),
) -> Generator[Progress, None, JudgeReport]:
    """Ask the judge about each pair in both orders, step by step, and return the report.

    Left out, and counted, are pairs without a majority of people, those with two equal responses,
    and those whose prompt is among `tuned_on`. Raises DataError where none is left, and WorkError
    where the judge gives no verdict on any of the first pairs.
    """
    people = code_people([[SIDES[vote.side] for vote in pair.votes] for pair in pairs])
    chosen, skipped = _choose(pairs, people, options, tuned_on)
    questions = [
        Candidates(pairs[i].prompt, (pairs[i].response_a, pairs[i].response_b), pairs[i].finished)
        for i in chosen
    ]
    verdicts: list[BothOrders] = []
    yield Progress(0, len(questions))
    for start, end in _chunks(len(questions)):
        verdicts += judge.ask(questions[start:end])
        _require_verdicts(judge.name, verdicts)
        yield Progress(end, len(questions), f"{judge.name}")
    judged = _judged_pairs([pairs[i] for i in chosen], people[chosen], verdicts, judge, options)
    repeated = _repeat(judge.ask, questions, verdicts, judged, options)
    return JudgeReport(
        judge=judge.name,
        fingerprint=None if judge.fingerprint is None else _fingerprint_json(judge),
        people=rows.path,
        rows=rows,
        annotators=len({vote.annotator for pair in pairs for vote in pair.votes}),
        skipped=skipped,
        proof=prove_judge(
            judged,
            min_kappa=options.min_kappa,
            confidence=options.confidence,
            seed=options.seed,
        ),
        repeated=repeated,
        agreement=_people_agreement(pairs, options),
        options=options,
        usage={} if judge.usage is None else judge.usage(),
    )


def _choose(
    pairs: Sequence[VotedPair],
    people: np.ndarray[Any, Any],
    options: CheckOptions,
    tuned_on: Sequence[Prompt],
) -> tuple[list[int], dict[str, int]]:
    """The indices of the pairs to ask about, in order, and how many are left out by reason."""
    tuned = {_normalise(prompt) for prompt in tuned_on}
    skipped: dict[str, int] = {}
    chosen = []
    for i, pair in enumerate(pairs):
        reason = None
        if people[i] == NONE:
            reason = "no majority of people"
        elif pair.response_a == pair.response_b:
            reason = "equal responses"
        elif tuned and _normalise(pair.prompt) in tuned:
            reason = "the judge was tuned on its prompt"
        if reason is None:
            chosen.append(i)
        else:
            skipped[reason] = skipped.get(reason, 0) + 1
    if not chosen:
        raise DataError(
            f"None of {len(pairs)} pairs can measure a judge: "
            f"{'; '.join(f'{n} {reason}' for reason, n in skipped.items())}. Give other verdicts."
        )
    limit = options.max_pairs
    if limit is not None and limit < len(chosen):
        skipped["not drawn (max_pairs)"] = len(chosen) - limit
        drawn = np.random.default_rng(options.seed).permutation(len(chosen))[:limit]
        chosen = [chosen[i] for i in sorted(drawn.tolist())]
    return chosen, skipped


def _normalise(prompt: Prompt) -> str:
    return " ".join(prompt_text(prompt).casefold().split())


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    start = 0
    for end in [*range(min(TRIAL, count), count, CHUNK), count]:
        if end > start:
            yield start, end
        start = end


def _require_verdicts(name: str, verdicts: Sequence[BothOrders]) -> None:
    """Raise WorkError while there has been no verdict at all: then the judge does not work."""
    given = [v for both in verdicts for v in (both.forward, both.backward)]
    missing = [verdict for verdict in given if isinstance(verdict, NoVerdict)]
    if missing and len(missing) == len(given):
        raise WorkError(
            f"The judge {name} gave no verdict on any of {len(given)} questions. Of the first: "
            f"{missing[0].reason}. {missing[0].advice}".rstrip()
        )


def _code(verdict: Preferred | NoVerdict) -> int:
    if isinstance(verdict, NoVerdict):
        return NONE
    return TIE if verdict is None else verdict


def _judged_pairs(
    pairs: Sequence[VotedPair],
    people: np.ndarray[Any, Any],
    verdicts: Sequence[BothOrders],
    judge: AskedJudge,
    options: CheckOptions,
) -> JudgedPairs:
    prompts: dict[Prompt, int] = {}
    return JudgedPairs(
        people,
        np.array([_code(both.forward) for both in verdicts], dtype=np.int64),
        np.array([_code(both.backward) for both in verdicts], dtype=np.int64),
        np.array([len(pair.response_a) for pair in pairs], dtype=np.float64),
        np.array([len(pair.response_b) for pair in pairs], dtype=np.float64),
        np.array([prompts.setdefault(pair.prompt, len(prompts)) for pair in pairs]),
        np.array([_own_side(pair, options.own_model or judge.model) for pair in pairs]),
    )


def _own_side(pair: VotedPair, model: str | None) -> int:
    """The side that the judge's own model wrote, NONE where it wrote neither or both."""
    own_sides = [model is not None and written_by == model for written_by in pair.models]
    if own_sides[0] == own_sides[1]:
        return NONE
    return A if own_sides[0] else B


def _repeat(
    ask: Ask,
    questions: Sequence[Candidates],
    verdicts: Sequence[BothOrders],
    judged: JudgedPairs,
    options: CheckOptions,
) -> Interval:
    """The share of the same verdicts when some pairs, drawn by the seed, are asked again."""
    order = np.random.default_rng([options.seed, 1]).permutation(len(questions))
    again = order[: options.repeats].tolist()
    answers = ask([questions[i] for i in again], repeat=1) if again else []
    first: list[int] = []
    second: list[int] = []
    for i, both in zip(again, answers, strict=True):
        first += [_code(verdicts[i].forward), _code(verdicts[i].backward)]
        second += [_code(both.forward), _code(both.backward)]
    prompts = judged.prompt[np.repeat(np.array(again, dtype=np.int64), 2)].tolist()
    return repeatability(first, second, prompts, confidence=options.confidence)


def _people_agreement(pairs: Sequence[VotedPair], options: CheckOptions) -> Agreement | None:
    cells = [(i, v.annotator, v.side) for i, pair in enumerate(pairs) for v in pair.votes]
    if len(cells) == len(pairs):
        return None
    items, annotators, sides = zip(*cells, strict=True)
    ratings = code_ratings(items, annotators, sides, categories=list(SIDES))
    return measure_agreement(ratings, confidence=options.confidence, seed=options.seed)


def _fingerprint_json(judge: AskedJudge) -> dict[str, Any]:
    fingerprint = judge.fingerprint
    assert fingerprint is not None
    return {
        "digest": fingerprint.digest,
        "model": fingerprint.model,
        "endpoint": fingerprint.endpoint,
        "prompt": fingerprint.prompt,
        "rubric": fingerprint.rubric,
        "settings": dict(fingerprint.settings),
    }
