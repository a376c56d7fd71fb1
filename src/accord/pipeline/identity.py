"""What identifies a stage's work, and what became of it when it was last run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accord.learn.loop.checkpoints import changing
from accord.runs import digest_json, digest_path
from accord.settings.endpoint import deciding
from accord.settings.recipe import StagePlan

STAGE_FILE = "stage.json"

PLACES = frozenset(
    "model dataset eval_dataset reward_model ref_model reference reference_dataset ptx_dataset "
    "responses comparisons evaluation ratings tokenizer earlier principles_file".split()
)
"""Settings that name a file or folder which a stage reads, where it is not on the hub."""

GROWS = {"iterate": "rounds"}
"""Kinds of stages that go on from what is there when this setting changes."""


def identity_of(plan: StagePlan) -> dict[str, Any]:
    """What identifies a stage's work: kind, method, settings, and its inputs by digest.

    Settings of training that do not change what is learned are told, but do not count, and neither
    does what a finished stage may be given more of.
    """
    settings = plan.settings.model_dump(mode="json")
    settings.pop("output_dir", None)
    places = {place for place in _named(settings) if Path(place).exists()}
    inputs = {place: digest_path(place) for place in sorted(places)}
    about = {
        "stage": plan.kind,
        "method": plan.method,
        "name": plan.name,
        "settings": settings,
        "inputs": inputs,
    }
    return {**about, "digest": digest_json({**about, "settings": _decisive(plan, settings)})}


def _decisive(plan: StagePlan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what the stage makes."""
    grows = GROWS.get(plan.kind)
    learns = plan.kind in ("train", "iterate", "sample")
    kept = changing(settings) if learns else deciding(settings)
    if plan.kind == "iterate":
        kept["train"] = changing(settings["train"])
    return {k: v for k, v in kept.items() if k != grows}


def is_finished(plan: StagePlan, before: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Whether `before`, the folder's stage.json, is of this very work, done to its end."""
    grows = GROWS.get(plan.kind)
    as_far = grows is None or before.get("settings", {}).get(grows) == about["settings"][grows]
    return bool(before.get("digest") == about["digest"] and before.get("finished") and as_far)


def _named(value: Any, key: str = "") -> Iterator[str]:
    """Values of the settings in PLACES, in tables and lists too."""
    if isinstance(value, str) and key in PLACES:
        yield value
    elif isinstance(value, str) and key == "function":
        yield _code(value.partition(":")[0])
    elif isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _named(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, key)


def _code(place: str) -> str:
    """The file of a module or file of rewards."""
    if Path(place).suffix == ".py":
        return place
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError, AttributeError):
        return place  # told when it is imported
    return (spec and spec.origin) or place


def places_of(plan: StagePlan) -> list[str]:
    """What the stage's settings name as its inputs."""
    return list(_named(plan.settings.model_dump(mode="json")))


def state_of(plan: StagePlan) -> str:
    """Whether the stage is finished, and if not, why it will run."""
    before, now = read_stage(folder_of(plan)), identity_of(plan)
    if not before:
        return "not begun"
    if before.get("digest") != now["digest"]:
        return "to run again: " + changed(before, now)
    if before.get("finished") and not is_finished(plan, before, now):
        return f"goes on: {changed(before, now)}"
    return (
        f"finished {before['finished']}" if before.get("finished") else "goes on where it stopped"
    )


def changed(before: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What is not as it was: settings, else inputs."""
    then, now = before.get("settings", {}), about["settings"]
    keys = [k for k in sorted(set(then) | set(now)) if then.get(k) != now.get(k)]
    if keys:
        return ", ".join(_change(k, then.get(k), now.get(k)) for k in keys[:3])
    places = [p for p, d in about["inputs"].items() if before.get("inputs", {}).get(p) != d]
    return f"{places[0]} has changed" if places else "its inputs have changed"


def _change(key: str, then: Any, now: Any) -> str:
    if isinstance(then, list | dict) or isinstance(now, list | dict):
        return f"{key} changed"  # a list of contestants would fill the screen
    return f"{key} was {then!r}, is {now!r}"


def read_stage(folder: Path) -> dict[str, Any]:
    """The folder's stage.json; empty where there is none."""
    try:
        found = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def same_kind(plan: StagePlan, before: Mapping[str, Any]) -> bool:
    """Whether the folder was made by this kind of stage and method."""
    return (before.get("stage"), before.get("method")) == (plan.kind, plan.method)


def folder_of(plan: StagePlan) -> Path:
    """The stage's own folder."""
    return Path(plan.settings.output_dir)  # type: ignore[attr-defined]
