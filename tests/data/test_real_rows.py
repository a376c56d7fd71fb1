"""Published data sets are read as their authors mean them."""

from __future__ import annotations

from pathlib import Path

from accord.data.read import read_records
from accord.records import (
    Comparison,
    PromptOnly,
)


def test_hh_rlhf(shared_data: Path) -> None:
    """Found by a search of the raw text: in line 1255 the text before the last `Assistant:` differs
    between the two (a `Human:` within a turn), and in lines 87, 517, 926 and 1104 the chosen answer
    is blank. All else is usable: 1600 - 5."""
    path = shared_data / "hh_rlhf" / "harmless.jsonl.gz"
    records, report = read_records(path, "comparisons")
    assert (report.rows, report.used, len(records)) == (1600, 1595, 1595)
    lines = {reason: [s.line for s, _ in rows] for reason, rows in report.dropped.items()}
    assert lines == {
        "an empty response": [87, 517, 926, 1104],
        "the dialogues differ before the last answer": [1255],
    }
    longer = sum(len(r.chosen) > len(r.rejected) for r in records if isinstance(r, Comparison))
    assert round(longer / len(records), 2) == 0.44  # as the data's description says
    first = records[0]
    assert isinstance(first, Comparison)
    assert isinstance(first.prompt, tuple)
    assert [turn.role for turn in first.prompt] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert first.prompt[-1].content == "okay some of these do not have anything to do with pens"


def test_xstest_prompts(shared_data: Path) -> None:
    records, report = read_records(shared_data / "xstest" / "prompts.csv", "prompts")
    labels = [r.meta["label"] for r in records if isinstance(r, PromptOnly)]
    assert (labels.count("safe"), labels.count("unsafe"), report.used) == (250, 200, 450)
