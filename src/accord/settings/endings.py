"""What the settings of a training stage's end allow: early stopping, the best model, the hub."""

from __future__ import annotations

from typing import Any

BEST_KEYS = frozenset(
    {
        "early_stopping_patience",
        "early_stopping_threshold",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
    }
)
"""The settings of early stopping and of the best model: part of the identity where one is on."""


def check_best(settings: Any) -> None:
    """Raise ValueError where early stopping or the best model can't do what is asked.

    `settings` are a TrainSettings.
    """
    used = settings.changed(*sorted(BEST_KEYS))
    if used is None:
        return
    if not settings.tracks_best:
        raise ValueError(
            f"`{used}` does nothing without `load_best_model_at_end` or "
            f"`early_stopping_patience`. Set one of these, or leave it out."
        )
    if settings.eval_steps is None:
        raise ValueError(
            f"`{used}` compares evaluations, and there is one at most. Set `eval_dataset` and "
            f"`eval_steps`."
        )
    if settings.metric_for_best_model is None and settings.DEFAULT_BEST_METRIC is None:
        raise ValueError(
            f"`{used}` needs `metric_for_best_model`: an online method's evaluation has no loss. "
            f"Name one of its metrics, such as `objective/scores` (larger is better)."
        )
    if settings.early_stopping_threshold and settings.early_stopping_patience is None:
        raise ValueError(
            "`early_stopping_threshold` does nothing without `early_stopping_patience`. Set that "
            "too, or leave it out."
        )


def check_hub(settings: Any) -> None:
    """Raise ValueError where the settings of the upload (of a TrainSettings) don't fit together."""
    if settings.push_to_hub != (settings.hub_model_id is not None):
        raise ValueError(
            "`push_to_hub: true` and `hub_model_id: OWNER/NAME` go together. Set both, or none."
        )
    if not settings.hub_private_repo and not settings.push_to_hub:
        raise ValueError(
            "`hub_private_repo` does nothing without `push_to_hub`. Set that too, or leave it out."
        )
