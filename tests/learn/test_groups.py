"""GRPO's and RLOO's advantages, groups, passes and steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import accord.learn.online.step as step_module
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import mean_metrics
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.episodes import Episodes, SavedForward, micro_batches, select_groups
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import collect_episodes, optimise, run_iterations
from accord.learn.online.methods import (
    ONLINE,
    PolicyTerms,
    final_scores,
    grpo_targets,
    rloo_targets,
)
from accord.learn.online.metrics import episode_metrics, group_metrics
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import PromptOrder
from accord.learn.online.step import Iteration
from accord.lm.packing import PromptGroup, pack
from tests.learn.test_fit import Recorder
from tests.learn.toy_episodes import PROMPTS, RECORDS, roles_of, settings_of, state_of


def episodes_of(scores: list[float], finished: list[bool] | None = None) -> Episodes:
    """Two prompts with two responses each, of 2, 1, 1 and 2 tokens."""
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, True]])
    return Episodes(
        groups=(PromptGroup((5,), ((6, 2), (7,))), PromptGroup((8, 9), ((3,), (4, 2)))),
        texts=("6", "7", "3", "4"),
        mask=mask,
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
    targets = grpo_targets(episodes_of([1.0, 3.0, 2.0, 2.0]), settings_of("grpo"), beta=0.0)
    a = 1 / (math.sqrt(2) + 1e-4)
    expected = torch.tensor([[-a, -a], [a, 0.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(targets.advantages, expected)
    assert targets.active.tolist() == [True, False]
    with_kl = grpo_targets(episodes_of([1.0, 3.0, 2.0, 2.0]), settings_of("grpo"), beta=0.1)
    assert with_kl.active.tolist() == [True, True]
    plain = settings_of("grpo", scale_rewards=False)
    found = grpo_targets(episodes_of([1.0, 3.0, 2.0, 2.0]), plain, beta=0.0).advantages
    assert found[:2].tolist() == [[-1.0, -1.0], [1.0, 0.0]]


def test_rloo_advantages_by_hand() -> None:
    # Log-ratios of the responses: 1, 0, 0, −1; with β = ½ the rewards are ½, 3, 2 and 2½.
    episodes = episodes_of([1.0, 3.0, 2.0, 2.0])
    found = rloo_targets(episodes, settings_of("rloo"), beta=0.5)
    expected = torch.tensor([[-2.5, -2.5], [2.5, 0.0], [-0.5, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(found.advantages, expected)
    assert found.active.tolist() == [True, True]
    assert rloo_targets(episodes, settings_of("rloo"), beta=0.0).active.tolist() == [True, False]


def test_a_missing_end_lowers_or_replaces_the_score() -> None:
    episodes = episodes_of([1.0, 30.0, -2.0, 4.0], [True, False, True, False])

    def rewards(**more: Any) -> float:
        return group_metrics(episodes, settings_of("grpo", **more))["reward"]

    assert rewards() == pytest.approx((1 + 29 - 2 + 3) / 4)
    assert rewards(missing_eos_score=-5.0) == pytest.approx((1 - 5 - 2 - 5) / 4)


def test_the_overlong_penalty_and_a_missing_end() -> None:
    # Of at most 2 tokens, the responses have 2, 1, 1 and 2; the last is cut. With a buffer of 1,
    # 2 tokens cost 1, and with a buffer of 2 one token costs ½.
    episodes = episodes_of([1.0, 3.0, 2.0, 4.0], [True, True, True, False])

    def scores(**more: Any) -> list[float]:
        return final_scores(episodes, settings_of("grpo", max_new_tokens=2, **more)).tolist()

    assert scores() == [1.0, 3.0, 2.0, 3.0]
    assert scores(overlong_buffer=1) == [0.0, 3.0, 2.0, 2.0]  # both penalties
    assert scores(overlong_buffer=2) == [0.0, 2.5, 1.5, 2.0]
    assert scores(overlong_buffer=1, missing_eos_penalty=0.0) == [0.0, 3.0, 2.0, 3.0]
    assert scores(overlong_buffer=1, missing_eos_score=-5.0) == [0.0, 3.0, 2.0, -5.0]


def test_what_is_told_of_groups() -> None:
    episodes = episodes_of([1.0, 3.0, 2.0, 2.0], [True, True, True, False])
    settings = settings_of("grpo", missing_eos_penalty=0.0)
    told = group_metrics(episodes, settings)
    # k3 = e^−x − 1 + x of the tokens' log-ratios ½, ½, 0, 0, 0, −1.
    k3 = [math.exp(-x) - 1 + x for x in (0.5, 0.5, 0.0, 0.0, 0.0, -1.0)]
    assert told == pytest.approx(
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
    assert episode_metrics(episodes, settings, 0.1)["objective/kl"] == pytest.approx(
        0.0
    )  # (1 − 1)/4
    # Of episodes that no pass has been over, log-probs and entropies are not told.
    new = replace(episodes, known=torch.full((4,), False))
    assert not {"kl", "entropy"} & set(group_metrics(new, settings))
    assert not {"objective/kl", "objective/entropy"} & set(episode_metrics(new, settings, 0.1))


def test_passes_hold_whole_groups_where_they_fit() -> None:
    groups = [PromptGroup((1,) * 4, ((2,) * 3,) * 3), PromptGroup((1,) * 2, ((3,) * 5,) * 3)]
    assert micro_batches(groups, [1, 0], count=1, max_tokens=None) == [[0, 1, 2, 3, 4, 5]]
    assert micro_batches(groups, [0, 1], count=2, max_tokens=None) == [[3, 4, 5], [0, 1, 2]]
    assert micro_batches(groups, [0, 1], count=8, max_tokens=None) == [[3, 4, 5], [0, 1, 2]]
    # 13 and 17 tokens. Of at most 13 the second does not fit: 2 + 5 + 5, and 2 + 5.
    capped = micro_batches(groups, [0, 1], count=1, max_tokens=13)
    assert sorted(capped) == [[0, 1, 2], [3, 4], [5]]
    for rows in capped:
        assert sum(g.num_tokens for g in select_groups(groups, rows)) <= 13
    # What lands in one pass again shares its prompt.
    assert [len(g.responses) for g in select_groups(groups, [0, 2, 3, 4, 5])] == [2, 3]


def gradients_of(
    method: str, settings: Any, change: Callable[[Episodes], Episodes] = lambda e: e
) -> tuple[dict[str, float], list[list[torch.Tensor]]]:
    """What one iteration's steps measured, and the gradients of each."""
    roles = roles_of(method)
    recorder = Recorder(list(roles.policy.trainable_parameters().values()))
    state = TrainState(
        {"policy": Learner(roles.policy.trainable_parameters(), recorder)},
        OnlineState(beta=settings.beta),
    )  # type: ignore[arg-type]
    order = PromptOrder(PROMPTS[:2], RECORDS[:2], RowOrder(2, 0))
    episodes, first_pass = collect_episodes(ONLINE[method], roles, order, range(2), settings, 0)
    episodes = change(episodes)
    targets = ONLINE[method].targets(episodes, settings, settings.beta)
    work = Iteration(
        ONLINE[method], roles, settings, episodes, targets, settings.beta, first_pass=first_pass
    )
    return mean_metrics(list(optimise(state, work))), recorder.gradients


def assert_same(found: list[list[torch.Tensor]], expected: list[list[torch.Tensor]]) -> None:
    for step_found, step_expected in zip(found, expected, strict=True):
        for a, b in zip(step_found, step_expected, strict=True):
            assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


@pytest.mark.parametrize("loss_type", ["token", "sequence", "fixed"])
@pytest.mark.parametrize("method", ["grpo", "rloo", "gspo", "cispo"])
def test_a_step_is_the_same_however_it_is_split(method: str, loss_type: str) -> None:
    plain = {"loss_type": loss_type, "max_grad_norm": 0, "beta": 0.1, "entropy_coef": 0.01}
    numbers, expected = gradients_of(method, settings_of(method, **plain))
    assert len(expected) == 1
    for more in ({"gradient_accumulation_steps": 2}, {"max_tokens_per_forward": 8}):
        told, found = gradients_of(method, settings_of(method, **plain, **more))
        assert told["loss"] == pytest.approx(numbers["loss"], rel=1e-4, abs=1e-6)
        assert_same(found, expected)


def test_gspo_clips_whole_responses() -> None:
    # Two prompts; responses of 2, 1 and 3 tokens. Log-ratios' means: 0.1, −0.4, 0.2.
    batch = pack([PromptGroup((5,), ((6, 2), (7,))), PromptGroup((8, 9), ((3, 4, 2),))])
    log_ratio = torch.tensor([0.5, -0.3, -0.4, 0.2, -0.1, 0.5])
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, -2.0])
    terms = PolicyTerms(log_ratio - 1.0, log_ratio, advantages, batch)
    settings = settings_of("gspo", cliprange=0.2, cliprange_high=0.1)
    found = ONLINE["gspo"].surrogate(terms, settings)
    means = [0.1, 0.1, -0.4, 0.2, 0.2, 0.2]
    assert found.log_ratio.tolist() == pytest.approx(means)
    # −min(sA, clip(s)A): e^0.1 > 1.1 is clipped, e^−0.4 is below and must rise, e^0.2 must fall.
    values = [-1.1, -1.1, -math.exp(-0.4), *[2 * math.exp(0.2)] * 3]
    assert found.values.tolist() == pytest.approx(values)


@pytest.mark.parametrize(("method", "loss_type"), [("gspo", "sequence"), ("cispo", "token")])
def test_in_one_step_they_are_grpo(method: str, loss_type: str) -> None:
    # At ratio 1 the gradient of s, spread over the |y| tokens, is that of the tokens' own ratios;
    # and that of 1·log π is that of the ratio.
    more = {"beta": 0.1, "max_grad_norm": 0}
    _, found = gradients_of(method, settings_of(method, **more))
    _, expected = gradients_of("grpo", settings_of("grpo", **more, loss_type=loss_type))
    assert_same(found, expected)


@pytest.mark.parametrize("method", ["gspo", "cispo"])
def test_later_steps_are_the_same_however_they_are_split(method: str) -> None:
    # From the second step on ratios are not 1, and those of a response must be in one pass.
    ends = []
    for more in ({}, {"gradient_accumulation_steps": 2}, {"max_tokens_per_forward": 8}):
        settings = settings_of(method, num_iterations=4, cliprange=0.1, cliprange_high=0.1, **more)
        roles = roles_of(method)
        state = state_of(roles, settings)
        (result,) = run_iterations(method, state, roles, PROMPTS, RECORDS, settings, iterations=1)
        assert 0 < result.metrics["policy/clipfrac_avg"] < 1
        ends.append(list(roles.policy.trainable_parameters().values()))
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_ways_to_average_differ() -> None:
    losses = {
        kind: gradients_of("rloo", settings_of("rloo", loss_type=kind, max_grad_norm=0))[1][0]
        for kind in ("token", "sequence", "fixed")
    }
    a, b, c = (torch.cat([g.flatten() for g in x]) for x in losses.values())
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(a, c, 0)) == pytest.approx(1.0, abs=1e-5)  # by a number only
    assert float(a.norm()) > float(c.norm())
    assert float(cosine(a, b, 0)) < 0.9999


def test_equal_scores_add_nothing_and_take_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first group's scores are equal: the step is that of the second alone.
    settings = settings_of("grpo", beta=0.0, max_grad_norm=0)

    def equal(episodes: Episodes) -> Episodes:
        return replace(episodes, scores=torch.cat([torch.ones(4), episodes.scores[4:]]))

    seen: list[int] = []
    pack = step_module.pack
    monkeypatch.setattr(step_module, "pack", lambda g, d: (seen.append(len(g)), pack(g, d))[1])
    _, found = gradients_of("grpo", settings, equal)
    assert seen == [1]

    def alone(episodes: Episodes) -> Episodes:
        fields = ("mask", "scores", "finished", "sampler_logps", "old_logps", "known", "entropy")
        rows = {name: getattr(episodes, name)[4:] for name in fields}
        return replace(episodes, groups=episodes.groups[1:], texts=episodes.texts[4:], **rows)

    _, expected = gradients_of("grpo", settings, alone)
    assert_same(found, expected)
    assert any(float(g.norm()) > 0 for g in expected[0])


def test_an_iteration_of_equal_scores_moves_nothing() -> None:
    roles, settings = roles_of("grpo"), settings_of("grpo", beta=0.0, missing_eos_penalty=0.0)
    even = Roles(roles.policy, None, None, lambda p, t, f=None: [1.0] * len(t), roles.sampler)
    before = [p.detach().clone() for p in roles.policy.trainable_parameters().values()]
    state = state_of(even, settings)
    (result,) = run_iterations("grpo", state, even, PROMPTS, RECORDS, settings, iterations=1)
    assert result.metrics["frac_reward_zero_std"] == 1.0
    assert "loss" not in result.metrics
    now = list(roles.policy.trainable_parameters().values())
    assert all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_one_step_computes_the_policy_once(method: str) -> None:
    # One pass with gradient is all: GRPO needs no old log-probs, RLOO's first pass is kept.
    roles, settings = roles_of(method), settings_of(method, beta=0.1)
    runs: list[bool] = []
    backbone = roles.policy.backbone
    backbone.register_forward_hook(lambda m, a, o: runs.append(torch.is_grad_enabled()))
    sampled = roles.sampler

    def sampler(*args: Any, **more: Any) -> Any:
        found = sampled(*args, **more)
        runs.clear()
        return found

    again = replace(roles, sampler=sampler)
    state = state_of(again, settings)
    (result,) = run_iterations(method, state, again, PROMPTS, RECORDS, settings, iterations=1)
    assert runs == [True]
    assert result.metrics["val/ratio"] == 1.0
    assert result.metrics["kl"] > 0
    assert result.metrics["entropy"] > 0


@pytest.mark.parametrize("limit", [None, 1e-9])
def test_a_kept_graph_is_let_go(limit: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a limit that is passed at once, no step uses it.
    seen: list[SavedForward] = []

    def kept(*args: Any, **more: Any) -> tuple[Episodes, SavedForward | None]:
        episodes, first_pass = collect_episodes(*args, **more)
        assert first_pass is not None
        seen.append(first_pass)
        return episodes, first_pass

    monkeypatch.setattr("accord.learn.online.loop.collect_episodes", kept)
    settings, roles = settings_of("rloo", max_kl=limit), roles_of("rloo")
    if limit is not None:  # the KL of a policy that is its reference is 0 but for rounding
        monkeypatch.setattr("accord.learn.online.guards.mean_kl", lambda episodes: 1.0)
    list(
        run_iterations(
            "rloo", state_of(roles, settings), roles, PROMPTS, RECORDS, settings, iterations=1
        )
    )
    assert [first_pass.logps for first_pass in seen] == [None]


def test_another_engines_samples_are_weighted() -> None:
    # Its log-probs are off by ±log 4 on every other token: weights ¼ and, cut, 2.
    roles = roles_of("rloo")

    def engine(*args: Any, **more: Any) -> Any:
        found = roles.sampler(*args, **more)
        off = math.log(4.0)
        return [
            [
                replace(
                    s,
                    logps=tuple(x + off * (-1) ** i for i, x in enumerate(s.logps)),
                    exact=False,
                )
                for s in own
            ]
            for own in found
        ]

    settings = settings_of("rloo")
    other = replace(roles, sampler=engine)
    state = state_of(other, settings)
    (result,) = run_iterations("rloo", state, other, PROMPTS, RECORDS, settings, iterations=1)
    tokens = result.metrics["response_length"]
    assert 0.25 < result.metrics["sampler/weight_mean"] < 2.0
    assert result.metrics["sampler/mismatch_kl"] > 0.3
    assert tokens > 0
    own = state_of(roles_of("rloo"), settings)
    (plain,) = run_iterations(
        "rloo", own, roles_of("rloo"), PROMPTS, RECORDS, settings, iterations=1
    )
    assert "sampler/weight_mean" not in plain.metrics


def test_the_weights_are_on_the_policy_loss() -> None:
    # The engine gave every token twice the probability: each weighs a half, and so the gradient.
    settings = settings_of("rloo", max_grad_norm=0)
    _, plain = gradients_of("rloo", settings)

    def doubled(episodes: Episodes) -> Episodes:
        sampled = (episodes.old_logps + math.log(2.0)) * episodes.mask
        return replace(episodes, sampler_logps=sampled, off_policy=True)

    told, halved = gradients_of("rloo", settings, doubled)
    assert told["sampler/weight_mean"] == pytest.approx(0.5)
    assert_same(halved, [[g / 2 for g in step] for step in plain])
