"""Methods reach the known KL-regularised optimum of the one-token world."""

from __future__ import annotations

import math

import pytest
import torch

from accord.learn.checkpoints import Learner, TrainState
from accord.learn.fit import fit
from accord.learn.losses import Losses
from accord.learn.methods import METHODS
from accord.learn.optimiser import adamw
from accord.learn.ppo import Roles, ppo
from accord.learn.reference import reference_logps
from accord.lm.packing import PromptGroup
from accord.measure.over_optimisation import best_of_n_kl
from accord.records import PromptOnly
from accord.respond.local import local_sampler
from accord.respond.protocol import SamplingSettings
from accord.settings.training import DpoSettings, PpoSettings
from tests.learn.one_token import ANSWERS, PROMPTS, make_world

NAMES = {"model": "one-token", "dataset": "one-token", "output_dir": "nowhere"}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_dpo_reaches_the_optimum(beta: float, seed: int) -> None:
    # Every ordered pair of answers, weighted by its Bradley-Terry probability under r: the
    # minimum of the expected DPO loss is then at β·(log-ratio difference) = r_a − r_b, so π = π*.
    world = make_world(seed)
    groups, odds = [], []
    for x, prompt in enumerate(PROMPTS):
        for a in range(ANSWERS):
            for b in range(ANSWERS):
                if a != b:
                    groups.append(PromptGroup(prompt, ((a,), (b,)), (0, 1)))
                    odds.append(torch.sigmoid(world.rewards[x, a] - world.rewards[x, b]))
    probability = torch.stack(odds)
    settings = DpoSettings(
        **NAMES,
        beta=beta,
        learning_rate=1e-2,
        max_steps=150,
        per_device_train_batch_size=len(groups),
        max_grad_norm=0,
    )
    reference = reference_logps(world.reference, groups, batch_size=64)
    plain = METHODS["dpo"].objective(world.policy, settings, reference)

    def weighted(batch, rows, *, log):  # type: ignore[no-untyped-def]
        losses = plain(batch, rows, log=log)
        return Losses(losses.values, probability[rows], losses.metrics)

    learner = Learner(world.policy.trainable(), adamw(world.policy.trainable().values(), settings))
    before = world.kl_to_optimum(beta)
    state = TrainState({"model": learner})
    for _ in fit(state, groups, weighted, lambda g: 0.5, settings, world.policy.device):
        pass
    after = world.kl_to_optimum(beta)
    assert before > 0.05
    assert after < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_ppo_reaches_the_optimum(beta: float, seed: int) -> None:
    world = make_world(seed)
    settings = PpoSettings(
        **NAMES,
        reward_model="one-token",
        beta=beta,
        seed=seed,
        learning_rate=3e-3,
        per_device_train_batch_size=512,
        num_ppo_epochs=4,
        max_new_tokens=1,
        missing_eos_penalty=0.0,
        whiten_advantages=False,  # whitened, the step size no longer depends on the reward
        vf_coef=1.0,
    )

    def reward(prompts, texts, finished=None):  # type: ignore[no-untyped-def]
        return [
            float(world.rewards[int(p), int(text)]) for p, text in zip(prompts, texts, strict=True)
        ]

    roles = Roles(world.policy, world.critic, world.reference, reward, local_sampler(world.policy))
    learners = {
        name: Learner(lm.trainable(), adamw(lm.trainable().values(), settings))
        for name, lm in (("policy", world.policy), ("critic", world.critic))
    }
    records = [PromptOnly(str(x)) for x in range(len(PROMPTS))]
    before = world.kl_to_optimum(beta)
    for _ in ppo(TrainState(learners), roles, PROMPTS, records, settings, iterations=40):
        pass
    after = world.kl_to_optimum(beta)
    assert before > 0.05
    assert after < 0.02


@pytest.mark.parametrize("n", [2, 4, 16])
def test_best_of_n_has_its_closed_form(n: int) -> None:
    # With distinct rewards, P(best of N is y) = F(y)^N − F(y−)^N, F the distribution function of
    # π_ref in order of reward. Its KL from π_ref is at most log N − (N−1)/N.
    world = make_world(0)
    rounds = 4000
    samples = local_sampler(world.reference)(
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
