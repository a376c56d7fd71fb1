"""Killed at any moment and started again, a stage gives what it gives undisturbed, to the bit."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from studies.commands import CommandServer
from studies.compare_runs import differences, metric_rows
from studies.tiny_world import tiny_ppo_command, train_command

from accord.runs import digest_path


@pytest.fixture(scope="session")
def pairs(tiny_world: Path) -> Path:
    """Comparisons: a demonstration against the next one's answer."""
    lines = (tiny_world / "demonstrations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    path = tiny_world.parent / "pairs.jsonl"
    with path.open("w") as file:
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            if row["completion"] != other["completion"]:
                pair = {"chosen": row["completion"], "rejected": other["completion"]}
                file.write(json.dumps({"prompt": row["prompt"], **pair}) + "\n")
    return path


def sft(world: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": world / "demonstrations.jsonl",
        "eval_dataset": world / "demonstrations.jsonl",
        "eval_steps": 5,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.001,
        "save_steps": 3,
    }
    return train_command("sft", settings)


def dpo(world: Path, pairs: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": pairs,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.001,
        "save_steps": 3,
    }
    return train_command("dpo", settings)


def online(method: str, world: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "reward_model": world / "model",
        "dataset": world / "train_prompts.jsonl",
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "num_iterations": 2,
        "max_new_tokens": 12,
        "max_length": 160,
        "learning_rate": 0.003,
        "beta": 0.1,
        "max_kl": 0.2,
        "max_kl_action": "rollback",
        "save_steps": 3,
    }
    return train_command(method, settings)


def undisturbed(commands: CommandServer, command: Sequence[str], folder: Path) -> Path:
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    return folder / "out"


def killed(
    commands: CommandServer,
    command: Sequence[str],
    folder: Path,
    moments: Sequence[tuple[int, float]],
    watched: str = "out/metrics.jsonl",
) -> Path:
    """Run a command to its end, killed once at each moment: lines of a file, and seconds more."""
    folder.mkdir()
    for lines, more in moments:
        running = commands.start(*command, cwd=folder)
        running.wait_for_lines(folder / watched, lines)
        time.sleep(more)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, running.log.read_text()
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    return folder / "out"


def moments(seed: int, kills: int, steps: int) -> list[tuple[int, float]]:
    """Random moments, later and later; none after the last step but one."""
    rng = random.Random(seed)
    return [(row, rng.uniform(0, 0.004)) for row in sorted(rng.sample(range(1, steps - 1), kills))]


def same(one: Path, other: Path) -> None:
    """All rows and all files are equal; a row that was taken back occurs once."""
    assert metric_rows(one) == metric_rows(other)
    assert differences(one, other) == []


def test_sft_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft(tiny_world, 24)
    whole = undisturbed(commands, command, tmp_path / "whole")
    assert [row["step"] for row in metric_rows(whole)] == list(range(1, 25))
    same(whole, killed(commands, command, tmp_path / "killed", moments(0, 4, 24)))


def test_killed_while_a_checkpoint_is_written(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft(tiny_world, 12)
    whole = undisturbed(commands, command, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    for attempt, step in enumerate((0, 3)):
        # The first dies in its second checkpoint, of step 6; the second, which goes on from step
        # 3, in its first, of step 6 again. Each leaves half a file beside the one that is whole.
        running = commands.start(*command, cwd=folder, killed_in_checkpoint=2 - attempt)
        assert running.wait() == -signal.SIGKILL
        names = sorted(p.name for p in (folder / "out/checkpoints").iterdir())
        assert names[-1] == "step-00000003"
        (partial,) = names[:-1]
        assert partial.startswith(".step-00000006.partial-")
        if step:
            assert "resumes after step 3" in running.log.read_text()
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    same(whole, folder / "out")
    assert not (folder / "out/checkpoints").exists()  # a finished stage keeps its model alone


def test_dpo_killed_at_a_random_moment(
    commands: CommandServer, tiny_world: Path, pairs: Path, tmp_path: Path
) -> None:
    command = dpo(tiny_world, pairs, 10)
    whole = undisturbed(commands, command, tmp_path / "whole")
    # At the start the policy is the reference, so every margin is 0 but for rounding. A reference
    # that was taken anew from the weights of a checkpoint would bring them back to 0 after a kill.
    assert abs(metric_rows(whole)[0]["rewards/margins"]) < 1e-6
    assert all(abs(row["rewards/margins"]) > 1e-4 for row in metric_rows(whole)[1:])
    same(whole, killed(commands, command, tmp_path / "killed", moments(1, 2, 10)))


def test_ppo_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = tiny_ppo_command(tiny_world, steps=10, save_steps=3)
    whole = undisturbed(commands, command, tmp_path / "whole")
    # The adaptive β is part of the state: it must have moved for the comparison to hold it.
    assert len({row["objective/beta"] for row in metric_rows(whole)}) == 10
    same(whole, killed(commands, command, tmp_path / "killed", moments(2, 3, 10)))


def test_ppo_killed_within_an_iteration(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # Episodes are there, steps are not yet all taken.
    command = tiny_ppo_command(tiny_world, steps=6, save_steps=3)
    whole = undisturbed(commands, command, tmp_path / "whole")
    kept = "out/episodes/iteration-00000004/about.json"
    again = killed(commands, command, tmp_path / "killed", [(0, 0.0), (0, 0.01)], kept)
    same(whole, again)


@pytest.mark.parametrize("method", ["grpo", "rloo", "gspo", "reinforce_plus_plus"])
def test_critic_free_methods_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path, method: str
) -> None:
    command = online(method, tiny_world, 8)
    whole = undisturbed(commands, command, tmp_path / "whole")
    # Weights to go back to are part of the state: there must have been a rollback.
    assert {row["rolled_back"] for row in metric_rows(whole)} == {0.0, 1.0}
    again = killed(commands, command, tmp_path / "killed", moments(3, 3, 8))
    same(whole, again)
    assert not (again / "episodes").exists()


def test_dynamic_sampling_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # A rule that many groups follow, or break, with all their responses.
    command = [
        *(key for key in online("cispo", tiny_world, 8) if not key.startswith("reward_model=")),
        "rewards=[{kind: regex, pattern: '[aeiou]'}]",
        "dynamic_sampling_max_rounds=2",
        "missing_eos_penalty=0",
    ]
    whole = undisturbed(commands, command, tmp_path / "whole")
    replaced = [row["dynamic_sampling/replaced_prompts"] for row in metric_rows(whole)]
    assert 0 < sum(replaced) < 8 * 2 * 2
    same(whole, killed(commands, command, tmp_path / "killed", moments(4, 3, 8)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_same_command_goes_on(
    commands: CommandServer, tiny_world: Path, tmp_path: Path, number: int
) -> None:
    command = sft(tiny_world, 24)
    command[-1] = "save_steps=100"  # so that the checkpoint is the interrupt's own
    folder = tmp_path / "interrupted"
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    running.wait_for_lines(folder / "out/metrics.jsonl", 5)
    running.send_signal(number)
    assert running.wait() == 130
    assert "Interrupted. The same command resumes where it stopped." in running.log.read_text()
    last = metric_rows(folder / "out")[-1]["step"]
    assert 5 <= last < 24
    (checkpoint,) = (folder / "out/checkpoints").iterdir()
    assert checkpoint.name == f"step-{last:08d}"
    assert json.loads((folder / "out/manifest.json").read_text())["status"] == "interrupted"
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0
    assert f"resumes after step {last}" in running.log.read_text()
    same(undisturbed(commands, command, tmp_path / "whole"), folder / "out")


def test_sampling_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = [
        "sample",
        "output_dir=out",
        f"model={tiny_world / 'model'}",
        f"dataset={tiny_world / 'train_prompts.jsonl'}",
        "num_responses=2",
        "max_new_tokens=24",
        "batch_size=2",
    ]
    whole = undisturbed(commands, command, tmp_path / "whole")
    assert len((whole / "responses.jsonl").read_text().splitlines()) == 24
    partial = "out/responses.partial.jsonl"
    again = killed(commands, command, tmp_path / "killed", [(1, 0.0), (6, 0.001), (14, 0)], partial)
    assert (again / "responses.jsonl").read_bytes() == (whole / "responses.jsonl").read_bytes()
    assert not (again / "responses.partial.jsonl").exists()


def test_sampling_goes_on_from_a_torn_line(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = [
        "sample",
        "output_dir=out",
        f"model={tiny_world / 'model'}",
        f"dataset={tiny_world / 'train_prompts.jsonl'}",
        "num_responses=2",
        "max_new_tokens=24",
        "batch_size=4",
    ]
    whole = undisturbed(commands, command, tmp_path / "whole")
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
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    again = folder / "out/responses.jsonl"
    assert again.read_bytes() == (whole / "responses.jsonl").read_bytes()


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


def test_a_recipe_killed_goes_on_and_leaves_finished_stages_alone(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("MODEL", f"{tiny_world}/model").replace("WORLD", str(tiny_world))
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    command = ["run", str(path)]
    whole = undisturbed(commands, command, tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    finished: dict[Path, bytes] = {}
    moments = [("out/answers/stage.json", 1), ("out/dpo/metrics.jsonl", 2), ("out/later", 5)]
    for watched, lines in moments:
        running = commands.start(*command, cwd=folder)
        if lines == 5:
            while not (folder / watched).is_dir() and not running.has_ended():
                time.sleep(0.002)
        else:
            running.wait_for_lines(folder / watched, lines)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, running.log.read_text()
        for stage in folder.glob("out/*/stage.json"):
            if json.loads(stage.read_text())["finished"]:
                finished.setdefault(stage, stage.read_bytes())
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    assert {"answers", "compare", "dpo"} <= {stage.parent.name for stage in finished}
    for stage, content in finished.items():
        assert stage.read_bytes() == content
        assert f"{stage.parent.name}: finished before, not run again" in running.log.read_text()
    same(whole / "dpo", folder / "out/dpo")
    for name in ("answers", "later"):
        answers = f"{name}/responses.jsonl"
        assert (folder / "out" / answers).read_bytes() == (whole / answers).read_bytes()


def rounds(world: Path) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": world / "train_prompts.jsonl",
        "eval_dataset": world / "test_prompts.jsonl",
        "rounds": 2,
        "prompts_per_round": 12,
        "num_responses": 3,
        "max_new_tokens": 12,
        "temperature": 4,  # an untrained model's likeliest answers are blank
        "batch_size": 3,
        "form": "rankings",
        "keep_data": "all",
        "train.method": "dpo",
        "train.learning_rate": 0.001,
        "train.max_steps": 6,
        "train.per_device_train_batch_size": 4,
        "train.save_steps": 2,
    }
    return ["iterate", "output_dir=out", *(f"{k}={v}" for k, v in settings.items())]


def test_rounds_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = rounds(tiny_world)
    whole = undisturbed(commands, command, tmp_path / "whole")
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
    kills = 0
    for place, lines in watched:
        running = commands.start(*command, cwd=folder)
        running.wait_for_lines(folder / "out" / place, lines)
        time.sleep(rng.uniform(0, 0.004))
        if not running.has_ended():
            running.send_signal(signal.SIGKILL)
            kills += 1
        assert running.wait() in (0, -signal.SIGKILL), running.log.read_text()
    assert kills >= 4
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    again = folder / "out"
    for number in (1, 2):
        same(whole / f"round-{number}/train", again / f"round-{number}/train")
    for answers in whole.glob("round-*/*/responses.jsonl"):
        assert (again / answers.relative_to(whole)).read_bytes() == answers.read_bytes()
    assert (again / "rounds.json").read_bytes() == (whole / "rounds.json").read_bytes()
    assert digest_path(again / "model") == digest_path(whole / "model")


def test_rounds_interrupted_leave_a_checkpoint_and_go_on(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = [*rounds(tiny_world)[:-1], "train.save_steps=100"]
    folder = tmp_path / "interrupted"
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    running.wait_for_lines(folder / "out/round-2/train/metrics.jsonl", 2)
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130, running.log.read_text()
    for place in (".", "round-2/train"):
        manifest = json.loads((folder / "out" / place / "manifest.json").read_text())
        assert manifest["status"] == "interrupted"
    assert any((folder / "out/round-2/train/checkpoints").iterdir())
    running = commands.start(*command, cwd=folder)
    assert running.wait() == 0, running.log.read_text()
    assert "round-1 train: finished before, not run again" in running.log.read_text()
    assert "out/round-2/train resumes after step" in running.log.read_text()
