"""Settings of `revise` that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from accord.settings.revise import ReviseSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": []}, "Give one of the two"),
        ({"dataset": "p.jsonl"}, "Give one of the two"),
        ({"assume_better": True}, "Keep one of the two"),
        ({"dialogue_text": "keep"}, "about the rows of `dataset`"),
        ({"reviser": {"kind": "world"}, "responses": [], "dataset": "p"}, "answers nothing"),
        ({"reviser": {"kind": "endpoint", "model": "m"}}, "needs `base_url`"),
        ({"reviser": {"kind": "local"}}, "needs `model`"),
        ({"reviser": {"model": "m", "max_calls": 3}}, "`max_calls` does nothing with `kind=local`"),
        ({"reviser": {"kind": "world", "temperature": 0}}, "`temperature` does nothing"),
        ({"reviser": {"model": "m", "misses": 0.5}}, "`misses` does nothing"),
        ({"reviser": {"kind": "endpoint", "model": "m", "base_url": "h"}}, "not the address"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], message: str) -> None:
    values = {
        "responses": ["r.jsonl"],
        "output_dir": "o",
        "reviser": {"model": "m"},
        "judge": {"kind": "world"},
    }
    with pytest.raises(ValidationError, match=message):
        ReviseSettings(**{**values, **change})
