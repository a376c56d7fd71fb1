"""What can happen to an iteration: a limit passed, a loss that is not finite, a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from accord.compare.rewards.reward import CombinedReward, WeightedSource
from accord.errors import NotFiniteError
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.loop.fit import StepResult
from accord.learn.loop.learner import Learner
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.guards import OnlineState, restore_snapshot, take_snapshot
from accord.learn.online.loop import _adapt_beta, collect_episodes, optimise, run_iterations
from accord.learn.online.methods import ONLINE
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import PromptOrder
from accord.learn.online.saved_episodes import FOLDER, remove_episodes, remove_stale_episodes
from accord.learn.online.step import Iteration, PtxRows
from accord.lm.forward import response_logps
from accord.lm.packing import PromptGroup, pack
from accord.settings.identity import identity_settings
from tests.learn.test_fit import Recorder
from tests.learn.toy_episodes import (
    PROMPTS,
    RECORDS,
    length,
    moved,
    roles_of,
    settings_of,
    state_of,
    weights,
)


def iterate(
    state: TrainState,
    roles: Roles,
    settings: Any,
    iterations: int,
    method: str = "ppo",
    **more: Any,
) -> Iterator[StepResult]:
    return run_iterations(
        method, state, roles, PROMPTS, RECORDS, settings, iterations=iterations, **more
    )


def moments(state: TrainState) -> list[torch.Tensor]:
    return [
        value.clone()
        for learner in state.learners.values()
        for parameter in learner.parameters.values()
        for value in learner.optimiser.state.get(parameter, {}).values()
    ]


def equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


class Breaking:
    """A reward that is NaN in given calls, from 0."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.seen = calls, -1

    def __call__(self, prompts: Any, texts: Sequence[str], finished: Any = None) -> list[float]:
        self.seen += 1
        if self.seen in self.calls:
            return [math.nan] * len(texts)
        return length(prompts, texts)


def break_gradient(roles: Roles, pass_number: int) -> None:
    """The policy's gradient is NaN in its n-th pass with gradient, from 0."""
    runs: list[int] = []

    def spoil(module: Any, args: Any, out: torch.Tensor) -> None:
        if torch.is_grad_enabled() and out.requires_grad:
            runs.append(1)
            if len(runs) - 1 == pass_number:
                out.register_hook(lambda grad: grad * math.nan)

    roles.policy.model.model.embed_tokens.register_forward_hook(spoil)


def test_a_broken_iteration_is_skipped_and_a_third_in_a_row_stops() -> None:
    roles, settings = roles_of(), settings_of()
    state = state_of(roles, settings)
    once = replace(roles, reward=Breaking(1))
    results = iterate(state, once, settings, 3)
    next(results)
    before, critic, held = weights(roles.policy), weights(once.critic), moments(state)  # type: ignore[arg-type]
    second = next(results)
    assert second.metrics["skipped"] == 1.0
    assert not moved(before, roles.policy)
    assert not moved(critic, once.critic)  # type: ignore[arg-type]
    assert equal(held, moments(state))
    third = next(results)
    assert third.metrics["skipped"] == 0.0
    assert moved(before, roles.policy)

    always = replace(roles_of(), reward=Breaking(0, 1, 2, 3))
    before = weights(always.policy)
    results = iterate(state_of(always, settings), always, settings, 5)
    assert [next(results).metrics["skipped"] for _ in range(2)] == [1.0, 1.0]
    with pytest.raises(NotFiniteError, match=r"The loss is nan at step 3.*prompts.jsonl:"):
        next(results)
    assert not moved(before, always.policy)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_broken_gradient_takes_the_whole_iteration_back(where: str, tmp_path: Path) -> None:
    # The first iteration has 3 steps; in the second one's third step the gradient is NaN, and
    # weights and moments are again those of its start.
    roles, settings = roles_of(), settings_of(num_ppo_epochs=3, rollback_copy=where)
    break_gradient(roles, 5)
    state = state_of(roles, settings)
    results = iterate(state, roles, settings, 3, folder=tmp_path)
    next(results)
    before, held = weights(roles.policy), moments(state)
    second = next(results)
    assert second.metrics["skipped"] == 1.0
    assert not moved(before, roles.policy)
    assert equal(held, moments(state))
    assert state.snapshot == {}  # it is held for as long as it may be needed
    assert next(results).metrics["skipped"] == 0.0
    assert moved(before, roles.policy)
    assert not list(tmp_path.glob("*.safetensors"))


def test_one_copy_can_be_gone_back_to_again() -> None:
    roles, settings = roles_of(), settings_of()
    state = state_of(roles, settings)
    next(iterate(state, roles, settings, 9))
    take_snapshot(state, "memory", None)
    before, held = weights(roles.policy), moments(state)
    for _ in range(2):
        start = dict(state.snapshot)
        next(iterate(state, roles, settings, 9))
        assert not equal(held, moments(state))
        state.snapshot = start
        restore_snapshot(state)
        assert equal(held, moments(state))
        assert not moved(before, roles.policy)


def test_without_a_copy_a_later_step_can_not_be_taken_back() -> None:
    roles, settings = roles_of(), settings_of(num_ppo_epochs=3)
    break_gradient(roles, 1)
    with pytest.raises(NotFiniteError, match="With rollback_copy=memory"):
        list(iterate(state_of(roles, settings), roles, settings, 1))


def limited(**more: Any) -> Any:
    """The policy is its own reference, and its steps are large."""
    return settings_of(learning_rate=0.03, lr_scheduler_type="constant", **more)


def own_reference() -> Roles:
    roles = roles_of()
    twin = roles_of().policy
    return replace(roles, reference=twin)


def test_past_its_limit_a_run_goes_back_and_slows_down() -> None:
    roles, settings = own_reference(), limited(max_kl=0.5, max_kl_action="rollback")
    state = state_of(roles, settings)
    results = iterate(state, roles, settings, 8)
    start = weights(roles.policy)
    first = next(results)
    assert (first.metrics["rolled_back"], first.metrics["objective/kl"]) == (0.0, 0.0)
    assert moved(start, roles.policy)
    second = next(results)
    assert second.metrics["objective/kl"] > 0.5
    assert second.metrics["rolled_back"] == 1.0
    assert not moved(start, roles.policy)
    assert all(not learner.optimiser.state for learner in state.learners.values())
    third = next(results)
    assert third.metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert third.metrics["learning_rate"] == pytest.approx(0.015)
    assert third.metrics["rolled_back"] == 0.0


def test_a_rollback_survives_a_kill(tmp_path: Path) -> None:
    # Stopped between the two iterations, and gone on from the checkpoint in a new process.
    settings = limited(max_kl=0.5, max_kl_action="rollback")
    plain = settings.model_dump(mode="json")
    roles = own_reference()
    whole = [r.metrics for r in iterate(state_of(roles, settings), roles, settings, 4)]
    one = own_reference()
    state = state_of(one, settings)
    next(iterate(state, one, settings, 4))
    save_checkpoint(tmp_path, state, plain, keep=1)
    two = own_reference()
    again = state_of(two, settings)
    assert load_checkpoint(tmp_path, again, settings, resume=True)
    found = [r.metrics for r in iterate(again, two, settings, 4)]
    assert found[0]["rolled_back"] == 1.0
    for a, b in zip(found, whole[1:], strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    assert equal(weights(two.policy), weights(roles.policy))


def test_a_start_above_the_limit_stops_at_last() -> None:
    # Another reference: the KL is large from the start, and there is nothing to go back to.
    settings = limited(max_kl=0.01, max_kl_action="rollback")
    roles = roles_of()
    results = list(iterate(state_of(roles, settings), roles, settings, 5))
    assert [r.metrics["stopped_by_kl"] for r in results] == [1.0]


def test_beta_is_raised_past_the_limit() -> None:
    settings = settings_of(max_kl=0.01, max_kl_action="raise_beta", beta=0.1)
    roles = roles_of()
    results = list(iterate(state_of(roles, settings), roles, settings, 2))
    assert [r.metrics["objective/beta"] for r in results] == pytest.approx([0.15, 0.225])
    assert results[0].metrics["policy/approxkl_avg"] > 0  # steps are taken all the same


def test_kept_episodes_are_not_sampled_again(tmp_path: Path) -> None:
    # Killed in the second iteration's steps (6 passes sample, 2 measure, 3 are steps); all before
    # goes again on the kept episodes, to the same numbers, and only the third is sampled.
    settings = settings_of(num_mini_batches=2, num_ppo_epochs=2)
    roles = roles_of()
    whole = [r.metrics for r in iterate(state_of(roles, settings), roles, settings, 3)]

    class Counted:
        def __init__(self, roles: Roles) -> None:
            self.roles, self.calls = roles, 0

        def __call__(self, *args: Any, **more: Any) -> Any:
            self.calls += 1
            return self.roles.sampler(*args, **more)

    one = roles_of()
    results = iterate(state_of(one, settings), one, settings, 3, folder=tmp_path)
    next(results)
    one.policy.backbone.register_forward_hook(_dies_in(10))
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    two = roles_of()
    counted = Counted(two)
    again = iterate(
        state_of(two, settings), replace(two, sampler=counted), settings, 3, folder=tmp_path
    )
    found = [r.metrics for r in again]
    assert counted.calls == 1
    for a, b in zip(found, whole, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }
    assert equal(weights(two.policy), weights(roles.policy))
    remove_episodes(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def _dies_in(calls: int) -> Any:
    seen: list[int] = []

    def hook(module: Any, args: Any, out: Any) -> None:
        seen.append(1)
        if len(seen) == calls:
            raise KeyboardInterrupt

    return hook


def test_episodes_of_other_settings_or_half_written_are_not_used(tmp_path: Path) -> None:
    def texts(**more: Any) -> tuple[int, Any]:
        roles, settings = roles_of("grpo"), settings_of("grpo", **more)
        calls: list[int] = []

        def sampler(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return roles.sampler(*args, **kwargs)

        counted = replace(roles, sampler=sampler)
        (result,) = iterate(
            state_of(counted, settings), counted, settings, 1, "grpo", folder=tmp_path
        )
        return len(calls), result.metrics["loss"]

    first = texts()
    assert first[0] == 1
    assert texts() == (0, first[1])
    assert texts(temperature=0.9)[0] == 1
    assert texts()[0] == 1
    assert texts(resume=False)[0] == 1
    (place,) = (tmp_path / FOLDER).glob("*/episodes.safetensors")
    place.write_bytes(place.read_bytes()[:100])
    assert texts() == (1, first[1])


def test_episodes_before_a_checkpoint_are_removed(tmp_path: Path) -> None:
    roles, settings = roles_of("rloo"), settings_of("rloo")
    state = state_of(roles, settings)
    for result in iterate(state, roles, settings, 4, "rloo", folder=tmp_path):
        if result.step == 2:
            save_checkpoint(tmp_path, state, settings.model_dump(mode="json"), keep=1)
    names = sorted(p.name for p in (tmp_path / FOLDER).iterdir())
    assert names == ["iteration-00000002", "iteration-00000003"]


def test_pretraining_holds_up_its_rows() -> None:
    # With a weight that drowns the rest, the likelihood of the rows rises; without, it does not.
    rows = [PromptGroup((4, 5), ((6, 7, 8),)), PromptGroup((9,), ((10, 11),))]
    told = []
    for coefficient in (1e-6, 100.0):
        roles = roles_of()
        settings = settings_of(
            ptx_dataset="toy", ptx_coef=coefficient, ptx_batch_size=2, num_ppo_epochs=2
        )
        steps = iterate(
            state_of(roles, settings),
            roles,
            settings,
            6,
            ptx_rows=PtxRows(rows, RowOrder(2, 0)),
        )
        told.append([r.metrics["loss/ptx_avg"] for r in steps])
    assert told[0][0] == pytest.approx(told[1][0], rel=0.05)
    assert told[1][-1] < 0.8 * told[1][0]
    assert told[1][-1] < 0.9 * told[0][-1]


def test_without_critic_ppo_is_reinforce_with_a_baseline() -> None:
    # λ = γ = 1, no KL: every token's return is its response's score; whitening takes off their
    # mean over tokens and divides by the deviation, 1/√(variance + 1e-8). At ratio 1 the gradient
    # of the loss is −mean over tokens of advantage · ∇log π, here by autograd on plain log-probs.
    settings = settings_of(
        vf_coef=0.0,
        gae_lambda=1.0,
        beta=0.0,
        num_ppo_epochs=1,
        max_grad_norm=0,
        missing_eos_penalty=0.0,
    )
    roles = replace(roles_of("rloo"), critic=None, reward=length)
    order = PromptOrder(PROMPTS, RECORDS, RowOrder(3, 0))
    episodes, _ = collect_episodes(ONLINE["ppo"], roles, order, range(6), settings, 0)
    targets = ONLINE["ppo"].targets(episodes, settings, 0.0)
    assert targets.returns is None
    scores = torch.tensor(length((), episodes.texts))
    by_token = torch.cat([s.expand(n) for s, n in zip(scores, episodes.lengths, strict=True)])
    mean, variance = by_token.mean(), by_token.var(unbiased=False)
    expected = (by_token - mean) / (variance + 1e-8).sqrt()
    torch.testing.assert_close(targets.advantages[episodes.mask], expected)

    loss = -(expected * response_logps(roles.policy, pack(episodes.groups))).mean()
    loss.backward()
    plain = [p.grad for p in roles.policy.trainable_parameters().values()]
    roles.policy.model.zero_grad()

    recorder = Recorder(list(roles.policy.trainable_parameters().values()))
    state = TrainState(
        {"policy": Learner(roles.policy.trainable_parameters(), recorder)},
        OnlineState(beta=settings.beta),
    )  # type: ignore[arg-type]
    list(optimise(state, Iteration(ONLINE["ppo"], roles, settings, episodes, targets, 0.0)))
    for a, b in zip(recorder.gradients[0], plain, strict=True):
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("ppo", {"max_kl_action": "rollback"}, "does nothing without `max_kl`"),
        ("ppo", {"vf_coef": 0.0}, "Set `gae_lambda=1`"),
        ("ppo", {"ptx_coef": 1.0}, "without `ptx_dataset`"),
        ("grpo", {"per_device_train_batch_size": 10}, "a multiple of `num_generations`"),
        ("grpo", {"beta": 0.0, "max_kl": 1.0, "max_kl_action": "raise_beta"}, "a beta of 0"),
        ("rloo", {"missing_eos_score": 0.0, "missing_eos_penalty": 2.0}, "Set one of them"),
        ("ppo", {"overlong_buffer": 7}, "is the end of `max_new_tokens=6`"),
        (
            "rloo",
            {"max_kl": 1.0, "max_kl_action": "rollback", "rollback_copy": "off"},
            "needs a snapshot of the weights",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    method: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(method, **more)


def test_how_a_server_is_reached_is_no_change_of_what_is_learned() -> None:
    def told(**sampler: Any) -> dict[str, Any]:
        settings = settings_of("grpo", lora={}, sampler={"kind": "vllm", **sampler})
        return identity_settings(settings)

    first = told(url="http://127.0.0.1:8000")
    assert told(url="http://127.0.0.1:8001", retries=9, timeout=5) == first
    assert told(url="http://127.0.0.1:8000", model="another") != first


@pytest.mark.parametrize(("skipped", "moves"), [(0.0, True), (1.0, False)])
def test_a_skipped_iteration_leaves_beta_alone(skipped: float, moves: bool) -> None:
    # It may have ended before all its episodes were measured.
    state = TrainState({}, OnlineState(beta=0.1))
    settings = settings_of("grpo", beta=0.1, adaptive_kl_target=1.0, adaptive_kl_horizon=100)
    _adapt_beta(state, {"objective/kl": 5.0, "skipped": skipped}, settings, 8)
    assert (state.progress.beta != 0.1) == moves


def test_the_share_of_clipped_scores_is_told() -> None:
    settings, roles = settings_of(reward_clip=4.0), roles_of()
    model = WeightedSource(
        "toy", 1.0, lambda rows: [5.0 if i % 4 == 0 else 1.0 for i in range(len(rows))]
    )
    clipped = replace(
        roles, reward=CombinedReward((replace(model, is_reward_model=True, clip=4.0),))
    )
    (result,) = iterate(state_of(clipped, settings), clipped, settings, 1)
    assert result.metrics["rewards/clipped_share"] == pytest.approx(0.25)
    assert result.metrics["objective/scores"] == pytest.approx((4 + 3) / 4)
    (result,) = iterate(state_of(roles, settings), roles, settings, 1)
    assert "rewards/clipped_share" not in result.metrics  # no reward model among its sources


def test_episodes_that_follow_on_no_checkpoint_are_dropped(tmp_path: Path) -> None:
    def kept(*iterations: int) -> list[int]:
        for iteration in iterations:
            (tmp_path / FOLDER / f"iteration-{iteration:08d}").mkdir(parents=True, exist_ok=True)
        remove_stale_episodes(tmp_path)
        return sorted(int(p.name.split("-")[1]) for p in (tmp_path / FOLDER).iterdir())

    assert kept(20, 21) == []  # the checkpoint of step 20 was removed
    assert kept(0, 1, 3) == [0, 1]
    remove_episodes(tmp_path)
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    assert kept(20, 21) == [20, 21]
