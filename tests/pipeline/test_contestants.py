"""Which rows of an arena's contestants meet; and that each response is scored once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accord.compare.judges.questions import Candidates, NoVerdict
from accord.compare.store.store import PreferenceStore
from accord.data.write import ResponseRow, write_responses
from accord.errors import DataError, SettingsError
from accord.pipeline.stages import compare as stage
from accord.pipeline.stages.compare import arena, compare
from accord.pipeline.stages.contestants import pair_rows
from accord.pipeline.stages.judges import NamedJudge, reward_judge
from accord.records import Message, Prompt, Response
from accord.settings.arena import ArenaSettings
from accord.settings.stages import CompareSettings, Contestant


def row(prompt: Prompt, *texts: str) -> ResponseRow:
    return ResponseRow(prompt, {}, "m", {}, tuple(Response(prompt, t, "m") for t in texts))


def longer(prompts: Any, texts: Sequence[str], finished: Any = None) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.fixture(autouse=True)
def _longer_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        stage, "build_judge", lambda settings: NamedJudge("longer", reward_judge(longer))
    )


def run_arena(folder: Path, category: str | None = None, **rows: Any) -> dict[str, Any]:
    contestants = []
    for name, own in rows.items():
        path = folder / f"{name}.jsonl"
        write_responses(path, own)
        contestants.append(Contestant(name=name, responses=str(path)))
    settings = ArenaSettings(
        contestants=contestants, output_dir=str(folder / "out"), bootstrap=0, category=category
    )
    list(arena(settings))
    counts: dict[str, Any] = json.loads((folder / "out/counts.json").read_text())
    return counts


def test_repeated_prompts_meet_in_their_order_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Q0 three times: the longer one wins twice, and the empty one loses.
    one = [row("Q0", "long one"), row("Q0", "long"), row("Q0", "")]
    one += [row(f"Q{i}", "long") for i in range(1, 10)]
    two = [row("Q0", "x")] * 3 + [row(f"Q{i}", "x") for i in (3, 2, 1)]
    with caplog.at_level(logging.INFO):
        counts = run_arena(tmp_path, one=one, two=two)
    assert counts["pairs"] == 6
    assert counts["contestants"]["one"]["rows"] == 12
    assert counts["contestants"]["one"]["used"] == counts["contestants"]["two"]["used"] == 6
    assert counts["contestants"]["one"]["not_answered_by_all"] == 6
    (best, _) = json.loads((tmp_path / "out/ratings.json").read_text())["models"]
    assert (best["model"], best["wins"], best["losses"]) == ("one", 5, 1)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "one: 6 of 12 rows take part; 6 have a prompt that not all contestants answered."
    ]
    with PreferenceStore.open(tmp_path / "out/store.db", create=False) as store:
        losers = [pair.rejected for pair in store.comparisons() if pair.prompt == "Q0"]
    assert sorted(losers) == ["", "x", "x"]


def test_a_prompt_that_one_answered_more_often_is_refused() -> None:
    rows = {"one": [row("Q", "a"), row("Q", "b")], "two": [row("Q", "c"), row("P", "d")]}
    with pytest.raises(DataError, match=r"'Q' was not answered as often .*\(one 2, two 1 times\)"):
        pair_rows(rows)


def system(text: str) -> Prompt:
    return (Message("system", text), Message("user", "hi"))


def test_why_rows_do_not_take_part(caplog: pytest.LogCaptureFixture) -> None:
    one = [row("same", "a", "further"), row("empty"), row(system("Be brief. "), "b")]
    one += [row(system("Be kind."), "c"), row("only here", "d"), row("What is  it?", "e")]
    two = [
        row("same", "a"),
        row("empty", "x"),
        row(system("Be brief."), "b"),
        row("what is it?", "c"),
    ]
    with caplog.at_level(logging.INFO):
        questions, counts = pair_rows({"one": one, "two": two})
    assert [q.prompt for q in questions] == ["same"]
    assert counts["one"].to_json() == {
        "rows": 6,
        "used": 1,
        "without_response": 1,
        "not_answered_by_all": 4,
        "differ_in_blanks": 2,
        "differ_in_system": 1,
        "further_responses": 1,
    }
    messages = [r.getMessage() for r in caplog.records]
    assert messages[0] == (
        "one: 1 of 6 rows take part; 1 have no response; 4 have a prompt that not all contestants "
        "answered (2 of them with other blanks or capitals) (1 of them after another system "
        "message)."
    )
    assert "further responses of these rows" in messages[1]


def test_nothing_in_common_says_how_near_it_was() -> None:
    with pytest.raises(DataError, match=r"one: 0 of 1 rows .* with other blanks or capitals"):
        pair_rows({"one": [row("Q ", "a")], "two": [row("Q", "a")]})


def test_all_rows_take_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_arena(tmp_path, one=[row("Q", "aa")], two=[row("Q", "b")], three=[row("Q", "c")])
    assert [r.getMessage() for r in caplog.records][:1] == [
        "All 1 rows of each contestant take part."
    ]


def test_a_reward_scores_each_response_once() -> None:
    calls: list[list[str]] = []

    def reward(prompts: Any, texts: Sequence[str], finished: Any = None) -> list[float]:
        calls.append(list(texts))
        return longer(prompts, texts)

    judge = reward_judge(reward)
    names = ("a", "bb", "ccc")
    pairs = [Candidates("p", (x, y), (True, True)) for x in names for y in names if x < y]
    pairs += [Candidates("q", ("a", "a"), (True, False))]
    assert judge(pairs) == [(1, 0), (1, 0), (1, 0), (0, 0)]
    assert calls == [["a", "bb", "ccc", "a", "a"]]  # of q one is cut, which is another response
    assert judge([]) == []


def test_a_reward_that_does_not_apply_gives_no_verdict() -> None:
    judge = reward_judge(
        lambda p, texts, f=None: [float("nan") if t == "?" else 1.0 for t in texts]
    )
    first, second = judge([Candidates("p", (t, "x"), (True, True)) for t in "?y"])
    assert isinstance(first, NoVerdict)
    assert second == (0, 0)


def write_rows(tmp_path: Path, *rows: ResponseRow) -> CompareSettings:
    write_responses(tmp_path / "r.jsonl", rows)
    return CompareSettings(responses=[str(tmp_path / "r.jsonl")], output_dir=str(tmp_path / "c"))


def test_responses_that_meet_no_other_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = write_rows(tmp_path, row("P", "a"), row("Q", "a", "bb", "c"))
    list(compare(settings.model_copy(update={"form": "pairs"})))
    assert json.loads((tmp_path / "c/counts.json").read_text())["not_compared"] == 2
    assert "2 of 4 responses" in caplog.text
    with pytest.raises(DataError, match=r"No prompt in .*r.jsonl has two responses"):
        list(compare(write_rows(tmp_path, row("P", "a"), row("Q", "b"))))


@pytest.mark.parametrize(
    ("names", "anchor", "message"),
    [
        (["a", "b", "a"], None, "Two contestants are called 'a'"),
        (["a", "b"], "c", "`anchor` is 'c', and the contestants are a, b"),
    ],
)
def test_names_are_checked_before_anything_is_judged(
    names: list[str], anchor: str | None, message: str
) -> None:
    contestants = [Contestant(name=name, responses="r.jsonl") for name in names]
    settings = ArenaSettings(contestants=contestants, output_dir="out", anchor=anchor)
    with pytest.raises(SettingsError, match=message):
        next(arena(settings))


def test_categories_are_a_field_of_the_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rows(*texts: str) -> list[ResponseRow]:
        kinds = ["code", "prose"] * 3
        return [
            ResponseRow(f"Q{i}", {"kind": kinds[i]}, "m", {}, (Response(f"Q{i}", text, "m"),))
            for i, text in enumerate(texts)
        ]

    # Reasoning is no part of the answer: "two" says the same to every prompt.
    one, two = (
        rows("a", "bbbb", "c", "dddd", "e", "f"),
        rows(*[f"<think>{i}</think>22" for i in "123456"]),
    )
    with caplog.at_level(logging.INFO):
        run_arena(tmp_path, category="kind", one=one, two=two)
    ratings = json.loads((tmp_path / "out/ratings.json").read_text())
    assert [c["category"] for c in ratings["categories"]] == ["code", "prose"]
    assert any(note.startswith("two gave one and the same answer") for note in ratings["notes"])
    logged = [r.getMessage() for r in caplog.records]
    assert all(note in logged for note in ratings["notes"])

    def fail(settings: Any) -> Any:
        raise AssertionError("judged before the category was looked for")

    monkeypatch.setattr(stage, "_add_battles", fail)
    with pytest.raises(DataError, match="has 'topic' in its `meta` for `category`"):
        run_arena(tmp_path, category="topic", one=one, two=two)
