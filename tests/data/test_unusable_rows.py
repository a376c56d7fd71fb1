"""Rows that can't be used: each is dropped with a reason, and the others of its file are read."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accord.data.files import read_rows
from accord.data.lines import MAX_ROW_BYTES
from accord.data.memory import read_memory_rows
from accord.data.read import read_records, records_from_rows
from accord.data.write import record_json, write_jsonl
from accord.errors import DataError
from accord.records import PromptOnly

GOOD = b'{"prompt": "a", "completion": "b"}'
DEEP = b"[" * 100 + b"]" * 100
# A row, and the reason for which it is dropped.
UNUSABLE = {
    b'{"prompt": "a", "completion": ': "not valid JSON",
    b'{"prompt": "a"} {"prompt": "b"}': "not valid JSON",
    b'{"prompt": "a\x00b", "completion": "c"}': "not valid JSON",
    b'["a", "b"]': "not a JSON object of column names and values",
    b"NaN": "not a JSON object of column names and values",
    b'{"prompt": "a", "completion": "\xff"}': "text that is not UTF-8",
    b'{"prompt": "a", "completion": "b", "n": 1' + b"0" * 5000 + b"}": (
        "a number of thousands of digits"
    ),
    b'{"prompt": ' + DEEP + b', "completion": "b"}': "`prompt` nests more than 64 levels deep",
    b'{"prompt": ' + b"[" * 10**5 + b"1": "values that nest more than 64 levels deep",
    b'{"prompt": "a", "prompt": "b", "completion": "c"}': "a key is named twice in an object",
    b'{"prompt": [{"role": "user", "role": "assistant", "content": "c"}], "completion": "c"}': (
        "a key is named twice in an object"
    ),
    b'{"prompt": [{"role": ["user"], "content": "x"}], "completion": "c"}': (
        "`prompt` holds a turn of an unknown role"
    ),
    b'{"prompt": [{"role": "user", "content": "\\ud800"}], "completion": "c"}': (
        "`prompt` holds half a character (a lone surrogate)"
    ),
    b'{"prompt": "a", "completion": "c", "meta": {"x": ["\\udfff"]}}': (
        "`meta` holds half a character (a lone surrogate)"
    ),
    b'{"prompt": "a", "completion": "c", "\\ud800": 1}': "a column's name holds half a character",
    b'{"prompt": "a", "completion": "c", "meta": {"\\ud800": 1}}': (
        "`meta` a column's name holds half a character"
    ),
}


def check_dropped(path: Path, reason: str, line: int) -> None:
    """The second of three rows at `path` is dropped for `reason`, and for that alone."""
    for kind in ("prompts", "sft"):
        records, report = read_records(path, kind)  # type: ignore[arg-type]
        assert (report.rows, report.used, len(records)) == (3, 2, 2)
        assert list(report.dropped) == [reason]
        assert [source.line for source, _ in report.dropped[reason]] == [line]
        (report.summary() + json.dumps(report.to_json())).encode()


@pytest.mark.parametrize("row", UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_line_that_cannot_be_used(row: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, row, GOOD, b""]))
    check_dropped(path, UNUSABLE[row], line=2)
    packed = tmp_path / "b.jsonl"  # packed by gzip, whatever its name is
    packed.write_bytes(gzip.compress(path.read_bytes()))
    check_dropped(packed, UNUSABLE[row], line=2)


@pytest.mark.parametrize(
    "row", [r for r, reason in UNUSABLE.items() if reason != "not valid JSON" and r[-1:] != b"1"]
)
def test_an_object_of_a_list_that_cannot_be_used(row: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[\n" + b" ,\n".join([GOOD, row, GOOD]) + b"\n]")
    if UNUSABLE[row] == "text that is not UTF-8":
        reason = "holds bytes that are not UTF-8, or half a character (a lone surrogate)"
        check_dropped(path, f"`completion` {reason}", line=2)
    else:
        check_dropped(path, UNUSABLE[row], line=2)


def test_a_list_is_read_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": 'é"\\\n', "n": -12.5e3}, {"prompt": [], "n": 123}, {"a": {"b": "😀]},"}}]
    path = tmp_path / "a.json"
    path.write_text("\ufeff " + json.dumps(rows, indent=1) + "\n")
    for size in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("accord.data.lines.CHUNK_BYTES", size)
        values = [row.values for row in read_rows(path)]
        assert values == rows
    for text, where in (
        ("[1, 2", ":1 is not valid JSON: Expecting"),
        ("[{}\n,]", ":2 is not valid JSON: Expecting value at character 2"),
        ("[{}] x", ":1 is not valid JSON: Extra data at character 6"),
        ("[" + "[" * 5000, ":1 is not valid JSON: The list has no end"),
        ('[{"a": 1}\n {"b": 2}]', ":2 is not valid JSON: Expecting ',' delimiter at character 2"),
    ):
        path.write_text(text)
        for size in (1, 1000):
            monkeypatch.setattr("accord.data.lines.CHUNK_BYTES", size)
            with pytest.raises(DataError) as caught:
                list(read_rows(path))
            assert str(caught.value).startswith(f"{path}{where}")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.tsv.gz"])
def test_a_row_that_is_too_long(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lines", "json_rows", "csv_rows"):
        monkeypatch.setattr(f"accord.data.{module}.MAX_ROW_BYTES", 10_000)
    monkeypatch.setattr("accord.data.lines.CHUNK_BYTES", 1000)
    path, long, mark = (
        tmp_path / name,
        b'"' + b"a" * 50_000 + b'"',
        b"\t" if ".tsv" in name else b",",
    )
    if ".json" in name:
        rows = [GOOD, b'{"prompt": ' + long + b', "completion": "]"}', GOOD]
        text = b"\n".join(rows) if "jsonl" in name else b"[" + b",\n".join(rows) + b"]"
    else:
        cells = [(b"prompt", b"completion"), (b"a", b"b"), (long, b"c"), (b"a", b"b")]
        text = b"\n".join(map(mark.join, cells))
    path.write_bytes(gzip.compress(text))
    reason = f"a row of more than {MAX_ROW_BYTES // 2**20} MiB"
    check_dropped(path, reason, line=2 if ".json" in name else 3)


CSV_ROWS = {
    b"": "a blank line",
    b"a,b,c": "more cells than the header names columns",
    b'"a"b,c': "not valid CSV",
    b"\xe9,b": "`prompt` holds bytes that are not UTF-8, or half a character (a lone surrogate)",
    b'"[{""role"": ""user"", ""role"": 1}]",b': "a key is named twice in an object",
}


@pytest.mark.parametrize("row", CSV_ROWS, ids=range(len(CSV_ROWS)))
def test_a_row_of_csv_that_cannot_be_used(row: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join([b"\xef\xbb\xbfprompt,completion\r", b"a,b\r", row, b"c,d", b""]))
    check_dropped(path, CSV_ROWS[row], line=3)


def test_tab_separated_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tcompletion\na, b\t"c\td"\n')
    assert [row.values for row in read_rows(path)] == [{"prompt": "a, b", "completion": "c\td"}]


def test_parquet_rows_that_are_not_utf8(tmp_path: Path) -> None:
    path, raw = tmp_path / "a.parquet", pa.array([b"a", b"\xff\xfe", b"c"])
    prompts = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    table = pa.table({"prompt": prompts, "completion": ["x", "y", "z"]})
    pq.write_table(table, path)
    check_dropped(path, "text that is not UTF-8", line=2)
    dataset = datasets.Dataset(datasets.table.InMemoryTable(table))
    dataset.save_to_disk(str(tmp_path / "saved"))
    check_dropped(tmp_path / "saved", "text that is not UTF-8", line=2)


def test_parquet_columns_with_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["prompt", "prompt"]), path)
    with pytest.raises(DataError, match=r"a\.parquet names a column twice\. Rename one of: prompt"):
        read_records(path, "prompts")


def test_parquet_that_unpacks_to_far_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.data.parquet_rows.MAX_GROUP_BYTES", 10**5)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": ["a" * 10**6]}), path, compression="zstd")
    with pytest.raises(DataError, match=r"would unpack [0-9,]+ bytes into 1,00\d,"):
        read_records(path, "prompts")


def test_what_prompts_carry_can_be_written_and_read_again(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "id": pa.array([2**63 - 1, -(2**63)]),
            "unsigned": pa.array([2**64 - 1, 0], pa.uint64()),
            "date": pa.array([0, 1], pa.date32()),
            "price": pa.array([Decimal("1.50"), None]),
            "nested": [{"when": [1, 2], "x": float("nan")}, None],
            "raw": pa.array([b"abc", b"\xff"]),
            "map": pa.array([[("k", 1.5)], []], pa.map_(pa.string(), pa.float64())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    records, report = read_records(tmp_path / "a.parquet", "prompts")
    assert report.notes == ["in 1 rows, numbers that are NaN or infinite are read as null"]
    assert isinstance(records[0], PromptOnly)
    assert records[0].meta == {
        "id": 2**63 - 1,
        "unsigned": 2**64 - 1,
        "date": "1970-01-01",
        "price": "1.50",
        "nested": {"when": [1, 2], "x": None},
        "raw": "abc",
        "map": [["k", 1.5]],
    }
    write_jsonl(tmp_path / "b.jsonl", map(record_json, records))
    again, _ = read_records(tmp_path / "b.jsonl", "prompts")
    assert [r.meta for r in again] == [r.meta for r in records]  # type: ignore[union-attr]


def test_an_answer_that_looks_like_a_dialogue_is_written_as_a_turn(tmp_path: Path) -> None:
    ask = [{"role": "user", "content": "Write a dialogue"}]
    texts = ["Human: hi\n\nAssistant: yo", "Human: hi\n\nAssistant: no", '[{"role": "user"}]']
    answers = [[*ask, {"role": "assistant", "content": text}] for text in texts]
    rows = [
        {"chosen": answers[0], "rejected": answers[1]},
        {"chosen": answers[0], "rejected": [*ask, {"role": "assistant", "content": "none"}]},
        {"chosen": answers[2], "rejected": answers[0]},
    ]
    records, _ = records_from_rows(rows, "comparisons")
    write_jsonl(tmp_path / "a.jsonl", map(record_json, records))
    again, _ = read_records(tmp_path / "a.jsonl", "comparisons")
    assert list(map(record_json, again)) == list(map(record_json, records))
    assert again[0].chosen == texts[0]  # type: ignore[union-attr]


def test_a_conversation_of_blanks_asks_nothing() -> None:
    turns = [{"role": "user", "content": " "}, {"role": "assistant", "content": "yo"}]
    for row in ({"messages": turns}, {"messages": turns[:1]}):
        with pytest.raises(DataError, match="1 an empty prompt"):
            records_from_rows([row], "any")


def test_messages_as_text_with_half_a_character() -> None:
    turns = json.dumps([{"role": "user", "content": "x", "\ud800": ["\udc01"]}])
    with pytest.raises(DataError, match="1 `prompt` a column's name holds half a character"):
        records_from_rows([{"prompt": turns}], "prompts")


def test_what_nests_as_deep_as_it_may_is_written_and_read_again(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(64):
        value = [value]
    records, _ = records_from_rows([{"prompt": "a", "x": value}], "prompts")
    write_jsonl(tmp_path / "a.jsonl", map(record_json, records))
    [again], _ = read_records(tmp_path / "a.jsonl", "prompts")
    assert again.meta == {"x": value}  # type: ignore[union-attr]


def test_rows_in_memory_that_cannot_be_written() -> None:
    circle: list[Any] = []
    circle.append(circle)
    rows = [
        {"prompt": "a"},
        {"prompt": "a", "n": 10**5000},
        {"prompt": "a", "n": circle},
        {"prompt": "a", 1: "x", "1": "y"},
        {"prompt": "a", "m": {1: "x", "1": "y"}},
        {"prompt": "a\udcff"},
    ]
    records, report = records_from_rows(rows, "prompts")
    assert (len(records), report.rows, report.used) == (1, 6, 1)
    assert list(report.dropped) == [
        "`n` holds a number of thousands of digits",
        "`n` nests more than 64 levels deep",
        "`1` is named twice in a row",
        "`m` holds a key twice",
        "`prompt` holds bytes that are not UTF-8, or half a character (a lone surrogate)",
    ]
    assert [row.error is None for row in read_memory_rows(rows)] == [True] + [False] * 5


def test_numbers_without_end_in_scores_and_ranks() -> None:
    huge = 10**400  # no float holds it
    rows = [{"prompt": "a", "completion": "b", "score": huge}]
    with pytest.raises(DataError, match="1 `score` is no finite number"):
        records_from_rows(rows, "ratings")
    with pytest.raises(DataError, match=r"1 `ranks` must be whole numbers from 0 \(best\)"):
        records_from_rows(
            [{"prompt": "a", "responses": ["b", "c"], "ranks": [0, huge]}], "rankings"
        )


def test_an_answer_after_an_answer_is_dropped(tmp_path: Path) -> None:
    """A template would close the first and open a second one, which no model is asked for."""
    question = {"role": "user", "content": "q"}
    answers = [{"role": "assistant", "content": text} for text in ("a", "b")]
    rows = [{"messages": [question, answers[0]]}, {"messages": [question, *answers]}]
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows)
    records, report = read_records(path, "demonstrations")
    assert len(records) == 1
    assert list(report.dropped) == ["the last two turns are both the assistant's"]
    assert [source.line for source, _ in report.dropped.popitem()[1]] == [2]
