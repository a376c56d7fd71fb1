"""The files and counts that are made of the log of `revise`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accord.compare.constitution.reading import revision_fault
from accord.compare.constitution.revising import Revised, RevisionRound
from accord.compare.store.store import PreferenceStore
from accord.pipeline.stages.judges import NamedJudge
from accord.pipeline.stages.revised import PARTIAL, LogRow, finish_files, log_json
from accord.records import Response
from accord.settings.revise import ReviserSettings, ReviseSettings

JUDGE = NamedJudge("j", lambda candidates: [])


def row(number: int, *texts: str, verdict: Mapping[str, Any] | None = None) -> LogRow:
    """A response that was revised to each of the texts in turn; without texts it is faultless."""
    prompt = f"p{number}"
    rounds = [RevisionRound("c/x", "revised", "?", "!", "bad", text) for text in texts]
    rounds = rounds or [RevisionRound("c/x", "no issue", "?", "!", "No issue.")]
    response = Response(prompt, "first", "base", finished=False)
    return LogRow(number, response, Revised(prompt, "first", rounds=rounds), verdict)


def finish(folder: Path, *rows: LogRow) -> dict[str, Any]:
    lines = "".join(json.dumps(log_json(each)) + "\n" for each in rows)
    (folder / PARTIAL).write_text('{"settings": "x"}\n' + lines)
    settings = ReviseSettings(
        responses=["r"], output_dir=str(folder), reviser=ReviserSettings(kind="world")
    )
    finish_files(settings, JUDGE, "world", {})
    counts: dict[str, Any] = json.loads((folder / "revise.json").read_text())
    return counts


def test_a_row_for_each_revision(tmp_path: Path) -> None:
    finish(tmp_path, row(0, "second", "third", verdict={"ranks": [1, 0]}))
    first, last = map(json.loads, (tmp_path / "conversations.jsonl").read_text().splitlines())
    assert [r["init_response"]["content"] for r in (first, last)] == ["first", "second"]
    assert [r["revision_response"]["content"] for r in (first, last)] == ["second", "third"]
    assert "messages" not in first
    assert [last[k][-1]["content"] for k in ("messages", "chosen", "rejected")] == [
        "third",
        "third",
        "first",
    ]


def test_ties_count_half_and_missing_verdicts_nothing(tmp_path: Path) -> None:
    verdicts = ({"ranks": [0, 0]}, {"ranks": [1, 0]}, {"missing": True})
    counts = finish(tmp_path, *(row(i, "second", verdict=v) for i, v in enumerate(verdicts)))
    assert counts["revisions"] == {"tie": 1, "better": 1, "missing": 1}
    assert counts["better_share"]["mean"] == 0.75
    with PreferenceStore.read(tmp_path / "store.db") as store:
        assert [v.outcome for v in store.verdicts()] == ["tie", "b"]


def test_an_original_that_was_cut_is_learned_as_cut(tmp_path: Path) -> None:
    finish(tmp_path, row(0))
    assert json.loads((tmp_path / "sft.jsonl").read_text())["finished"] is False


def test_short_critiques_and_words_of_the_original_are_no_quotations() -> None:
    shared: dict[str, Any] = {"prompt": "p", "requests": ()}
    fault = revision_fault("It is be kind now.", original="o", critique="Be kind", **shared)
    assert fault is None
    eight = "one two three four five six seven eight"
    critique = f"It says {eight}."
    assert (
        revision_fault(f"{eight} nine", original=f"{eight}!!", critique=critique, **shared) is None
    )
    fault = revision_fault(f"{eight} nine", original="o", critique=critique, **shared)
    assert fault == "quotes the critique"
