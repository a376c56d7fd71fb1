"""PPO's pieces: rewards and advantages by hand, the first ratio, what stops it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from accord.compare.rewards.reward import CombinedReward, WeightedSource
from accord.errors import TrainingError
from accord.learn.loop.fit import StepResult
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import mean_metrics
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.episodes import Episodes, length_mask, pad_flat
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import collect_episodes, optimise, run_iterations
from accord.learn.online.methods import (
    ONLINE,
    Targets,
    ppo_targets,
    reinforce_plus_plus_targets,
)
from accord.learn.online.metrics import episode_metrics
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import PromptOrder
from accord.learn.online.step import Iteration
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.respond.protocol import Sample
from accord.respond.text import response_text
from accord.settings.ppo import PpoSettings
from tests.learn.test_fit import Recorder
from tests.learn.toy_episodes import (
    PROMPTS,
    RECORDS,
    NumberTokenizer,
    moved,
    roles_of,
    settings_of,
    state_of,
    weights,
)


def run_ppo(
    roles: Roles, settings: PpoSettings, iterations: int = 1
) -> tuple[TrainState, list[StepResult]]:
    state = state_of(roles, settings)
    return state, list(iterate(state, roles, settings, iterations))


def iterate(
    state: TrainState, roles: Roles, settings: PpoSettings, iterations: int
) -> Iterator[StepResult]:
    return run_iterations("ppo", state, roles, PROMPTS, RECORDS, settings, iterations=iterations)


def collected(roles: Roles, settings: PpoSettings, iteration: int = 0) -> Episodes:
    order = PromptOrder(PROMPTS, RECORDS, RowOrder(3, 0))
    positions = range(iteration * 8, iteration * 8 + 8)
    return collect_episodes(ONLINE["ppo"], roles, order, positions, settings, iteration)[0]


def score(
    episodes: Episodes, settings: PpoSettings, beta: float
) -> tuple[Targets, dict[str, float]]:
    targets = ppo_targets(episodes, settings, beta)
    return targets, targets.metrics | episode_metrics(episodes, settings, beta)


def improved(
    state: TrainState, roles: Roles, episodes: Episodes, targets: Targets, settings: PpoSettings
) -> dict[str, float]:
    work = Iteration(ONLINE["ppo"], roles, settings, episodes, targets, settings.beta)
    return mean_metrics(list(optimise(state, work)))


def two_episodes() -> Episodes:
    """The first of two tokens, ended, score 3; the second of one, cut off, score 20."""
    mask = length_mask([2, 1])
    return Episodes(
        groups=(PromptGroup((5,), ((6, 2),), (0,)), PromptGroup((5,), ((7,),), (0,))),
        texts=("6", "7"),
        mask=mask,
        sampler_logps=torch.zeros(2, 2),
        known=torch.tensor([True, True]),
        old_logps=torch.tensor([[-1.0, -2.0], [-1.5, 0.0]]),
        ref_logps=torch.tensor([[-1.1, -1.8], [-2.0, 0.0]]),  # log-ratios 0.1, −0.2; 0.5
        values=torch.tensor([[1.0, 2.0], [4.0, 0.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 0.0]]),
        scores=torch.tensor([3.0, 20.0]),
        finished=torch.tensor([True, False]),
    )


def test_score_by_hand() -> None:
    # β = ½. Rewards: (−0.05, 0.1 + 3); the second is 20 less the penalty of 1, less ½·0.5: 18.75.
    # With γ = λ = 1 the returns are what is still to come: (3.05, 3.1), 18.75.
    settings = settings_of(gae_lambda=1.0, whiten_advantages=False)
    targets, numbers = score(two_episodes(), settings, beta=0.5)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.05, 3.1], [18.75, 0.0]]))
    torch.testing.assert_close(targets.advantages, torch.tensor([[2.05, 1.1], [14.75, 0.0]]))

    assert numbers["objective/kl"] == pytest.approx((-0.1 + 0.5) / 2)
    k3 = [math.expm1(-x) + x for x in (0.1, -0.2, 0.5)]
    assert numbers["objective/kl_k3"] == pytest.approx(sum(k3) / 2, rel=1e-5)
    assert numbers["objective/scores"] == pytest.approx(11.5)  # before the penalty
    assert numbers["objective/scores_std"] == pytest.approx(8.5)
    assert numbers["objective/non_score_reward"] == pytest.approx(-0.5 * 0.2)
    assert numbers["objective/rlhf_reward"] == pytest.approx((3.05 + 18.75) / 2)
    assert numbers["objective/entropy"] == pytest.approx(2.0)
    assert numbers["eos_rate"] == 0.5
    assert numbers["response_length"] == 1.5
    assert numbers["val/mean"] == pytest.approx(7 / 3)
    # 1 − Var(R − V)/Var(R), R = (3.05, 3.1, 18.75), R − V = (2.05, 1.1, 14.75).
    spread = torch.tensor([3.05, 3.1, 18.75]).var(unbiased=False)
    left = torch.tensor([2.05, 1.1, 14.75]).var(unbiased=False)
    assert numbers["val/explained_variance"] == pytest.approx(float(1 - left / spread), rel=1e-4)


def test_score_without_penalty_or_kl() -> None:
    settings = settings_of(gae_lambda=1.0, whiten_advantages=False, missing_eos_penalty=0.0)
    targets, _ = score(two_episodes(), settings, beta=0.0)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.0, 3.0], [20.0, 0.0]]))


def test_reinforce_plus_plus_by_hand() -> None:
    # The returns above, (3.05, 3.1) and 18.75: less their mean 8.3, over their deviation. The
    # squares of the differences (−5.25, −5.2, 10.45) are 27.5625, 27.04 and 109.2025.
    settings = settings_of("reinforce_plus_plus")
    targets = reinforce_plus_plus_targets(two_episodes(), settings, beta=0.5)
    deviation = math.sqrt((27.5625 + 27.04 + 109.2025) / 3)
    expected = torch.tensor([[-5.25, -5.2], [10.45, 0.0]]) / deviation
    torch.testing.assert_close(targets.advantages, expected, rtol=1e-5, atol=1e-6)
    assert targets.returns is None
    assert targets.active.tolist() == [True, True]


def test_reinforce_plus_plus_is_ppo_without_a_critic() -> None:
    # PPO's advantages by GAE at γ = λ = 1 and values of 0, whitened.
    episodes = replace(two_episodes(), values=None)
    settings = settings_of(vf_coef=0.0, gae_lambda=1.0)
    expected = ppo_targets(episodes, settings, beta=0.3)
    found = reinforce_plus_plus_targets(episodes, settings_of("reinforce_plus_plus"), beta=0.3)
    torch.testing.assert_close(found.advantages, expected.advantages)


def test_the_clip_holds_before_the_penalty() -> None:
    # A cut-off response that a reward model scores −20 is at −10 − 1, not clipped to −10 again.
    model = WeightedSource("rm", 1.0, lambda rows: [3.0, -20.0], is_reward_model=True, clip=10.0)
    clipped = CombinedReward((model,))(["a", "b"], ["x", "y"])
    low = replace(two_episodes(), scores=torch.tensor(clipped))
    targets, _ = score(low, settings_of(gae_lambda=1.0, whiten_advantages=False), beta=0.0)
    assert float(targets.returns[1, 0]) == pytest.approx(-11.0)


def test_whitening_touches_advantages_and_not_returns() -> None:
    plain, _ = score(two_episodes(), settings_of(whiten_advantages=False), beta=0.5)
    white, _ = score(two_episodes(), settings_of(), beta=0.5)
    mask = two_episodes().mask
    torch.testing.assert_close(white.returns, plain.returns)
    assert float(white.advantages[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(white.advantages[mask].var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)
    assert float(white.advantages[1, 1]) == 0.0


def test_whitened_rewards_keep_their_mean() -> None:
    # Rewards (−0.05, 3.1, 18.75) have mean 109/15; λ = 0 and values 0 make them the advantages.
    episodes = two_episodes()
    without = replace(episodes, values=torch.zeros(2, 2))
    settings = settings_of(gae_lambda=0.0, whiten_advantages=False, whiten_rewards=True)
    targets, _ = score(without, settings, beta=0.5)
    cells = targets.advantages[episodes.mask]
    assert float(cells.mean()) == pytest.approx(21.8 / 3, rel=1e-5)
    assert float(cells.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_the_first_ratio_is_one_and_the_next_is_not() -> None:
    _, (first,) = run_ppo(roles_of(), settings_of(num_ppo_epochs=1, temperature=0.8))
    assert first.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first.metrics["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-6)
    assert first.metrics["policy/clipfrac_avg"] == 0.0
    assert "policy/log_ratio_max" not in first.metrics
    _, (more,) = run_ppo(roles_of(), settings_of(num_ppo_epochs=3))
    assert more.metrics["policy/approxkl_avg"] > 1e-6


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    roles = roles_of()
    torch.manual_seed(0)
    roles.policy.model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: out + 0.5 * torch.randn_like(out)
    )
    with pytest.raises(TrainingError, match="so the ratio is not 1") as error:
        run_ppo(roles, settings_of())
    assert "look for dropout or state in it" in str(error.value)


def test_episodes_are_a_function_of_seed_and_iteration() -> None:
    order = RowOrder(3, 0)

    def episodes(iteration: int, seed: int = 0) -> Episodes:
        return collected(roles_of(), settings_of(seed=seed), iteration)

    first = episodes(0)
    assert episodes(0).texts == first.texts
    assert episodes(1).texts != first.texts
    assert episodes(0, seed=1).texts != first.texts
    assert [g.prompt for g in first.groups] == [PROMPTS[order.at(i)] for i in range(8)]
    torch.testing.assert_close(episodes(0).old_logps, first.old_logps)
    assert bool((first.entropy[first.mask] > 0).all())
    ended = [g.responses[0][-1] == 2 for g in first.groups]
    assert first.finished.tolist() == ended


@pytest.mark.parametrize("minibatches", [1, 2])
def test_accumulation_changes_neither_loss_nor_gradient(minibatches: int) -> None:
    runs = []
    for accumulation in (1, 2, 8):
        settings = settings_of(
            num_ppo_epochs=1,
            num_mini_batches=minibatches,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        roles = roles_of()
        recorders = {
            name: Recorder(list(lm.trainable_parameters().values()))
            for name, lm in (("policy", roles.policy), ("critic", roles.critic))
        }
        state = TrainState(
            {
                name: Learner(lm.trainable_parameters(), recorders[name])  # type: ignore[arg-type]
                for name, lm in (("policy", roles.policy), ("critic", roles.critic))
            },
            OnlineState(beta=settings.beta),
        )
        episodes = collected(roles, settings)
        targets, _ = score(episodes, settings, 0.05)
        numbers = improved(state, roles, episodes, targets, settings)
        runs.append((numbers, [r.gradients for r in recorders.values()]))
    (expected, gradients), *others = runs
    assert len(gradients[0]) == minibatches
    for numbers, found in others:
        for key in ("loss", "loss/policy_avg", "loss/value_avg", "grad_norm/policy"):
            assert numbers[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
        for role_found, role_expected in zip(found, gradients, strict=True):
            for step_found, step_expected in zip(role_found, role_expected, strict=True):
                for a, b in zip(step_found, step_expected, strict=True):
                    assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


def test_more_passes_than_episodes_are_harmless_and_more_minibatches_refused() -> None:
    settings = settings_of(
        per_device_train_batch_size=3, num_mini_batches=3, gradient_accumulation_steps=2
    )
    _, (result,) = run_ppo(roles_of(), settings)
    assert all(math.isfinite(v) for v in result.metrics.values())
    with pytest.raises(ValidationError, match="can't be split into `num_mini_batches=4`"):
        settings_of(per_device_train_batch_size=3, num_mini_batches=4)


def test_an_adaptive_beta_needs_one_to_adapt() -> None:
    with pytest.raises(ValidationError, match="can't adapt a beta of 0"):
        settings_of(beta=0.0, adaptive_kl_target=6.0)


def test_the_critic_warms_up_while_the_policy_stands_still() -> None:
    roles = roles_of()
    policy, critic = weights(roles.policy), weights(roles.critic)
    run_ppo(roles, settings_of(critic_warmup_steps=2), iterations=2)
    assert not moved(policy, roles.policy)
    assert moved(critic, roles.critic)
    run_ppo(roles, settings_of(critic_warmup_steps=0), iterations=1)
    assert moved(policy, roles.policy)


def test_it_stops_where_the_kl_passes_its_limit() -> None:
    # The reference has other weights, so the KL is large from the start.
    roles = roles_of()
    policy = weights(roles.policy)
    _, results = run_ppo(roles, settings_of(max_kl=0.01), iterations=5)
    assert len(results) == 1
    assert results[0].metrics["stopped_by_kl"] == 1.0
    assert results[0].metrics["objective/kl"] > 0.01
    assert (results[0].step, results[0].total) == (1, 1)
    assert not moved(policy, roles.policy)


def test_a_run_that_stopped_at_its_limit_does_not_go_on() -> None:
    roles, settings = roles_of(), settings_of(max_kl=0.01)
    state, _ = run_ppo(roles, settings, iterations=5)
    assert list(iterate(state, roles, settings, 5)) == []


def test_beta_adapts_towards_its_target() -> None:
    # KL far above the target: the error is clipped to 0.2, so β grows by 1 + 0.2·8/80 = 1.02.
    settings = settings_of(adaptive_kl_target=1e-3, adaptive_kl_horizon=80, beta=0.1)
    state, results = run_ppo(roles_of(), settings, iterations=2)
    assert [r.metrics["objective/beta"] for r in results] == pytest.approx([0.1, 0.102])
    assert state.progress.beta == pytest.approx(0.1 * 1.02**2)
    fixed, _ = run_ppo(roles_of(), settings_of(beta=0.1))
    assert fixed.progress.beta == 0.1


def test_learning_rates_of_policy_and_critic() -> None:
    settings = settings_of(learning_rate=1e-3, critic_learning_rate=5e-3)
    state, results = run_ppo(roles_of(), settings, iterations=2)  # linear: 1, then ½
    rates = {n: x.optimiser.param_groups[0]["lr"] for n, x in state.learners.items()}
    assert rates == pytest.approx({"policy": 5e-4, "critic": 2.5e-3})
    assert [r.metrics["learning_rate"] for r in results] == pytest.approx([1e-3, 5e-4])


def test_grids_hold_tokens_in_order() -> None:
    mask = length_mask([2, 3, 1])
    assert mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    flat = torch.arange(1.0, 7.0)
    grid = pad_flat(flat, mask)
    assert grid.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert torch.equal(grid[mask], flat)


def test_the_text_of_a_sample_leaves_its_end_out() -> None:
    policy = LanguageModel(None, NumberTokenizer(), "toy")
    assert response_text(Sample((5, 6, 2), (0.0,) * 3, True), policy.tokenizer) == "5 6"
    assert response_text(Sample((5, 6), (0.0,) * 2, False), policy.tokenizer) == "5 6"


def test_one_step_raises_what_had_a_positive_advantage() -> None:
    # A policy step along the advantages: tokens with a positive one become likelier, on the whole.
    roles = roles_of()
    settings = settings_of(num_ppo_epochs=1, vf_coef=0.01, learning_rate=1e-4)
    episodes = collected(roles, settings)
    targets, _ = score(episodes, settings, 0.0)
    improved(state_of(roles, settings), roles, episodes, targets, settings)

    def again(*args: Any, **more: Any) -> list[list[Sample]]:
        return [
            [Sample(g.responses[0], (0.0,) * len(g.responses[0]), bool(e))]
            for g, e in zip(episodes.groups, episodes.finished, strict=True)
        ]

    after = collected(replace(roles, sampler=again), settings)
    gain = ((after.old_logps - episodes.old_logps) * targets.advantages)[episodes.mask].sum()
    assert float(gain) > 0
