"""`accord label` from its arguments to its report."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.errors import RequestError, SettingsError
from accord.pipeline.labels.forecast import Forecast
from accord.pipeline.labels.label import LabelReport, label
from accord.pipeline.progress import Progress
from accord.records import Source
from accord.settings.judge import JudgeSettings
from accord.settings.label import LabelSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, KeyPath, LocatedMapping

WHERE = "label"


def read_label_settings(
    config: str | Path | None, overrides: Sequence[str], judges: Sequence[str | Path] = ()
) -> LabelSettings:
    """The settings in a YAML file and `key=value` overrides, and the judges in files of their own.

    A judge's keys may stand beside the others where there is one judge, or under `judge`, where the
    former win; with a `base_url` its kind is `endpoint`. Raises SettingsError.
    """
    values = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    return build_label_settings(apply_overrides(values, overrides), judges)


def build_label_settings(
    values: LocatedMapping, judges: Sequence[str | Path] = ()
) -> LabelSettings:
    """The settings with these values. Raises SettingsError."""
    keys = [k for k in values.values if _is_judges(k)]
    tables = [_only(values, keys)] if keys else []
    if isinstance(values.values.get("judge"), Mapping):
        one = values.sub(("judge",), label="judge")
        for key in keys:
            one = one.with_value((key,), values.values[key], values.source_of((key,)))
        tables = [one]
        keys.append("judge")
    if tables and "judges" in values.values:
        raise SettingsError(
            f"{WHERE}: `{keys[0]}` gives one judge ({values.source_of((keys[0],))}), and `judges` "
            f"lists others. Put all of them into `judges`, each as a table."
        )
    tables += [_judge_file(file) for file in judges]
    for key in keys:
        values = values.without((key,))
    return build(LabelSettings, _with_judges(values, tables), where=WHERE)


def _is_judges(key: str) -> bool:
    return key in JudgeSettings.model_fields and key not in LabelSettings.model_fields


def _only(values: LocatedMapping, keys: Sequence[str]) -> LocatedMapping:
    sources = {path: s for path, s in values.sources.items() if path and path[0] in keys}
    table = {key: values.values[key] for key in keys}
    return LocatedMapping(table, sources, values.source)


def _judge_file(file: str | Path) -> LocatedMapping:
    values = load_yaml(file)
    if isinstance(values.values.get("judge"), Mapping):
        return values.sub(("judge",), label="judge")
    return values


def _with_judges(values: LocatedMapping, tables: Sequence[LocatedMapping]) -> LocatedMapping:
    """The values with these judges behind those that `judges` lists, each of the kind that its
    keys say."""
    listed = values.values.get("judges", [])
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        return values  # refused when it is built
    if not listed and not tables:
        raise SettingsError(
            f"{WHERE}: there is no judge. Give `base_url` and `model` for one at an endpoint, "
            f"`kind=local` and `model` for one in this process, or list several under `judges`."
        )
    sources: dict[KeyPath, Source] = dict(values.sources)
    entries: list[dict[str, Any]] = [dict(each) for each in listed]
    for table in tables:
        number = len(entries)
        entries.append(dict(table.values))
        sources[("judges", number)] = table.source
        sources |= {("judges", number, *path): s for path, s in table.sources.items()}
    for entry in entries:
        if "base_url" in entry:
            entry.setdefault("kind", "endpoint")
    return LocatedMapping(
        {**values.values, "judges": entries}, sources, values.source, values.label
    )


def choose_criteria(settings: LabelSettings, names: Sequence[str]) -> dict[str | None, str | None]:
    """The criteria to ask, each with its question: those named, or all.

    Without any in the settings, one name is that of the judges' own `criterion`. Raises
    RequestError for a name that there is no question for.
    """
    if not settings.criteria:
        if not names:
            return {None: None}
        all_set = all(judge.changed("criterion") for judge in settings.judges)
        if len(names) == 1 and all_set:
            return {names[0]: None}
        raise RequestError(
            f"There is no question for the criterion {names[0]!r}. Give "
            f"criteria.{names[0]}='Which response …?', or of a single criterion the judge's "
            f"criterion='…'."
        )
    for name in names:
        if name not in settings.criteria:
            raise RequestError(
                f"There is no criterion {name!r}. The criteria are {', '.join(settings.criteria)}."
            )
    return {name: text for name, text in settings.criteria.items() if not names or name in names}


def run_label(
    path: str | Path,
    settings: LabelSettings,
    *,
    criteria: Sequence[str] = (),
    escalate: bool = False,
    forecast_only: bool = False,
) -> Generator[Progress, None, LabelReport | Forecast]:
    """Label the pairs of the store at `path`; returns the report or the forecast.

    Raises RequestError where it can't be a store, DataError where there is none; then as `label`.
    """
    if not is_store(path):
        raise RequestError(
            f"{path} is no preference store. Give a file that ends in .db or a database URL; "
            f"`accord data import` makes one of other files."
        )
    chosen = choose_criteria(settings, criteria)
    with PreferenceStore.open(path, create=False) as store:
        return (
            yield from label(
                store, settings, chosen, escalate=escalate, forecast_only=forecast_only
            )
        )
