"""The study of judges at real servers reads answers by itself, and sees what it is there to see."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fake_openai import FakeOpenAi, completion


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    return importlib.import_module("judge_servers")


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ('{"reason": "so", "verdict": "A"}', ("as_json", "a")),
        ('```json\n{"verdict": "tie"}\n```', ("as_json", "tie")),
        ('{"reason": "…", "verdict": "A"}', ("as_json", "none")),  # the question's own example
        ('{"verdict": "A or B"}', ("as_json", "none")),
        ('{"verdict": "A"', ("as_text", "none")),
        ('The JSON object is:\n{\n  "reason": "A",\n  "verdict": "B"\n}', ("as_text", "b")),
        ('As asked:\n{"reason": "…", "verdict": "A"}', ("as_text", "none")),
        ('{"verdict": "A"}\nis the form', ("as_text", "none")),
        ("It is shorter.\n\n**Verdict: B**", ("as_text", "b")),
        ("Final verdict: tie.", ("as_text", "tie")),
        ("B", ("as_text", "b")),
        ("Verdict: A, since B is wrong", ("as_text", "none")),
        ("Verdict: A\nVerdict of others: none", ("as_text", "none")),
        ("", ("as_text", "none")),
    ],
)
def test_a_plain_reading(study: ModuleType, text: str, reading: tuple[str, str]) -> None:
    assert study.plain_reading(text) == reading


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))  # the study sets another
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(3)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return argparse.Namespace(model=tmp_path, dataset=path, pairs=3, answer_tokens=32, kills=0)


def test_the_better_response_is_the_first_in_half_of_the_pairs(
    study: ModuleType, options: argparse.Namespace
) -> None:
    pairs = study.read_pairs(options.dataset, 2)
    assert [pair.responses for pair in pairs] == [("bad 0", "good 0"), ("good 1", "bad 1")]


def test_what_a_judge_reads_at_a_server(
    study: ModuleType, options: argparse.Namespace, fake: FakeOpenAi
) -> None:
    given = iter(["Verdict: A", '{"verdict": "B"}', "I can't say.", *["Verdict: tie"] * 9])
    fake.answer = lambda body: (200, completion(next(given)))
    row = study.examine(fake.url.removesuffix("/v1"), options.model, options)
    json.dumps(row)
    # Six questions; the one without a verdict is asked once more.
    assert (row["answers"], row["as_json"], row["as_text"], row["none"]) == (7, 1, 5, 0)
    assert (row["wrong"], row["paid_twice"], row["statuses"]) == (0, 0, {"200": 7})
    assert row["lost_on_their_way"] == 0
    assert study.format_row({"server": "S", "version": "1", **row}).startswith("| S 1 | ")


def test_a_verdict_that_the_answer_does_not_state_is_seen(
    study: ModuleType,
    options: argparse.Namespace,
    fake: FakeOpenAi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.answer = lambda body: (200, completion("Verdict: A"))
    monkeypatch.setattr(study, "plain_reading", lambda text: ("as_text", "b"))
    row = study.examine(fake.url.removesuffix("/v1"), options.model, options)
    assert row["wrong"] == 6
    assert row["wrong_readings"][0] == {"read": "a", "expected": "b", "text": "Verdict: A"}


def test_an_answer_that_is_paid_for_again_is_seen(
    study: ModuleType,
    options: argparse.Namespace,
    fake: FakeOpenAi,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A judge that was killed after one answer, whose cache is lost then."""

    def killed(server: Any, options: argparse.Namespace, answers: int) -> None:
        study.connect(server.url, str(options.model), 32).both_orders(
            study.read_pairs(options.dataset, 1)
        )
        for path in Path(study.os.environ["ACCORD_CACHE"]).rglob("*.jsonl"):
            lines.append((path, path.read_text()))

    lines: list[tuple[Path, str]] = []
    saved = study.saved_numbers

    def forget(judge: Any) -> set[int]:
        numbers: set[int] = saved(judge)
        for path, _ in lines:
            path.write_text("")
        return numbers

    fake.answer = lambda body: (200, completion("Verdict: A"))
    monkeypatch.setattr(study, "kill_after", killed)
    monkeypatch.setattr(study, "saved_numbers", forget)
    options.kills = 1
    row = study.examine(fake.url.removesuffix("/v1"), options.model, options)
    assert (row["answers"], row["paid_twice"], row["lost_on_their_way"]) == (8, 2, 0)
