"""Run a recipe or one stage: skip what is finished, resume what is not, and show the progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.errors import SettingsError, StorageError
from accord.interrupts import deferred_interrupts
from accord.learn.loop.checkpoints import FOLDER
from accord.learn.loop.processes import barrier, processes
from accord.lm.released import return_memory
from accord.pipeline.console import messages_above_bar, run_with_bar
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
from accord.pipeline.outputs import (
    check_inputs,
    check_nothing_in_the_way,
    check_only_written,
    check_separate,
    remove_outputs,
    written_files,
)
from accord.pipeline.progress import Progress
from accord.pipeline.stages.kinds import STAGES
from accord.report.results import terminal_table, terminal_verdict
from accord.runs import lock_folder, record_run, remove_stale_lock, write_json_atomic
from accord.settings.identity import input_paths
from accord.settings.recipe import Recipe, StagePlan


def run_recipe(recipe: Recipe) -> bool:
    """Run all stages that are not finished, then print the table of results if there is one.

    The main process runs the recipe and returns True. The others do their share of the stages
    that run on all processes, and return False.
    """
    console = Console(stderr=True)
    if not processes().is_main:
        for plan in recipe.stages:
            _join_stage(plan)
        barrier()
        return False
    with messages_above_bar(console), _locked_run(recipe):
        _check_folders(recipe)
        for plan in recipe.stages:
            _run_in_main_process(plan, console)
            _print_result_table(plan)
    barrier()
    results = Path(recipe.output_dir) / "results.json"
    for plan in recipe.stages:
        if plan.kind == "report":
            results = stage_folder(plan) / "results.json"
    if results.is_file():
        content = json.loads(results.read_text(encoding="utf-8"))
        Console().print(terminal_table(content), *terminal_verdict(content), sep="\n")
    return True


def run_stage(plan: StagePlan) -> bool:
    """Run a single stage, unless it is finished with the same settings and inputs; True in the
    main process.

    Raises SettingsError when its folder holds the results of other settings or inputs: unlike a
    recipe, a single stage never replaces them.
    """
    if not processes().is_main:
        _join_stage(plan)
        barrier()
        return False
    console = Console(stderr=True)
    with messages_above_bar(console):
        _run_in_main_process(plan, console, replace=False)
    barrier()
    _print_result_table(plan)
    return True


def plan_recipe(recipe: Recipe) -> str:
    """The stages with all their settings, and which are finished; runs nothing."""
    lines = [f"output_dir: {recipe.output_dir}", f"seed: {recipe.seed}"]
    pending: dict[str, str] = {}  # names of the stages that will run, by their folders
    for plan in recipe.stages:
        kind = plan.kind if plan.method is None else f"{plan.kind} {plan.method}"
        state = describe_state(plan)
        paths = input_paths(plan.settings)
        used = [pending[folder] for folder in pending for p in paths if p.startswith(folder)]
        if state.startswith("finished") and used:
            state = f"to run again if `{used[0]}`, which runs before it, gives something else"
        if not state.startswith("finished"):
            pending[f"{stage_folder(plan)}/"] = plan.name
        lines.append(f"\n{plan.name} ({kind}): {state}")
        lines += [
            f"  {key}: {json.dumps(value)}"
            for key, value in plan.settings.model_dump(mode="json").items()
        ]
    return "\n".join(lines)


@contextmanager
def _locked_run(recipe: Recipe) -> Iterator[None]:
    """The lock of the run's folder; none where the folder can't be written, since a run of
    finished stages writes nothing."""
    with ExitStack() as lock:
        with suppress(StorageError):
            lock.enter_context(lock_folder(recipe.output_dir, "run"))
        yield


def _check_folders(recipe: Recipe) -> None:
    """Raise SettingsError for what a later stage would refuse, before the first one runs."""
    check_separate(recipe.stages)
    for plan in recipe.stages:
        folder = stage_folder(plan)
        check_inputs(plan, folder, shares_folder=STAGES[plan.kind].shares_folder)
        if not read_stage(folder):
            check_nothing_in_the_way(plan, folder)


def _run_in_main_process(plan: StagePlan, console: Console, *, replace: bool = True) -> None:
    work = _start_stage(plan, console, replace=replace)
    if work is not None:
        run_with_bar(plan, work, console)


def _join_stage(plan: StagePlan) -> None:
    """Do another process's share of a stage, if the main process announces that it runs."""
    if not processes().announce(None):
        return
    kind = STAGES[plan.kind]
    for inner in kind.inner_stages(plan):
        _join_stage(inner)
    if kind.all_processes:
        with deferred_interrupts():  # the main process receives them too, and ends the stage
            for _ in _stage_work(plan, Console(stderr=True)):
                pass


def _print_result_table(plan: StagePlan) -> None:
    result_table = STAGES[plan.kind].result_table
    if result_table is not None:
        Console().print(result_table(plan))


def _start_stage(
    plan: StagePlan, console: Console, *, replace: bool = True
) -> Iterator[Progress] | None:
    """The rest of a stage's work, recorded in its folder; None if the stage is finished.

    With `replace`, results of other settings or inputs in its folder are announced and removed;
    without it, they raise SettingsError. Broadcasts to the other processes whether the stage runs.
    """
    folder, kind = stage_folder(plan), STAGES[plan.kind]
    check_inputs(plan, folder, shares_folder=kind.shares_folder)
    identity = stage_identity(plan)
    purpose = plan.kind if kind.shares_folder else ""
    if is_finished(plan, read_stage(folder), identity):
        remove_stale_lock(folder, purpose)  # of a run that was killed after its last write
        _announce_finished(plan, console)
        return None
    with ExitStack() as lock:
        lock.enter_context(lock_folder(folder, purpose))
        before = read_stage(folder)
        if is_finished(plan, before, identity):  # by a run that has just ended
            _announce_finished(plan, console)
            return None
        if kind.shares_folder and before and not is_same_kind(plan, before):
            processes().announce(False)  # stage.json remains that of the other stage
            return _locked_work(_stage_work(plan, console), lock.pop_all())
        same = before.get("digest") == identity["digest"]
        if not before:
            check_nothing_in_the_way(plan, folder)
        elif same:
            check_only_written(plan, folder, before)
        else:
            _clear_folder(plan, folder, before, identity, console, replace=replace)
        seconds = float(before.get("seconds", 0.0)) if same else 0.0
        write_json_atomic(folder / STAGE_FILE, {**identity, "seconds": seconds, "finished": None})
        processes().announce(True)
        work = _recorded_work(plan, console, identity, seconds)
        return _locked_work(work, lock.pop_all())


def _announce_finished(plan: StagePlan, console: Console) -> None:
    """Say that a stage is finished, to the user and to the other processes."""
    console.print(
        f"{plan.name}: finished before, not run again",
        style="dim",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    processes().announce(False)


def _locked_work(work: Iterator[Progress], lock: ExitStack) -> Iterator[Progress]:
    """The work, at whose end the folder's lock is released."""
    with lock:
        yield from work


def _stage_work(plan: StagePlan, console: Console) -> Iterator[Progress]:
    return STAGES[plan.kind].work(plan, lambda inner: _start_stage(inner, console))


def _recorded_work(
    plan: StagePlan, console: Console, identity: Mapping[str, Any], earlier_seconds: float
) -> Iterator[Progress]:
    """The work, with manifest.json and stage.json recording how long it took and how it ended."""
    folder = stage_folder(plan)
    started = time.perf_counter()
    seed = getattr(plan.settings, "seed", None)

    def record(finished: str | None) -> None:
        seconds = earlier_seconds + time.perf_counter() - started
        state: dict[str, Any] = {"seconds": seconds, "finished": finished}
        if finished:
            state["files"] = written_files(plan, folder)
        write_json_atomic(folder / STAGE_FILE, {**identity, **state})

    try:
        with record_run(folder, settings=plan.settings, seed=seed, inputs=identity["inputs"]):
            yield from _stage_work(plan, console)
    except BaseException:
        with suppress(StorageError):  # the disk may be what failed; the first error is reported
            record(None)
        raise
    record(time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    return_memory()


def _clear_folder(
    plan: StagePlan,
    folder: Path,
    before: Mapping[str, Any],
    identity: Mapping[str, Any],
    console: Console,
    *,
    replace: bool,
) -> None:
    """Remove the results of other settings or inputs from the stage's folder, with a message.

    Raises SettingsError where another kind of stage wrote them (such as the report, in a run's
    folder), where files were added to them, and without `replace` where there is a result or a
    checkpoint to lose.
    """
    if not is_same_kind(plan, before):
        made_by = before.get("method") or before.get("stage")
        raise SettingsError(
            f"output_dir={folder} is the folder of the `{made_by}` stage `{before.get('name')}`, "
            f"which `{plan.name}` would replace with all that lies in it. Name another output_dir, "
            f"or remove the folder."
        )
    if not replace and (before.get("finished") or _has_progress(folder)):
        remedy = "name another output_dir, or remove the folder to start from scratch"
        if STAGES[plan.kind].shares_folder:  # with other stages, which would be removed too
            remedy = "or name another output_dir"
        raise SettingsError(
            f"{folder} holds a `{before.get('name')}` stage that other settings or inputs made: "
            f"{describe_change(before, identity)}. Set them back to resume it, {remedy}."
        )
    check_only_written(plan, folder, before)
    others = [] if STAGES[plan.kind].shares_folder else remove_outputs(plan, folder)
    note = f" ({', '.join(others)} in {folder} left as it is)" if others else ""
    console.print(
        f"{plan.name}: {describe_change(before, identity)}; runs again from the start{note}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _has_progress(folder: Path) -> bool:
    """Whether a stage that is not finished left a checkpoint, or has inner stages that ran."""
    # Of a red team or a probe: each line may have cost money.
    paid = any((folder / name).is_file() for name in ("attempts.jsonl", "scores.jsonl"))
    return paid or (folder / FOLDER).is_dir() or any(folder.glob(f"*/*/{STAGE_FILE}"))
