"""STAGES: every kind of stage, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from accord.pipeline.progress import Progress, StartStage
from accord.pipeline.stages.audit import audit, stages_of_audit
from accord.pipeline.stages.compare import arena, compare
from accord.pipeline.stages.curve import curve, curve_table, stages_of_curve
from accord.pipeline.stages.make import scratch, split, world
from accord.pipeline.stages.measure import evaluate, report
from accord.pipeline.stages.probe import probe
from accord.pipeline.stages.redteam import redteam
from accord.pipeline.stages.revise import revise
from accord.pipeline.stages.revised import result_table as revised_table
from accord.pipeline.stages.rounds import finished_rounds, iterate, stages_of_rounds
from accord.pipeline.stages.sample import sample, select
from accord.pipeline.stages.train import train
from accord.settings.recipe import StagePlan

StageWork = Callable[[StagePlan, StartStage], Iterator[Progress]]
"""The work of a stage, as a generator of progress. A stage that is made of stages starts these by
the second argument."""


@dataclass(frozen=True, slots=True)
class StageKind:
    """How a kind of stage is run.

    `inner_stages` are the stages that it consists of. With `all_processes`, each of several
    processes does its share of the work; otherwise the main process does it alone. With
    `shares_folder`, the stage may write into the folder of another stage, and never removes it.
    `result_table` is printed once the stage is finished.
    """

    work: StageWork
    inner_stages: Callable[[StagePlan], Sequence[StagePlan]] = lambda plan: ()
    all_processes: bool = False
    shares_folder: bool = False
    result_table: Callable[[StagePlan], Table] | None = None


def _with_settings(work: Callable[[Any], Iterator[Progress]]) -> StageWork:
    """The work of a stage that depends on its settings alone."""
    return lambda plan, start: work(plan.settings)


STAGES: dict[str, StageKind] = {
    "world": StageKind(_with_settings(world)),
    "scratch": StageKind(_with_settings(scratch)),
    "split": StageKind(_with_settings(split)),
    "train": StageKind(lambda plan, start: train(plan), all_processes=True),
    "sample": StageKind(_with_settings(sample)),
    "revise": StageKind(_with_settings(revise), result_table=revised_table),
    "compare": StageKind(_with_settings(compare)),
    "select": StageKind(_with_settings(select)),
    "iterate": StageKind(iterate, inner_stages=stages_of_rounds, result_table=finished_rounds),
    "arena": StageKind(_with_settings(arena)),
    "evaluate": StageKind(_with_settings(evaluate)),
    "audit": StageKind(audit, inner_stages=stages_of_audit),
    "redteam": StageKind(_with_settings(redteam)),
    "probe": StageKind(_with_settings(probe)),
    "curve": StageKind(curve, inner_stages=stages_of_curve, result_table=curve_table),
    "report": StageKind(_with_settings(report), shares_folder=True),
}
