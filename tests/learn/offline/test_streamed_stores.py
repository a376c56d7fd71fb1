"""Training on a large preference store, read some rows at a time, is training on it in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from accord.compare.store import queries
from accord.compare.store.fingerprint import JudgeCheck, JudgeFingerprint
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict
from accord.compare.store_stream import StoreStream
from accord.errors import DataError
from accord.learn.offline import dataset_rows, prepared
from accord.learn.offline.prepared import dataset_key
from accord.lm.tokens import encode_chunks
from accord.records import Message, Response
from accord.settings.preferences import DpoSettings
from tests.learn.offline.test_chunked_rows import PAIRS, assert_same_steps, reports, run
from tests.learn.toys.files import write_jsonl
from tests.postgresql import PostgreSql

JUDGE = JudgeFingerprint("judge", "url", "0" * 64, "1" * 64)


def fill(path: Path | str) -> str:
    """A store with a pair of each row of PAIRS, on every other a second vote, one of them a tie,
    then rankings and ratings of the same responses."""
    with PreferenceStore.open(path) as store:
        prompts = [tuple(Message(**turn) for turn in pair["prompt"]) for pair in PAIRS]
        texts = [(pair["chosen"], pair["rejected"], "the end") for pair in PAIRS]
        ids = store.add_responses(
            [Response(p, t, "m") for p, row in zip(prompts, texts, strict=True) for t in row]
        )
        rows = list(zip(ids[::3], ids[1::3], ids[2::3], strict=True))
        store.add_verdicts([PairVerdict(a, b, "a", "ann") for a, b, _ in rows])
        votes = zip(rows[::2], ("b", "a", "tie", "a", "b"), strict=True)
        store.add_verdicts([PairVerdict(a, b, vote, "bob") for (a, b, _), vote in votes])
        store.add_verdicts([RankingVerdict(row, (0, 2, 1), "ann") for row in rows[:3]])
        store.add_verdicts([RatingVerdict(row[2], 1.0, "ann") for row in rows[5:]])
        by_judge = [PairVerdict(a, c, "a", "judge", judge=JUDGE) for a, _, c in rows[4:6]]
        store.add_verdicts([*by_judge, PairVerdict(rows[0][0], rows[0][2], "skip", "ann")])
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return fill(tmp_path / "store.db")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From the call on, all data sets are large."""

    def start() -> None:
        monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(prepared, "MIN_BYTES", 1)
        monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
        monkeypatch.setattr(dataset_rows, "encode_rows", None)
        monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 3)
        monkeypatch.setattr(queries, "CHUNK", 4)

    return start


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward"])
def test_losses_and_weights_are_equal_to_the_bit(
    method: str, store: str, tmp_path: Path, stream: Callable[[], None]
) -> None:
    sets = {"dataset": store, "eval_dataset": store}
    whole = run(tmp_path, method, "whole", **sets)
    stream()
    streamed = run(tmp_path, method, "streamed", **sets)
    assert_same_steps(streamed, whole)
    first, second = (
        load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "streamed")
    )
    assert all(bool((first[key] == second[key]).all()) for key in first.keys() | second.keys())
    for name in ("data.json", "eval_data.json"):
        expected, report = reports(tmp_path, "whole", "streamed", data=name)
        assert report == expected
        assert report["read"]["dropped"]


@pytest.mark.parametrize(
    "changed",
    [
        {"max_samples": 6, "samples_from": "anywhere", "max_eval_samples": 3},
        {"mixture": [{"dataset": "rows.jsonl", "weight": 0.5}]},
        {"dataset": "rows.jsonl", "mixture": [{"dataset": "store.db", "filter": {"min_votes": 2}}]},
        {
            "filter": {"labels": "separate", "annotator": ["ann", "judge"]},
            "eval_dataset": "held_out.jsonl",
            "max_samples": 9,
        },
        {"filter": {"unchecked_judges": "judge", "labels": "majority"}},
    ],
    ids=lambda changed: "-".join(map(str, changed)),
)
def test_a_choice_of_rows_of_a_large_store(
    changed: dict[str, Any],
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    changed = {"dataset": store, "eval_dataset": store, **changed}
    whole = run(tmp_path, "dpo", "whole", **changed)
    stream()
    assert_same_steps(run(tmp_path, "dpo", "streamed", **changed), whole)
    for name in ("data.json", "eval_data.json"):
        expected, report = reports(tmp_path, "whole", "streamed", data=name)
        assert report == expected


def test_few_steps_read_few_rows_of_a_large_store(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Callable[[], None]
) -> None:
    stream()
    monkeypatch.setattr(dataset_rows, "MIN_ROWS", 1)
    run(tmp_path, "dpo", "run", dataset=store, max_steps=1)
    (report,) = reports(tmp_path, "run")
    # Of ten pairs two are split; with the three rankings 11 rows can be used, and the judge's two
    # pairs can't. A step of four rows and a quarter more are five; the next power of two is eight.
    assert report["encoded"]["records"] == 8
    assert any("8 of the 11 usable rows are used" in note for note in report["read"]["notes"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": {"prompt": "question"}}, "which has no `columns`"),
        ({"mixture": [{"dataset": "rows.jsonl", "filter": {"min_votes": 2}}]}, "and rows.jsonl is"),
        ({"filter": {"annotator": "eve"}}, "which no verdict of"),
        ({"filter": {"annotator": "judge"}}, "`accord judge check`"),
        ({"filter": {"round": 0, "source": "x"}}, "`filter.source` names 'x'"),
        ({"filter": {"min_votes": 5}}, "fewer than 5 votes"),
        ({"dataset": "ratings.db"}, "it has 1 prompts, 1 responses, 1 verdicts, 1 ratings"),
        ({"dataset": "damaged.db"}, "is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_large_store_is_refused_as_a_small_one(
    changed: dict[str, Any],
    message: str,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    with PreferenceStore.open(tmp_path / "ratings.db") as other:
        other.add_verdicts([RatingVerdict(*other.add_responses([Response("p", "a", "m")]), 1, "x")])
    with PreferenceStore.open(fill(tmp_path / "damaged.db")) as other, other.engine.begin() as sql:
        sql.exec_driver_sql("PRAGMA foreign_keys = OFF")
        sql.exec_driver_sql("UPDATE responses SET text = x'00' WHERE id = 4")
    changed = {"dataset": store, **changed}
    with pytest.raises(DataError, match=message) as small:
        run(tmp_path, "dpo", "whole", **changed)
    stream()
    if "votes" not in message and "damaged" not in message and "check" not in message:
        monkeypatch.setattr("accord.learn.offline.train.load_starting_model", None)  # before it
    with pytest.raises(DataError) as large:
        run(tmp_path, "dpo", "streamed", **changed)
    assert str(large.value) == str(small.value)


def test_a_second_start_reads_no_verdicts(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Callable[[], None]
) -> None:
    stream()
    sets = {"dataset": store, "eval_dataset": store}
    first = run(tmp_path, "dpo", "first", **sets)
    monkeypatch.setattr(StoreStream, "usable", None)
    assert_same_steps(run(tmp_path, "dpo", "second", **sets), first)
    expected, report = reports(tmp_path, "first", "second")
    assert report == expected


def test_a_changed_store_has_another_key(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    checks = fill(tmp_path / "checks.db")
    named = {"filter": {"judge_checks": checks}}

    def key(**changed: Any) -> str:
        found = dataset_key(
            DpoSettings(model="m", output_dir="o", **{"dataset": store, **changed}), "dataset"
        )
        assert found is not None
        assert found.digest is not None
        return found.digest

    def sql(statement: str) -> None:
        with PreferenceStore.open(store) as opened, opened.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    keys = [key(), key(**named), key(filter={"min_votes": 2}), key(filter={"round": 0})]
    keys.append(key(dataset=checks))
    assert keys == [
        key(),
        key(**named),
        key(filter={"min_votes": 2}),
        key(filter={"round": 0}),
        key(dataset=checks),
    ]
    for path in (store, checks):
        with PreferenceStore.open(path) as opened:
            opened.add_judge_check(JudgeCheck(JUDGE, True, {}))
            keys.append(key(**named))  # in the write-ahead log
        keys.append(key(**named))
    for table, change in {
        "responses": "text = 'x'",
        "prompts": "content = '\"x\"'",
        "verdicts": "outcome = 'b'",
        "verdict_items": "rank = 1 - rank",
    }.items():
        sql(f"UPDATE {table} SET {change} WHERE rowid = 1")
        keys.append(key())
    assert len(set(keys)) == len(keys)


def test_several_held_out_sets_have_no_key(store: str) -> None:
    sets = {"people": f"sqlite:///{store}", "judge": "postgresql+psycopg://u@h/n"}
    assert (
        dataset_key(
            DpoSettings(model="m", output_dir="o", dataset=store, eval_dataset=sets), "eval_dataset"
        )
        is None
    )


def test_a_large_database_has_no_key_and_is_streamed(
    postgresql: PostgreSql, store: str, tmp_path: Path, stream: Callable[[], None]
) -> None:
    whole = run(tmp_path, "dpo", "whole", dataset=store)
    stream()
    url = fill(postgresql.create())
    assert_same_steps(run(tmp_path, "dpo", "streamed", dataset=url), whole)
    key = dataset_key(DpoSettings(model="m", output_dir="o", dataset=url), "dataset")
    assert key is not None
    assert key.digest is None
    assert key.bytes > 0
    expected, report = reports(tmp_path, "whole", "streamed")
    assert report["read"]["used"] == expected["read"]["used"]
