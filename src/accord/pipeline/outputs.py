"""What each kind of stage writes into its folder: nothing else there is replaced or removed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from accord.errors import SettingsError
from accord.runs import read_manifest, remove_folder, storage_errors
from accord.settings.identity import input_paths
from accord.settings.recipe import StagePlan

RECORDS = ("stage.json", "manifest.json")
_STORE = ("store.db", "store.db.partial*", "store.db-*")
OUTPUTS: dict[str, tuple[str, ...]] = {
    "world": (
        "corpus.jsonl",
        "demonstrations.jsonl",
        "train_prompts.jsonl",
        "test_prompts.jsonl",
        "model",
    ),
    "scratch": ("model",),
    "split": ("train.jsonl", "test.jsonl", "data.json"),
    "train": (
        "model",
        "critic",
        "checkpoints",
        "episodes",
        "published",
        "start-*.safetensors",
        "metrics.jsonl",
        "data.json",
        "eval_data.json",
        "reference_data.json",
        "health.json",
        "judges.json",
        "best.json",
        "trackers.json",
        "tensorboard",
        "wandb",
    ),
    "sample": ("responses.jsonl", "responses.partial.jsonl", ".responses.jsonl"),
    "revise": (
        "revisions.jsonl",
        "revisions.partial.jsonl",
        "conversations.jsonl",
        "sft.jsonl",
        *_STORE,
        "revise.json",
    ),
    "compare": (*_STORE, "counts.json"),
    "select": ("responses.jsonl", "judges.json"),
    "iterate": ("round-*", "rounds.json", "model"),
    "arena": (*_STORE, "counts.json", "ratings.json"),
    "evaluate": ("evaluation.json",),
    "audit": ("audit.json", "before", "after", "tasks"),
    "redteam": ("redteam.json", "attempts.jsonl"),
    "probe": ("probe.json", "scores.jsonl"),
    "curve": ("curve.json", "scores.jsonl", "responses"),
    "report": ("report.html", "results.json"),
}
"""Patterns of the names in a stage's folder that the stage writes, by the kind of stage."""

MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.py",
    "README.md",
    "merges.txt",
    "vocab.txt",
)
"""Patterns of the files that models and tokenizers of any architecture are saved in."""

_SHOWN = 3  # paths that a message names


def check_inputs(plan: StagePlan, folder: Path, *, shares_folder: bool) -> None:
    """Raise SettingsError where the stage would write into one of its inputs, or over one."""
    output = Path(os.path.realpath(folder))
    for path in input_paths(plan.settings):
        if not os.path.exists(path):
            continue  # a hub name, or what an earlier stage will write
        source = Path(os.path.realpath(path))
        if output.is_relative_to(source) and not shares_folder:
            raise SettingsError(
                f"output_dir={folder} of `{plan.name}` lies in its input {path}, which what the "
                f"stage writes would change. Name an output_dir outside of it."
            )
        if _is_output(plan, output, source):
            raise SettingsError(
                f"`{plan.name}` would write over its input {path}, which lies in its "
                f"output_dir={folder}. Name another output_dir."
            )


def check_separate(plans: Sequence[StagePlan]) -> None:
    """Raise SettingsError where a stage's folder is within what another stage writes."""
    for plan in plans:
        outer = Path(os.path.realpath(_output_dir(plan)))
        for other in plans:
            inner = Path(os.path.realpath(_output_dir(other)))
            if other is not plan and inner != outer and _is_output(plan, outer, inner):
                raise SettingsError(
                    f"output_dir={_output_dir(other)} of `{other.name}` lies in what `{plan.name}` "
                    f"writes. Leave it out, or name a folder beside the others."
                )


def _output_dir(plan: StagePlan) -> str:
    folder: str = plan.settings.output_dir  # type: ignore[attr-defined]
    return folder


def _is_output(plan: StagePlan, folder: Path, path: Path) -> bool:
    """Whether a path is at or below what the stage writes into its folder."""
    if path == folder or not path.is_relative_to(folder):
        return False
    name = Path(path.relative_to(folder).parts[0])
    return any(name.match(pattern) for pattern in OUTPUTS[plan.kind])


def check_nothing_in_the_way(plan: StagePlan, folder: Path) -> None:
    """Raise SettingsError where a folder without a record of accord has what a stage would
    replace."""
    names = [*(() if plan.kind == "report" else RECORDS), *OUTPUTS[plan.kind]]
    in_the_way = existing(folder, names)
    if in_the_way:
        reason = "accord has no record of writing them"
        if read_manifest(folder) is not None:
            reason = "they are those of a run from Python, which resumes there"
        raise _foreign_error(plan, in_the_way, reason)


def existing(folder: Path, names: Sequence[str]) -> list[Path]:
    """What a folder has of the names (patterns); of a folder that is not empty its first file."""
    return [next(_files(entry), entry) for entry in _entries(folder, names)]


def check_only_written(plan: StagePlan, folder: Path, before: Mapping[str, Any]) -> None:
    """Raise SettingsError where files were added to the folders that a stage wrote, and that
    another run of it would replace."""
    if before.get("finished") and not isinstance(before.get("files"), list):
        return  # a stage of an earlier version
    present = written_files(plan, folder)
    if before.get("finished"):
        written = set(before["files"])
        added = [name for name in present if name not in written]
    else:  # stopped: of its models we know what they may consist of
        in_models = [name for name in present if name.startswith(("model/", "critic/"))]
        added = [n for n in in_models if not any(Path(n).match(p) for p in MODEL_FILES)]
    if added:
        paths = [folder / name for name in added]
        raise _foreign_error(plan, paths, "it was not written by the stage that ran here before")


def _foreign_error(plan: StagePlan, paths: Sequence[Path], reason: str) -> SettingsError:
    shown = ", ".join(map(str, paths[:_SHOWN]))
    more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
    return SettingsError(
        f"`{plan.name}` would replace {shown}{more}, and {reason}. Move what you need away, or "
        f"name another output_dir."
    )


def written_files(plan: StagePlan, folder: Path) -> list[str]:
    """The files in the folders that the stage has written, relative to its folder, in order."""
    entries = [e for e in _entries(folder, OUTPUTS[plan.kind]) if e.is_dir()]
    return sorted(p.relative_to(folder).as_posix() for e in entries for p in _files(e))


def remove_outputs(plan: StagePlan, folder: Path) -> list[str]:
    """Remove what the stage has written; returns the names of what else is in the folder.

    Of a link only the link is removed.
    """
    with storage_errors(folder):
        for entry in _entries(folder, [*RECORDS, *OUTPUTS[plan.kind]]):
            if entry.is_dir() and not entry.is_symlink():
                remove_folder(entry)
            else:
                entry.unlink(missing_ok=True)
        return sorted(e.name for e in folder.iterdir() if not e.name.startswith("."))


def _entries(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """What a folder has of the names, broken links too."""
    with suppress(FileNotFoundError, NotADirectoryError):
        entries = sorted(folder.iterdir())
        return [e for e in entries if any(Path(e.name).match(pattern) for pattern in patterns)]
    return []


def _files(path: Path) -> Iterator[Path]:
    """The files below a folder; links are not followed, and count as files."""
    for root, folders, files in os.walk(path):
        links = [f for f in folders if Path(root, f).is_symlink()]
        yield from (Path(root, name) for name in sorted([*files, *links]))
