"""Files and rows of every format, damaged at random: does reading them end as it should?

    python studies/fuzz.py --files 100000 --seed 0

Each file begins as valid rows of one of accord's formats. Rows and then bytes are changed at
random; the file is written as JSON lines, a JSON list, CSV, tab-separated values, Parquet (each but
the last also gzipped), a `save_to_disk` folder, a preference store, a recipe, or passed as rows in
memory. It is read as a random kind of records, and what was read is written and read again.

A file passes if that ends, in a time and memory that do not grow with the damage, in one of two
ways: records, where rows read and rows dropped make up all rows; or an error of accord's own, whose
message can be printed. Prints figures in Markdown; fails where any file does not pass, and prints
the seed of each, with which `--only SEED` runs it again.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from damaged_files import FORMATS, damaged_rows

from accord.compare.dataset import load_records
from accord.data.read import KINDS, read_battles
from accord.data.report import ReadReport, count_dropped
from accord.data.write import read_responses, record_json, write_jsonl
from accord.errors import AccordError
from accord.records import Record
from accord.settings.recipe import load_recipe

COMMON = ("any", "prompts", "prompts", "sft", "sft", "preferences", "kto")  # read more often
SECONDS = 20  # that a file may take
MEBIBYTES = 1500  # that the process may come to, above what it imports


@dataclass
class Figures:
    """What became of the files."""

    files: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    used: int = 0
    dropped: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run the file of this seed alone, with traceback")
    options = parser.parse_args(arguments)
    first = options.seed * 10**9
    seeds = range(first, first + options.files) if options.only is None else [options.only]
    start, before = time.monotonic(), peak_mebibytes()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="accord-fuzz-") as folder:
        for seed in seeds:
            fuzz(seed, Path(folder), figures)
    growth = peak_mebibytes() - before
    print(markdown(figures, time.monotonic() - start, growth))
    for seed, failure in figures.failures[:20]:
        print(f"\n--only {seed}:\n{failure}")
    return int(bool(figures.failures) or growth > MEBIBYTES)


def fuzz(seed: int, folder: Path, figures: Figures) -> None:
    """Make one damaged file, read it, and count what became of it."""
    rng = random.Random(seed)
    name = rng.choice(list(FORMATS))
    rows = damaged_rows(rng)
    figures.files[name] += 1
    start = time.monotonic()
    try:
        with time_limit(SECONDS):
            source = FORMATS[name](rows, folder, rng)
            figures.outcomes[read(source, folder, rng, figures)] += 1
    except AccordError as error:
        figures.outcomes[type(error).__name__] += 1
        if len(str(error)) > 20_000 or not printable(str(error)):
            figures.failures.append((seed, f"a message that can't be printed: {error!r:.300}"))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        figures.failures.append((seed, f"{name}: {''.join(traceback.format_exception(error))}"))
    figures.slowest = max(figures.slowest, time.monotonic() - start)


def read(source: Any, folder: Path, rng: random.Random, figures: Figures) -> str:
    """Read a file as records, battles, responses or a recipe; check the counts, and that what was
    read can be written and read again."""
    if isinstance(source, Path) and source.suffix == ".yaml":
        load_recipe(source)
        return "recipe"
    ways: list[Callable[[], str]] = [
        *[lambda kind=k: check_records(source, kind, folder, figures) for k in (*KINDS, *COMMON)],  # type: ignore[misc]
        lambda: check_report(read_battles(source)[1], figures),
    ]
    if isinstance(source, Path):
        ways.append(lambda: f"{len(read_responses(source)) and 'responses'}")
    return rng.choice(ways)()


def check_records(source: Any, kind: Any, folder: Path, figures: Figures) -> str:
    """Read records, write them, and read them again."""
    records, report = load_records(source, kind)
    assert all(isinstance(record, get_args(Record)) for record in records)
    if len({type(record) for record in records}) == 1:  # of a mixture, a kind reads a part
        path = folder / "again.jsonl"
        write_jsonl(path, map(record_json, records))
        again, _ = load_records(path, kind)
        assert list(map(record_json, again)) == list(map(record_json, records)), "not as written"
    return check_report(report, figures)


def check_report(report: ReadReport, figures: Figures) -> str:
    """Check that each row was read or dropped, and that the report can be printed and written."""
    dropped = count_dropped(report.dropped)
    assert report.rows == report.used + dropped, f"{report.rows} rows: {report.summary()}"
    assert printable(report.summary()), "a summary that can't be printed"
    json.dumps(report.to_json(), ensure_ascii=False, allow_nan=False).encode()
    figures.rows += report.rows
    figures.used += report.used
    figures.dropped += dropped
    return "records"


def printable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after `seconds`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def peak_mebibytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10


def markdown(figures: Figures, seconds: float, growth: float) -> str:
    """The figures as tables."""
    total = sum(figures.files.values())
    lines = [f"{total:,} files in {seconds:,.0f} s, the slowest in {figures.slowest:.2f} s; peak "]
    lines[0] += f"memory grew by {growth:,.0f} MiB. Failures: {len(figures.failures):,}."
    lines += ["", "| format | files |", "|---|---|"]
    lines += [f"| {name} | {n:,} |" for name, n in sorted(figures.files.items())]
    lines += ["", "| outcome | files |", "|---|---|"]
    lines += [f"| {name} | {n:,} |" for name, n in figures.outcomes.most_common()]
    lines += ["", f"Rows: {figures.rows:,}, {figures.used:,} used, {figures.dropped:,} dropped."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
