"""Battles in a file are rated alone, as those that an arena judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.data.read import read_battles
from accord.errors import DataError, SettingsError
from accord.measure.ratings.rate import rate_models
from accord.settings.arena import ArenaSettings
from accord.settings.reading.load import build

BATTLES = [
    {"model_a": "alpha", "model_b": "beta", "winner": "model_a"},
    {"model_a": "beta", "model_b": "alpha", "winner": "tie (bothbad)"},
    {"model_a": "beta", "model_b": "gamma", "winner": "model_b"},
    {"model_a": "gamma", "model_b": "alpha", "winner": "tie"},
    {"model_a": "gamma", "model_b": "gamma", "winner": "tie"},  # against itself
]


def test_a_file_of_battles_is_rated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("battles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BATTLES))
    assert run(["arena", "battles=battles.jsonl", "output_dir=out", "bootstrap=10", "seed=3"]) == 0
    battles, _ = read_battles(BATTLES)
    expected = rate_models(battles, bootstrap=10, seed=3).to_json()
    written = json.loads(Path("out/ratings.json").read_text())
    assert written["notes"][: len(expected["notes"])] == expected.pop("notes")
    assert {key: written[key] for key in expected} == expected
    assert [(pair["a"], pair["b"]) for pair in written["comparisons"]] == [
        ("alpha", "beta"),
        ("alpha", "gamma"),
        ("beta", "gamma"),
    ]
    counts = json.loads(Path("out/counts.json").read_text())
    assert counts["battles"] == 4
    assert list(counts["read"]["dropped"]) == ["a model against itself"]
    # One win, and two draws that count half each: 2 of alpha's 3 battles.
    alpha = next(m for m in expected["models"] if m["model"] == "alpha")
    assert (alpha["wins"], alpha["ties"], alpha["both_bad"]) == (1, 1, 1)


def test_a_column_for_each_outcome() -> None:
    names = ("winner_model_a", "winner_model_b", "winner_tie")

    def row(*marks: Any) -> dict[str, Any]:
        return {"model_a": "x", "model_b": "y", **dict(zip(names, marks, strict=True))}

    rows = [row(1, 0, 0), row("0", "1", "0"), row(False, False, True), row(1, 1, 0), row(0, 0, 0)]
    battles, report = read_battles(rows)
    assert [battle.outcome for battle in battles] == ["a", "b", "tie"]
    assert list(report.dropped) == [f"not one of {', '.join(names)} is 1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "needs `contestants`, whose responses are compared, or `battles`"),
        (
            {"battles": "b", "contestants": [{"name": "a", "responses": "r"}]},
            "`contestants` does nothing with `battles`",
        ),
        ({"battles": "b", "judge": {"noise": 0.5}}, "`judge` does nothing with `battles`"),
    ],
)
def test_battles_or_contestants(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(ArenaSettings, {"output_dir": "o", **values}, where="arena")


def test_rows_that_are_no_battles() -> None:
    with pytest.raises(DataError, match="battles need model_a, model_b, winner"):
        read_battles([{"prompt": "a", "chosen": "b", "rejected": "c"}])
