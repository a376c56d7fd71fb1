"""The proof of a judge: what passes, what fails, why, and how many verdicts are lacking."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from accord.measure.agreement.judged import NONE, JudgedPairs, code_people
from accord.measure.agreement.preferences import measure_preferences, repeatability
from accord.measure.agreement.proof import WORTHWHILE, prove_judge
from tests.measure.judged_pairs import (
    Pair,
    agrees_with_people,
    judge_pairs,
    make_pairs,
    prefers_first,
    prefers_longer,
)


def test_a_judge_that_prefers_the_first_labels_nothing() -> None:
    proof = prove_judge(judge_pairs(make_pairs(30, 30), prefers_first))
    assert (proof.result, proof.rows, proof.decided) == ("fail", 60, 0)
    assert proof.kappa.value is None
    position = proof.preferences["position"]
    assert position.finding == "biased"
    assert (position.judge.mean, position.people.mean) == (1.0, 0.5)
    assert proof.reason == (
        "Its two orders disagree in all 60 pairs, so that it labels none. It prefers the response "
        "shown first in 100% of its verdicts, people in 50% on the same rows."
    )


def test_a_judge_that_prefers_the_longer_is_biased_where_people_do_not() -> None:
    # Of 100 pairs the judge is right in 20: with both sides balanced, kappa = 2·.2 − 1 = −.6.
    proof = prove_judge(judge_pairs(make_pairs(20, 80), prefers_longer))
    assert proof.result == "fail"
    assert proof.kappa.value == pytest.approx(-0.6, abs=1e-9)
    length = proof.preferences["length"]
    assert (length.finding, length.judge.mean, length.people.mean) == ("biased", 1.0, 0.2)
    assert length.excess.mean == pytest.approx(0.8)
    assert "surely below the best constant answer's 0" in proof.reason
    assert "prefers the longer response in 100% of its verdicts, people in 20%" in proof.reason


def test_a_preference_that_people_share_is_no_bias() -> None:
    # People prefer the longer in 80 of 100, kappa = .6: the judge passes, and its reason says what
    # it goes by.
    proof = prove_judge(judge_pairs(make_pairs(80, 20), prefers_longer))
    assert proof.result == "pass"
    assert proof.kappa.value == pytest.approx(0.6, abs=1e-9)
    assert proof.preferences["length"].finding == "shared"
    assert "people prefer it too, so that this is not called a bias" in proof.reason
    assert "goes 20 points beyond theirs" in proof.reason


def test_a_judge_without_a_preference_is_not_called_biased_against_peoples() -> None:
    # People prefer the longer in 80 of 100, a coin in half of its verdicts: the difference is
    # theirs, and no preference of the coin's for the shorter.
    coin = random.Random(3)
    pairs = judge_pairs(make_pairs(80, 20), lambda pair: coin.randrange(2))
    length = measure_preferences(pairs)["length"]
    assert length.excess.high is not None
    assert length.excess.high < 0
    assert length.finding == "not seen"


def test_peoples_own_majority_passes_with_an_interval_that_has_a_width() -> None:
    # No pair disagrees: low = 1 − (1 − .025^(1/60))/D_e with D_e = 1/2 for balanced sides.
    proof = prove_judge(judge_pairs(make_pairs(30, 30), agrees_with_people))
    assert proof.result == "pass"
    assert proof.kappa.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 60)), abs=1e-9)
    assert {p.finding for n, p in proof.preferences.items() if n != "own model"} == {"not seen"}
    assert proof.accuracy.mean == 1.0
    assert proof.constant_accuracy == 0.5


def test_a_coin_fails_because_its_orders_disagree() -> None:
    coin = random.Random(1)
    pairs = judge_pairs(make_pairs(150, 150), lambda pair: coin.randrange(2))
    proof = prove_judge(pairs)
    assert proof.result == "fail"
    assert proof.order_kappa.value == pytest.approx(0, abs=0.15)


def test_a_judge_with_a_fixed_but_meaningless_answer_fails_by_its_kappa() -> None:
    # The same answer in both orders, decided by a coin for each pair: orders agree, people do not.
    coin = {f"prompt {n}": random.Random(n).random() < 0.5 for n in range(400)}

    def rule(pair: Pair) -> int:
        return int((pair.a > pair.b) == coin[pair.prompt])

    proof = prove_judge(judge_pairs(make_pairs(200, 200), rule))
    assert proof.order_kappa.value == 1.0
    assert proof.result == "fail"
    assert "not above the best constant answer's 0" in proof.reason


def test_random_judges_pass_as_seldom_as_the_interval_promises() -> None:
    # A judge without information passes where its lower bound is above 0: 2.5% of the time. Of 200,
    # 5 are expected; more than 12 have a probability below .002 (binomial).
    rng = np.random.default_rng(0)
    pairs = make_pairs(60, 60)
    passed = 0
    for _ in range(200):
        sides = dict(zip((p.prompt for p in pairs), rng.integers(0, 2, 120), strict=True))

        def rule(pair: Pair, sides: dict[str, int] = sides) -> int:
            return int((pair.a > pair.b) == sides[pair.prompt])

        passed += prove_judge(judge_pairs(pairs, rule), rounds=200).result == "pass"
    assert passed <= 12


def test_too_few_verdicts_can_not_be_told_and_the_number_given_decides() -> None:
    pairs = make_pairs(20, 20)
    random.Random(4).shuffle(pairs)

    def proof_of(copies: int) -> tuple[str, int | None]:
        all_pairs = [Pair(f"{p.prompt} {c}", *p[1:]) for c in range(copies) for p in pairs]
        wrong = {p.prompt for n, p in enumerate(all_pairs) if n % 40 >= 25}

        def rule(pair: Pair) -> int:
            return 1 - pair.people if pair.prompt in wrong else pair.people

        proof = prove_judge(judge_pairs(all_pairs, rule))
        return proof.result, proof.more

    result, more = proof_of(1)  # 25 of 40 right: kappa .25, and 1.96 standard errors of .155
    assert result == "unknown"
    # The lower bound is 0 at n = 40·(1.96·.155/.25)² = 59, the upper below .2 never: some 19 more.
    assert more is not None
    assert 8 <= more <= 32
    assert proof_of(3)[0] == "pass"


def test_full_agreement_on_few_pairs_is_not_enough() -> None:
    # n pairs without a disagreement bound the kappa by 1 − 2(1 − .025^(1/n)), which is above 0
    # where .025^(1/n) > 1/2: from n = log .025/log .5 = 5.3, so that 4 pairs lack 2.
    proof = prove_judge(judge_pairs(make_pairs(2, 2), agrees_with_people))
    assert (proof.result, proof.more) == ("unknown", 2)
    assert prove_judge(judge_pairs(make_pairs(4, 4), agrees_with_people)).result == "pass"
    assert math.log(0.025) / math.log(0.5) == pytest.approx(5.32, abs=0.01)


def proof_value(pairs: JudgedPairs) -> float:
    value = prove_judge(pairs).kappa.value
    assert value is not None
    return value


def test_a_bar_above_the_constant_answer() -> None:
    pairs = judge_pairs(make_pairs(80, 20), prefers_longer)  # kappa .6, interval of some ±.15
    assert prove_judge(pairs, min_kappa=0.3).result == "pass"
    unknown = prove_judge(pairs, min_kappa=0.55)
    assert unknown.result == "unknown"
    # Half the interval is 1.96·.08 = .157, and .05 at 100·(.157/.05)² = 985 pairs; the bootstrap's
    # lower half is a little wider.
    assert unknown.more is not None
    assert 700 <= unknown.more <= 1300
    at_the_bar = prove_judge(pairs, min_kappa=proof_value(pairs))
    assert (at_the_bar.result, at_the_bar.more) == ("unknown", None)
    failed = prove_judge(pairs, min_kappa=0.95)
    assert failed.result == "fail"
    assert "surely below the required 0.95" in failed.reason


def test_people_who_always_say_the_same_prove_nothing() -> None:
    pairs = [Pair(str(n), "x" * n, "y", 0) for n in range(30)]
    proof = prove_judge(judge_pairs(pairs, agrees_with_people))
    assert (proof.result, proof.more) == ("unknown", None)
    assert "Give pairs on which people's verdicts differ" in proof.reason


def test_verdicts_that_are_missing_are_counted_and_never_ties() -> None:
    pairs = make_pairs(30, 30)

    def rule(pair: Pair) -> int:
        return NONE if pair.prompt.endswith("7") else pair.people

    proof = prove_judge(judge_pairs(pairs, rule))
    assert (proof.rows, proof.missing) == (54, 6)
    assert "6 pairs have no verdict that can be read" in proof.reason
    silent = prove_judge(judge_pairs(pairs, lambda pair: NONE))
    assert (silent.result, silent.missing) == ("unknown", 60)


def test_its_own_models_answers() -> None:
    # People prefer the side of its own model in half of 200 pairs, the judge always does.
    pairs = make_pairs(100, 100)
    own = [0 if n % 4 < 2 else 1 for n in range(200)]
    by_prompt = {pair.prompt: (pair.a, side) for pair, side in zip(pairs, own, strict=True)}

    def rule(pair: Pair) -> int:
        first, side = by_prompt[pair.prompt]
        return side if pair.a == first else 1 - side

    preference = measure_preferences(judge_pairs(pairs, rule, own))["own model"]
    assert (preference.finding, preference.judge.mean) == ("biased", 1.0)
    assert preference.people.mean == pytest.approx(0.5)
    none = measure_preferences(judge_pairs(pairs, rule))["own model"]
    assert (none.finding, none.rows) == ("unknown", 0)


def test_the_label_of_people_is_what_more_than_half_say() -> None:
    votes = [[0, 0, 1], [0, 1, 2], [2, 2, 2], [1], [], [0, 1], [0, 0, 1, 1]]
    assert code_people(votes).tolist() == [0, NONE, 2, 1, NONE, NONE, NONE]


def test_repeatability_is_a_share_with_the_exact_interval() -> None:
    # 3 of 4 answered questions, each of its own prompt: Clopper-Pearson of 3 in 4 (R's binom.test)
    # is .1941 to .9937.
    share = repeatability([0, 1, 2, 0, NONE], [0, 1, 2, 1, 0], [1, 2, 3, 4, 5])
    assert (share.mean, share.low, share.high) == (
        0.75,
        pytest.approx(0.1941, abs=1e-4),
        pytest.approx(0.9937, abs=1e-4),
    )
    assert math.isnan(repeatability([NONE], [0], [1]).mean)


def test_the_bar_of_a_failure_is_the_documented_one() -> None:
    assert WORTHWHILE == 0.2
