"""The rules of `accord advise` on plain facts: what is advised, how surely, and what else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from accord.measure.statistics import Interval
from accord.pipeline.advise.advice import advise
from accord.pipeline.advise.rules import CHOICES, FALLBACK, FEW, RULES
from accord.pipeline.advise.situation import Situation

ALIKE, COINS = Interval(0.8, 0.7, 0.9), Interval(0.51, 0.46, 0.56)
PAIRS: dict[str, Any] = {"pairs": 500, "pairs_from": "model", "repeats": ALIKE}
RULE: dict[str, Any] = {"reward": "rule", "probe": "pass", "answers": 4, "tied": 0.0}
WIDE, NARROW = Interval(1.0, 0.9, 1.1), Interval(0.05, 0.0, 0.1)


@pytest.mark.parametrize(
    ("facts", "choice"),
    [
        ({}, "annotate"),
        ({"goal": "safe"}, "revise"),
        ({"goal": "safe", "trainable": False}, "stay"),
        ({"demonstrations": 1000}, "stay"),
        ({"demonstrations": 1000, "supervised": False}, "sft"),
        ({**PAIRS, "demonstrations": 1000, "supervised": False}, "sft"),
        ({**PAIRS, "supervised": False}, "orpo"),
        ({**PAIRS}, "dpo"),
        ({**PAIRS, "pairs": FEW}, "dpo"),
        ({**PAIRS, "pairs": FEW - 1}, "annotate"),
        ({**PAIRS, "leaks": 1}, "stay"),
        ({**PAIRS, "trainable": False}, "stay"),
        ({**PAIRS, "candidates": 8}, "reward+best-of-n"),
        ({**PAIRS, "candidates": 8, "pairs": 299}, "dpo"),
        ({**PAIRS, "candidates": 3}, "dpo"),
        ({"labels": 2 * FEW}, "kto"),
        ({"labels": 2 * FEW - 2}, "annotate"),
        ({"labels": 2 * FEW - 2, "demonstrations": 1000}, "stay"),
        ({"pairs": FEW - 10, "labels": FEW}, "annotate"),  # too few of each
        # Labels: pairs judged twice, then a model of words.
        ({**PAIRS, "repeats": COINS}, "annotate"),
        ({**PAIRS, "repeats": COINS, "words": Interval(0.56, 0.52, 0.6)}, "dpo"),
        ({**PAIRS, "repeats": ALIKE, "words": COINS}, "dpo"),
        ({**PAIRS, "repeats": None, "words": COINS}, "annotate"),
        ({**PAIRS, "repeats": Interval(0.75, 0.4, 0.95)}, "dpo"),
        ({**PAIRS, "repeats": None, "words": None}, "dpo"),
        ({"labels": 500, "repeats": COINS}, "annotate"),
        # A reward.
        ({**RULE, "gain": WIDE}, "grpo"),
        ({**RULE, "gain": WIDE, "candidates": 4}, "best-of-n"),
        ({**RULE, "gain": WIDE, "candidates": 4, "trainable": False}, "best-of-n"),
        ({**RULE, "gain": WIDE, "trainable": False}, "stay"),
        ({**RULE, "gain": NARROW}, "stay"),
        # Little gain is sure only where the whole interval is below.
        ({**RULE, "gain": Interval(0.1, 0.0, 0.3)}, "grpo"),
        ({**RULE, "gain": WIDE, "tied": 0.95}, "stay"),
        ({**RULE, "gain": WIDE, "online_fits": False}, "stay"),
        ({**RULE, "gain": WIDE, "probe": None}, "grpo"),
        ({**RULE, "reward": "model", "probe": None}, "stay"),
        ({**RULE, "reward": "model"}, "grpo"),
        ({**RULE, "probe": "fail"}, "stay"),
        ({**RULE, "probe": "fail", "accuracy": "fail", "candidates": 8}, "stay"),
        ({**RULE, "probe": "fail", "accuracy": "pass", "candidates": 8}, "best-of-n"),
        ({**RULE, "probe": "fail", "accuracy": "pass", "candidates": 64}, "stay"),
        ({**RULE, **PAIRS, "probe": "fail"}, "dpo"),
        ({**RULE, **PAIRS, "gain": WIDE}, "grpo"),
    ],
    ids=str,
)
def test_the_advice_for_a_situation(facts: dict[str, Any], choice: str) -> None:
    assert advise(Situation(**facts)).choice == choice


def test_an_unknown_fact_that_matters_lowers_the_confidence() -> None:
    known = Situation(**{**RULE, "gain": WIDE})
    assert advise(known).confidence == "high"
    unknown = advise(replace(known, probe=None))
    assert unknown.confidence == "medium"
    assert "accord probe" in unknown.doubts[0]
    assert any("accord sample" in doubt for doubt in advise(replace(known, gain=None)).doubts)

    pairs = Situation(**PAIRS)
    assert (advise(pairs).confidence, advise(pairs).doubts) == ("medium", ())
    for change in ({"repeats": None}, {"pairs_from": None}, {"pairs": 199}):
        assert advise(replace(pairs, **change)).confidence == "low"


def test_few_pairs_judged_twice_make_no_sure_verdict_on_labels() -> None:
    coins = Situation(**{**PAIRS, "repeats": COINS})
    assert advise(coins).confidence == "high"
    wide = advise(replace(coins, repeats=Interval(0.5, 0.2, 0.8)))
    assert (wide.choice, wide.confidence) == ("annotate", "medium")


def test_other_methods_that_apply_are_named_and_never_those_that_do_nothing() -> None:
    advice = advise(Situation(**{**PAIRS, "demonstrations": 100, "candidates": 8}))
    assert advice.choice == "reward+best-of-n"
    assert [rule.advice for rule in advice.others] == ["dpo", "reward+grpo"]


@pytest.mark.parametrize(
    "facts",
    [
        {**PAIRS, "leaks": 1},
        {**PAIRS, "words": COINS, "repeats": None},
        {**PAIRS, "trainable": False},
        {**PAIRS, **RULE, "trainable": False, "candidates": 8},
        {**RULE, "gain": NARROW, "candidates": 8},
    ],
    ids=str,
)
def test_what_speaks_against_training_speaks_against_other_methods_too(
    facts: dict[str, Any],
) -> None:
    assert advise(Situation(**facts)).others == ()


def test_where_no_rule_applies_the_reason_holds() -> None:
    rewards: list[dict[str, Any]] = [
        {"reward": reward, "probe": probe}
        for reward in ("rule", "model", "judge", None)
        for probe in ("pass", "warn", "fail", "undecided", None)
    ]
    other = {
        "supervised": (True, False),
        "demonstrations": (0, 50),
        "pairs": (0, FEW - 1, FEW),
        "labels": (0, 2 * FEW - 1, 2 * FEW),
        "candidates": (1, 4),
        "trainable": (True, False),
        "online_fits": (True, False),
        "goal": ("helpful", "safe"),
    }
    for reward in rewards:
        for values in product(*other.values()):
            facts = Situation(**reward, **dict(zip(other, values, strict=True)))
            if advise(facts).rule is FALLBACK:
                untrusted = facts.reward != "rule" and facts.probe not in ("pass", "warn")
                unlearned = not facts.supervised and not facts.demonstrations and not facts.pairs
                assert untrusted or unlearned or not facts.online_fits, facts


def test_a_reward_model_of_another_authors_answers_is_no_possibility() -> None:
    here, elsewhere = ({**PAIRS, "pairs_from": author} for author in ("model", "elsewhere"))
    assert [rule.advice for rule in advise(Situation(**here)).others] == ["reward+grpo"]
    assert advise(Situation(**elsewhere)).others == ()


def test_the_text_has_the_reason_what_would_change_it_and_what_was_seen() -> None:
    advice = advise(Situation(**{**PAIRS, "notes": ("pairs.jsonl: 500 comparisons",)}))
    text = advice.text()
    for part in (
        "Advice: DPO on the pairs (dpo; confidence: medium).",
        f"Why: {advice.rule.reason}",
        f"What would change it: {advice.rule.change}",
        "pairs.jsonl: 500 comparisons",
        "pairs judged twice agree: 80% (70% to 90%)",
    ):
        assert part in text
    content = advice.to_json()
    assert content["situation"]["repeats"] == {"mean": 0.8, "low": 0.7, "high": 0.9}
    assert content["rule"]["would_change"] == advice.rule.change


def test_every_rule_can_win_and_says_all_that_it_must() -> None:
    assert {rule.advice for rule in RULES} == set(CHOICES)
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.reason.endswith(".")
        assert rule.change.endswith(".")
        assert rule.source


def test_every_rule_is_explained_in_the_docs() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs/advise.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule.name} |" in page, rule.name
