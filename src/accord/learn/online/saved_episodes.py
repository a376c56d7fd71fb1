"""Episodes saved on disk while an iteration lasts, so that a killed run need not sample again.

An iteration's episodes are in `episodes/` in the run's folder, written whole or not at all, until a
checkpoint of a later iteration exists: a run that resumes from its last checkpoint takes the same
steps on the same episodes, and samples only the iterations that it had not reached.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accord.learn.loop.checkpoints import newest_step
from accord.learn.online.episodes import Episodes
from accord.learn.online.sampling import PromptOrder
from accord.lm.packing import PromptGroup
from accord.runs import atomic_folder

FOLDER = "episodes"
REQUIRED = ("mask", "scores", "finished", "sampler_logps", "old_logps", "known")
OPTIONAL = ("ref_logps", "values", "entropy")


def save_episodes(
    output_dir: Path, iteration: int, episodes: Episodes, identity: Mapping[str, Any]
) -> None:
    """Write an iteration's episodes, and remove those that a checkpoint has made obsolete."""
    responses = [r for g in episodes.groups for r in g.responses]
    tensors = {name: getattr(episodes, name).contiguous() for name in REQUIRED}
    tensors["tokens"] = torch.tensor([t for r in responses for t in r])
    for name in OPTIONAL:
        if getattr(episodes, name) is not None:
            tensors[name] = getattr(episodes, name).contiguous()
    about = {
        **identity,
        "texts": episodes.texts,
        "off_policy": episodes.off_policy,
        "by_source": dict(episodes.by_source),
        "positions": episodes.positions,
        "sampling": dict(episodes.sampling),
        "discarded_tokens": episodes.discarded_tokens,
    }
    with atomic_folder(_episode_folder(output_dir, iteration)) as folder:
        save_file(tensors, folder / "episodes.safetensors")
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    checkpoint = newest_step(output_dir)
    for old in (output_dir / FOLDER).iterdir():
        if old.name < _episode_folder(output_dir, checkpoint).name and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)


def load_episodes(
    output_dir: Path,
    iteration: int,
    order: PromptOrder,
    identity: Mapping[str, Any],
) -> Episodes | None:
    """The saved episodes of an iteration, whose prompts are in the order; None where there are
    none of the same identity."""
    saved = _episode_folder(output_dir, iteration)
    try:
        about = json.loads((saved / "about.json").read_text(encoding="utf-8"))
        tensors = load_file(saved / "episodes.safetensors")
    except (OSError, ValueError, SafetensorError):
        return None  # they are sampled again
    if any(about.get(key) != value for key, value in identity.items()):
        return None
    lengths = tensors["mask"].sum(1).tolist()
    responses = [tuple(part.tolist()) for part in tensors["tokens"].split(lengths)]
    positions = tuple(about["positions"])
    k = len(responses) // len(positions)
    groups = tuple(
        PromptGroup(prompt, tuple(responses[p * k : (p + 1) * k]), source=record.source)
        for p, (prompt, record) in enumerate(map(order.at, positions))
    )
    return Episodes(
        groups=groups,
        texts=tuple(about["texts"]),
        off_policy=about["off_policy"],
        by_source=about["by_source"],
        positions=positions,
        sampling=about["sampling"],
        discarded_tokens=about["discarded_tokens"],
        **{name: tensors[name].clone() for name in REQUIRED},
        **{name: tensors[name].clone() for name in OPTIONAL if name in tensors},
    )


def remove_stale_episodes(output_dir: Path) -> None:
    """Remove episodes that do not follow the newest checkpoint: they belong to another run, whose
    checkpoints somebody removed."""
    iteration = newest_step(output_dir)
    while _episode_folder(output_dir, iteration).exists():
        iteration += 1
    for folder in (output_dir / FOLDER).glob("iteration-*"):
        if folder.name > _episode_folder(output_dir, iteration).name:
            shutil.rmtree(folder, ignore_errors=True)


def remove_episodes(output_dir: Path) -> None:
    """Remove all saved episodes of a finished run."""
    shutil.rmtree(output_dir / FOLDER, ignore_errors=True)


def _episode_folder(output_dir: Path, iteration: int) -> Path:
    return output_dir / FOLDER / f"iteration-{iteration:08d}"
