"""Reading rows: every kind of path, the line of each row, and what each failure says."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.files import read_rows
from accord.errors import DataError
from accord.records import Source

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c\nd", "completion": 'é, "f"'}]


def read(path: str | Path) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(path) if row.error is None]


def unusable(path: str | Path) -> list[tuple[int | None, str]]:
    """The lines of the rows that can't be used, and why."""
    return [(row.source.line, str(row.error)) for row in read_rows(path) if row.error is not None]


def lines(path: str | Path) -> list[int | None]:
    return [row.source.line for row in read_rows(path)]


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def fails(path: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value)


def test_jsonl_counts_lines_from_one_and_skips_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"x": 1}\n\n{"x": 2}\n', encoding="utf-8")
    assert read(path) == [{"x": 1}, {"x": 2}]
    assert [row.source for row in read_rows(path)] == [Source(str(path), 1), Source(str(path), 3)]


def test_gzipped_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(ROWS).encode()))
    assert read(path) == ROWS


def test_json_list_one_object_and_lines_under_that_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1))
    assert read(path) == ROWS
    assert lines(path) == [1, 2]  # the row, not the line of the text
    path.write_text(json.dumps(ROWS[0], indent=1))
    assert read(path) == ROWS[:1]
    path.write_text(jsonl(ROWS))
    assert read(path) == ROWS


def test_a_csv_row_that_spans_lines_has_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,completion\n"a\nb",c\n\nd,"e, f"\ng\n')
    assert read(path) == [
        {"prompt": "a\nb", "completion": "c"},
        {"prompt": "d", "completion": "e, f"},
        {"prompt": "g", "completion": None},  # the row ends early: no value, not an empty one
    ]
    assert lines(path) == [2, 4, 5, 6]
    assert unusable(path) == [(4, "a blank line")]


def test_csv_cells_that_hold_turns_or_lists_are_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    turns = [{"role": "user", "content": "hi"}]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "responses", "ranks"])
        writer.writerow([json.dumps(turns), json.dumps(["x", "y"]), "[0, 1]"])
        writer.writerow(["[1] is a footnote", "[broken", "0"])
    assert read(path) == [
        {"prompt": turns, "responses": ["x", "y"], "ranks": [0, 1]},
        {"prompt": "[1] is a footnote", "responses": "[broken", "ranks": "0"},
    ]


def test_csv_cell_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n")
    assert len(read(path)[0]["text"]) == 200_000


def test_parquet_and_save_to_disk(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ROWS
    assert lines(tmp_path / "a.parquet") == [1, 2]
    table.save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved") == ROWS


def test_save_to_disk_with_splits(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=table, test=table).save_to_disk(str(tmp_path / "saved"))
    assert fails(tmp_path / "saved") == (
        f"{tmp_path / 'saved'} has the splits test, train. Name one: {tmp_path / 'saved/train'}."
    )
    assert read(tmp_path / "saved" / "train") == ROWS
    datasets.DatasetDict(train=table).save_to_disk(str(tmp_path / "one"))
    assert [row.source.path for row in read_rows(tmp_path / "one")] == [
        str(tmp_path / "one" / "train")
    ] * 2


def test_folder_reads_its_data_files_in_order_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(jsonl(ROWS[1:]))
    (tmp_path / "a.jsonl").write_text(jsonl(ROWS[:1]))
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".c.jsonl").write_text("not JSON")
    assert read(tmp_path) == ROWS


def test_folder_with_train_and_test_rows_is_refused(tmp_path: Path) -> None:
    for name in ("train-00000.jsonl", "test-00000.jsonl"):
        (tmp_path / name).write_text(jsonl(ROWS))
    assert fails(tmp_path) == (
        f"{tmp_path} holds both training and held-out rows (test-00000.jsonl, train-00000.jsonl), "
        "which must not be mixed. Name the file."
    )


def test_folder_without_rows(tmp_path: Path) -> None:
    assert fails(tmp_path) == (
        f"{tmp_path} is a folder without rows. Give one that holds .jsonl, .json, .csv, "
        ".tsv or .parquet (all but the last also with .gz behind)."
    )


def test_broken_json_names_line_and_position(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n{"x": 2,}\n')
    # `{"x": 2,}`: the comma is character 8; Python 3.13 names it, earlier ones the brace behind.
    assert read(path) == [{"x": 1}]
    [(line, reason)] = unusable(path)
    assert line == 2
    assert reason.startswith("not valid JSON: ")
    assert reason.endswith("near '{\"x\": 2,}'")


def test_broken_json_list_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"x": 1},\n {"x" 2}\n]')
    assert fails(path).startswith(
        f"{path}:3 is not valid JSON: Expecting ':' delimiter at character 7"
    )


def test_row_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n["y"]\n')
    assert unusable(path) == [(2, "not a JSON object of column names and values: list")]


def test_csv_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n1,2,3\n")
    reason = "3 cells, 2 columns. Quote cells that hold commas"
    assert unusable(path) == [(3, f"more cells than the header names columns: {reason}")]
    path.write_text('a,b\n1,2\n"1,2\n3,4\n')
    assert fails(path) == (
        f"{path}:3 is not valid CSV: unexpected end of data. A quote that opens there is not "
        "closed. Correct that row."
    )
    path.write_text("a,a\n1,2\n")
    assert fails(path) == f"{path}:1 names a column twice. Rename one of: a, a."


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": "a"}\n{"x": "\xe9t\xe9"}\n')  # é in Latin-1, the 8th byte
    where = "invalid continuation byte at byte 7 of the line"
    assert unusable(path) == [(2, f"text that is not UTF-8: {where}")]


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl(ROWS * 500).encode())[:-20])
    assert "can't be unpacked after line" in fails(path)
    path.write_bytes(b"plain text")
    assert fails(path).startswith(f"{path} can't be unpacked after line 0 (Not a gzipped file")


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet")
    message = fails(path)
    assert message.startswith(f"{path} can't be read as Parquet after row 0: ")
    assert message.endswith("Write or download it again.")


def test_empty_data_set(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", ""), ("b.json", "[]"), ("c.csv", ""), ("d.csv", "x,y\n")):
        (tmp_path / name).write_text(content)
        assert fails(tmp_path / name) == (
            f"{tmp_path / name} holds no rows. Give a data set with at least one."
        )


def test_unknown_extension(tmp_path: Path) -> None:
    for name, shown in (("a.xlsx", ".xlsx"), ("noext", "noext"), ("a.txt.gz", ".gz")):
        (tmp_path / name).write_text("x")
        assert fails(tmp_path / name) == (
            f"{tmp_path / name} ends with {shown!r}, which is not read here. Give a file with "
            "rows: .jsonl, .json, .csv, .tsv or .parquet (all but the last also with .gz behind)."
        )


def test_missing_file_suggests_a_near_name_at_once(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "pair.jsonl")  # not iterated
    assert str(caught.value) == (
        f"{tmp_path / 'pair.jsonl'} does not exist. Did you mean {tmp_path / 'pairs.jsonl'}?"
    )
    assert fails(tmp_path / "zzz.jsonl") == (
        f"{tmp_path / 'zzz.jsonl'} does not exist; the folder {tmp_path} holds pairs.jsonl."
    )
    assert fails(tmp_path / "no" / "zzz.jsonl") == (
        f"{tmp_path / 'no/zzz.jsonl'} does not exist, nor does its folder {tmp_path / 'no'}. "
        "Give a file, a folder, or a hub name (owner/name)."
    )


def test_hub_gives_train_and_names_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, str | None, str | None]] = []

    def load(name: str, config: str | None, split: str | None) -> Any:
        requests.append((name, config, split))
        return ROWS if split else {"test": ROWS, "train": ROWS[:1]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row.source for row in read_rows("owner/name")] == [Source("owner/name:train", 1)]
    assert read("owner/name:test") == ROWS
    assert [r.source for r in read_rows("owner/name:c:test")][1] == Source("owner/name:c:test", 2)
    assert requests == [
        ("owner/name", None, None),
        ("owner/name", None, "test"),
        ("owner/name", "c", "test"),
    ]


def test_hub_splits_without_train_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, split: {"b": ROWS, "a": ROWS}
    )
    assert fails("owner/name") == "owner/name has the splits a, b. Name one: owner/name:a."


def test_hub_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str | None, split: str | None) -> Any:
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert fails("owner/name") == (
        "owner/name is neither a file or folder here nor a data set that the hub gave: "
        "ConnectionError: Couldn't reach 'owner/name' on the Hub. Check the name (owner/name, "
        "owner/name:split or owner/name:config:split) and the connection, or download the "
        "data set and give its folder."
    )


def test_a_local_folder_goes_before_a_hub_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert fails("runs/dem") == "runs/dem does not exist. Did you mean runs/demo?"
    assert fails("runs/other") == (
        "runs/other does not exist; the folder runs holds demo. "
        "A name is looked up on the hub only where no folder has the owner's name."
    )


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)


@settings(deadline=None, max_examples=50)  # files each
@given(st.lists(st.fixed_dictionaries({"a": text, "b": text}), min_size=1, max_size=4))
def test_any_text_survives_each_file_kind(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows),
        encoding="utf-8",
        newline="\n",
    )
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert read(folder / "a.jsonl") == rows
    assert read(folder / "a.csv") == rows
