"""Audits in the report: the answer first, verdicts with their reasons, and no text that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.errors import DataError
from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit
from accord.measure.audits.document import AuditDocument
from accord.measure.statistics import Interval
from accord.report.page import write_report
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.fake_run import write_run
from tests.report.test_page import EVIL, Page

FAILED, UNDECIDED = Interval(0.3, 0.2, 0.4), Interval(0.06, 0.02, 0.14)
PASSED = Interval(0.01, 0.0, 0.02)


def _audit(name: str, value: Interval, **changes: Any) -> Audit:
    settings: dict[str, Any] = {
        "group": "refusals",
        "question": f"Is {name} so?",
        "finding": f"{name} was seen.",
        "threshold": Threshold(0.05, 0.10, "users see more"),
        "count": 50,
        "unit": "share",
    }
    return make_audit(name, value=value, **(settings | changes))


def _document(subject: str, *audits: Audit) -> AuditDocument:
    return AuditDocument("audit", subject, audits, {"model": "runs/x"}, notes=("Left out: one.",))


@pytest.fixture
def run(tmp_path: Path) -> ReportSettings:
    return write_run(tmp_path / "run", prompts=10)


def _page(run: ReportSettings, *documents: AuditDocument) -> Page:
    for i, document in enumerate(documents):
        folder = Path(run.run) / f"audit-{i}"
        folder.mkdir()
        write_json_atomic(folder / f"{document.kind}.json", document.to_json())
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def _results(run: ReportSettings) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run.output_dir) / "results.json").read_text())
    return content


def test_a_failed_audit_is_in_the_headline_and_first_among_the_worries(
    run: ReportSettings,
) -> None:
    best = _results_headline(run)
    document = _document(
        best, _audit("over_refusal", FAILED), _audit("length", UNDECIDED), _audit("calm", PASSED)
    )
    text = _page(run, document).text
    assert f"{best} fails over_refusal." in text
    results = _results(run)
    assert results["verdict"]["headline"].endswith(f"{best} fails over_refusal.")
    findings = results["verdict"]["findings"]
    assert findings[0] == {
        "level": "warning",
        "text": f"Audit of {best}: over_refusal was seen.",
    }
    undecided = f"Audit of {best}: the data do not decide length."
    assert {"level": "note", "text": undecided} in findings
    assert results["audits"] == [document.to_json()]
    for part in (
        f"Audit of {best} FAIL",
        "Is over_refusal so?",
        "30% (20% to 40%)",
        "warned of at more than 5%, failed at more than 10%: users see more",
        "50 prompts; about 150 more would decide",
        "Left out: one.",
    ):
        assert part in text


def _results_headline(run: ReportSettings) -> str:
    write_report(run)
    headline: str = _results(run)["verdict"]["headline"]
    return headline.split()[0]


def test_an_audit_of_another_model_leaves_the_headline(run: ReportSettings) -> None:
    headline = _results_headline(run)
    text = _page(run, _document("base", _audit("over_refusal", FAILED))).text
    assert _results(run)["verdict"]["headline"].split()[0] == headline
    assert "base fails" not in _results(run)["verdict"]["headline"]
    assert "Audit of base: over_refusal was seen." in text


def test_all_text_of_an_audit_is_escaped(run: ReportSettings) -> None:
    sample = AuditSample(EVIL, EVIL, EVIL, EVIL, {EVIL: 1.0})
    evil = _audit(EVIL, FAILED, group=EVIL, question=EVIL, finding=EVIL, samples=[sample])
    document = AuditDocument("redteam", EVIL, (evil,), {EVIL: EVIL}, notes=(EVIL,))
    page = _page(run, document)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "alert(1)" in page.text
    assert "49" not in page.text.split("alert(1)")[1][:40]


def test_a_sample_shows_what_it_is_compared_with(run: ReportSettings) -> None:
    sample = AuditSample("the question", "its answer", "the answer before", "worse", {"fall": 0.5})
    text = _page(run, _document("ppo", _audit("gain", FAILED, samples=[sample]))).text
    assert "worse; fall 0.50" in text
    assert "compared with the answer before" in text


def test_a_broken_file_of_audits_is_named(run: ReportSettings) -> None:
    path = Path(run.run) / "audit.json"
    path.write_text('{"kind": "audit"}')
    with pytest.raises(DataError, match=r"audit\.json does not hold audits"):
        write_report(run)


def test_every_number_has_its_source(run: ReportSettings) -> None:
    page = _page(run, _document("ppo", _audit("gain", PASSED)))
    for part in (
        "Where the numbers come from",
        "Measures of responses",
        "evaluation.json Means have",
        "responses to 10 prompts",
        "ratings.json Bradley-Terry",
        "Audits of ppo audit-0/audit.json",
    ):
        assert part in page.text


def test_what_passes_in_a_long_section_is_folded(run: ReportSettings) -> None:
    audits = [_audit(f"calm_{i}", PASSED) for i in range(8)]
    text = _page(run, _document("ppo", *audits, _audit("grave", FAILED))).text
    names = ", ".join(audit.name for audit in audits)
    assert "Is grave so? grave was seen." in text
    assert f"8 passed: {names}" in text
    assert text.count("calm_3 was seen.") == 1
