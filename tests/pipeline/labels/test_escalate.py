"""Pairs that judges leave to people: first in the queue of the page, exactly those, counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError
from accord.pipeline.labels.text import report_text
from accord.records import Response
from tests.annotate.desks import desk_of, vote
from tests.fake_openai import FakeOpenAi, judged_texts
from tests.pipeline.labels.stores import answer_by, fill, label, prefers_yes

UNDECIDED = ("question 1", "question 4")


@pytest.fixture
def unsure(fake: FakeOpenAi) -> dict[str, Any]:
    """A judge that takes the first response to two of the questions, so it is undecided there."""

    def rule(body: Any) -> str:
        return "A" if judged_texts(body)["prompt"] in UNDECIDED else prefers_yes(body)

    fake.answer = answer_by({"unsure": rule, "yes": prefers_yes})
    return {"base_url": fake.url, "model": "unsure"}


def dealt(path: Path, count: int, **settings: Any) -> list[tuple[str, str | None]]:
    """The prompts and criteria of the next items that the page deals to ada, who votes on each;
    the item behind the last is left open."""
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, **settings)
        prompts = {r.id: r.response.prompt for r in store.responses()}
        found = []
        for _ in range(count):
            assignment = desk.next("ada")
            if assignment is None:
                break
            found.append((str(prompts[assignment.item.response_ids[0]]), assignment.item.criterion))
            vote(desk, "ada")
        return found


def test_the_page_deals_exactly_the_pairs_without_a_label(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    report = label(path, unsure, escalate=True)
    assert (report.escalated, report.new) == (2, 2)
    text = report_text(report)
    assert "2 items for people (2 new)" in text
    assert f"accord annotate {path} items=escalated" in text
    assert dealt(path, 9, items="escalated") == [(prompt, None) for prompt in UNDECIDED]
    # The same command again hands over nothing: people have judged these pairs.
    report = label(path, unsure, escalate=True)
    assert (report.escalated, report.new, report.by_people) == (0, 0, 2)


def test_they_come_first_in_a_queue_that_people_work_on(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    first = dealt(path, 1)  # the queue has all six pairs since
    assert first == [("question 0", None)]
    report = label(path, unsure, escalate=True)
    assert (report.escalated, report.new) == (2, 2)
    order = [prompt for prompt, _ in dealt(path, 9)]
    assert order == [*UNDECIDED, "question 2", "question 3", "question 5"]


def test_only_they_are_dealt_and_counted_with_items_escalated(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    dealt(path, 0)
    label(path, unsure, escalate=True)
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, items="escalated")
        assert desk.count_items() == 2
        assert desk.progress("ada")["remaining"] == 2
        whole = desk_of(store)
        assert (whole.count_items(), whole.progress("ada")["remaining"]) == (6, 6)
    assert dealt(path, 9, items="escalated") == [(prompt, None) for prompt in UNDECIDED]


def test_a_panel_hands_over_what_is_below_its_quorum_or_split(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    panel = [unsure, {**unsure, "model": "yes"}]
    report = label(path, {"judges": panel, "quorum": 1}, escalate=True)
    assert report.escalated == 0  # one decides where the other does not
    assert "No pair is one for people." in report_text(report)
    report = label(path, {"judges": panel, "quorum": 2}, escalate=True)
    assert report.panel[None] == {"winner": 4, "below the quorum": 2}
    assert dealt(path, 9, items="escalated") == [(prompt, None) for prompt in UNDECIDED]


def test_a_criterion_is_handed_over_by_itself(fake: FakeOpenAi, tmp_path: Path) -> None:
    criteria = {"helpful": "Which helps?", "honest": "Which is honest?"}

    def rule(body: Any) -> str:
        text = body["messages"][0]["content"]
        unsure = "Which is honest?" in text and judged_texts(body)["prompt"] == "question 2"
        return "A" if unsure else prefers_yes(body)

    fake.answer = answer_by({"m": rule})
    path = fill(tmp_path / "s.db")
    values = {"base_url": fake.url, "model": "m", "criteria": criteria, "queue": "hard"}
    report = label(path, values, escalate=True)
    assert report.escalated == 1
    assert "items=escalated name=hard` and the same criteria" in report_text(report)
    items = {"name": "hard", "criteria": criteria, "items": "escalated"}
    assert dealt(path, 9, **items) == [("question 2", "honest")]
    with pytest.raises(DataError, match="was started with criteria="):
        label(path, {**values, "criteria": {"helpful": "Which helps?"}}, escalate=True)


def test_a_queue_keeps_its_votes_for_each_item(unsure: dict[str, Any], tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    with PreferenceStore.open(path) as store:
        desk_of(store, overlap=3)
    label(path, unsure, escalate=True)
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, overlap=3)
        ids = {name: [vote(desk, name) for _ in range(2)] for name in ("ada", "bo", "cy")}
    assert len({tuple(of) for of in ids.values()}) == 1
    # A new queue has one.
    other = fill(tmp_path / "o.db")
    label(other, unsure, escalate=True)
    with PreferenceStore.open(other) as store:
        desk = desk_of(store, items="escalated")
        assert [vote(desk, "ada"), vote(desk, "bo")][0] != 0
        assert desk.next("cy") is None


def test_new_pairs_are_handed_over_and_none_twice(unsure: dict[str, Any], tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    label(path, unsure, escalate=True)
    with PreferenceStore.open(path) as store:
        store.add_responses([Response("question 1", "no green", "green")])
    report = label(path, unsure, escalate=True)
    assert (report.escalated, report.new) == (4, 2)


def test_judged_by_people_means_by_people_on_this_criterion(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    with PreferenceStore.open(path) as store:
        ids = {str(r.response.prompt): [] for r in store.responses()}  # type: ignore[var-annotated]
        for stored in store.responses():
            ids[str(stored.response.prompt)].append(stored.id)
        one, four = (ids[prompt] for prompt in UNDECIDED)
        store.add_verdicts(
            [
                PairVerdict(*one, "skip", "ada", source="person"),
                PairVerdict(*one, "a", "file", source="rows.jsonl"),
                PairVerdict(*four, "tie", "ada", source="person", criterion="other"),
            ]
        )
    assert label(path, unsure, escalate=True).escalated == 2
    with PreferenceStore.open(path) as store:
        store.add_verdicts([PairVerdict(*one, "a", "bo", source="person")])
    report = label(path, unsure, escalate=True)
    assert (report.escalated, report.by_people) == (1, 1)


def test_without_escalated_pairs_the_page_says_what_to_do(
    unsure: dict[str, Any], tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    with pytest.raises(DataError, match=r"accord label .* --escalate"):
        dealt(path, 1, items="escalated")
    with pytest.raises(ValueError, match="items=escalated are pairs"):
        dealt(path, 1, items="escalated", task="labels")
