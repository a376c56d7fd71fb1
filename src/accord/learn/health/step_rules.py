"""Rules on single steps: those that were taken back, or ended a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.learn.health.history import HealthRemark, Row

MAX_ROLLED_BACK = 0.1  # share of steps


def kl_limit(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Remarks on steps whose KL exceeded its limit: the run stopped, or was rolled back."""
    remarks = []
    stopped = [row for row in rows if row.get("stopped_by_kl") == 1]
    limit = settings.get("max_kl")
    if stopped:
        text = (
            f"The KL passed max_kl={limit} at step {stopped[-1].get('step')}, and training ended "
            f"there. If the score still grew, raise max_kl; if it fell, raise beta or lower "
            f"learning_rate."
        )
        remarks.append(HealthRemark("KL limit", "note", text))
    rolled_back = [row for row in rows if row.get("rolled_back") == 1]
    if rolled_back:
        is_frequent = len(rolled_back) > MAX_ROLLED_BACK * len(rows)
        text = (
            f"{len(rolled_back)} of {len(rows)} logged steps passed max_kl={limit} and were taken "
            f"back, the last at step {rolled_back[-1].get('step')}."
        )
        if is_frequent:
            text += " That is much work lost: lower learning_rate, or raise beta."
        remarks.append(HealthRemark("rolled back", "warning" if is_frequent else "note", text))
    return remarks


def skipped(rows: Sequence[Row]) -> list[HealthRemark]:
    """A remark on steps whose loss or gradient was not finite, so that they were rolled back."""
    not_finite = [row for row in rows if row.get("skipped") == 1]
    if not not_finite:
        return []
    text = (
        f"{len(not_finite)} of {len(rows)} logged steps had a loss or gradient that was not "
        f"finite, the last at step {not_finite[-1].get('step')}, and were taken back. Lower "
        f"learning_rate or max_grad_norm, or use precision=fp32; the third in a row ends the run."
    )
    return [HealthRemark("not finite", "warning", text)]
