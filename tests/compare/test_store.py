"""The preference store: records come back unchanged, none is overwritten, bad ones are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.compare.store.rows import StoredPrompt, StoredResponse
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import Item, PairVerdict, RankingVerdict, RatingVerdict
from accord.records import Battle, Comparison, Message, Ranking, Rating, Response, Source
from tests.compare.store_verdicts import ASK, add, answers, fails


def test_a_prompt_is_stored_once_with_its_first_meta(store: PreferenceStore) -> None:
    (first,) = store.add_prompts([(ASK, {"kind": "sum"})])
    assert store.add_prompts([(ASK, {"kind": "other"})]) == [first]
    (text,) = store.add_prompts([("2+2?", {})])
    assert text != first  # text to be continued is not a user's message
    assert store.add_prompts([("2+2?", {}), ("new", {"é": [1]}), ("new", {})]) == [text, 3, 3]
    assert store.prompts() == [
        StoredPrompt(1, ASK, {"kind": "sum"}),
        StoredPrompt(2, "2+2?", {}),
        StoredPrompt(3, "new", {"é": [1]}),
    ]


def test_responses_come_back_as_they_were(store: PreferenceStore) -> None:
    full = Response(ASK, "4", "m", {"seed": 1, "t": 0.5}, logp=-1.25, tokens=2, finished=False)
    bare = Response("other", "", "n")
    ids = store.add_responses([full, bare, full])  # the same answer twice is two responses
    assert ids == [1, 2, 3]
    assert store.responses() == [
        StoredResponse(1, 1, full),
        StoredResponse(2, 2, bare),
        StoredResponse(3, 1, full),
    ]
    assert [r.id for r in store.responses(model="m")] == [1, 3]
    assert [r.id for r in store.responses(prompt_id=2)] == [2]
    assert store.responses(model="n", prompt_id=1) == []
    assert store.add_responses([]) == []


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(deadline=None, max_examples=25)  # a database each
@given(
    st.lists(
        st.builds(
            Response,
            prompt=text | st.tuples(st.builds(Message, st.just("user"), text)),
            text=text,
            model=text,
            settings=st.dictionaries(text, st.none() | text | st.booleans(), max_size=2),
            logp=st.none() | st.floats(-1e6, 0),
            tokens=st.none() | st.integers(0, 9999),
            finished=st.booleans(),
        ),
        max_size=5,
    )
)
def test_any_response_comes_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[Response]
) -> None:
    with PreferenceStore.open(tmp_path_factory.mktemp("s") / "store.db") as store:
        ids = store.add_responses(items)
        assert {r.id: r.response for r in store.responses()} == dict(zip(ids, items, strict=True))


def test_many_responses_keep_their_order(store: PreferenceStore) -> None:
    items = [Response(f"prompt {i % 700}", f"answer {i}", "m") for i in range(3000)]
    ids = store.add_responses(items)
    assert [r.response.text for r in store.responses()] == [r.text for r in items]
    assert ids == [r.id for r in store.responses()]
    assert store.counts()["prompts"] == 700


def test_pairs_of_each_outcome(store: PreferenceStore, path: Path) -> None:
    a, b = answers(store, "four", "five")
    for outcome in ("a", "b", "tie", "both_bad"):
        add(store, PairVerdict(a, b, outcome, annotator=f"for {outcome}"))
    assert store.comparisons() == [
        Comparison(ASK, "four", "five", None, Source(str(path), 1)),
        Comparison(ASK, "five", "four", None, Source(str(path), 2)),
    ]
    assert store.battles() == [
        Battle("x", "y", outcome) for outcome in ("a", "b", "tie", "both_bad")
    ]
    assert [battle.prompt for battle in store.battles()] == ["1"] * 4  # of one prompt
    assert store.counts() == {
        "prompts": 1,
        "responses": 2,
        "verdicts": 4,
        "pairs": 4,
        "comparisons": 2,
        "ties": 1,
        "both_bad": 1,
        "rankings": 0,
        "ratings": 0,
        "undecided": 0,
        "skipped": 0,
        "flagged": 0,
        "superseded": 0,
    }


def test_a_models_own_pair_is_a_comparison_but_no_battle(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five", models="x")
    add(store, PairVerdict(a, b, "a", annotator="ann"))
    assert len(store.comparisons()) == 1
    assert store.battles() == []


def test_every_field_of_a_pair_verdict_is_stored(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    id_ = add(
        store,
        PairVerdict(
            a, b, "b", annotator="ann", round=2, reason="kinder", shown_first="b", seconds=3.5
        ),
    )
    (verdict,) = store.verdicts()
    assert (verdict.id, verdict.prompt_id, verdict.kind) == (id_, 1, "pair")
    assert (verdict.annotator, verdict.round, verdict.outcome) == ("ann", 2, "b")
    assert (verdict.reason, verdict.seconds) == ("kinder", 3.5)
    # b won, so its rank is 0 and a's 1; b was seen first.
    assert verdict.items == (Item(a, rank=1, shown=1), Item(b, rank=0, shown=0))


def test_rankings(store: PreferenceStore, path: Path) -> None:
    a, b, c = answers(store, "one", "two", "three")
    id_ = add(store, RankingVerdict((c, a, b), (0, 1, 1), annotator="ann", shown=(a, b, c)))
    assert store.rankings() == [
        Ranking(ASK, ("three", "one", "two"), (0, 1, 1), Source(str(path), id_))
    ]
    (verdict,) = store.verdicts("ranking")
    assert verdict.items == (Item(c, 0, None, 2), Item(a, 1, None, 0), Item(b, 1, None, 1))
    assert store.comparisons() == []


def test_ratings(store: PreferenceStore, path: Path) -> None:
    (a,) = answers(store, "one")
    add(store, RatingVerdict(a, 0, annotator="ann"))
    add(store, RatingVerdict(a, 4.5, annotator="bob", reason="clear", seconds=1))
    assert store.ratings() == [
        Rating(ASK, "one", 0.0, Source(str(path), 1)),
        Rating(ASK, "one", 4.5, Source(str(path), 2)),
    ]


def test_verdicts_of_a_round_or_an_annotator(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    ids = store.add_verdicts(
        [
            PairVerdict(a, b, "a", "ann", round=0),
            PairVerdict(a, b, "b", "bob", round=0),
            RankingVerdict((a, b), (0, 1), "ann", round=1),
            RatingVerdict(a, 1.0, "bob", round=1),
            PairVerdict(a, b, "tie", "ann", round=1),
        ]
    )
    assert ids == [1, 2, 3, 4, 5]
    assert [c.source.line for c in store.comparisons(round=0)] == [1, 2]
    assert [c.source.line for c in store.comparisons(annotator="bob")] == [2]
    assert [v.id for v in store.verdicts(round=1)] == [3, 4, 5]
    # Of ann's two verdicts on the pair the latest counts; round 0 is read as it was.
    assert [v.id for v in store.verdicts("pair", annotator="ann")] == [5]
    assert [v.id for v in store.verdicts("pair", annotator="ann", history=True)] == [1, 5]
    assert store.rankings(round=0) == []
    assert len(store.ratings(round=1, annotator="bob")) == 1
    assert [b.outcome for b in store.battles(round=1)] == ["tie"]


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (
            PairVerdict(1, 9, "a", "ann"),
            "A verdict is about response 9, which is not in the store. "
            "Add the responses first and use the ids that they get.",
        ),
        (
            PairVerdict(1, 3, "a", "ann"),
            "A verdict compares responses 1, 3, which are to different prompts (1, 2). "
            "Compare responses to one prompt.",
        ),
        (
            PairVerdict(1, 1, "a", "ann"),
            "Response 1 can't be compared with itself. Give two responses.",
        ),
        (
            PairVerdict(1, 2, "x", "ann"),  # type: ignore[arg-type]
            "The outcome of responses 1 and 2 is 'x'. Give one of a, b, tie, both_bad, "
            "skip, flag, undecided.",
        ),
        (
            RankingVerdict((1, 2), (0,), "ann"),
            "A ranking gives responses [1, 2] the ranks [0]. "
            "Give two or more different responses and a rank for each.",
        ),
        (
            RankingVerdict((1, 1), (0, 1), "ann"),
            "A ranking gives responses [1, 1] the ranks [0, 1]. "
            "Give two or more different responses and a rank for each.",
        ),
        (
            RankingVerdict((1, 2), (1, 2), "ann"),
            "A ranking gives responses [1, 2] the ranks [1, 2]. "
            "Give whole numbers of which the best is 0.",
        ),
        (
            RankingVerdict((1, 2), (0, 1), "ann", shown=(1, 3)),
            "A ranking of responses [1, 2] says that [1, 3] were shown. "
            "Give the same responses in the order shown.",
        ),
        (
            RatingVerdict(1, math.nan, "ann"),
            "A rating of response 1 is nan. Give a finite number.",
        ),
    ],
)
def test_verdicts_that_are_refused(store: PreferenceStore, verdict: Any, message: str) -> None:
    answers(store, "four", "five")
    store.add_responses([Response("other", "z", "x")])
    good = PairVerdict(1, 2, "a", "ann")
    assert fails(lambda: store.add_verdicts([good, verdict])) == message
    assert store.counts()["verdicts"] == 0  # all or none


def test_value_that_json_cannot_hold(store: PreferenceStore, path: Path) -> None:
    message = fails(lambda: store.add_prompts([("p", {"x": {1, 2}})]))
    assert message == (
        f"A value can't be stored in {path}: Object of type set is not JSON "
        "serializable. Meta and settings must be what JSON can hold."
    )
    assert store.prompts() == []


def test_prompts_with_tools_and_calls_are_stored_as_they_are(tmp_path: Path) -> None:
    calls = '{"content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}'
    prompt = (
        Message("user", "how deep?", context='{"tools": [{"name": "f"}]}'),
        Message("assistant", "", calls),
        Message("tool", "9", '{"tool_call_id": "1"}'),
    )
    plain = tuple(Message(turn.role, turn.content) for turn in prompt)
    with PreferenceStore.open(tmp_path / "tools.db") as store:
        ids = store.add_responses([Response(p, "9 m", "m") for p in (prompt, plain, prompt)])
        assert [stored.prompt for stored in store.prompts()] == [prompt, plain]
        assert len(ids) == 3
