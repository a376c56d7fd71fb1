"""`accord judge check` from its arguments to its report."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from accord.compare.dataset import load_records
from accord.compare.judges.people import load_voted_pairs
from accord.compare.store.connection import is_store
from accord.errors import RequestError, SettingsError
from accord.pipeline.judges.asking import make_asked_judge
from accord.pipeline.judges.check import CheckOptions, JudgeReport, check_judge
from accord.pipeline.judges.record import record_check
from accord.pipeline.progress import Progress
from accord.records import Prompt, PromptOnly
from accord.runs import write_json_atomic
from accord.settings.judge import JudgeSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping


def judge_settings(config: str | Path | None, overrides: Sequence[str]) -> JudgeSettings:
    """A judge's settings from a YAML file (of them alone, or under the key `judge`) and `key=value`
    overrides; with a `base_url` the kind is `endpoint`. Raises SettingsError."""
    values = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    if isinstance(values.values.get("judge"), Mapping):
        values = values.sub(("judge",), label="judge")
    values = apply_overrides(values, overrides)
    if "kind" not in values.values and "base_url" in values.values:
        values = apply_overrides(values, ["kind=endpoint"])
    return build(JudgeSettings, values, where="judge")


def select_columns(conditions: Sequence[str]) -> dict[str, str]:
    """`COLUMN=VALUE` conditions as a table. Raises RequestError."""
    where = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals or not column:
            raise RequestError(f"--where {condition!r} is no condition. Write COLUMN=VALUE.")
        where[column] = value
    return where


def run_check(
    people: str,
    judge: JudgeSettings,
    options: CheckOptions,
    *,
    where: Mapping[str, str] | None = None,
    annotators: Sequence[str] = (),
    criterion: str | None = None,
    tuned_on: str | None = None,
    store: str | None = None,
    output: str | None = None,
) -> Generator[Progress, None, JudgeReport]:
    """Check a judge step by step, write what was found, and return it.

    It is recorded in `store`, or in `people` where that is a store. Raises SettingsError where the
    store can't be one, before anything is asked.
    """
    record_in = store or (people if is_store(people) else None)
    if record_in is not None and not is_store(record_in):
        raise SettingsError(
            f"{record_in} is not a preference store: give a file ending in .db or a database URL."
        )
    pairs, rows = load_voted_pairs(people, where=where, people=annotators, criterion=criterion)
    tuned = read_prompts(tuned_on) if tuned_on is not None else ()
    asked = make_asked_judge(judge)
    report = yield from check_judge(asked, pairs, rows, options, tuned_on=tuned)
    if output is not None:
        write_json_atomic(output, report.to_json())
    if record_in is not None and asked.fingerprint is not None:
        record_check(record_in, report, asked.fingerprint, criterion)
    return report


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a data set."""
    records, _ = load_records(path, "prompts")
    return [record.prompt for record in records if isinstance(record, PromptOnly)]
