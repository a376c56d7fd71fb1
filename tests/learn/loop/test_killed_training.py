"""Killed at any moment and started again, training gives what it gives undisturbed, to the bit."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from studies.commands import CommandServer
from studies.compare_runs import metric_rows
from studies.tiny_world import tiny_ppo_command, train_command

from tests.learn.toys.files import read_jsonl, write_jsonl
from tests.learn.toys.kills import (
    assert_same_run,
    finish,
    random_moments,
    run_killed,
    run_undisturbed,
)


@pytest.fixture(scope="session")
def pairs(tiny_world: Path) -> Path:
    """Comparisons: each demonstration against the completion of the next."""
    rows = read_jsonl(tiny_world / "demonstrations.jsonl")
    path = tiny_world.parent / "pairs.jsonl"
    write_jsonl(
        path,
        (
            {
                "prompt": row["prompt"],
                "chosen": row["completion"],
                "rejected": following["completion"],
            }
            for row, following in zip(rows, [*rows[1:], rows[0]], strict=True)
            if row["completion"] != following["completion"]
        ),
    )
    return path


def sft_command(world: Path, steps: int, *, save_steps: int = 3) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": world / "demonstrations.jsonl",
        "eval_dataset": world / "demonstrations.jsonl",
        "eval_steps": 5,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.001,
        "save_steps": save_steps,
    }
    return train_command("sft", settings)


def dpo_command(world: Path, pairs: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "dataset": pairs,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.001,
        "save_steps": 3,
    }
    return train_command("dpo", settings)


def critic_free_command(method: str, world: Path, steps: int) -> list[str]:
    settings = {
        "model": world / "model",
        "reward_model": world / "reward",
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


def test_sft_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft_command(tiny_world, 24)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    assert [row["step"] for row in metric_rows(undisturbed)] == list(range(1, 25))
    killed = run_killed(commands, command, tmp_path / "killed", random_moments(0, 4, 24))
    assert_same_run(killed, undisturbed)


def test_the_best_model_of_a_run_that_stops_early_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # A rate so high that the loss rises from each evaluation to the next, on any processor.
    command = [
        option
        for option in sft_command(tiny_world, 40)
        if not option.startswith(("learning_rate=", "eval_steps="))
    ]
    command += ["learning_rate=100", "lr_scheduler_type=constant", "eval_steps=2"]
    command += ["early_stopping_patience=4"]
    command += ["load_best_model_at_end=true"]
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    steps = [row["step"] for row in metric_rows(undisturbed)]
    best = json.loads((undisturbed / "best.json").read_text())["step"]
    assert best == steps[-1] - 2 * 4 == 2
    assert steps[-1] < 40
    moments = random_moments(5, 3, steps[-1])
    killed = run_killed(commands, command, tmp_path / "killed", moments)
    assert_same_run(killed, undisturbed)


def test_sft_killed_while_a_checkpoint_is_written(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = sft_command(tiny_world, 12)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    folder.mkdir()
    for attempt, resumed_step in enumerate((0, 3)):
        # The first attempt dies in its second checkpoint, of step 6; the second, which resumes
        # from step 3, in its first, again of step 6. Each leaves half a file beside the checkpoint
        # that is complete.
        running = commands.start(*command, cwd=folder, killed_in_checkpoint=2 - attempt)
        assert running.wait() == -signal.SIGKILL
        names = sorted(p.name for p in (folder / "out/checkpoints").iterdir())
        assert names[-1] == "step-00000003"
        (partial,) = names[:-1]
        assert partial.startswith(".step-00000006.partial-")
        if resumed_step:
            assert f"resumes after step {resumed_step}" in running.log.read_text()
    finish(commands, command, folder)
    assert_same_run(folder / "out", undisturbed)
    assert not (folder / "out/checkpoints").exists()  # a finished stage keeps its model alone


def test_dpo_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, pairs: Path, tmp_path: Path
) -> None:
    command = dpo_command(tiny_world, pairs, 10)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    # At the start the policy is the reference, so every margin is 0 but for rounding. A reference
    # that was loaded again from the weights of a checkpoint would bring them back to 0 after a
    # kill.
    assert abs(metric_rows(undisturbed)[0]["rewards/margins"]) < 1e-6
    assert all(abs(row["rewards/margins"]) > 1e-4 for row in metric_rows(undisturbed)[1:])
    killed = run_killed(commands, command, tmp_path / "killed", random_moments(1, 2, 10))
    assert_same_run(killed, undisturbed)


def test_ppo_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    command = tiny_ppo_command(tiny_world, steps=10, save_steps=3)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    # The adaptive β is part of the state: only where it moves is it compared.
    assert len({row["objective/beta"] for row in metric_rows(undisturbed)}) == 10
    killed = run_killed(commands, command, tmp_path / "killed", random_moments(2, 3, 10))
    assert_same_run(killed, undisturbed)


def test_ppo_killed_within_an_iteration(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # Its episodes are saved, and not all of its steps are taken.
    command = tiny_ppo_command(tiny_world, steps=6, save_steps=3)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    episodes = "out/episodes/iteration-00000004/about.json"
    killed = run_killed(commands, command, tmp_path / "killed", [(0, 0.0), (0, 0.01)], episodes)
    assert_same_run(killed, undisturbed)


@pytest.mark.parametrize("method", ["grpo", "rloo", "gspo", "reinforce_plus_plus"])
def test_critic_free_methods_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path, method: str
) -> None:
    command = critic_free_command(method, tiny_world, 8)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    # The snapshot of the weights is part of the state: there must have been a rollback.
    assert {row["rolled_back"] for row in metric_rows(undisturbed)} == {0.0, 1.0}
    killed = run_killed(commands, command, tmp_path / "killed", random_moments(3, 3, 8))
    assert_same_run(killed, undisturbed)
    assert not (killed / "episodes").exists()


def test_dynamic_sampling_killed_at_random_moments(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # A rule that many groups follow, or break, with all their responses.
    options = critic_free_command("cispo", tiny_world, 8)
    command = [
        *(option for option in options if not option.startswith("reward_model=")),
        "rewards=[{kind: regex, pattern: '[aeiou]'}]",
        "dynamic_sampling_max_rounds=2",
        "missing_eos_penalty=0",
    ]
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    replaced = [row["dynamic_sampling/replaced_prompts"] for row in metric_rows(undisturbed)]
    assert 0 < sum(replaced) < 8 * 2 * 2
    killed = run_killed(commands, command, tmp_path / "killed", random_moments(4, 3, 8))
    assert_same_run(killed, undisturbed)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_a_checkpoint_and_the_same_command_resumes(
    commands: CommandServer, tiny_world: Path, tmp_path: Path, signal_number: int
) -> None:
    command = sft_command(tiny_world, 24, save_steps=100)  # the interrupt alone saves
    folder = tmp_path / "interrupted"
    folder.mkdir()
    running = commands.start(*command, cwd=folder)
    running.wait_for_lines(folder / "out/metrics.jsonl", 5)
    running.send_signal(signal_number)
    assert running.wait() == 130
    assert "Interrupted. The same command resumes where it stopped." in running.log.read_text()
    last_step = metric_rows(folder / "out")[-1]["step"]
    assert 5 <= last_step < 24
    (checkpoint,) = (folder / "out/checkpoints").iterdir()
    assert checkpoint.name == f"step-{last_step:08d}"
    assert json.loads((folder / "out/manifest.json").read_text())["status"] == "interrupted"
    assert f"resumes after step {last_step}" in finish(commands, command, folder)
    undisturbed = run_undisturbed(commands, command, tmp_path / "undisturbed")
    assert_same_run(folder / "out", undisturbed)
