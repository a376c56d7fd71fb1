"""One method of accord, step by step: waits for a line, takes a step, tells its seconds.

The loop, objective and optimiser are those of `accord train`. The reference's log-probs of a
step's rows are timed on their own, so that both kinds of comparison can be made.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from lockstep import worker_arguments

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.objective import Reference
from accord.learn.loop.schedule import RowOrder, make_schedule
from accord.learn.loop.stage import peak_memory_mb
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import compute_log_probs
from accord.learn.offline.rows import encode_rows, load_starting_model
from accord.lm.packing import PackedBatch, PromptGroup
from accord.records import Comparison, Demonstration, Ranking, Rating, Record
from accord.settings.stage_kinds import METHOD_SETTINGS


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def record_of(method: str, number: int, row: dict[str, Any]) -> Record:
    if method == "sft":
        return Demonstration(row["prompt"], row["chosen"])
    if method == "kto":
        side = "chosen" if number % 2 else "rejected"
        return Rating(row["prompt"], row[side], float(number % 2))
    if len(row["responses"]) > 2:
        ranks = tuple(range(len(row["responses"])))
        return Ranking(row["prompt"], tuple(row["responses"]), ranks)
    return Comparison(row["prompt"], row["chosen"], row["rejected"])


class TimedReference:
    """Log-probs of a step's rows, computed when the step begins and timed apart from it."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self.seconds = 0.0

    def of(self, groups: Sequence[PromptGroup]) -> Reference:
        known: dict[int, torch.Tensor] = {}

        def look_up(batch: PackedBatch, rows: Sequence[int]) -> torch.Tensor:
            missing = [i for i in rows if i not in known]
            if missing:
                began = time.perf_counter()
                chosen = [groups[i] for i in missing]
                found = compute_log_probs(self.lm, chosen, batch_size=len(missing))
                known.update(zip(missing, found, strict=True))
                self.seconds += time.perf_counter() - began
            return torch.cat([known[i] for i in rows])

        return look_up


def main() -> None:
    given = worker_arguments(METHODS)
    place = str(given.folder / "model")
    settings = METHOD_SETTINGS[given.method](
        model=place,
        dataset=str(given.folder / "rows.json"),
        output_dir=str(given.folder / "accord"),
        per_device_train_batch_size=given.rows,
        max_steps=given.steps,
        precision=given.precision,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_length=2048,
        device="cpu",
    )
    method = METHODS[given.method]
    lm = load_starting_model(settings, scalar=method.scalar)
    rows = json.loads((given.folder / "rows.json").read_text())[: given.rows * given.steps]
    order = RowOrder(len(rows), settings.seed)
    records = [record_of(given.method, i, row) for i, row in enumerate(rows)]
    # Laid so that the loop's shuffled order deals them as they stand in the file.
    places = {order.at(i): record for i, record in enumerate(records)}
    groups, _ = encode_rows([places[i] for i in range(len(rows))], lm, settings)
    reference = TimedReference(lm)
    objective = method.objective(lm, settings, groups, reference.of)
    state = TrainState({"model": make_learner(lm, settings)}, FitState())
    steps = fit(state, groups, objective, method.weight, settings, lm.device)
    schedule = make_schedule(len(groups), settings)
    tell({"threads": torch.get_num_threads()})
    for _ in sys.stdin:
        in_step = [groups[i] for i in schedule.step_rows(state.step, order)]
        reference.seconds, began = 0.0, time.perf_counter()
        if next(steps, None) is None:
            return
        seconds = time.perf_counter() - began
        tell(
            {
                "step": seconds - reference.seconds,
                "reference": reference.seconds,
                "memory": peak_memory_mb(),
                "tokens": sum(g.num_tokens for g in in_step),
                "response_tokens": sum(len(r) for g in in_step for r in g.responses),
            }
        )


if __name__ == "__main__":
    main()
