"""Rounds of DPO on sampled answers reach what is known, of answers of one token and of several."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import Losses, Objective
from accord.learn.loop.optimiser import adamw
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import compute_log_probs, stored_log_probs
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.settings.preferences import DpoSettings
from tests.learn.one_token import World, make_tree, make_world

SAMPLES = 16_384  # responses a prompt and round, half as many pairs


def sampled_pairs(world: World, seed: int) -> tuple[list[PromptGroup], torch.Tensor]:
    """Pairs of the current policy's own answers, the first chosen as Bradley and Terry say, each
    with how often it came up."""
    longest, prompts = max(map(len, world.answers)), world.prompts
    sampling = SamplingSettings(SAMPLES, max_new_tokens=longest, batch_size=SAMPLES)
    answers = LocalSampler(world.policy)(prompts, sampling, seed=seed, streams=range(len(prompts)))
    rng, counts = random.Random(seed), Counter[tuple[int, int, int]]()
    for x, samples in enumerate(answers):
        said = [world.answers.index(tuple(sample.tokens)) for sample in samples]
        for a, b in zip(said[::2], said[1::2], strict=True):
            gap = float(world.rewards[x, a] - world.rewards[x, b])
            won = rng.random() < 1 / (1 + math.exp(-gap))
            if a != b:
                counts[(x, a, b) if won else (x, b, a)] += 1
    groups = [
        PromptGroup(prompts[x], (world.answers[a], world.answers[b]), (0, 1)) for x, a, b in counts
    ]
    return groups, torch.tensor(list(counts.values())) / SAMPLES


def dpo_round(world: World, reference: LanguageModel, beta: float, seed: int) -> None:
    groups, share = sampled_pairs(world, seed)
    settings = DpoSettings(
        model="one-token",
        dataset="one-token",
        output_dir="nowhere",
        learning_rate=1e-2,
        max_steps=120,
        max_grad_norm=0.0,
        beta=beta,
        per_device_train_batch_size=len(groups),
    )
    known = stored_log_probs(compute_log_probs(reference, groups, batch_size=64))
    plain = METHODS["dpo"].objective(world.policy, settings, groups, lambda _: known)

    def weighted(batch, rows, context, *, log):  # type: ignore[no-untyped-def]
        losses = plain.losses(batch, rows, context, log=log)
        return Losses(losses.values, share[rows], losses.metrics)

    parameters = world.policy.trainable_parameters()
    state = TrainState(
        {"model": Learner(parameters, adamw(parameters.values(), settings))}, FitState()
    )
    steps = fit(state, groups, Objective(weighted), lambda _: 0.5, settings, world.policy.device)
    for _ in steps:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("make", "reference"), [(make_world, "fixed"), (make_world, "moving"), (make_tree, "fixed")]
)
def test_rounds_of_dpo_reach_what_their_reference_says(
    make: Callable[[int], World], reference: str, seed: int
) -> None:
    # With full support the population's DPO loss on any pairs has its minimum where
    # β·log π/π_ref = r up to a constant of the prompt. A fixed π_ref: every round aims at
    # π_ref·exp(r/β)/Z. A moving one: round t aims at π_{t−1}·exp(r/β)/Z, so R rounds at
    # π_0·exp(R·r/β)/Z, the optimum of β/R.
    beta, rounds, world = 2.0, 3, make(seed)
    for number in range(rounds):
        # What round t's log-probs are taken from is computed before its first step.
        start = world.policy if reference == "moving" else world.reference
        dpo_round(world, start, beta, seed=100 * seed + number)
    strong, weak = world.kl_to_optimum(beta / rounds), world.kl_to_optimum(beta)
    reached, other = (weak, strong) if reference == "fixed" else (strong, weak)
    assert reached < 0.02
    assert other > 5 * reached
    assert other > 0.1
