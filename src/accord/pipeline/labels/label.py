"""Judges label the pairs of a store: each verdict under its fingerprint, none asked for twice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accord.annotate.escalate import Escalation, open_escalation
from accord.compare.judges.people import PERSON
from accord.compare.judges.questions import NoVerdict
from accord.compare.panels import SWAPPED, WIN
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError, WorkError
from accord.pipeline.labels.forecast import Forecast, JudgeForecast, forecast
from accord.pipeline.labels.pairs import FIRST, PairSource, StoredPair
from accord.pipeline.labels.panel import Asked, Member, Votes, build_panel, votes_by_question
from accord.pipeline.labels.text import forecast_text, measured_text
from accord.pipeline.progress import Progress
from accord.settings.label import LabelSettings

log = logging.getLogger(__name__)

WINNER, TIE, SPLIT, UNDER = "winner", "tie", "split evenly", "below the quorum"
FOR_PEOPLE = (SPLIT, UNDER)


@dataclass
class LabelReport:
    """What labelling found. `panel` counts the pairs of each criterion (None: the whole) by what
    the panel says of them; `escalated` are items for people, `new` those that were none before, and
    `by_people` pairs without a label that people have judged already."""

    path: str
    settings: LabelSettings
    forecast: Forecast
    members: Sequence[Member]
    panel: dict[str | None, Counter[str]] = field(default_factory=dict)
    escalated: int | None = None
    new: int = 0
    by_people: int = 0

    def to_json(self) -> dict[str, Any]:
        """All numbers, by judge and by criterion."""
        return {
            "store": self.path,
            "pairs": self.forecast.pairs,
            "quorum": self.settings.quorum,
            "judges": [_member_json(member) for member in self.members],
            "criteria": {name or "overall": dict(of) for name, of in self.panel.items()},
            "escalated": self.escalated,
            "judged_by_people": self.by_people,
        }


def label(
    store: PreferenceStore,
    settings: LabelSettings,
    criteria: Mapping[str | None, str | None],
    *,
    escalate: bool = False,
    forecast_only: bool = False,
) -> Generator[Progress, None, LabelReport | Forecast]:
    """Ask the judges about every pair that they have not judged; returns the report, or with
    `forecast_only` the forecast, and asks nothing.

    `criteria` are those to ask, each with its question. A batch of pairs is in memory at a time,
    and in the store before the next one is asked. Raises DataError where there is no pair,
    WorkError where a judge gives no verdict at all or a limit on spending is met.
    """
    panel = build_panel(settings, criteria)
    source = PairSource.open(store, settings)
    plan = yield from forecast(source, panel)
    _check_pairs(store, settings, plan)
    if forecast_only:
        return plan
    log.info("%s", forecast_text(plan))
    queue = open_escalation(store, settings.queue, criteria) if escalate else None
    report = LabelReport(store.path, settings, plan, panel, {name: Counter() for name in criteria})
    if queue is not None:
        report.escalated = 0
    yield from _label_batches(source, panel, report, queue)
    return report


def _label_batches(
    source: PairSource, panel: Sequence[Member], report: LabelReport, queue: Escalation | None
) -> Iterator[Progress]:
    plan, done = report.forecast, 0
    work = _Work(source, report.settings.round)
    yield Progress(done, plan.to_ask)
    for batch in source.batches():
        votes = votes_by_question(source.votes(batch))
        for member, judge in zip(panel, plan.judges, strict=True):
            for asked in member.asked:
                new = [p for p in batch if asked.applies(p) and not asked.has_judged(p, votes)]
                if not new:
                    continue
                work.ask(member, judge, asked, new)
                done += len(new)
                yield Progress(done, plan.to_ask, _note(panel))
        after = votes_by_question(source.votes(batch))
        _count(batch, panel, after, report, queue)
    for member, judge in zip(panel, plan.judges, strict=True):
        work.require_verdicts(member, judge)


@dataclass
class _Work:
    """Asks, stores, and watches whether a judge works at all."""

    source: PairSource
    round: int
    measured: set[str] = field(default_factory=set)
    first_missing: dict[str, NoVerdict] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)

    def ask(
        self, member: Member, judge: JudgeForecast, asked: Asked, pairs: Sequence[StoredPair]
    ) -> None:
        requests = [request for pair in pairs for request in asked.requests(pair)]
        measures = judge.calls > 0 and not judge.measured and member.name not in self.measured
        if measures:
            judge.subtract(asked, requests)
        verdicts, missing = asked.ask(pairs, self.round)
        self.source.store.add_verdicts(verdicts)
        member.missing += len(missing)
        self.verdicts[member.name] += len(verdicts)
        if missing:
            self.first_missing.setdefault(member.name, missing[0])
        if member.missing >= FIRST:
            self.require_verdicts(member, judge)
        if measures:
            self.measured.add(member.name)
            for request in requests:
                judge.measure(asked, request)
            if judge.measured and judge.calls:
                log.info("%s", measured_text(judge))

    def require_verdicts(self, member: Member, judge: JudgeForecast) -> None:
        """Raise WorkError where a judge has given no verdict, now or ever: it does not work."""
        missing = self.first_missing.get(member.name)
        if missing is None or self.verdicts[member.name] or judge.stored:
            return
        raise WorkError(
            f"The judge {member.name} gave no verdict on any of {member.missing} questions. Of the "
            f"first: {missing.reason}. {missing.advice}".rstrip()
        )


def _count(
    batch: Sequence[StoredPair],
    panel: Sequence[Member],
    votes: Votes,
    report: LabelReport,
    queue: Escalation | None,
) -> None:
    """Count what the panel says of each pair of a batch, and hand to people what has no label."""
    for_people: list[tuple[tuple[int, int], str | None]] = []
    judged_by_people = {
        (vote.item, vote.criterion)
        for vote in votes.values()
        if vote.source == PERSON and vote.outcome in WIN
    }
    for number, criterion in enumerate(report.panel):
        for pair in batch:
            outcomes = []
            for member in panel:
                asked = member.asked[number]
                if asked.has_judged(pair, votes):
                    vote = votes[pair.item, criterion, member.name]
                    outcomes.append(_outcome(vote.outcome, swapped=vote.first != pair.ids[0]))
                    member.outcomes[outcomes[-1]] += 1
            decision = decide(outcomes, report.settings.quorum)
            report.panel[criterion][decision] += 1
            if decision not in FOR_PEOPLE:
                continue
            if (pair.item, criterion) in judged_by_people:
                report.by_people += 1
            else:
                for_people.append((pair.ids, criterion))
    if queue is not None and for_people:
        report.escalated = (report.escalated or 0) + len(for_people)
        report.new += queue.add(for_people)


def decide(outcomes: Sequence[str], quorum: int) -> str:
    """What the outcomes of a panel's verdicts on a pair come to: as training reads them, a winner,
    a tie, or nothing, where fewer than the quorum decide or as many prefer either response."""
    decided = [outcome for outcome in outcomes if outcome in WIN]
    if len(decided) < quorum:
        return UNDER
    share = sum(WIN[outcome] for outcome in decided) / len(decided)
    if share != 0.5:
        return WINNER
    return SPLIT if "a" in decided else TIE


def _outcome(outcome: str, *, swapped: bool) -> str:
    return SWAPPED.get(outcome, outcome) if swapped else outcome


def _note(panel: Sequence[Member]) -> str:
    """Spending and missing verdicts, for the progress bar."""
    missing = sum(member.missing for member in panel)
    cost = sum(m.usage.cost(m.prices) for m in panel if m.prices is not None)
    parts = [f"{sum(m.usage.calls for m in panel):,} calls"]
    if any(member.prices is not None for member in panel):
        parts.append(f"cost {cost:,.4g}")
    if missing:
        parts.append(f"{missing:,} without a verdict")
    return "  ".join(parts)


def _check_pairs(store: PreferenceStore, settings: LabelSettings, plan: Forecast) -> None:
    if not plan.pairs:
        of = f" of {', '.join(settings.models)}" if settings.models else ""
        among = f" among those of {settings.prompts}" if settings.prompts else ""
        raise DataError(
            f"No prompt in {store.path}{among} has two different responses{of}, so nothing "
            f"is to be labelled. Add responses, such as with `accord sample` and `store`."
        )
    for judge in plan.judges:
        if judge.no_reference == judge.questions:
            raise DataError(
                f"None of the pairs in {store.path} has a prompt that the judge {judge.name} has a "
                f"reference for. Give references to these prompts, or leave `references` out."
            )


def _member_json(member: Member) -> dict[str, Any]:
    prices = member.prices
    return {
        "name": member.name,
        "fingerprints": {asked.criterion or "overall": asked.digest for asked in member.asked},
        "outcomes": dict(member.outcomes),
        "without_verdict": member.missing,
        **member.usage.to_json(),
        **({} if prices is None else {"cost": member.usage.cost(prices)}),
    }
