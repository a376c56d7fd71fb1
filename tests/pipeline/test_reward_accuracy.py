"""A reward model's accuracy on comparisons whose responses were cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accord.pipeline.stages.measure import _reward_accuracy
from accord.records import Comparison, Ranking
from accord.settings.stages import EvaluateSettings


def test_responses_that_were_cut_are_scored_as_cut() -> None:
    seen: list[tuple[str, bool]] = []

    def reward(prompts: Any, texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
        seen.extend(zip(texts, finished, strict=True))
        return [float(ended) for ended in finished]  # it prefers what ends by itself

    records = [
        Comparison("p", "a", "b", rejected_finished=False),
        Comparison("p", "c", "d", chosen_finished=False),
        Ranking("q", ("e", "f", "g"), (1, 0, 1), finished=(False, True, True)),
    ]
    settings = EvaluateSettings.model_construct(world=False, clear_gap=0.2)
    accuracy = _reward_accuracy(records, reward, settings)
    assert seen == [
        ("a", True), ("b", False), ("c", False), ("d", True),
        ("f", True), ("e", False), ("f", True), ("g", True),
    ]  # fmt: skip
    # Of four pairs: right, wrong, right, and a tie, which is half right.
    assert accuracy["accuracy"]["mean"] == 2.5 / 4  # type: ignore[index]
