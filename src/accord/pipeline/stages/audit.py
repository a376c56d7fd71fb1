"""The stage `audit`: sample a model before and after training, score both, and audit the change.

Its folder holds audit.json, `before/` and `after/` with the responses where it sampled them, and
`tasks/` with those to the user's tasks: each is a stage `sample`, which is skipped when finished
and resumed when interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from accord.measure.audits.audit import Audit
from accord.measure.audits.broken import HELD_OUT, TASK
from accord.measure.audits.document import AuditDocument
from accord.measure.audits.models import OPTIONAL, model_audits
from accord.measure.audits.yes_no import QUESTIONS
from accord.pipeline.audits.broken import broken_audits
from accord.pipeline.audits.inputs import curve_points, read_pair, score_pair
from accord.pipeline.audits.tasks import stages_of_tasks, write_task_prompts
from accord.pipeline.progress import Progress, StartStage
from accord.runs import write_json_atomic
from accord.settings.audit import AuditSettings
from accord.settings.recipe import StagePlan
from accord.settings.stages import SampleSettings

FILE = "audit.json"
NO_RESPONSES = (
    "No responses to prompts are audited: these audits need `dataset`, or `responses` and "
    "`before_responses`."
)
Side = Literal["before", "after"]


def audit(plan: StagePlan, start: StartStage) -> Iterator[Progress]:
    """Write audit.json; sample the responses first that are not given."""
    settings = _settings(plan)
    write_task_prompts(settings)
    for stage in stages_of_audit(plan):
        work = start(stage)
        if work is not None:
            yield from work
    yield Progress(0, 4)
    audits: list[Audit] = []
    results, notes = {}, [NO_RESPONSES]
    if settings.compares_responses:
        pair = read_pair(settings)
        data, members = score_pair(settings, pair)
        yield Progress(1, 4, "scored")
        curve = list(curve_points(settings, pair.prompts))
        yield Progress(2, 4, "curve")
        audits += model_audits(data, members=members, curve=curve)
        results, notes = {"prompts": len(pair.prompts)}, list(pair.notes)
    broken, remarks = broken_audits(settings)
    yield Progress(3, 4, "what it broke")
    audits += broken
    document = AuditDocument(
        "audit",
        settings.model_name,
        tuple(audits),
        settings.model_dump(mode="json"),
        results,
        (*notes, *remarks, *_not_made(audits, settings)),
    )
    write_json_atomic(Path(settings.output_dir) / FILE, document.to_json())
    yield Progress(4, 4)


def _not_made(audits: Sequence[Audit], settings: AuditSettings) -> list[str]:
    made = {TASK + "…" if audit.name.startswith(TASK) else audit.name for audit in audits}
    asked = {f"{TASK}…", HELD_OUT, QUESTIONS}
    return [
        f"Not audited: {name}, which needs {what}."
        for name, what in OPTIONAL.items()
        if name not in made and (settings.compares_responses or name in asked)
    ]


def stages_of_audit(plan: StagePlan) -> list[StagePlan]:
    """The stages that sample the responses which the settings do not give."""
    settings = _settings(plan)
    sides: tuple[tuple[Side, str | None, str | None, str], ...] = (
        ("before", settings.before, settings.before_responses, settings.before_name),
        ("after", settings.model, settings.responses, settings.model_name),
    )
    stages = []
    for side, model, responses, name in sides:
        if responses is None and settings.compares_responses:
            assert model is not None
            assert settings.dataset is not None
            sampling = SampleSettings(
                model=model,
                dataset=settings.dataset,
                output_dir=str(Path(settings.output_dir) / side),
                model_name=name,
                dialogue_text=settings.dialogue_text,
                num_responses=settings.num_responses,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                max_prompts=settings.max_prompts,
                seed=settings.seed,
                device=settings.device,
            )
            stages.append(StagePlan(f"{plan.name}-{side}", "sample", sampling))
    return [*stages, *stages_of_tasks(settings, plan.name)]


def read_document(output_dir: str) -> AuditDocument:
    """The content of audit.json."""
    return AuditDocument.from_json(
        json.loads((Path(output_dir) / FILE).read_text(encoding="utf-8"))
    )


def _settings(plan: StagePlan) -> AuditSettings:
    assert isinstance(plan.settings, AuditSettings)
    return plan.settings
