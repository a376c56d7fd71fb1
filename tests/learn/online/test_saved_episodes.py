"""Episodes saved while an iteration lasts: when they are used, and when they are removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.learn.loop.checkpoints import save_checkpoint
from accord.learn.online.roles import Roles
from accord.learn.online.saved_episodes import FOLDER, remove_episodes, remove_stale_episodes
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.roles import are_equal, copy_weights, iterate, make_roles, make_state
from tests.learn.toys.settings import online_settings


def count_sampling(roles: Roles, calls: list[int]) -> Roles:
    """Roles whose sampler adds the number of its prompts to `calls`."""

    def sampler(prompts: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(prompts))
        return roles.sampler(prompts, *args, **options)

    return replace(roles, sampler=sampler)


def interrupt_in_pass(number: int) -> Any:
    """A forward hook that raises KeyboardInterrupt in a pass, counted from 1."""
    num_passes = 0

    def hook(module: Any, args: Any, output: Any) -> None:
        nonlocal num_passes
        num_passes += 1
        if num_passes == number:
            raise KeyboardInterrupt

    return hook


def test_saved_episodes_are_not_sampled_again(tmp_path: Path) -> None:
    # Killed in the second iteration's steps (6 passes sample, 2 measure, 3 are steps). Everything
    # before is computed again from the saved episodes, with the same numbers, and only the third
    # iteration is sampled.
    settings = online_settings(num_mini_batches=2, num_ppo_epochs=2)
    roles = make_roles()
    straight = [r.metrics for r in iterate(make_state(roles, settings), roles, settings, 3)]

    killed_roles = make_roles()
    state = make_state(killed_roles, settings)
    results = iterate(state, killed_roles, settings, 3, folder=tmp_path)
    next(results)
    killed_roles.policy.backbone.register_forward_hook(interrupt_in_pass(10))
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    calls: list[int] = []
    resumed_roles = count_sampling(make_roles(), calls)
    state = make_state(resumed_roles, settings)
    resumed = [r.metrics for r in iterate(state, resumed_roles, settings, 3, folder=tmp_path)]
    assert len(calls) == 1
    assert [without_seconds(m) for m in resumed] == [without_seconds(m) for m in straight]
    assert are_equal(copy_weights(resumed_roles.policy), copy_weights(roles.policy))
    remove_episodes(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_episodes_of_other_settings_or_half_written_are_not_used(tmp_path: Path) -> None:
    def run(**overrides: Any) -> tuple[int, Any]:
        """How often one iteration sampled, and its loss."""
        calls: list[int] = []
        roles = count_sampling(make_roles("grpo"), calls)
        settings = online_settings("grpo", **overrides)
        state = make_state(roles, settings)
        (result,) = iterate(state, roles, settings, 1, "grpo", folder=tmp_path)
        return len(calls), result.metrics["loss"]

    num_calls, loss = run()
    assert num_calls == 1
    assert run() == (0, loss)
    assert run(temperature=0.9)[0] == 1
    assert run()[0] == 1
    assert run(resume=False)[0] == 1
    (path,) = (tmp_path / FOLDER).glob("*/episodes.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert run() == (1, loss)


def test_episodes_before_a_checkpoint_are_removed(tmp_path: Path) -> None:
    roles, settings = make_roles("rloo"), online_settings("rloo")
    state = make_state(roles, settings)
    for result in iterate(state, roles, settings, 4, "rloo", folder=tmp_path):
        if result.step == 2:
            save_checkpoint(tmp_path, state, settings.model_dump(mode="json"), keep=1)
    names = sorted(p.name for p in (tmp_path / FOLDER).iterdir())
    assert names == ["iteration-00000002", "iteration-00000003"]


def test_episodes_that_follow_no_checkpoint_are_removed(tmp_path: Path) -> None:
    def remaining(*iterations: int) -> list[int]:
        """Of the episodes of some iterations those that are not stale."""
        for iteration in iterations:
            (tmp_path / FOLDER / f"iteration-{iteration:08d}").mkdir(parents=True, exist_ok=True)
        remove_stale_episodes(tmp_path)
        return sorted(int(p.name.split("-")[1]) for p in (tmp_path / FOLDER).iterdir())

    assert remaining(20, 21) == []  # the checkpoint of step 20 was removed
    assert remaining(0, 1, 3) == [0, 1]
    remove_episodes(tmp_path)
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    assert remaining(20, 21) == [20, 21]
