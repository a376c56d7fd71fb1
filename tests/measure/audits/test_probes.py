"""Changes of an answer, and the audits of what a reward makes of them, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.audits.audit import Audit
from accord.measure.audits.probes import (
    AUDIT_NAMES,
    CHOSEN,
    EMPTY,
    OTHER,
    PROBES,
    REFUSAL,
    REJECTED,
    ProbeData,
    ProbePair,
    Version,
    comparisons_of,
    versions_of,
)
from accord.measure.audits.probes_answers import (
    answer_audits,
    harmful_pairs,
    harmless_pairs,
    order_audit,
    style_audit,
    ties_audit,
)
from accord.measure.audits.probes_changes import APPLY, CHANGES
from accord.measure.audits.probes_flips import change_audits, flips_audit, gain_audit
from accord.measure.audits.probes_texts import ENGLISH, texts_from
from accord.measure.statistics import clustered_interval, proportion_interval

NAN = float("nan")
ANSWER = "Take the bus. It leaves at noon."


def data_of(scores: dict[Version, list[float]], **of_pair: object) -> ProbeData:
    count = len(scores[CHOSEN])
    pairs = [
        ProbePair(f"prompt {i}", {v: f"{v} {i}" for v in scores}, i, **of_pair)  # type: ignore[arg-type]
        for i in range(count)
    ]
    return ProbeData(pairs, {v: np.array(s, dtype=float) for v, s in scores.items()})


def by_name(audits: object) -> dict[str, Audit]:
    return {audit.name: audit for audit in audits}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", APPLY)
def test_a_change_retains_every_word_of_the_answer(name: str) -> None:
    for number in range(7):
        changed = APPLY[name](ANSWER, ENGLISH, number)
        assert changed is not None
        assert changed != ANSWER
        words = [w.strip("*-# ") for w in changed.split()]
        assert all(word.strip("*") in words for word in ANSWER.split())
    assert APPLY[name]("  \n", ENGLISH, 0) is None


def test_changes_by_their_text() -> None:
    texts = replace(
        ENGLISH,
        filler=("Six words that say nothing much.", "And six words more of it."),
        flattery=("Nice!",),
        confidence=("Sure:", "Yes.", "Surely:", "Indeed."),
        headings=("Title",),
    )
    # Twenty words at least are asked for, and each sentence of filler is used once.
    assert APPLY["lengthened"]("A b.", texts, 1) == (
        "A b. And six words more of it. Six words that say nothing much."
    )
    assert APPLY["flattered"]("A b.", texts, 3) == "Nice! A b."
    assert APPLY["confident"]("A b.", texts, 1) == "Surely: A b. Indeed."
    assert APPLY["confident"]("A b.", texts, 2) == "Sure: A b. Yes."
    assert APPLY["repeated"]("A b.", texts, 0) == "A b.\n\nA b."
    assert APPLY["formatted"](ANSWER, texts, 0) == (
        "## Title\n\n- **Take the bus.**\n- It leaves at noon."
    )
    assert APPLY["blanks"](ANSWER, texts, 0) == "Take the bus.  It leaves at noon.\n"
    for markdown in ("- a\n- b", "```\ncode\n```", "# Head", "1. one", "so **bold**"):
        assert APPLY["formatted"](markdown, texts, 0) is None


def test_filler_is_about_as_long_as_the_answer() -> None:
    for words in (1, 40, 100, 1000):
        longer = APPLY["lengthened"]("word " * words, ENGLISH, 5)
        assert longer is not None
        added = len(longer.split()) - words
        # One sentence (of up to 20 words) more than the target of 20 to 150 at most.
        target = min(max(words, 20), 150)
        assert target <= added <= target + 20


def test_phrases_of_a_file_replace_those_in_english() -> None:
    texts = texts_from({"flattery": ["Tolle Frage!"]}, "german.yaml")
    assert texts.flattery == ("Tolle Frage!",)
    assert texts.filler == ENGLISH.filler
    for values, message in (
        ({"flatter": ["x"]}, "`flatter` is no list of phrases"),
        ({"filler": "x"}, "must be a list"),
        ({"filler": []}, "must be a list"),
        ({"filler": [1]}, "no text"),
        ({"hedges": ["a", "b", "c"]}, "Give pairs"),
        ("x", "must map"),
    ):
        with pytest.raises(DataError, match=message):
            texts_from(values, "german.yaml")


def test_flips_count_pairs_that_were_ranked_right() -> None:
    changed = ("rejected", "flattered")
    data = data_of(
        {
            #          right, right, right, right, wrong, tie, right but not applicable
            CHOSEN: [2.0, 2.0, 2.0, 2.0, 0.0, 1.0, 2.0],
            REJECTED: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
            changed: [3.0, 2.0, 1.5, 0.0, 9.0, 9.0, NAN],
        }
    )
    audit = flips_audit(data, "flattered")
    # One of four overtakes and one draws level, a half.
    assert audit.count == 4
    assert audit.value == proportion_interval(1.5, 4)
    assert audit.details == {"overtook": 1, "drew_level": 1, "not_applicable": 1}
    assert "1 of 4 pairs" in audit.finding
    assert "level in 1" in audit.finding
    assert [(s.response, s.other) for s in audit.samples] == [
        (f"{changed} 0", f"{CHOSEN} 0"),
        (f"{changed} 1", f"{CHOSEN} 1"),
    ]
    assert audit.samples[0].scores == {"response": 3.0, "other": 2.0, "response unchanged": 1.0}
    assert audit.verdict == "undecided"


def test_pairs_of_one_prompt_are_one_unit() -> None:
    pairs = [ProbePair("p", {}, i // 10) for i in range(40)]
    scores = {
        CHOSEN: np.full(40, 2.0),
        REJECTED: np.full(40, 1.0),
        ("rejected", "hedged"): np.repeat([3.0, 0.0, 0.0, 0.0], 10),
    }
    value = flips_audit(ProbeData(pairs, scores), "hedged").value
    # Four prompts, each with one outcome: no narrower than 1 of 4, far from 10 of 40.
    assert value.mean == 0.25
    assert value.high is not None
    assert value.high > 0.75


def test_a_gain_is_in_units_of_the_margins() -> None:
    data = data_of(
        {
            CHOSEN: [3.0, 0.0, 2.0],
            REJECTED: [0.0, 4.0, 2.0],  # margins 3, −4, 0: root mean square 5/√3
            ("chosen", "agreed"): [4.0, 0.0, 3.0],
            ("rejected", "agreed"): [1.0, NAN, 5.0],
        }
    )
    audit = gain_audit(data, "agreed")
    unit = 5 / 3**0.5
    shifts = [[1 / unit, 1 / unit], [0.0], [1 / unit, 3 / unit]]  # by prompt
    assert audit.count == 5
    assert audit.value.mean == pytest.approx(clustered_interval(shifts).mean)
    assert audit.value.high == pytest.approx(clustered_interval(shifts).high)
    assert audit.details["raised"] == 0.8
    assert audit.details["unmoved"] == 0.2
    assert audit.details["median_margin"] == 3.0
    assert audit.samples[0].note == "+3 by the change alone"


def test_only_a_gain_is_a_defect() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
    for shift, verdict in ((2.0, "fail"), (-2.0, "pass"), (0.0, "pass")):
        data = data_of(
            {
                CHOSEN: list(chosen),
                REJECTED: list(rejected),
                ("chosen", "hedged"): list(chosen + shift),
                ("rejected", "hedged"): list(rejected + shift),
            }
        )
        audits = by_name(change_audits(data, "hedged"))
        assert {a.verdict for a in audits.values()} == {verdict}, shift
        assert ("gains" in audits["hedged_gain"].finding) == (shift > 0)


def test_a_constant_reward_has_the_right_reason() -> None:
    versions = versions_of(PROBES)
    data = data_of({version: [1.0] * 40 for version in versions}, refuses=(False, False))
    assert "constant: all 80 answers" in ties_audit(data).finding
    assert ties_audit(data).verdict == "fail"
    audits = by_name(answer_audits(data, PROBES))
    # Ties count half, so each of these is 50%.
    assert audits["wrong_prompt"].value.mean == 0.5
    assert {audits[n].verdict for n in ("wrong_prompt", "emptied", "refused_harmless")} == {"fail"}
    assert "refused_harmful" not in audits
    assert audits["style"].verdict == "pass"
    for change in CHANGES:
        assert {a.verdict for a in change_audits(data, change)} == {"undecided"}
    assert "none can be turned" in flips_audit(data, "hedged").finding


def test_a_judge_has_verdicts_in_place_of_scores() -> None:
    pairs = [ProbePair("p", {}, i) for i in range(4)]
    changed, itself = ("rejected", "flattered"), ("chosen", "flattered")
    data = ProbeData(
        pairs,
        verdicts={
            (CHOSEN, REJECTED): np.array([1.0, 1.0, 0.5, NAN]),
            (changed, CHOSEN): np.array([1.0, 0.5, 1.0, 1.0]),
            (itself, CHOSEN): np.array([1.0, 1.0, 0.5, 0.0]),
        },
    )
    assert list(data.beats(CHOSEN, changed)[:2]) == [0.0, 0.5]
    audits = by_name(change_audits(data, "flattered"))
    assert audits["flattered_flips"].value == proportion_interval(1.5, 2)
    assert audits["flattered_gain"].value == proportion_interval(2.5, 4)
    assert audits["flattered_gain"].unit == "share"


def test_where_a_refusal_is_right() -> None:
    def pair(is_harmful: bool | None, *refuses: bool | None) -> ProbePair:
        return ProbePair("p", {}, 0, is_harmful, refuses)  # type: ignore[arg-type]

    data = ProbeData(
        [
            pair(False, False, True),  # harmless
            pair(None, False, False),  # people preferred an answer
            pair(None, True, False),  # people preferred the refusal
            pair(True, False, False),  # harmful, and both comply
            pair(True, True, True),  # harmful, and nothing that complies
            pair(False, True, False),  # harmless, though people preferred a refusal
            pair(None, None, None),  # the grader is not sure
        ]
    )
    assert list(harmless_pairs(data)) == [True, True, False, False, False, False, False]
    assert list(harmful_pairs(data)) == [False, False, True, True, False, False, False]


def test_answers_that_cannot_be_right_must_lose() -> None:
    scores = {
        CHOSEN: [1.0] * 50,
        REJECTED: [0.0] * 50,
        OTHER: [0.5] * 50,
        EMPTY: [-1.0] * 50,
        REFUSAL: [0.5] * 50,
    }
    probes = ("wrong_prompt", "emptied", "refused")
    audits = by_name(answer_audits(data_of(scores, refuses=(False, False)), probes))
    assert {a.verdict for a in audits.values()} == {"pass"}
    for version, name in (
        (OTHER, "wrong_prompt"),
        (EMPTY, "emptied"),
        (REFUSAL, "refused_harmless"),
    ):
        worse = data_of({**scores, version: [2.0] * 50}, refuses=(False, False))
        verdicts = {n: a.verdict for n, a in by_name(answer_audits(worse, probes)).items()}
        assert verdicts == {n: "fail" if n == name else "pass" for n in verdicts}
    # To a harmful prompt the refusal must win over the answer that complies.
    harmful = data_of({**scores, REFUSAL: [-1.0] * 50}, refuses=(True, False), is_harmful=True)
    audits = by_name(answer_audits(harmful, probes))
    assert audits["refused_harmful"].verdict == "fail"
    assert audits["refused_harmful"].samples[0].response == f"{REJECTED} 0"
    # A refusal to it is no answer that an empty one, or another's, must lose to.
    assert audits["emptied"].count == audits["wrong_prompt"].count == 0
    for refuses, is_harmful, count in (
        ((True, False), None, 0),
        ((False, False), True, 0),
        ((False, False), False, 50),
        ((None, None), None, 50),
    ):
        data = data_of(scores, refuses=refuses, is_harmful=is_harmful)
        assert by_name(answer_audits(data, ("emptied",)))["emptied"].count == count


def test_the_style_matrix_by_hand() -> None:
    # Styles add 0, 2 and 4 to a score; chosen leads by 1 without them.
    bonus = {"": 0.0, "lengthened": 2.0, "markdown": 4.0}
    scores = {("chosen", style): [1.0 + extra] * 30 for style, extra in bonus.items()}
    scores |= {("rejected", style): [extra] * 30 for style, extra in bonus.items()}
    audit = style_audit(data_of(scores))
    assert audit.details["accuracy"] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert (audit.details["easy"], audit.details["normal"], audit.details["hard"]) == (1, 1, 0)
    assert audit.value.mean == 1.0
    assert audit.verdict == "fail"
    # The mean of the three cells of each triangle, and of the diagonal: one cell of each turned.
    mixed = {**scores, ("rejected", "markdown"): [0.5] * 30}
    details = style_audit(data_of(mixed)).details
    assert details["accuracy"] == [[1, 0, 1], [1, 1, 1], [1, 1, 1]]
    assert (details["easy"], details["normal"]) == (1, 1)
    assert details["hard"] == pytest.approx(2 / 3)
    # The better answer gains nothing by style, the worse one loses by it: only easy cells fall.
    easy = {**scores, ("chosen", "markdown"): [-1.0] * 30}
    details = style_audit(data_of(easy)).details
    assert details["easy"] == pytest.approx(1 / 3)
    assert details["normal"] == pytest.approx(2 / 3)
    # A pair without all three styles is in no cell.
    partly = {**scores, ("chosen", "markdown"): [NAN] * 29 + [5.0]}
    assert style_audit(data_of(partly)).count == 1
    worse = data_of({**partly, CHOSEN: [-9.0] * 29 + [1.0]})
    assert style_audit(worse).details["accuracy"][0][0] == 1
    # A reward that punishes style is right where the worse answer has it: no defect.
    punished = {v: [2 - s[0] if v[1] else s[0]] * 30 for v, s in scores.items()}
    assert style_audit(data_of(punished)).verdict != "fail"
    assert style_audit(data_of({**scores, CHOSEN: [NAN] * 30})).verdict == "undecided"


def test_the_order_of_a_pair() -> None:
    data = ProbeData([ProbePair("p", {}, i) for i in range(5)])
    # A judge that says the first: right where chosen is first, wrong where it is second.
    audit = order_audit(data, [1, 1, 1, 1, NAN], [0, 0, 0, 0, 1])
    assert audit.value == proportion_interval(4, 4)
    assert audit.details["first_shown_wins"]["mean"] == 1.0
    assert order_audit(data, [1, 0, 1, 0.5, 1], [1, 0, 1, 0.5, 1]).value.mean == 0
    assert order_audit(data, [1, 0, 1, 0.5, 1], [1, 0, 1, 0.5, 1]).details["first_shown_wins"][
        "mean"
    ] == pytest.approx(0.5)


def test_each_comparison_is_asked_once_and_its_versions_are_scored() -> None:
    asked = comparisons_of(PROBES)
    assert asked[0] == (CHOSEN, REJECTED)
    assert len({frozenset(pair) for pair in asked}) == len(asked)
    assert comparisons_of(["hedged"]) == [
        (CHOSEN, REJECTED),
        (("rejected", "hedged"), CHOSEN),
        (("chosen", "hedged"), CHOSEN),
    ]
    assert set(versions_of(PROBES)) >= {version for pair in asked for version in pair}
    made = [a for change in CHANGES for a in change_audits(_all_known(), change)]
    made += [*answer_audits(_all_known(), PROBES), ties_audit(_all_known())]
    assert {audit.name for audit in made} <= set(AUDIT_NAMES)


def _all_known() -> ProbeData:
    return data_of({version: [1.0, 2.0] for version in versions_of(PROBES)})
