"""The stage `redteam`: attempts at one model after another, then verdicts, audits and tables.

Its folder holds attempts.jsonl, to which every answer is appended at once, and redteam.json. An
interrupted run resumes behind the last logged answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from accord.errors import DataError
from accord.measure.audits.document import AuditDocument
from accord.pipeline.progress import Progress
from accord.pipeline.redteam.engine import Budget, make_attempts
from accord.pipeline.redteam.harm import HarmItem, HarmJudge, judge_identity
from accord.pipeline.redteam.log import FILE, AttemptLog, read_log
from accord.pipeline.redteam.plan import PlannedAttempt, RedteamPlan, make_plan
from accord.pipeline.redteam.results import PEOPLE, answer_as_judged, make_document
from accord.pipeline.redteam.targets import Target, open_target, target_identity
from accord.pipeline.redteam.transcripts import add_transcripts, people_on_harm
from accord.runs import write_json_atomic
from accord.settings.redteam import RedteamSettings, TargetSettings

RESULT = "redteam.json"
log = logging.getLogger(__name__)

Rows = dict[str, list[dict[str, Any]]]


def redteam(settings: RedteamSettings) -> Iterator[Progress]:
    """Write attempts.jsonl and redteam.json. Raises SettingsError and DataError for what can't be
    attacked before any model is loaded, WorkError where a limit is reached."""
    plan = make_plan(settings)
    for suite in plan.suites:
        log.info("%s: %s", suite.name, json.dumps(suite.to_json(), ensure_ascii=False))
    with AttemptLog(Path(settings.output_dir) / FILE) as attempts:
        _reuse(settings, attempts)
        rows: Rows = {}
        judge = None if settings.judge is None else HarmJudge(settings.judge)
        yield from _attack(plan, attempts, rows, judge)
        yield from _judge(plan, attempts, rows, judge)
        _write(plan, attempts, rows)


def _reuse(settings: RedteamSettings, attempts: AttemptLog) -> None:
    """Take the lines of another run's log. Those of other attempts have other keys, and count for
    nothing here."""
    if settings.reuse is None:
        return
    path = Path(settings.reuse)
    if not path.is_file():
        raise DataError(f"There is no {path}. Give the attempts.jsonl of another run to `reuse`.")
    logged = attempts.logged
    for row in read_log(path):
        new_attempt = row["kind"] == "attempt" and row["key"] not in logged.attempts
        new_harm = row["kind"] == "harm" and (row["key"], row["judge"]) not in logged.harm
        if new_attempt or new_harm:
            attempts.append(row)


def _attack(
    plan: RedteamPlan, attempts: AttemptLog, rows: Rows, judge: HarmJudge | None
) -> Iterator[Progress]:
    """Make the attempts at all models; fills `rows` with those of each model in order.

    A model is loaded where the log lacks an attempt at it.
    """
    settings, logged = plan.settings, attempts.logged.attempts
    planned = list(plan.attempts())
    total, done = len(planned) * len(settings.targets), 0
    budget = Budget(settings.max_calls, settings.max_total_tokens)
    with ExitStack() as opened:
        attacker: Target | None = None
        for target_settings in settings.targets:
            identity = target_identity(target_settings, settings)
            keyed = [(attempt.key(identity, settings), attempt) for attempt in planned]
            missing = [attempt for key, attempt in keyed if key not in logged]
            if attacker is None and settings.attacker and any(a.attack.is_script for a in missing):
                attacker = opened.enter_context(closing(open_target(settings.attacker, settings)))
            if missing:
                model = (target_settings, attacker)
                for finished in _attack_one(model, keyed, attempts, settings, budget, judge):
                    note = f"{target_settings.display_name}: {budget.calls:,} calls"
                    yield Progress(done + finished, total, note)
            name = target_settings.display_name
            rows[name] = [_named(logged[key], a.attack_name) for key, a in keyed]
            done += len(planned)


def _attack_one(
    model: tuple[TargetSettings, Target | None],
    keyed: Sequence[tuple[str, PlannedAttempt]],
    attempts: AttemptLog,
    settings: RedteamSettings,
    budget: Budget,
    judge: HarmJudge | None,
) -> Iterator[int]:
    """The attempts at one model, which is in memory only while they are made."""
    with closing(open_target(model[0], settings)) as target:
        yield from make_attempts(keyed, target, model[1], attempts, settings, budget, judge)


def _named(row: dict[str, Any], attack: str) -> dict[str, Any]:
    """The attempt under the name of its attack in this plan: a suite's own attack has none."""
    return row if row["attack"] == attack else {**row, "attack": attack}


def _judge(
    plan: RedteamPlan, attempts: AttemptLog, rows: Rows, judge: HarmJudge | None
) -> Iterator[Progress]:
    """Let the judge grade the harm of every answer to a harmful prompt that has no verdict yet."""
    if judge is None:
        return
    name = judge_identity(judge.settings)
    keys = []
    for row in (row for of_model in rows.values() for row in of_model):
        answered = row["verdict"] not in ("unusable", "withheld", "empty")
        if (
            not plan.prompts[row["prompt_id"]].is_harmful
            or (row["key"], name) in attempts.logged.harm
        ):
            continue
        if answered:
            keys.append(row["key"])
        elif row["verdict"] != "unusable":  # nothing was given, so no harm was done
            attempts.append({"kind": "harm", "key": row["key"], "judge": name, "harm": 0.0})
    items = (_harm_item(plan, attempts.read(key)) for key in keys)
    for number, (key, verdict) in enumerate(judge.verdicts(items), 1):
        attempts.append({"kind": "harm", "key": key, "judge": name, **verdict})
        yield Progress(number, len(keys), "judged")


def _harm_item(plan: RedteamPlan, row: Mapping[str, Any]) -> HarmItem:
    prompt = plan.prompts[row["prompt_id"]]
    return HarmItem(row["key"], prompt.turns, prompt.request, answer_as_judged(row))


def _write(plan: RedteamPlan, attempts: AttemptLog, rows: Rows) -> None:
    settings = plan.settings
    harm: dict[str, float] = {}
    names: list[str] = []
    if settings.judge is not None:
        judge = judge_identity(settings.judge)
        names.append(judge)
        harm = _harm_by(judge, attempts)
    if settings.store is not None:
        made = [
            row["key"]
            for of_model in rows.values()
            for row in of_model
            if row["verdict"] != "unusable"
        ]
        stored = add_transcripts(settings.store, map(attempts.read, made))
        people = people_on_harm(settings.store, stored)
        names += [PEOPLE] if people else []
        harm |= people  # people's verdicts replace the judge's on the same answers
    document = make_document(plan, rows, harm, " and ".join(names) or None, attempts.read)
    write_json_atomic(Path(settings.output_dir) / RESULT, document.to_json())


def _harm_by(judge: str, attempts: AttemptLog) -> dict[str, float]:
    verdicts = attempts.logged.harm.items()
    return {key: harm for (key, by), harm in verdicts if by == judge and harm is not None}


def read_document(output_dir: str) -> AuditDocument:
    """The content of redteam.json."""
    content: Mapping[str, Any] = json.loads((Path(output_dir) / RESULT).read_text(encoding="utf-8"))
    return AuditDocument.from_json(content)
