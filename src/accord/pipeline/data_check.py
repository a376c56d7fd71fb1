"""What a data set contains, and what of it a method would train a model on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np

from accord.compare.store.connection import is_store
from accord.data.columns import Format
from accord.data.kinds import FORMAT_USES, KINDS, Kind
from accord.data.read import read_battles
from accord.data.report import ReadReport
from accord.data.stream import read_columns
from accord.errors import RequestError
from accord.pipeline.checks.collect import Collected, collect
from accord.pipeline.checks.findings import compare_rows, conclude
from accord.pipeline.checks.result import DataCheck, Excerpt, require_kinds
from accord.pipeline.checks.sources import open_rows, read_excerpts, read_held_out
from accord.pipeline.checks.spill import Spill
from accord.pipeline.progress import Progress, run_to_end
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


def check_data(path: str, kind: str | None = None, **options: Any) -> DataCheck:
    """What is at `path`: see `check_steps`, which this runs to its end."""
    return run_to_end(check_steps(path, kind, **options))


def check_steps(
    path: str,
    kind: str | None = None,
    *,
    model: str | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    held_out: Sequence[str] = (),
    evaluation_sets: Sequence[str] = (),
    ignore: Sequence[str] = (),
    excerpts: int = 0,
) -> Generator[Progress, None, DataCheck]:
    """Check the rows at `path`, read as `kind` (by default the columns decide), step by step.

    Prompts of the `held_out` splits must not occur in the rows, nor texts of `evaluation_sets`.
    Findings of the kinds in `ignore` are left out. The first rows of each finding, as many as
    `excerpts`, are returned with their texts.

    With a model the summary also says how many rows `method` would train it on, with the limits
    among the `overrides` (`key=value`, settings of that method). Raises RequestError for an unknown
    kind or a missing model, DataError if nothing can be read.
    """
    _require_kind(kind)
    require_kinds(ignore, "--ignore")
    if model is None and (method or overrides):
        raise RequestError(
            "Limits are in tokens, and those are a model's. Name it with --model PATH."
        )
    form, columns = None, None
    if is_store(path):
        kind = kind or "preferences"
    else:
        yield Progress(0, 0, "reading columns")
        columns = read_columns(path, kind or "records")
        if kind is None:
            form = columns.detect_format()
            kind = KINDS_OF_FORMATS.get(form, "battles")
    if kind == "battles":
        return _check_battles(path, model, form)
    of_kind = next(k for k in get_args(Kind) if k == kind)
    with TemporaryDirectory(prefix="accord-check-") as folder:
        spill = Spill(Path(folder))
        try:
            collected = Collected(spill, read_held_out(held_out, evaluation_sets))
            rows, read_report = open_rows(path, of_kind, columns)
            total = columns.rows if columns else 0
            yield from collect(rows, collected, total)
            report = read_report()
            yield Progress(total, total, "comparing rows")
            remarks = compare_rows(collected)
        finally:
            spill.close()
    given = _given(held_out, evaluation_sets)
    findings, clean = conclude(collected, report, path, ignore, given)
    texts: dict[int, Excerpt] = {}
    if excerpts:
        yield Progress(total, total, "reading the rows to show")
        texts = read_excerpts(open_rows(path, of_kind, columns)[0], findings, excerpts)
    summary = _describe(path, kind, report, form)
    if model is not None:
        yield Progress(total, total, "counting tokens")
        by_kind = find_method(method or METHODS_OF_KINDS.get(kind, "sft"))
        summary = f"{summary}\n\n{_check_tokens(path, model, by_kind, overrides)}"
    unchecked = {k: why for k, why in collected.unchecked.items() if k not in ignore}
    remarks = [remark for remark in remarks if remark and "label-noise" not in ignore]
    agreement = collected.agreement
    return DataCheck(report, kind, summary, findings, clean, unchecked, remarks, texts, agreement)


def _given(held_out: Sequence[str], evaluation_sets: Sequence[str]) -> str:
    """The options that a command that mends the rows repeats."""
    return "".join(
        f"{option} {shlex.quote(value)} "
        for option, values in (("--held-out", held_out), ("--eval-set", evaluation_sets))
        for value in values
    )


def _require_kind(kind: str | None) -> None:
    known = [*KINDS, "battles"]
    if kind is not None and kind not in known:
        near = nearest(kind, known)
        suggestion = f" Did you mean {near}?" if near else ""
        raise RequestError(
            f"There is no kind of rows {kind!r} (--kind).{suggestion} The kinds are "
            f"{', '.join(known)}."
        )


def _describe(path: str, kind: str, report: ReadReport, form: Format | None) -> str:
    fits = f"\nThe rows fit {FORMAT_USES[form]}." if form else ""
    return f"{path}, read as {kind}: {report.summary()}{fits}"


def _check_battles(path: str, model: str | None, form: Format | None) -> DataCheck:
    if model is not None:
        raise RequestError(
            f"{path} holds an arena's battles, which are rated and not learned: `accord arena "
            f"battles={path}`. Leave --model out."
        )
    _, report = read_battles(path)
    return DataCheck(report, "battles", _describe(path, "battles", report, form))


def _check_tokens(path: str, model: str, method: str, overrides: Iterable[str]) -> str:
    """What training by `method` would count: the same functions read and encode the rows."""
    from accord.learn.loop.datasets import read_datasets
    from accord.learn.loop.in_memory import InMemory
    from accord.learn.loop.limits import cap_to_positions
    from accord.learn.offline.dataset_rows import dataset_kinds, encode_rows
    from accord.learn.offline.methods import METHODS
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
