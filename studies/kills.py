"""Random SIGKILLs over a PPO run and over rounds of DPO: do both end as if nothing had happened?

    python studies/kills.py --kills 200 --output-dir runs/kills

Builds a tiny world, runs `accord train ppo` and `accord iterate` without kills, and then each
again: killed at random moments, by the clock and not at any event of the run, and started with the
same command, until half of the kills each have hit a running process; then to its end. All files
and all rows of metrics must equal those of the run without kills to the bit, but for clocks. Prints
tables in Markdown, writes summary.json, and fails where anything differs or a start fails.

The longest time from a start to its kill is adapted during the run, so that the kills spread over
all of its course. A run that ends before all kills have hit is compared and started from scratch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from commands import CommandServer, RunningCommand
from compare_runs import differences
from tiny_world import build_tiny_world, tiny_ppo_command, tiny_rounds_command

from accord.learn.health.rules import training_health
from accord.learn.loop.checkpoints import load_checkpoint, remove_checkpoints, save_checkpoint
from accord.learn.loop.fit import fit
from accord.learn.offline.reference_cache import cached_log_probs
from accord.learn.online.loop import collect_episodes, optimise
from accord.learn.online.roles import load_roles
from accord.learn.online.saved_episodes import load_episodes, remove_episodes, save_episodes
from accord.lm.load import load_causal, load_scalar, save_model
from accord.pipeline.stages.compare import arena, compare
from accord.pipeline.stages.measure import evaluate
from accord.pipeline.stages.rounds import iterate
from accord.pipeline.stages.sample import sample
from accord.runs import MetricsLog, digest_path, record_run, write_json_atomic
from accord.runs.atomic import write_text_atomic

ACTIVITIES: dict[Callable[..., Any], str] = {
    write_text_atomic: "a record of the run is written",
    record_run: "a record of the run is written",
    MetricsLog.append: "a row of metrics is written",
    save_checkpoint: "a checkpoint is written",
    load_checkpoint: "a checkpoint is read",
    remove_checkpoints: "checkpoints are removed",
    save_episodes: "episodes are written",
    load_episodes: "episodes are read",
    remove_episodes: "episodes are removed",
    save_model: "the model is written",
    load_causal: "a model is loaded",
    load_scalar: "a model is loaded",
    load_roles: "a model is loaded",
    digest_path: "inputs are digested",
    training_health: "health is checked",
    cached_log_probs: "the reference's log-probs are computed",
    optimise: "optimiser steps",
    fit: "optimiser steps",
    collect_episodes: "sampling and scoring",
    sample: "sampling and scoring",
    compare: "responses are judged",
    arena: "battles are judged",
    evaluate: "a model is measured",
    iterate: "rounds are prepared and reported",
}
"""What a killed process was doing, by the innermost of these functions on its stack."""

TENTHS = 10


@dataclass
class Study:
    """One command: its seconds without kills, each kill, and what differed."""

    name: str
    command: list[str]
    seconds: float = 0.0
    kills: list[dict[str, object]] = field(default_factory=list)
    runs: int = 0
    starts: int = 0
    differences: list[str] = field(default_factory=list)

    def counts(self, key: str) -> dict[str, int]:
        return dict(Counter(str(kill[key]) for kill in self.kills).most_common())


def main() -> int:
    """0 where every killed run ended as the run without kills."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=float, default=1.0, help="how long the runs are")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/kills"))
    options = parser.parse_args()
    folder: Path = options.output_dir.resolve()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty. Name another --output-dir, or remove it.")
    start_time = time.perf_counter()
    world = build_tiny_world(folder / "world")
    ppo = tiny_ppo_command(world, steps=max(4, round(400 * options.size)), save_steps=2)
    rounds = tiny_rounds_command(
        world,
        rounds=max(2, round(6 * options.size)),
        steps=max(4, round(60 * options.size)),
        save_steps=2,
    )
    commands = {"ppo": ppo, "iterate": rounds}
    num_kills = (options.kills - options.kills // 2, options.kills // 2)
    server = CommandServer()
    try:
        studies = [
            run_study(server, name, command, folder / name, kills, options.seed)
            for (name, command), kills in zip(commands.items(), num_kills, strict=True)
        ]
    finally:
        server.close()
    summary = {
        "kills": sum(len(study.kills) for study in studies),
        "equal": not any(study.differences for study in studies),
        "seconds": time.perf_counter() - start_time,
        "studies": [asdict(study) for study in studies],
    }
    write_json_atomic(folder / "summary.json", summary)
    print(markdown(studies))
    print(
        f"\n{summary['kills']} kills in {summary['seconds']:.0f} s; {platform.machine()}, "
        f"{os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}."
    )
    return 0 if summary["equal"] else 1


def run_study(
    server: CommandServer, name: str, command: list[str], folder: Path, kills: int, seed: int
) -> Study:
    """Run the command without kills, then again and again with `kills` kills in all."""
    study, rng = Study(name, command), random.Random(f"{name} {seed}")
    start_time = time.monotonic()
    undisturbed = _start(server, study, folder / "whole")
    _wait_for_success(undisturbed)
    study.seconds = time.monotonic() - start_time
    total = progress(folder / "whole")
    max_seconds = study.seconds / TENTHS  # the longest that a start lasts before its kill
    while True:
        run, first_kill = folder / f"killed-{study.runs}", len(study.kills)
        study.runs += 1
        ended = False
        while len(study.kills) < kills and not ended:
            running = _start(server, study, run)
            time.sleep(rng.uniform(0, max_seconds))
            ended = not _kill(study, running, total)
            done = progress(run) / total
            due = (len(study.kills) - first_kill) / (kills - first_kill)
            max_seconds = min(max_seconds * (1.25 if done < due else 0.8), study.seconds)
        if not ended:
            study.starts += 1
            _wait_for_success(_start(server, study, run))
        run_differences = differences(folder / "whole/out", run / "out")
        study.differences += run_differences
        if run_differences or len(study.kills) >= kills:
            return study


def _start(server: CommandServer, study: Study, folder: Path) -> RunningCommand:
    """Start the command in a folder, with the cache in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return server.start(
        *study.command, cwd=folder, environment={"ACCORD_CACHE": str(folder / "cache")}
    )


def _wait_for_success(running: RunningCommand) -> None:
    _check_exit_code(running.wait(), running)


def _check_exit_code(code: int, running: RunningCommand) -> None:
    if code:
        raise SystemExit(f"A start failed with {code}:\n{running.log.read_text()[-3000:]}")


def _kill(study: Study, running: RunningCommand, total: int) -> bool:
    """Kill a running process and record where it was; returns False where it had ended before."""
    study.starts += 1
    stack = [] if running.has_ended() else running.stack()
    running.send_signal(signal.SIGKILL)
    code = running.wait()
    if code != -signal.SIGKILL:
        _check_exit_code(code, running)
        return False
    folder = running.log.parent
    tenth = min(TENTHS - 1, TENTHS * progress(folder) // total)
    study.kills.append(
        {
            "place": _activity(stack),
            "tenth": tenth + 1,
            "stage": current_stage(folder),
            "stack": stack[:12],
        }
    )
    return True


def _activity(stack: Sequence[str]) -> str:
    """The activity of the innermost known function on a stack (see `RunningCommand.stack`)."""
    activities = {_frame_name(function): what for function, what in ACTIVITIES.items()}
    return next((activities[frame] for frame in stack if frame in activities), "starting")


def _frame_name(function: Callable[..., Any]) -> str:
    code = inspect.unwrap(function).__code__
    return f"{Path(code.co_filename).name}:{code.co_name}"


def progress(folder: Path) -> int:
    """The rows of metrics plus the finished stages of a run so far."""
    rows = sum(p.read_bytes().count(b"\n") for p in folder.glob("out/**/metrics.jsonl"))
    return rows + sum(_is_finished(p) for p in folder.glob("out/**/stage.json"))


def current_stage(folder: Path) -> str:
    """The innermost stage that has begun and is not finished, without its round's number."""
    unfinished = [p for p in folder.glob("out/**/stage.json") if not _is_finished(p)]
    return max(unfinished, key=lambda p: len(p.parts)).parent.name if unfinished else "none"


def _is_finished(stage: Path) -> bool:
    return json.loads(stage.read_text(encoding="utf-8"))["finished"] is not None


def markdown(studies: Sequence[Study]) -> str:
    """A line for each command, then where the kills hit."""
    lines = [
        "| command | undisturbed | kills | starts | runs | the same to the bit |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.name} | {s.seconds:.0f} s | {len(s.kills)} | {s.starts} | {s.runs} | "
        f"{'yes' if not s.differences else '**no**'} |"
        for s in studies
    ]
    for study in studies:
        tenths = [study.counts("tenth").get(str(t + 1), 0) for t in range(TENTHS)]
        lines += [
            "",
            f"{study.name}, kills by tenth of the course: {', '.join(map(str, tenths))}.",
            "",
            f"| {study.name}: killed while | kills |",
            "|---|---|",
            *(f"| {activity} | {count} |" for activity, count in study.counts("place").items()),
        ]
        if len(study.counts("stage")) > 1:
            stages = (f"{name} {count}" for name, count in study.counts("stage").items())
            lines += ["", f"By stage: {', '.join(stages)}."]
        lines += [f"- {difference}" for difference in study.differences]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
