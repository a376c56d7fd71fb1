"""The optimiser loop: accumulation, logged metrics, and losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.errors import TrainingError
from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.objective import Losses, Objective, mean_metrics, metric
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch
from accord.objectives.logprobs import token_stats
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.training import RewardSettings, SftSettings, TrainSettings
from tests.learn.toys.fit import GROUPS, fit_recorded, reference_factory
from tests.learn.toys.gradients import assert_gradients_close
from tests.learn.toys.models import lm_for_method
from tests.learn.toys.plain_forward import plain_logp
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups

METHOD_OPTIONS: dict[str, tuple[Callable[..., TrainSettings], dict[str, Any]]] = {
    "sft": (SftSettings, {}),
    "reward": (RewardSettings, {"center_rewards_coefficient": 0.1}),
    "dpo": (DpoSettings, {"beta": 0.5, "label_smoothing": 0.1}),
    "ipo": (IpoSettings, {}),
    "kto": (KtoSettings, {"beta": 0.5, "desirable_weight": 1.7}),
    "orpo": (OrpoSettings, {}),
    "simpo": (SimpoSettings, {}),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "assistant": ("sft", {}),
    "plackett_luce": ("reward", {"ranking_loss": "plackett_luce"}),
    "ensemble": ("reward", {"heads": 3, "length_regularisation": 0.5}),
    "mixture": ("dpo", {"loss_type": ["apo_zero", "sft"], "loss_weights": [1.0, 0.3]}),
    "length-desensitised": ("dpo", {"ld_alpha": 0.4, "f_divergence_type": "js_divergence"}),
}
# The loss is on the first token of each response and on every third after it.
MASKED_GROUPS = [
    replace(g, loss_mask=tuple(tuple(i % 3 == 0 for i in range(len(r))) for r in g.responses))
    for g in GROUPS
]
METRICS_OF_EVERY_STEP = {"loss", "epoch", "learning_rate", "grad_norm", "num_tokens", "seconds"}


@pytest.mark.parametrize("name", [*METHOD_OPTIONS, *VARIANTS])
def test_accumulation_changes_neither_loss_nor_gradient(name: str) -> None:
    # 8 × 1 = 4 × 2 = 2 × 4 = 1 × 8, rows of unequal length and rankings among pairs.
    method, options = VARIANTS.get(name) or (name, METHOD_OPTIONS[name][1])
    make_settings = METHOD_OPTIONS[method][0]
    groups = MASKED_GROUPS if name == "assistant" else GROUPS
    runs = []
    for micro_batch_size, accumulation in ((8, 1), (4, 2), (3, 3), (1, 8)):
        settings = make_settings(
            **REQUIRED,
            **options,
            per_device_train_batch_size=micro_batch_size,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        # 3 × 3 is 9 a step, but an epoch of 8 rows ends the run there.
        results, optimiser = fit_recorded(method, settings, groups)
        assert len(results) == 1
        runs.append((results[0].metrics, optimiser.gradients[0]))
    (expected_metrics, expected_gradients), *split_runs = runs
    for metrics, gradients in split_runs:
        for key, value in expected_metrics.items():
            if key != "seconds":
                assert metrics[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key
        assert_gradients_close(gradients, expected_gradients, rtol=1e-5, atol=1e-7)


def test_the_loss_of_sft_is_the_mean_over_tokens() -> None:
    # Not the mean of the rows' means: the longer response counts more.
    groups = random_groups([(3, (2,)), (3, (11,))], VOCABULARY)
    results, _ = fit_recorded("sft", SftSettings(**REQUIRED), groups)
    model = causal("llama")
    total = sum(float(plain_logp(model, g.prompt, g.responses[0]).detach()) for g in groups)
    assert results[0].metrics["loss"] == pytest.approx(-total / 13, rel=1e-5)
    assert results[0].metrics["num_tokens"] == 3 + 2 + 3 + 11


def test_epoch_and_learning_rate_are_set_and_logged() -> None:
    # 8 rows, 2 a step, linear from 0.8: 4 steps at 1, ¾, ½, ¼ of it.
    settings = SftSettings(**REQUIRED, per_device_train_batch_size=2, learning_rate=0.8)
    results, optimiser = fit_recorded("sft", settings)
    assert [r.metrics["epoch"] for r in results] == [0.25, 0.5, 0.75, 1.0]
    assert optimiser.learning_rates == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [r.metrics["learning_rate"] for r in results] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [(r.step, r.total) for r in results] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("name", METHOD_OPTIONS)
def test_a_step_that_is_not_logged_has_no_metrics_of_the_method(name: str) -> None:
    # Of 4 steps the third is logged, and the last is in any case.
    make_settings, options = METHOD_OPTIONS[name]
    settings = make_settings(**REQUIRED, **options, per_device_train_batch_size=2, logging_steps=3)
    results, _ = fit_recorded(name, settings)
    method_metrics = [set(r.metrics) - METRICS_OF_EVERY_STEP for r in results]
    assert method_metrics[:2] == [set(), set()]
    assert all(method_metrics[2:])


def test_a_step_that_is_not_logged_computes_no_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(hidden: Tensor, head: Any, targets: Tensor, *args: Any, **options: Any) -> Any:
        passes.append(len(targets))
        return token_stats(hidden, head, targets, *args, **options)

    monkeypatch.setattr("accord.lm.forward.token_stats", counted)
    # 4 steps of one pass each, of which the last is logged in any case.
    settings = SftSettings(**REQUIRED, per_device_train_batch_size=2, logging_steps=100)
    results, _ = fit_recorded("sft", settings)
    assert ["entropy" in r.metrics for r in results] == [False, False, False, True]
    assert len(passes) == 1


def test_metrics_are_weighted_over_passes() -> None:
    # (1 + 2)/2 values in one pass, 9 in another of one value: (1 + 2 + 9)/3 = 4.
    parts = [
        {"a": metric(torch.tensor([1.0, 2.0])), "b": metric(torch.tensor([5.0]))},
        {"a": metric(torch.tensor([9.0])), "none": (0.0, 0.0)},
    ]
    assert mean_metrics(parts) == {"a": 4.0, "b": 5.0}
    weighted = metric(torch.tensor([1.0, 4.0]), torch.tensor([0.75, 0.25]))
    assert weighted == (1.75, 1.0)


def fit_until_error(
    make_objective: Callable[[LanguageModel], Objective], settings: SftSettings
) -> tuple[TrainState[FitState], bool, str]:
    """Fit until the error; returns the state, whether the weights are those after the last step
    that was yielded, and the error's message."""
    lm = lm_for_method("sft")
    state = TrainState({"model": make_learner(lm, settings)}, FitState())
    steps = fit(state, GROUPS, make_objective(lm), METHODS["sft"].weight, settings, lm.device)
    before = {n: p.detach().clone() for n, p in lm.trainable_parameters().items()}

    def take_all_steps() -> None:
        for _ in steps:
            before.update({n: p.detach().clone() for n, p in lm.trainable_parameters().items()})

    with pytest.raises(TrainingError) as error:
        take_all_steps()
    unchanged = all(torch.equal(before[n], p) for n, p in lm.trainable_parameters().items())
    return state, unchanged, str(error.value)


def test_nan_in_the_loss_names_the_rows_and_leaves_the_weights() -> None:
    # Row 5 (line 6) gives NaN; the steps before the one that has it have moved the weights.
    settings = SftSettings(**REQUIRED, per_device_train_batch_size=2, learning_rate=0.01)
    bad_row = GROUPS[5]  # rows differ by their source

    def make_objective(lm: LanguageModel) -> Objective:
        plain = METHODS["sft"].objective(lm, settings, GROUPS, reference_factory(lm))

        def losses(batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool) -> Losses:
            plain_losses = plain.losses(batch, rows, context, log=log)
            factor = math.nan if bad_row in batch.groups else 1.0
            return Losses(plain_losses.values * factor, plain_losses.weights)

        return Objective(losses)

    state, unchanged, message = fit_until_error(make_objective, settings)
    step = next(i // 2 for i in range(8) if RowOrder(8, 0).at(i) == 5)
    assert state.step == step
    assert unchanged
    assert f"The loss is nan at step {step + 1}" in message
    assert "rows.jsonl:6" in message
    assert message.count("rows.jsonl:") == 2  # the batch's rows, and no others
    assert "lower learning_rate" in message


def test_nan_in_the_gradient_alone_is_caught() -> None:
    settings = SftSettings(**REQUIRED, per_device_train_batch_size=8)

    def make_objective(lm: LanguageModel) -> Objective:
        def losses(batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool) -> Losses:
            zero = 0 * lm.head.weight.sum()
            values = zero.sqrt().expand(1)  # 0, but its slope is 0·∞
            return Losses(values, torch.ones(1))

        return Objective(losses)

    state, unchanged, message = fit_until_error(make_objective, settings)
    assert state.step == 0
    assert unchanged
    assert "The gradient is nan at step 1" in message
    assert "rows.jsonl:1" in message
