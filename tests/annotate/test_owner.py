"""The owner's page, and what it is computed from: gold, checks, fast votes, disputes."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")

from starlette.testclient import TestClient

from accord.annotate.desk import ADJUDICATOR, Desk
from accord.annotate.owner import owner_view
from accord.annotate.security import Site
from accord.annotate.server import create_app
from accord.annotate.votes import read_votes
from accord.compare.store.assignments import select_answered
from accord.compare.store.queue import select_items
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError
from accord.measure.ratings.needed import units_needed
from accord.records import Response
from tests.annotate.desks import Clock, body, desk_of, fill, vote


def answer_for(desk: Desk, name: str, winner: str) -> None:
    """Answer the next item so that the response of model `winner` is better."""
    assignment = desk.next(name)
    assert assignment is not None
    side = desk.texts(assignment).models.index(winner)
    sent = body(f"{name} {assignment.item.id}", outcome=("left", "right")[side])
    desk.answer(name, assignment.item.id, sent, session="")


def taken(desk: Desk) -> list[int]:
    with desk.store.engine.connect() as connection:
        return [item.taken for item in select_items(connection, desk.queue)]


def test_agreement_disputes_and_adjudication(store: PreferenceStore) -> None:
    desk = desk_of(store, overlap=2)
    for name, winners in (("ann", ("red", "red", "blue")), ("bob", ("red", "blue", "blue"))):
        for winner in winners:
            answer_for(desk, name, winner)
    view = owner_view(desk)
    assert (view.items, view.full, view.votes, view.num_disputes) == (3, 3, 6, 1)
    [dispute] = view.disputes
    assert (dispute.item, dispute.votes) == (2, "blue × 1, red × 1")
    # Two raters, three items: they agree on 2 of 3. ann gives a 2/3 of the time and bob 1/3, so
    # p_e = 2/3·1/3 + 1/3·2/3 = 4/9 and kappa = (2/3 − 4/9)/(1 − 4/9) = 2/5.
    cohen = view.agreement[""].coefficients[0]
    assert cohen.value == pytest.approx(0.4)
    [match] = view.matches
    assert match.models == ("blue", "red")
    assert match.share.mean == pytest.approx(0.5)  # items: red, level, blue
    assert match.more is None
    decision = desk.adjudicate(2, "eve")
    assert decision is not None
    desk.answer(f"eve{ADJUDICATOR}", 2, body("decision"), session="")
    assert owner_view(desk).num_disputes == 0
    assert [v.annotator for v in store.verdicts()][-1] == "eve (adjudicator)"
    assert owner_view(desk).votes == 6  # the votes are as they were
    assert taken(desk) == [2, 2, 2]
    # A decision that is changed stays one: it is no vote beside the others.
    earlier = desk.adjudicate(2, "eve")
    assert earlier is not None
    changed = body("changed", outcome="tie", revises=earlier.verdict_id)
    desk.answer(f"eve{ADJUDICATOR}", 2, changed, session="")
    assert (owner_view(desk).votes, owner_view(desk).num_disputes) == (6, 0)
    assert taken(desk) == [2, 2, 2]
    assert store.verdicts()[-1].outcome == "tie"


def test_every_coefficient_of_each_criterion(path: Path, store: PreferenceStore) -> None:
    """On the page with its interval, or with why it is not defined."""
    fill(path, prompts=30)
    criteria = {"helpful": "More helpful?", "honest": "More honest?"}
    desk = desk_of(store, overlap=2, criteria=criteria)
    for name, reds in (("ann", 18), ("bob", 12)):
        for winner in ("red",) * reds + ("blue",) * (30 - reds):
            answer_for(desk, name, winner)  # helpful
            answer_for(desk, name, "red")  # honest
    agreement = owner_view(desk).agreement
    assert set(agreement) == {"helpful", "honest"}
    for criterion, is_defined in (("helpful", True), ("honest", False)):
        names = [each.name for each in agreement[criterion].coefficients]
        for name in ("Cohen", "Fleiss", "Krippendorff", "AC1"):
            (of_name,) = [i for i, each in enumerate(names) if name in each]
            coefficient = agreement[criterion].coefficients[of_name]
            if is_defined:
                assert coefficient.value is not None
                assert (coefficient.low or -1) < coefficient.value < (coefficient.high or 2)
                assert coefficient.low is not None
            elif name != "AC1":  # which chance of one value leaves defined
                assert coefficient.undefined
    app = create_app(desk, Site("127.0.0.1", 8100), annotator="eve")
    page = TestClient(app, base_url="http://127.0.0.1:8100").get("/owner").text
    assert page.count("Krippendorff") == 2
    assert "not defined" in page
    assert agreement["honest"].coefficients[0].undefined in unescape(page)


def test_how_many_more_items_distinguish_two_models(tmp_path: Path) -> None:
    fill(tmp_path / "ten.db", prompts=10)
    with PreferenceStore.open(tmp_path / "ten.db") as store:
        desk = desk_of(store)
        for i in range(10):
            answer_for(desk, "ann", "blue" if i < 6 else "red")
        [match] = owner_view(desk).matches
        # 194 items show a share of 60% (below), of which there are ten.
        assert (match.share.mean, match.items, match.more) == (0.6, 10, 184)


def test_gold_checks_and_fast_votes(tmp_path: Path) -> None:
    path, checks = tmp_path / "gold.db", tmp_path / "checks.jsonl"
    fill(path, prompts=4)
    rows = [{"prompt": "2 + 2?", "chosen": f"4 ({i})", "rejected": "A fish."} for i in range(2)]
    checks.write_text("\n".join(map(json.dumps, rows)))
    with PreferenceStore.open(path) as store:
        store.add_verdicts([PairVerdict(1, 2, "a", "ada"), PairVerdict(3, 4, "tie", "ada")])
        settings = {"gold": "ada", "checks": str(checks), "check_every": 2}
        desk = desk_of(store, **settings)
        before = store.counts()
        shown: list[str] = []
        while (assignment := desk.next("ann")) is not None:
            texts = desk.texts(assignment)
            is_check = assignment.item.content is not None
            shown.append("check" if is_check else "item")
            best = texts.responses.index(
                next(t for t in texts.responses if t.startswith("4" if is_check else "red"))
            )
            seconds = 0.1 if len(shown) == 1 else 5.0
            sent = body(f"{len(shown)}", outcome=("left", "right")[best], seconds=seconds)
            saved = desk.answer("ann", assignment.item.id, sent, session="")
            # Sent again, it is the answer that it was, also where it is no verdict.
            assert desk.answer("ann", assignment.item.id, sent, session="") == saved
            assert (saved.verdict_id is None) == is_check
            assert saved.correct or not is_check
        assert sorted(shown) == ["check"] * 2 + ["item"] * 4
        after = store.counts()
        assert (after["responses"], after["prompts"]) == (before["responses"], before["prompts"])
        assert after["pairs"] - before["pairs"] == 4  # answers to checks are no verdicts
        with desk.reading() as connection:  # agreement is measured without the checks
            votes = read_votes(select_answered(connection, desk.queue))
        assert [vote.item.content for vote in votes] == [None] * 4
        [row] = owner_view(desk).people
        assert (row.votes, row.seconds) == (4, 5.0)
        assert row.checks is not None
        assert row.checks.mean == 1.0
        assert row.gold is not None
        assert row.gold.mean == 0.5  # right on the first, and ada called the second a tie
        assert row.fast == (1 if shown[0] == "item" else 0)
        with pytest.raises(DataError, match="no verdicts of 'eva'"):
            desk_of(store, gold="eva")


def test_an_empty_queue_says_what_is_missing(tmp_path: Path) -> None:
    with PreferenceStore.open(tmp_path / "one.db") as store:
        store.add_responses([Response("p", "same", "red"), Response("p", "same", "blue")])
        with pytest.raises(DataError, match="no prompt has two different responses"):
            desk_of(store)
        assert desk_of(store, task="labels").count_items() == 1
        view = owner_view(desk_of(store, task="labels"))
        assert view.not_measured == "nobody has voted yet"


def test_flags_and_rankings(tmp_path: Path, clock: Clock) -> None:
    fill(tmp_path / "rank.db", prompts=2, models=("a-1", "b-1", "c-1"))
    with PreferenceStore.open(tmp_path / "rank.db") as store:
        desk = desk_of(store, clock, task="rankings", overlap=2)
        for name in ("ann", "bob"):
            vote(desk, name, ranks=[0, 1, 2])
            vote(desk, name, action="flag", reason="Cut off.")
        view = owner_view(desk)
        assert {row.votes for row in view.flagged} == {"ann: Cut off.", "bob: Cut off."}
        assert view.agreement[""].items == 6  # bob ranks the item that ann flagged: 2 × 3 pairs
        assert [row.items for row in view.matches] == [2, 2, 2]


def test_units_needed_to_distinguish_two_models() -> None:
    # Wins and losses with a share of .6: z = 1.95996 and .84162, σ₀² = .24 + .01,
    # n = ((1.95996·.5 + .84162·.48990)/.1)² = 193.85, as in tables of one-sample proportions (194).
    assert units_needed([1.0] * 6 + [0.0] * 4) == 194
    assert units_needed([0.0] * 6 + [1.0] * 4) == 194
    assert units_needed([0.5] * 4) is None
    assert units_needed([]) is None
    assert units_needed([1.0] * 9) == 4  # nothing varies: (1.95996·.5/.5)² = 3.84
