"""The stages that compare: verdicts on responses for learning, and battles for ratings."""

from __future__ import annotations

import itertools
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accord.compare.judges.judge import Candidates, NoVerdict, Ranks
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError, WorkError
from accord.measure.ratings.rate import rate_models
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import NamedJudge, judge_of
from accord.records import Outcome, Prompt, Response, labels_from_ranks
from accord.runs import storage_errors, write_json_atomic
from accord.settings.stages import ArenaSettings, CompareSettings

Numbered = tuple[int, Response]
"""A response with its id in the store."""

CHUNK = 100  # prompts judged between two reports of progress


def compare(settings: CompareSettings) -> Iterator[Progress]:
    """Write store.db: all responses, and a judge's verdicts on those to the same prompt.

    What an earlier store holds comes first, so that one store can tell of all rounds.
    """
    asked = Asked(judge_of(settings.judge))
    by_prompt: dict[Prompt, list[Response]] = defaultdict(list)
    for place in settings.responses:
        for row in read_responses(place):
            by_prompt[row.prompt] += row.responses
    final = Path(settings.output_dir) / "store.db"
    with _fresh_store(final, settings.earlier) as store:
        prompts = list(by_prompt)
        yield Progress(0, len(prompts))
        for start in range(0, len(prompts), CHUNK):
            part = prompts[start : start + CHUNK]
            ids = iter(store.add_responses([r for p in part for r in by_prompt[p]]))
            questions = [
                question
                for offset, prompt in enumerate(part)
                for own in [[(next(ids), r) for r in by_prompt[prompt]]]
                for question in _questions(prompt, own, settings, start + offset)
            ]
            judged = asked.judged([question for _, question in questions])
            store.add_verdicts(
                [
                    verdict
                    for (order, _), ranks in zip(questions, judged, strict=True)
                    if ranks is not None
                    for verdict in _verdicts(order, ranks, asked.judge, settings)
                ]
            )
            yield Progress(start + len(part), len(prompts), asked.note())
        counts = store.counts()
    _finish(final)
    asked.write(settings.output_dir, counts)


def _questions(
    prompt: Prompt, responses: Sequence[Numbered], settings: CompareSettings, number: int
) -> list[tuple[Sequence[Numbered], Candidates]]:
    """What the judge is asked about a prompt, each with the responses as they are shown."""
    rng = random.Random(f"compare {settings.seed} {number}")
    order = list(responses)
    rng.shuffle(order)  # neither the judge nor the pairing may depend on who came first
    if settings.form != "pairs":
        parts = [order]
    else:
        parts = [order[i : i + 2] for i in range(0, len(order), 2)]
    return [(part, _question([r for _, r in part], rng)) for part in parts if len(part) > 1]


def _question(responses: Sequence[Response], rng: random.Random) -> Candidates:
    texts, finished = (r.text for r in responses), (r.finished for r in responses)
    return Candidates(responses[0].prompt, tuple(texts), tuple(finished), rng.getrandbits(32))


def _verdicts(
    order: Sequence[Numbered], ranks: Ranks, judge: NamedJudge, settings: CompareSettings
) -> list[Verdict]:
    """What is kept of the places that the judge gave."""
    name, first = judge.name, judge.shown_first
    if settings.form == "pairs":
        (a, _), (b, _) = order
        outcome = outcome_of(ranks)
        return [PairVerdict(a, b, outcome, name, settings.round, shown_first=first)]
    if settings.form == "rankings":
        return [RankingVerdict(tuple(i for i, _ in order), ranks, name, settings.round)]
    if settings.form == "best_worst":
        ends = (ranks.index(min(ranks)), ranks.index(max(ranks)))  # the same one if all tie
        best, worst = ends if ends[0] != ends[1] else (0, 1)
        outcome = outcome_of((ranks[best], ranks[worst]))
        return [PairVerdict(order[best][0], order[worst][0], outcome, name, settings.round)]
    labels = zip(order, labels_from_ranks(ranks), strict=True)
    return [
        RatingVerdict(i, float(label), name, settings.round)
        for (i, _), label in labels
        if label is not None
    ]


@dataclass
class Asked:
    """A judge, and how many questions it was asked and gave no verdict on."""

    judge: NamedJudge
    questions: int = 0
    missing: int = 0

    def judged(self, questions: Sequence[Candidates]) -> list[Ranks | None]:
        """The places of each question's responses; None where there is no verdict.

        Raises WorkError where there has not been one at all: something is wrong with the judge.
        """
        found = self.judge.judge(questions)
        missing = [one for one in found if isinstance(one, NoVerdict)]
        self.questions += len(found)
        self.missing += len(missing)
        if self.questions and self.missing == self.questions:
            raise WorkError(
                f"The judge {self.judge.name} gave no verdict on any of {self.questions} "
                f"questions. Of the first: {missing[0].reason}. Take a model that follows the "
                f"form, raise judge.answer_tokens, or shorten what is judged."
            )
        return [None if isinstance(one, NoVerdict) else one for one in found]

    def note(self) -> str:
        """What is told with the progress."""
        return f"{self.missing:,} without a verdict" if self.missing else ""

    def write(self, folder: str, counts: Mapping[str, int]) -> None:
        """counts.json: what the store holds, what has no verdict, and what the judge counted."""
        told = {} if self.judge.usage is None else {"judge": dict(self.judge.usage())}
        everything = {**counts, "without_verdict": self.missing, **told}
        write_json_atomic(Path(folder) / "counts.json", everything)


def outcome_of(ranks: Sequence[int]) -> Outcome:
    """A pair's outcome from the places of its two responses."""
    first, second = ranks
    return "tie" if first == second else "a" if first < second else "b"


def arena(settings: ArenaSettings) -> Iterator[Progress]:
    """Write store.db, each pair of models compared on each shared prompt, and ratings.json."""
    asked = Asked(judge_of(settings.judge))
    answers = {c.name: _first_answers(read_responses(c.responses)) for c in settings.contestants}
    if len(answers) < 2:
        raise DataError("An arena needs at least two contestants with different names.")
    first = next(iter(answers.values()))
    shared = [p for p in first if all(p in own for own in answers.values())]
    if not shared:
        raise DataError(
            "The contestants have answered no prompt in common. Sample all of them on one data set."
        )
    final = Path(settings.output_dir) / "store.db"
    with _fresh_store(final) as store:
        yield Progress(0, len(shared))
        for start in range(0, len(shared), CHUNK):
            part = shared[start : start + CHUNK]
            _battle(store, asked, part, answers, settings.seed)
            note = f"{len(answers)} models  {asked.note()}".rstrip()
            yield Progress(start + len(part), len(shared), note)
        battles = store.battles()
        counts = store.counts()
    _finish(final)
    asked.write(settings.output_dir, counts)
    ratings = rate_models(
        battles,
        anchor=settings.anchor,
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        prior=settings.prior,
        seed=settings.seed,
    )
    write_json_atomic(Path(settings.output_dir) / "ratings.json", ratings.to_json())


def _first_answers(rows: Sequence[ResponseRow]) -> dict[Prompt, Response]:
    return {row.prompt: row.responses[0] for row in rows if row.responses}


def _battle(
    store: PreferenceStore,
    asked: Asked,
    prompts: Sequence[Prompt],
    answers: dict[str, dict[Prompt, Response]],
    seed: int,
) -> None:
    """Every pair of models on each prompt, sides by the toss of a coin."""
    names = list(answers)
    items = [
        Response(p, own.text, name, own.settings, own.logp, own.tokens, own.finished)
        for p in prompts
        for name in names
        for own in [answers[name][p]]
    ]
    ids = iter(store.add_responses(items))
    questions: list[tuple[int, int, Candidates]] = []
    for prompt in prompts:
        own_ids = {name: next(ids) for name in names}
        rng = random.Random(f"arena {seed} {prompt}")
        for pair in itertools.combinations(names, 2):
            a, b = pair if rng.random() < 0.5 else pair[::-1]
            question = _question([answers[a][prompt], answers[b][prompt]], rng)
            questions.append((own_ids[a], own_ids[b], question))
    judge, judged = asked.judge, asked.judged([question for _, _, question in questions])
    verdicts = [
        PairVerdict(a, b, outcome_of(ranks), judge.name, shown_first=judge.shown_first)
        for (a, b, _), ranks in zip(questions, judged, strict=True)
        if ranks is not None
    ]
    store.add_verdicts(verdicts)


def _fresh_store(final: Path, earlier: str | None = None) -> PreferenceStore:
    """A store under a temporary name; what an interrupted start left of it is cleared.

    It begins as a copy of an earlier store in a file, or empty. Raises DataError where that store
    is not there, or is no file.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for old in final.parent.glob(f"{final.name}.partial*"):
        old.unlink()
    partial = final.with_name(final.name + ".partial")
    if earlier is not None:
        if "://" in earlier:
            raise DataError(
                "`earlier` must be a store in a file, such as store.db, and not at a URL. Leave "
                "it out, or copy that store to a file."
            )
        PreferenceStore.open(
            earlier, create=False
        ).close()  # its newest rows go from the log to the file
        with storage_errors(partial):
            shutil.copyfile(Path(earlier).expanduser(), partial)
    return PreferenceStore.open(partial)


def _finish(final: Path) -> None:
    final.with_name(final.name + ".partial").replace(final)
