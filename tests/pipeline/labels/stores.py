"""A store of responses, and what judges and people make of it, for the tests of `accord label`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from accord.compare.store.store import PreferenceStore
from accord.pipeline.labels.forecast import Forecast
from accord.pipeline.labels.label import LabelReport
from accord.pipeline.labels.run import build_label_settings, run_label
from accord.pipeline.progress import run_to_end
from accord.records import Response, Source
from accord.settings.reading.located import LocatedMapping
from tests.fake_openai import Reply, completion, judged_texts

Store = TypeVar("Store", Path, str)
Rule = Callable[[Any], str]
"""A verdict, `A`, `B` or `tie`, on a request's body."""


def fill(path: Store, prompts: int = 6, models: tuple[str, ...] = ("red", "blue")) -> Store:
    """A response of each model to each prompt; `red` says yes to the even ones."""
    with PreferenceStore.open(path) as store:
        store.add_responses(
            [
                Response(
                    f"question {n}",
                    f"{'yes' if (n + i) % 2 == 0 else 'no'} {model} {n}",
                    model,
                )
                for n in range(prompts)
                for i, model in enumerate(models)
            ]
        )
    return path


def answer_by(rules: Mapping[str, Rule]) -> Callable[[Any], Reply]:
    """Answers by the rule of the request's model."""

    def answer(body: Any) -> Reply:
        verdict = rules[body["model"]](body)
        return 200, completion(json.dumps({"reason": "so", "verdict": verdict}))

    return answer


def prefers_yes(body: Any) -> str:
    texts = judged_texts(body)
    return "A" if texts["response-A"].startswith("yes") else "B"


def prefers_no(body: Any) -> str:
    return "B" if prefers_yes(body) == "A" else "A"


def prefers_first(body: Any) -> str:
    return "A"


def run(path: Path | str, values: Mapping[str, Any], **options: Any) -> LabelReport | Forecast:
    """What `accord label` returns with these settings."""
    settings = build_label_settings(LocatedMapping(dict(values), source=Source("test")))
    return run_to_end(run_label(path, settings, **options))


def label(path: Path | str, values: Mapping[str, Any], **options: Any) -> LabelReport:
    report = run(path, values, **options)
    assert isinstance(report, LabelReport)
    return report


def outcomes(path: Path | str) -> Counter[tuple[str, str | None, str | None]]:
    """The number of verdicts that count, by annotator, criterion and outcome."""
    with PreferenceStore.read(path) as store:
        return Counter((v.annotator, v.criterion, v.outcome) for v in store.verdicts())
