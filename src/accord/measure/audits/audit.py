"""What an audit says: a verdict, the number behind it, its threshold, and samples to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from accord.measure.statistics import NO_DATA, Interval, finite_or_none

Verdict = Literal["fail", "undecided", "warn", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "undecided", "warn", "pass")
"""From the worst to the best. `undecided`: the interval holds values on both sides of `fail`."""

ValueUnit = Literal["share", "number", "words", "nats", "ratio"]
Limits = Mapping[str, tuple[float, float]]
"""By name of an audit the limits `warn` and `fail` that stand in for those of its threshold."""


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A case behind an audit's number, as text to read: untrusted, as all text of a model.

    `other` is what the response is compared with (the unchanged answer, the other model's), and
    `scores` are named numbers of the case. `note` says in a phrase what to see in it.
    """

    prompt: str
    response: str
    other: str | None = None
    note: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "response": self.response,
            "other": self.other,
            "note": self.note,
            "scores": {key: finite_or_none(value) for key, value in self.scores.items()},
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> AuditSample:
        """The sample that `to_json` wrote, NaN for null."""
        scores = {k: math.nan if v is None else v for k, v in row["scores"].items()}
        return cls(row["prompt"], row["response"], row["other"], row["note"], scores)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Which values are tolerated, and why.

    Values beyond `fail` fail the audit and values beyond `warn` are warned of; `why` gives the
    reason for both numbers in a sentence. With `bad="high"` beyond means above, else below.
    Raises ValueError where `warn` lies beyond `fail`.
    """

    warn: float
    fail: float
    why: str
    bad: Literal["high", "low"] = "high"

    def __post_init__(self) -> None:
        if self.beyond(self.warn, self.fail):
            raise ValueError(f"the warning at {self.warn} lies beyond the failure at {self.fail}")

    def beyond(self, value: float, limit: float) -> bool:
        """Whether a value is on the bad side of a limit; one that equals it is not."""
        return value > limit if self.bad == "high" else value < limit

    def verdict(self, value: Interval) -> Verdict:
        """Fail where the whole interval lies beyond `fail`; undecided where the interval holds
        values on both sides of it, or there is none; else warn or pass, by the mean and `warn`.

        So an audit passes only what the data show to be tolerable, and never for lack of data.
        """
        if not math.isfinite(value.mean) or value.low is None or value.high is None:
            return "undecided"
        best, worst = (value.low, value.high) if self.bad == "high" else (value.high, value.low)
        if self.beyond(best, self.fail):
            return "fail"
        if self.beyond(worst, self.fail):
            return "undecided"
        return "warn" if self.beyond(value.mean, self.warn) else "pass"

    def more_needed(self, value: Interval, count: int) -> int | None:
        """How many more cases would decide, if the mean stays as it is and the interval shrinks
        with the root of their number: n·((w/d)² − 1), with d the distance of the mean from `fail`
        and w the half of the interval on the side of `fail`. None where no number would do, as
        the mean is at `fail`, or where nothing is known yet. 0 where it is decided.
        """
        if not math.isfinite(value.mean) or value.low is None or value.high is None:
            return None
        distance = abs(value.mean - self.fail)
        toward = value.high - value.mean if value.mean < self.fail else value.mean - value.low
        if distance == 0:
            return None
        return max(0, math.ceil(count * ((toward / distance) ** 2 - 1)))

    def limited(self, name: str, limits: Limits) -> Threshold:
        """The threshold of the audit `name`, with the limits that `limits` gives it, if any."""
        if name not in limits:
            return self
        warn, fail = limits[name]
        why = f"limits of the settings, in place of {self.warn:g} and {self.fail:g} ({self.why})"
        return replace(self, warn=warn, fail=fail, why=why)

    def to_json(self) -> dict[str, Any]:
        return {"warn": self.warn, "fail": self.fail, "bad": self.bad, "why": self.why}


@dataclass(frozen=True, slots=True)
class Audit:
    """The answer to one question.

    `name` is its key in JSON files and in `--fail-on` (`length_gain`), `group` the heading that
    related audits share (`reward hacking`), `question` what is asked, in words. `finding` says in
    a sentence or two what was seen, with the number. `count` is how many cases of `cases`
    ("prompts", "pairs") the value comes from. `needed` is how many more would decide, where the
    verdict is undecided and that is known. `details` are further numbers, as JSON holds them.
    `lineage` says what the number was computed from: files, models, settings.
    """

    name: str
    group: str
    question: str
    verdict: Verdict
    finding: str
    value: Interval
    threshold: Threshold | None = None
    unit: ValueUnit = "number"
    count: int = 0
    cases: str = "prompts"
    needed: int | None = None
    samples: tuple[AuditSample, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The audit in audit.json, probe.json and redteam.json; null for what is unknown."""
        return {
            "name": self.name,
            "group": self.group,
            "question": self.question,
            "verdict": self.verdict,
            "finding": self.finding,
            "value": self.value.to_json(),
            "unit": self.unit,
            "threshold": None if self.threshold is None else self.threshold.to_json(),
            "count": self.count,
            "cases": self.cases,
            "needed": self.needed,
            "samples": [sample.to_json() for sample in self.samples],
            "details": dict(self.details),
            "lineage": dict(self.lineage),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Audit:
        """The audit that `to_json` wrote. Raises KeyError or TypeError for other rows."""
        value, threshold = row["value"], row["threshold"]
        return cls(
            row["name"],
            row["group"],
            row["question"],
            row["verdict"],
            row["finding"],
            NO_DATA if value is None else Interval(**value),
            None if threshold is None else Threshold(**threshold),
            row["unit"],
            row["count"],
            row["cases"],
            row["needed"],
            tuple(AuditSample.from_json(sample) for sample in row["samples"]),
            row["details"],
            row["lineage"],
        )


def make_audit(
    name: str,
    *,
    group: str,
    question: str,
    finding: str,
    value: Interval,
    threshold: Threshold,
    count: int,
    cases: str = "prompts",
    unit: ValueUnit = "number",
    samples: Sequence[AuditSample] = (),
    details: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Audit:
    """An audit whose verdict, and whose need of more cases, follow from value and threshold."""
    verdict = threshold.verdict(value)
    return Audit(
        name,
        group,
        question,
        verdict,
        finding,
        value,
        threshold,
        unit,
        count,
        cases,
        threshold.more_needed(value, count) if verdict == "undecided" else None,
        tuple(samples),
        details or {},
        lineage or {},
    )


def not_measured(name: str, *, group: str, question: str, finding: str) -> Audit:
    """An audit without a value, which is undecided; `finding` says why, and what it would take."""
    return Audit(name, group, question, "undecided", finding, NO_DATA)


def worst_verdict(audits: Iterable[Audit]) -> Verdict:
    """The worst verdict of all, in the order of `VERDICTS`; `undecided` where there is no audit."""
    ranks = [VERDICTS.index(audit.verdict) for audit in audits]
    return VERDICTS[min(ranks)] if ranks else "undecided"


def failing(audits: Iterable[Audit], fail_on: Sequence[str]) -> list[Audit]:
    """The audits for which a gate fails.

    `fail_on` holds verdicts (`fail`, `warn`, `undecided`), each of which stands for all audits
    with this verdict, and names of audits, each of which stands for the audit unless it passes.
    """
    return [
        audit
        for audit in audits
        if audit.verdict in fail_on or (audit.name in fail_on and audit.verdict != "pass")
    ]
