"""What rows say of a verdict beside its content: it is stored, or it is named as left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.compare.exchange.exporting import export_preferences
from accord.compare.exchange.importing import import_preferences
from accord.compare.store.rows import StoredVerdict
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import RankingVerdict, RatingVerdict
from accord.records import Response

ASK = [{"role": "user", "content": "2+2?"}]
SAID: dict[str, Any] = {
    "annotator": "ann",
    "criterion": "brief",
    "round": 3,
    "reason": "r",
    "comment": "ok",
    "tags": ("x", "y"),
    "seconds": 2.5,
    "guideline": "h" * 64,
    "view": "raw",
    "session": "s",
}
PAIR = {"prompt": "2+2?", "chosen": "four", "rejected": "five"}
RATING = {"prompt": "2+2?", "completion": "four", "score": 4}
RANKING = {"prompt": "2+2?", "responses": ["four", "five", "six"], "ranks": [0, 1, 2]}
LABELLED = {"prompt": "2+2?", "response_a": "four", "response_b": "five"}
HELPSTEER = {"context": ASK, "response1": "four", "response2": "five", "overall_preference": -2}
ARENA = {**LABELLED, "model_a": "m1", "model_b": "m2", "winner": "model_a"}
NECTAR = {
    "prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
    "answers": [{"answer": text, "rank": i} for i, text in enumerate(("four", "five"), start=1)],
}
NEMO_RL = {
    "context": ASK,
    "completions": [
        {"rank": i, "completion": [{"role": "assistant", "content": text}]}
        for i, text in enumerate(("four", "five"))
    ],
}
PUBLISHED = {"helpsteer3": HELPSTEER, "arena": ARENA, "nectar": NECTAR, "nemo-rl": NEMO_RL}


def import_row(row: dict[str, Any], folder: Path) -> tuple[StoredVerdict, list[str]]:
    """The verdict of a row, and the notes on how it was read."""
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    result = import_preferences(folder / "rows.jsonl", folder / "s.db")
    with PreferenceStore.read(folder / "s.db") as store:
        (verdict,) = store.verdicts()
    return verdict, result.report.notes


def said(verdict: StoredVerdict, *names: str) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in (*SAID, *names)}


@pytest.mark.parametrize(
    "row",
    [PAIR, RATING, RANKING, {**LABELLED, "winner": "response_b"}, *PUBLISHED.values()],
    ids=["pair", "rating", "ranking", "labelled", *PUBLISHED],
)
def test_each_field_of_a_row_is_stored(row: dict[str, Any], tmp_path: Path) -> None:
    verdict, notes = import_row({**row, **SAID}, tmp_path)
    assert said(verdict) == SAID
    assert not any("not stored" in note or "not read" in note for note in notes)


def test_a_rating_keeps_its_strength(tmp_path: Path) -> None:
    verdict, _ = import_row({**RATING, "strength": 2}, tmp_path)
    assert (verdict.items[0].score, verdict.strength) == (4.0, 2)


def test_a_pair_keeps_the_probability_that_it_was_given(tmp_path: Path) -> None:
    # Whatever training would make of it: the store holds what the annotator said.
    verdict, _ = import_row({**PAIR, "probability": 0.2}, tmp_path)
    assert (verdict.outcome, verdict.probability) == ("a", 0.2)
    with PreferenceStore.read(tmp_path / "s.db") as store:
        texts = {stored.id: stored.response.text for stored in store.responses()}
    assert texts[verdict.items[0].response_id] == "four"


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ({**RATING, "probability": 0.9}, "the column `probability` of a rating is not stored"),
        ({**RANKING, "strength": 1}, "the column `strength` of a ranking is not stored"),
        ({**RANKING, "probability": 0.9}, "the column `probability` of a ranking is not stored"),
        (
            {**LABELLED, "winner": "tie", "strength": 1},
            "the column `strength` of a pair without a winner is not stored",
        ),
    ],
)
def test_what_a_verdict_has_no_field_for_is_named(
    row: dict[str, Any], left: str, tmp_path: Path
) -> None:
    verdict, notes = import_row(row, tmp_path)
    assert left in notes
    assert (verdict.strength, verdict.probability) == (None, None)


def test_columns_of_a_published_data_set_go_before(tmp_path: Path) -> None:
    verdict, _ = import_row({**ARENA, "judge": "user 7", "annotator": "x"}, tmp_path)
    assert verdict.annotator == "user 7"
    row = {"instruction": "2+2?", "completions": [{"response": "four", "critique": "well"}]}
    rated = {**row["completions"][0], "overall_score": 7}  # type: ignore[dict-item]
    folder = tmp_path / "ultrafeedback"
    folder.mkdir()
    whole = {**row, "completions": [rated], "comment": "no", "round": 2, "source": "evol"}
    verdict, _ = import_row(whole, folder)
    assert (verdict.comment, verdict.round, verdict.source) == ("well", 2, "rows.jsonl")


def test_a_column_of_another_kind_drops_no_row_of_a_published_data_set(tmp_path: Path) -> None:
    verdict, notes = import_row({**HELPSTEER, "tags": "maths", "criterion": ["a"]}, tmp_path)
    assert (verdict.outcome, verdict.strength, verdict.tags) == ("a", 2, ())
    assert "`tags` is no list, and is not read" in notes
    assert "`criterion` is no text, and is not read" in notes


@pytest.mark.parametrize("form", ["verdicts", "csv"])
def test_a_round_trip_of_ratings_and_rankings(form: str, tmp_path: Path) -> None:
    fields = {**SAID, "source": "person"}
    with PreferenceStore.open(tmp_path / "full.db") as store:
        ids = store.add_responses([Response("p", text, "m") for text in "abc"])
        store.add_verdicts(
            [
                RatingVerdict(ids[0], 1.0, strength=3, **fields),
                RankingVerdict(tuple(ids), (0, 1, 1), **fields),
                RatingVerdict(ids[1], None, outcome="flag", **fields),
            ]
        )
    path = tmp_path / f"out.{'csv' if form == 'csv' else 'jsonl'}"
    export_preferences(tmp_path / "full.db", path, form)
    import_preferences(path, tmp_path / "again.db")
    with PreferenceStore.read(tmp_path / "again.db") as again:
        verdicts = again.verdicts()
    assert [said(v, "source", "strength") for v in verdicts] == [
        {**fields, "strength": strength} for strength in (3, None, None)
    ]
    assert [v.outcome for v in verdicts] == [None, None, "flag"]
    assert [[i.rank for i in v.items] for v in verdicts if v.kind == "ranking"] == [[0, 1, 1]]
