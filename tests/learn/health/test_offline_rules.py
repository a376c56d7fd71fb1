"""Remarks on offline runs: each at its pattern, and none on a healthy run."""

from __future__ import annotations

import pytest

from accord.learn.health.rules import training_health
from tests.learn.health.courses import HEALTHY, linear_rows, remark_levels


def test_a_healthy_run_has_no_remarks() -> None:
    assert remark_levels(linear_rows(**HEALTHY)) == {}
    assert remark_levels(linear_rows(3, loss=(1.0, 9.0))) == {}  # too short for a trend


@pytest.mark.parametrize(
    ("fall", "margin", "level"),
    [
        (2.0, 1.0, None),  # 2 nats of 30 tokens
        (6.0, 1.0, "note"),  # 0.2 nats a token, and the margin grew
        (6.0, -0.1, "warning"),  # nothing was gained for it
        (20.0, 3.0, "warning"),  # 0.6 nats a token
    ],
)
def test_chosen_responses_that_become_unlikely_are_likelihood_displacement(
    fall: float, margin: float, level: str | None
) -> None:
    rows = linear_rows(
        **{
            **HEALTHY,
            "logps__chosen": (-50.0, -50.0 - fall * 20 / 18),  # the window is a tenth at each end
            "rewards__margins": (0.0, margin),
        }
    )
    assert remark_levels(rows).get("likelihood displacement") == level


def test_with_a_reference_displacement_is_measured_by_the_rewards() -> None:
    # The rows of the last steps are longer, so logps fall, but the rewards do not.
    rows = linear_rows(**{**HEALTHY, "logps__chosen": (-50.0, -90.0)})
    settings = {"model": "sft", "ref_model": None, "beta": 0.1}
    assert remark_levels(rows, settings) == {}
    rows = linear_rows(**{**HEALTHY, "rewards__chosen": (0.0, -2.0)})  # 20 nats of 30 tokens
    assert remark_levels(rows, settings) == {"likelihood displacement": "warning"}


def test_rewards_of_an_f_divergence_are_not_taken_for_nats() -> None:
    # Forward KL's reward of a chosen response that lost 2 nats is 1 − e² = −6.4 before beta, and
    # 6.4 nats of 30 tokens would be worth a remark.
    transformed = {**HEALTHY, "rewards__chosen": (0.0, -0.64)}
    settings = {"model": "sft", "ref_model": None, "beta": 0.1, "f_divergence_type": "forward_kl"}
    # Where no log-ratios were logged the log-probs decide.
    assert remark_levels(linear_rows(**transformed), settings) == {}
    log_ratios = {"logratios__chosen": (0.0, -2.0), "logratios__rejected": (0.0, -9.0)}
    assert remark_levels(linear_rows(**transformed, **log_ratios), settings) == {}
    log_ratios["logratios__chosen"] = (0.0, -20.0)
    assert remark_levels(linear_rows(**transformed, **log_ratios), settings) == {
        "likelihood displacement": "warning"
    }


def test_displacement_that_loses_held_out_accuracy_is_a_warning() -> None:
    rows = linear_rows(
        **{**HEALTHY, "logps__chosen": (-50.0, -57.0), "eval__rewards__accuracies": (0.7, 0.6)}
    )
    assert remark_levels(rows)["likelihood displacement"] == "warning"


def test_accuracy_without_a_margin_is_noted() -> None:
    rows = linear_rows(**{**HEALTHY, "rewards__margins": (0.0, 0.01)})
    assert remark_levels(rows) == {"accuracy without margin": "note"}


def test_a_length_that_differs_between_chosen_and_rejected_is_noted() -> None:
    rows = linear_rows(**{**HEALTHY, "lengths__chosen": (45.0, 45.0)})
    assert remark_levels(rows) == {"length": "note"}


def test_a_loss_near_zero_for_half_of_the_run_is_saturation() -> None:
    rows = linear_rows(**{**HEALTHY, "loss": (0.69, 0.0), "rewards__accuracies": (1.0, 1.0)})
    for row in rows[5:]:
        row["loss"] = 0.001
    assert remark_levels(rows) == {"saturation": "note"}


def test_overfitting_names_the_best_step() -> None:
    rows = linear_rows(**HEALTHY)
    for step, loss in ((5, 0.6), (10, 0.5), (15, 0.55), (20, 0.7)):
        rows[step - 1]["eval/loss"] = loss
    (remark,) = training_health(rows, {}, {})
    assert remark.about == "overfitting"
    assert "lowest at step 10 (0.500) and is 0.700 now" in remark.text
