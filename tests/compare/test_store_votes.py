"""What people and judges say beside an outcome; changed minds, retried votes and their keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from accord.compare.store.fingerprint import JudgeAnswer, JudgeCheck, JudgeFingerprint
from accord.compare.store.items import item_name
from accord.compare.store.rows import Selection
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import Item, PairVerdict, RankingVerdict, RatingVerdict
from accord.records import Response
from tests.compare.store_verdicts import ASK, add, answers, fails

JUDGE = JudgeFingerprint("m-7b", "http://localhost/v1", "p" * 64, "r" * 64, {"temperature": 0})


def test_every_field_of_a_persons_vote_comes_back(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    vote = PairVerdict(
        a,
        b,
        "b",
        annotator="ann",
        reason="clearer",
        seconds=2.5,
        shown_first="b",
        strength=3,
        criterion="honest",
        comment="“four” is wrong\nhere",
        tags=("wrong", "rude"),
        guideline="g" * 64,
        view="raw",
        session="s1",
        source="person",
        key="0b1c",
    )
    id_ = add(store, vote)
    (stored,) = store.verdicts()
    for field in (
        "criterion strength comment tags guideline view session source key reason seconds"
    ).split():
        assert getattr(stored, field) == getattr(vote, field), field
    assert (stored.id, stored.supersedes, stored.judge, stored.probability) == (id_, *[None] * 3)


def test_a_judges_verdict_has_its_fingerprint_and_raw_answers(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    said = (
        JudgeAnswer('{"verdict": "A"}', (a, b), "A", 0.9),
        JudgeAnswer("neither, really", (b, a)),
    )
    verdict = PairVerdict(
        a, b, "undecided", "judge", source="judge", probability=0.55, judge=JUDGE, answers=said
    )
    other = replace(verdict, annotator="other", judge=replace(JUDGE, rubric="x" * 64), answers=())
    ids = store.add_verdicts([verdict, other, replace(verdict, annotator="third")])
    assert store.judge_answers(ids) == {ids[0]: said, ids[2]: said}
    first, second, third = store.verdicts()
    assert (first.outcome, first.probability) == ("undecided", 0.55)
    assert first.judge == third.judge == JUDGE.digest != second.judge
    assert store.judges()[JUDGE.digest] == JUDGE
    assert len(store.judges()) == 2
    assert store.comparisons() == []
    assert store.battles() == []  # not a tie, so no half win


def test_any_change_of_a_fingerprint_changes_its_digest() -> None:
    changes: list[dict[str, Any]] = [
        {"model": "x"},
        {"endpoint": "x"},
        {"prompt": "x"},
        {"rubric": "x"},
        {"settings": {"temperature": 1}},
    ]
    digests = {replace(JUDGE, **change).digest for change in changes}
    assert len(digests | {JUDGE.digest}) == 6


def test_checks_of_judges(store: PreferenceStore) -> None:
    other = replace(JUDGE, prompt="x" * 64)
    store.add_judge_check(JudgeCheck(JUDGE, False, {"kappa": 0.1}))
    store.add_judge_check(JudgeCheck(other, True, {}, criterion="honest"))
    store.add_judge_check(JudgeCheck(JUDGE, True, {"kappa": 0.6}))
    checks = store.judge_checks(JUDGE.digest)
    assert [(c.fingerprint, c.passed, c.report) for c in checks] == [
        (JUDGE, False, {"kappa": 0.1}),
        (JUDGE, True, {"kappa": 0.6}),
    ]
    assert [c.criterion for c in store.judge_checks()] == [None, "honest", None]
    assert all(check.created for check in checks)


def test_skips_flags_and_undecided_are_stored_and_never_preferences(
    store: PreferenceStore,
) -> None:
    a, b, c = answers(store, "one", "two", "three")
    store.add_verdicts(
        [
            PairVerdict(a, b, "skip", "ann", reason="I can't judge this"),
            PairVerdict(a, b, "flag", "bob", comment="an insult"),
            RankingVerdict((a, b, c), (), "ann", outcome="skip", shown=(c, a, b)),
            RatingVerdict(a, None, "ann", outcome="flag"),
        ]
    )
    assert (store.comparisons(), store.rankings(), store.ratings(), store.battles()) == ([],) * 4
    counts = store.counts()
    assert (counts["skipped"], counts["flagged"], counts["pairs"]) == (2, 2, 0)
    skip, _, ranking, rating = store.verdicts()
    assert (skip.reason, [i.rank for i in skip.items]) == ("I can't judge this", [None, None])
    assert ranking.items == (Item(a, shown=1), Item(b, shown=2), Item(c, shown=0))
    assert rating.items == (Item(a),)


def test_a_changed_mind_is_a_new_row_and_the_latest_counts(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    first = add(store, PairVerdict(a, b, "a", "ann"))
    honest = add(store, PairVerdict(a, b, "a", "ann", criterion="honest"))  # another question
    bob = add(store, PairVerdict(a, b, "a", "bob"))  # another person
    second = add(store, PairVerdict(b, a, "a", "ann", round=1))  # the same pair, sides swapped
    assert [v.id for v in store.verdicts()] == [honest, bob, second]
    assert [(v.id, v.supersedes) for v in store.verdicts(history=True)] == [
        (first, None),
        (honest, None),
        (bob, None),
        (second, first),
    ]
    assert [v.id for v in store.verdicts(round=0)] == [first, honest, bob]  # round 0 as it was
    assert [c.chosen for c in store.comparisons(annotator="ann")] == ["four", "five"]
    assert store.counts()["superseded"] == 1


def test_a_verdict_may_replace_one_on_other_responses(store: PreferenceStore) -> None:
    a, b, c = answers(store, "one", "two", "three")
    first, second = store.add_verdicts(
        [RankingVerdict((a, b, c), (0, 1, 2), "ann"), PairVerdict(a, b, "a", "ann")]
    )
    third = add(store, RankingVerdict((a, b), (1, 0), "ann", supersedes=first))
    assert [v.id for v in store.verdicts()] == [second, third]
    assert fails(lambda: add(store, PairVerdict(a, b, "b", "ann", supersedes=99))) == (
        "A verdict of ann replaces verdict 99, which is not in the store. "
        "Give the id of a stored verdict, or leave it out."
    )
    assert fails(lambda: add(store, PairVerdict(a, b, "b", "bob", supersedes=second))) == (
        f"A verdict of bob replaces verdict {second} of ann. An annotator can replace only "
        "verdicts of the same name: add it as a further verdict, without `supersedes`."
    )


def test_two_opinions_on_one_question_in_one_call(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    verdicts = [PairVerdict(a, b, outcome, "ann") for outcome in ("a", "b", "tie")]  # type: ignore[arg-type]
    ids = store.add_verdicts(verdicts)
    rows = {v.id: v.supersedes for v in store.verdicts(history=True)}
    assert [rows[id_] for id_ in ids] == [None, ids[0], ids[1]]
    assert [v.outcome for v in store.verdicts()] == ["tie"]


def test_selections(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    for number, (annotator, source, criterion) in enumerate(
        [
            ("ann", "person", None),
            ("m", "judge", None),
            ("m", "judge", "honest"),
            ("bob", None, "x"),
        ]
    ):
        vote = PairVerdict(a, b, "a", annotator, number, source=source, criterion=criterion)
        add(store, vote)

    def ids(**fields: Any) -> list[int]:
        return [v.id for v in store.iterate_verdicts(Selection(**fields))]

    assert ids() == [1, 2, 3, 4]
    assert ids(sources=("judge",)) == [2, 3]
    assert ids(sources=("judge", "person"), criteria=(None,)) == [1, 2]
    assert ids(criteria=("honest", None)) == [1, 2, 3]
    assert ids(annotators=("bob", "ann"), rounds=(0, 1)) == [1]
    assert ids(kind="rating") == []


def test_more_verdicts_than_a_chunk(store: PreferenceStore) -> None:
    ids = store.add_responses([Response("p", str(i), "m") for i in range(1204)])
    pairs = [PairVerdict(i, i + 1, "a", "x", key=f"k{i}") for i in ids[::2]] * 2
    stored = store.add_verdicts([*pairs, *pairs])
    assert stored == [*range(1, 603)] * 4
    assert [v.id for v in store.iterate_verdicts()] == [*range(1, 603)]


def test_a_vote_that_is_sent_again_adds_nothing(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    vote = PairVerdict(a, b, "a", "ann", key="k1", seconds=1.0)
    assert store.add_verdicts([vote, vote]) == [1, 1]
    add(store, PairVerdict(a, b, "b", "ann", key="k2"))
    # Again after the mind was changed: what came late does not count as the latest.
    assert store.add_verdicts([PairVerdict(a, b, "tie", "ann", key="k3"), vote]) == [3, 1]
    assert [v.outcome for v in store.verdicts()] == ["tie"]
    assert store.counts()["verdicts"] == 3


@pytest.mark.parametrize(
    "change", [{"annotator": "bob"}, {"outcome": "b"}, {"criterion": "x"}, {"response_b": 3}]
)
def test_a_key_of_another_vote_is_refused(store: PreferenceStore, change: dict[str, Any]) -> None:
    answers(store, "one", "two", "three")
    vote = PairVerdict(1, 2, "a", "ann", key="k1")
    other = replace(vote, **change)
    message = (
        "The key 'k1' belongs to another verdict, by ann on responses 1,2: a key is for one "
        "verdict. Give each verdict a new key, such as a UUID."
    )
    assert fails(lambda: store.add_verdicts([vote, other])) == message
    assert store.counts()["verdicts"] == 0
    add(store, vote)
    assert fails(lambda: add(store, other)) == message


def test_responses_with_a_key_are_added_once(store: PreferenceStore) -> None:
    rows = [Response(ASK, text, "m") for text in ("one", "two", "two")]
    assert store.add_responses(rows, ["k1", "k2", "k2"]) == [1, 2, 2]
    assert store.add_responses(rows, ["k3", None, "k1"]) == [3, 4, 1]
    assert store.counts()["responses"] == 4


def test_items_do_not_depend_on_the_order() -> None:
    assert item_name([12, 3]) == item_name((3, 12)) == "3,12"
    many = item_name(range(100))
    assert len(many) == 64
    assert many == item_name(reversed(range(100))) != item_name(range(101))
    assert item_name([1, 23]) != item_name([12, 3])


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (
            PairVerdict(1, 2, "a", "ann", strength=4),
            "The verdict on responses 1 and 2 has the strength 4. "
            "Give 1 (slightly better), 2 (better) or 3 (far better).",
        ),
        (
            PairVerdict(1, 2, "tie", "ann", strength=1),
            "The verdict on responses 1 and 2 has the strength 1 and the outcome tie. "
            "Give a strength only where one of them is better.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", probability=1.5),
            "A verdict on responses 1 and 2 has the probability 1.5. Give one in [0, 1].",
        ),
        (
            PairVerdict(1, 2, "a", ""),
            "A verdict on responses 1, 2 names no annotator. Give a name.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", view="pdf"),  # type: ignore[arg-type]
            "A verdict on responses 1, 2 has the view 'pdf'. Give rendered, raw or nothing.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", seconds=-1),
            "A verdict on responses 1, 2 took -1 seconds. Give a number of 0 or more.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", key="x" * 201),
            "A verdict on responses 1, 2 has a key of 201 characters. Give 1 to 200, such as "
            "a UUID, or no key.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", answers=(JudgeAnswer("A", (1, 2)),)),
            "A verdict on responses 1, 2 has a judge's answers, but no judge. "
            "Give its fingerprint.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", judge=JUDGE, answers=(JudgeAnswer("A", (1, 3)),)),
            "A verdict on responses 1, 2 has a judge's answer on responses 1, 3. "
            "Give answers on the verdict's own responses.",
        ),
        (
            PairVerdict(1, 2, "a", "ann", shown_first="x"),  # type: ignore[arg-type]
            "The verdict on responses 1 and 2 has shown_first='x'. Give a, b or nothing.",
        ),
        (
            RankingVerdict((1, 2), (0, 1), "ann", outcome="skip"),
            "A verdict on responses [1, 2] has the outcome skip and ranks. Give one of them.",
        ),
        (
            RankingVerdict((1, 2), (), "ann", outcome="tie"),  # type: ignore[arg-type]
            "The outcome of a verdict on responses [1, 2] is 'tie'. "
            "Give one of skip, flag, undecided, or none.",
        ),
        (
            RatingVerdict(1, None, "ann"),
            "A rating of response 1 has no score. Give a finite number.",
        ),
    ],
)
def test_fields_that_are_refused(store: PreferenceStore, verdict: Any, message: str) -> None:
    answers(store, "four", "five", "six")
    assert fails(lambda: store.add_verdicts([verdict])) == message
    assert store.counts()["verdicts"] == 0
