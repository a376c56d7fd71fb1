"""The health of a training stage, as remarks in plain words.

The rules read the rows of metrics.jsonl. Most compare means over the first and the last tenth of
the run, so that one noisy step decides nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from accord.learn.health.collapse_rules import collapse_health, refusal_health
from accord.learn.health.history import HealthRemark, MetricHistory, Row
from accord.learn.health.offline_rules import offline_health
from accord.learn.health.online_rules import online_health
from accord.learn.health.step_rules import kl_limit, skipped
from accord.lm.digest import is_same_path
from accord.settings.stage_kinds import METHOD_SETTINGS

MAX_UNUSED = 0.05  # share of rows
MAX_START_REWARD = 0.05  # |reward| of the first step; above it the reference is another model
MIN_ROWS = 10  # logged rows before trends are judged


def training_health(
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    held_out: Mapping[str, Any] | None = None,
    *,
    finished: bool = False,
) -> list[HealthRemark]:
    """Remarks on a run so far, from its logged rows, its settings, its data.json and (`held_out`)
    its eval_data.json; `finished` is whether it is at its end.

    Metrics that were not logged are not judged. With fewer than MIN_ROWS rows only the data, the
    reference, the KL limit and steps that were not finite are.
    """
    remarks = [*_unused(data, settings), *_reference(rows, settings), *kl_limit(rows, settings)]
    remarks += [*skipped(rows), *refusal_health(rows)]
    if len(rows) >= MIN_ROWS:
        history = MetricHistory(rows)
        used = ((held_out or {}).get("encoded") or {}).get("used")
        remarks += offline_health(history, settings, used, finished=finished)
        remarks += [*online_health(history, settings), *collapse_health(history)]
    return remarks


def _unused(data: Mapping[str, Any], settings: Mapping[str, Any]) -> list[HealthRemark]:
    read, encoded = data.get("read") or {}, data.get("encoded") or {}
    unread, dropped = _counts(read.get("dropped")), _counts(encoded.get("dropped"))
    num_unread = sum(unread.values())
    # A row may give several records, one for each response to its prompt; each record counts.
    records = encoded.get("records")
    total = int(read.get("rows") or 0) if records is None else num_unread + int(records)
    unused = num_unread + sum(dropped.values())
    remarks = []
    if total and unused > MAX_UNUSED * total:
        counts = {**unread, **dropped}
        main_reason = max(counts, key=lambda r: counts[r])
        because = "because" if len(counts) == 1 else "mostly because"
        text = f"{unused:,} of {total:,} rows are not learned from, {because}: {main_reason}."
        command = check_command(settings)
        if command is not None:
            text += f" `{command}` shows them."
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


def check_command(settings: Mapping[str, Any]) -> str | None:
    """The command that shows which rows a stage leaves out; None for rows in memory.

    What is left out depends on the model's tokens and on the stage's limits, so it names them.
    """
    dataset, model = settings.get("dataset"), settings.get("model")
    in_memory = " in memory"  # how rows and models that have no path are named
    if not isinstance(dataset, str) or not isinstance(model, str) or in_memory in dataset + model:
        return None
    words = ["accord", "data", "check", dataset, "--model", model]
    methods = [name for name, c in METHOD_SETTINGS.items() if set(c.model_fields) == set(settings)]
    fields = METHOD_SETTINGS[methods[0]].model_fields if methods else {}
    if methods:
        words += ["--method", methods[0]]
    for key in ("max_length", "max_prompt_length"):
        if settings.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(settings[key])]
    for key in ("long_prompts", "long_responses", "loss_on", "dialogue_text"):
        value = settings.get(key)
        if value is not None and key in fields and value != fields[key].default:
            words.append(f"{key}={value}")
    return shlex.join(words)


def _counts(dropped: Mapping[str, Any] | None) -> dict[str, int]:
    """The number of dropped rows by reason; a value may be the number or the list of rows."""
    return {r: len(v) if isinstance(v, list) else int(v) for r, v in (dropped or {}).items()}


def _reference(rows: Sequence[Row], settings: Mapping[str, Any]) -> list[HealthRemark]:
    reference, start = settings.get("ref_model"), settings.get("model")
    if reference and not (start and is_same_path(reference, start)):
        text = (
            f"The reference ({reference}) is not the model that training started from ({start}): "
            f"rewards do not begin at 0, and the penalty pulls towards the reference from the "
            f"first step. Rounds with a fixed reference intend this; otherwise leave ref_model out."
        )
        return [HealthRemark("reference", "note", text)]
    if rows and "ref_model" in settings and rows[0].get("step") == 1:
        reward = rows[0].get("rewards/chosen")
        if isinstance(reward, int | float) and abs(reward) > MAX_START_REWARD:
            text = (
                f"rewards/chosen is {reward:.2f} at the first step, where policy and reference "
                f"should be equal and the reward 0: they compute differently (precision, dropout), "
                f"or the reference's log-probs are another model's."
            )
            return [HealthRemark("reference", "warning", text)]
    return []
