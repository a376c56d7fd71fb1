"""What training reads of a store: the filter of a recipe, panels as soft labels, strengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from accord.compare.dataset import load_records
from accord.compare.store.fingerprint import JudgeCheck, JudgeFingerprint
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.data.kinds import Kind
from accord.data.report import ReadReport
from accord.errors import DataError
from accord.records import Comparison, Demonstration, Ranking, Rating, Record, Response
from accord.settings.identity import identity_settings
from accord.settings.preferences import DpoSettings
from accord.settings.verdicts import VerdictFilter

TEXTS = "abcdefgh"  # responses 1 to 8


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.db")


def fill(path: str, *verdicts: Verdict) -> None:
    with PreferenceStore.open(path) as store:
        if not store.responses():
            store.add_responses([Response("p", text, f"m{text}") for text in TEXTS])
        store.add_verdicts(verdicts)


def read(path: str, kind: Kind = "preferences", **keys: Any) -> tuple[list[Record], ReadReport]:
    return load_records(path, kind, verdict_filter=VerdictFilter(**keys) if keys else None)


def pairs(path: str, **keys: Any) -> list[tuple[str, str, float | None]]:
    """Chosen, rejected and soft label of each pair that is read."""
    records, _ = read(path, **keys)
    return [(r.chosen, r.rejected, r.probability) for r in records if isinstance(r, Comparison)]


def panel(outcomes: str, a: int = 1, b: int = 2, **fields: Any) -> list[PairVerdict]:
    """A verdict on the pair from an annotator each, by letters: a, b, t(ie), 2 (both bad)."""
    names = {"a": "a", "b": "b", "t": "tie", "2": "both_bad"}
    return [
        PairVerdict(a, b, names[letter], f"annotator {i}", **fields)  # type: ignore[arg-type]
        for i, letter in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("outcomes", "label"),
    [  # the share of the votes, a tie being half a vote for each
        ("aaa", ("a", "b", None)),
        ("aab", ("a", "b", 2 / 3)),
        ("abb", ("b", "a", 2 / 3)),
        ("aat", ("a", "b", 2.5 / 3)),
        ("ab22b", ("b", "a", 3 / 5)),
    ],
)
def test_a_panel_is_a_soft_label(path: str, outcomes: str, label: tuple[Any, ...]) -> None:
    fill(path, *panel(outcomes))
    ((chosen, rejected, probability),) = pairs(path)
    assert (chosen, rejected) == label[:2]
    assert probability == (None if label[2] is None else pytest.approx(label[2]))


def test_sides_and_criteria_of_a_panel(path: str) -> None:
    """A vote counts for the response whatever side it was on; each criterion is a panel."""
    votes = panel("aab")
    swapped = PairVerdict(2, 1, "b", "dan")  # response 1 again
    honest = PairVerdict(1, 2, "b", "dan", criterion="honest")
    fill(path, *votes, swapped, honest)
    assert pairs(path) == [("a", "b", 0.75), ("b", "a", None)]
    _, report = read(path)
    assert report.summary() == (
        "5 rows, 5 used, 0 dropped. 1 pairs on which votes differ have a soft label. "
        "1 pairs of several votes are read as one row each. "
        "Verdicts on several criteria are read: overall (4), honest (1)."
    )


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ("ab", "the votes are split evenly"),
        ("abt", "the votes are split evenly"),
        ("tt", "tie"),
        ("22", "tie of two bad responses"),
    ],
)
def test_a_panel_without_a_preference_is_dropped(path: str, outcomes: str, reason: str) -> None:
    fill(path, *panel(outcomes), *panel("a", 3, 4))
    _, report = read(path)
    assert {why: len(rows) for why, rows in report.dropped.items()} == {reason: len(outcomes)}
    assert (report.rows, report.used) == (len(outcomes) + 1, 1)


def test_other_labels_of_a_panel(path: str) -> None:
    fill(path, *panel("aab"), *panel("ab", 3, 4), *panel("a2", 5, 6))
    assert pairs(path, labels="majority") == [("a", "b", None)]
    assert pairs(path, labels="separate") == [
        ("a", "b", None),
        ("a", "b", None),
        ("b", "a", None),
        ("c", "d", None),
        ("d", "c", None),
        ("e", "f", None),
    ]
    assert pairs(path, labels="soft") == [("a", "b", pytest.approx(2 / 3)), ("e", "f", 0.75)]


def test_the_lead_in_votes_as_the_margin(path: str) -> None:
    # 3/4 less 1/4; all; a tie is half a vote for each: 2.5/3 less 0.5/3.
    fill(path, *panel("aaab", strength=3), *panel("bb", 3, 4), *panel("aat", 5, 6))
    fill(path, *panel("tta", 7, 8))  # the most frequent outcome is a tie
    records, report = read(path, labels="margin")
    margins = [(r.chosen, r.margin, r.probability) for r in records if isinstance(r, Comparison)]
    assert margins == [
        ("a", 0.5, None),
        ("d", 1.0, None),
        ("e", pytest.approx(2 / 3), None),
    ]
    assert "the lead in votes of 3 preferences is read as their margin" in report.notes
    assert len(report.dropped["tie"]) == 3


def test_probabilities_of_judges_as_labels(path: str) -> None:
    fill(
        path,
        PairVerdict(1, 2, "a", "m1", probability=0.7),
        PairVerdict(2, 1, "b", "m2", probability=0.3),  # 0.7 for response 1
        PairVerdict(3, 4, "b", "m1", probability=0.2),
        PairVerdict(3, 4, "a", "ann"),
    )
    assert pairs(path, labels="probability") == [
        ("a", "b", pytest.approx(0.7)),
        ("c", "d", pytest.approx((0.2 + 1) / 2)),
    ]
    assert pairs(path) == [("a", "b", None)]


def test_strength_is_the_margin(path: str) -> None:
    fill(
        path,
        PairVerdict(1, 2, "a", "ann", strength=3),
        PairVerdict(3, 4, "b", "ann", strength=2),
        PairVerdict(3, 4, "b", "bob", strength=1),
        PairVerdict(5, 6, "b", "ann"),
    )
    records, report = read(path)
    assert [r.margin for r in records if isinstance(r, Comparison)] == [3, 1.5, None]
    assert "the strength of 2 preferences is read as their margin" in report.notes
    records, report = read(path, margins=False)
    assert [r.margin for r in records if isinstance(r, Comparison)] == [None] * 3


def test_kto_reads_both_bad_as_undesirable(path: str) -> None:
    fill(path, *panel("2"), *panel("22a", 3, 4), *panel("2a", 5, 6), *panel("tt", 7, 8))
    records, report = read(path, "kto")
    bad = [(r.response, r.score) for r in records if isinstance(r, Rating)]
    # A score below any threshold, so that `desirable_from` can't make them desirable.
    assert bad == [(text, -math.inf) for text in "abcd"]
    assert [r.chosen for r in records if isinstance(r, Comparison)] == ["e"]
    assert (report.rows, report.used, list(report.dropped)) == (8, 6, ["tie"])
    assert [r for r in read(path)[0] if isinstance(r, Rating)] == []


def test_rankings_of_several_annotators(path: str) -> None:
    fill(
        path,
        RankingVerdict((1, 2, 3), (0, 1, 2), "ann"),
        RankingVerdict((3, 2, 1), (1, 0, 2), "bob"),
        RankingVerdict((4, 5), (), "ann", outcome="skip"),
        RatingVerdict(1, None, "ann", outcome="flag"),
    )
    records, report = read(path)
    # Wins less losses of a, b and c: 2 − 2, 0 + 2 and −2 + 0.
    votes = ((0, 1, 2), (2, 0, 1))
    assert rankings(records) == [(("a", "b", "c"), (1, 0, 2), votes)]
    assert list(report.dropped) == ["skipped"]
    assert (report.rows, report.used, report.records) == (3, 2, 1)
    assert (
        "1 rankings that several annotators gave of the same responses are read as one row each, "
        "whose loss is the mean of theirs"
    ) in report.notes
    assert rankings(read(path, labels="majority")[0]) == [(("a", "b", "c"), (1, 0, 2), ())]
    assert rankings(read(path, labels="separate")[0]) == [
        (("a", "b", "c"), (0, 1, 2), ()),
        (("c", "b", "a"), (1, 0, 2), ()),
    ]
    # Of the pairs ab, ac, bc the two agree on the last alone: (½ + ½ + 1) / 3.
    assert len(read(path, agreement=0.66)[0]) == 1
    with pytest.raises(DataError, match=r"2 agreement below 0\.67"):
        read(path, agreement=0.67)


def rankings(records: list[Record]) -> list[tuple[Any, ...]]:
    return [(r.responses, r.ranks, r.votes) for r in records if isinstance(r, Ranking)]


def test_ties_in_rankings_of_several_annotators(path: str) -> None:
    fill(
        path,
        RankingVerdict((1, 2, 3), (0, 0, 0), "ann"),  # says nothing
        RankingVerdict((1, 2, 3), (0, 1, 1), "bob"),
        RankingVerdict((3, 2, 1), (1, 1, 0), "cleo"),  # the same as bob's
        RankingVerdict((4, 5, 6), (0, 1, 2), "ann"),
        RankingVerdict((4, 5, 6), (2, 1, 0), "bob"),  # the opposite
        RankingVerdict((7, 8), (0, 0), "ann"),
        RankingVerdict((4, 5), (0, 1), "ann"),  # other responses: another item
    )
    records, report = read(path)
    assert rankings(records) == [
        (("a", "b", "c"), (0, 1, 1), ()),
        (("d", "e", "f"), (0, 0, 0), ((0, 1, 2), (2, 1, 0))),
        (("d", "e"), (0, 1), ()),
    ]
    tied = "all responses of the ranking tie"
    assert {why: len(rows) for why, rows in report.dropped.items()} == {tied: 2}
    assert (report.rows, report.used) == (7, 5)
    records, report = read(path, labels="majority")
    assert [ranks for _, ranks, _ in rankings(records)] == [(0, 1, 1), (0, 1)]
    assert len(report.dropped["the votes are split evenly"]) == 2
    # The best of all, for demonstrations; where all tie, the first.
    best = [r.response for r in read(path, "sft")[0] if isinstance(r, Demonstration)]
    assert best == ["a", "d", "g", "d"]


def test_the_filter_reads_what_it_names(path: str) -> None:
    fill(
        path,
        PairVerdict(1, 2, "a", "ann", source="person"),
        PairVerdict(3, 4, "a", "bob", source="person", round=1, criterion="honest"),
        PairVerdict(5, 6, "a", "gpt", source="judge", round=2),
        PairVerdict(7, 8, "a", "ann"),
    )
    chosen = {
        "source": ("person", "ac"),
        "round": ([1, 2], "ce"),
        "annotator": (["ann", "gpt"], "aeg"),
        "criterion": ("overall", "aeg"),
    }
    for key, (value, texts) in chosen.items():
        assert [c for c, _, _ in pairs(path, **{key: value})] == list(texts), key
    _, report = read(path, source="person", annotator="bob")
    assert report.summary() == (
        "1 rows, 1 used, 0 dropped. The filter reads 1 of 4 verdicts: "
        "2 of another source, 1 of another annotator."
    )


def test_votes_and_agreement(path: str) -> None:
    fill(path, *panel("aab"), *panel("aa", 3, 4), *panel("a", 5, 6), *panel("tta", 7, 8))
    assert [c for c, _, _ in pairs(path, min_votes=2)] == ["a", "c", "g"]
    assert [c for c, _, _ in pairs(path, agreement=2 / 3)] == ["a", "c", "e", "g"]
    assert [c for c, _, _ in pairs(path, agreement=0.67, labels="separate")] == ["c", "c", "e"]
    _, report = read(path, min_votes=2, agreement=0.7)
    assert {why: len(rows) for why, rows in report.dropped.items()} == {
        "agreement below 0.7": 6,
        "fewer than 2 votes": 1,
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"source": "persons"},
            "`filter.source` names 'persons', which no verdict of {path} has. "
            "Did you mean 'person'? It has 'person'.",
        ),
        ({"round": 7}, "`filter.round` names 7, which no verdict of {path} has. It has 0."),
        (
            {"annotator": ["ann", "zoe"]},
            "`filter.annotator` names 'zoe', which no verdict of {path} has. It has 'ann', 'bob'.",
        ),
        (
            {"criterion": "x"},
            "`filter.criterion` names 'x', which no verdict of {path} has. It has 'overall'.",
        ),
        (
            {"unchecked_judges": "gpt"},
            "`filter.unchecked_judges` names 'gpt', which no verdict of {path} has. It has none.",
        ),
        (
            {"source": "person", "annotator": "bob"},
            "{path} holds nothing that can be used as preferences: it has 1 prompts, 8 responses, "
            "2 verdicts, 2 pairs, 2 comparisons. Left out are 1 of another source, 1 of another "
            "annotator. Loosen the `filter`, or give another store.",
        ),
    ],
)
def test_filters_that_are_refused(path: str, keys: dict[str, Any], message: str) -> None:
    fill(path, PairVerdict(1, 2, "a", "ann", source="person"), PairVerdict(3, 4, "a", "bob"))
    with pytest.raises(DataError) as caught:
        read(path, **keys)
    assert str(caught.value) == message.format(path=path)


def test_a_filter_needs_a_store_with_verdicts(path: str, tmp_path: Path) -> None:
    fill(path, PairVerdict(1, 2, "a", "ann"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl is none. Leave it out, or import the rows"):
        load_records(rows, "preferences", verdict_filter=VerdictFilter())
    with pytest.raises(DataError, match="only the prompts are read"):
        load_records(path, "prompts", verdict_filter=VerdictFilter())
    # Held-out rows are filtered where they can be.
    optional = VerdictFilter(annotator=["ann"])
    assert load_records(rows, "preferences", columns_required=False, verdict_filter=optional)[0]


JUDGE = JudgeFingerprint("gpt-9", "http://localhost/v1", "p", "r")


def test_a_judge_trains_once_it_has_passed(path: str) -> None:
    votes = [
        PairVerdict(1, 2, "a", "judge", judge=JUDGE),
        PairVerdict(3, 4, "a", "judge", judge=JUDGE, criterion="honest"),
        PairVerdict(5, 6, "a", "ann"),
    ]
    fill(path, *votes)
    _, report = read(path)
    reason = "by a judge that has not passed `accord judge check`"
    assert {why: len(rows) for why, rows in report.dropped.items()} == {reason: 2}
    for name in ("judge", "gpt-9"):  # by annotator or by model
        assert [c for c, _, _ in pairs(path, unchecked_judges=name)] == ["a", "c", "e"]
    with PreferenceStore.open(path) as store:
        store.add_judge_check(JudgeCheck(JUDGE, True, {}))
    assert [c for c, _, _ in pairs(path)] == ["a", "e"]  # for this criterion alone
    with PreferenceStore.open(path) as store:
        store.add_judge_check(JudgeCheck(JUDGE, False, {}))
    assert [c for c, _, _ in pairs(path)] == ["e"]  # the latest check holds
    fill(path, PairVerdict(5, 6, "skip", "ann"))
    with pytest.raises(DataError, match="name it in `unchecked_judges`"):
        read(path)


def test_the_latest_verdict_of_an_annotator_trains(path: str) -> None:
    fill(path, PairVerdict(1, 2, "a", "ann"), PairVerdict(2, 1, "a", "ann"))
    assert pairs(path) == [("b", "a", None)]


def test_a_filter_in_the_settings_of_a_stage() -> None:
    required = {"model": "m", "dataset": "store.db", "output_dir": "out"}
    settings = DpoSettings(**required, filter={"source": "person", "round": 0})  # type: ignore[arg-type]
    assert settings.filter == VerdictFilter(source=["person"], round=[0])
    plain = identity_settings(DpoSettings(**required, mixture=[{"dataset": "b.db"}]))  # type: ignore[arg-type, list-item]
    assert "filter" not in plain
    assert "filter" not in plain["mixture"][0]
    assert identity_settings(settings)["filter"]["source"] == ["person"]
    with pytest.raises(ValidationError, match="agreement"):
        VerdictFilter(agreement=66)
