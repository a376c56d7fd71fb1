"""A recipe: the stages of a run in order, each with its settings, connected by their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accord
from accord.errors import SettingsError
from accord.settings.reading.load import build, load_yaml, override, parse_override
from accord.settings.reading.located import KeyPath, LocatedMapping
from accord.settings.reading.suggest import did_you_mean, listed, nearest, suggest_method
from accord.settings.stage_kinds import (
    METHOD_SETTINGS,
    STAGE_SETTINGS,
    StagePlan,
    find_method,
    settings_class,
    single_stage,
)

__all__ = [
    "METHOD_SETTINGS",
    "STAGE_SETTINGS",
    "Recipe",
    "StagePlan",
    "find_method",
    "load_recipe",
    "settings_class",
    "shipped_recipes",
    "single_stage",
]

_RUN_KEYS = ("output_dir", "seed", "title", "stages")
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DEVICE_NAME = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)
_REFERENCE = re.compile(r"\$(?P<name>[A-Za-z0-9_-]+)(?P<rest>/.*)?", re.DOTALL)
# Free text, in which a dollar sign may be meant as one.
_WITHOUT_REFERENCES = frozenset({"title", "name", "anchor", "pattern", "text"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run: the folder of all its stages, its seed, and the stages in order."""

    output_dir: str
    seed: int
    stages: tuple[StagePlan, ...]
    title: str | None = None
    source: str = "memory"

    def stage(self, name: str) -> StagePlan:
        """The stage called `name`. Raises KeyError."""
        for plan in self.stages:
            if plan.name == name:
                return plan
        raise KeyError(name)


def shipped_recipes() -> dict[str, Path]:
    """The paths of the recipes that come with accord, by name: in the package, or in recipes/ of a
    checkout."""
    package = Path(accord.__file__).parent
    for folder in (package / "recipes", package.parent.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped recipe of that name, with the overrides applied.

    An override is `key=value` for the run's own keys and `NAME.key=value` for the stage NAME.
    In a text that is `$NAME` or begins with `$NAME/`, `$NAME` is replaced by the folder of that
    earlier stage; `$run` is the run's folder. The default of a stage's `output_dir` is
    `<output_dir>/NAME`, and that of its `seed` is the run's seed.
    Raises SettingsError, which names file, line, key and remedy.
    """
    path = _recipe_path(recipe)
    values = load_yaml(path)
    entries, names = _stage_entries(values)
    values = _apply_overrides(values, names, overrides)
    entries, names = _stage_entries(values)
    output_dir = _output_dir(values, f"runs/{path.stem}")
    seed = _run_value(values, "seed", int, 0)
    if seed < 0:
        raise SettingsError(
            f"`seed` must be at least 0, not {seed} ({values.source_of(('seed',))})."
        )
    folders = {"run": output_dir}
    plans: list[StagePlan] = []
    for name, entry in zip(names, entries, strict=True):
        plan = _stage_plan(name, entry, folders=folders, later=names[len(plans) :], seed=seed)
        folder: str = plan.settings.output_dir  # type: ignore[attr-defined]
        _check_folder(name, folder, entry, folders)
        folders[name] = folder
        plans.append(plan)
    title = _run_value(values, "title", str, None)
    return Recipe(output_dir, seed, tuple(plans), title, str(path))


def _output_dir(values: LocatedMapping, default: str) -> str:
    """The run's folder, read as a stage reads its own: without blanks around it, with `~` expanded,
    and without a slash at the end, which would be doubled."""
    output_dir: str = _run_value(values, "output_dir", str, default).strip()
    if not output_dir:
        raise SettingsError(
            f"`output_dir` is blank ({values.source_of(('output_dir',))}). Name a folder, or leave "
            f"it out."
        )
    is_home = output_dir == "~" or output_dir.startswith("~/")
    return os.path.normpath(os.path.expanduser(output_dir) if is_home else output_dir)


def _check_folder(
    name: str, folder: str, entry: LocatedMapping, folders: Mapping[str, str]
) -> None:
    """Raise SettingsError if another stage writes to the same folder, or the folder is not in the
    run's."""
    if not Path(os.path.abspath(folder)).is_relative_to(os.path.abspath(folders["run"])):
        raise SettingsError(
            f"`{name}.output_dir` is {entry.values.get('output_dir', folder)!r} "
            f"({entry.source_of(('output_dir',))}), outside of the run's folder {folders['run']}. "
            f"Leave it out, or name a folder in $run; to write elsewhere, run the stage by itself "
            f"(`accord {entry.values['stage']}`)."
        )
    for stage, other in folders.items():
        if stage != "run" and _same_folder(other, folder):
            raise SettingsError(
                f"`{name}.output_dir` is the folder of the stage `{stage}` too "
                f"({entry.source_of(('output_dir',))}). Give each stage a folder of its own."
            )


def _same_folder(first: str, second: str) -> bool:
    """Whether two paths are one folder, also on a disk that ignores case."""
    return os.path.abspath(first).casefold() == os.path.abspath(second).casefold()


def _recipe_path(recipe: str | Path) -> Path:
    path = Path(recipe).expanduser()
    shipped = shipped_recipes()
    if path.is_file() or isinstance(recipe, Path):
        return path
    if recipe in shipped:
        return shipped[recipe]
    raise SettingsError(
        f"There is no recipe {recipe!r}: no such file, and none of the recipes that come with "
        f"accord ({', '.join(shipped) or 'none are installed'}).{did_you_mean(recipe, shipped)} "
        "Name one of those, or a YAML file."
    )


def _stage_entries(recipe: LocatedMapping) -> tuple[list[LocatedMapping], list[str]]:
    """The entries of `stages` and the stages' names. Raises SettingsError."""
    for key in recipe.values:
        if key not in _RUN_KEYS:
            raise SettingsError(
                f"`{key}` is not a key of a recipe ({recipe.source_of((key,))})."
                f"{did_you_mean(key, _RUN_KEYS)} A recipe has {listed(_RUN_KEYS)}; "
                "the settings of a stage belong in its entry of `stages`."
            )
    stages = recipe.values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise SettingsError(
            f"`stages` must be a list of stages ({recipe.source_of(('stages',))}). "
            "Write `stages:` and below it entries such as `- stage: train`."
        )
    entries: list[LocatedMapping] = []
    names: list[str] = []
    for i, stage in enumerate(stages):
        source = recipe.source_of(("stages", i))
        if not isinstance(stage, dict):
            raise SettingsError(
                f"Stage {i + 1} is {stage!r} ({source}), but must be a table. "
                "Write `- stage: train` and the stage's keys below it."
            )
        name = _stage_name(recipe.sub(("stages", i), label=f"stages.{i}"))
        if name in names:
            raise SettingsError(
                f"Two stages are called `{name}` ({source}). Give one of them a `name` of its own."
            )
        names.append(name)
        entries.append(recipe.sub(("stages", i), label=name))
    return entries, names


def _stage_name(entry: LocatedMapping) -> str:
    """The stage's name; checks its kind and method first."""
    kind = entry.values.get("stage")
    source = entry.source_of(("stage",))
    if kind not in STAGE_SETTINGS:
        if kind is None:
            problem = f"A stage lacks `stage`, its kind ({source})."
        else:
            problem = f"There is no kind of stage {kind!r} ({source})."
        if kind in METHOD_SETTINGS:
            remedy = f" Write `stage: train` and `method: {kind}`."
        else:
            remedy = (
                f"{did_you_mean(str(kind), STAGE_SETTINGS)} The kinds are {listed(STAGE_SETTINGS)}."
            )
        raise SettingsError(f"{problem}{remedy}")
    method = entry.values.get("method")
    if kind == "train" and method not in METHOD_SETTINGS:
        where = entry.source_of(("method",))
        problem = "has no `method`" if method is None else f"has the unknown method {method!r}"
        raise SettingsError(
            f"A training stage {problem} ({where}).{suggest_method(str(method), METHOD_SETTINGS)} "
            f"The methods are {listed(METHOD_SETTINGS)}."
        )
    if kind != "train" and "method" in entry.values:
        raise SettingsError(
            f"A `{kind}` stage has no `method` ({entry.source_of(('method',))}). "
            "Only `stage: train` has one; remove it."
        )
    name = entry.values.get("name", method if kind == "train" else kind)
    reserved = (*_RUN_KEYS, "run")
    if (
        not isinstance(name, str)
        or not _STAGE_NAME.fullmatch(name)
        or _DEVICE_NAME.fullmatch(name)
        or name in reserved
    ):
        raise SettingsError(
            f"{name!r} can't be the name of a stage ({entry.source_of(('name',))}). "
            f"Use letters, digits, - and _, and none of {listed(reserved)}, nor a name that "
            "Windows reserves (con, nul, …)."
        )
    return name


def _apply_overrides(
    recipe: LocatedMapping, names: list[str], overrides: Iterable[str]
) -> LocatedMapping:
    overridden: set[KeyPath] = set()
    for text in overrides:
        path, value = parse_override(text)
        if path[0] == "stages" and len(path) > 1 and path[1] in names:
            path = path[1:]
        if path[0] in names:
            if len(path) == 1:
                raise SettingsError(
                    f"{text!r} on the command line names the stage `{path[0]}` but no key of it. "
                    f"Write {path[0]}.key=value."
                )
            if path[1] in ("stage", "method", "name"):
                raise SettingsError(
                    f"{text!r} on the command line would make another stage of `{path[0]}`. "
                    f"Change `{path[1]}` in the recipe itself: {recipe.source}."
                )
            path = ("stages", str(names.index(path[0])), *path[1:])
        elif path[0] not in _RUN_KEYS or path == ("stages",):
            suggestion = did_you_mean(path[0], [*_RUN_KEYS[:-1], *names])
            raise SettingsError(
                f"{text!r} on the command line names neither a stage of {recipe.source} nor a key "
                f"of the run.{suggestion} The stages are {listed(names)}; "
                "write NAME.key=value."
            )
        recipe = override(recipe, path, value, text=text, overridden=overridden)
    return recipe


def _run_value(recipe: LocatedMapping, key: str, kind: type, default: Any) -> Any:
    """The value of one of the run's own keys. Raises SettingsError for a wrong type."""
    value = recipe.values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "text", int: "a whole number"}[kind]
        raise SettingsError(f"`{key}` must be {words}, not {value!r} ({recipe.source_of((key,))}).")
    return value


def _stage_plan(
    name: str, entry: LocatedMapping, *, folders: Mapping[str, str], later: list[str], seed: int
) -> StagePlan:
    kind: str = entry.values["stage"]
    method: str | None = entry.values.get("method")
    fields = settings_class(kind, method).model_fields
    for key in ("stage", "method", "name"):
        if key in entry.values:
            entry = entry.without((key,))
    values = {
        key: value
        if key in _WITHOUT_REFERENCES
        else _resolve_references(value, (key,), entry, folders, later)
        for key, value in entry.values.items()
    }
    if isinstance(values.get("output_dir"), str):  # a link before `..` would lead elsewhere
        values["output_dir"] = os.path.normpath(values["output_dir"])
    entry = LocatedMapping(values, entry.sources, entry.source, entry.label)
    if "output_dir" not in values:
        entry = entry.with_value(("output_dir",), f"{folders['run']}/{name}", entry.source)
    if "seed" in fields and "seed" not in values:
        entry = entry.with_value(("seed",), seed, entry.source)
    return StagePlan(name, kind, build(settings_class(kind, method), entry, where=name), method)


def _resolve_references(
    value: Any, path: KeyPath, entry: LocatedMapping, folders: Mapping[str, str], later: list[str]
) -> Any:
    """`value` with each `$NAME` in it replaced by the folder of that stage."""
    if isinstance(value, list):
        return [
            _resolve_references(v, (*path, i), entry, folders, later) for i, v in enumerate(value)
        ]
    if isinstance(value, dict):
        return {
            k: v
            if k in _WITHOUT_REFERENCES
            else _resolve_references(v, (*path, k), entry, folders, later)
            for k, v in value.items()
        }
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return value
    name = match["name"]
    if name in folders:
        return folders[name] + (match["rest"] or "")
    source = entry.source_of(path)
    problem = f"`{entry.key_name(path)}` is {value!r} ({source}), but "
    if name == later[0]:
        raise SettingsError(f"{problem}`{name}` is this stage itself. Name an earlier stage.")
    if name in later:
        raise SettingsError(
            f"{problem}the stage `{name}` comes later. Move that stage above this one."
        )
    near = nearest(name, folders)
    suggestion = f" Did you mean `${near}{match['rest'] or ''}`?" if near else ""
    raise SettingsError(
        f"{problem}no stage is called `{name}`.{suggestion} "
        f"Earlier folders are {listed(f'${known}' for known in folders)}."
    )
