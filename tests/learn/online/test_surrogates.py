"""The surrogates of GSPO and CISPO: by hand, beside GRPO's, and however a step is split."""

from __future__ import annotations

import math

import pytest
import torch

from accord.learn.online.methods import ONLINE, PolicyTerms
from accord.lm.packing import PromptGroup, pack
from tests.learn.online.test_groups import assert_same_steps, record_steps
from tests.learn.toys.roles import copy_weights, iterate, make_roles, make_state
from tests.learn.toys.settings import online_settings


def test_gspo_clips_the_ratios_of_whole_responses() -> None:
    # Two prompts; responses of 2, 1 and 3 tokens. Log-ratios' means: 0.1, −0.4, 0.2.
    batch = pack([PromptGroup((5,), ((6, 2), (7,))), PromptGroup((8, 9), ((3, 4, 2),))])
    log_ratio = torch.tensor([0.5, -0.3, -0.4, 0.2, -0.1, 0.5])
    advantages = torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, -2.0])
    terms = PolicyTerms(log_ratio - 1.0, log_ratio, advantages, batch)
    settings = online_settings("gspo", cliprange=0.2, cliprange_high=0.1)
    surrogate = ONLINE["gspo"].surrogate(terms, settings)
    means = [0.1, 0.1, -0.4, 0.2, 0.2, 0.2]
    assert surrogate.log_ratio.tolist() == pytest.approx(means)
    # −min(sA, clip(s)A): e^0.1 > 1.1 is clipped, e^−0.4 is below and must rise, e^0.2 must fall.
    values = [-1.1, -1.1, -math.exp(-0.4), *[2 * math.exp(0.2)] * 3]
    assert surrogate.values.tolist() == pytest.approx(values)


@pytest.mark.parametrize(("method", "loss_type"), [("gspo", "sequence"), ("cispo", "token")])
def test_the_first_step_has_the_gradient_of_grpo(method: str, loss_type: str) -> None:
    # At ratio 1 the gradient of s, spread over the |y| tokens, is that of the tokens' own ratios;
    # and that of 1·log π is that of the ratio.
    options = {"beta": 0.1, "max_grad_norm": 0}
    _, steps = record_steps(method, online_settings(method, **options))
    _, expected = record_steps("grpo", online_settings("grpo", **options, loss_type=loss_type))
    assert_same_steps(steps, expected)


@pytest.mark.parametrize("method", ["gspo", "cispo"])
def test_later_steps_are_the_same_however_they_are_split(method: str) -> None:
    # From the second step on ratios are not 1, and those of a response must be in one pass.
    trained = []
    for split in ({}, {"gradient_accumulation_steps": 2}, {"max_tokens_per_forward": 8}):
        settings = online_settings(
            method, num_iterations=4, cliprange=0.1, cliprange_high=0.1, **split
        )
        roles = make_roles(method)
        (result,) = iterate(make_state(roles, settings), roles, settings, 1, method)
        assert 0 < result.metrics["policy/clipfrac_avg"] < 1
        trained.append(copy_weights(roles.policy))
    expected, *split_runs = trained
    for weights in split_runs:
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
