"""Checks of judges in a preference store: bound to the judge's fingerprint, the latest counts."""

from __future__ import annotations

from pathlib import Path

from accord.compare.store.fingerprint import JudgeCheck, JudgeFingerprint
from accord.compare.store.store import PreferenceStore
from accord.pipeline.judges.check import JudgeReport


def record_check(
    path: str | Path,
    report: JudgeReport,
    fingerprint: JudgeFingerprint,
    criterion: str | None = None,
) -> None:
    """Add a check to the store at `path`, which is created where there is none.

    A judge that did not pass is recorded as well: it voids an earlier pass.
    """
    check = JudgeCheck(fingerprint, report.passed, report.to_json(), criterion)
    with PreferenceStore.open(path) as store:
        store.add_judge_check(check)
