"""One row parsed: the record it becomes, the notes about it, or the reason it is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from accord.data.checks import RowError
from accord.data.files import DataRow
from accord.data.formats import parse_record
from accord.records import Message, Record, Source

HERE = Source("file", 3)
ASK = Message("user", "2+2?")


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def parse(**values: Any) -> Record:
    return parse_record(DataRow(values, HERE))


def collect_notes(**values: Any) -> list[str]:
    notes: Counter[str] = Counter()
    parse_record(DataRow(values, HERE), notes=notes)
    return list(notes)


def fails(**values: Any) -> str:
    with pytest.raises(RowError) as caught:
        parse(**values)
    return str(caught.value)
