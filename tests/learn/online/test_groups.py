"""GRPO's and RLOO's advantages, metrics, forward passes and steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import accord.learn.online.step as step_module
from accord.learn.loop.objective import mean_metrics
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.episodes import Episodes, SavedForward
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import collect_episodes, optimise
from accord.learn.online.methods import ONLINE, final_scores, grpo_targets, rloo_targets
from accord.learn.online.metrics import episode_metrics, group_metrics
from accord.learn.online.sampling import PromptOrder
from accord.learn.online.step import Iteration
from accord.lm.packing import PromptGroup
from tests.learn.toys.gradients import assert_gradients_close, recording_learner
from tests.learn.toys.roles import (
    PROMPTS,
    RECORDS,
    copy_weights,
    has_moved,
    iterate,
    make_roles,
    make_state,
)
from tests.learn.toys.settings import online_settings


def four_episodes(scores: list[float], finished: list[bool] | None = None) -> Episodes:
    """Two prompts with two responses each, of 2, 1, 1 and 2 tokens."""
    return Episodes(
        groups=(PromptGroup((5,), ((6, 2), (7,))), PromptGroup((8, 9), ((3,), (4, 2)))),
        texts=("6", "7", "3", "4"),
        mask=torch.tensor([[True, True], [True, False], [True, False], [True, True]]),
        scores=torch.tensor(scores),
        finished=torch.tensor(finished or [True] * 4),
        sampler_logps=torch.zeros(4, 2),
        old_logps=torch.tensor([[-1.0, -1.0], [-2.0, 0.0], [-0.5, 0.0], [-1.0, -2.0]]),
        known=torch.full((4,), True),
        ref_logps=torch.tensor([[-1.5, -1.5], [-2.0, 0.0], [-0.5, 0.0], [-1.0, -1.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 0.0], [5.0, 6.0]]),
    )


def test_grpo_advantages_by_hand() -> None:
    # (1, 3): mean 2, sample deviation √2. The second group's scores are equal.
    episodes = four_episodes([1.0, 3.0, 2.0, 2.0])
    targets = grpo_targets(episodes, online_settings("grpo"), beta=0.0)
    a = 1 / (math.sqrt(2) + 1e-4)
    expected = torch.tensor([[-a, -a], [a, 0.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(targets.advantages, expected)
    assert targets.active.tolist() == [True, False]
    with_kl = grpo_targets(episodes, online_settings("grpo"), beta=0.1)
    assert with_kl.active.tolist() == [True, True]
    unscaled = grpo_targets(episodes, online_settings("grpo", scale_rewards=False), beta=0.0)
    assert unscaled.advantages[:2].tolist() == [[-1.0, -1.0], [1.0, 0.0]]


def test_rloo_advantages_by_hand() -> None:
    # Log-ratios of the responses: 1, 0, 0, −1; with β = ½ the rewards are ½, 3, 2 and 2½.
    episodes = four_episodes([1.0, 3.0, 2.0, 2.0])
    targets = rloo_targets(episodes, online_settings("rloo"), beta=0.5)
    expected = torch.tensor([[-2.5, -2.5], [2.5, 0.0], [-0.5, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(targets.advantages, expected)
    assert targets.active.tolist() == [True, True]
    without_kl = rloo_targets(episodes, online_settings("rloo"), beta=0.0)
    assert without_kl.active.tolist() == [True, False]


def test_a_missing_eos_lowers_or_replaces_the_score() -> None:
    episodes = four_episodes([1.0, 30.0, -2.0, 4.0], [True, False, True, False])

    def mean_reward(**overrides: Any) -> float:
        return group_metrics(episodes, online_settings("grpo", **overrides))["reward"]

    assert mean_reward() == pytest.approx((1 + 29 - 2 + 3) / 4)
    assert mean_reward(missing_eos_score=-5.0) == pytest.approx((1 - 5 - 2 - 5) / 4)


def test_a_response_near_the_length_limit_has_the_overlong_penalty() -> None:
    # Of at most 2 tokens, the responses have 2, 1, 1 and 2; the last is cut. With a buffer of 1,
    # 2 tokens cost 1, and with a buffer of 2 one token costs ½.
    episodes = four_episodes([1.0, 3.0, 2.0, 4.0], [True, True, True, False])

    def scores(**overrides: Any) -> list[float]:
        settings = online_settings("grpo", max_new_tokens=2, **overrides)
        return final_scores(episodes, settings).tolist()

    assert scores() == [1.0, 3.0, 2.0, 3.0]
    assert scores(overlong_buffer=1) == [0.0, 3.0, 2.0, 2.0]  # both penalties
    assert scores(overlong_buffer=2) == [0.0, 2.5, 1.5, 2.0]
    assert scores(overlong_buffer=1, missing_eos_penalty=0.0) == [0.0, 3.0, 2.0, 3.0]
    assert scores(overlong_buffer=1, missing_eos_score=-5.0) == [0.0, 3.0, 2.0, -5.0]


def test_group_metrics_by_hand() -> None:
    episodes = four_episodes([1.0, 3.0, 2.0, 2.0], [True, True, True, False])
    settings = online_settings("grpo", missing_eos_penalty=0.0)
    # k3 = e^−x − 1 + x of the tokens' log-ratios ½, ½, 0, 0, 0, −1.
    k3 = [math.exp(-x) - 1 + x for x in (0.5, 0.5, 0.0, 0.0, 0.0, -1.0)]
    assert group_metrics(episodes, settings) == pytest.approx(
        {
            "reward": 2.0,
            "reward_std": math.sqrt(2 / 3),
            "frac_reward_zero_std": 0.5,
            "completions/mean_length": 1.5,
            "completions/clipped_ratio": 0.25,
            "entropy": 21 / 6,
            "kl": sum(k3) / 6,
        }
    )
    kl = episode_metrics(episodes, settings, 0.1)["objective/kl"]
    assert kl == pytest.approx(0.0)  # (1 − 1)/4
    # Before any pass over the episodes, metrics of log-probs and entropies are not logged.
    unmeasured = replace(episodes, known=torch.full((4,), False))
    assert not {"kl", "entropy"} & set(group_metrics(unmeasured, settings))
    metrics = episode_metrics(unmeasured, settings, 0.1)
    assert not {"objective/kl", "objective/entropy"} & set(metrics)


def record_steps(
    method: str, settings: Any, change: Callable[[Episodes], Episodes] = lambda episodes: episodes
) -> tuple[dict[str, float], list[list[Tensor]]]:
    """The metrics of an iteration's steps on changed episodes, and the gradients of each step."""
    roles = make_roles(method)
    learner, optimiser = recording_learner(roles.policy)
    state = TrainState({"policy": learner}, OnlineState(beta=settings.beta))
    order = PromptOrder(PROMPTS[:2], RECORDS[:2], RowOrder(2, 0))
    episodes, first_pass = collect_episodes(ONLINE[method], roles, order, range(2), settings, 0)
    episodes = change(episodes)
    targets = ONLINE[method].targets(episodes, settings, settings.beta)
    iteration = Iteration(
        ONLINE[method], roles, settings, episodes, targets, settings.beta, first_pass=first_pass
    )
    return mean_metrics(list(optimise(state, iteration))), optimiser.gradients


def assert_same_steps(steps: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for step, expected_step in zip(steps, expected, strict=True):
        assert_gradients_close(step, expected_step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["token", "sequence", "fixed"])
@pytest.mark.parametrize("method", ["grpo", "rloo", "gspo", "cispo"])
def test_a_step_is_the_same_however_it_is_split(method: str, loss_type: str) -> None:
    options = {"loss_type": loss_type, "max_grad_norm": 0, "beta": 0.1, "entropy_coef": 0.01}
    expected_metrics, expected = record_steps(method, online_settings(method, **options))
    assert len(expected) == 1
    for split in ({"gradient_accumulation_steps": 2}, {"max_tokens_per_forward": 8}):
        metrics, steps = record_steps(method, online_settings(method, **options, **split))
        assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-4, abs=1e-6)
        assert_same_steps(steps, expected)


def test_the_loss_types_weigh_tokens_differently() -> None:
    token, sequence, fixed = (
        torch.cat(
            [
                gradient.flatten()
                for gradient in record_steps(
                    "rloo", online_settings("rloo", loss_type=loss_type, max_grad_norm=0)
                )[1][0]
            ]
        )
        for loss_type in ("token", "sequence", "fixed")
    )
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(token, fixed, 0)) == pytest.approx(1.0, abs=1e-5)  # only a factor
    assert float(token.norm()) > float(fixed.norm())
    assert float(cosine(token, sequence, 0)) < 0.9999


def test_a_group_of_equal_scores_adds_nothing_and_has_no_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The first group's scores are equal: the step is that of the second alone.
    settings = online_settings("grpo", beta=0.0, max_grad_norm=0)

    def equal_first_group(episodes: Episodes) -> Episodes:
        return replace(episodes, scores=torch.cat([torch.ones(4), episodes.scores[4:]]))

    groups_in_pass: list[int] = []
    pack = step_module.pack

    def counted(groups: Any, device: Any) -> Any:
        groups_in_pass.append(len(groups))
        return pack(groups, device)

    monkeypatch.setattr(step_module, "pack", counted)
    _, steps = record_steps("grpo", settings, equal_first_group)
    assert groups_in_pass == [1]

    def second_group_alone(episodes: Episodes) -> Episodes:
        fields = ("mask", "scores", "finished", "sampler_logps", "old_logps", "known", "entropy")
        rows = {name: getattr(episodes, name)[4:] for name in fields}
        return replace(episodes, groups=episodes.groups[1:], texts=episodes.texts[4:], **rows)

    _, expected = record_steps("grpo", settings, second_group_alone)
    assert_same_steps(steps, expected)
    assert any(float(gradient.norm()) > 0 for gradient in expected[0])


def test_an_iteration_of_equal_scores_moves_nothing() -> None:
    settings = online_settings("grpo", beta=0.0, missing_eos_penalty=0.0)
    roles = replace(
        make_roles("grpo"), reference=None, reward=lambda p, texts, f=None: [1.0] * len(texts)
    )
    before = copy_weights(roles.policy)
    (result,) = iterate(make_state(roles, settings), roles, settings, 1, "grpo")
    assert result.metrics["frac_reward_zero_std"] == 1.0
    assert "loss" not in result.metrics
    assert not has_moved(before, roles.policy)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_single_step_computes_the_policy_once(method: str) -> None:
    # One pass with gradient is all: GRPO needs no old log-probs, and RLOO's first pass is saved.
    roles, settings = make_roles(method), online_settings(method, beta=0.1)
    passes_have_gradient: list[bool] = []
    roles.policy.backbone.register_forward_hook(
        lambda module, args, output: passes_have_gradient.append(torch.is_grad_enabled())
    )

    def sampler(*args: Any, **options: Any) -> Any:
        samples = roles.sampler(*args, **options)
        passes_have_gradient.clear()  # only the passes after sampling count
        return samples

    counted = replace(roles, sampler=sampler)
    (result,) = iterate(make_state(counted, settings), counted, settings, 1, method)
    assert passes_have_gradient == [True]
    assert result.metrics["val/ratio"] == 1.0
    assert result.metrics["kl"] > 0
    assert result.metrics["entropy"] > 0


@pytest.mark.parametrize("max_kl", [None, 1e-9])
def test_a_saved_graph_is_released(max_kl: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a limit that is exceeded at once, no step uses it.
    saved: list[SavedForward] = []

    def recorded(*args: Any, **options: Any) -> tuple[Episodes, SavedForward | None]:
        episodes, first_pass = collect_episodes(*args, **options)
        assert first_pass is not None
        saved.append(first_pass)
        return episodes, first_pass

    monkeypatch.setattr("accord.learn.online.loop.collect_episodes", recorded)
    settings, roles = online_settings("rloo", max_kl=max_kl), make_roles("rloo")
    if max_kl is not None:  # the KL of a policy that is its reference is 0 but for rounding
        monkeypatch.setattr("accord.learn.online.guards.mean_kl", lambda episodes: 1.0)
    list(iterate(make_state(roles, settings), roles, settings, 1, "rloo"))
    assert [first_pass.logps for first_pass in saved] == [None]


def test_samples_of_another_engine_have_importance_weights() -> None:
    # Its log-probs are off by ±log 4 on every other token: weights ¼ and, capped, 2.
    roles, settings = make_roles("rloo"), online_settings("rloo")

    def engine(*args: Any, **options: Any) -> Any:
        error = math.log(4.0)
        return [
            [
                replace(
                    sample,
                    logps=tuple(x + error * (-1) ** i for i, x in enumerate(sample.logps)),
                    exact=False,
                )
                for sample in samples
            ]
            for samples in roles.sampler(*args, **options)
        ]

    off_policy = replace(roles, sampler=engine)
    (result,) = iterate(make_state(off_policy, settings), off_policy, settings, 1, "rloo")
    assert 0.25 < result.metrics["sampler/weight_mean"] < 2.0
    assert result.metrics["sampler/mismatch_kl"] > 0.3
    roles = make_roles("rloo")
    (on_policy,) = iterate(make_state(roles, settings), roles, settings, 1, "rloo")
    assert "sampler/weight_mean" not in on_policy.metrics


def test_importance_weights_scale_the_policy_loss() -> None:
    # The engine gave every token twice the probability: each weighs a half, and so the gradient.
    settings = online_settings("rloo", max_grad_norm=0)
    _, plain = record_steps("rloo", settings)

    def doubled(episodes: Episodes) -> Episodes:
        sampler_logps = (episodes.old_logps + math.log(2.0)) * episodes.mask
        return replace(episodes, sampler_logps=sampler_logps, off_policy=True)

    metrics, halved = record_steps("rloo", settings, doubled)
    assert metrics["sampler/weight_mean"] == pytest.approx(0.5)
    assert_same_steps(halved, [[gradient / 2 for gradient in step] for step in plain])
