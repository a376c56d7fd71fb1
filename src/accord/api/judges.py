"""Prove a judge on people's verdicts, and let judges label, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accord.compare.judges.people import load_voted_pairs
from accord.data.report import ReadReport
from accord.data.voted_pairs import VotedPair
from accord.errors import SettingsError
from accord.pipeline.judges.asking import make_asked_judge
from accord.pipeline.judges.check import CheckOptions, JudgeReport, check_judge
from accord.pipeline.judges.record import record_check
from accord.pipeline.labels.forecast import Forecast
from accord.pipeline.labels.label import LabelReport
from accord.pipeline.labels.run import build_label_settings, run_label
from accord.pipeline.progress import run_to_end
from accord.records import Source
from accord.settings.judge import JudgeSettings
from accord.settings.reading.load import build
from accord.settings.reading.located import LocatedMapping


def check(
    people: str | Path | Sequence[VotedPair],
    judge: Any,
    *,
    where: Mapping[str, str] | None = None,
    annotators: Sequence[str] = (),
    criterion: str | None = None,
    min_kappa: float = 0.0,
    max_pairs: int | None = None,
    repeats: int = 15,
    own_model: str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
) -> JudgeReport:
    """Measure a judge on pairs that people have judged: `report.passed`, and the reason in
    `report.proof.reason`.

        report = accord.check_judge("testset.json", {"base_url": …, "model": …}, store="votes.db")

    `people` is a preference store, a file, a hub name, or `VotedPair`s. `judge` is a table of
    settings of a judge, or a function of (prompt, response_a, response_b) that returns "a", "b",
    "tie" or "both_bad". With `store` the result is recorded there, under the judge's fingerprint; a
    function has none. Raises DataError where no pair can be used, WorkError where the judge gives
    no verdict, SettingsError as the judge's settings.
    """
    if isinstance(people, str | Path):
        pairs, rows = load_voted_pairs(people, where=where, people=annotators, criterion=criterion)
    else:
        pairs = list(people)
        rows = ReadReport("list", len(pairs), len(pairs), len(pairs))
    asked = make_asked_judge(_settings(judge) if isinstance(judge, Mapping) else judge)
    if store is not None and asked.fingerprint is None:
        raise SettingsError(
            f"The judge {asked.name} is a function, and nothing says what it is when it changes: "
            f"its check can't be recorded. Leave `store` out, or pass a judge's settings."
        )
    options = CheckOptions(
        min_kappa=min_kappa,
        max_pairs=max_pairs,
        repeats=repeats,
        own_model=own_model,
        seed=seed,
    )
    report = run_to_end(check_judge(asked, pairs, rows, options))
    if store is not None and asked.fingerprint is not None:
        record_check(store, report, asked.fingerprint, criterion)
    return report


def label(
    store: str | Path,
    judges: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    escalate: bool = False,
    forecast: bool = False,
    **settings: Any,
) -> LabelReport | Forecast:
    """Let one judge or a panel label the pairs of responses in a store, as `accord label` does.

        report = accord.label("prefs.db", {"base_url": …, "model": …}, criteria={"helpful": "…"})

    `judges` are tables of settings, one or several; `settings` are the other keys of `accord
    label`, such as `criteria`, `models` and `quorum`. With `forecast` nothing is asked, and the
    calls, tokens and cost are returned. Raises DataError where there is no pair, WorkError where a
    judge gives no verdict at all or a limit on spending is met, SettingsError as the settings.
    """
    tables = [judges] if isinstance(judges, Mapping) else list(judges)
    values = {**settings, "judges": [dict(table) for table in tables]}
    located = LocatedMapping(values, source=Source("accord.label"))
    work = run_label(
        store, build_label_settings(located), escalate=escalate, forecast_only=forecast
    )
    return run_to_end(work)


def _settings(judge: Mapping[str, Any]) -> JudgeSettings:
    table = dict(judge)
    if "base_url" in table:
        table.setdefault("kind", "endpoint")
    return build(JudgeSettings, table, where="accord.check_judge judge")
