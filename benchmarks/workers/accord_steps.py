"""One training method of accord, a step at a time: sends the step's seconds and memory.

The loop, objective and optimiser are those of `accord train`. The reference's log-probs of a
step's rows are timed separately, so that both kinds of comparison can be made.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from file_order import arrange_for_file_order
from protocol import offline_arguments, send, wait_for_device

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.objective import Reference
from accord.learn.loop.schedule import RowOrder, make_schedule
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference_cache import compute_log_probs
from accord.learn.offline.rows import encode_rows, load_starting_model
from accord.lm.packing import PackedBatch, PromptGroup
from accord.records import (
    Comparison,
    Demonstration,
    Ranking,
    Rating,
    Record,
    prompt_from_json,
)
from accord.settings.stage_kinds import METHOD_SETTINGS


def make_record(method: str, number: int, row: dict[str, Any]) -> Record:
    prompt = prompt_from_json(row["prompt"])
    chosen, rejected = (answer_text(row[side]) for side in ("chosen", "rejected"))
    if method == "sft":
        return Demonstration(prompt, chosen)
    if method == "kto":
        return Rating(prompt, chosen if number % 2 else rejected, float(number % 2))
    if len(row.get("responses", ())) > 2:
        ranks = tuple(range(len(row["responses"])))
        return Ranking(prompt, tuple(row["responses"]), ranks)
    return Comparison(prompt, chosen, rejected)


def answer_text(answer: str | list[dict[str, str]]) -> str:
    """An answer's text; a conversation's rows hold it as a list of one message, as TRL's do."""
    return answer if isinstance(answer, str) else answer[0]["content"]


class TimedReference:
    """Log-probs of a step's rows, computed when the step begins and timed separately."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self.seconds = 0.0

    def make(self, groups: Sequence[PromptGroup]) -> Reference:
        row_logps: dict[int, torch.Tensor] = {}

        def look_up(batch: PackedBatch, rows: Sequence[int]) -> torch.Tensor:
            missing = [i for i in rows if i not in row_logps]
            if missing:
                start_time = time.perf_counter()
                computed = compute_log_probs(
                    self.lm, [groups[i] for i in missing], batch_size=len(missing)
                )
                row_logps.update(zip(missing, computed, strict=True))
                self.seconds += time.perf_counter() - start_time
            return torch.cat([row_logps[i] for i in rows])

        return look_up


def main() -> None:
    args = offline_arguments(METHODS)
    settings = METHOD_SETTINGS[args.method](
        model=str(args.folder / "model"),
        dataset=str(args.folder / "rows.json"),
        output_dir=str(args.folder / "accord"),
        per_device_train_batch_size=args.rows,
        max_steps=args.steps,
        precision=args.precision,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_length=2048,
        device=args.device,
        lora={"target_modules": "all-linear"} if args.lora else None,
    )
    method = METHODS[args.method]
    lm = load_starting_model(settings, scalar=method.scalar)
    if args.compile:  # each by itself, for any number of tokens
        for layer in lm.backbone.layers:
            layer.compile(dynamic=True)
    rows = json.loads((args.folder / "rows.json").read_text())[: args.rows * args.steps]
    records = [make_record(args.method, i, row) for i, row in enumerate(rows)]
    groups, _ = encode_rows(arrange_for_file_order(records, settings.seed), lm, settings)
    reference = TimedReference(lm)
    objective = method.objective(lm, settings, groups, reference.make)
    state = TrainState({"model": make_learner(lm, settings)}, FitState())
    steps = fit(state, groups, objective, method.weight, settings, lm.device)
    schedule, order = make_schedule(len(groups), settings), RowOrder(len(groups), settings.seed)
    send({"threads": torch.get_num_threads()})
    for _ in sys.stdin:
        step_groups = [groups[i] for i in schedule.step_rows(state.step, order)]
        reference.seconds, start_time = 0.0, time.perf_counter()
        if next(steps, None) is None:
            return
        wait_for_device()
        seconds = time.perf_counter() - start_time
        send(
            {
                "step": seconds - reference.seconds,
                "reference": reference.seconds,
                "memory": peak_memory_mb(),
                "tokens": sum(g.num_tokens for g in step_groups),
                "response_tokens": sum(len(r) for g in step_groups for r in g.responses),
            }
        )


if __name__ == "__main__":
    main()
