"""Rounds of DPO on sampled answers reach the optimum that their reference implies."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
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
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.settings.preferences import DpoSettings
from tests.learn.toys.known_optimum import World, make_one_token_world, make_tree_world
from tests.learn.toys.settings import REQUIRED

SAMPLES = 16_384  # responses to a prompt in a round; half as many pairs


def sample_pairs(world: World, seed: int) -> tuple[list[PromptGroup], torch.Tensor]:
    """Distinct pairs of the current policy's answers, the first chosen by Bradley-Terry's
    probability, and how often each occurs, as a share of all pairs of both prompts."""
    max_tokens, prompts = max(map(len, world.answers)), world.prompts
    sampling = SamplingSettings(SAMPLES, max_new_tokens=max_tokens, batch_size=SAMPLES)
    responses = LocalSampler(world.policy)(
        prompts, sampling, seed=seed, streams=range(len(prompts))
    )
    rng, counts = random.Random(seed), Counter[tuple[int, int, int]]()
    for x, samples in enumerate(responses):
        answers = [world.answers.index(tuple(sample.tokens)) for sample in samples]
        for a, b in zip(answers[::2], answers[1::2], strict=True):
            gap = float(world.rewards[x, a] - world.rewards[x, b])
            a_wins = rng.random() < 1 / (1 + math.exp(-gap))
            if a != b:
                counts[(x, a, b) if a_wins else (x, b, a)] += 1
    groups = [
        PromptGroup(prompts[x], (world.answers[a], world.answers[b]), (0, 1)) for x, a, b in counts
    ]
    return groups, torch.tensor(list(counts.values())) / SAMPLES


def train_round(world: World, reference: LanguageModel, beta: float, seed: int) -> None:
    groups, shares = sample_pairs(world, seed)
    settings = DpoSettings(
        **REQUIRED,
        learning_rate=1e-2,
        max_steps=120,
        max_grad_norm=0.0,
        beta=beta,
        per_device_train_batch_size=len(groups),
    )
    ref_logps = stored_log_probs(compute_log_probs(reference, groups, batch_size=64))
    plain = METHODS["dpo"].objective(world.policy, settings, groups, lambda _: ref_logps)

    def weighted(batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool) -> Losses:
        losses = plain.losses(batch, rows, context, log=log)
        return Losses(losses.values, shares[rows], losses.metrics)

    state = TrainState({"model": make_learner(world.policy, settings)}, FitState())
    for _ in fit(state, groups, Objective(weighted), lambda _: 0.5, settings, world.policy.device):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("make_world", "reference"),
    [
        (make_one_token_world, "fixed"),
        (make_one_token_world, "moving"),
        (make_tree_world, "fixed"),
    ],
)
def test_rounds_of_dpo_reach_the_optimum_of_their_reference(
    make_world: Callable[[int], World], reference: str, seed: int
) -> None:
    # With full support the population's DPO loss on any pairs has its minimum where
    # β·log π/π_ref = r up to a constant of the prompt. A fixed π_ref: every round aims at
    # π_ref·exp(r/β)/Z. A moving one: round t aims at π_{t−1}·exp(r/β)/Z, so R rounds at
    # π_0·exp(R·r/β)/Z, the optimum of β/R.
    beta, rounds, world = 2.0, 3, make_world(seed)
    for number in range(rounds):
        # The log-probs of round t's reference are computed before its first step.
        reference_lm = world.policy if reference == "moving" else world.reference
        train_round(world, reference_lm, beta, seed=100 * seed + number)
    kl_to_moving, kl_to_fixed = world.kl_to_optimum(beta / rounds), world.kl_to_optimum(beta)
    if reference == "fixed":
        reached, missed = kl_to_fixed, kl_to_moving
    else:
        reached, missed = kl_to_moving, kl_to_fixed
    assert reached < 0.02
    assert missed > 5 * reached
    assert missed > 0.1
