"""The optimiser loop: accumulation, order, learning rate, and what happens to NaN."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.errors import SettingsError, TrainingError
from accord.learn.loop.fit import StepResult, fit
from accord.learn.loop.learner import Learner
from accord.learn.loop.objective import Losses, Objective, ReferenceFactory, mean_metrics, metric
from accord.learn.loop.optimiser import adamw, clip_gradients, learning_rate_factor
from accord.learn.loop.schedule import (
    RowOrder,
    Schedule,
    make_schedule,
    num_batches,
    total_examples,
)
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import compute_log_probs, stored_log_probs
from accord.lm.forward import check_packing
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.logprobs import token_stats
from accord.records import Source
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.training import RewardSettings, SftSettings, TrainSettings
from tests.lm.models import VOCABULARY, causal, scalar
from tests.lm.toys import random_groups

NAMES = {"model": "toy", "dataset": "toy", "output_dir": "nowhere"}
# Eight pairs or rankings whose responses have from 1 to 13 tokens.
SHAPES = [(4, (1, 9)), (2, (13, 2)), (7, (5, 5, 3)), (1, (8, 1))]
GROUPS = [
    replace(
        g,
        source=Source("rows.jsonl", i + 1),
        labels=tuple((i + k) % 3 == 0 for k in range(len(g.responses))),
    )
    for i, g in enumerate(random_groups(SHAPES + SHAPES, VOCABULARY))
]


class NoTokenizer:
    eos_token_id = 2


class Recorder:
    """An optimiser that keeps the gradients of every step and moves nothing."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.param_groups: list[dict[str, Any]] = [{"lr": 0.0}]
        self.state: dict[Any, Any] = {}
        self.gradients: list[list[Tensor]] = []
        self.rates: list[float] = []

    def step(self) -> None:
        self.gradients.append(
            [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        )
        self.rates.append(self.param_groups[0]["lr"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def model_for(name: str, heads: int = 1) -> LanguageModel:
    is_scalar = METHODS[name].scalar
    inner = scalar("llama", heads=heads) if is_scalar else causal("llama")
    lm = LanguageModel(inner, NoTokenizer(), "toy", scalar=is_scalar)
    assert check_packing(lm)
    return lm


def reference_of(lm: LanguageModel) -> ReferenceFactory:
    return lambda groups: stored_log_probs(compute_log_probs(lm, groups, batch_size=4))


def recorded(
    name: str, settings: TrainSettings, groups: Sequence[PromptGroup] = GROUPS
) -> tuple[list[StepResult], Recorder]:
    lm, method = model_for(name, getattr(settings, "heads", 1)), METHODS[name]
    other = LanguageModel(causal("llama", seed=5), NoTokenizer(), "other")
    check_packing(other)
    recorder = Recorder(list(lm.trainable_parameters().values()))
    state = TrainState({"model": Learner(lm.trainable_parameters(), recorder)}, FitState())  # type: ignore[arg-type]
    # A reference some way off, so that the log-ratios are not all 0.
    objective = method.objective(lm, settings, groups, reference_of(other))
    return list(fit(state, groups, objective, method.weight, settings, lm.device)), recorder


KINDS: dict[str, Any] = {
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
# Of each response the first token and every third after it.
MASKED = [
    replace(g, loss_mask=tuple(tuple(i % 3 == 0 for i in range(len(r))) for r in g.responses))
    for g in GROUPS
]


@pytest.mark.parametrize("name", [*KINDS, *VARIANTS])
def test_accumulation_changes_neither_loss_nor_gradient(name: str) -> None:
    # 8 × 1 = 4 × 2 = 2 × 4 = 1 × 8, rows of unequal length and rankings among pairs.
    method, more = VARIANTS[name] if name in VARIANTS else (name, KINDS[name][1])
    kind, groups = KINDS[method][0], MASKED if name == "assistant" else GROUPS
    runs = []
    for micro, accumulation in ((8, 1), (4, 2), (3, 3), (1, 8)):
        settings = kind(
            **NAMES,
            **more,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        # 3 × 3 is 9 a step, but an epoch of 8 rows ends the run there.
        results, recorder = recorded(method, settings, groups)
        assert len(results) == 1
        runs.append((results[0].metrics, recorder.gradients[0]))
    (expected, gradients), *others = runs
    for metrics, found in others:
        for key, value in expected.items():
            if key != "seconds":
                assert metrics[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key
        for a, b in zip(found, gradients, strict=True):
            assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7


def test_sft_is_the_mean_over_tokens() -> None:
    # Not the mean of the rows' means: the longer response counts more.
    groups = random_groups([(3, (2,)), (3, (11,))], VOCABULARY)
    results, _ = recorded("sft", SftSettings(**NAMES), groups)
    model, total = causal("llama"), 0.0
    for g in groups:
        logps = model(input_ids=torch.tensor([[*g.prompt, *g.responses[0]]])).logits[0]
        logps = logps[len(g.prompt) - 1 : -1].log_softmax(-1)
        total -= float(logps.gather(1, torch.tensor(g.responses[0])[:, None]).sum().detach())
    assert results[0].metrics["loss"] == pytest.approx(total / 13, rel=1e-5)
    assert results[0].metrics["num_tokens"] == 3 + 2 + 3 + 11


def test_dpo_begins_at_log_2_and_counts_a_ranking_once() -> None:
    settings = DpoSettings(**NAMES)
    lm, method = model_for("dpo"), METHODS["dpo"]
    recorder = Recorder(list(lm.trainable_parameters().values()))
    state = TrainState({"model": Learner(lm.trainable_parameters(), recorder)}, FitState())  # type: ignore[arg-type]
    objective = method.objective(lm, settings, GROUPS, reference_of(lm))
    (result,) = fit(state, GROUPS, objective, method.weight, settings, lm.device)
    assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert result.metrics["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_beside_the_rewards_of_an_f_divergence_are_the_plain_log_ratios() -> None:
    pairs = random_groups([(4, (3, 5)), (2, (7, 1))], VOCABULARY)
    lm, other = model_for("dpo"), LanguageModel(causal("llama", 1), NoTokenizer(), "other")
    assert check_packing(other)
    settings = DpoSettings(**NAMES, f_divergence_type="js_divergence")
    objective = METHODS["dpo"].objective(lm, settings, pairs, reference_of(other))
    with torch.no_grad():
        context = objective.prepare([0, 1])
        found = mean_metrics([objective.losses(pack(pairs), [0, 1], context, log=True).metrics])
    # The mean over both pairs of log π − log π_ref, each model read alone.
    first, then = (torch.cat(compute_log_probs(m, pairs, batch_size=1)) for m in (lm, other))
    (a, b, c, d) = (float(part.sum()) for part in (first - then).split([3, 5, 7, 1]))
    assert found["logratios/chosen"] == pytest.approx((a + c) / 2, rel=1e-4)
    assert found["logratios/rejected"] == pytest.approx((b + d) / 2, rel=1e-4)


@pytest.mark.parametrize("divergence", ["reverse_kl", "js_divergence"])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.3])
def test_the_rewards_that_are_logged_are_those_of_the_loss(
    alpha: float | None, divergence: Any
) -> None:
    # Of one pair, of 1 and of 9 tokens, the loss is −log σ(reward of chosen − of rejected).
    settings = DpoSettings(**NAMES, beta=0.5, ld_alpha=alpha, f_divergence_type=divergence)
    ((result,), _) = recorded("dpo", settings, GROUPS[:1])
    found = result.metrics
    margin = found["rewards/chosen"] - found["rewards/rejected"]
    assert found["rewards/margins"] == pytest.approx(margin, abs=1e-5)
    assert found["rewards/accuracies"] == float(margin > 0)
    assert found["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-5)


@pytest.mark.parametrize("average", [True, False])
def test_the_rewards_of_ipo_are_those_of_its_loss(average: bool) -> None:
    # Of one pair, of 1 and of 9 tokens: (margin/β − 1/(2β))² (Azar et al. 2023, eq. 17).
    settings = IpoSettings(**NAMES, beta=0.5, average_log_probs=average)
    ((result,), _) = recorded("ipo", settings, GROUPS[:1])
    found = result.metrics
    assert found["loss"] == pytest.approx((found["rewards/margins"] / 0.5 - 1) ** 2, abs=1e-4)
    assert ("logratios/chosen" in found) == average
    if average:  # of the whole response, where the reward is of a token's mean
        length = len(GROUPS[0].responses[0])
        assert found["rewards/chosen"] == pytest.approx(0.5 * found["logratios/chosen"] / length)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_losses_that_sort_pairs_refuse_rankings_by_their_own_name(loss: str) -> None:
    # The third row ranks three responses.
    with pytest.raises(SettingsError, match=rf"^loss_type={loss} .* rows.jsonl:3 ranks 3"):
        recorded("dpo", DpoSettings(**NAMES, loss_type=loss))


def test_passes_have_about_as_many_tokens() -> None:
    # Tokens 20, 9, 8, 7, 4: the largest first, each to the lighter side: 20 + 4 and 9 + 8 + 7.
    groups = random_groups([(10, (10,)), (4, (5,)), (4, (4,)), (3, (4,)), (2, (2,))], VOCABULARY)
    schedule = Schedule(rows=5, examples=5, micro_batch_size=3, accumulation=2)
    assert schedule.micro_batches(range(5), groups) == [[0, 4], [1, 2, 3]]
    # No pass above 17 tokens, as far as rows allow: 20 stays alone.
    capped = Schedule(rows=5, examples=5, micro_batch_size=3, accumulation=2, max_tokens=17)
    for rows in capped.micro_batches(range(5), groups):
        assert len(rows) == 1 or sum(groups[i].num_tokens for i in rows) <= 17


def test_rows_cross_the_ends_of_epochs_and_none_is_left_out() -> None:
    # 10 rows, 2.5 epochs: 25 examples, 6 a step in two passes of 3: four steps of 6, one of 1.
    schedule = Schedule(rows=10, examples=25, micro_batch_size=3, accumulation=2)
    assert schedule.examples_per_step == 6
    assert schedule.steps == 5
    order = RowOrder(10, seed=4)
    groups = random_groups([(4, (3, 3))] * 10, VOCABULARY)
    steps = [
        schedule.micro_batches(schedule.step_rows(s, order), groups) for s in range(schedule.steps)
    ]
    assert [[len(rows) for rows in step] for step in steps] == [[3, 3]] * 4 + [[1]]
    seen = [i for s in range(schedule.steps) for i in schedule.step_rows(s, order)]
    assert [sorted(seen[6 * s : 6 * s + 6]) for s in range(5)] == [
        sorted(i for rows in step for i in rows) for step in steps
    ]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert len(set(seen[20:])) == 5
    assert seen[:10] != seen[10:20]


def test_the_order_is_a_function_of_seed_and_position() -> None:
    order = RowOrder(7, seed=1)
    there = [order.at(i) for i in range(21)]
    backwards = [RowOrder(7, seed=1).at(i) for i in reversed(range(21))]
    assert there == backwards[::-1]
    assert [RowOrder(7, seed=2).at(i) for i in range(21)] != there
    assert Counter(there) == dict.fromkeys(range(7), 3)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(1, None, 10), (2.5, None, 25), (0.25, None, 3), (0.001, None, 1), (3, 4, 32)],
)
def test_examples_in_a_run(epochs: float, max_steps: int | None, expected: int) -> None:
    found = total_examples(10, epochs=epochs, max_steps=max_steps, step_size=8)
    assert found == expected


@pytest.mark.parametrize(("epochs", "expected"), [(1.1, 110), (0.07, 7), (0.29, 29), (1e-5, 1)])
def test_epochs_are_the_number_that_was_written(epochs: float, expected: int) -> None:
    # In floats 1.1·100 and 0.07·100 are above 110 and 7, so that a row too many was seen.
    assert total_examples(100, epochs=epochs, max_steps=None, step_size=8) == expected


def test_iterations_of_epochs_are_the_number_that_was_written() -> None:
    # 1.1·100 prompts are 11 iterations of 10, and a prompt more begins another one.
    assert num_batches(1.1, 100, 10) == 11
    assert num_batches(1.1, 101, 10) == 12  # 111.1 prompts


def test_the_schedule_of_settings() -> None:
    settings = SftSettings(
        **NAMES, per_device_train_batch_size=4, gradient_accumulation_steps=3, num_train_epochs=2
    )
    schedule = make_schedule(10, settings)
    assert (schedule.examples, schedule.examples_per_step, schedule.steps) == (20, 12, 2)


def test_epoch_and_learning_rate_are_told_and_set() -> None:
    # 8 rows, 2 a step, linear from 0.8: 4 steps at 1, ¾, ½, ¼ of it.
    settings = SftSettings(**NAMES, per_device_train_batch_size=2, learning_rate=0.8)
    results, recorder = recorded("sft", settings)
    assert [r.metrics["epoch"] for r in results] == [0.25, 0.5, 0.75, 1.0]
    assert recorder.rates == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert [r.metrics["learning_rate"] for r in results] == pytest.approx(recorder.rates)
    assert [(r.step, r.total) for r in results] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_learning_rate_shapes() -> None:
    # 10 steps, the first 2 warm-up: ½, 1; then 8 more from step 2.
    def shape(name: Any) -> list[float]:
        return [learning_rate_factor(s, 10, shape=name, warmup_ratio=0.2) for s in range(10)]

    assert shape("constant") == [0.5] + [1.0] * 9
    assert shape("linear") == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 0.5, 3 / 8, 2 / 8, 1 / 8]
    )
    cosine = [0.5 * (1 + math.cos(math.pi * s / 8)) for s in range(8)]
    assert shape("cosine") == pytest.approx([0.5, 1.0, *cosine])
    assert learning_rate_factor(10, 10, shape="linear", warmup_ratio=0.0) == 0.0
    assert learning_rate_factor(0, 1, shape="cosine", warmup_ratio=0.0) == 1.0


def test_gradients_are_clipped_to_a_norm() -> None:
    def parameter() -> torch.nn.Parameter:
        p = torch.nn.Parameter(torch.zeros(2))
        p.grad = torch.tensor([3.0, 4.0])  # norm 5
        return p

    clipped, whole, small = parameter(), parameter(), parameter()
    assert clip_gradients([clipped], 1.0) == 5.0
    assert clipped.grad is not None
    assert clipped.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
    assert clip_gradients([whole], 0) == 5.0
    assert whole.grad is not None
    assert whole.grad.tolist() == [3.0, 4.0]
    clip_gradients([small], 10.0)
    assert small.grad is not None
    assert small.grad.tolist() == [3.0, 4.0]


def test_matrices_alone_decay() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    settings = SftSettings(**NAMES, weight_decay=0.1, learning_rate=0.5, adam_beta1=0.8)
    optimiser = adamw([matrix, vector], settings)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    # No gradient: θ ← θ·(1 − lr·decay) = 0.95 for the matrix; the vector stays.
    assert matrix.detach().flatten().tolist() == pytest.approx([0.95] * 4)
    assert vector.detach().tolist() == [1.0, 1.0]
    assert optimiser.defaults["betas"] == (0.8, 0.999)


def test_the_optimiser_steps_in_place() -> None:
    weights = torch.nn.Parameter(torch.randn(300, 300))
    optimiser = adamw([weights], SftSettings(**NAMES))
    weights.grad = torch.randn(300, 300)
    optimiser.step()
    moments = optimiser.state[weights]
    tensors = (weights, moments["exp_avg"], moments["exp_avg_sq"])
    places, before = [t.data_ptr() for t in tensors], weights.detach().clone()
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as told:
        optimiser.step()
    assert not torch.equal(weights, before)
    assert [t.data_ptr() for t in tensors] == places
    # All that a step allocates is small beside the weights: none of them is copied on the way.
    allocated = [max(0, event.self_cpu_memory_usage) for event in told.events()]
    assert sum(allocated) < weights.nbytes / 10


def weights_after(objective_of: Any, settings: SftSettings) -> tuple[TrainState, Any, str]:
    """Run until the error; the state, whether the weights are the last step's, the message."""
    lm = model_for("sft")
    before = {n: p.detach().clone() for n, p in lm.trainable_parameters().items()}
    learner = Learner(
        lm.trainable_parameters(), adamw(lm.trainable_parameters().values(), settings)
    )
    state = TrainState({"model": learner}, FitState())
    steps = fit(state, GROUPS, objective_of(lm), METHODS["sft"].weight, settings, lm.device)

    def take_all() -> None:
        nonlocal before
        for _ in steps:
            before = {n: p.detach().clone() for n, p in lm.trainable_parameters().items()}

    with pytest.raises(TrainingError) as error:
        take_all()
    same = all(torch.equal(before[n], p) for n, p in lm.trainable_parameters().items())
    return state, same, str(error.value)


def test_nan_in_the_loss_names_the_rows_and_leaves_the_weights() -> None:
    # Row 5 (line 6) gives NaN; the steps before the one that holds it have moved the weights.
    settings = SftSettings(**NAMES, per_device_train_batch_size=2, learning_rate=0.01)
    bad = GROUPS[5]  # rows are told apart by their source

    def objective_of(lm: LanguageModel) -> Any:
        plain = METHODS["sft"].objective(lm, settings, GROUPS, reference_of(lm))

        def objective(
            batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool
        ) -> Losses:
            losses = plain.losses(batch, rows, context, log=log)
            broken = math.nan if bad in batch.groups else 1.0
            return Losses(losses.values * broken, losses.weights)

        return Objective(objective)

    state, same, message = weights_after(objective_of, settings)
    step = next(i // 2 for i in range(8) if RowOrder(8, 0).at(i) == 5)
    assert state.step == step
    assert same
    assert f"The loss is nan at step {step + 1}" in message
    assert "rows.jsonl:6" in message
    assert message.count("rows.jsonl:") == 2  # the batch's rows, and no others
    assert "lower learning_rate" in message


def test_nan_in_the_gradient_alone_is_caught() -> None:
    settings = SftSettings(**NAMES, per_device_train_batch_size=8)

    def objective_of(lm: LanguageModel) -> Any:
        def objective(
            batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool
        ) -> Losses:
            zero = 0 * lm.head.weight.sum()
            values = zero.sqrt().expand(1)  # 0, but its slope is 0·∞
            return Losses(values, torch.ones(1))

        return Objective(objective)

    state, same, message = weights_after(objective_of, settings)
    assert state.step == 0
    assert same
    assert "The gradient is nan at step 1" in message
    assert "rows.jsonl:1" in message


OF_EVERY_STEP = {"loss", "epoch", "learning_rate", "grad_norm", "num_tokens", "seconds"}


@pytest.mark.parametrize("name", KINDS)
def test_a_step_that_does_not_log_has_no_metrics_of_the_method(name: str) -> None:
    # Of 4 steps the third logs, and the last does in any case.
    kind, more = KINDS[name]
    settings = kind(**NAMES, **more, per_device_train_batch_size=2, logging_steps=3)
    results, _ = recorded(name, settings)
    told = [set(r.metrics) - OF_EVERY_STEP for r in results]
    assert told[:2] == [set(), set()]
    assert all(told[2:])


def test_a_step_that_does_not_log_computes_no_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def statistics(hidden: Tensor, head: Any, targets: Tensor, *args: Any, **more: Any) -> Any:
        passes.append(len(targets))
        return token_stats(hidden, head, targets, *args, **more)

    monkeypatch.setattr("accord.lm.forward.token_stats", statistics)
    # 4 steps of one pass each, of which the last logs in any case.
    settings = SftSettings(**NAMES, per_device_train_batch_size=2, logging_steps=100)
    results, _ = recorded("sft", settings)
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
