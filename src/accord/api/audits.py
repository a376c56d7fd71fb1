"""Probe a reward, audit a trained model and attack it, from Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accord.api.answers import Answers
from accord.api.rewards import RewardLike, combine_rewards
from accord.data.memory import memory_name, read_memory_rows
from accord.data.write import ResponseRow, write_jsonl, write_responses
from accord.errors import SettingsError
from accord.lm.model import LanguageModel
from accord.measure.audits.document import AuditDocument
from accord.pipeline.probe.run import RESULT, probe_document, run_probe
from accord.pipeline.progress import run_to_end
from accord.pipeline.run import run_stage
from accord.pipeline.stages.audit import read_document as read_audit
from accord.pipeline.stages.redteam import read_document as read_redteam
from accord.records import Response
from accord.runs import write_json_atomic
from accord.settings.base import Settings
from accord.settings.probe import ProbeSettings
from accord.settings.reading.load import build
from accord.settings.stage_kinds import StagePlan, settings_class

IN_MEMORY = "in memory"


def probe(
    reward: RewardLike = None,
    pairs: Any = None,
    *,
    judge: Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> AuditDocument:
    """Probe a reward on held-out pairs, as `accord probe` does.

        document = accord.probe(reward, pairs, probes=["lengthened"])
        document.verdict, {audit.name: audit.verdict for audit in document.audits}

    `reward` is a function, a reward model or its path, a table of settings, or a list of these;
    `judge` instead of it a table of settings of a language model. `pairs` are a path, or rows in
    memory. `settings` are the other keys of `accord probe`. With `output_dir`, probe.json is
    written, and a reward that settings describe resumes an interrupted probe. Raises SettingsError
    as the settings, DataError for pairs that can't be used, and as the reward does.
    """
    if (reward is None) == (judge is None):
        raise SettingsError(
            "One reward is probed. Pass `reward`, or else `judge`, to accord.probe."
        )
    if pairs is None:
        raise SettingsError("Pass `pairs`, a path or rows with a better and a worse answer.")
    described = isinstance(reward, str | Path | Mapping) or reward is None
    with _folder(output_dir if described else None) as folder, TemporaryDirectory() as temporary:
        values = {**settings, "output_dir": str(folder)}
        values["preferences"] = _path_of(pairs, Path(temporary) / "pairs.jsonl")
        values |= _reward_settings(reward, judge)
        checked: ProbeSettings = build(ProbeSettings, values, where="accord.probe")
        if described and output_dir is not None and _is_path(pairs):
            return run_to_end(run_probe(checked))
        given = None if described else combine_rewards(reward, device=checked.device)
        document = run_to_end(probe_document(checked, given))
    if given is not None:
        document = replace(document, subject=" + ".join(s.name for s in given.sources))
    stated = {"output_dir": "" if output_dir is None else str(output_dir)}
    if not _is_path(pairs):
        stated["preferences"] = f"{memory_name(pairs)} {IN_MEMORY}"
    document = replace(document, settings={**document.settings, **stated})
    if output_dir is not None:
        write_json_atomic(Path(output_dir) / RESULT, document.to_json())
    return document


def audit(
    after: str | Path | Answers,
    before: str | Path | Answers,
    *,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> AuditDocument:
    """Audit a model after training against the model before, as `accord audit` does.

        document = accord.audit("runs/dpo/model", "runs/sft/model", dataset="test.jsonl")

    `after` and `before` are folders of models, or their answers from `accord.sample` to the same
    prompts. `settings` are the other keys of `accord audit`, such as `dataset`, `rewards` and
    `tasks`. Without `output_dir` nothing remains on disk. Raises SettingsError as the settings,
    DataError as the audit does.
    """
    sides = (
        ("model", "responses", "model_name", after),
        ("before", "before_responses", "before_name", before),
    )
    with _folder(output_dir) as folder, TemporaryDirectory() as temporary:
        values: dict[str, Any] = {**settings, "output_dir": str(folder)}
        for model, responses, name, given in sides:
            if isinstance(given, Answers):
                path = Path(temporary) / f"{responses}.jsonl"
                write_responses(path, _response_rows(given))
                values[responses] = str(path)
                values.setdefault(name, "after" if model == "model" else "before")
            else:
                values[model] = str(given)
        _run("audit", values)
        return read_audit(str(folder))


def redteam(
    models: str | Path | Sequence[Mapping[str, Any]],
    *,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> AuditDocument:
    """Attack models with suites of prompts, as `accord redteam` does.

        document = accord.redteam("runs/dpo/model", suites=["accord"], max_prompts=20)

    `models` is the folder or hub name of one, or tables of settings of several. `settings` are the
    other keys of `accord redteam`. Without `output_dir` nothing remains on disk, and an interrupted
    run can't be resumed. Raises SettingsError as the settings, WorkError as a model does.
    """
    with _folder(output_dir) as folder:
        values: dict[str, Any] = {**settings, "output_dir": str(folder)}
        if isinstance(models, str | Path):
            values["model"] = str(models)
        else:
            values["models"] = [dict(model) for model in models]
        _run("redteam", values)
        return read_redteam(str(folder))


def _run(kind: str, values: Mapping[str, Any]) -> None:
    settings: Settings = build(settings_class(kind), dict(values), where=f"accord.{kind}")
    run_stage(StagePlan(kind, kind, settings))


@contextmanager
def _folder(output_dir: str | Path | None) -> Iterator[Path]:
    """The folder, or one that is removed again."""
    if output_dir is not None:
        yield Path(output_dir)
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary) / "run"


def _is_path(rows: Any) -> bool:
    return isinstance(rows, str | Path)


def _path_of(rows: Any, temporary: Path) -> str:
    """The path of rows, which are written where they are in memory."""
    if _is_path(rows):
        return str(rows)
    write_jsonl(temporary, (row.values for row in read_memory_rows(rows)))
    return str(temporary)


def _reward_settings(reward: RewardLike, judge: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of what is probed; a reward in memory has some that stand for it."""
    if judge is not None:
        kind = {"kind": "endpoint"} if "base_url" in judge else {}
        return {"judge": {**kind, **judge}}
    if isinstance(reward, str | Path):
        return {"reward_model": str(reward)}
    if isinstance(reward, Mapping):
        return {"rewards": [dict(reward)]}
    if isinstance(reward, LanguageModel) or hasattr(reward, "config"):
        return {"reward_model": IN_MEMORY}
    return {"rewards": [{"kind": "python", "function": "memory:reward"}]}


def _response_rows(answers: Answers) -> Iterator[ResponseRow]:
    sampling = {"temperature": answers.sampling.temperature}
    for row in answers:
        texts = zip(row.responses, row.finished, row.logps, strict=True)
        responses = tuple(
            Response(row.prompt, text, answers.model, sampling, logp, None, finished, row.opened)
            for text, finished, logp in texts
        )
        yield ResponseRow(row.prompt, row.meta, answers.model, sampling, responses)
