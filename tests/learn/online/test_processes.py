"""Online methods in several processes learn what one process does on as many episodes."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.commands import CommandServer
from studies.compare_runs import metric_rows
from studies.forked import run_forked
from studies.tiny_world import tiny_ppo_command

from tests.learn.online.iterations_in_processes import CASES, run_case, save_cases
from tests.learn.toys.kills import assert_same_run, finish
from tests.learn.toys.launch import start_ranks
from tests.learn.toys.metrics import without_seconds

pytestmark = pytest.mark.slow

# The variance is within a forward pass, and two processes split rows into other passes than one.
NOT_COMPARED = ("seconds", "val/ratio_var")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of 8 episodes each have learned, in a folder for each case."""
    folder = tmp_path_factory.mktemp("two")
    run_forked(2, lambda rank: save_cases(8, folder), folder / "log")
    return folder


def read_results(folder: Path, rank: int) -> Any:
    return json.loads((folder / f"results-{rank}.json").read_text())


def assert_metrics_close(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    assert metrics.keys() == expected.keys()
    for key, value in expected.items():
        if key not in NOT_COMPARED:
            is_nan = isinstance(value, float) and math.isnan(value)
            approximately = pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=is_nan)
            assert metrics[key] == approximately, key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_of_8_episodes_learn_what_one_of_16_does(
    name: str, two_processes: Path, tmp_path: Path
) -> None:
    expected, tensors = run_case(CASES[name], 16, tmp_path)
    first, second = (read_results(two_processes / name, rank) for rank in (0, 1))
    assert first["texts"] == expected["texts"]
    assert len({len(text) for texts in expected["texts"] for text in texts}) > 2  # unequal lengths
    for metrics, expected_metrics in zip(first["rows"], expected["rows"], strict=True):
        assert_metrics_close(metrics, expected_metrics)
    for key in ("3 held out", "1 held out"):
        if key in expected:
            assert_metrics_close(first[key], expected[key])
    assert first["error"] == expected["error"]
    states = [load_file(two_processes / name / f"state-{rank}.safetensors") for rank in (0, 1)]
    for key, value in tensors.items():
        assert torch.equal(states[0][key], states[1][key]), key
        distance = float((states[0][key] - value).norm())
        assert distance <= 1e-4 * float(value.norm()) + 1e-6, key
    # The metrics do not depend on the process.
    for metrics, second_metrics in zip(first["rows"], second["rows"], strict=True):
        assert without_seconds(metrics) == pytest.approx(
            without_seconds(second_metrics), rel=0, abs=0, nan_ok=True
        )


def test_the_cases_skip_roll_back_and_adapt_as_their_names_say(two_processes: Path) -> None:
    def rows(name: str) -> Any:
        return read_results(two_processes / name, 0)["rows"]

    assert [r["skipped"] for r in rows("a broken reward")] == [0.0, 1.0, 0.0]
    assert [r["skipped"] for r in rows("always broken")] == [1.0, 1.0]  # the third ends the run
    assert [r["rolled_back"] for r in rows("limit")][:2] == [0.0, 1.0]
    assert len({r["objective/beta"] for r in rows("ppo")}) == 3
    for name in ("grpo, dynamic sampling", "cispo, dynamic sampling, server"):
        assert sum(r["dynamic_sampling/replaced_prompts"] for r in rows(name)) > 0
    assert not list(two_processes.glob("**/start-*"))  # no snapshot is left on disk


def lora_ppo_command(world: Path, **overrides: object) -> list[str]:
    """Adapters on the policy and on a critic that is a separate model, with snapshots on disk;
    6 iterations."""
    options = {
        "critic": "separate",
        "lora.r": 2,
        "rollback_copy": "disk",
        "eval_dataset": world / "test_prompts.jsonl",
    }
    return tiny_ppo_command(world, steps=6, save_steps=2, **options, **overrides)


def run_disturbed(
    commands: CommandServer,
    command: list[str],
    folder: Path,
    *,
    lines: int,
    rank: int,
    signal_number: int,
) -> str:
    """Send one of two processes a signal when there are `lines` rows; returns the log."""
    ranks = start_ranks(commands, 2, *command, cwd=folder)
    ranks[rank].wait_for_lines(folder / "out/metrics.jsonl", lines)
    ranks[rank].send_signal(signal_number)
    assert all(running.wait() != 0 for running in ranks)
    return (folder / "log").read_text()


def test_the_command_in_two_processes_disturbed_and_undisturbed(
    commands: CommandServer, tiny_world: Path, tmp_path: Path
) -> None:
    # One process of 8; two of 4, undisturbed; and two of which one is killed, and later the main
    # one interrupted.
    single, double, disturbed = (tmp_path / name for name in ("single", "double", "disturbed"))
    for folder in (single, double, disturbed):
        folder.mkdir()
    command = lora_ppo_command(tiny_world, per_device_train_batch_size=4)
    finish(commands, lora_ppo_command(tiny_world, per_device_train_batch_size=8), single)
    assert [r.wait() for r in start_ranks(commands, 2, *command, cwd=double)] == [0, 0]
    for row, expected in zip(metric_rows(double / "out"), metric_rows(single / "out"), strict=True):
        assert row.keys() == expected.keys()
        for key in ("loss", "objective/scores", "objective/kl", "eval/objective/scores"):
            if key in expected:
                assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), key
    assert json.loads((double / "out/manifest.json").read_text())["status"] == "finished"
    log = run_disturbed(commands, command, disturbed, lines=3, rank=1, signal_number=signal.SIGKILL)
    assert "The processes of this run lost their connection" in log
    log = run_disturbed(commands, command, disturbed, lines=5, rank=0, signal_number=signal.SIGINT)
    assert "Interrupted. The same command resumes where it stopped." in log
    assert [r.wait() for r in start_ranks(commands, 2, *command, cwd=disturbed)] == [0, 0]
    assert_same_run(disturbed / "out", double / "out")
    assert not list((disturbed / "out").glob("start-*"))
    assert not (disturbed / "out/episodes").exists()
