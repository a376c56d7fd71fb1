"""The forecast and the report of labelling, as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from accord.pipeline.labels.forecast import CHARACTERS, Forecast, JudgeForecast
from accord.pipeline.labels.panel import Member

if TYPE_CHECKING:
    from accord.pipeline.labels.label import LabelReport

NAMES = {"a": "the first", "b": "the second", "tie": "ties", "undecided": "undecided"}


def forecast_text(forecast: Forecast) -> str:
    """A line on all, and one on each judge."""
    stored = sum(judge.stored for judge in forecast.judges)
    cached = sum(judge.cached for judge in forecast.judges)
    left_out = [f"{stored:,} verdicts are in the store" if stored else ""]
    left_out += [f"{cached:,} answers are in the cache" if cached else ""]
    known = ", ".join(part for part in left_out if part)
    head = (
        f"{_count(forecast.pairs, 'pair')} in both orders, by "
        f"{_count(forecast.criteria, 'criterion', 'criteria')} and "
        f"{_count(len(forecast.judges), 'judge')}: {_count(forecast.calls, 'call')}"
    )
    lines = [f"{head} ({known})." if known else f"{head}."]
    for judge in forecast.judges:
        lines.append(f"  {judge.name}: {_count(judge.calls, 'call')}{_takes(judge)}")
        if judge.no_reference:
            lines[-1] += f"; {judge.no_reference:,} without a reference are not asked"
    return "\n".join(lines)


def measured_text(judge: JudgeForecast) -> str:
    """What the other calls take, after the first answers."""
    return f"{judge.name}: the other {_count(judge.calls, 'call')}{_takes(judge)}."


def report_text(report: LabelReport) -> str:
    """What each judge said and took, what the panel says, and what to do next."""
    return "\n".join(_report_lines(report))


def _report_lines(report: LabelReport) -> Iterator[str]:
    for member in report.members:
        counts = [f"{n:,} {NAMES.get(name, name)}" for name, n in sorted(member.outcomes.items())]
        if member.missing:
            counts.append(f"{member.missing:,} without a verdict")
        yield f"{member.name}: {', '.join(counts) or 'no verdicts'}"
        yield f"  {_spent(member)}"
    quorum = report.settings.quorum
    for criterion, counts_of in report.panel.items():
        labelled = counts_of["winner"]
        others = [f"{n:,} {name}" for name, n in counts_of.items() if name != "winner" and n]
        what = criterion or "labels"
        yield (
            f"{what}: {labelled:,} of {_count(report.forecast.pairs, 'pair')} have a winner"
            + (f"; {', '.join(others)}" if others else "")
        )
    if report.by_people:
        yield f"{_count(report.by_people, 'pair')} without a label are judged by people already."
    if report.escalated is not None:
        yield from _escalated_lines(report)
    elif any(n for of in report.panel.values() for name, n in of.items() if name in _UNLABELLED):
        yield "Hand those without a label to people with --escalate."
    filter_ = f"{{source: judge, min_votes: {quorum}}}" if quorum > 1 else "{source: judge}"
    yield (
        f"Train with dataset={report.path} filter={filter_!r}, once each judge has passed "
        f"`accord judge check`."
    )


_UNLABELLED = ("split evenly", "below the quorum")


def _escalated_lines(report: LabelReport) -> Iterator[str]:
    settings = report.settings
    name = "" if settings.queue == "main" else f" name={settings.queue}"
    same = " and the same criteria" if settings.criteria else ""
    if not report.escalated:
        yield "No pair is one for people."
        return
    yield (
        f"{_count(report.escalated, 'item')} for people ({report.new:,} new), first in the queue: "
        f"`accord annotate {report.path} items=escalated{name}`{same}."
    )


def _spent(member: Member) -> str:
    usage, prices = member.usage, member.prices
    text = (
        f"{_count(usage.calls, 'call')}, {usage.prompt_tokens:,} tokens of prompts "
        f"({usage.prefix_tokens:,} from the server's cache) and {usage.answer_tokens:,} of "
        f"answers; {usage.cached:,} answers from the cache"
    )
    return text if prices is None else f"{text}; cost {usage.cost(prices):,.4g}"


def _takes(judge: JudgeForecast) -> str:
    """Tokens and cost of a judge's calls, how they are known, and whether a limit stops them."""
    if not judge.calls:
        return ""
    settings = judge.settings
    tokens = judge.prompt_tokens + judge.answer_tokens
    how = (
        f"as measured on {_count(judge.measured, 'answer')}"
        if judge.measured
        else f"{CHARACTERS} characters a token and a short answer, until some are measured"
    )
    text = f", about {tokens:,.0f} tokens ({how})"
    if judge.cost is not None:
        text += f", about {judge.cost:,.4g} without the server's cache"
    limits = {"max_calls": judge.calls, "max_total_tokens": tokens, "max_cost": judge.cost or 0.0}
    for name, needed in limits.items():
        limit = getattr(settings, name)
        if limit is not None and needed > limit:
            text += f"; it stops at {name}={limit:g}"
    return text


def _count(n: int, one: str, plural: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else plural or one + 's'}"
