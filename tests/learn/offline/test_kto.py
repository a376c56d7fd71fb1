"""KTO: weights of the labels, the loss with its reference point z₀, and single steps."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.kto import balance_weights
from accord.learn.offline.methods import METHODS
from accord.learn.offline.mismatched import mismatched_groups
from accord.lm.packing import PromptGroup, pack
from accord.settings.preferences import KtoSettings
from tests.learn.offline.kto_rows import kto_objective, labelled_rows, log_probs_and_ratios
from tests.learn.toys.gradients import assert_gradients_close
from tests.learn.toys.models import causal_lm
from tests.learn.toys.plain_forward import plain_logp
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups


@pytest.mark.parametrize(
    ("set_weights", "labels", "expected"),
    [
        # 1 desirable to 3 that are not: 3·1 = 1·3.
        ({}, (True, False, False, False), (3.0, 1.0)),
        ({}, (True, True, True, False, False), (1.0, 1.5)),
        ({}, (True, False), (1.0, 1.0)),
        # One is set: 2·1 = λ·4, λ·3 = 1.2·2.
        ({"desirable_weight": 2.0}, (True, False, False, False, False), (2.0, 0.5)),
        ({"undesirable_weight": 1.2}, (True, True, True, False, False), (0.8, 1.2)),
        ({"desirable_weight": 5.0, "undesirable_weight": 7.0}, (True, False, False), (5.0, 7.0)),
        ({}, (), (1.0, 1.0)),
    ],
)
def test_the_rarer_label_weighs_more(
    set_weights: dict[str, float], labels: tuple[bool, ...], expected: tuple[float, float]
) -> None:
    settings = balance_weights(KtoSettings(**REQUIRED, **set_weights), labelled_rows(*labels))
    assert (settings.desirable_weight, settings.undesirable_weight) == pytest.approx(expected)


def test_a_pair_counts_once_for_each_label() -> None:
    pair = replace(random_groups([(3, (2, 4))], VOCABULARY)[0], labels=(True, False))
    settings = balance_weights(KtoSettings(**REQUIRED), [pair, *labelled_rows(False, False)])
    assert (settings.desirable_weight, settings.undesirable_weight) == (3.0, 1.0)


def test_rows_of_a_single_label_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = KtoSettings(**REQUIRED, desirable_from=0.25)
    with caplog.at_level(logging.WARNING):
        settings = balance_weights(settings, labelled_rows(True, True))
    assert (settings.desirable_weight, settings.undesirable_weight) == (1.0, 1.0)
    assert "All 2 responses are desirable" in caplog.text
    assert "set desirable_from (now 0.25)" in caplog.text


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_are_the_papers(seed: int) -> None:
    # λ_y − λ_y·σ(β(r − z₀)) or λ_y − λ_y·σ(β(z₀ − r)), z₀ = max(0, mean of mismatched r), on
    # log-probs from the model's logits, row by row.
    groups = labelled_rows(True, False, True, True, False, seed=seed)
    settings = KtoSettings(
        **REQUIRED, beta=0.7, desirable_weight=1.3, undesirable_weight=0.6, seed=3
    )
    policy, reference = causal("llama", seed=5), causal("llama", seed=seed)

    def ratio(group: PromptGroup) -> Tensor:
        (response,) = group.responses
        with torch.no_grad():
            ref_logp = plain_logp(reference, group.prompt, response)
        return plain_logp(policy, group.prompt, response) - ref_logp

    rows = [0, 4, 2]
    mismatched = mismatched_groups(groups, settings)
    z0 = max(0.0, float(sum(ratio(mismatched[i]).detach() for i in rows)) / 3)
    signs = {True: 1.0, False: -1.0}
    weights = {True: 1.3, False: 0.6}
    expected = [
        weights[groups[i].labels[0]]
        * torch.sigmoid(-0.7 * signs[groups[i].labels[0]] * (ratio(groups[i]) - z0))
        for i in rows
    ]
    sum(expected).backward()  # type: ignore[union-attr]

    lm = causal_lm(5)
    objective = kto_objective(settings, groups, lm, causal_lm(seed))
    context = objective.prepare(rows)
    losses = objective.losses(pack([groups[i] for i in rows]), rows, context, log=True)
    losses.weighted_sum().backward()
    torch.testing.assert_close(losses.values, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert_gradients_close(
        [p.grad for p in lm.model.parameters()], [p.grad for p in policy.parameters()], rtol=1e-3
    )
    means = {name: total / weight for name, (total, weight) in losses.metrics.items()}
    assert means["kl"] == pytest.approx(z0, abs=1e-4)
    rewards = [0.7 * float(ratio(groups[i]).detach()) for i in rows]
    chosen = (rewards[0] + rewards[2]) / 2
    assert means["rewards/chosen"] == pytest.approx(chosen, abs=1e-4)
    assert means["rewards/rejected"] == pytest.approx(rewards[1], abs=1e-4)
    assert means["rewards/margins"] == pytest.approx(chosen - rewards[1], abs=1e-4)
    # A response is right where its term is below λ/2, σ's middle; each counts λ.
    row_weights = [weights[groups[i].labels[0]] for i in rows]
    right = sum(
        weight
        for weight, term in zip(row_weights, expected, strict=True)
        if float(term.detach()) < weight / 2
    )
    assert means["rewards/accuracies"] == pytest.approx(right / sum(row_weights))


def test_the_reference_point_is_above_zero_for_some_seeds_and_clamped_for_others() -> None:
    # Otherwise the test above would not see how it is computed: a clamped one is 0.
    groups = labelled_rows(True, False, True, True, False)
    settings = KtoSettings(**REQUIRED, seed=3)
    mismatched = mismatched_groups(groups, settings)
    lm = causal_lm(5)
    means = []
    for seed in range(3):
        _, ratios = log_probs_and_ratios(
            groups, mismatched, lm, causal_lm(seed), [0, 4, 2], settings
        )
        means.append(float(ratios.mean()))
    assert max(means) > 0.05
    assert min(means) < -0.05


def test_a_pair_has_the_loss_of_its_two_responses_and_its_prompt_once() -> None:
    pairs = [
        replace(g, labels=(True, False))
        for g in random_groups([(5, (3, 7)), (2, (4, 1)), (6, (2, 2))], VOCABULARY)
    ]
    singles = [
        replace(g, responses=(r,), ranks=(0,), labels=(label,))
        for g in pairs
        for r, label in zip(g.responses, g.labels, strict=True)
    ]
    assert sum(g.num_tokens for g in singles) - sum(g.num_tokens for g in pairs) == 5 + 2 + 6
    settings = KtoSettings(**REQUIRED, loss_type="apo_zero_unpaired", beta=0.5)  # the same z₀
    runs = []
    for groups in (pairs, singles):
        lm = causal_lm(5)
        objective = kto_objective(settings, groups, lm, causal_lm(0))
        all_rows = range(len(groups))
        context = objective.prepare(all_rows)
        losses = objective.losses(pack(groups), all_rows, context, log=False)
        (losses.weighted_sum() / losses.weights.sum()).backward()
        assert sum(METHODS["kto"].weight(g) for g in groups) == float(losses.weights.sum()) == 6
        runs.append((losses.values.detach(), [p.grad for p in lm.model.parameters()]))
    (pair_losses, pair_gradients), (single_losses, single_gradients) = runs
    torch.testing.assert_close(pair_losses, single_losses, rtol=1e-5, atol=1e-6)
    assert_gradients_close(pair_gradients, single_gradients, rtol=1e-4)


def test_a_step_of_one_row_has_finite_losses_and_no_margin() -> None:
    groups = labelled_rows(True, False)
    settings = KtoSettings(**REQUIRED, per_device_train_batch_size=1)
    lm = causal_lm(5)
    objective = kto_objective(settings, groups, lm, causal_lm(0))
    state = TrainState({"model": make_learner(lm, settings)}, FitState())
    steps = list(fit(state, groups, objective, METHODS["kto"].weight, settings, lm.device))
    assert [s.step for s in steps] == [1, 2]
    for step in steps:
        assert math.isfinite(step.metrics["loss"])
        assert ("rewards/chosen" in step.metrics) != ("rewards/rejected" in step.metrics)
        assert "rewards/margins" not in step.metrics
