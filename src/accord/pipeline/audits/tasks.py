"""The user's own tasks: rows are read and graded, and both models answer them greedily.

`output_dir/tasks/NAME` holds prompts.jsonl, the task's usable rows, and `before/` and `after/`
with the responses, each by a stage `sample`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accord.data.checks import RowError, require_text
from accord.data.write import ResponseRow, read_responses, record_json, write_jsonl
from accord.errors import DataError
from accord.measure.audits.audit import Audit
from accord.measure.audits.broken import TASK, TaskOutcome, task_audit
from accord.measure.audits.task_rules import MAX_SECONDS, check_accepted, is_right
from accord.pipeline.audits.answered import AnsweredRows, read_answered
from accord.records import PromptOnly, prompt_text
from accord.settings.audit import AuditSettings, TaskRows, TaskRule
from accord.settings.recipe import StagePlan
from accord.settings.stages import SampleSettings

log = logging.getLogger(__name__)

ROW = "task_row"
Accepted = tuple[str, ...]


def task_folder(settings: AuditSettings, task: TaskRows) -> Path:
    """The folder of a task's prompts and of the responses to them."""
    return Path(settings.output_dir) / "tasks" / task.name


def write_task_prompts(settings: AuditSettings) -> None:
    """Write the usable rows of each task for the stages that sample them.

    Raises DataError where no row of a task can be used.
    """
    for task in settings.tasks:
        rows = read_task(task)
        log.info("%s: %s", task.name, rows.report.summary())
        folder = task_folder(settings, task)
        folder.mkdir(parents=True, exist_ok=True)
        numbered = (
            PromptOnly(record.prompt, meta={ROW: i}) for i, record in enumerate(rows.prompts)
        )
        write_jsonl(folder / "prompts.jsonl", map(record_json, numbered))


def stages_of_tasks(settings: AuditSettings, stage: str) -> Iterator[StagePlan]:
    """The stages that sample both models' answers, greedily and one to each prompt."""
    models = (
        ("before", settings.before, settings.before_name),
        ("after", settings.model, settings.model_name),
    )
    for task in settings.tasks:
        folder = task_folder(settings, task)
        for side, model, name in models:
            assert model is not None
            sampling = SampleSettings(
                model=model,
                dataset=str(folder / "prompts.jsonl"),
                output_dir=str(folder / side),
                model_name=name,
                dialogue_text=settings.dialogue_text,
                num_responses=1,
                max_new_tokens=task.max_new_tokens,
                temperature=0.0,
                seed=settings.seed,
                device=settings.device,
            )
            yield StagePlan(f"{stage}-{task.name}-{side}", "sample", sampling)


def read_task(task: TaskRows) -> AnsweredRows[Accepted]:
    """The usable rows of a task with the answers that each accepts."""
    # Dialogues stay text here: the stage that samples reads them, as its tokenizer allows.
    rows = read_answered(
        task.dataset,
        task.column,
        lambda value: accepted_answers(value, task.rule, task.column),
        "keep",
    )
    limit = task.max_prompts
    return AnsweredRows(rows.prompts[:limit], rows.answers[:limit], rows.report)


def accepted_answers(value: Any, rule: TaskRule, column: str = "answer") -> Accepted:
    """The answers in a cell: text, a number, or a list of several; a list may be JSON in a text,
    as a CSV file holds it. Raises RowError where one of them can't be compared under the rule."""
    if rule != "regex" and isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):  # else the text is the answer
            value = json.loads(value)
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise RowError(f"`{column}` is an empty list")
    answers = tuple(_text(each, column) for each in values)
    for answer in answers:
        fault = check_accepted(rule, answer)
        if fault is not None:
            raise RowError(fault, repr(answer)[:60])
    return answers


def _text(value: Any, column: str) -> str:
    if isinstance(value, bool):
        raise RowError(f"`{column}` is true or false, not the text that is expected", str(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return require_text(value, column)


def task_audits(settings: AuditSettings) -> Iterator[tuple[Audit, tuple[str, ...]]]:
    """The audit of each task from the responses in its folder, and notes on its rows."""
    for task in settings.tasks:
        rows, folder = read_task(task), task_folder(settings, task)
        sides = [
            {int(row.meta[ROW]): row for row in read_responses(folder / side / "responses.jsonl")}
            for side in ("before", "after")
        ]
        shared = [i for i in range(len(rows.prompts)) if i in sides[0] and i in sides[1]]
        if not shared:
            raise DataError(
                f"The task {task.name!r} has no prompt that both models answered. Give shorter "
                "prompts, or lower its `max_new_tokens`."
            )
        notes = list(rows.notes(TASK + task.name))
        left_out = len(rows.prompts) - len(shared)
        if left_out:
            notes.append(
                f"{TASK}{task.name}: {left_out:,} prompts that a model can't read (too long, or "
                "with control tokens) are left out."
            )
        yield _audit(task, rows, shared, sides, settings), tuple(notes)


def _audit(
    task: TaskRows,
    rows: AnsweredRows[Accepted],
    shared: list[int],
    sides: list[dict[int, ResponseRow]],
    settings: AuditSettings,
) -> Audit:
    responses = [[side[i].responses[0] for i in shared] for side in sides]
    parts = [[response.split() for response in side] for side in responses]
    right = [
        [
            part.answer is not None and _grade(task, part.answer, rows.answers[i])
            for i, part in zip(shared, side, strict=True)
        ]
        for side in parts
    ]
    counts: dict[str, Any] = {}
    for name, side, split in zip(("before", "after"), responses, parts, strict=True):
        counts[f"cut_off_{name}"] = sum(not response.finished for response in side)
        counts[f"without_answer_{name}"] = sum(part.answer is None for part in split)
    return task_audit(
        TaskOutcome(
            task.name,
            [prompt_text(rows.prompts[i].prompt) for i in shared],
            [" or ".join(rows.answers[i]) for i in shared],
            [response.text for response in responses[0]],
            [response.text for response in responses[1]],
            *right,
        ),
        details={"rule": task.rule, **counts, "rows": rows.report.rows},
        lineage=_lineage(task, settings),
        limits=settings.limit_pairs,
    )


def _grade(task: TaskRows, answer: str, accepted: Accepted) -> bool:
    try:
        return is_right(task.rule, answer, accepted)
    except TimeoutError as error:
        raise DataError(
            f"An expression of the task {task.name!r} took over {MAX_SECONDS:g} s on an answer of "
            f"{len(answer):,} characters: {' or '.join(accepted)!r}. Write it without one "
            "repetition inside of another."
        ) from error


def _lineage(task: TaskRows, settings: AuditSettings) -> Mapping[str, Any]:
    return {"dataset": task.dataset, "before": settings.before, "after": settings.model}
