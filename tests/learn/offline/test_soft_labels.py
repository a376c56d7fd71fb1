"""A pair's soft label p: its loss is p times that of the pair plus 1 − p times that reversed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from accord.errors import SettingsError
from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.objective import mean_metrics
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import stored_log_probs
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.packing import PromptGroup, pack
from accord.records import Source
from accord.settings.preferences import DpoSettings, IpoSettings, OrpoSettings, SimpoSettings
from accord.settings.training import RewardSettings
from tests.learn.toys.fit import reference_factory
from tests.learn.toys.known_optimum import NUM_ANSWERS, PROMPTS, make_one_token_world
from tests.learn.toys.models import causal_lm, lm_for_method
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups

PAIRS = [
    replace(group, source=Source("rows.jsonl", i + 1), margin=0.5)
    for i, group in enumerate(random_groups([(4, (1, 9)), (2, (13, 2)), (3, (5, 5))], VOCABULARY))
]
LABELS = (0.75, None, 0.6)
SOFT = [replace(pair, probability=p) for pair, p in zip(PAIRS, LABELS, strict=True)]

CASES: dict[str, tuple[str, Any]] = {
    "dpo": ("dpo", DpoSettings(**REQUIRED, beta=0.5)),
    "cdpo": ("dpo", DpoSettings(**REQUIRED, label_smoothing=0.1)),
    "several losses": ("dpo", DpoSettings(**REQUIRED, loss_type=["hinge", "nca_pair", "apo_zero"])),
    "ld": ("dpo", DpoSettings(**REQUIRED, ld_alpha=0.3, use_weighting=True)),
    "ipo": ("ipo", IpoSettings(**REQUIRED)),
    "orpo": ("orpo", OrpoSettings(**REQUIRED)),
    "simpo": ("simpo", SimpoSettings(**REQUIRED)),
    "reward": ("reward", RewardSettings(**REQUIRED, center_rewards_coefficient=0.1)),
}


def loss_and_gradient(
    method: str, settings: Any, groups: Sequence[PromptGroup]
) -> tuple[list[float], torch.Tensor, dict[str, float]]:
    """Each group's loss, the gradient of their sum, and the metrics of all."""
    lm = lm_for_method(method, 1)
    objective = METHODS[method].objective(
        lm, settings, groups, reference_factory(causal_lm(seed=5))
    )
    total, values = torch.zeros(()), []
    for i, group in enumerate(groups):
        context = objective.prepare([i])
        loss = objective.losses(pack([group]), [i], context, log=False).weighted_sum()
        values.append(float(loss.detach()))
        total = total + loss
    parameters = [p for p in lm.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    flat = torch.cat([g.flatten() for g in gradients if g is not None])
    rows = [*range(len(groups))]
    with torch.no_grad():
        losses = objective.losses(pack(groups), rows, objective.prepare(rows), log=True)
    return values, flat, mean_metrics([losses.metrics])


def reverse(group: PromptGroup) -> PromptGroup:
    return replace(group, ranks=group.ranks[::-1])


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_mean_over_the_label(case: str) -> None:
    method, settings = CASES[case]
    soft, gradient, metrics = loss_and_gradient(method, settings, SOFT)
    forward, forward_gradient, plain = loss_and_gradient(method, settings, PAIRS)
    backward, _, _ = loss_and_gradient(method, settings, [reverse(pair) for pair in PAIRS])
    for value, p, ahead, back in zip(soft, LABELS, forward, backward, strict=True):
        p = 1.0 if p is None else p
        assert value == pytest.approx(p * ahead + (1 - p) * back, rel=1e-4, abs=1e-5)
    assert not torch.allclose(gradient, forward_gradient)
    # Rewards, margins and accuracies are those of the preferred direction.
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert metrics[name] == pytest.approx(plain[name], abs=1e-5), name


@pytest.mark.parametrize("p", [0.5001, 0.7, 1.0])
def test_the_gradient_of_dpo_is_the_sigmoid_less_the_label(p: float) -> None:
    # L = −p·log σ(h) − (1 − p)·log σ(−h), so dL/dh = σ(h) − p; of a certain label it is σ(h) − 1.
    settings, pair = DpoSettings(**REQUIRED, beta=0.5), replace(PAIRS[0], margin=None)
    _, soft, metrics = loss_and_gradient("dpo", settings, [replace(pair, probability=p)])
    _, certain, _ = loss_and_gradient("dpo", settings, [pair])
    sigmoid = 1 / (1 + math.exp(-metrics["rewards/margins"]))
    torch.testing.assert_close(soft, certain * (sigmoid - p) / (sigmoid - 1), rtol=1e-3, atol=1e-5)


def test_the_gradient_of_a_reward_model_with_a_margin() -> None:
    # L = −p·log σ(Δ − m) − (1 − p)·log σ(−Δ − m): dL/dΔ = −p·σ(m − Δ) + (1 − p)·σ(Δ + m).
    settings, p, m = RewardSettings(**REQUIRED), 0.7, 0.5
    _, soft, metrics = loss_and_gradient("reward", settings, [replace(PAIRS[0], probability=p)])
    _, certain, _ = loss_and_gradient("reward", settings, [PAIRS[0]])
    delta = metrics["rewards/margins"]

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    slope = -p * sigmoid(m - delta) + (1 - p) * sigmoid(delta + m)
    expected = certain * slope / -sigmoid(m - delta)
    torch.testing.assert_close(soft, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_soft_labels_reach_the_optimum(method: str) -> None:
    """One row for each pair of answers, with the probability that it is labelled so: the minimum is
    that of infinitely many labelled rows (test_optimum derives both)."""
    world, beta = make_one_token_world(0), 1.0
    p = torch.sigmoid(world.rewards[:, :, None] - world.rewards[:, None, :])
    groups = []
    for x, prompt in enumerate(PROMPTS):
        for a in range(NUM_ANSWERS):
            for b in range(a):
                better, worse = (a, b) if p[x, a, b] >= 0.5 else (b, a)
                label = float(p[x, better, worse])
                pair = PromptGroup(prompt, ((better,), (worse,)), (0, 1), probability=label)
                groups.append(pair)
    kinds: dict[str, Any] = {"dpo": DpoSettings, "ipo": IpoSettings}
    settings = kinds[method](
        **REQUIRED,
        beta=beta,
        learning_rate=1e-2,
        max_steps=150,
        max_grad_norm=0.0,
        per_device_train_batch_size=len(groups),
    )
    ref_logps = stored_log_probs(compute_log_probs(world.reference, groups, batch_size=64))
    objective = METHODS[method].objective(world.policy, settings, groups, lambda _: ref_logps)
    state = TrainState({"model": make_learner(world.policy, settings)}, FitState())
    for _ in fit(state, groups, objective, lambda g: 1.0, settings, world.policy.device):
        pass
    if method == "dpo":
        assert world.kl_to_optimum(beta) < 0.02
    else:
        u = ((2 * p - 1) / (2 * beta)).mean(2)
        optimum = world.distribution(world.reference) * u.exp()
        assert world.kl_to(optimum / optimum.sum(1, keepdim=True)) < 0.02


def test_the_pairs_of_a_soft_label() -> None:
    soft = SOFT[0]
    assert soft.weighted_pairs == [(0, 1, 0.75), (1, 0, 0.25)]
    assert PAIRS[0].weighted_pairs == [(0, 1, 1.0)]
    assert replace(soft, probability=1.0).weighted_pairs == [(0, 1, 1.0)]
    assert soft.mean_chosen_length == 0.75 * 1 + 0.25 * 9
    assert PAIRS[0].mean_chosen_length == 1
    pairs = pack(SOFT).pairs
    assert pairs.weights.tolist() == pytest.approx([0.75, 0.25, 1, 0.6, 0.4])
    assert pairs.preferred.tolist() == [1, 0, 1, 1, 0]
    assert pairs.margins.tolist() == [0.5] * 5


def test_the_length_slope_of_soft_labels() -> None:
    # All pairs differ by one token: the share s of longer winners has its maximum at log(s/(1−s)).
    pairs = [
        PromptGroup((1,), ((3, 3), (3,)), (0, 1), probability=0.75),
        PromptGroup((1,), ((3,), (3, 3)), (0, 1), probability=0.6),
    ]
    share = (0.75 + 0.4) / 2
    assert length_slope(pairs) == pytest.approx(math.log(share / (1 - share)))


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired", "bco_pair"])
def test_losses_that_compare_pairs_take_no_soft_label(loss: Any) -> None:
    settings = DpoSettings(**REQUIRED, loss_type=loss)
    with pytest.raises(SettingsError, match=rf"^loss_type={loss} .*:1 has one, 0.75. Set `filter"):
        loss_and_gradient("dpo", settings, SOFT)


def test_plackett_luce_of_a_pair_is_bradley_terry() -> None:
    pairs = [replace(pair, margin=None) for pair in SOFT]
    luce, gradient, _ = loss_and_gradient(
        "reward", RewardSettings(**REQUIRED, ranking_loss="plackett_luce"), pairs
    )
    bradley_terry, same, _ = loss_and_gradient("reward", RewardSettings(**REQUIRED), pairs)
    assert luce == pytest.approx(bradley_terry, rel=1e-5)
    torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-6)
