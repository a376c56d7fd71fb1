"""Iterations of online methods: prompts, settings, pretraining rows, beta and learning rates."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from accord.compare.rewards.reward import CombinedReward, WeightedSource
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import _adapt_beta
from accord.learn.online.step import PtxRows
from accord.lm.packing import PromptGroup
from tests.learn.toys.roles import PROMPTS, iterate, make_roles, make_state
from tests.learn.toys.settings import online_settings


def test_iterations_take_the_prompts_epoch_after_epoch() -> None:
    # 3 iterations of 8 prompts are 8 epochs of the 3 prompts; batches cross their ends.
    roles, settings = make_roles(), online_settings(num_ppo_epochs=1)
    sampled: list[tuple[int, ...]] = []

    def sampler(prompts: Any, *args: Any, **options: Any) -> Any:
        sampled.extend(prompts)
        return roles.sampler(prompts, *args, **options)

    recorded = replace(roles, sampler=sampler)
    results = list(iterate(make_state(recorded, settings), recorded, settings, 3))
    assert [r.metrics["epoch"] for r in results] == pytest.approx([8 / 3, 16 / 3, 8])
    assert Counter(sampled) == dict.fromkeys(PROMPTS, 8)
    epochs = [sampled[i : i + 3] for i in range(0, 24, 3)]
    assert all(set(epoch) == set(PROMPTS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # each is shuffled


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
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
def test_settings_that_contradict_each_other_are_refused(
    method: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        online_settings(method, **overrides)


def test_an_adaptive_beta_must_start_above_0() -> None:
    with pytest.raises(ValidationError, match="can't adapt a beta of 0"):
        online_settings(beta=0.0, adaptive_kl_target=6.0)


def test_pretraining_raises_the_likelihood_of_its_rows() -> None:
    # With a coefficient that outweighs everything else; with a tiny one it does not.
    rows = [PromptGroup((4, 5), ((6, 7, 8),)), PromptGroup((9,), ((10, 11),))]
    losses = []
    for coefficient in (1e-6, 100.0):
        roles = make_roles()
        settings = online_settings(
            ptx_dataset="toy", ptx_coef=coefficient, ptx_batch_size=2, num_ppo_epochs=2
        )
        state, ptx_rows = make_state(roles, settings), PtxRows(rows, RowOrder(2, 0))
        results = iterate(state, roles, settings, 6, ptx_rows=ptx_rows)
        losses.append([r.metrics["loss/ptx_avg"] for r in results])
    without, with_pretraining = losses
    assert without[0] == pytest.approx(with_pretraining[0], rel=0.05)
    assert with_pretraining[-1] < 0.8 * with_pretraining[0]
    assert with_pretraining[-1] < 0.9 * without[-1]


def test_beta_adapts_towards_the_kl_target() -> None:
    # KL far above the target: the error is clipped to 0.2, so β grows by 1 + 0.2·8/80 = 1.02.
    settings = online_settings(adaptive_kl_target=1e-3, adaptive_kl_horizon=80, beta=0.1)
    roles = make_roles()
    state = make_state(roles, settings)
    results = list(iterate(state, roles, settings, 2))
    assert [r.metrics["objective/beta"] for r in results] == pytest.approx([0.1, 0.102])
    assert state.progress.beta == pytest.approx(0.1 * 1.02**2)
    roles, settings = make_roles(), online_settings(beta=0.1)
    fixed = make_state(roles, settings)
    list(iterate(fixed, roles, settings, 1))
    assert fixed.progress.beta == 0.1


@pytest.mark.parametrize(("skipped", "adapts"), [(0.0, True), (1.0, False)])
def test_a_skipped_iteration_does_not_change_beta(skipped: float, adapts: bool) -> None:
    # It may have ended before all its episodes were measured.
    state = TrainState({}, OnlineState(beta=0.1))
    settings = online_settings("grpo", beta=0.1, adaptive_kl_target=1.0, adaptive_kl_horizon=100)
    _adapt_beta(state, {"objective/kl": 5.0, "skipped": skipped}, settings, 8)
    assert (state.progress.beta != 0.1) == adapts


def test_policy_and_critic_have_their_learning_rates() -> None:
    settings = online_settings(learning_rate=1e-3, critic_learning_rate=5e-3)
    roles = make_roles()
    state = make_state(roles, settings)
    results = list(iterate(state, roles, settings, 2))  # linear: 1, then ½
    rates = {n: x.optimiser.param_groups[0]["lr"] for n, x in state.learners.items()}
    assert rates == pytest.approx({"policy": 5e-4, "critic": 2.5e-3})
    assert [r.metrics["learning_rate"] for r in results] == pytest.approx([1e-3, 5e-4])


def test_the_share_of_clipped_scores_is_logged() -> None:
    settings, roles = online_settings(reward_clip=4.0), make_roles()
    source = WeightedSource(
        "toy",
        1.0,
        lambda rows: [5.0 if i % 4 == 0 else 1.0 for i in range(len(rows))],
        is_reward_model=True,
        clip=4.0,
    )
    clipped = replace(roles, reward=CombinedReward((source,)))
    (result,) = iterate(make_state(clipped, settings), clipped, settings, 1)
    assert result.metrics["rewards/clipped_share"] == pytest.approx(0.25)
    assert result.metrics["objective/scores"] == pytest.approx((4 + 3) / 4)
    (result,) = iterate(make_state(roles, settings), roles, settings, 1)
    assert "rewards/clipped_share" not in result.metrics  # no reward model among its sources
