"""What a data set contains, and what of it a method would train a model on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np

from accord.data.columns import Format, detect_format
from accord.data.files import read_rows
from accord.data.kinds import FORMAT_USES, KINDS, Kind
from accord.data.read import read_battles, read_records
from accord.errors import DataError, RequestError
from accord.records import Source
from accord.settings.reading.suggest import nearest
from accord.settings.stage_kinds import find_method, single_stage

KINDS_OF_FORMATS: dict[Format, Kind] = {
    "preference": "comparisons",
    "implicit preference": "comparisons",
    "labelled pair": "comparisons",
    "ranking": "rankings",
    "responses": "prompts",
    "unpaired": "ratings",
    "rating": "ratings",
    "prompt-completion": "demonstrations",
    "messages": "demonstrations",
    "text": "text",
    "prompt": "prompts",
}
"""The kind that rows of each format are read as; rows of other formats are battles."""
METHODS_OF_KINDS: dict[str, str] = {
    "text": "sft",
    "demonstrations": "sft",
    "sft": "sft",
    "comparisons": "dpo",
    "rankings": "dpo",
    "preferences": "dpo",
    "ratings": "kto",
    "kto": "kto",
    "prompts": "grpo",
}
"""The method whose rows are counted if none is named."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)
MAX_LINES = 20  # row numbers that a reason shows


def check_data(
    path: str,
    kind: str | None = None,
    *,
    model: str | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """A report on the rows at `path`, read as `kind` (by default the columns decide).

    With a model it also says how many rows `method` would train it on, with the limits among the
    `overrides` (`key=value`, settings of that method). Raises RequestError for an unknown kind or
    a missing model, DataError if nothing can be read.
    """
    known = [*KINDS, "battles"]
    if kind is not None and kind not in known:
        near = nearest(kind, known)
        suggestion = f" Did you mean {near}?" if near else ""
        raise RequestError(
            f"There is no kind of rows {kind!r} (--kind).{suggestion} The kinds are "
            f"{', '.join(known)}."
        )
    if model is None and (method or overrides):
        raise RequestError(
            "Limits are in tokens, and those are a model's. Name it with --model PATH."
        )
    form = None
    if kind is None:
        form = _detect_format(path)
        kind = KINDS_OF_FORMATS.get(form, "battles")
    if kind == "battles":
        if model is not None:
            raise RequestError(
                f"{path} holds an arena's battles, which are rated and not learned: `accord arena "
                f"battles={path}`. Leave --model out."
            )
        _, report = read_battles(path)
    else:
        _, report = read_records(path, next(k for k in get_args(Kind) if k == kind))
    fits = f"\nThe rows fit {FORMAT_USES[form]}." if form else ""
    text = f"{path}, read as {kind}: {report.summary()}{fits}"
    if model is None:
        return text
    method = find_method(method or METHODS_OF_KINDS.get(kind, "sft"))
    return f"{text}\n\n{_check_tokens(path, model, method, overrides)}"


def _detect_format(path: str) -> Format:
    columns: dict[str, None] = {}
    for row in read_rows(path):
        columns |= dict.fromkeys(row.values)
    if not columns:
        raise DataError(f"{path} has no row that can be used, or rows without columns.")
    return detect_format(columns)


def _check_tokens(path: str, model: str, method: str, overrides: Iterable[str]) -> str:
    """What training by `method` would count: the same functions read and encode the rows."""
    from accord.learn.loop.datasets import read_datasets
    from accord.learn.loop.in_memory import InMemory
    from accord.learn.loop.limits import cap_to_positions
    from accord.learn.offline.methods import METHODS
    from accord.learn.offline.rows import encode_rows
    from accord.learn.offline.train import dataset_kinds
    from accord.learn.online.train import DATASET_KINDS, encode_prompt_rows
    from accord.lm.tokens.encode import UNLIMITED
    from accord.lm.weightless import load_weightless

    given = [f"model={json.dumps(model)}", f"dataset={json.dumps(path)}", "output_dir=unused"]
    online = method not in METHODS
    if online and not any(text.startswith(("rewards=", "reward_model=")) for text in overrides):
        given.append("reward_model=unused")  # the rows do not depend on it
    settings: Any = single_stage("train", method, overrides=[*given, *overrides]).settings
    lm = load_weightless(model, trust_remote_code=settings.trust_remote_code)
    settings = cap_to_positions(settings, lm)
    kinds = {"dataset": (DATASET_KINDS if online else dataset_kinds(METHODS[method]))["dataset"]}
    read = read_datasets(settings, kinds, InMemory(model=lm))["dataset"]
    whole = settings.model_copy(update={"max_length": UNLIMITED, "max_prompt_length": None})
    if online:
        _, _, encoded = encode_prompt_rows(read.records, lm, settings)
        prompts = encode_prompt_rows(read.records, lm, whole)[0]
        lengths = {"prompt": [len(ids) for ids in prompts]}
    else:
        _, encoded = encode_rows(read.records, lm, settings)
        groups, _ = encode_rows(read.records, lm, whole)
        pairs = [(len(g.prompt), len(r)) for g in groups for r in g.responses]
        lengths = {
            "prompt": [prompt for prompt, _ in pairs],
            "response": [response for _, response in pairs],
            "together": [sum(pair) for pair in pairs],
        }
    limits = f"max_length={settings.max_length}, max_prompt_length={settings.max_prompt_length}"
    lines = [f"`{method}` on {model} ({limits}): {encoded.summary()}.", ""]
    lines += _table(lengths)
    lines += [f"{reason}: {_row_numbers(rows)}" for reason, rows in encoded.dropped.items()]
    return "\n".join(lines)


def _table(lengths: dict[str, list[int]]) -> list[str]:
    heads = ("tokens before limits", *(f"{q:.0%}" for q in QUANTILES))
    rows = [
        (name, *(f"{np.quantile(values, q, method='higher'):,}" for q in QUANTILES))
        for name, values in lengths.items()
    ]
    return [
        "  ".join(f"{cell:>8}" if i else f"{cell:<20}" for i, cell in enumerate(row))
        for row in (heads, *rows)
    ]


def _row_numbers(sources: Sequence[Source]) -> str:
    shown = ", ".join(str(source.line) for source in sources[:MAX_LINES])
    return f"rows {shown}{', …' if len(sources) > MAX_LINES else ''} ({len(sources):,})"
