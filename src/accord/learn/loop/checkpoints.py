"""Checkpoints: all that a run needs to go on, written whole or not at all, without pickle."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.errors import SettingsError, StorageError
from accord.learn.loop.learner import Learner
from accord.learn.loop.processes import processes
from accord.runs import atomic_folder, remove_folder
from accord.settings.endpoint import deciding
from accord.settings.preferences import OF_A_PASS

FOLDER = "checkpoints"
START = "start/"  # of the names of tensors to go back to
# Settings that may change between a stop and going on: they do not change what is learned.
FREE = frozenset(
    {
        "output_dir",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "resume",
        "device",
        "precompute_ref_log_probs",
        "max_tokens_per_forward",
    }
)


@dataclass
class TrainState:
    """What changes during a run: learners by name, steps done, and a method's own numbers."""

    learners: dict[str, Learner]
    step: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)
    snapshot: dict[str, Tensor] = field(default_factory=dict)
    """Weights and moments that a rollback restores, where a method keeps them."""


def state_tensors(state: TrainState) -> dict[str, Tensor]:
    """All weights that learn and their optimiser's moments, by name; not copied."""
    tensors: dict[str, Tensor] = {}
    for name, learner in state.learners.items():
        for parameter_name, parameter in learner.parameters.items():
            tensors[f"{name}/weight/{parameter_name}"] = parameter.detach().contiguous()
            for key, value in learner.optimiser.state.get(parameter, {}).items():
                tensors[f"{name}/{key}/{parameter_name}"] = torch.as_tensor(value).contiguous()
    return tensors


def put_tensors(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    """Copy what `state_tensors` gave, here or in another process, back into the state."""
    for name, learner in state.learners.items():
        for parameter_name, parameter in learner.parameters.items():
            with torch.no_grad():
                parameter.copy_(tensors[f"{name}/weight/{parameter_name}"])
            kept = {
                key: tensors[f"{name}/{key}/{parameter_name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}/{key}/{parameter_name}" in tensors
            }
            learner.optimiser.state.pop(parameter, None)
            if kept:
                learner.optimiser.state[parameter] = {
                    k: v.to(parameter.device, copy=True) for k, v in kept.items()
                }
        learner.publish()


def save_checkpoint(
    output_dir: Path, state: TrainState, settings: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `checkpoints/step-N`, then remove all but the newest `keep`.

    Raises StorageError when the disk does not take it; older checkpoints are then untouched.
    """
    folder = output_dir / FOLDER / f"step-{state.step:08d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = state_tensors(state)
    tensors |= {f"{START}{name}": tensor for name, tensor in state.snapshot.items()}
    about = {
        "step": state.step,
        "numbers": state.numbers,
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode("ascii"),
        "settings": dict(settings),
        "processes": processes().world_size,
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    for old in _steps(output_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_checkpoint(
    output_dir: Path, state: TrainState, settings: Mapping[str, Any], *, resume: bool
) -> bool:
    """Bring the state to the newest checkpoint in place; False when there is none.

    Raises SettingsError when it was written under settings that would learn something else, or
    when going on was refused; StorageError when it can't be read.
    """
    found = _steps(output_dir)
    if not found:
        return False
    newest = found[-1]
    if not resume:
        raise SettingsError(
            f"{output_dir} holds a checkpoint at step {int(newest.name[5:])}, and resume=false "
            f"refuses to go on from it. Name another output_dir, or remove {newest.parent}."
        )
    try:
        about = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(newest / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(
            f"The checkpoint {newest} can't be read: {error}. Remove it to go on from the one "
            f"before, or from the start."
        ) from error
    _same_settings(about["settings"], settings, newest)
    _same_processes(about.get("processes", 1), newest)
    put_tensors(state, tensors)
    state.snapshot = {
        name.removeprefix(START): tensor
        for name, tensor in tensors.items()
        if name.startswith(START)
    }
    state.step = int(about["step"])
    state.numbers = about["numbers"]
    rng = bytearray(base64.b64decode(about["torch_rng"]))
    torch.set_rng_state(torch.frombuffer(rng, dtype=torch.uint8).clone())
    return True


def remove_checkpoints(output_dir: Path) -> None:
    """Remove all checkpoints of a run that ended well, or whose settings changed."""
    remove_folder(output_dir / FOLDER)  # at once: half a checkpoint would stop the next start


def newest_step(output_dir: Path) -> int:
    """The step of the newest checkpoint in place; 0 where there is none."""
    found = _steps(output_dir)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def changing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what is learned; how a server or judge is reached does not, nor how
    steps are split into passes, but for losses that look at a whole pass."""
    kept = {key: value for key, value in settings.items() if key not in FREE}
    most = settings.get("max_tokens_per_forward")
    if most is not None and OF_A_PASS & _losses(settings):
        kept["max_tokens_per_forward"] = most
    if isinstance(sampler := kept.get("sampler"), Mapping):
        kept["sampler"] = {key: value for key, value in sampler.items() if key in ("kind", "model")}
    return {key: deciding(value) for key, value in kept.items()}


def _losses(settings: Mapping[str, Any]) -> set[str]:
    """The losses named by settings: none, one, or a list of several."""
    named = settings.get("loss_type") or []
    return {named} if isinstance(named, str) else set(named)


def _steps(output_dir: Path) -> list[Path]:
    folder = output_dir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith("step-") and p.is_dir())


def _same_processes(then: int, place: Path) -> None:
    now = processes().world_size
    if then != now:
        raise SettingsError(
            f"The checkpoint {place} was written by {then} process(es), and this run has {now}: a "
            f"step would have another number of rows. Start as many as before, or remove "
            f"{place.parent} to begin anew."
        )


def _same_settings(then: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    then, current = changing(then), changing(json.loads(json.dumps(dict(now))))
    changed = [
        f"{key} was {then.get(key)!r} and is {current.get(key)!r}"
        for key in sorted(set(then) | set(current))
        if then.get(key) != current.get(key)
    ]
    if changed:
        raise SettingsError(
            f"The checkpoint {place} was written under other settings: {'; '.join(changed)}. "
            f"Set them back to go on, name another output_dir, or remove {place.parent} to begin "
            f"anew."
        )
