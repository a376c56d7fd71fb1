"""The tables of pair losses together have one row for each name that the settings accept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from accord.learn.offline.dpo import PAIR_LOSSES
from accord.objectives import anchored, optimal_transport, preference
from accord.objectives.pair_terms import PairTerms
from accord.settings.preferences import PairLoss

TABLES = (preference.PAIR_LOSSES, anchored.PAIR_LOSSES, optimal_transport.PAIR_LOSSES)
# Three pairs: log-ratios, lengths, the chosen log-prob and the policy's margin.
TERMS = PairTerms(
    chosen=torch.tensor([2.0, -1.0, 0.5]),
    rejected=torch.tensor([-4.0, 1.0, 0.0]),
    chosen_length=torch.tensor([4, 2, 1]),
    rejected_length=torch.tensor([5, 2, 3]),
    chosen_logp=torch.tensor([-8.0, -3.0, -1.0]),
    policy_margin=torch.tensor([3.0, -2.0, 1.0]),
    chosen_length_in_step=2.5,
)
HYPERPARAMETERS = SimpleNamespace(beta=0.5, label_smoothing=0.1, discopop_tau=0.05)


def test_there_is_one_row_for_each_name_of_the_settings() -> None:
    assert set(PAIR_LOSSES) == set(get_args(PairLoss))
    assert sum(map(len, TABLES)) == len(PAIR_LOSSES)  # no name in two tables


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_every_row_gives_one_finite_value_per_pair(name: str) -> None:
    values = PAIR_LOSSES[name](TERMS, HYPERPARAMETERS)
    assert values.shape == (3,)
    assert bool(values.isfinite().all())


def test_sft_is_the_negative_log_prob_over_the_mean_length_of_the_step() -> None:
    # 8, 3 and 1 nats, each divided by 2.5 tokens.
    values = PAIR_LOSSES["sft"](TERMS, HYPERPARAMETERS)
    assert values.tolist() == pytest.approx([3.2, 1.2, 0.4])


def test_sigmoid_is_conservative_dpo_under_label_smoothing_alone() -> None:
    plain = SimpleNamespace(beta=0.5, label_smoothing=0.0, discopop_tau=0.05)
    chosen, rejected = TERMS.chosen, TERMS.rejected
    smoothed = preference.cdpo_loss(chosen, rejected, beta=0.5, label_smoothing=0.1)
    assert torch.equal(PAIR_LOSSES["sigmoid"](TERMS, HYPERPARAMETERS), smoothed)
    dpo = preference.dpo_loss(chosen, rejected, beta=0.5)
    assert torch.equal(PAIR_LOSSES["sigmoid"](TERMS, plain), dpo)


def test_bco_uses_the_mean_reward_of_the_pass_as_its_shift() -> None:
    # β·½·mean(c + r) = 0.25·mean(−2, 0, 0.5) = −0.125.
    expected = anchored.bco_pair_loss(TERMS.chosen, TERMS.rejected, beta=0.5, delta=-0.125)
    torch.testing.assert_close(PAIR_LOSSES["bco_pair"](TERMS, HYPERPARAMETERS), expected)


def test_aot_compares_the_margin_of_the_policy_with_that_of_the_reference() -> None:
    # The reference's margin is the policy's minus the difference of the log-ratios:
    # (3, −2, 1) − (6, −2, 0.5) = (−3, 0, 0.5).
    expected = optimal_transport.aot_loss(
        TERMS.policy_margin, torch.tensor([-3.0, 0.0, 0.5]), beta=0.5
    )
    torch.testing.assert_close(PAIR_LOSSES["aot"](TERMS, HYPERPARAMETERS), expected)
