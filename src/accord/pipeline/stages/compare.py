"""The stages that compare: verdicts on responses for learning, and battles for ratings."""

from __future__ import annotations

import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from accord.compare.judges.questions import BothOrders, Candidates, NoVerdict, RankedPairs, Ranks
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, Verdict
from accord.data.write import read_responses
from accord.errors import DataError, WorkError
from accord.pipeline.progress import Progress
from accord.pipeline.stages.battles import build_from_store, rate_file, write_ratings
from accord.pipeline.stages.contestants import Question, check_names, pair_rows
from accord.pipeline.stages.judges import NamedJudge, build_judge
from accord.pipeline.stages.verdicts import (
    NumberedResponse,
    outcome_of_ranks,
    source_of,
    verdict_of_orders,
    verdicts_of_ranks,
)
from accord.records import Prompt, Response
from accord.runs import write_json_atomic
from accord.settings.arena import ArenaSettings
from accord.settings.stages import CompareSettings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

CHUNK = 100  # prompts judged between two yields of progress
TRIAL = 8  # questions to a judge that has not given a verdict yet


def compare(settings: CompareSettings) -> Iterator[Progress]:
    """Write store.db: all responses, and a judge's verdicts on responses to the same prompt.

    The content of the store `earlier` comes first, so that one store can hold all rounds.
    """
    judge = CountingJudge(build_judge(settings.judge))
    by_prompt: dict[Prompt, list[Response]] = defaultdict(list)
    for path in settings.responses:
        for row in read_responses(path):
            by_prompt[row.prompt] += row.responses
    final = Path(settings.output_dir) / "store.db"
    alone = _count_alone(by_prompt, settings)
    with open_partial_store(final, settings.earlier) as store:
        prompts = list(by_prompt)
        yield Progress(0, len(prompts))
        for start in range(0, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            ids = iter(store.add_responses([r for p in chunk for r in by_prompt[p]]))
            candidate_sets = []
            for number, prompt in enumerate(chunk, start=start):
                responses = [(next(ids), response) for response in by_prompt[prompt]]
                candidate_sets += _candidate_sets(responses, settings, number)
            store.add_verdicts(list(_judge_sets(candidate_sets, judge, settings)))
            yield Progress(start + len(chunk), len(prompts), judge.progress_note())
        counts = store.counts()
    rename_partial_store(final)
    judge.write_counts(settings.output_dir, {**counts, "not_compared": alone})


def _judge_sets(
    candidate_sets: Sequence[tuple[Sequence[NumberedResponse], Candidates]],
    judge: CountingJudge,
    settings: CompareSettings,
) -> Iterator[Verdict]:
    """The verdicts on sets of responses, in the requested form."""
    candidates = [each for _, each in candidate_sets]
    sets = [responses for responses, _ in candidate_sets]
    if settings.form == "pairs" and judge.judge.both_orders is not None:
        for responses, both in zip(sets, judge.both_orders(candidates), strict=True):
            if both is not None:
                ids = (responses[0][0], responses[1][0])
                yield verdict_of_orders(ids, both, judge.judge, settings.round)
        return
    if judge.judge.ranked_pairs is not None:
        for responses, ranked in zip(sets, judge.ranked_pairs(candidates), strict=True):
            if ranked is not None:
                yield from verdicts_of_ranks(
                    responses, ranked.ranks, judge.judge, settings, ranked.pairs
                )
        return
    for responses, ranks in zip(sets, judge.rank(candidates), strict=True):
        if ranks is not None:
            yield from verdicts_of_ranks(responses, ranks, judge.judge, settings)


def _count_alone(by_prompt: Mapping[Prompt, Sequence[Response]], settings: CompareSettings) -> int:
    """The number of responses that meet no other to their prompt; it is logged. Raises DataError
    where all are such."""
    total = sum(map(len, by_prompt.values()))
    if settings.form == "pairs":
        alone = sum(len(responses) % 2 for responses in by_prompt.values())
    else:
        alone = sum(len(responses) == 1 for responses in by_prompt.values())
    paths = ", ".join(settings.responses)
    if alone == total:
        raise DataError(
            f"No prompt in {paths} has two responses, so there is nothing to compare. Sample with "
            f"num_responses=2 or more, or name the files of several models on the same prompts."
        )
    if alone:
        log.warning(
            "%d of %d responses in %s have no other one to meet, and are not compared.",
            alone,
            total,
            paths,
        )
    return alone


def _candidate_sets(
    responses: Sequence[NumberedResponse], settings: CompareSettings, number: int
) -> list[tuple[Sequence[NumberedResponse], Candidates]]:
    """The sets of responses to prompt `number` that the judge ranks, in the order it sees them."""
    rng = random.Random(f"compare {settings.seed} {number}")
    order = list(responses)
    rng.shuffle(order)  # neither the judge nor the pairing may depend on the order of sampling
    if settings.form != "pairs":
        parts = [order]
    else:
        parts = [order[i : i + 2] for i in range(0, len(order), 2)]
    return [(part, _candidates([r for _, r in part], rng)) for part in parts if len(part) > 1]


def _candidates(responses: Sequence[Response], rng: random.Random) -> Candidates:
    texts, finished = (r.answer for r in responses), (r.finished for r in responses)
    return Candidates(responses[0].prompt, tuple(texts), tuple(finished), rng.getrandbits(32))


@dataclass
class CountingJudge:
    """A judge, with the number of its questions and of those that it gave no verdict on."""

    judge: NamedJudge
    questions: int = 0
    missing: int = 0

    def rank(self, candidate_sets: Sequence[Candidates]) -> list[Ranks | None]:
        """The ranks of the responses in each set; None where there is no verdict.

        The first TRIAL sets are judged before the others, since each answer may cost money. Raises
        WorkError while there has been no verdict at all: then the judge does not work.
        """
        return self._ask(self.judge.judge, candidate_sets, lambda answer: answer)

    def both_orders(self, pairs: Sequence[Candidates]) -> list[BothOrders | None]:
        """As `rank`, the verdicts on pairs in both orders; None where one of them is missing."""
        assert self.judge.both_orders is not None  # the caller has looked
        return self._ask(self.judge.both_orders, pairs, lambda both: both.missing)

    def ranked_pairs(self, candidate_sets: Sequence[Candidates]) -> list[RankedPairs | None]:
        """As `rank`, with the verdicts on all pairs."""
        assert self.judge.ranked_pairs is not None  # the caller has looked
        return self._ask(self.judge.ranked_pairs, candidate_sets, lambda answer: answer)

    def _ask(
        self,
        ask: Callable[[Sequence[Candidates]], Sequence[Answer | NoVerdict]],
        candidate_sets: Sequence[Candidates],
        find_missing: Callable[[Any], Any],
    ) -> list[Answer | None]:
        trial = 0 if self.questions else TRIAL
        answers: list[Answer | None] = []
        for part in (candidate_sets[:trial], candidate_sets[trial:]):
            given = ask(part)
            found_missing = [find_missing(answer) for answer in given]
            missing = [each for each in found_missing if isinstance(each, NoVerdict)]
            self.questions += len(given)
            self.missing += len(missing)
            if missing and self.missing == self.questions:
                raise WorkError(
                    f"The judge {self.judge.name} gave no verdict on any of {self.questions} "
                    f"questions. Of the first: {missing[0].reason}. {missing[0].advice}".rstrip()
                )
            answers += [
                None if isinstance(each, NoVerdict) or isinstance(answer, NoVerdict) else answer
                for each, answer in zip(found_missing, given, strict=True)
            ]
        return answers

    def progress_note(self) -> str:
        """The number of missing verdicts, for the progress bar."""
        return f"{self.missing:,} without a verdict" if self.missing else ""

    def write_counts(self, folder: str, store_counts: Mapping[str, Any]) -> None:
        """Write counts.json: what the store holds, missing verdicts, and the judge's usage."""
        usage = {} if self.judge.usage is None else {"judge": dict(self.judge.usage())}
        counts = {**store_counts, "without_verdict": self.missing, **usage}
        write_json_atomic(Path(folder) / "counts.json", counts)


def arena(settings: ArenaSettings) -> Iterator[Progress]:
    """Write store.db, each pair of models compared on each shared prompt, and ratings.json.

    counts.json says how many rows of each contestant take part, and why the others do not.
    """
    if settings.battles is not None:
        yield from rate_file(settings)
        return
    check_names(settings.contestants, settings.anchor)
    if len(settings.contestants) < 2:
        raise DataError("An arena needs at least two contestants with different names.")
    judge = CountingJudge(build_judge(settings.judge))
    rows = {c.name: read_responses(c.responses) for c in settings.contestants}
    questions, contestants = pair_rows(rows)
    first = rows[settings.contestants[0].name]
    if settings.category is not None and not any(row.meta.get(settings.category) for row in first):
        raise DataError(  # before anything is judged, which may cost money
            f"No prompt in {settings.contestants[0].responses} has {settings.category!r} in its "
            "`meta` for `category`. Name a field that the prompts have, or leave it out."
        )
    final = Path(settings.output_dir) / "store.db"
    with open_partial_store(final) as store:
        if settings.category is not None:
            store.add_prompts([(row.prompt, row.meta) for row in first])
        yield Progress(0, len(questions))
        for start in range(0, len(questions), CHUNK):
            chunk = questions[start : start + CHUNK]
            _add_battles(store, judge, chunk, settings.seed)
            note = f"{len(rows)} models  {judge.progress_note()}".rstrip()
            yield Progress(start + len(chunk), len(questions), note)
        builder, positions = build_from_store(store, settings.category)
        counts = store.counts()
    rename_partial_store(final)
    by_name = {name: count.to_json() for name, count in contestants.items()}
    judge.write_counts(settings.output_dir, {**counts, "contestants": by_name})
    write_ratings(builder, settings, positions=positions)


def _add_battles(
    store: PreferenceStore, judge: CountingJudge, questions: Sequence[Question], seed: int
) -> None:
    """Add a verdict on every pair of models for each question; a coin toss decides the sides."""
    names = list(questions[0].responses)
    responses = [
        replace(q.responses[name], prompt=q.prompt, model=name) for q in questions for name in names
    ]
    ids = iter(store.add_responses(responses))
    pairs: list[tuple[int, int, Candidates]] = []
    for question in questions:
        model_ids = {name: next(ids) for name in names}
        repeat = f" {question.repeat}" if question.repeat else ""
        rng = random.Random(f"arena {seed} {question.prompt}{repeat}")
        for pair in itertools.combinations(names, 2):
            a, b = pair if rng.random() < 0.5 else pair[::-1]
            candidates = _candidates([question.responses[a], question.responses[b]], rng)
            pairs.append((model_ids[a], model_ids[b], candidates))
    rankings = judge.rank([candidates for _, _, candidates in pairs])
    name, first = judge.judge.name, judge.judge.shown_first
    verdicts = [
        PairVerdict(
            a,
            b,
            outcome_of_ranks(ranks),
            name,
            shown_first=first,
            source=source_of(judge.judge),
            judge=judge.judge.fingerprint,
        )
        for (a, b, _), ranks in zip(pairs, rankings, strict=True)
        if ranks is not None
    ]
    store.add_verdicts(verdicts)


def open_partial_store(final: Path, earlier: str | None = None) -> PreferenceStore:
    """A new store under a temporary name, after what an interrupted run left of it is deleted.

    It is a copy of the store `earlier`, or empty. Raises DataError where that store does not
    exist, or is not a file.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for leftover in final.parent.glob(f"{final.name}.partial*"):
        leftover.unlink()
    partial = final.with_name(final.name + ".partial")
    if earlier is not None:
        if "://" in earlier:
            raise DataError(
                "`earlier` must be a store in a file, such as store.db, and not at a URL. Leave "
                "it out, or copy that store to a file."
            )
        with PreferenceStore.read(earlier) as store:
            store.copy_to(partial)
    return PreferenceStore.open(partial)


def rename_partial_store(final: Path) -> None:
    final.with_name(final.name + ".partial").replace(final)
