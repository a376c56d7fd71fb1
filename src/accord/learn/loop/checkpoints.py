"""Checkpoints: all that a run needs to resume, written whole or not at all, without pickle."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accord.errors import SettingsError, StorageError
from accord.learn.loop.best import Best
from accord.learn.loop.processes import processes
from accord.learn.loop.state import (
    P,
    TrainState,
    restore_tensors,
    restore_weights,
    state_tensors,
)
from accord.runs import atomic_folder, remove_folder
from accord.settings.base import Settings
from accord.settings.identity import identity_settings, identity_values

FOLDER = "checkpoints"
SNAPSHOT = "start/"  # prefix of the names of the snapshot's tensors


def save_checkpoint(
    output_dir: Path, state: TrainState[P], settings: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `checkpoints/step-N`, then remove all but the newest `keep`, and the best evaluation's
    of each of these.

    Raises StorageError when it can't be written; older checkpoints are then untouched.
    """
    folder = _step_folder(output_dir, state.step)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = state_tensors(state)
    tensors |= {f"{SNAPSHOT}{name}": tensor for name, tensor in state.snapshot.items()}
    about = {
        "step": state.step,
        "numbers": asdict(state.progress),
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode("ascii"),
        "settings": dict(settings),
        "processes": processes().world_size,
    }
    if state.best.value is not None:
        about["best"] = asdict(state.best)
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "state.safetensors")
        (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    folders = _step_folders(output_dir)
    retained = {*folders[-keep:], *(_best_folder(output_dir, f) for f in folders[-keep:])}
    for old in folders:
        if old not in retained:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def load_best_weights(output_dir: Path, state: TrainState[P]) -> None:
    """Give the learners the weights of the best evaluation's checkpoint. Raises StorageError."""
    _, tensors = _read(_step_folder(output_dir, state.best.step))
    restore_weights(state, tensors)


def _best_folder(output_dir: Path, folder: Path) -> Path:
    """The checkpoint of the best evaluation that a checkpoint names, or the checkpoint itself."""
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return _step_folder(output_dir, int(about["best"]["step"]))
    except (OSError, ValueError, KeyError):
        return folder


def _step_folder(output_dir: Path, step: int) -> Path:
    return output_dir / FOLDER / f"step-{step:08d}"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A checkpoint's state.json and tensors. Raises StorageError where it can't be read."""
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return about, load_file(folder / "state.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(
            f"The checkpoint {folder} can't be read: {error}. Remove it to resume from the "
            f"previous one, or from the start."
        ) from error


def load_checkpoint(
    output_dir: Path, state: TrainState[P], settings: Settings, *, resume: bool
) -> bool:
    """Restore the state from the newest checkpoint; False when there is none.

    Raises SettingsError when it was written under settings that train another model, or when
    resuming was refused; StorageError when it can't be read.
    """
    folders = _step_folders(output_dir)
    if not folders:
        return False
    newest = folders[-1]
    if not resume:
        raise SettingsError(
            f"{output_dir} holds a checkpoint at step {int(newest.name[5:])}, and resume=false "
            f"refuses to resume from it. Name another output_dir, or remove {newest.parent}."
        )
    about, tensors = _read(newest)
    _check_settings(about["settings"], settings, newest)
    _check_world_size(about.get("processes", 1), newest)
    restore_tensors(state, tensors)
    state.snapshot = {
        name.removeprefix(SNAPSHOT): tensor
        for name, tensor in tensors.items()
        if name.startswith(SNAPSHOT)
    }
    state.step = int(about["step"])
    state.progress = _restored_progress(state.progress, about["numbers"])
    state.best = Best(**about.get("best", {}))
    rng = bytearray(base64.b64decode(about["torch_rng"]))
    torch.set_rng_state(torch.frombuffer(rng, dtype=torch.uint8).clone())
    return True


def _restored_progress(progress: P, numbers: Mapping[str, Any]) -> P:
    names = {field.name for field in fields(progress)}
    return replace(progress, **{k: v for k, v in numbers.items() if k in names})


def remove_checkpoints(output_dir: Path) -> None:
    """Remove all checkpoints of a run that finished, or whose settings changed."""
    remove_folder(output_dir / FOLDER)  # atomic: half a checkpoint would stop the next start


def newest_step(output_dir: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    folders = _step_folders(output_dir)
    return int(folders[-1].name.removeprefix("step-")) if folders else 0


def _step_folders(output_dir: Path) -> list[Path]:
    folder = output_dir / FOLDER
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.startswith("step-") and p.is_dir())


def _check_world_size(then: int, path: Path) -> None:
    now = processes().world_size
    if then != now:
        raise SettingsError(
            f"The checkpoint {path} was written by {then} process(es), and this run has {now}: a "
            f"step would have another number of rows. Start as many as before, or remove "
            f"{path.parent} to start over."
        )


def _check_settings(then: Mapping[str, Any], now: Settings, path: Path) -> None:
    saved, current = identity_values(then, type(now)), identity_settings(now)
    changed = [
        f"{key} was {saved.get(key)!r} and is {current.get(key)!r}"
        for key in sorted(set(saved) | set(current))
        if saved.get(key) != current.get(key)
    ]
    if changed:
        raise SettingsError(
            f"The checkpoint {path} was written under other settings: {'; '.join(changed)}. "
            f"Set them back to resume, name another output_dir, or remove {path.parent} to start "
            f"over."
        )
