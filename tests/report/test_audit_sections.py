"""The rows that the page shows of audits, and where their numbers come from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit, not_measured
from accord.measure.audits.document import AuditDocument, DocumentKind
from accord.measure.statistics import Interval
from accord.report.audits import audit_findings, audit_sections, failed_audits
from accord.report.reading import ReportInputs, StageRecord, read_inputs
from accord.report.sources import NumberSource, sources
from tests.report.fake_run import write_run

FAILED, UNDECIDED = Interval(0.3, 0.2, 0.4), Interval(0.06, 0.02, 0.14)
PASSED = Interval(0.01, 0.0, 0.02)


def _audit(name: str, value: Interval, **changes: Any) -> Audit:
    settings: dict[str, Any] = {
        "group": "refusals",
        "question": "Is it so?",
        "finding": f"{name} was seen.",
        "threshold": Threshold(0.05, 0.10, "users see more"),
        "count": 50,
        "unit": "share",
    }
    return make_audit(name, value=value, **(settings | changes))


def _document(*audits: Audit, subject: str = "ppo", kind: DocumentKind = "audit") -> AuditDocument:
    return AuditDocument(kind, subject, audits, {"model": "runs/x", "world": True, "seed": 3})


def test_what_failed_is_a_warning_and_only_what_is_undecided_a_note() -> None:
    calm = _document(_audit("calm", PASSED))
    assert audit_findings([calm]) == []
    both = audit_findings([_document(_audit("bad", FAILED), _audit("calm", PASSED)), calm])
    assert [(f.level, f.text) for f in both] == [("warning", "Audit of ppo: bad was seen.")]
    notes = audit_findings([_document(_audit("open", UNDECIDED), _audit("calm", PASSED))])
    assert [(f.level, f.text) for f in notes] == [
        ("note", "Audit of ppo: the data do not decide open.")
    ]


def test_the_failed_audits_of_a_model_are_its_own() -> None:
    documents = [
        _document(_audit("bad", FAILED), _audit("open", UNDECIDED)),
        _document(_audit("other", FAILED), subject="dpo"),
        _document(_audit("probe", FAILED), kind="probe"),
        _document(_audit("attack", FAILED), kind="redteam"),
    ]
    assert failed_audits(documents, "ppo") == ["bad", "attack"]
    assert failed_audits(documents, "sft") == []


@pytest.mark.parametrize(("audits", "is_long"), [(8, False), (9, True)])
def test_a_section_is_long_beyond_eight_audits(audits: int, is_long: bool) -> None:
    document = _document(*(_audit(f"a{i}", PASSED) for i in range(audits)))
    assert audit_sections([document])[0].is_long is is_long


def test_cells_of_an_audit_without_cases_are_empty() -> None:
    missing = not_measured("none", group="refusals", question="So?", finding="Not measured.")
    sample = AuditSample("p", "r", None, "", {"true_reward": 0.5})
    audits = [
        _audit("bad", FAILED, samples=[sample]),
        _audit("open", UNDECIDED),
        missing,
    ]
    section = audit_sections([_document(*audits)])[0]
    lines = {line.name: line for _, rows in section.groups for line in rows}
    assert (lines["none"].value, lines["none"].cases, lines["none"].why) == ("", "", "")
    assert lines["bad"].cases == "50 prompts"
    assert lines["bad"].value == "30% (20% to 40%)"
    # n·((w/d)² − 1) with w = .14 − .06 and d = .10 − .06: 50·3.
    assert lines["open"].cases == "50 prompts; about 150 more would decide"
    assert lines["bad"].samples[0].other is None
    assert lines["bad"].samples[0].scores == "true reward 0.50"


def _source(inputs: ReportInputs, title: str) -> NumberSource:
    return next(source for source in sources(inputs) if source.title.startswith(title))


@pytest.fixture
def inputs(tmp_path: Path) -> ReportInputs:
    return read_inputs(write_run(tmp_path / "run", prompts=10))


def test_where_responses_and_ratings_come_from(inputs: ReportInputs) -> None:
    facts = dict(_source(inputs, "Measures").items)
    sampled = next(fact for name, fact in facts.items() if not name.startswith("best"))
    assert sampled.startswith("40 responses to 10 prompts; answers-")
    assert inputs.ratings is not None
    # A battle is in the counts of both of its models.
    total = sum(row["battles"] for row in inputs.ratings["models"]) // 2
    assert dict(_source(inputs, "Ratings").items)["comparisons"] == f"{total:,}"


def test_the_settings_of_an_audit_are_named_but_not_its_switches(inputs: ReportInputs) -> None:
    path = inputs.run / "audit" / "audit.json"
    source = _source(replace(inputs, audits=((path, _document()),)), "Audits of ppo")
    assert source.items == [("model", "runs/x"), ("seed", "3")]
    assert source.file == "audit/audit.json"


def test_a_selection_is_named_with_its_number(inputs: ReportInputs) -> None:
    contestant = next(c for c in inputs.contestants if c.name.startswith("best"))
    folder = Path(contestant.responses).parent
    selection = StageRecord(folder, "best", "select", {"n": 16}, None, {}, {}, ())
    source = _source(replace(inputs, stages=(selection,)), "Measures")
    assert dict(source.items)[contestant.name].endswith("; best of 16")
