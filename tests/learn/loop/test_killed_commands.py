"""Killed at any moment and started again, sampling, recipes and rounds write the same files."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from studies.commands import CommandServer
from studies.tiny_world import tiny_rounds_command

from accord.runs import digest_path
from tests.learn.toys.kills import assert_same_run, finish, run_killed, run_undisturbed


def sample_command(world: Path, batch_size: int) -> list[str]:
    return [
        "sample",
        "output_dir=out",
        f"model={world / 'model'}",
        f"dataset={world / 'train_prompts.jsonl'}",
        "num_responses=2",
        "max_new_tokens=24",
        f"batch_size={batch_size}",
    ]


def test_sampling_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sample_command(tiny_world, batch_size=2)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    assert len((undisturbed / "responses.jsonl").read_text().splitlines()) == 24
    moments = [(1, 0.0), (6, 0.001), (14, 0)]
    killed = run_killed(
        commands, command, tmp_path / "killed", moments, "out/responses.partial.jsonl"
    )
    responses = (killed / "responses.jsonl").read_bytes()
    assert responses == (undisturbed / "responses.jsonl").read_bytes()
    assert not (killed / "responses.partial.jsonl").exists()


def test_sampling_resumes_from_a_torn_line(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sample_command(tiny_world, batch_size=4)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    folder = tmp_path / "torn"
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    partial = folder / "out/responses.partial.jsonl"
    running.wait_for_lines(partial, 9)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    lines = partial.read_bytes().splitlines(keepends=True)
    # A header and at least eight answers; three of them and a half reached the disk.
    partial.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    finish(commands, command, folder)
    responses = (folder / "out/responses.jsonl").read_bytes()
    assert responses == (undisturbed / "responses.jsonl").read_bytes()


RECIPE = """\
output_dir: out
stages:
  - {stage: sample, name: answers, model: MODEL, dataset: WORLD/train_prompts.jsonl,
     num_responses: 4, max_new_tokens: 16}
  - {stage: compare, responses: [$answers/responses.jsonl], form: rankings, judge: {noise: 0.1}}
  - {stage: train, method: dpo, model: MODEL, dataset: $compare/store.db, max_steps: 12,
     per_device_train_batch_size: 4, learning_rate: 1.0e-3, save_steps: 3}
  - {stage: sample, name: later, model: $dpo/model, dataset: WORLD/test_prompts.jsonl,
     num_responses: 2, max_new_tokens: 16}
"""


def test_a_killed_recipe_resumes_and_does_not_touch_finished_stages(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("MODEL", f"{tiny_world}/model").replace("WORLD", str(tiny_world))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    command = ["run", str(path)]
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    folder.mkdir()
    finished: dict[Path, bytes] = {}
    # Killed when a file has some lines, or when a folder exists.
    for watched, lines in (
        ("out/answers/stage.json", 1),
        ("out/dpo/metrics.jsonl", 2),
        ("out/later", None),
    ):
        running = commands.start(*command, cwd=folder)
        if lines is None:
            while not (folder / watched).is_dir() and not running.has_ended():
                time.sleep(0.002)
        else:
            running.wait_for_lines(folder / watched, lines)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, running.log.read_text()
        for stage in folder.glob("out/*/stage.json"):
            if json.loads(stage.read_text())["finished"]:
                finished.setdefault(stage, stage.read_bytes())
    log = finish(commands, command, folder)
    assert {"answers", "compare", "dpo"} <= {stage.parent.name for stage in finished}
    for stage, content in finished.items():
        assert stage.read_bytes() == content
        assert f"{stage.parent.name}: finished before, not run again" in log
    assert_same_run(folder / "out/dpo", undisturbed / "dpo")
    for name in ("answers", "later"):
        responses = f"{name}/responses.jsonl"
        assert (folder / "out" / responses).read_bytes() == (undisturbed / responses).read_bytes()


def test_rounds_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = tiny_rounds_command(tiny_world, rounds=2, steps=6, save_steps=2)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    watched = [
        ("round-0/answers/responses.partial.jsonl", 5),
        ("round-1/sample/responses.partial.jsonl", 3),
        ("round-1/train/metrics.jsonl", 3),
        ("round-1/evaluate/stage.json", 1),
        ("round-2/prompts.jsonl", 1),
        ("round-2/compare/stage.json", 1),
        ("round-2/train/metrics.jsonl", 5),
        ("round-2/arena/stage.json", 1),
    ]
    rng = random.Random(3)
    folder = tmp_path / "killed"
    folder.mkdir()
    num_kills = 0
    for path, lines in watched:
        running = commands.start(*command, cwd=folder)
        running.wait_for_lines(folder / "out" / path, lines)
        time.sleep(rng.uniform(0, 0.004))
        if not running.has_ended():
            running.send_signal(signal.SIGKILL)
            num_kills += 1
        assert running.wait() in (0, -signal.SIGKILL), running.log.read_text()
    assert num_kills >= 4
    finish(commands, command, folder)
    killed = folder / "out"
    for number in (1, 2):
        assert_same_run(killed / f"round-{number}/train", undisturbed / f"round-{number}/train")
    for responses in undisturbed.glob("round-*/*/responses.jsonl"):
        path = killed / responses.relative_to(undisturbed)
        assert path.read_bytes() == responses.read_bytes()
    assert (killed / "rounds.json").read_bytes() == (undisturbed / "rounds.json").read_bytes()
    assert digest_path(killed / "model") == digest_path(undisturbed / "model")


def test_interrupted_rounds_leave_a_checkpoint_and_resume(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = tiny_rounds_command(tiny_world, rounds=2, steps=6, save_steps=100)
    folder = tmp_path / "interrupted"
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    running.wait_for_lines(folder / "out/round-2/train/metrics.jsonl", 2)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130, running.log.read_text()
    for stage in (".", "round-2/train"):
        manifest = json.loads((folder / "out" / stage / "manifest.json").read_text())
        assert manifest["status"] == "interrupted"
    assert any((folder / "out/round-2/train/checkpoints").iterdir())
    log = finish(commands, command, folder)
    assert "round-1 train: finished before, not run again" in log
    assert "out/round-2/train resumes after step" in log
