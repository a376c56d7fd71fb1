"""What training broke, on the page: a sentence that is a finding, and a table."""

from __future__ import annotations

from pathlib import Path

from accord.measure.audits.broken import HeldOutRow, TaskOutcome, held_out_audit, task_audit
from accord.measure.audits.document import AuditDocument
from accord.report.audits import audit_findings
from accord.report.page import write_report
from accord.report.tables.broken import broken_table
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings
from tests.report.test_page import Page


def task(name: str, before: int, after: int, rows: int = 400) -> TaskOutcome:
    """The first rows are right: so many before, and so many after."""
    texts = [f"q{i}" for i in range(rows)]
    right = [[i < count for i in range(rows)] for count in (before, after)]
    return TaskOutcome(name, texts, texts, texts, texts, right[0], right[1])


def document(*tasks: TaskOutcome, rise: float = 0.0) -> AuditDocument:
    rows = [HeldOutRow("", f"t{i}", 10, 20.0, 20.0 + 10 * rise) for i in range(50)]
    audits = (*map(task_audit, tasks), held_out_audit(rows))
    return AuditDocument("audit", "dpo", audits)


def test_the_worst_comes_first_with_its_numbers() -> None:
    table = broken_table(document(task("same", 360, 360), task("math", 360, 240)))
    assert table is not None
    # 360 and 240 of 400; the loss is 20 nats for 10 tokens.
    assert table.sentence == (
        "What training broke in dpo: the task math (90.0% to 60.0%) got worse; the task same and "
        "the loss on held-out text did not get worse."
    )
    names = ["The task math", "The task same", "The loss on held-out text"]
    assert [row.name for row in table.rows] == names
    math, _, loss = table.rows
    assert (math.before.text, math.after.text, math.change.text) == ("90.0%", "60.0%", "−30.0")
    assert math.turned == "120 became wrong, 0 right"
    assert (loss.before.text, loss.change.text, loss.turned) == ("2.000", "+0.000", "")
    assert [row.verdict for row in table.rows] == ["fail", "pass", "pass"]


def test_the_sentence_is_a_finding_of_its_kind() -> None:
    def found(*tasks: TaskOutcome, rise: float = 0.0) -> tuple[str, str]:
        last = audit_findings([document(*tasks, rise=rise)])[-1]
        return last.level, last.text

    assert found() == (
        "good", "What training broke in dpo: nothing among the loss on held-out text."
    )  # fmt: skip
    assert found(rise=0.4)[0] == "warning"
    assert found(rise=0.2) == (
        "warning",
        "What training broke in dpo: the loss on held-out text (2.000 to 2.200) may have got "
        "worse.",
    )
    few = found(task("few", 6, 6, rows=8))
    assert few[0] == "note"
    assert "the data do not decide the task few (75.0% to 75.0%); the loss" in few[1]


def test_other_documents_have_none() -> None:
    assert broken_table(AuditDocument("audit", "dpo", ())) is None
    made = document(task("math", 360, 240))
    assert broken_table(AuditDocument("probe", "rm", made.audits)) is None


def test_the_page_shows_it(tmp_path: Path) -> None:
    evil = task("x.y", 360, 240)
    write_json_atomic(tmp_path / "audit/audit.json", document(evil).to_json())
    settings = ReportSettings(run=str(tmp_path), output_dir=str(tmp_path))
    page = Page(write_report(settings).read_text(encoding="utf-8"))
    assert page.open == []
    for part in (
        "The task x.y",
        "120 became wrong, 0 right",
        "−30.0",
        "Measured Verdict Before After",
    ):
        assert part in page.text
