"""What a training stage's metrics say about its health, in plain words.

Rules over the rows of metrics.jsonl: each compares means over the first and the last tenth of the
run, so that one noisy step decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.learn.health.history import HealthRemark, MetricHistory, Row
from accord.learn.health.offline_rules import offline_health
from accord.learn.health.online_rules import kl_limit, online_health, skipped
from accord.lm.digest import is_same_path

MAX_UNUSED = 0.05  # share of rows
MAX_START_REWARD = 0.05  # |reward| of the first step; above it the reference is another model
MIN_ROWS = 10  # logged rows before trends are judged


def training_health(
    rows: Sequence[Row], settings: Mapping[str, Any], data: Mapping[str, Any]
) -> list[HealthRemark]:
    """Remarks on a run so far: its logged rows, its settings, and its data.json.

    What was not logged is not judged; with few rows only data, reference and the KL limit are.
    """
    remarks = [*_unused(data), *_reference(rows, settings), *kl_limit(rows, settings)]
    remarks += skipped(rows)
    if len(rows) >= MIN_ROWS:
        history = MetricHistory(rows)
        remarks += [*offline_health(history, settings), *online_health(history, settings)]
    return remarks


def _unused(data: Mapping[str, Any]) -> list[HealthRemark]:
    read, encoded = data.get("read") or {}, data.get("encoded") or {}
    unread, dropped = _counts(read.get("dropped")), _counts(encoded.get("dropped"))
    left_out = sum(unread.values())
    # A row may be several records, as with the responses to a prompt; each counts one.
    records = encoded.get("records")
    total = int(read.get("rows") or 0) if records is None else left_out + int(records)
    unused = left_out + sum(dropped.values())
    remarks = []
    if total and unused > MAX_UNUSED * total:
        counts = {**unread, **dropped}
        most = max(counts, key=lambda r: counts[r])
        text = (
            f"{unused:,} of {total:,} rows are not learned from, most because: {most}. "
            f"`accord data check` shows them."
        )
        remarks.append(HealthRemark("unused rows", "warning", text))
    cut = int(encoded.get("responses_cut") or 0)
    if total and cut > MAX_UNUSED * total:
        text = (
            f"{cut:,} responses were cut at max_length and have lost their end, so the model "
            f"learns from them not to stop. Raise max_length as far as the model has positions, or "
            f"set long_responses=drop."
        )
        remarks.append(HealthRemark("cut responses", "warning", text))
    return remarks


def _counts(dropped: Mapping[str, Any] | None) -> dict[str, int]:
    """How many were dropped for each reason, which has their number or their list."""
    return {r: len(v) if isinstance(v, list) else int(v) for r, v in (dropped or {}).items()}


def _reference(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[HealthRemark]:
    other, start = settings.get("ref_model"), settings.get("model")
    if other and not (start and is_same_path(other, start)):
        text = (
            f"The reference ({other}) is not the model that training started from "
            f"({start}): rewards do not begin at 0, and the penalty pulls towards "
            f"the reference from the first step. Rounds with a fixed reference mean it so; else "
            f"leave ref_model out."
        )
        return [HealthRemark("reference", "note", text)]
    if rows and "ref_model" in settings and rows[0].get("step") == 1:
        reward = rows[0].get("rewards/chosen")
        if isinstance(reward, int | float) and abs(reward) > MAX_START_REWARD:
            text = (
                f"rewards/chosen is {reward:.2f} at the first step, where policy and reference "
                f"should be equal and it 0: they compute differently (precision, dropout), or the "
                f"reference's log-probs are another model's."
            )
            return [HealthRemark("reference", "warning", text)]
    return []
