"""Who is given which item, and what becomes of an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from accord.compare.store.queue_schema import ASSIGNMENTS, ITEMS
from accord.compare.store.store import PreferenceStore
from accord.errors import ConflictError, DataError
from tests.annotate.desks import Clock, body, desk_of, fill, vote


def counted(store: PreferenceStore) -> list[int]:
    """`taken` of each item, after comparing it with the assignments that it counts."""
    taking = sa.select(sa.func.count()).where(
        ASSIGNMENTS.c.item_id == ITEMS.c.id, ASSIGNMENTS.c.state.in_(("open", "voted"))
    )
    with store.engine.connect() as connection:
        query = sa.select(ITEMS.c.taken, taking.scalar_subquery()).order_by(ITEMS.c.id)
        rows = connection.execute(query).all()
    assert all(taken == truth for taken, truth in rows)
    return [taken for taken, _ in rows]


def test_a_vote_is_a_verdict_on_the_responses_whichever_stood_left(store: PreferenceStore) -> None:
    desk = desk_of(store, tags=["wrong", "rude"], round=3, overlap=4)
    shown_first = set()
    for name in ("ann", "bob", "cy", "dee"):  # the order is drawn for each annotator
        item = desk.next(name)
        assert item is not None
        answer = body(name, strength=2, tags=["rude"], comment=" so so ", view="raw")
        desk.answer(name, item.item.id, answer, session="visit 7")
        verdict = store.verdicts(annotator=name)[0]
        left = item.item.response_ids[item.shown[0]]
        ranks = {each.response_id: (each.rank, each.shown) for each in verdict.items}
        assert ranks[left] == (0, 0)  # the best, and shown first
        assert verdict.outcome == "ab"[item.shown[0]]
        assert (verdict.strength, verdict.tags, verdict.comment) == (2, ("rude",), "so so")
        assert (verdict.view, verdict.session, verdict.round) == ("raw", "visit 7", 3)
        assert (verdict.source, verdict.seconds) == ("person", 9.0)
        shown_first.add(item.shown[0])
    assert shown_first == {0, 1}


def test_a_retried_answer_adds_nothing_even_after_a_later_one(store: PreferenceStore) -> None:
    desk = desk_of(store)
    item = desk.next("ann")
    assert item is not None
    answer = body("first")
    ids = {desk.answer("ann", item.item.id, answer, session="").verdict_id for _ in range(3)}
    assert len(ids) == 1
    first = ids.pop()
    changed = body("second", outcome="tie", revises=first)
    second = desk.answer("ann", item.item.id, changed, session="").verdict_id
    assert desk.answer("ann", item.item.id, answer, session="").verdict_id == first
    assert [v.id for v in store.verdicts(history=True)] == [first, second]
    assert store.verdicts()[0].outcome == "tie"


def test_two_tabs_have_one_item_and_its_second_answer_is_refused(store: PreferenceStore) -> None:
    desk = desk_of(store)
    one, two = desk.next("ann"), desk.next("ann")
    assert one is not None
    assert two is not None
    assert one.item.id == two.item.id
    desk.answer("ann", one.item.id, body("tab one"), session="")
    with pytest.raises(ConflictError, match="answered this item already"):
        desk.answer("ann", one.item.id, body("tab two", outcome="right"), session="")
    assert len(store.verdicts(history=True)) == 1


def test_two_tabs_change_an_answer_only_once(store: PreferenceStore) -> None:
    desk = desk_of(store)
    item = vote(desk, "ann")
    earlier = desk.earlier("ann", None)
    assert earlier is not None
    revision = {"revises": earlier.verdict_id}
    desk.answer("ann", item, body("tab one", outcome="tie", **revision), session="")
    with pytest.raises(ConflictError):
        desk.answer("ann", item, body("tab two", outcome="right", **revision), session="")
    history = store.verdicts(history=True)
    assert [v.supersedes for v in history] == [None, history[0].id]


def test_undo_goes_back_step_by_step(store: PreferenceStore, clock: Clock) -> None:
    desk = desk_of(store, clock)
    items = []
    for _ in range(3):
        items.append(vote(desk, "ann"))
        clock.now += 1
    back, before = [], None
    while (assignment := desk.earlier("ann", before)) is not None:
        back.append(assignment.item.id)
        before = assignment.closed
    assert back == items[::-1]


def test_no_item_has_more_people_than_the_overlap(store: PreferenceStore) -> None:
    desk = desk_of(store, overlap=2)
    given: dict[int, int] = {}
    for name in ("ann", "bob", "cy", "dee"):
        while (assignment := desk.next(name)) is not None:
            given[assignment.item.id] = given.get(assignment.item.id, 0) + 1
            desk.answer(name, assignment.item.id, body(f"{name}{assignment.id}"), session="")
    assert given == {1: 2, 2: 2, 3: 2}
    assert counted(store) == [2, 2, 2]


def test_the_item_with_the_fewest_votes_comes_first(store: PreferenceStore) -> None:
    desk = desk_of(store, overlap=3)
    assert [vote(desk, "ann"), vote(desk, "ann")] == [1, 2]
    assert vote(desk, "bob") == 3
    assert vote(desk, "bob") == 1


def test_an_abandoned_item_goes_to_someone_else_and_comes_back_if_not_taken(
    store: PreferenceStore, clock: Clock
) -> None:
    desk = desk_of(store, clock, lease_minutes=10)
    left = desk.next("ann")
    assert left is not None
    clock.now += 9 * 60
    assert desk.renew("ann", left.item.id)  # the page is still open
    clock.now += 9 * 60
    assert vote(desk, "bob") != left.item.id
    clock.now += 2 * 60
    taken = desk.next("bob")  # the lease is over
    assert taken is not None
    assert taken.item.id == left.item.id
    assert not desk.renew("ann", left.item.id)
    with pytest.raises(ConflictError, match="Someone else"):
        desk.answer("ann", left.item.id, body("late"), session="")
    assert counted(store) == [1, 1, 0]
    desk.answer("bob", left.item.id, body("in time"), session="")
    again = desk.next("ann")
    assert again is not None
    assert again.item.id != left.item.id


def test_a_page_that_is_loaded_again_has_its_item_for_a_whole_lease(
    store: PreferenceStore, clock: Clock
) -> None:
    desk = desk_of(store, clock, lease_minutes=10)
    left = desk.next("ann")
    clock.now += 9 * 60
    again = desk.next("ann")
    assert left is not None
    assert again is not None
    assert (again.id, again.shown) == (left.id, left.shown)
    clock.now += 9 * 60
    assert vote(desk, "bob") != left.item.id
    clock.now += 60  # to the second
    taken = desk.next("bob")
    assert taken is not None
    assert taken.item.id == left.item.id


def test_an_item_that_its_own_annotator_left_comes_back(path: Path, clock: Clock) -> None:
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, clock, lease_minutes=10)
        first = [vote(desk, "ann"), vote(desk, "ann")]
        left = desk.next("ann")
        clock.now += 3600
        again = desk.next("ann")
    assert left is not None
    assert again is not None
    assert again.item.id == left.item.id not in first


def test_a_key_of_someone_else_is_no_answer_of_ones_own(store: PreferenceStore) -> None:
    desk = desk_of(store)
    vote(desk, "ann", key="of ann")
    item = vote(desk, "bob", key="of bob")
    with pytest.raises(ConflictError, match="answered this item already"):
        desk.answer("bob", item, body("of ann"), session="")
    assert len(store.verdicts(history=True)) == 2


def test_a_late_answer_counts_where_nobody_else_has_the_item(
    store: PreferenceStore, clock: Clock
) -> None:
    desk = desk_of(store, clock, lease_minutes=10)
    left = desk.next("ann")
    assert left is not None
    clock.now += 3600
    desk.answer("ann", left.item.id, body("late"), session="")
    assert counted(store) == [1, 0, 0]
    assert len(store.verdicts()) == 1


def test_skips_and_flags_leave_the_vote_to_others(store: PreferenceStore) -> None:
    desk = desk_of(store)
    skipped = vote(desk, "ann", action="skip", reason="Too long")
    flagged = vote(desk, "ann", action="flag", reason="The prompt is cut.")
    assert counted(store) == [0, 0, 0]
    outcomes = {(v.outcome, v.reason) for v in store.verdicts(annotator="ann")}
    assert outcomes == {("skip", "Too long"), ("flag", "The prompt is cut.")}
    assert [vote(desk, "bob"), vote(desk, "bob")] == [skipped, flagged]
    earlier = desk.earlier("ann", None)
    assert earlier is not None
    with pytest.raises(ConflictError):  # bob has voted on it: ann's would be one too many
        desk.answer("ann", flagged, body("now", revises=earlier.verdict_id), session="")


def test_rankings_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "more.db"
    fill(path, prompts=1, models=("a-1", "b-1", "c-1"))
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, name="ranks", task="rankings")
        item = desk.next("ann")
        assert item is not None
        desk.answer("ann", item.item.id, body("ranking", ranks=[1, 0, 1]), session="")
        ranking = store.verdicts("ranking")[0]
        by_position = sorted(ranking.items, key=lambda each: each.shown or 0)
        assert [each.rank for each in by_position] == [1, 0, 1]
        assert [each.response_id for each in by_position] == [
            item.item.response_ids[index] for index in item.shown
        ]
        labels = desk_of(store, name="labels", task="labels")
        for rank in (0, 1):
            vote(labels, "ann", ranks=[rank])
        vote(labels, "ann", action="skip")
        assert [v.items[0].score for v in store.verdicts("rating")] == [1.0, 0.0, None]


def test_criteria_of_the_same_responses_follow_each_other(store: PreferenceStore) -> None:
    desk = desk_of(store, criteria={"helpful": "More helpful?", "honest": "More honest?"})
    for _ in range(6):
        vote(desk, "ann")
    verdicts = store.verdicts()
    assert [v.criterion for v in verdicts] == ["helpful", "honest"] * 3
    assert [v.prompt_id for v in verdicts] == [1, 1, 2, 2, 3, 3]
    orders = [[item.shown for item in v.items] for v in verdicts]
    assert orders[::2] == orders[1::2]  # the same responses stand in the same order


def test_starting_again_adds_only_what_is_new(path: Path, store: PreferenceStore) -> None:
    desk = desk_of(store)
    vote(desk, "ann")
    fill(path, prompts=1, models=("green",))
    desk = desk_of(store, overlap=2)
    assert desk.count_items() == 3 + 2  # green with red, and with blue
    assert counted(store) == [1, 0, 0, 0, 0]
    with pytest.raises(DataError, match="started with task='pairs'"):
        desk_of(store, task="labels")


def test_the_time_of_an_answer_is_the_median_and_a_changed_one_is_never_too_fast(
    store: PreferenceStore, clock: Clock
) -> None:
    desk = desk_of(store, clock, overlap=2)
    for seconds in (1.0, 9.0, 5.0):
        vote(desk, "ann", key=f"{seconds}", seconds=seconds)
        clock.now += 10
    assert desk.progress("ann")["seconds"] == 5.0
    item = desk.earlier("ann", None)
    assert item is not None
    assert not item.fast
    changed = body("changed", revises=item.verdict_id, seconds=0.0)
    desk.answer("ann", item.item.id, changed, session="")
    again = desk.assigned("ann", item.item.id)
    assert again is not None
    assert again.fast is False
    first = desk.assigned("bob", vote(desk, "bob", seconds=0.0))
    assert first is not None
    assert first.fast is True


def test_an_item_that_was_left_is_among_those_that_remain(
    store: PreferenceStore, clock: Clock
) -> None:
    desk = desk_of(store, clock, overlap=2, lease_minutes=10)
    assert desk.next("ann") is not None
    assert desk.progress("ann")["remaining"] == 3
    clock.now += 3600
    vote(desk, "bob")
    assert desk.progress("ann") == {"done": 0, "remaining": 3, "seconds": None}


def test_nobody_can_foresee_where_an_attention_check_comes(tmp_path: Path) -> None:
    path, checks = tmp_path / "many.db", tmp_path / "checks.jsonl"
    fill(path, prompts=30)
    rows = [{"prompt": "2 + 2?", "chosen": f"4 ({i})", "rejected": "A fish."} for i in range(8)]
    checks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with PreferenceStore.open(path) as store:
        desk = desk_of(store, checks=str(checks), check_every=4)
        is_check = []
        while (assignment := desk.next("ann")) is not None:
            is_check.append(assignment.item.content is not None)
            desk.answer("ann", assignment.item.id, body(f"{len(is_check)}"), session="")
    at = [position for position, each in enumerate(is_check) if each]
    assert [position // 4 for position in at] == [*range(8)]  # one in every four items
    assert len({position % 4 for position in at}) > 1


def test_an_item_of_another_queue_is_none_to_adjudicate(store: PreferenceStore) -> None:
    mine, other = desk_of(store), desk_of(store, name="other")
    item = vote(other, "ann")
    assert mine.adjudicate(item, "eve") is None
    assert other.adjudicate(item, "eve") is not None
