"""Iterations that go wrong: a KL above its limit, a loss or gradient that is not finite."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.errors import NotFiniteError, TrainingError
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.online.guards import restore_snapshot, take_snapshot
from accord.learn.online.roles import Roles
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.rewards import InfiniteReward
from tests.learn.toys.roles import (
    are_equal,
    copy_moments,
    copy_weights,
    has_moved,
    iterate,
    make_roles,
    make_state,
)
from tests.learn.toys.settings import online_settings


def break_gradient(roles: Roles, broken_pass: int) -> None:
    """Make the policy's gradient NaN in one of its passes with gradient, counted from 0."""
    num_passes = 0

    def spoil(module: Any, args: Any, output: torch.Tensor) -> None:
        nonlocal num_passes
        if torch.is_grad_enabled() and output.requires_grad:
            if num_passes == broken_pass:
                output.register_hook(lambda grad: grad * math.nan)
            num_passes += 1

    roles.policy.model.model.embed_tokens.register_forward_hook(spoil)


def test_a_broken_iteration_is_skipped_and_a_third_in_a_row_stops() -> None:
    settings = online_settings()
    roles = replace(make_roles(), reward=InfiniteReward(1))
    state = make_state(roles, settings)
    results = iterate(state, roles, settings, 3)
    next(results)
    policy, critic = copy_weights(roles.policy), copy_weights(roles.critic)
    moments = copy_moments(state)
    second = next(results)
    assert second.metrics["skipped"] == 1.0
    assert not has_moved(policy, roles.policy)
    assert not has_moved(critic, roles.critic)
    assert are_equal(copy_moments(state), moments)
    third = next(results)
    assert third.metrics["skipped"] == 0.0
    assert has_moved(policy, roles.policy)

    always_broken = replace(make_roles(), reward=InfiniteReward(0, 1, 2, 3))
    policy = copy_weights(always_broken.policy)
    results = iterate(make_state(always_broken, settings), always_broken, settings, 5)
    assert [next(results).metrics["skipped"] for _ in range(2)] == [1.0, 1.0]
    with pytest.raises(NotFiniteError, match=r"The loss is nan at step 3.*prompts.jsonl:"):
        next(results)
    assert not has_moved(policy, always_broken.policy)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_broken_gradient_rolls_the_whole_iteration_back(storage: str, tmp_path: Path) -> None:
    # The first iteration has 3 steps; in the second one's third step the gradient is NaN, and
    # weights and moments are again those of its start.
    roles, settings = make_roles(), online_settings(num_ppo_epochs=3, rollback_copy=storage)
    break_gradient(roles, 5)
    state = make_state(roles, settings)
    results = iterate(state, roles, settings, 3, folder=tmp_path)
    next(results)
    policy, moments = copy_weights(roles.policy), copy_moments(state)
    second = next(results)
    assert second.metrics["skipped"] == 1.0
    assert not has_moved(policy, roles.policy)
    assert are_equal(copy_moments(state), moments)
    assert state.snapshot == {}  # it is stored only while it may be needed
    assert next(results).metrics["skipped"] == 0.0
    assert has_moved(policy, roles.policy)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_snapshot_can_be_restored_more_than_once() -> None:
    roles, settings = make_roles(), online_settings()
    state = make_state(roles, settings)
    next(iterate(state, roles, settings, 9))
    take_snapshot(state, "memory", None)
    policy, moments = copy_weights(roles.policy), copy_moments(state)
    for _ in range(2):
        snapshot = dict(state.snapshot)
        next(iterate(state, roles, settings, 9))
        assert not are_equal(copy_moments(state), moments)
        state.snapshot = snapshot
        restore_snapshot(state)
        assert are_equal(copy_moments(state), moments)
        assert not has_moved(policy, roles.policy)


def test_without_a_snapshot_a_later_step_can_not_be_rolled_back() -> None:
    roles, settings = make_roles(), online_settings(num_ppo_epochs=3)
    break_gradient(roles, 1)
    with pytest.raises(NotFiniteError, match="With rollback_copy=memory"):
        list(iterate(make_state(roles, settings), roles, settings, 1))


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    roles, settings = make_roles(), online_settings()
    torch.manual_seed(0)
    roles.policy.model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: output + 0.5 * torch.randn_like(output)
    )
    with pytest.raises(TrainingError, match="so the ratio is not 1") as error:
        list(iterate(make_state(roles, settings), roles, settings, 1))
    assert "look for dropout or state in it" in str(error.value)


def test_training_stops_where_the_kl_exceeds_its_limit() -> None:
    # The reference has other weights, so the KL is large from the start.
    roles, settings = make_roles(), online_settings(max_kl=0.01)
    state, policy = make_state(roles, settings), copy_weights(roles.policy)
    (result,) = iterate(state, roles, settings, 5)
    assert result.metrics["stopped_by_kl"] == 1.0
    assert result.metrics["objective/kl"] > 0.01
    assert (result.step, result.total) == (1, 1)
    assert not has_moved(policy, roles.policy)


def test_a_run_that_stopped_at_its_kl_limit_does_not_resume() -> None:
    roles, settings = make_roles(), online_settings(max_kl=0.01)
    state = make_state(roles, settings)
    assert len(list(iterate(state, roles, settings, 5))) == 1
    assert list(iterate(state, roles, settings, 5)) == []


def large_steps(**overrides: Any) -> Any:
    return online_settings(learning_rate=0.03, lr_scheduler_type="constant", **overrides)


def roles_at_reference() -> Roles:
    """The reference has the policy's weights, so that the first KL is 0."""
    return replace(make_roles(), reference=make_roles().policy)


def test_above_its_kl_limit_a_run_rolls_back_and_slows_down() -> None:
    roles, settings = roles_at_reference(), large_steps(max_kl=0.5, max_kl_action="rollback")
    state = make_state(roles, settings)
    results = iterate(state, roles, settings, 8)
    start = copy_weights(roles.policy)
    first = next(results)
    assert (first.metrics["rolled_back"], first.metrics["objective/kl"]) == (0.0, 0.0)
    assert has_moved(start, roles.policy)
    second = next(results)
    assert second.metrics["objective/kl"] > 0.5
    assert second.metrics["rolled_back"] == 1.0
    assert not has_moved(start, roles.policy)
    assert all(not learner.optimiser.state for learner in state.learners.values())
    third = next(results)
    assert third.metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert third.metrics["learning_rate"] == pytest.approx(0.015)
    assert third.metrics["rolled_back"] == 0.0


def test_a_resumed_run_rolls_back_as_the_killed_one_would_have(tmp_path: Path) -> None:
    # Stopped between the two iterations, and resumed from the checkpoint as in a new process.
    settings = large_steps(max_kl=0.5, max_kl_action="rollback")
    roles = roles_at_reference()
    straight = [r.metrics for r in iterate(make_state(roles, settings), roles, settings, 4)]
    stopped_roles = roles_at_reference()
    stopped = make_state(stopped_roles, settings)
    next(iterate(stopped, stopped_roles, settings, 4))
    save_checkpoint(tmp_path, stopped, settings.model_dump(mode="json"), keep=1)
    resumed_roles = roles_at_reference()
    resumed = make_state(resumed_roles, settings)
    assert load_checkpoint(tmp_path, resumed, settings, resume=True)
    metrics = [r.metrics for r in iterate(resumed, resumed_roles, settings, 4)]
    assert metrics[0]["rolled_back"] == 1.0
    assert [without_seconds(m) for m in metrics] == [without_seconds(m) for m in straight[1:]]
    assert are_equal(copy_weights(resumed_roles.policy), copy_weights(roles.policy))


def test_a_run_that_starts_above_its_kl_limit_stops() -> None:
    # Another reference: the KL is large from the start, and there is no snapshot to restore.
    settings = large_steps(max_kl=0.01, max_kl_action="rollback")
    roles = make_roles()
    results = list(iterate(make_state(roles, settings), roles, settings, 5))
    assert [r.metrics["stopped_by_kl"] for r in results] == [1.0]


def test_raise_beta_raises_beta_above_the_kl_limit_and_takes_steps() -> None:
    settings = online_settings(max_kl=0.01, max_kl_action="raise_beta", beta=0.1)
    roles = make_roles()
    results = list(iterate(make_state(roles, settings), roles, settings, 2))
    assert [r.metrics["objective/beta"] for r in results] == pytest.approx([0.15, 0.225])
    assert results[0].metrics["policy/approxkl_avg"] > 0


def test_an_iteration_whose_logits_are_not_finite_is_skipped() -> None:
    roles, settings = make_roles(), online_settings()
    state = make_state(roles, settings)
    results = iterate(state, roles, settings, 3)
    next(results)
    policy, moments = copy_weights(roles.policy), copy_moments(state)
    weight = roles.policy.model.model.norm.weight
    before = weight.data.clone()
    weight.data[0] = math.nan
    second = next(results)
    assert second.metrics["skipped"] == 1.0
    weight.data.copy_(before)
    assert not has_moved(policy, roles.policy)
    assert are_equal(copy_moments(state), moments)
    third = next(results)
    assert (third.step, third.metrics["skipped"]) == (3, 0.0)
    assert has_moved(policy, roles.policy)


def test_logits_that_stay_not_finite_stop_the_run() -> None:
    roles, settings = make_roles(), online_settings()
    roles.policy.model.model.norm.weight.data[0] = math.nan
    results = iterate(make_state(roles, settings), roles, settings, 5)
    assert [next(results).metrics["skipped"] for _ in range(2)] == [1.0, 1.0]
    with pytest.raises(NotFiniteError, match=r"not finite .*at token 1 of a response to prompt 1"):
        next(results)
