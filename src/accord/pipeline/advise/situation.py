"""What the rules of `accord advise` look at: facts that were measured or stated, no opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from accord.measure.statistics import Interval

Goal = Literal["helpful", "safe", "verifiable", "style"]
GOALS: Mapping[Goal, str] = {
    "helpful": "answers that people prefer",
    "safe": "refusing what is harmful, and nothing else",
    "verifiable": "a task whose answer a rule can check",
    "style": "a form or tone that demonstrations show",
}
Verdict = Literal["pass", "warn", "fail", "undecided"]
RewardKind = Literal["model", "rule", "judge"]


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts. None is unknown, and a rule that needs an unknown fact does not apply.

    `demonstrations`, `pairs` and `labels` are rows that can be used; a ranking counts as the pairs
    of its neighbours. `repeats` is how often a pair that was judged twice got the same label,
    `words` how often a simple model of words predicts the label of an unseen prompt's pair.
    `leaks` counts rows whose prompt is held out or in an evaluation set. `pairs_from` is who wrote
    the answers that were compared.

    `probe` is the verdict of `accord probe` on the reward, and `accuracy` that of its audit of
    held-out pairs. `gain` is how much the best of
    `answers` of the model's answers scores above their mean by the reward, in standard deviations
    of all scores, and `tied` the share of prompts whose answers all score the same.

    `candidates` is how many answers a request may cost at inference. `online_fits` says whether
    the machine can sample during training, with the reason in `machine`. `files` are the largest
    file of each kind of data.
    """

    goal: Goal = "helpful"
    supervised: bool = True
    demonstrations: int = 0
    pairs: int = 0
    labels: int = 0
    prompts: int = 0
    repeats: Interval | None = None
    words: Interval | None = None
    leaks: int = 0
    pairs_from: Literal["model", "elsewhere"] | None = None
    reward: RewardKind | None = None
    probe: Verdict | None = None
    accuracy: Verdict | None = None
    answers: int = 0
    gain: Interval | None = None
    tied: float | None = None
    candidates: int = 1
    trainable: bool = True
    online_fits: bool = True
    machine: str = ""
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def preferences(self) -> int:
        """Pairs, and labels as the pairs that they could form."""
        return self.pairs + self.labels // 2

    @property
    def trusted(self) -> bool:
        """There is a reward, and nothing is known against it."""
        return self.reward is not None and self.probe != "fail"

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Interval):
                value = value.to_json()
            values[item.name] = dict(value) if isinstance(value, Mapping) else value
        return values
