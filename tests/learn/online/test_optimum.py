"""Online methods, and the best of N samples, reach what is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles
from accord.measure.over_optimisation import best_of_n_kl
from accord.records import PromptOnly
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from tests.learn.toys.known_optimum import (
    NUM_ANSWERS,
    PROMPTS,
    World,
    f_divergence_optimum,
    make_one_token_world,
    make_tree_world,
)
from tests.learn.toys.roles import make_state
from tests.learn.toys.settings import ONLINE_SETTINGS, REQUIRED

METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    # Whitened or scaled, the step would no longer depend on the size of the reward.
    "ppo": {"num_ppo_epochs": 4, "whiten_advantages": False, "vf_coef": 1.0},
    # Its KL is in the reward, so normalised advantages of mean 0 have the same optimum.
    "reinforce_plus_plus": {"num_iterations": 4},
    "grpo": {"num_iterations": 2, "num_mini_batches": 2, "scale_rewards": False},
    "rloo": {"num_iterations": 2, "num_mini_batches": 2},
    # Its default clips would leave the later steps to the KL loss alone.
    "gspo": {
        "num_iterations": 2,
        "num_mini_batches": 2,
        "scale_rewards": False,
        "cliprange": 0.2,
        "cliprange_high": 0.2,
    },
    "cispo": {"num_iterations": 2, "num_mini_batches": 2, "scale_rewards": False},
}


def learn_from_rewards(
    world: World, method: str, seed: int, *, iterations: int = 40, **overrides: Any
) -> None:
    """Train the policy on its sampled answers, scored by the world's rewards."""
    settings = ONLINE_SETTINGS[method](
        **{
            **REQUIRED,
            "reward_model": "toy",
            "seed": seed,
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 512,
            "max_new_tokens": max(map(len, world.answers)),
            "missing_eos_penalty": 0.0,
            "loss_type": "fixed",
            **METHOD_OPTIONS[method],
            **overrides,
        }
    )
    critic = world.critic if method == "ppo" else None
    roles = Roles(world.policy, critic, world.reference, world.reward, LocalSampler(world.policy))
    records = [PromptOnly(str(x)) for x in range(len(world.prompts))]
    for _ in run_iterations(
        method,
        make_state(roles, settings),
        roles,
        world.prompts,
        records,
        settings,
        iterations=iterations,
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("beta", "seed"), [(0.5, 0), (1.0, 1), (2.0, 2)])
@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_online_methods_reach_the_optimum(method: str, beta: float, seed: int) -> None:
    world = make_one_token_world(seed)
    before = world.kl_to_optimum(beta)
    learn_from_rewards(world, method, seed, beta=beta)
    assert before > 0.05
    assert world.kl_to_optimum(beta) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", METHOD_OPTIONS)
def test_online_methods_come_near_the_optimum_over_whole_responses(method: str, seed: int) -> None:
    # Fifteen answers of one to three tokens; the best policy is over answers, not over tokens.
    # With λ = 1 PPO's token-wise advantages have the gradient of the whole; GRPO's KL loss is of
    # each token's KL alone, and not of what follows from it, so it only comes near.
    beta, world = 1.0, make_tree_world(seed)
    assert world.distribution(world.policy).sum(1).tolist() == pytest.approx([1.0, 1.0])
    before = world.kl_to_optimum(beta)
    options = {"gae_lambda": 1.0} if method == "ppo" else {}
    learn_from_rewards(world, method, seed, beta=beta, iterations=60, **options)
    assert before > 0.1
    assert world.kl_to_optimum(beta) < 0.2 * before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plain_kl_loss_has_the_optimum_of_the_forward_kl(seed: int) -> None:
    # The expected gradient of k3 is that of KL(π_ref‖π). Of E_π r − β·KL(π_ref‖π) the maximum is
    # at π = π_ref·β/(λ − r), with λ such that it sums to 1: not the reverse KL's.
    beta, world = 1.0, make_one_token_world(seed)
    optimum = f_divergence_optimum(world, "forward_kl", beta)
    learn_from_rewards(world, "grpo", seed, beta=beta, use_bias_correction_kl=False)
    assert world.kl_to(optimum) < 0.02
    assert world.kl_to(optimum) < world.kl_to_optimum(beta)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_has_the_distribution_of_its_closed_form(n: int) -> None:
    # With distinct rewards, P(best of N is y) = F(y)^N − F(y−)^N, F the distribution function of
    # π_ref in order of reward. Its KL from π_ref is at most log N − (N−1)/N.
    world = make_one_token_world(0)
    draws = 4000
    responses = LocalSampler(world.reference)(
        [PROMPTS[0]] * draws,
        SamplingSettings(num_responses=n, max_new_tokens=1, batch_size=8192),
        seed=3,
        streams=range(draws),
    )
    rewards = world.rewards[0]
    best = [max((s.tokens[0] for s in samples), key=lambda y: rewards[y]) for samples in responses]
    shares = torch.bincount(torch.tensor(best), minlength=NUM_ANSWERS) / draws

    pi = world.distribution(world.reference)[0].double()
    order = rewards.argsort()
    cdf = pi[order].cumsum(0)
    below = torch.cat([torch.zeros(1, dtype=cdf.dtype), cdf[:-1]])
    expected = torch.empty_like(pi)
    expected[order] = cdf**n - below**n
    # Each count is binomial: five standard deviations.
    allowed = 5 * (expected * (1 - expected) / draws).sqrt() + 1e-3
    assert ((shares - expected).abs() < allowed).all()
    kl = (expected * (expected / pi).clamp(min=1e-300).log()).sum()
    assert float(kl) <= best_of_n_kl(n) + 1e-9
