"""Checkpoints: all that a run needs to resume, written whole or not at all, without pickle."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accord.errors import SettingsError, StorageError
from accord.learn.loop.best import Best
from accord.learn.loop.processes import processes
from accord.learn.loop.sharded_checkpoints import load_parts, save_parts
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

    Where processes divide a model, all call this together, and each writes its part. Raises
    StorageError when it can't be written; older checkpoints are then untouched.
    """
    folder, procs = _step_folder(output_dir, state.step), processes()
    tensors = state_tensors(state)
    tensors |= {f"{SNAPSHOT}{name}": tensor for name, tensor in state.snapshot.items()}
    about = {
        "step": state.step,
        "numbers": asdict(state.progress),
        "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode("ascii"),
        "settings": dict(settings),
        "processes": procs.world_size,
        "sharded": state.is_sharded,
        "step_processes": state.step_processes or procs.world_size,
    }
    if state.best.value is not None:
        about["best"] = asdict(state.best)
    if state.is_sharded:
        _save_together(folder, state, tensors, json.dumps(about))
    else:
        with atomic_folder(folder) as temporary:
            save_file(tensors, temporary / "state.safetensors")
            (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    if not procs.is_main:
        return folder
    folders = _step_folders(output_dir)
    retained = {*folders[-keep:], *(_best_folder(output_dir, f) for f in folders[-keep:])}
    for old in folders:
        if old not in retained:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _save_together(
    folder: Path, state: TrainState[Any], tensors: Mapping[str, torch.Tensor], about: str
) -> None:
    """Write a checkpoint by all processes: the main one makes its folder, and gives it its name
    when all have written their parts."""
    procs = processes()
    with ExitStack() as stack:
        made = procs.run_on_all(
            lambda: stack.enter_context(atomic_folder(folder)) if procs.is_main else folder
        )
        temporary = made[0]
        procs.run_on_all(lambda: save_parts(temporary, state, tensors))
        if procs.is_main:
            (temporary / "state.json").write_text(about, encoding="utf-8")
    procs.all_gather(None)  # none goes on, and is killed, before the checkpoint has its name


def load_best_weights(output_dir: Path, state: TrainState[P]) -> None:
    """Give the learners the weights of the best evaluation's checkpoint. Raises StorageError."""
    folder = _step_folder(output_dir, state.best.step)
    restore_weights(state, _read_tensors(folder, state))


def _best_folder(output_dir: Path, folder: Path) -> Path:
    """The checkpoint of the best evaluation that a checkpoint names, or the checkpoint itself."""
    try:
        about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return _step_folder(output_dir, int(about["best"]["step"]))
    except (OSError, ValueError, KeyError):
        return folder


def _step_folder(output_dir: Path, step: int) -> Path:
    return output_dir / FOLDER / f"step-{step:08d}"


def _read_about(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises StorageError where it can't be read."""
    with _reading(folder):
        about: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return about


def _read_tensors(folder: Path, state: TrainState[Any]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors; of divided ones this process's part, whoever wrote them."""
    file = folder / "state.safetensors"
    if state.is_sharded or (not file.is_file() and any(folder.glob("shard-*.safetensors"))):
        return load_parts(folder, state)
    with _reading(folder):
        return load_file(file)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
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
    about = _read_about(newest)
    _check_settings(about["settings"], settings, newest)
    if not (state.is_sharded or about.get("sharded")):
        _check_world_size(about.get("processes", 1), newest)
    tensors = _read_tensors(newest, state)
    restore_tensors(state, tensors)
    state.snapshot = {
        name.removeprefix(SNAPSHOT): tensor
        for name, tensor in tensors.items()
        if name.startswith(SNAPSHOT)
    }
    state.step = int(about["step"])
    state.step_processes = int(about.get("step_processes", about.get("processes", 1)))
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
            f"step would have another number of rows. Start as many as before, or with "
            f"sharding=fsdp, under which any number resumes; or remove {path.parent} to start over."
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
