"""Settings of a red team that make no sense, each with what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from accord.settings.redteam import RedteamSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Give `model`"),
        ({"model": "m", "models": [{"model": "n"}]}, "Give `model`"),
        ({"models": [{"model": "m"}, {"model": "m"}]}, "Give each a `name`"),
        ({"model": "m", "suites": []}, "There is no suite"),
        ({"model": "m", "attacks": ["pair*2"]}, "needs `attacker`"),
        ({"model": "m", "at_attempts": [0]}, "at least 1"),
        ({"model": "m", "judge": {"kind": "reward_model", "model": "r"}}, "can't say whether"),
        ({"model": "m", "grader": {"refusals": 2, "refusals_found": 1}}, None),
        ({"model": "m", "grader": {"refusals": 2, "refusals_found": 3}}, "Exchange"),
        ({"model": "m", "grader": {"refusals_found": 3}}, "hardly better than chance"),
        ({"models": [{"model": "m", "prefill": True}]}, "belongs to an endpoint"),
        ({"models": [{"model": "m", "base_url": "h"}]}, "full address"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str | None) -> None:
    if message is None:
        RedteamSettings(output_dir="out", **settings)
        return
    with pytest.raises(ValueError, match=message):
        RedteamSettings(output_dir="out", **settings)
