"""Random SIGKILLs over a PPO run and over rounds of DPO: do both end as if nothing had happened?

    python studies/kills.py --kills 200 --output-dir runs/kills

Makes a tiny world, runs `accord train ppo` and `accord iterate` undisturbed, and then each again:
killed at random moments, by the clock and not at any event of its own, and started with the same
command, until half of the kills each have hit a running process; then to its end. All files and
all rows of metrics must be those of the undisturbed run to the bit, but for clocks. Prints tables
in Markdown, writes summary.json, and fails where anything differs or a start fails.

How long a start may last is adapted as the run goes on, so that the kills are spread over all of
its course. A run that comes to its end before all kills were dealt is compared and begun anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from commands import CommandServer, Running
from sameness import differences
from tiny import tiny_ppo, tiny_world

from accord.runs import write_json_atomic

PLACES = {
    "atomic.py:write_text_atomic": "a record of the run is written",
    "manifest.py:recorded": "a record of the run is written",
    "metrics.py:append": "a row of metrics is written",
    "checkpoints.py:save_checkpoint": "a checkpoint is written",
    "checkpoints.py:load_checkpoint": "a checkpoint is read",
    "checkpoints.py:remove_checkpoints": "checkpoints are removed",
    "kept_episodes.py:keep_episodes": "episodes are written",
    "kept_episodes.py:kept_episodes": "episodes are read",
    "kept_episodes.py:remove_episodes": "episodes are removed",
    "load.py:save_model": "the model is written",
    "load.py:load_causal": "a model is loaded",
    "load.py:load_scalar": "a model is loaded",
    "roles.py:load_roles": "a model is loaded",
    "digests.py:digest_path": "inputs are digested",
    "health.py:training_health": "health is looked at",
    "reference.py:cached_log_probs": "the reference's log-probs are made",
    "online_loop.py:improve": "optimiser steps",
    "fit.py:fit": "optimiser steps",
    "collecting.py:episodes_of": "sampling and scoring",
    "sampling.py:sample": "sampling and scoring",
    "comparing.py:compare": "verdicts are given",
    "comparing.py:arena": "battles are judged",
    "measuring.py:evaluate": "a model is measured",
    "rounds.py:iterate": "rounds are dealt and told",
}
"""Functions by which a kill's place is told: the innermost one that the process was in."""

TENTHS = 10


@dataclass
class Study:
    """One command: how it went undisturbed, each kill, and what differed."""

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
    """0 where every killed run ended as the undisturbed one."""
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
    began = time.perf_counter()
    world = tiny_world(folder / "world")
    ppo = tiny_ppo(world, steps=max(4, round(400 * options.size)), save_steps=2)
    commands = {"ppo": ppo, "iterate": iterate(world, options.size)}
    shares = (options.kills - options.kills // 2, options.kills // 2)
    server = CommandServer()
    try:
        studies = [
            disturbed(server, name, command, folder / name, kills, options.seed)
            for (name, command), kills in zip(commands.items(), shares, strict=True)
        ]
    finally:
        server.close()
    summary = {
        "kills": sum(len(study.kills) for study in studies),
        "equal": not any(study.differences for study in studies),
        "seconds": time.perf_counter() - began,
        "studies": [asdict(study) for study in studies],
    }
    write_json_atomic(folder / "summary.json", summary)
    print(markdown(studies))
    print(
        f"\n{summary['kills']} kills in {summary['seconds']:.0f} s; {platform.machine()}, "
        f"{os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}."
    )
    return 0 if summary["equal"] else 1


def iterate(world: Path, size: float) -> list[str]:
    """Rounds of DPO on rankings by the world's annotators, each on the verdicts of all so far."""
    settings = {
        "model": world / "model",
        "dataset": world / "train_prompts.jsonl",
        "eval_dataset": world / "test_prompts.jsonl",
        "rounds": max(2, round(6 * size)),
        "prompts_per_round": 12,
        "num_responses": 3,
        "max_new_tokens": 12,
        "temperature": 4,  # an untrained model's likeliest answers are blank
        "batch_size": 3,
        "form": "rankings",
        "keep_data": "all",
        "train.method": "dpo",
        "train.learning_rate": 0.001,
        "train.max_steps": max(4, round(60 * size)),
        "train.per_device_train_batch_size": 4,
        "train.save_steps": 2,
    }
    return ["iterate", "output_dir=out", *(f"{k}={v}" for k, v in settings.items())]


def disturbed(
    server: CommandServer, name: str, command: list[str], folder: Path, kills: int, seed: int
) -> Study:
    """Run the command undisturbed, then again and again with `kills` kills in all."""
    study, rng = Study(name, command), random.Random(f"{name} {seed}")
    began = time.monotonic()
    whole = _begun(server, study, folder / "whole")
    _finished(whole)
    study.seconds = time.monotonic() - began
    total = done_of(folder / "whole")
    reach = study.seconds / TENTHS  # the longest that a start lasts before its kill
    while True:
        own, first = folder / f"killed-{study.runs}", len(study.kills)
        study.runs += 1
        ended = False
        while len(study.kills) < kills and not ended:
            running = _begun(server, study, own)
            time.sleep(rng.uniform(0, reach))
            ended = not _killed(study, running, total)
            done, due = done_of(own) / total, (len(study.kills) - first) / (kills - first)
            reach = min(reach * (1.25 if done < due else 0.8), study.seconds)
        if not ended:
            study.starts += 1
            _finished(_begun(server, study, own))
        told = differences(folder / "whole/out", own / "out")
        study.differences += told
        if told or len(study.kills) >= kills:
            return study


def _begun(server: CommandServer, study: Study, folder: Path) -> Running:
    """A start of the command in a folder; the cache of that folder is its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return server.start(
        *study.command, cwd=folder, environment={"ACCORD_CACHE": str(folder / "cache")}
    )


def _finished(running: Running) -> None:
    code = running.wait()
    if code:
        raise SystemExit(f"A start failed with {code}:\n{running.log.read_text()[-3000:]}")


def _killed(study: Study, running: Running, total: int) -> bool:
    """Kill a running process and note where it was; False where it had ended by itself."""
    study.starts += 1
    stack = [] if running.ended() else running.stack()
    running.send(signal.SIGKILL)
    code = running.wait()
    if code != -signal.SIGKILL:
        if code:
            raise SystemExit(f"A start failed with {code}:\n{running.log.read_text()[-3000:]}")
        return False
    folder = running.log.parent
    tenth = min(TENTHS - 1, TENTHS * done_of(folder) // total)
    study.kills.append(
        {
            "place": next((PLACES[frame] for frame in stack if frame in PLACES), "starting"),
            "tenth": tenth + 1,
            "stage": stage_of(folder),
            "stack": stack[:12],
        }
    )
    return True


def done_of(folder: Path) -> int:
    """How far a run is: rows of metrics and finished stages."""
    rows = sum(p.read_bytes().count(b"\n") for p in folder.glob("out/**/metrics.jsonl"))
    return rows + sum(_ended(p) for p in folder.glob("out/**/stage.json"))


def stage_of(folder: Path) -> str:
    """The innermost stage that was begun and is not finished, without its round's number."""
    begun = [p for p in folder.glob("out/**/stage.json") if not _ended(p)]
    return max(begun, key=lambda p: len(p.parts)).parent.name if begun else "none"


def _ended(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["finished"] is not None


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
            *(f"| {place} | {count} |" for place, count in study.counts("place").items()),
        ]
        if len(study.counts("stage")) > 1:
            stages = (f"{name} {count}" for name, count in study.counts("stage").items())
            lines += ["", f"By stage: {', '.join(stages)}."]
        lines += [f"- {each}" for each in study.differences]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
