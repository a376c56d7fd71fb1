"""Responses and verdicts added to a store, and the message of work that fails."""

from __future__ import annotations

from typing import Any

import pytest

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import Verdict
from accord.errors import AccordError, DataError
from accord.records import Message, Response

ASK = (Message("user", "2+2?"),)


def answers(store: PreferenceStore, *texts: str, models: str = "xyz") -> list[int]:
    """One response to ASK a text, by the models x, y, z in turn."""
    return store.add_responses(
        [Response(ASK, text, models[i % len(models)]) for i, text in enumerate(texts)]
    )


def add(store: PreferenceStore, verdict: Verdict) -> int:
    """Adds one verdict; its id."""
    return store.add_verdicts([verdict])[0]


def fails(work: Any, kind: type[AccordError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        work()
    return str(caught.value)
