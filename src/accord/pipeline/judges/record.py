"""Checks of judges in a preference store: bound to the judge's fingerprint, the latest counts."""

from __future__ import annotations

from pathlib import Path

from accord.compare.judges.identity import LOCAL
from accord.compare.store.fingerprint import JudgeCheck, JudgeFingerprint
from accord.compare.store.store import PreferenceStore
from accord.compare.verdict_filter import passed_checks
from accord.errors import SettingsError
from accord.pipeline.judges.check import JudgeReport
from accord.pipeline.stages.judges import NamedJudge
from accord.settings.verdicts import VerdictFilter


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


def require_check(judge: NamedJudge, verdict_filter: VerdictFilter | None, *, prefix: str) -> None:
    """Raise SettingsError for a language model whose labels training with this filter refuses: it
    is not named in `unchecked_judges`, and its latest check in `judge_checks` did not pass.

    `prefix` precedes `filter` in the remedy. Raises DataError where `judge_checks` is no store.
    """
    if judge.fingerprint is None:
        return
    chosen = verdict_filter or VerdictFilter()
    if {judge.name, judge.fingerprint.model} & set(chosen.unchecked_judges or ()):
        return
    if passed_checks((), chosen).get((judge.fingerprint.digest, None), False):
        return
    model, endpoint = judge.fingerprint.model, judge.fingerprint.endpoint
    at = "kind=local" if endpoint == LOCAL else f"base_url={endpoint}"
    raise SettingsError(
        f"The judge {judge.name} has not passed `accord judge check`, and its labels do not train. "
        f"Measure it on people's verdicts (`accord judge check PEOPLE {at} "
        f"model={model} --store votes.db`, with its other settings) and set "
        f"{prefix}filter.judge_checks=votes.db; or let it train unchecked with "
        f"{prefix}filter.unchecked_judges=[{judge.name}]."
    )
