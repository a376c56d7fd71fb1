"""What identifies a stage's work, and the state in which its last run left it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accord.runs import digest_json, digest_path
from accord.settings.base import Settings
from accord.settings.identity import (
    growing_keys,
    identity_settings,
    identity_values,
    input_paths,
)
from accord.settings.recipe import StagePlan
from accord.settings.stage_kinds import settings_class

STAGE_FILE = "stage.json"


def stage_identity(plan: StagePlan) -> dict[str, Any]:
    """What identifies a stage's work: kind, method, settings, the digests of its inputs, and one
    digest of all of these.

    All settings but the output folder are listed; only those that change the result are part of the
    digest.
    """
    settings = plan.settings.model_dump(mode="json")
    settings.pop("output_dir", None)
    paths = sorted({path for path in input_paths(plan.settings) if os.path.exists(path)})
    identity = {
        "stage": plan.kind,
        "method": plan.method,
        "name": plan.name,
        "settings": settings,
        "inputs": {path: digest_path(path) for path in paths},
    }
    return {**identity, "digest": _digest(identity, identity_settings(plan.settings))}


def _digest(identity: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    keys = ("stage", "method", "name", "inputs")
    return digest_json({**{key: identity.get(key) for key in keys}, "settings": settings})


def is_finished(plan: StagePlan, before: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Whether `before`, the folder's stage.json, records this very work as finished."""
    saved, settings = before.get("settings", {}), identity["settings"]
    same_extent = all(saved.get(key) == settings[key] for key in growing_keys(plan.settings))
    return bool(
        before.get("digest") == identity["digest"] and before.get("finished") and same_extent
    )


def describe_state(plan: StagePlan) -> str:
    """Whether the stage is finished, and if not, why it will run."""
    before, now = read_stage(stage_folder(plan)), stage_identity(plan)
    if not before:
        return "not begun"
    if before.get("digest") != now["digest"]:
        return "to run again: " + describe_change(before, now)
    if not before.get("finished"):
        return "resumes where it stopped"
    if not is_finished(plan, before, now):
        return f"resumes: {describe_change(before, now)}"
    return f"finished {before['finished']}"


def describe_change(before: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The settings that differ from those of the last run, or else the inputs."""
    then, now = before.get("settings", {}), identity["settings"]
    keys = [k for k in sorted(set(then) | set(now)) if then.get(k) != now.get(k)]
    if keys:
        return ", ".join(_describe_value(k, then.get(k), now.get(k)) for k in keys[:3])
    digests = before.get("inputs", {})
    changed = [path for path, digest in identity["inputs"].items() if digests.get(path) != digest]
    return f"{changed[0]} has changed" if changed else "its inputs have changed"


def _describe_value(key: str, then: Any, now: Any) -> str:
    if isinstance(then, list | dict) or isinstance(now, list | dict):
        return f"{key} changed"  # a list of contestants would fill the screen
    return f"{key} was {then!r}, is {now!r}"


def read_stage(folder: Path) -> dict[str, Any]:
    """The folder's stage.json; empty if there is none, or it is not a record of a stage."""
    try:
        stage = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_record = isinstance(stage, dict) and {"stage", "settings"} <= set(stage)
    return _without_removed_settings(stage) if is_record else {}


def _without_removed_settings(stage: dict[str, Any]) -> dict[str, Any]:
    """stage.json as this version writes it, without the settings that earlier versions had.

    Their values had no effect but were part of the digest: where one was not the default, the
    digest is computed again with the default, as `stage_identity` does. A digest that does not
    match its record stays, so that the stage runs again.
    """
    kind = _recorded_class(stage)
    settings = stage.get("settings")
    if kind is None or not isinstance(settings, dict):
        return stage
    removed = {key: settings[key] for key in kind.REMOVED if key in settings}
    if not removed:
        return stage
    identity = identity_values(settings, kind)
    if stage.get("digest") == _digest(stage, {**identity, **removed}):
        stage = {**stage, "digest": _digest(stage, identity)}
    rest = {key: value for key, value in settings.items() if key not in removed}
    return {**stage, "settings": rest}


def _recorded_class(stage: Mapping[str, Any]) -> type[Settings] | None:
    try:
        return settings_class(str(stage.get("stage")), stage.get("method"))
    except (KeyError, TypeError):
        return None


def is_same_kind(plan: StagePlan, before: Mapping[str, Any]) -> bool:
    """Whether this kind of stage and method wrote `before`, the folder's stage.json."""
    return (before.get("stage"), before.get("method")) == (plan.kind, plan.method)


def stage_folder(plan: StagePlan) -> Path:
    """The folder that the stage writes to."""
    return Path(plan.settings.output_dir)  # type: ignore[attr-defined]
