"""Files and rows of every format that accord reads, damaged at random: see fuzz.py."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict
from accord.records import Response

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": "hi", "chosen": "good", "rejected": "bad", "margin": 1.5},
    "implicit preference": {
        "chosen": "\n\nHuman: hi\n\nAssistant: good",
        "rejected": "\n\nHuman: hi\n\nAssistant: bad",
    },
    "conversations": {
        "prompt": TURNS[:1],
        "chosen": TURNS,
        "rejected": [TURNS[0], {**TURNS[1], "content": "no"}],
    },
    "ranking": {"prompt": "hi", "responses": ["a", "b", "c"], "ranks": [0, 1, 1]},
    "responses": {
        "prompt": "hi",
        "meta": {"id": 1},
        "model": "m",
        "settings": {"seed": 0},
        "responses": [{"text": "a", "tokens": 1, "logp": -0.5, "finished": True}],
    },
    "unpaired": {"prompt": "hi", "completion": "a", "label": True},
    "rating": {"prompt": "hi", "completion": "a", "score": 0.5, "finished": False},
    "prompt-completion": {"instruction": "say", "input": "hi", "output": "hi", "system": "be"},
    "messages": {"messages": TURNS},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "text": {"text": "some words"},
    "prompt": {"prompt": "hi", "meta": {"answer": 4}, "date": "2026-01-01"},
    "battle": {"model_a": "x", "model_b": "y", "winner": "tie (bothbad)"},
}
KEYS = ["role", "content", "prompt", "chosen", "meta", "ranks", "label", "messages", "", "\ud800"]
"""Names that a value is moved to."""
ODD_VALUES: list[Any] = [
    None,
    True,
    -1,
    2**63,
    10**400,
    10**5000,
    0.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\ud800",
    "\udcff x",
    "\ud83d\ude00",
    "😀\u2028\x00\x1b[31m",
    "x" * 5000,
    "[" * 50,
    '[{"role": "user"}]',
    "Human: hi\n\nAssistant: yo",
    [],
    [[]],
    {},
    TURNS,
    [{"role": ["user"], "content": "x"}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    [{"content": "x"}],
    {"role": "user"},
    "NEST",
]
ODD_BYTES = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"\\ud800",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b",",
    b"{",
    b"]",
    b"[" * 3000,
    b"9" * 5000,
    b"NaN",
    b"-Infinity",
    b"1e999",
    b'"prompt": 1, ',
    b"\t",
    b"\x1f\x8b",
    b"&a [*a, *a]",
    b"!!python/object:os.system ",
]


def damaged_rows(rng: random.Random) -> list[dict[str, Any]]:
    """Rows of one format, or in some files of many."""
    rows, count = list(ROWS.values()), rng.choice((1, 1, 2, 5, 30))
    form = None if rng.random() < 0.2 else rng.choice(rows)
    return [damaged_row(form or rng.choice(rows), rng) for _ in range(count)]


def damaged_row(valid: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy of a valid row, in which some values or names may be replaced."""
    row = copy.deepcopy(valid)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
        parent = row
        while rng.random() < 0.5:  # a table or list within the row
            inner = [v for v in items(parent) if isinstance(v, dict | list) and v]
            if not inner:
                break
            parent = rng.choice(inner)
        value = copy.deepcopy(rng.choice(ODD_VALUES))
        value = nested(rng.choice((10, 63, 64, 65, 500, 900))) if value == "NEST" else value
        if isinstance(parent, list):
            parent[rng.randrange(len(parent))] = value
        elif parent and rng.random() < 0.7:
            parent[rng.choice(list(parent))] = value
        elif parent and rng.random() < 0.5:
            del parent[rng.choice(list(parent))]
        else:
            parent[rng.choice(KEYS)] = value
    return row


def items(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """`data`, in half of the files with some bytes cut, replaced or inserted."""
    for _ in range(rng.choice((0, 0, 0, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(4)
        if way == 0:
            data = data[:at] + rng.choice(ODD_BYTES) + data[at:]
        elif way == 1:
            data = data[:at] + rng.choice(ODD_BYTES) + data[at + rng.randrange(8) :]
        elif way == 2:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif rng.random() < 0.2:
            data = data[:at]
    return data


def to_json(value: Any) -> str:
    """JSON with the digits of any integer, and NaN as Python writes it."""
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value, ensure_ascii=True)
    finally:
        sys.set_int_max_str_digits(4300)


def write(name: str, data: bytes, folder: Path, rng: random.Random) -> Path:
    """A damaged file, which may be gzipped before or after the damage."""
    if rng.random() < 0.2:
        return write_file(folder / f"{name}.gz", damaged_bytes(gzip.compress(data, 1), rng))
    if rng.random() < 0.2:
        return write_file(folder / f"{name}.gz", gzip.compress(damaged_bytes(data, rng), 1))
    return write_file(folder / name, damaged_bytes(data, rng))


def write_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def as_jsonl(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    text = "".join(to_json(row) + rng.choice(("\n", "\n", "\r\n", "\n\n")) for row in rows)
    return write(rng.choice(("a.jsonl", "a.json")), text.encode(), folder, rng)


def as_list(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    text = "[" + ",\n".join(map(to_json, rows)) + "]"
    return write("a.json", text.encode(), folder, rng)


def as_table(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    kind, delimiter = rng.choice((("csv", ","), ("tsv", "\t")))
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows([cell(row.get(c)) for c in columns] for row in rows)
        text = file.getvalue()
    return write(f"a.{kind}", text.encode("utf-8", "surrogatepass"), folder, rng)


def cell(value: Any) -> str | None:
    return value if isinstance(value, str | None) else to_json(value)


def as_parquet(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    """Columns as Arrow infers them, or as text where it can't, in some with bytes that are not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            column = pa.array(values)
            pq.write_table(pa.table({"a": column}), io.BytesIO())  # fails for a struct of nothing
            columns.append(column)
        except (pa.ArrowException, ValueError, OverflowError, UnicodeError):
            texts = [None if v is None else to_json(v).encode() for v in values]
            if rng.random() < 0.3:
                texts[0] = b"\xff\xfe"
            raw = pa.array(texts, pa.binary())
            columns.append(
                pa.StringArray.from_buffers(len(texts), *raw.buffers()[1:], raw.buffers()[0])
            )
    shown = [name.encode("utf-8", "replace").decode() or "empty" for name in names]
    if shown and rng.random() < 0.05:
        shown[-1] = shown[0]
    table = pa.Table.from_arrays(columns, shown)
    with io.BytesIO() as file:
        pq.write_table(table, file)
        data = file.getvalue()
    return write_file(folder / "a.parquet", damaged_bytes(data, rng))


def as_memory(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> list[Any]:
    odd = [None, 7, "row", [1], {1: 2, "1": 3}, {"prompt": {1, 2}}, {"prompt": object()}]
    return [rng.choice(odd) if rng.random() < 0.05 else row for row in rows]


def as_store(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    """A small preference store with damaged bytes."""
    for file in folder.glob("a.db*"):
        file.unlink()
    whole = folder / "whole.db"
    if not whole.exists():
        with PreferenceStore.open(whole) as store:
            texts = [Response("hi", f"text {i}", "m", {"seed": 0}) for i in range(3)]
            a, b, c = store.add_responses(texts)
            verdicts = [PairVerdict(a, b, "a", "judge"), RatingVerdict(c, 1.0, "judge")]
            store.add_verdicts([*verdicts, RankingVerdict((a, b, c), (0, 1, 2), "judge")])
    data = whole.read_bytes()
    for _ in range(rng.choice((0, 1, 3, 30))):  # damage where the rows are, not in empty pages
        at = data.find(rng.choice((b"text ", b"seed", b"judge", b"CREATE", b"m{")))
        at += rng.randrange(-30, 30)
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    return write_file(folder / "a.db", damaged_bytes(data, rng))


def as_recipe(rows: list[dict[str, Any]], folder: Path, rng: random.Random) -> Path:
    text = to_json(
        {
            "output_dir": "out",
            "seed": 0,
            "stages": [
                {"stage": "train", "method": "dpo", "model": "m", "dataset": "a", "lora": {"r": 8}},
                {"stage": "split", "dataset": "$dpo/x", **rows[0]},
            ][: rng.choice((1, 1, 2))],
        }
    )
    return write_file(folder / "a.yaml", damaged_bytes(text.encode(), rng))


FORMATS: dict[str, Callable[[list[dict[str, Any]], Path, random.Random], Any]] = {
    "JSON lines": as_jsonl,
    "JSON list": as_list,
    "CSV, TSV": as_table,
    "Parquet": as_parquet,
    "memory": as_memory,
    "store": as_store,
    "recipe": as_recipe,
}
