"""Methods reach the known KL-regularised optimum of the one-token world."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import Losses, Objective
from accord.learn.loop.optimiser import adamw
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import compute_log_probs, stored_log_probs
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles
from accord.lm.packing import PromptGroup
from accord.measure.over_optimisation import best_of_n_kl
from accord.records import PromptOnly
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.settings.groups import GROUP_METHODS
from accord.settings.ppo import PPO_METHODS
from accord.settings.preferences import DpoSettings, IpoSettings
from tests.learn.one_token import ANSWERS, PROMPTS, World, make_tree, make_world

NAMES = {"model": "one-token", "dataset": "one-token", "output_dir": "nowhere"}


def learn_all_pairs(world: World, method: str, settings: Any, *, flipped: float = 0.0) -> None:
    """Train the policy on every ordered pair of answers, weighted by the probability that it is
    so labelled: Bradley-Terry's under the rewards, of which a share `flipped` is turned round."""
    groups, odds = [], []
    for x, prompt in enumerate(PROMPTS):
        for a in range(ANSWERS):
            for b in range(ANSWERS):
                if a != b:
                    groups.append(PromptGroup(prompt, ((a,), (b,)), (0, 1)))
                    odds.append(torch.sigmoid(world.rewards[x, a] - world.rewards[x, b]))
    probability = torch.stack(odds)
    probability = probability * (1 - flipped) + (1 - probability) * flipped
    settings = settings.model_copy(update={"per_device_train_batch_size": len(groups)})
    known = stored_log_probs(compute_log_probs(world.reference, groups, batch_size=64))
    plain = METHODS[method].objective(world.policy, settings, groups, lambda _: known)

    def weighted(batch, rows, context, *, log):  # type: ignore[no-untyped-def]
        losses = plain.losses(batch, rows, context, log=log)
        return Losses(losses.values, probability[rows], losses.metrics)

    learner = Learner(
        world.policy.trainable_parameters(),
        adamw(world.policy.trainable_parameters().values(), settings),
    )
    state = TrainState({"model": learner}, FitState())
    for _ in fit(state, groups, Objective(weighted), lambda g: 0.5, settings, world.policy.device):
        pass


LEARNING = {**NAMES, "learning_rate": 1e-2, "max_steps": 150, "max_grad_norm": 0.0}


def kl_from(world: World, best: torch.Tensor) -> float:
    policy = world.distribution(world.policy)
    return float((policy * (policy / best).log()).sum(1).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dpo_reaches_the_optimum(beta: float, seed: int) -> None:
    # The minimum of the expected DPO loss is at β·(log-ratio difference) = r_a − r_b, so π = π*.
    world = make_world(seed)
    before = world.kl_to_optimum(beta)
    learn_all_pairs(world, "dpo", DpoSettings(**LEARNING, beta=beta))
    assert before > 0.05
    assert world.kl_to_optimum(beta) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_robust_dpo_reaches_the_optimum_through_flipped_labels(seed: int) -> None:
    # With a known share ε of labels flipped its expected loss is DPO's on the true labels; plain
    # DPO on the same labels learns smaller differences, and stays away.
    world, plain = make_world(seed), make_world(seed)
    settings = DpoSettings(**LEARNING, beta=0.5, loss_type="robust", label_smoothing=0.2)
    learn_all_pairs(world, "dpo", settings, flipped=0.2)
    learn_all_pairs(plain, "dpo", DpoSettings(**LEARNING, beta=0.5), flipped=0.2)
    assert world.kl_to_optimum(0.5) < 0.02
    assert plain.kl_to_optimum(0.5) > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_ipo_reaches_its_optimum(beta: float, seed: int) -> None:
    # Least squares of u_a − u_b to (2p_ab − 1)/(2β), u = log π/π_ref, over all pairs of answers:
    # u_a is the mean of the targets over b, up to a constant of the prompt.
    world = make_world(seed)
    p = torch.sigmoid(world.rewards[:, :, None] - world.rewards[:, None, :])
    u = ((2 * p - 1) / (2 * beta)).mean(2)
    best = world.distribution(world.reference) * u.exp()
    best = best / best.sum(1, keepdim=True)
    before = kl_from(world, best)
    learn_all_pairs(world, "ipo", IpoSettings(**LEARNING, beta=beta))
    assert before > 0.01
    assert kl_from(world, best) < 0.05 * before + 1e-3


INVERSES = {  # u = π/π_ref of z = f'(u): 1 − 1/u, and log(2u/(1 + u))
    "forward_kl": lambda z: 1 / (1 - z),
    "js_divergence": lambda z: z.exp() / (2 - z.exp()),
}
HIGHEST = {"forward_kl": 1.0, "js_divergence": math.log(2)}  # where u would be infinite


def optimum_under(world: World, divergence: str, beta: float) -> torch.Tensor:
    """The best policy of E_π r − β·D_f, by halving for the λ of each prompt."""
    reference = world.distribution(world.reference)
    best = []
    for x in range(len(PROMPTS)):
        low = float(world.rewards[x].max()) - beta * HIGHEST[divergence] + 1e-6
        high = low + 50.0
        for _ in range(100):
            middle = (low + high) / 2
            u = INVERSES[divergence]((world.rewards[x] - middle) / beta)
            low, high = (middle, high) if float((reference[x] * u).sum()) > 1 else (low, middle)
        best.append(reference[x] * u)
    return torch.stack(best)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("divergence", INVERSES)
def test_f_divergences_reach_their_optimum(divergence: str, seed: int) -> None:
    # The best policy under D_f has β·f'(u) = r − λ, with λ(x) such that π sums to 1 (Wang et al.
    # 2023): the larger λ, the smaller the sum, so it is found by halving.
    beta, world = 1.0, make_world(seed)
    settings = DpoSettings(**LEARNING, beta=beta, f_divergence_type=divergence)
    optimum = optimum_under(world, divergence, beta)
    before = kl_from(world, optimum)
    learn_all_pairs(world, "dpo", settings)
    assert before > 0.02
    assert kl_from(world, optimum) < 0.02
    assert world.kl_to_optimum(beta) > kl_from(world, optimum)  # another one than reverse KL's


ONLINE: dict[str, dict[str, Any]] = {
    # Whitened or scaled, the step would no longer depend on the size of the reward.
    "ppo": {"num_ppo_epochs": 4, "whiten_advantages": False, "vf_coef": 1.0},
    # Its KL is in the reward, so normalised advantages of 0 mean are at the same optimum.
    "reinforce_plus_plus": {"num_iterations": 4},
    "grpo": {"num_iterations": 2, "num_mini_batches": 2, "scale_rewards": False},
    "rloo": {"num_iterations": 2, "num_mini_batches": 2},
    # Its own clips would leave the later steps to the KL loss alone.
    "gspo": {
        "num_iterations": 2,
        "num_mini_batches": 2,
        "scale_rewards": False,
        "cliprange": 0.2,
        "cliprange_high": 0.2,
    },
    "cispo": {"num_iterations": 2, "num_mini_batches": 2, "scale_rewards": False},
}
SETTINGS: dict[str, Any] = {**PPO_METHODS, **GROUP_METHODS}


def learn_from_scores(
    world: World, method: str, seed: int, *, iterations: int = 40, **more: Any
) -> list[dict[str, float]]:
    settings = SETTINGS[method](
        **{
            **NAMES,
            "reward_model": "toy",
            "seed": seed,
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 512,
            "max_new_tokens": max(map(len, world.answers)),
            "missing_eos_penalty": 0.0,
            "loss_type": "fixed",
            **ONLINE[method],
            **more,
        }
    )
    critic = world.critic if method == "ppo" else None
    roles = Roles(world.policy, critic, world.reference, world.reward, LocalSampler(world.policy))
    models = {"policy": world.policy} | ({} if critic is None else {"critic": critic})
    learners = {
        name: Learner(
            lm.trainable_parameters(), adamw(lm.trainable_parameters().values(), settings)
        )
        for name, lm in models.items()
    }
    records = [PromptOnly(str(x)) for x in range(len(world.prompts))]
    return [
        result.metrics
        for result in run_iterations(
            method,
            TrainState(learners, OnlineState(beta=settings.beta)),
            roles,
            world.prompts,
            records,
            settings,
            iterations=iterations,
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("method", ONLINE)
def test_online_methods_reach_the_optimum(method: str, beta: float, seed: int) -> None:
    world = make_world(seed)
    before = world.kl_to_optimum(beta)
    learn_from_scores(world, method, seed, beta=beta)
    assert before > 0.05
    assert world.kl_to_optimum(beta) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", ONLINE)
def test_online_methods_come_near_the_optimum_over_whole_responses(method: str, seed: int) -> None:
    # Fifteen answers of one to three tokens; the best policy is over answers, not over tokens.
    # With λ = 1 PPO's token-wise advantages have the gradient of the whole; GRPO's KL loss looks
    # at each token's own KL, and not at what follows from it, so it comes near only.
    beta, world = 1.0, make_tree(seed)
    assert world.distribution(world.policy).sum(1).tolist() == pytest.approx([1.0, 1.0])
    before = world.kl_to_optimum(beta)
    more = {"gae_lambda": 1.0} if method == "ppo" else {}
    learn_from_scores(world, method, seed, beta=beta, iterations=60, **more)
    assert before > 0.1
    assert world.kl_to_optimum(beta) < 0.2 * before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plain_kl_loss_has_the_optimum_of_the_forward_kl(seed: int) -> None:
    # The expected gradient of k3 is that of KL(π_ref‖π). Of E_π r − β·KL(π_ref‖π) the maximum is
    # at π = π_ref·β/(λ − r), λ such that it sums to 1 (see above): not the reverse's.
    beta, world = 1.0, make_world(seed)
    best = optimum_under(world, "forward_kl", beta)
    learn_from_scores(world, "grpo", seed, beta=beta, use_bias_correction_kl=False)
    assert kl_from(world, best) < 0.02
    assert kl_from(world, best) < world.kl_to_optimum(beta)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_has_its_closed_form(n: int) -> None:
    # With distinct rewards, P(best of N is y) = F(y)^N − F(y−)^N, F the distribution function of
    # π_ref in order of reward. Its KL from π_ref is at most log N − (N−1)/N.
    world = make_world(0)
    rounds = 4000
    samples = LocalSampler(world.reference)(
        [PROMPTS[0]] * rounds,
        SamplingSettings(num_responses=n, max_new_tokens=1, batch_size=8192),
        seed=3,
        streams=range(rounds),
    )
    rewards = world.rewards[0]
    best = [max((s.tokens[0] for s in own), key=lambda y: rewards[y]) for own in samples]
    found = torch.bincount(torch.tensor(best), minlength=ANSWERS) / rounds

    pi = world.distribution(world.reference)[0].double()
    order = rewards.argsort()
    cdf = pi[order].cumsum(0)
    below = torch.cat([torch.zeros(1, dtype=cdf.dtype), cdf[:-1]])
    expected = torch.empty_like(pi)
    expected[order] = cdf**n - below**n
    # Each count is binomial: five standard deviations.
    allowed = 5 * (expected * (1 - expected) / rounds).sqrt() + 1e-3
    assert ((found - expected).abs() < allowed).all()
    kl = (expected * (expected / pi).clamp(min=1e-300).log()).sum()
    assert float(kl) <= best_of_n_kl(n) + 1e-9
    assert math.isfinite(float(kl))
