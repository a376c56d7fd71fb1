"""Preference methods reach the known optimum of the one-token world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.objective import Losses, Objective
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import stored_log_probs
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.packing import PackedBatch, PromptGroup
from accord.settings.preferences import DpoSettings, IpoSettings
from tests.learn.toys.known_optimum import (
    INVERSE_SLOPES,
    NUM_ANSWERS,
    PROMPTS,
    World,
    f_divergence_optimum,
    make_one_token_world,
)
from tests.learn.toys.settings import REQUIRED

LEARNING = {**REQUIRED, "learning_rate": 1e-2, "max_steps": 150, "max_grad_norm": 0.0}


def learn_all_pairs(world: World, method: str, settings: Any, *, flipped: float = 0.0) -> None:
    """Train the policy on every ordered pair of answers, weighted by the probability that it is
    labelled so: Bradley-Terry's under the rewards, of which a share `flipped` is reversed."""
    groups, probabilities = [], []
    for x, prompt in enumerate(PROMPTS):
        for a in range(NUM_ANSWERS):
            for b in range(NUM_ANSWERS):
                if a != b:
                    groups.append(PromptGroup(prompt, ((a,), (b,)), (0, 1)))
                    probabilities.append(torch.sigmoid(world.rewards[x, a] - world.rewards[x, b]))
    weights = torch.stack(probabilities)
    weights = weights * (1 - flipped) + (1 - weights) * flipped
    settings = settings.model_copy(update={"per_device_train_batch_size": len(groups)})
    ref_logps = stored_log_probs(compute_log_probs(world.reference, groups, batch_size=64))
    plain = METHODS[method].objective(world.policy, settings, groups, lambda _: ref_logps)

    def weighted(batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool) -> Losses:
        losses = plain.losses(batch, rows, context, log=log)
        return Losses(losses.values, weights[rows], losses.metrics)

    state = TrainState({"model": make_learner(world.policy, settings)}, FitState())
    for _ in fit(state, groups, Objective(weighted), lambda g: 0.5, settings, world.policy.device):
        pass


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dpo_reaches_the_optimum(beta: float, seed: int) -> None:
    # The minimum of the expected DPO loss is at β·(log-ratio difference) = r_a − r_b, so π = π*.
    world = make_one_token_world(seed)
    before = world.kl_to_optimum(beta)
    learn_all_pairs(world, "dpo", DpoSettings(**LEARNING, beta=beta))
    assert before > 0.05
    assert world.kl_to_optimum(beta) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_robust_dpo_reaches_the_optimum_through_flipped_labels(seed: int) -> None:
    # With a known share ε of labels flipped its expected loss is DPO's on the true labels; plain
    # DPO on the same labels learns smaller differences, and does not reach the optimum.
    robust, plain = make_one_token_world(seed), make_one_token_world(seed)
    settings = DpoSettings(**LEARNING, beta=0.5, loss_type="robust", label_smoothing=0.2)
    learn_all_pairs(robust, "dpo", settings, flipped=0.2)
    learn_all_pairs(plain, "dpo", DpoSettings(**LEARNING, beta=0.5), flipped=0.2)
    assert robust.kl_to_optimum(0.5) < 0.02
    assert plain.kl_to_optimum(0.5) > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_ipo_reaches_its_optimum(beta: float, seed: int) -> None:
    # Least squares of u_a − u_b to (2p_ab − 1)/(2β), u = log π/π_ref, over all pairs of answers:
    # u_a is the mean of the targets over b, up to a constant of the prompt.
    world = make_one_token_world(seed)
    p = torch.sigmoid(world.rewards[:, :, None] - world.rewards[:, None, :])
    u = ((2 * p - 1) / (2 * beta)).mean(2)
    optimum = world.distribution(world.reference) * u.exp()
    optimum = optimum / optimum.sum(1, keepdim=True)
    before = world.kl_to(optimum)
    learn_all_pairs(world, "ipo", IpoSettings(**LEARNING, beta=beta))
    assert before > 0.01
    assert world.kl_to(optimum) < 0.05 * before + 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("divergence", INVERSE_SLOPES)
def test_dpo_with_an_f_divergence_reaches_its_optimum(divergence: str, seed: int) -> None:
    beta, world = 1.0, make_one_token_world(seed)
    settings = DpoSettings(**LEARNING, beta=beta, f_divergence_type=divergence)
    optimum = f_divergence_optimum(world, divergence, beta)
    before = world.kl_to(optimum)
    learn_all_pairs(world, "dpo", settings)
    assert before > 0.02
    assert world.kl_to(optimum) < 0.02
    assert world.kl_to_optimum(beta) > world.kl_to(optimum)  # it is not reverse KL's optimum
