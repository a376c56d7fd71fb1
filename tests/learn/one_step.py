"""One step of each method on unequal rows: its loss and gradients.

Started with a launcher, in several processes: `one_step MICRO ACCUMULATION FOLDER`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save_file

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import Learner
from accord.learn.loop.processes import barrier, processes
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import compute_log_probs, stored_log_probs
from accord.lm.forward import check_packing
from accord.lm.model import LanguageModel
from accord.settings.stage_kinds import METHOD_SETTINGS
from tests.learn.test_fit import GROUPS, NAMES, NoTokenizer, Recorder, model_for
from tests.lm.models import causal


def one_step(name: str, micro: int, accumulation: int) -> dict[str, torch.Tensor]:
    """Gradients by parameter, and `loss`, of a step over all rows."""
    team, method = processes(), METHODS[name]
    settings: Any = METHOD_SETTINGS[name](
        **NAMES,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0,
    )
    lm, other = model_for(name), LanguageModel(causal("llama", seed=5), NoTokenizer(), "other")
    check_packing(other)
    groups = GROUPS
    if name == "kto":
        groups = [replace(g, labels=tuple(rank == 0 for rank in g.ranks)) for g in GROUPS]

    def reference(rows: Any) -> Any:
        return stored_log_probs(compute_log_probs(other, rows, batch_size=3, processes=team))

    parameters = lm.trainable_parameters()
    recorder = Recorder(list(parameters.values()))
    state = TrainState({"model": Learner(parameters, recorder)}, FitState())  # type: ignore[arg-type]
    objective = method.objective(lm, settings, groups, reference)
    (result,) = fit(state, groups, objective, method.weight, settings, lm.device, team)
    found = dict(zip(parameters, recorder.gradients[0], strict=True))
    found["loss"] = torch.tensor(result.metrics["loss"], dtype=torch.float64)
    return found


if __name__ == "__main__":
    assert processes().world_size > 1, "the launcher's variables were not read"
    for method_name in METHODS:
        step = one_step(method_name, int(sys.argv[1]), int(sys.argv[2]))
        if processes().is_main:
            save_file(step, f"{sys.argv[3]}/{method_name}.safetensors")
    barrier()
