"""Run a recipe: skip what is finished, go on with what is not, show how far it is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.errors import SettingsError, StorageError
from accord.learn.loop.checkpoints import FOLDER
from accord.learn.loop.fit import StepResult
from accord.learn.loop.processes import barrier, processes
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.pipeline.identity import (
    STAGE_FILE,
    describe_change,
    describe_state,
    is_finished,
    is_same_kind,
    read_stage,
    stage_folder,
    stage_identity,
)
from accord.pipeline.progress import Progress
from accord.pipeline.showing import interrupts, messages_above, show
from accord.pipeline.stages.compare import arena, compare
from accord.pipeline.stages.judges import flawed_reward
from accord.pipeline.stages.make import scratch, split, world
from accord.pipeline.stages.measure import evaluate, report
from accord.pipeline.stages.rounds import iterate, plans_of, rounds_table_of
from accord.pipeline.stages.sample import sample, select
from accord.report.results import terminal_table
from accord.runs import record_run, write_json_atomic
from accord.settings.identity import input_paths
from accord.settings.recipe import Recipe, StagePlan

STAGES: dict[str, Callable[[Any], Iterator[Progress]]] = {
    "world": world,
    "scratch": scratch,
    "split": split,
    "sample": sample,
    "compare": compare,
    "select": select,
    "arena": arena,
    "evaluate": evaluate,
    "report": report,
}

TOLD = ("loss", "rewards/accuracies", "objective/scores", "objective/kl")


def work_of(plan: StagePlan, console: Console) -> Iterator[Progress]:
    """The stage's work, as far as it goes."""
    if plan.kind == "iterate":
        return iterate(plan, lambda inner: stage_work(inner, console))
    if plan.kind != "train":
        return STAGES[plan.kind](plan.settings)
    assert plan.method is not None
    settings: Any = plan.settings
    if plan.method in ONLINE:
        return _told(train_online(plan.method, settings, world=flawed_reward))
    return _told(train_offline(plan.method, settings))


def _told(steps: Iterator[StepResult]) -> Iterator[Progress]:
    try:
        for step in steps:
            note = "  ".join(
                f"{name.split('/')[-1]} {step.metrics[name]:.3f}"
                for name in TOLD
                if name in step.metrics
            )
            yield Progress(step.step, step.total, note)
    finally:
        steps.close()  # type: ignore[attr-defined]


def run_recipe(recipe: Recipe) -> bool:
    """Run all stages that are not finished, then print the table of results if there is one.

    Of several processes the main one runs and tells it all, and returns True; the others take
    part in training.
    """
    console = Console(stderr=True)
    if not processes().is_main:
        for plan in recipe.stages:
            _take_part(plan)
        barrier()
        return False
    with messages_above(console):
        for plan in recipe.stages:
            run_one(plan, console)
            if plan.kind == "iterate":
                Console().print(rounds_table_of(plan))
    barrier()
    results = Path(recipe.output_dir) / "results.json"
    for plan in recipe.stages:
        if plan.kind == "report":
            results = stage_folder(plan) / "results.json"
    if results.is_file():
        Console().print(terminal_table(json.loads(results.read_text(encoding="utf-8"))))
    return True


def run_stage(plan: StagePlan) -> bool:
    """Run a single stage, unless it is finished with the same settings and inputs; True in the
    main process.

    Raises SettingsError when its folder holds what other settings or inputs made: outside of a
    recipe nobody said that it may be made anew.
    """
    if not processes().is_main:
        _take_part(plan)
        barrier()
        return False
    console = Console(stderr=True)
    with messages_above(console):
        run_one(plan, console, replace=False)
    barrier()
    if plan.kind == "iterate":
        Console().print(rounds_table_of(plan))
    return True


def _take_part(plan: StagePlan) -> None:
    """Another process's share of a stage: training, if the main one says that it runs."""
    if not processes().broadcast(None):
        return
    if plan.kind == "iterate":
        for inner in plans_of(plan):
            _take_part(inner)
    elif plan.kind == "train":
        with interrupts():  # they reach the main process too, which stops between two steps
            for _ in work_of(plan, Console(stderr=True)):
                pass


def run_one(plan: StagePlan, console: Console, *, replace: bool = True) -> None:
    """Run a stage with a progress bar. Ctrl-C stops it between two pieces of work.

    With `replace`, what other settings made in its folder makes way, announced.
    """
    work = stage_work(plan, console, replace=replace)
    if work is not None:
        show(plan, work, console)


def stage_work(
    plan: StagePlan, console: Console, *, replace: bool = True
) -> Iterator[Progress] | None:
    """What is left of a stage's work, with its record kept in its folder; None if it is finished.

    Raises SettingsError without `replace` where other settings or inputs made what is there.
    """
    folder = stage_folder(plan)
    about = stage_identity(plan)
    before = read_stage(folder)
    if is_finished(plan, before, about):
        console.print(
            f"{plan.name}: finished before, not run again",
            style="dim",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        processes().broadcast(False)
        return None
    if plan.kind == "report" and before and not is_same_kind(plan, before):
        processes().broadcast(False)
        return work_of(plan, console)  # its folder goes on telling of the stage that made it
    if before and before.get("digest") != about["digest"]:
        _begin_anew(plan, folder, before, about, console, replace=replace)
    spent = float(before.get("seconds", 0.0)) if before.get("digest") == about["digest"] else 0.0
    write_json_atomic(folder / STAGE_FILE, {**about, "seconds": spent, "finished": None})
    processes().broadcast(True)
    return _recorded(plan, console, about, spent)


def _recorded(
    plan: StagePlan, console: Console, about: Mapping[str, Any], spent: float
) -> Iterator[Progress]:
    """The work, with manifest.json and stage.json saying how far it is and how it ended."""
    folder = stage_folder(plan)
    began = time.perf_counter()
    seed = getattr(plan.settings, "seed", None)
    try:
        with record_run(folder, settings=plan.settings, seed=seed, inputs=about["inputs"]):
            yield from work_of(plan, console)
    except BaseException:
        seconds = spent + time.perf_counter() - began
        with suppress(StorageError):  # the disk may be what failed; the first error is told
            write_json_atomic(folder / STAGE_FILE, {**about, "seconds": seconds, "finished": None})
        raise
    seconds = spent + time.perf_counter() - began
    finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    write_json_atomic(folder / STAGE_FILE, {**about, "seconds": seconds, "finished": finished})


def plan_recipe(recipe: Recipe) -> str:
    """The stages with all their settings, and which are finished; runs nothing."""
    lines = [f"output_dir: {recipe.output_dir}", f"seed: {recipe.seed}"]
    running: dict[str, str] = {}  # the names of stages that will run, by their folders
    for plan in recipe.stages:
        kind = plan.kind if plan.method is None else f"{plan.kind} {plan.method}"
        state = describe_state(plan)
        paths = input_paths(plan.settings)
        used = [running[start] for start in running for p in paths if p.startswith(start)]
        if state.startswith("finished") and used:
            state = f"to run again if `{used[0]}`, which runs before it, gives something else"
        if not state.startswith("finished"):
            running[f"{stage_folder(plan)}/"] = plan.name
        lines.append(f"\n{plan.name} ({kind}): {state}")
        lines += [
            f"  {key}: {json.dumps(value)}"
            for key, value in plan.settings.model_dump(mode="json").items()
        ]
    return "\n".join(lines)


def _begun(folder: Path) -> bool:
    """Whether there is work to lose: a checkpoint, or a stage inside that has begun."""
    return (folder / FOLDER).is_dir() or any(folder.glob(f"*/*/{STAGE_FILE}"))


def _begin_anew(
    plan: StagePlan,
    folder: Path,
    before: Mapping[str, Any],
    about: Mapping[str, Any],
    console: Console,
    *,
    replace: bool,
) -> None:
    """The folder was made under other settings or from other inputs: it makes way, announced.

    Raises SettingsError where another kind of stage made it, such as the report in a run's folder,
    and without `replace` where there is a result or a checkpoint to lose.
    """
    if not is_same_kind(plan, before):
        made_by = before.get("method") or before.get("stage")
        raise SettingsError(
            f"output_dir={folder} is the folder of the `{made_by}` stage `{before.get('name')}`, "
            f"which `{plan.name}` would replace with all that lies in it. Name another output_dir, "
            f"or remove the folder."
        )
    if not replace and (before.get("finished") or _begun(folder)):
        raise SettingsError(
            f"{folder} holds a `{before.get('name')}` stage that other settings or inputs made: "
            f"{describe_change(before, about)}. Set them back to go on, name another output_dir, "
            f"or remove the folder to begin anew."
        )
    console.print(
        f"{plan.name}: {describe_change(before, about)}; runs again from the start",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if plan.kind != "report":  # a report may share its folder with the run
        shutil.rmtree(folder)
