"""Many records in chunks, by processes and from the cache: the same tokens as one at a time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.errors import DataError, WorkError
from accord.lm.digest import rows_digest
from accord.lm.tokens import encode_chunks, render
from accord.lm.tokens.encode import Encoding, Limits, encode
from accord.lm.tokens.encode_chunks import encode_in_chunks
from accord.lm.tokens.processes import map_in_processes
from accord.lm.tokens.token_rows import TokenRows
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    Ranking,
    Rating,
    Record,
    Source,
    Text,
)
from tests.lm.tokens.templates import TEMPLATES
from tests.lm.tokens.tokenizers import eos_ids, make_tokenizer

TOKENIZER = make_tokenizer("byte-level", TEMPLATES["chatml"])
EOS_IDS = eos_ids(TOKENIZER, TEMPLATES["chatml"])
LIMITS = Limits(60)
WORDS = "a small boat sails over the calm lake and birds sing in green trees".split()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 3)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))


def make_records(count: int, seed: int = 0) -> list[Record]:
    """Records of every kind, some of which are dropped, from two files and from memory."""
    rng = random.Random(seed)

    def text(most: int = 12) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    def make(i: int) -> Record:
        source = [Source("a.jsonl", i), Source("b.csv", None), Source("list", i, True)][i % 3]
        named = '{"name": "Ann"}' if i % 5 == 0 else ""  # which this template does not write
        prompt = (
            Message("user", text(), named),
            Message("assistant", text(3)),
            Message("user", text()),
        )
        kinds: list[Record] = [
            Comparison(prompt, text(), text(), 0.5, source, probability=0.75),
            Comparison(text(), " " + text(), " " + text(40), source=source),
            Ranking(prompt, (text(), text(), text()), (0, 2, 1), source),
            Ranking(prompt, ("x y", "z"), (0, 1), source, votes=((0, 1), (1, 0), (0, 1))),
            Rating(prompt, text(), rng.random(), source, finished=False),
            Demonstration(prompt, text(), source),
            Text(text(60), source),
            Demonstration(prompt, "  ", source),
        ]
        return rng.choice(kinds)

    return [make(i) for i in range(1, count + 1)]


def encoding(**options: Any) -> Encoding:
    return Encoding(TOKENIZER, LIMITS, EOS_IDS, **options)


def assert_same(records: Sequence[Record], rows: TokenRows, **options: Any) -> None:
    groups, _ = encode(records, TOKENIZER, LIMITS, eos_ids=EOS_IDS, **options)
    assert list(rows) == groups
    assert rows.num_tokens.tolist() == [group.num_tokens for group in groups]
    assert rows.num_targets.tolist() == [group.num_targets for group in groups]
    ids = [i for group in groups for part in (group.prompt, *group.responses) for i in part]
    assert rows.largest_id == max(ids)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_groups_and_report_as_one_by_one(processes: int) -> None:
    records = make_records(40)
    rows, report = encode_in_chunks(records, encoding(), processes=processes)
    assert_same(records, rows)
    assert report == encode(records, TOKENIZER, LIMITS, eos_ids=EOS_IDS)[1]
    assert len(report.dropped) > 1
    assert report.unwritten["name"] > 1
    assert rows[-1] == rows[len(rows) - 1]
    assert rows[2:9:3] == [rows[2], rows[5], rows[8]]
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"loss_on": "assistant"}, (Demonstration,)),
        ({"loss_on": "all"}, (Demonstration, Text)),
        ({"desirable_from": 0.5}, (Comparison, Ranking, Rating)),
    ],
)
def test_loss_masks_and_labels(options: dict[str, Any], kinds: tuple[type, ...]) -> None:
    records = [record for record in make_records(60) if isinstance(record, kinds)]
    rows, report = encode_in_chunks(records, encoding(**options), processes=1)
    assert_same(records, rows, **options)
    assert report == encode(records, TOKENIZER, LIMITS, eos_ids=EOS_IDS, **options)[1]


def test_what_was_tokenised_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(12)
    first, report = encode_in_chunks(records, encoding(), processes=1)
    encoded = count_encoded(monkeypatch)
    again, second_report = encode_in_chunks(records, encoding(), processes=1)
    assert encoded == [1]  # the record that warms the tokenizer up
    assert list(again) == list(first)
    assert second_report == report
    # Of a longer file only what is new; the sources are those of the file that is read now.
    moved = [moved_to(record, "other.jsonl") for record in [*records, *make_records(4, seed=1)]]
    encoded.clear()
    rows, _ = encode_in_chunks(moved, encoding(), processes=1)
    assert encoded == [1, 3, 1]
    assert_same(moved, rows)
    assert {rows[i].source.path for i in range(len(rows))} == {"other.jsonl"}


def test_whatever_decides_the_tokens_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(3)
    encode_in_chunks(records, encoding(), processes=1)
    encoded = count_encoded(monkeypatch)
    other_template = deepcopy(TOKENIZER)
    other_template.chat_template = "note: " + other_template.chat_template
    others = [
        Encoding(TOKENIZER, Limits(50), EOS_IDS),
        Encoding(TOKENIZER, LIMITS, EOS_IDS | {5}),
        encoding(loss_on="all"),
        encoding(desirable_from=0.5),
        Encoding(other_template, LIMITS, EOS_IDS),
    ]
    for other in others:
        encoded.clear()
        rows, _ = encode_in_chunks(records, other, processes=1)
        assert encoded == [1, 3]
        groups, _ = encode(
            records,
            other.tokenizer,
            other.limits,
            eos_ids=other.eos_ids,
            loss_on=other.loss_on,
            desirable_from=other.desirable_from,
        )
        assert list(rows) == groups
    encoded.clear()
    changed = [*records[:2], make_records(1, seed=9)[0]]
    encode_in_chunks(changed, encoding(), processes=1)
    assert encoded == [1, 3]


def test_a_template_that_writes_the_date_is_read_again_tomorrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Tomorrow:
        @staticmethod
        def today() -> str:
            return "2100-01-01"

    dated = make_tokenizer("byte-level", TEMPLATES["chatml"])
    dated.chat_template = dated.chat_template + "{# strftime_now('%d') #}"
    for tokenizer, expected in ((TOKENIZER, [1]), (dated, [1, 3])):
        made = Encoding(tokenizer, LIMITS, EOS_IDS)
        records = make_records(3)
        encode_in_chunks(records, made, processes=1)
        with monkeypatch.context() as patch:
            patch.setattr("accord.lm.tokens.token_cache.date", Tomorrow)
            encoded = count_encoded(patch)
            encode_in_chunks(records, made, processes=1)
        assert encoded == expected


def test_an_interrupted_run_goes_on_behind_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    records = make_records(15)
    with monkeypatch.context() as patch:
        stop_after(patch, chunks=3)
        with pytest.raises(KeyboardInterrupt):
            encode_in_chunks(records, encoding(), processes=1)
    encoded = count_encoded(monkeypatch)
    rows, _ = encode_in_chunks(records, encoding(), processes=1)
    assert encoded == [1, 3, 3]
    assert_same(records, rows)


@pytest.mark.parametrize("damage", [b"", b"ARROW1 is not all", None])
def test_a_damaged_chunk_is_tokenised_again(damage: bytes | None) -> None:
    records = make_records(9)
    encode_in_chunks(records, encoding(), processes=1)
    for path in cached_files():
        path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    rows, _ = encode_in_chunks(records, encoding(), processes=1)
    assert_same(records, rows)
    assert all(path.stat().st_size > 100 for path in cached_files())


def test_without_a_cache_the_tokens_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    records = make_records(9)
    rows, _ = encode_in_chunks(records, encoding(), processes=1)
    assert_same(records, rows)
    assert "not cached" in caplog.text
    # A tokenizer in Python code has no content that could be digested.
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("accord.lm.tokens.encode_chunks.token_cache", lambda *_: None)
    rows, _ = encode_in_chunks(records, encoding(), processes=2)
    assert_same(records, rows)
    assert not cached_files()


def test_no_usable_record() -> None:
    records: list[Record] = [Demonstration("a", "", Source("f", i)) for i in range(8)]
    with pytest.raises(DataError, match="None of the 8 rows can be used: 8 × a response is empty"):
        encode_in_chunks(records, encoding(), processes=2)


def test_the_digest_is_of_the_tokens_alone() -> None:
    records = make_records(12)
    rows, _ = encode_in_chunks(records, encoding(), processes=1)
    moved, _ = encode_in_chunks([moved_to(r, "x") for r in records], encoding(), processes=1)
    other, _ = encode_in_chunks(make_records(12, seed=1), encoding(), processes=1)
    assert rows_digest(rows) == rows_digest(moved) != rows_digest(other)


def test_more_chunks_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.lm.tokens.token_rows.OPEN_CHUNKS", 2)
    records = make_records(30)
    rows, _ = encode_in_chunks(records, encoding(), processes=1)
    order = random.Random(0).sample(range(len(rows)), len(rows))
    groups, _ = encode(records, TOKENIZER, LIMITS, eos_ids=EOS_IDS)
    assert [rows[i] for i in order] == [groups[i] for i in order]
    assert len(rows._open) == 2


def test_processes_give_results_in_order_and_errors_as_they_are() -> None:
    assert list(map_in_processes(lambda n: (n, os.getpid()), range(7), 1)) == [
        (n, os.getpid()) for n in range(7)
    ]
    results = list(map_in_processes(lambda n: (n, os.getpid()), range(7), 3))
    assert [n for n, _ in results] == list(range(7))
    assert os.getpid() not in {pid for _, pid in results}

    # No more pieces are taken than are in work and one; without any, nothing is started.
    taken: list[int] = []
    pieces = (taken.append(n) or n for n in range(20))  # type: ignore[func-returns-value]
    first = map_in_processes(lambda n: n, pieces, 2)
    next(first)
    assert len(taken) <= 4
    first.close()
    assert list(map_in_processes(lambda n: n, [], 2)) == []
    assert list(map_in_processes(lambda n: n, iter([5]), 2)) == [5]

    def fail(number: int) -> int:
        if number == 2:
            raise DataError("row 2 is wrong")
        return number

    with pytest.raises(DataError, match="row 2 is wrong"):
        list(map_in_processes(fail, range(5), 2))
    with pytest.raises(WorkError, match="was killed"):
        list(map_in_processes(lambda n: os.kill(os.getpid(), signal.SIGKILL), range(5), 2))


def test_a_fork_while_another_thread_renders() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with render._watch.rendering, render._watch.lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    texts = map_in_processes(lambda n: render.render([], FakeTokenizer()), range(2), 2)
    assert list(texts) == ["text", "text"]
    done.set()
    thread.join()


class FakeTokenizer:
    chat_template = "text"

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        return "text"


def test_a_chunk_in_use_stays_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.lm.tokens.token_rows.OPEN_CHUNKS", 1)
    monkeypatch.setattr("accord.lm.tokens.token_cache.MAX_BYTES", 0)
    rows, _ = encode_in_chunks(make_records(9), encoding(), processes=1)
    paths = [chunk.origin for chunk in rows.chunks]
    for path in cached_files():
        os.utime(path, (0, 0))
    used = rows[0], rows[len(rows) - 1]  # the first and the last chunk
    cache = encode_chunks.cache_of(encoding())
    assert cache is not None
    with monkeypatch.context() as patch:
        patch.setattr("accord.lm.tokens.token_cache.MAX_BYTES", 1 << 30)
        cache.remove_old()
        assert len(cached_files()) == 3  # there is room for all
    cache.remove_old()
    assert cached_files() == sorted({paths[0], paths[-1]})
    assert used == (rows[0], rows[len(rows) - 1])


ORPHANS = """
import os, time
from accord.lm.tokens import processes
def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(0.1)

for _ in processes.map_in_processes(work, range(10_000), 2):
    pass
"""


def test_no_process_outlives_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children = {int(parent.stdout.readline()) for _ in range(4)}
        parent.kill()
    deadline = time.monotonic() + 30
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def count_encoded(patch: pytest.MonkeyPatch) -> list[int]:
    """How many records each call of `Encoding.encode` has."""
    counts: list[int] = []
    real = Encoding.encode

    def counted(self: Encoding, records: Any) -> Any:
        records = list(records)
        counts.append(len(records))
        return real(self, records)

    patch.setattr(Encoding, "encode", counted)
    return counts


def stop_after(patch: pytest.MonkeyPatch, *, chunks: int) -> None:
    calls: list[int] = []
    real = Encoding.encode

    def stopping(self: Encoding, records: Any) -> Any:
        calls.append(1)
        if len(calls) > chunks + 1:  # the first call warms up
            raise KeyboardInterrupt
        return real(self, records)

    patch.setattr(Encoding, "encode", stopping)


def cached_files() -> list[Path]:
    return sorted((Path(os.environ["ACCORD_CACHE"]) / "tokens").glob("*.arrow"))


def moved_to(record: Record, path: str) -> Record:
    return replace(record, source=Source(path, record.source.line))
