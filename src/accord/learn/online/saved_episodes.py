"""Episodes kept on disk while an iteration lasts, so that a killed run need not sample again.

An iteration's episodes lie in `episodes/` in the run's folder, written whole or not at all, until
a checkpoint of a later iteration is there: so a run that goes on from its last checkpoint takes
the same steps on the same episodes, and samples only where it had not come to before.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from accord.learn.loop.checkpoints import newest_step
from accord.learn.online.episodes import Episodes
from accord.lm.packing import PromptGroup
from accord.records import PromptOnly
from accord.runs import atomic_folder

FOLDER = "episodes"
ALWAYS = ("mask", "scores", "finished", "sampler_logps", "old_logps", "known")
MAYBE = ("ref_logps", "values", "entropy")


def keep_episodes(
    output_dir: Path, iteration: int, episodes: Episodes, identity: Mapping[str, Any]
) -> None:
    """Write an iteration's episodes, and remove those that a checkpoint has made needless."""
    responses = [r for g in episodes.groups for r in g.responses]
    tensors = {name: getattr(episodes, name).contiguous() for name in ALWAYS}
    tensors["tokens"] = torch.tensor([t for r in responses for t in r])
    for name in MAYBE:
        if getattr(episodes, name) is not None:
            tensors[name] = getattr(episodes, name).contiguous()
    about = {
        **identity,
        "texts": episodes.texts,
        "off_policy": episodes.off_policy,
        "by_source": dict(episodes.by_source),
    }
    with atomic_folder(_place(output_dir, iteration)) as folder:
        save_file(tensors, folder / "episodes.safetensors")
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    checkpoint = newest_step(output_dir)
    for old in (output_dir / FOLDER).iterdir():
        if old.name < _place(output_dir, checkpoint).name and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)


def kept_episodes(
    output_dir: Path,
    iteration: int,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    identity: Mapping[str, Any],
) -> Episodes | None:
    """The episodes of an iteration, where they were kept under the same identity, whole."""
    place = _place(output_dir, iteration)
    try:
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        tensors = load_file(place / "episodes.safetensors")
    except (OSError, ValueError, SafetensorError):
        return None  # sampled anew
    if any(about.get(key) != value for key, value in identity.items()):
        return None
    lengths = tensors["mask"].sum(1).tolist()
    responses = [tuple(part.tolist()) for part in tensors["tokens"].split(lengths)]
    k = len(responses) // len(prompts)
    groups = tuple(
        PromptGroup(prompt, tuple(responses[p * k : (p + 1) * k]), source=record.source)
        for p, (prompt, record) in enumerate(zip(prompts, records, strict=True))
    )
    return Episodes(
        groups=groups,
        texts=tuple(about["texts"]),
        off_policy=about["off_policy"],
        by_source=about["by_source"],
        **{name: tensors[name].clone() for name in ALWAYS},
        **{name: tensors[name].clone() for name in MAYBE if name in tensors},
    )


def drop_strays(output_dir: Path) -> None:
    """Remove what can't be this run's: episodes that do not follow on its newest checkpoint, as
    where somebody removed the checkpoints of another run."""
    iteration = newest_step(output_dir)
    while _place(output_dir, iteration).exists():
        iteration += 1
    for place in (output_dir / FOLDER).glob("iteration-*"):
        if place.name > _place(output_dir, iteration).name:
            shutil.rmtree(place, ignore_errors=True)


def remove_episodes(output_dir: Path) -> None:
    """Remove what was kept, when a run has ended."""
    shutil.rmtree(output_dir / FOLDER, ignore_errors=True)


def _place(output_dir: Path, iteration: int) -> Path:
    return output_dir / FOLDER / f"iteration-{iteration:08d}"
