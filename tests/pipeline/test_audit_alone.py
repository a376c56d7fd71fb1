"""An audit of tasks, held-out text or questions alone, without responses to prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.errors import SettingsError
from accord.measure.audits.document import AuditDocument
from accord.pipeline import run_stage
from accord.pipeline.stages.audit import NO_RESPONSES, stages_of_audit
from accord.report.page import write_report
from accord.settings.recipe import single_stage
from accord.settings.stages import ReportSettings

ASKED = "questions=q.jsonl"


def plan(*overrides: str, model: str = "m", before: str = "b") -> Any:
    given = [f"model={model}", f"before={before}", "output_dir=out", *overrides]
    return single_stage("audit", None, overrides=given)


def test_it_asks_both_models_and_samples_none(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Is {n} even?", "answer": n % 2 == 0} for n in range(4)]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = {"model": str(tiny_run / "dpo/model"), "before": str(tiny_run / "base/model")}
    run_stage(plan(ASKED, **models))
    document = AuditDocument.from_json(json.loads(Path("out/audit.json").read_text()))
    assert [audit.name for audit in document.audits] == ["yes_no_questions"]
    assert document.notes[0] == NO_RESPONSES
    assert [n for n in document.notes if n.startswith("Not audited")] == [
        "Not audited: task_…, which needs `tasks`.",
        "Not audited: held_out_loss, which needs `held_out`.",
    ]
    assert sorted(p.name for p in Path("out").iterdir() if p.is_dir()) == []
    page = write_report(ReportSettings(run="out", output_dir="out")).read_text()
    assert "What training broke in after: the data do not decide yes/no questions" in page


def test_only_what_needs_no_responses_is_taken() -> None:
    assert stages_of_audit(plan("held_out=h.jsonl")) == []
    assert len(stages_of_audit(plan("held_out=h.jsonl", "dataset=d.jsonl"))) == 2
    for override, named in (
        ("reward_model=rm", "`reward_model` is about responses"),
        ("world=true", "`world` is about responses"),
        ("ensemble=[a, b]", "`ensemble` is about responses"),
        ("before_responses=r.jsonl", "`model` is sampled, but there is no `dataset`"),
    ):
        with pytest.raises(SettingsError, match=named):
            plan(ASKED, override)
    with pytest.raises(SettingsError, match="`model` is sampled"):
        plan()
    with pytest.raises(SettingsError, match="Set `before` to its folder"):
        single_stage("audit", None, overrides=["model=m", "output_dir=o", ASKED])
