"""What a training stage's numbers say about its health, in plain words.

Rules over the rows of metrics.jsonl: each looks at means over the first and the last tenth of the
run, so that one noisy step decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Row = Mapping[str, Any]

FELL = 0.1  # nats a token that the chosen may lose before it is told
HARMFUL = 0.5  # nats a token from which it is a warning whatever else holds
ACCURATE = 0.7
NO_MARGIN = 0.02  # reward margin, in nats after beta
LONGER = 1.3  # ratio of lengths
SATURATED = 0.05  # of the first loss
UNUSED = 0.05  # share of rows
OVERFITTED = 0.1  # share by which the held-out loss is above its least
START_AWAY = 0.05  # |reward| of the first step beyond which the reference is another model
FEWEST = 10  # rows before anything is said of a course


@dataclass(frozen=True, slots=True)
class Health:
    """One remark: what it is about, how serious, and a sentence or two with the remedy."""

    about: str
    level: Literal["warning", "note", "good"]
    text: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def training_health(
    rows: Sequence[Row], settings: Mapping[str, Any], data: Mapping[str, Any]
) -> list[Health]:
    """Remarks on a run so far: its logged rows, its settings, and its data.json.

    What was not logged is not judged; with few rows only data and reference are.
    """
    found = [*_unused(data), *_reference(rows, settings)]
    if len(rows) >= FEWEST:
        course = _Course(rows)
        found += [
            *_displacement(course, settings),
            *_margins(course),
            *_lengths(course),
            *_saturation(course),
            *_overfitting(rows),
        ]
    return found


class _Course:
    """Means of a metric over the first and the last tenth of the rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.window = max(1, len(rows) // 10)

    def first(self, name: str) -> float | None:
        return _mean(self.rows[: self.window], name)

    def last(self, name: str) -> float | None:
        return _mean(self.rows[-self.window :], name)

    def change(self, name: str) -> float | None:
        first, last = self.first(name), self.last(name)
        return None if first is None or last is None else last - first


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [float(r[name]) for r in rows if isinstance(r.get(name), int | float)]
    return sum(values) / len(values) if values else None


def _unused(data: Mapping[str, Any]) -> list[Health]:
    read, encoded = data.get("read") or {}, data.get("encoded") or {}
    total = int(read.get("rows") or encoded.get("records") or 0)
    used = encoded.get("used")
    found = []
    if total and isinstance(used, int) and total - used > UNUSED * total:
        reasons = {**(read.get("dropped") or {}), **(encoded.get("dropped") or {})}
        counts = {r: len(v) if isinstance(v, list) else int(v) for r, v in reasons.items()}
        most = max(counts, key=lambda r: counts[r]) if counts else "unknown"
        text = (
            f"{total - used:,} of {total:,} rows are not learned from, most because: {most}. "
            f"`accord data check` shows them."
        )
        found.append(Health("unused rows", "warning", text))
    cut = int(encoded.get("responses_cut") or 0)
    if total and cut > UNUSED * total:
        text = (
            f"{cut:,} responses were cut at max_length and have lost their end, so the model "
            f"learns from them not to stop. Raise max_length, or set long_responses=drop."
        )
        found.append(Health("cut responses", "warning", text))
    return found


def _reference(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Health]:
    other = settings.get("ref_model")
    if other and other != settings.get("model"):
        text = (
            f"The reference ({other}) is not the model that training started from "
            f"({settings.get('model')}): rewards do not begin at 0, and the penalty pulls towards "
            f"the reference from the first step. Meant so? Else leave ref_model out."
        )
        return [Health("reference", "warning", text)]
    if rows and "ref_model" in settings and rows[0].get("step") == 1:
        reward = rows[0].get("rewards/chosen")
        if isinstance(reward, int | float) and abs(reward) > START_AWAY:
            text = (
                f"rewards/chosen is {reward:.2f} at the first step, where policy and reference "
                f"should be equal and it 0: they compute differently (precision, dropout), or the "
                f"reference's log-probs are another model's."
            )
            return [Health("reference", "warning", text)]
    return []


def _nats(course: _Course, side: str, settings: Mapping[str, Any]) -> float | None:
    """How the log-prob of the chosen or rejected responses changed.

    Where there is a reference, rewards tell: they do not depend on which rows a step happened on.
    """
    reward, beta = course.change(f"rewards/{side}"), settings.get("beta")
    if "ref_model" in settings and reward is not None and beta:
        return reward / float(beta)
    return course.change(f"logps/{side}")


def _displacement(course: _Course, settings: Mapping[str, Any]) -> list[Health]:
    """Likelihood displacement: the chosen responses themselves become less likely."""
    fell, worse = (_nats(course, side, settings) for side in ("chosen", "rejected"))
    length = course.last("lengths/chosen")
    if fell is None or worse is None or not length:
        return []
    a_token = fell / length
    if a_token > -FELL:
        return []
    margin = course.change("rewards/margins") or 0.0
    held_out = course.change("eval/rewards/accuracies")
    text = (
        f"The chosen responses lost {-fell:.1f} nats ({-a_token:.2f} a token) while the rejected "
        f"lost {-worse:.1f}. "
    )
    remedy = (
        "Add `sft` to loss_type, raise beta, or stop earlier, and look at the model's own answers."
    )
    if a_token < -HARMFUL:
        text += f"That is far: the probability has gone to answers nobody compared. {remedy}"
        return [Health("likelihood displacement", "warning", text)]
    if margin <= 0 or (held_out is not None and held_out < 0):
        text += f"Nothing was gained for it. {remedy}"
        return [Health("likelihood displacement", "warning", text)]
    text += (
        "The order of the pairs improved, so this is common and need not harm; whether it does, "
        "the model's own answers show (true reward, arena)."
    )
    return [Health("likelihood displacement", "note", text)]


def _margins(course: _Course) -> list[Health]:
    accuracy, margin = course.last("rewards/accuracies"), course.last("rewards/margins")
    if accuracy is None or margin is None or accuracy < ACCURATE or margin > NO_MARGIN:
        return []
    text = (
        f"The order is right in {accuracy:.0%} of pairs, but by a margin of {margin:.3f} only: the "
        f"model has hardly moved. Train longer, or raise learning_rate."
    )
    return [Health("accuracy without margin", "note", text)]


def _lengths(course: _Course) -> list[Health]:
    found = []
    chosen, rejected = course.last("lengths/chosen"), course.last("lengths/rejected")
    if chosen and rejected and not 1 / LONGER < chosen / rejected < LONGER:
        which = "longer" if chosen > rejected else "shorter"
        text = (
            f"Chosen responses are {which} ({chosen:.0f} tokens against {rejected:.0f}), so length "
            f"alone is rewarded. Compare at equal length in the report; `ld_alpha` (DPO) or "
            f"`length_regularisation` (reward) take length out."
        )
        found.append(Health("length", "note", text))
    first, last = course.first("response_length"), course.last("response_length")
    if first and last and not 1 / LONGER < last / first < LONGER:
        text = (
            f"Answers went from {first:.0f} to {last:.0f} tokens. If the reward grew with them, "
            f"look at it at equal length."
        )
        found.append(Health("length", "warning", text))
    return found


def _saturation(course: _Course) -> list[Health]:
    half = course.rows[len(course.rows) // 2 :]
    first, loss = course.first("loss"), _mean(half, "loss")
    accuracy = _mean(half, "rewards/accuracies")
    if first is None or loss is None or accuracy is None:
        return []
    if accuracy < 0.99 or abs(loss) > SATURATED * abs(first):
        return []
    text = (
        f"Saturated: in the second half the order was right in {accuracy:.0%} of pairs and the "
        f"loss {loss:.3f}, so steps only widen margins. Fewer epochs give the same, nearer to the "
        f"reference."
    )
    return [Health("saturation", "note", text)]


def _overfitting(rows: Sequence[Row]) -> list[Health]:
    losses = [(int(r["step"]), float(r["eval/loss"])) for r in rows if r.get("eval/loss")]
    if len(losses) < 3:
        return []
    step, least = min(losses, key=lambda pair: pair[1])
    last = losses[-1][1]
    if last - least <= OVERFITTED * abs(least):
        return []
    text = (
        f"The held-out loss was least at step {step} ({least:.3f}) and is {last:.3f} now: "
        f"overfitted. Fewer epochs, or a lower learning_rate."
    )
    return [Health("overfitting", "warning", text)]
