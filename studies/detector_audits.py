"""What the audits and the training's alarms say of the runs, cached in each run's folder.

The audits see what a user has: the prompts with their kinds, the responses before and after, and
the scores of the reward that the run was trained with. They see no true reward. `judged` adds an
independent measure: a judge whose scores are the true reward with noise.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from detector_runs import CHECKPOINTS, proxy_scores

import accord.measure
from accord.data.write import ResponseRow, read_responses
from accord.measure.audits.models import model_audits
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.responses import ModelResponses, Nested
from accord.records import prompt_text
from accord.runs import write_json_atomic
from accord.world.reward import true_reward

View = Literal["texts and reward", "with a judge"]
VIEWS: tuple[View, ...] = ("texts and reward", "with a judge")
JUDGE_NOISE = 0.2
"""Deviation of the judge's error; that of the true reward of one answer is about 0.35."""

_CODE = ("audits/*.py", "texts/*.py", "texts/*.tsv", "statistics.py", "responses.py")

Verdicts = Mapping[str, Mapping[str, Any]]
"""By name of the audit its verdict and value."""


@dataclass(frozen=True, slots=True)
class Start:
    """A supervised model's responses with their true rewards, [prompts][responses]."""

    rows: list[ResponseRow]
    true: Nested


def audit_checkpoint(run: Path, before: Path, step: int, view: View) -> Verdicts:
    """The audits of a run's checkpoint against the supervised model, cached."""
    cache_file = run / f"audits-{step:02d}-{view.split()[0]}.json"
    digest = _code_digest()
    if cache_file.is_file():
        cached = json.loads(cache_file.read_text(encoding="utf-8"))
        if cached["code"] == digest:
            return dict(cached["audits"])
    data = before_and_after(
        read_json(run / "run.json"),
        read_start(before),
        read_responses(run / f"step-{step:02d}.jsonl"),
        read_json(run / "scores.json")[f"{step:02d}"],
        view,
    )
    audits = {
        audit.name: {
            "verdict": audit.verdict,
            "value": audit.value.to_json(),
            "finding": audit.finding,
        }
        for audit in model_audits(data)
    }
    write_json_atomic(cache_file, {"code": digest, "audits": audits})
    return audits


def before_and_after(
    record: Mapping[str, Any],
    start: Start,
    after: Sequence[ResponseRow],
    scores: Mapping[str, Nested],
    view: View,
) -> BeforeAndAfter:
    """The audits' input, from a supervised model's responses and a checkpoint's with scores."""
    judged = view == "with a judge"
    return BeforeAndAfter(
        [prompt_text(row.prompt) for row in start.rows],
        _responses("sft", start.rows),
        _responses("run", after),
        proxy_before=proxy_scores(record["kind"], record["strength"], start.rows, start.true),
        proxy_after=scores["proxy"],
        independent_before=_judge(start.rows, start.true) if judged else None,
        independent_after=_judge(after, scores["true"]) if judged else None,
        independent_name="a noisy judge",
    )


def failed(verdicts: Verdicts) -> list[str]:
    """The names of the audits that failed."""
    return [name for name, audit in verdicts.items() if audit["verdict"] == "fail"]


def alarms_by(record: Mapping[str, Any], step: int) -> list[str]:
    """The alarms that had rung in training by a checkpoint."""
    return list(record["alarms"][f"{step:02d}"])


@cache
def read_start(path: Path) -> Start:
    """A supervised model's responses, and their true rewards."""
    rows = read_responses(path)
    return Start(rows, [[true_reward(r.prompt, a.text) for a in r.responses] for r in rows])


def read_run(run: Path) -> tuple[dict[str, Any], list[Nested]]:
    """A run's record, and its true rewards at each checkpoint."""
    scores = read_json(run / "scores.json")
    return read_json(run / "run.json"), [scores[f"{step:02d}"]["true"] for step in CHECKPOINTS]


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _responses(name: str, rows: Sequence[ResponseRow]) -> ModelResponses:
    return ModelResponses(
        name,
        [[r.answer for r in row.responses] for row in rows],
        [str(row.meta["kind"]) for row in rows],
        finished=[[r.finished for r in row.responses] for row in rows],
    )


def _judge(rows: Sequence[ResponseRow], true: Nested) -> list[list[float]]:
    """The true reward with noise that is a function of the texts."""
    scores = []
    for row, values in zip(rows, true, strict=True):
        rng = random.Random(f"judge {prompt_text(row.prompt)} {[a.text for a in row.responses]}")
        scores.append([value + rng.gauss(0, JUDGE_NOISE) for value in values])
    return scores


@cache
def _code_digest() -> str:
    """A digest of the code that measures, so that verdicts of other thresholds are not reused."""
    digest = hashlib.sha256()
    measure = Path(accord.measure.__file__).parent
    for path in sorted(path for part in _CODE for path in measure.glob(part)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
