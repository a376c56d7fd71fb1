"""The data sets of a training stage, read before its model is loaded: one that does not fit the
method is refused at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from accord.compare.dataset import load_records
from accord.data.kinds import Kind
from accord.data.selection import ReadRows, limit_rows, mix_rows
from accord.learn.loop.hub_rows import with_streamed_rows
from accord.learn.loop.in_memory import InMemory
from accord.lm.load import load_tokenizer
from accord.lm.tokens.template import how_to_read_dialogues
from accord.settings.data import MixtureSource
from accord.settings.training import TrainSettings

EVAL = "eval_dataset"


def read_datasets(
    settings: TrainSettings, kinds: Mapping[str, Kind], memory: InMemory
) -> dict[str, ReadRows]:
    """The records of the data sets that the settings name, by their key.

    `kinds` has the kind of records for each key that may name a data set. One of several held-out
    sets has the key `eval_dataset/NAME`. Raises DataError where one does not fit, ModelError where
    there is no tokenizer.
    """
    settings = with_streamed_rows(settings, memory)
    if memory.read:
        return dict(memory.read)
    model = memory.model
    tokenizer = (
        load_tokenizer(settings.model, trust_remote_code=settings.trust_remote_code)
        if model is None
        else model.tokenizer
    )
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, tokenizer)

    def read(
        rows: str | Iterable[Any],
        kind: Kind,
        source: TrainSettings | MixtureSource | None,
        count: int | None,
        *,
        required: bool = True,
    ) -> ReadRows:
        loaded = load_records(
            rows,
            kind,
            dialogue_text,
            {} if source is None else source.columns or {},
            columns_required=required,
            verdict_filter=None if source is None else source.filter,
        )
        return limit_rows(ReadRows(*loaded), count, settings.samples_from, settings.seed)

    result: dict[str, ReadRows] = {}
    for key, kind in kinds.items():
        path = getattr(settings, key, None)
        if path is None:
            continue
        if key == "dataset":
            result[key] = read(memory.rows(key, path), kind, settings, settings.max_samples)
            others = [
                read(source.dataset, kind, source, source.max_samples)
                for source in settings.mixture or ()
            ]
            if others:
                weights = [s.weight for s in settings.mixture or () if s.weight is not None]
                result[key] = mix_rows(
                    [result[key], *others], [1.0, *weights] if weights else [], settings.seed
                )
        elif key == EVAL:
            for name, rows in eval_sets(memory.rows(key, path)).items():
                result[name] = read(rows, kind, settings, settings.max_eval_samples, required=False)
        else:
            result[key] = read(memory.rows(key, path), kind, None, None)
    return result


def eval_sets(given: Any) -> dict[str, Any]:
    """The held-out data sets by key: `eval_dataset`, or `eval_dataset/NAME` for each of several."""
    if isinstance(given, Mapping):
        return {f"{EVAL}/{name}": rows for name, rows in given.items()}
    return {EVAL: given}


def eval_prefixes(names: Iterable[str]) -> dict[str, str]:
    """What the names of the metrics of each held-out data set begin with, after `eval/`."""
    return {
        key: "" if key == EVAL else key.removeprefix(f"{EVAL}/") + "/"
        for key in names
        if key.partition("/")[0] == EVAL
    }


def report_name(key: str) -> str:
    """The file in `output_dir` that says what happened to the rows of a data set."""
    name = key.removeprefix(f"{EVAL}/")
    files = {
        "dataset": "data.json",
        EVAL: "eval_data.json",
        "reference_dataset": "reference_data.json",
    }
    return files.get(key, f"eval_data.{name}.json")
