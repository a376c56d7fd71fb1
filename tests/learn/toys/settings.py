"""Settings for tests whose models and rows are in memory."""

from __future__ import annotations

from typing import Any

from accord.settings.groups import GROUP_METHODS
from accord.settings.ppo import PPO_METHODS

REQUIRED = {"model": "toy", "dataset": "toy", "output_dir": "nowhere"}
"""The settings that have no default; no test that uses these reads or writes a file."""

ONLINE_SETTINGS: dict[str, Any] = {**PPO_METHODS, **GROUP_METHODS}


def online_settings(method: str = "ppo", **overrides: Any) -> Any:
    """Settings of an online method with 8 episodes of up to 6 tokens an iteration."""
    groups = {} if method == "ppo" else {"num_generations": 4}
    return ONLINE_SETTINGS[method](
        **{
            **REQUIRED,
            "reward_model": "toy",
            "per_device_train_batch_size": 8,
            "max_new_tokens": 6,
            "learning_rate": 1e-3,
            **groups,
            **overrides,
        }
    )
