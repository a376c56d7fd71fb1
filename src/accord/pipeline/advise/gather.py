"""From the settings of `accord advise` to facts: what the data holds, what the reward says."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import score_responses
from accord.data.plain_prompts import plain_prompts_remark
from accord.data.write import read_responses
from accord.errors import DataError
from accord.measure.audits.audit import worst_verdict
from accord.measure.audits.document import AuditDocument
from accord.measure.over_optimisation import best_of_n_weights
from accord.measure.statistics import Interval, mean_interval, proportion_interval
from accord.pipeline.advise.machine import online_fits
from accord.pipeline.advise.situation import RewardKind, Situation
from accord.pipeline.checks.result import DataCheck
from accord.pipeline.data_check import check_steps
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import flawed_reward
from accord.settings.advise import AdviseSettings

LEAKS = ("shared-prompts", "evaluation-overlap")
_FIELDS = {
    **dict.fromkeys(("text", "demonstrations", "sft"), "demonstrations"),
    **dict.fromkeys(("comparisons", "rankings", "preferences"), "pairs"),
    **dict.fromkeys(("ratings", "kto"), "labels"),
    "prompts": "prompts",
}
"""By the kind that `accord data check` reads: the fact that counts its rows."""


def gather(settings: AdviseSettings) -> Generator[Progress, None, Situation]:
    """The facts, step by step. Raises DataError for a file that can't be used."""
    fits, machine = online_fits(settings)
    facts = Situation(
        goal=settings.goal,
        supervised=settings.supervised,
        pairs_from=settings.pairs_from,
        reward=_reward_kind(settings),
        candidates=settings.candidates,
        trainable=settings.trainable,
        online_fits=fits,
        machine=machine,
    )
    if settings.probe is not None:
        facts = replace(facts, **_probe_verdicts(settings.probe))
    for path in settings.data:
        check = yield from check_steps(
            path, held_out=settings.held_out, evaluation_sets=settings.evaluation_sets
        )
        facts = add_data(facts, check)
        if (remark := plain_prompts_remark(settings.model, path)) is not None:
            facts = replace(facts, notes=(*facts.notes, remark))
    if settings.responses is not None:
        yield Progress(0, 0, "scoring responses")
        facts = _add_responses(facts, settings)
    return facts


def add_data(facts: Situation, check: DataCheck) -> Situation:
    """The facts with what `accord data check` found in one file."""
    counts = {finding.kind: finding.count for finding in check.findings}
    leaks = facts.leaks + sum(counts.get(kind, 0) for kind in LEAKS)
    facts = replace(facts, leaks=leaks, notes=(*facts.notes, _note(check)))
    field = _FIELDS.get(check.kind)
    if field is None:
        raise DataError(
            f"{check.report.path} holds {check.kind}, which no method learns from. Give "
            "demonstrations, pairs, rankings, labels or prompts."
        )
    records, before = check.report.records, getattr(facts, field)
    if field in ("pairs", "labels") and records > max(facts.pairs, facts.labels):
        facts = replace(facts, repeats=_repeats(counts), words=check.agreement)
    if records > before:
        facts = replace(facts, files={**facts.files, field: check.report.path})
    return replace(facts, **{field: before + records})


def _repeats(counts: Mapping[str, int]) -> Interval | None:
    """How often pairs that were judged twice have the same label.

    They are a repeated row where both agree, and a contradiction of two rows where they don't.
    """
    same, against = counts.get("duplicates", 0), counts.get("contradictions", 0) / 2
    return proportion_interval(same, same + against) if same + against else None


def _note(check: DataCheck) -> str:
    errors = [finding.title for finding in check.findings if finding.level == "error"]
    faults = f"; errors: {', '.join(errors)}" if errors else ""
    return f"{check.report.path}: {check.report.records:,} {check.kind}{faults}"


def _reward_kind(settings: AdviseSettings) -> RewardKind | None:
    kinds = {source.kind for source in settings.sources}
    if settings.judge is not None or "judge" in kinds:
        return "judge"
    if not kinds:
        return None
    return "model" if "reward_model" in kinds else "rule"


def _probe_verdicts(path: str) -> dict[str, Any]:
    """The verdict of a probe.json, and that of its audit `accuracy`, by the names of facts."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        document = AuditDocument.from_json(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"probe={path} can't be read ({type(error).__name__}: {error}). Give the probe.json "
            "that `accord probe` writes."
        ) from error
    if document.kind != "probe":
        raise DataError(
            f"probe={path} is the result of `accord {document.kind}`. Give the probe.json of "
            "`accord probe`."
        )
    by_name = {audit.name: audit.verdict for audit in document.audits}
    return {"probe": worst_verdict(document.audits), "accuracy": by_name.get("accuracy")}


def _add_responses(facts: Situation, settings: AdviseSettings) -> Situation:
    """How much better than the mean the best answer is by the reward."""
    assert settings.responses is not None
    rows = [row for row in read_responses(settings.responses) if len(row.responses) > 1]
    rows = rows[: settings.max_prompts]
    if len(rows) < 2:
        raise DataError(
            f"responses={settings.responses} has {len(rows)} prompts with 2 or more answers; it "
            "takes 2 to see how answers differ. Sample again: `accord sample num_responses=4`."
        )
    reward = build_reward(
        settings.sources,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        world=flawed_reward,
    )
    answers = [(row, response) for row in rows for response in row.responses]
    scored = score_responses(
        reward,
        [row.prompt for row, _ in answers],
        [response.text for _, response in answers],
        [response.finished for _, response in answers],
        [row.meta for row, _ in answers],
        None,
        [response.opened for _, response in answers],
    ).total
    ends = np.cumsum([len(row.responses) for row in rows])[:-1]
    return with_spread(facts, [part.tolist() for part in np.split(np.asarray(scored), ends)])


def with_spread(facts: Situation, scores: Sequence[Sequence[float]]) -> Situation:
    """The facts with the gain of the best of an answer's scores, [prompts][answers].

    The gain at N, the fewest answers of a prompt, is the unbiased estimate of Nakano et al. (2021,
    eq. 4), in standard deviations of all scores. Prompts are the units of its interval.
    """
    known = [np.asarray(row)[np.isfinite(row)] for row in scores]
    known = [row for row in known if len(row) > 1]
    if len(known) < 2:
        return replace(facts, notes=(*facts.notes, "the reward scores none of the responses"))
    n = min(len(row) for row in known)
    gains = [float(best_of_n_weights(row, n) @ row - row.mean()) for row in known]
    spread = float(np.concatenate(known).std())
    scale = spread if spread > 0 else 1.0
    tied = float(np.mean([np.ptp(row) == 0 for row in known]))
    return replace(facts, answers=n, gain=mean_interval(np.asarray(gains) / scale), tied=tied)
