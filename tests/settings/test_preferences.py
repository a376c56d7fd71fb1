"""Combinations of the settings of preference methods that are accepted or refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from accord.settings.preferences import DpoSettings

PATHS = {"model": "m", "dataset": "d", "output_dir": "o"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss_type": []}, "names? at least one|empty list"),
        ({"loss_type": ["sigmoid", "sigmoid"]}, "names a loss twice"),
        ({"loss_type": ["sigmoid", "hinge"], "loss_weights": [1.0]}, "1 weights for 2 losses"),
        ({"loss_type": "apo_zero", "f_divergence_type": "js_divergence"}, "reads each by itself"),
        ({"loss_type": "aot_unpaired", "use_weighting": True}, "`aot` takes them apart"),
        ({"loss_type": "aot", "ld_alpha": 0.5}, "compares whole responses"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "read by none of the losses"),
        ({"loss_type": "robust"}, "robust` is plain DPO .* Set `label_smoothing`"),
        ({"loss_type": ["robust", "sft"]}, "robust` is plain DPO"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [0, 0]}, "are all 0"),
        ({"loss_weights": [0.0]}, "are all 0"),
        ({"loss_weights": [-1]}, "holds -1, and a negative weight would maximise"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1, -0.2]}, "holds -0.2"),
        ({"precompute_ref_log_probs": False}, "needs `lora`"),
    ],
)
def test_wrong_combinations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DpoSettings(**PATHS, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"loss_type": ["sigmoid", "hinge"], "loss_weights": [1.0, 0.5]},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.0]},
        {"loss_type": "hinge", "f_divergence_type": "js_divergence"},
        {"loss_type": "robust", "label_smoothing": 0.1},
        {"precompute_ref_log_probs": False, "lora": {}},
    ],
)
def test_right_combinations_are_accepted(values: dict[str, Any]) -> None:
    assert DpoSettings(**PATHS, **values).losses
