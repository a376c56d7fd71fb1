"""Preferences into a store from files of other tools, and out of it, without loss in silence."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.compare.dataset import load_records
from accord.compare.exchange.columns import DETAILS
from accord.compare.exchange.exporting import export_preferences
from accord.compare.exchange.importing import import_preferences
from accord.compare.store.fingerprint import JudgeAnswer, JudgeFingerprint
from accord.compare.store.rows import Selection
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict
from accord.data.report import count_dropped
from accord.errors import DataError
from accord.records import Message, Response
from tests.compare.import_rows import CASES

FIELDS = (*DETAILS, "criterion")


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(store: str | Path) -> list[tuple[Any, ...]]:
    """All verdicts in the form of CASES, in order."""
    result: list[tuple[Any, ...]] = []
    with PreferenceStore.read(store) as opened:
        responses = {r.id: r.response for r in opened.responses()}
        for v in opened.iterate_verdicts(Selection(history=True)):
            rows = [responses[item.response_id] for item in v.items]
            says: Any = v.outcome
            if v.kind == "ranking" and v.outcome is None:
                says = tuple(item.rank for item in v.items)
            elif v.kind == "rating" and v.outcome is None:
                says = v.items[0].score
            names = (
                "strength probability criterion comment reason tags seconds guideline view session"
            )
            fields = {n: getattr(v, n) for n in names.split() if getattr(v, n) not in (None, ())}
            if any(item.shown is not None for item in v.items):
                fields["shown"] = tuple(item.shown for item in v.items)
            if {row.model for row in rows} != {"unknown"}:
                fields["models"] = tuple(row.model for row in rows)
            result.append((v.kind, v.annotator, says, *(row.text for row in rows), fields))
    return result


@pytest.mark.parametrize("case", CASES)
def test_each_format_is_read_as_its_maker_means_it(case: str, tmp_path: Path) -> None:
    rows, expected = CASES[case]
    path, store = write(tmp_path / "rows.jsonl", rows), tmp_path / "s.db"
    result = import_preferences(path, store)
    assert content(store) == expected
    assert (result.report.rows, result.report.used) == (len(rows), len(rows))
    assert result.added == result.verdicts == len(expected)
    with PreferenceStore.read(store) as opened:
        assert {stored.prompt for stored in opened.prompts()} <= {
            "2+2?",
            (Message("user", "2+2?"),),
        }
        assert all(v.source == "rows.jsonl" for v in opened.verdicts(history=True))
    again = import_preferences(path, store)
    assert (again.added, again.verdicts) == (0, len(expected))
    assert content(store) == expected


def test_rows_are_added_or_dropped_with_their_line(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        {"prompt": "p", "chosen": "", "rejected": "b"},
        {"text": "no preference"},
        {"prompt": "p", "chosen": "a", "rejected": "c", "strength": 9},
        {"prompt": "p", "chosen": "a", "rejected": "c", "margin": 0.7},
        {"prompt": "p", "chosen": "a", "rejected": "c", "round": "x"},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    path.write_text(path.read_text() + "not json\n")
    result = import_preferences(path, tmp_path / "s.db")
    report = result.report
    lines = {s.line for at in report.dropped.values() for s, _ in at}
    assert lines == {2, 3, 4, 5, 7, 8}
    assert report.rows == 8 == report.used + count_dropped(report.dropped)
    assert "a margin that is not 1, 2 or 3 is not stored" in str(report.notes)
    assert [row[3:5] for row in content(tmp_path / "s.db")] == [("a", "b"), ("a", "c")]


@pytest.mark.parametrize(
    ("case", "path", "value"),
    [
        ("nectar", ("answers", 1, "rank"), 10**30),
        ("argilla 1", ("preference", 0, "value", 0, "rank"), math.inf),
        ("argilla 1 in columns", ("preference", "user_id"), 1),
        ("label studio", ("annotations", 0), 7),
        ("ultrafeedback", ("completions", 0, "annotations", "honesty", "Rating"), [1]),
        ("lmarena conversations", ("winner",), {"a": 1}),
        ("trl preference", ("chosen",), "a\0b"),
    ],
)
def test_a_damaged_row_is_dropped(
    case: str, path: tuple[Any, ...], value: Any, tmp_path: Path
) -> None:
    rows = copy.deepcopy(CASES[case][0][:1])
    *outer, last = path
    target: Any = rows[0]
    for key in outer:
        target = target[key]
    target[last] = value
    file = write(tmp_path / "rows.jsonl", [*rows, *CASES[case][0][:1]])
    report = import_preferences(file, tmp_path / "s.db").report
    assert {s.line for at in report.dropped.values() for s, _ in at} == {1}
    assert (report.rows, report.used) == (2, 1)


def test_a_second_opinion_of_one_annotator_is_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": a, "rejected": b} for a, b in (("x", "y"), ("y", "x"), ("x", "z"))
    ]
    result = import_preferences(write(tmp_path / "rows.jsonl", rows), tmp_path / "s.db")
    assert "1 replace an earlier one of the same annotator" in result.summary()
    named = [{**row, "annotator": f"u{i}"} for i, row in enumerate(rows)]
    result = import_preferences(write(tmp_path / "named.jsonl", named), tmp_path / "t.db")
    assert "replace" not in result.summary()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "only text"}], "has the columns text, which hold no preferences"),
        (
            [{"prompt": "p", "response_a": "x", "response_b": "y"}],
            "look like responses, and no column says which is preferred",
        ),
        (
            [{"prompt": "p", "chosen": "x", "rejected": "x"}],
            "has 1 rows, none of which can be imported as rows: 1 chosen and rejected are equal",
        ),
        (
            [{"prompt": "p", "output_1": "x", "output_2": "y", "label": n} for n in (0, 1)],
            "it can't be known which response each names",
        ),
        (
            [
                {
                    "context": [{"role": "user", "content": "p"}],
                    "response1": "x",
                    "response2": "y",
                    "overall_preference": 5,
                }
            ],
            "`overall_preference` is no whole number from -3 to 3",
        ),
    ],
)
def test_files_that_are_refused(rows: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as caught:
        import_preferences(path, tmp_path / "s.db")
    assert message in str(caught.value)


JUDGE = JudgeFingerprint("m", "e", "p", "r")
TALK = (Message("system", "be kind"), Message("user", "2+2?", context='{"tools": [{"name": "f"}]}'))


@pytest.fixture
def full(tmp_path: Path) -> str:
    """A store with every kind of verdict, and every field."""
    path = str(tmp_path / "full.db")
    with PreferenceStore.open(path) as store:
        rows = [Response("[1] plain?", text, "m1") for text in ("four", "=5", "six, \n“6”")]
        rows += [
            Response(TALK[1:], text, "m2", finished=text != "cut") for text in ("a", "b", "cut")
        ]
        a, b, c, d, e, f = store.add_responses(rows)
        store.add_verdicts(
            [
                PairVerdict(
                    a,
                    b,
                    "a",
                    "ann",
                    round=2,
                    reason="r",
                    shown_first="b",
                    seconds=1.5,
                    strength=3,
                    criterion="honest",
                    comment="well, “so”\n",
                    tags=("x", "y"),
                    guideline="g" * 64,
                    view="raw",
                    session="s",
                    source="person",
                ),
                PairVerdict(a, c, "tie", "ann"),
                PairVerdict(b, c, "both_bad", "ann"),
                PairVerdict(d, e, "skip", "ann", reason="no idea"),
                PairVerdict(
                    d,
                    f,
                    "undecided",
                    "judge",
                    probability=0.5,
                    judge=JUDGE,
                    answers=(JudgeAnswer("A", (d, f)),),
                ),
                RankingVerdict((d, e, f), (1, 0, 1), "bob", shown=(f, d, e)),
                RankingVerdict((a, b, c), (), "bob", outcome="flag"),
                RatingVerdict(d, 1.0, "ann"),
            ]
        )
    return path


@pytest.mark.parametrize("form", ["verdicts", "csv"])
def test_a_round_trip_with_all_that_a_verdict_says(full: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{'csv' if form == 'csv' else 'jsonl'}"
    result = export_preferences(full, path, form)
    assert (result.verdicts, result.exported, result.rows) == (8, 8, 8)
    assert dict(result.lost) == {"the judge's fingerprint and answers": 1}
    imported = import_preferences(path, tmp_path / "again.db")
    assert (imported.form, imported.added) == ("verdicts", 8)
    assert content(tmp_path / "again.db") == content(full)
    with PreferenceStore.read(full) as first, PreferenceStore.read(tmp_path / "again.db") as second:
        assert {p.prompt for p in first.prompts()} == {p.prompt for p in second.prompts()}
        assert sorted(r.response.finished for r in second.responses()) == [False, *[True] * 5]
        rounds = [[v.round for v in s.verdicts()] for s in (first, second)]
        assert rounds[0] == rounds[1]


def test_pairs_for_trl(full: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    result = export_preferences(full, path, "pairs")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first_row = [rows[0][name] for name in ("prompt", "chosen", "rejected", "margin")]
    assert first_row == ["[1] plain?", "four", "=5", 3]
    # The ranking's two pairs with different ranks: e over d, and e over f, which was cut.
    assert [r["chosen"][0]["content"] + r["rejected"][0]["content"] for r in rows[1:]] == [
        "ba",
        "bcut",
    ]
    assert rows[1]["tools"] == [{"name": "f"}]
    assert [r["finished"] for r in rows] == [[True, True], [True, True], [True, False]]
    assert len({tuple(row) for row in rows[1:]}) == 1  # the same columns in each row
    assert (result.verdicts, result.exported, result.rows) == (8, 2, 3)
    assert dict(result.dropped) == {
        "ties": 1,
        "pairs of which both are bad": 1,
        "skips": 1,
        "undecided pairs": 1,
        "flags": 1,
        "ratings of one response": 1,
    }
    assert "The format pairs can't hold `the order shown` of 2, `reason` of 1" in result.summary()
    # Training reads of the file what it reads of the store.
    for kind in ("comparisons", "preferences"):
        assert len(load_records(path, kind)[0]) == 3  # type: ignore[arg-type]
    again = import_preferences(path, tmp_path / "again.db")
    assert (again.added, again.report.rows) == (3, 3)
    first = content(tmp_path / "again.db")[0]
    assert first == ("pair", "ann", "a", "four", "=5", first[-1])
    assert first[-1] == {"strength": 3, "criterion": "honest", "models": ("m1", "m1")}


def test_rankings_and_kto(full: str, tmp_path: Path) -> None:
    result = export_preferences(full, tmp_path / "ranks.jsonl", "rankings")
    assert (result.exported, result.rows) == (4, 4)
    again = import_preferences(tmp_path / "ranks.jsonl", tmp_path / "again.db")
    assert [(row[0], row[2]) for row in content(tmp_path / "again.db")] == [
        ("pair", "a"),
        ("pair", "tie"),
        ("pair", "both_bad"),
        ("ranking", (1, 0, 1)),
    ]
    assert again.report.used == 4
    export_preferences(full, tmp_path / "kto.jsonl", "kto")
    rows = [json.loads(line) for line in (tmp_path / "kto.jsonl").read_text().splitlines()]
    # The pair, two responses of the bad pair, the ranking (d and f lose, e wins), the rating.
    assert [row["label"] for row in rows] == [True, False, False, False, False, True, False, True]
    assert len(load_records(tmp_path / "kto.jsonl", "kto")[0]) == 8


def test_exports_that_are_refused(full: str, tmp_path: Path) -> None:
    with PreferenceStore.open(full) as store:
        store.add_verdicts([RatingVerdict(1, 4.0, "zoe")])
    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine")
    for path, form, message in (
        ("x.jsonl", "excel", "'excel' is no format. Give one of pairs, kto, rankings"),
        ("x.csv", "pairs", "is written to a file ending in .jsonl"),
        ("taken.jsonl", "pairs", "exists. Give a new file's name"),
        ("x.jsonl", "kto", "has the score 4, so it can't be known"),
    ):
        with pytest.raises(DataError, match=message):
            export_preferences(full, tmp_path / path, form)
    assert taken.read_text() == "mine"
    assert not (tmp_path / "x.jsonl").exists()
    result = export_preferences(full, tmp_path / "x.jsonl", "kto", desirable_from=5)
    assert result.dropped == {"ties": 1, "skips": 1, "undecided pairs": 1, "flags": 1}


def test_the_commands(full: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, store = str(tmp_path / "out.jsonl"), str(tmp_path / "new.db")
    assert run(["data", "export", full, out, "--format", "pairs", "--annotator", "ann"]) == 0
    assert "6 verdicts, 1 exported as 1 rows" not in capsys.readouterr().err
    assert run(["data", "import", out, store, "--source", "person", "--round", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Read as rows: 1 rows, 1 used, 0 dropped.")
    assert text.rstrip().endswith("1 verdicts are added.")
    assert run(["data", "export", full, out, "--format", "pairs", "--source", "persons"]) == 2
