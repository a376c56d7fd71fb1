"""PPO: rewards and advantages by hand, the first ratio, minibatches, and the critic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from accord.compare.rewards.reward import CombinedReward, WeightedSource
from accord.learn.loop.fit import StepResult
from accord.learn.loop.objective import mean_metrics
from accord.learn.loop.state import TrainState
from accord.learn.online.episodes import Episodes, length_mask
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import collect_episodes, optimise
from accord.learn.online.methods import (
    ONLINE,
    Targets,
    ppo_targets,
    reinforce_plus_plus_targets,
)
from accord.learn.online.metrics import episode_metrics
from accord.learn.online.roles import Roles
from accord.learn.online.step import Iteration
from accord.lm.forward import response_logps
from accord.lm.packing import PromptGroup, pack
from accord.respond.protocol import Sample
from accord.settings.ppo import PpoSettings
from tests.learn.toys.gradients import assert_gradients_close, recording_learner
from tests.learn.toys.rewards import length_reward
from tests.learn.toys.roles import (
    PROMPT_ORDER,
    copy_weights,
    has_moved,
    iterate,
    make_roles,
    make_state,
)
from tests.learn.toys.settings import online_settings


def run_ppo(roles: Roles, settings: PpoSettings, iterations: int = 1) -> list[StepResult]:
    return list(iterate(make_state(roles, settings), roles, settings, iterations))


def collect(roles: Roles, settings: PpoSettings) -> Episodes:
    """The episodes of the first iteration, of eight prompts."""
    episodes, _ = collect_episodes(ONLINE["ppo"], roles, PROMPT_ORDER, range(8), settings, 0)
    return episodes


def take_steps(
    state: TrainState[OnlineState],
    roles: Roles,
    episodes: Episodes,
    targets: Targets,
    settings: PpoSettings,
) -> dict[str, float]:
    """All optimiser steps on some episodes; returns their mean metrics."""
    iteration = Iteration(ONLINE["ppo"], roles, settings, episodes, targets, settings.beta)
    return mean_metrics(list(optimise(state, iteration)))


def two_episodes() -> Episodes:
    """The first of two tokens, finished, score 3; the second of one, cut off, score 20."""
    return Episodes(
        groups=(PromptGroup((5,), ((6, 2),), (0,)), PromptGroup((5,), ((7,),), (0,))),
        texts=("6", "7"),
        mask=length_mask([2, 1]),
        sampler_logps=torch.zeros(2, 2),
        known=torch.tensor([True, True]),
        old_logps=torch.tensor([[-1.0, -2.0], [-1.5, 0.0]]),
        ref_logps=torch.tensor([[-1.1, -1.8], [-2.0, 0.0]]),  # log-ratios 0.1, −0.2; 0.5
        values=torch.tensor([[1.0, 2.0], [4.0, 0.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 0.0]]),
        scores=torch.tensor([3.0, 20.0]),
        finished=torch.tensor([True, False]),
    )


def test_returns_advantages_and_metrics_by_hand() -> None:
    # β = ½. Rewards: (−0.05, 0.1 + 3); the second is 20 less the penalty of 1, less ½·0.5: 18.75.
    # With γ = λ = 1 the returns are the sums of the rewards from each token on: (3.05, 3.1), 18.75.
    settings = online_settings(gae_lambda=1.0, whiten_advantages=False)
    targets = ppo_targets(two_episodes(), settings, beta=0.5)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.05, 3.1], [18.75, 0.0]]))
    torch.testing.assert_close(targets.advantages, torch.tensor([[2.05, 1.1], [14.75, 0.0]]))

    metrics = targets.metrics | episode_metrics(two_episodes(), settings, beta=0.5)
    assert metrics["objective/kl"] == pytest.approx((-0.1 + 0.5) / 2)
    k3 = [math.expm1(-x) + x for x in (0.1, -0.2, 0.5)]
    assert metrics["objective/kl_k3"] == pytest.approx(sum(k3) / 2, rel=1e-5)
    assert metrics["objective/scores"] == pytest.approx(11.5)  # before the penalty
    assert metrics["objective/scores_std"] == pytest.approx(8.5)
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.5 * 0.2)
    assert metrics["objective/rlhf_reward"] == pytest.approx((3.05 + 18.75) / 2)
    assert metrics["objective/entropy"] == pytest.approx(2.0)
    assert metrics["eos_rate"] == 0.5
    assert metrics["response_length"] == 1.5
    assert metrics["val/mean"] == pytest.approx(7 / 3)
    # 1 − Var(R − V)/Var(R), R = (3.05, 3.1, 18.75), R − V = (2.05, 1.1, 14.75).
    variance = torch.tensor([3.05, 3.1, 18.75]).var(unbiased=False)
    residual = torch.tensor([2.05, 1.1, 14.75]).var(unbiased=False)
    explained = float(1 - residual / variance)
    assert metrics["val/explained_variance"] == pytest.approx(explained, rel=1e-4)


def test_answers_that_repeat_others() -> None:
    settings = online_settings()
    alike = replace(two_episodes(), texts=("6", " 6 "))
    metrics = episode_metrics(alike, settings, beta=0.5)
    assert metrics["completions/repeated_across_prompts"] == 1
    assert "completions/distinct_share" not in metrics  # each prompt has one answer
    assert (
        episode_metrics(two_episodes(), settings, 0.5)["completions/repeated_across_prompts"] == 0
    )
    of_one_prompt = replace(alike, groups=(PromptGroup((5,), ((6, 2), (7,)), (0, 0)),))
    metrics = episode_metrics(of_one_prompt, settings, beta=0.5)
    assert metrics["completions/distinct_share"] == 0.5
    assert "completions/repeated_across_prompts" not in metrics


def test_returns_without_penalty_and_kl_are_the_scores() -> None:
    settings = online_settings(gae_lambda=1.0, whiten_advantages=False, missing_eos_penalty=0.0)
    targets = ppo_targets(two_episodes(), settings, beta=0.0)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.0, 3.0], [20.0, 0.0]]))


def test_reinforce_plus_plus_advantages_by_hand() -> None:
    # The returns above, (3.05, 3.1) and 18.75: less their mean 8.3, over their deviation. The
    # squares of the differences (−5.25, −5.2, 10.45) are 27.5625, 27.04 and 109.2025.
    settings = online_settings("reinforce_plus_plus")
    targets = reinforce_plus_plus_targets(two_episodes(), settings, beta=0.5)
    deviation = math.sqrt((27.5625 + 27.04 + 109.2025) / 3)
    expected = torch.tensor([[-5.25, -5.2], [10.45, 0.0]]) / deviation
    torch.testing.assert_close(targets.advantages, expected, rtol=1e-5, atol=1e-6)
    assert targets.returns is None
    assert targets.active.tolist() == [True, True]


def test_reinforce_plus_plus_is_ppo_without_a_critic() -> None:
    # PPO's advantages by GAE at γ = λ = 1 and values of 0, whitened.
    episodes = replace(two_episodes(), values=None)
    expected = ppo_targets(episodes, online_settings(vf_coef=0.0, gae_lambda=1.0), beta=0.3)
    settings = online_settings("reinforce_plus_plus")
    targets = reinforce_plus_plus_targets(episodes, settings, beta=0.3)
    torch.testing.assert_close(targets.advantages, expected.advantages)


def test_scores_are_clipped_before_the_eos_penalty() -> None:
    # A cut-off response that a reward model scores −20 is at −10 − 1, not clipped to −10 again.
    source = WeightedSource("rm", 1.0, lambda rows: [3.0, -20.0], is_reward_model=True, clip=10.0)
    scores = CombinedReward((source,))(["a", "b"], ["x", "y"])
    episodes = replace(two_episodes(), scores=torch.tensor(scores))
    settings = online_settings(gae_lambda=1.0, whiten_advantages=False)
    targets = ppo_targets(episodes, settings, beta=0.0)
    assert float(targets.returns[1, 0]) == pytest.approx(-11.0)


def test_whitening_changes_advantages_and_not_returns() -> None:
    plain = ppo_targets(two_episodes(), online_settings(whiten_advantages=False), beta=0.5)
    white = ppo_targets(two_episodes(), online_settings(), beta=0.5)
    mask = two_episodes().mask
    torch.testing.assert_close(white.returns, plain.returns)
    assert float(white.advantages[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(white.advantages[mask].var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)
    assert float(white.advantages[1, 1]) == 0.0


def test_whitened_rewards_keep_their_mean() -> None:
    # Rewards (−0.05, 3.1, 18.75) have mean 109/15; λ = 0 and values 0 make them the advantages.
    episodes = replace(two_episodes(), values=torch.zeros(2, 2))
    settings = online_settings(gae_lambda=0.0, whiten_advantages=False, whiten_rewards=True)
    advantages = ppo_targets(episodes, settings, beta=0.5).advantages[episodes.mask]
    assert float(advantages.mean()) == pytest.approx(21.8 / 3, rel=1e-5)
    assert float(advantages.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_without_a_critic_ppo_is_reinforce_with_a_baseline() -> None:
    # λ = γ = 1, no KL: every token's return is its response's score; whitening subtracts their
    # mean over tokens and divides by the deviation, 1/√(variance + 1e-8). At ratio 1 the gradient
    # of the loss is −mean over tokens of advantage · ∇log π, here by autograd on plain log-probs.
    settings = online_settings(
        vf_coef=0.0,
        gae_lambda=1.0,
        beta=0.0,
        num_ppo_epochs=1,
        max_grad_norm=0,
        missing_eos_penalty=0.0,
    )
    roles = replace(make_roles("rloo"), critic=None, reward=length_reward)
    episodes, _ = collect_episodes(ONLINE["ppo"], roles, PROMPT_ORDER, range(6), settings, 0)
    targets = ppo_targets(episodes, settings, 0.0)
    assert targets.returns is None
    scores = torch.tensor(length_reward((), episodes.texts))
    token_scores = torch.cat([s.expand(n) for s, n in zip(scores, episodes.lengths, strict=True)])
    mean, variance = token_scores.mean(), token_scores.var(unbiased=False)
    expected = (token_scores - mean) / (variance + 1e-8).sqrt()
    torch.testing.assert_close(targets.advantages[episodes.mask], expected)

    loss = -(expected * response_logps(roles.policy, pack(episodes.groups))).mean()
    loss.backward()
    reinforce_gradients = [p.grad for p in roles.policy.trainable_parameters().values()]
    roles.policy.model.zero_grad()

    learner, optimiser = recording_learner(roles.policy)
    state = TrainState({"policy": learner}, OnlineState(beta=settings.beta))
    take_steps(state, roles, episodes, targets, settings)
    for gradient, reinforce in zip(optimiser.gradients[0], reinforce_gradients, strict=True):
        assert reinforce is not None
        torch.testing.assert_close(gradient, reinforce, rtol=1e-4, atol=1e-6)


def test_the_first_ratio_is_1_and_later_ones_are_not() -> None:
    (single,) = run_ppo(make_roles(), online_settings(num_ppo_epochs=1, temperature=0.8))
    assert single.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert single.metrics["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-6)
    assert single.metrics["policy/clipfrac_avg"] == 0.0
    (several,) = run_ppo(make_roles(), online_settings(num_ppo_epochs=3))
    assert several.metrics["policy/approxkl_avg"] > 1e-6


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_accumulation_changes_neither_loss_nor_gradient(num_minibatches: int) -> None:
    runs = []
    for accumulation in (1, 2, 8):
        settings = online_settings(
            num_ppo_epochs=1,
            num_mini_batches=num_minibatches,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        roles = make_roles()
        assert roles.critic is not None
        policy, policy_optimiser = recording_learner(roles.policy)
        critic, critic_optimiser = recording_learner(roles.critic)
        state = TrainState({"policy": policy, "critic": critic}, OnlineState(beta=settings.beta))
        episodes = collect(roles, settings)
        targets = ppo_targets(episodes, settings, 0.05)
        metrics = take_steps(state, roles, episodes, targets, settings)
        runs.append((metrics, policy_optimiser.gradients, critic_optimiser.gradients))
    (expected_metrics, *expected_gradients), *split_runs = runs
    assert [len(steps) for steps in expected_gradients] == [num_minibatches] * 2
    for metrics, *gradients in split_runs:
        for key in ("loss", "loss/policy_avg", "loss/value_avg", "grad_norm/policy"):
            assert metrics[key] == pytest.approx(expected_metrics[key], rel=1e-4, abs=1e-5), key
        for steps, expected_steps in zip(gradients, expected_gradients, strict=True):
            for step, expected_step in zip(steps, expected_steps, strict=True):
                assert_gradients_close(step, expected_step, rtol=1e-4, atol=1e-6)


def test_more_passes_than_episodes_are_harmless() -> None:
    settings = online_settings(
        per_device_train_batch_size=3, num_mini_batches=3, gradient_accumulation_steps=2
    )
    (result,) = run_ppo(make_roles(), settings)
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_more_minibatches_than_episodes_are_refused() -> None:
    with pytest.raises(ValidationError, match="can't be split into `num_mini_batches=4`"):
        online_settings(per_device_train_batch_size=3, num_mini_batches=4)


def test_during_the_critics_warm_up_the_policy_does_not_move() -> None:
    roles = make_roles()
    policy, critic = copy_weights(roles.policy), copy_weights(roles.critic)
    run_ppo(roles, online_settings(critic_warmup_steps=2), iterations=2)
    assert not has_moved(policy, roles.policy)
    assert has_moved(critic, roles.critic)
    run_ppo(roles, online_settings(critic_warmup_steps=0), iterations=1)
    assert has_moved(policy, roles.policy)


def test_a_step_makes_tokens_with_a_positive_advantage_likelier() -> None:
    # Weighted by the advantages, and summed over all tokens.
    roles = make_roles()
    settings = online_settings(num_ppo_epochs=1, vf_coef=0.01, learning_rate=1e-4)
    episodes = collect(roles, settings)
    targets = ppo_targets(episodes, settings, 0.0)
    take_steps(make_state(roles, settings), roles, episodes, targets, settings)

    def same_responses(prompts: Sequence[Any], *args: Any, **options: Any) -> list[list[Sample]]:
        return [
            [Sample(g.responses[0], (0.0,) * len(g.responses[0]), bool(finished))]
            for g, finished in zip(episodes.groups, episodes.finished, strict=True)
        ]

    after = collect(replace(roles, sampler=same_responses), settings)
    gain = ((after.old_logps - episodes.old_logps) * targets.advantages)[episodes.mask].sum()
    assert float(gain) > 0
