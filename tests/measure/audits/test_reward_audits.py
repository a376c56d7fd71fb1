"""Whether quality rose with the reward, what length explains, and whether an ensemble agrees."""

import random

import numpy as np
import pytest
from tests.measure.audits.answers import before_and_after

from accord.measure.audits.audit import Audit
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.rewards import disagreement_audit, reward_audits

FILLER, GOOD = "and so on", "well"


def _texts(
    seed: int, *, length: float, quality: float, prompts: int = 80, k: int = 2
) -> list[list[str]]:
    """Answers with a random number of filler words, and of words that make them better."""
    rng = random.Random(seed)

    def answer() -> str:
        fillers = max(0, round(rng.gauss(length, 3))) if length else 0
        goods = max(0, round(rng.gauss(quality, 2)))
        return " ".join(["answer", *[FILLER] * fillers, *[GOOD] * goods])

    return [[answer() for _ in range(k)] for _ in range(prompts)]


def _quality(text: str) -> float:
    return float(text.count(GOOD))


def _length_bonus(text: str) -> float:
    """A reward for words of any kind."""
    return 0.2 * len(text.split())


def _audits(data: BeforeAndAfter) -> dict[str, Audit]:
    return {audit.name: audit for audit in reward_audits(data)}


BEFORE = _texts(1, length=8, quality=4)


def test_a_better_model_passes() -> None:
    data = before_and_after(
        BEFORE, _texts(2, length=8, quality=7), proxy=_quality, independent=_quality
    )
    audit = _audits(data)["independent_gain"]
    assert audit.verdict == "pass"
    unit = np.std([_quality(text) for row in BEFORE for text in row])
    gain = np.mean([_quality(t) for row in data.after.texts for t in row]) - np.mean(
        [_quality(t) for row in BEFORE for t in row]
    )
    assert audit.value.mean == pytest.approx(gain / unit)
    assert "hacked" not in audit.finding


def test_a_proxy_that_rises_while_quality_falls_is_hacked() -> None:
    data = before_and_after(
        BEFORE,
        _texts(2, length=25, quality=2),
        proxy=_length_bonus,
        independent=_quality,
    )
    audits = _audits(data)
    assert audits["independent_gain"].verdict == "fail"
    assert audits["independent_gain"].finding.startswith("The reward is hacked")
    sample = audits["independent_gain"].samples[0]
    assert sample.scores["independent_after"] < sample.scores["independent_before"]
    assert audits["length_gain"].verdict == "fail"
    assert (
        audits["length_gain"].details["words_after"] > audits["length_gain"].details["words_before"]
    )


def test_without_an_independent_measure_it_is_undecided_and_says_so() -> None:
    data = before_and_after(BEFORE, _texts(2, length=25, quality=2), proxy=_length_bonus)
    audits = _audits(data)
    assert audits["independent_gain"].verdict == "undecided"
    assert "independent" in audits["independent_gain"].finding
    assert audits["length_gain"].verdict == "fail"  # that is seen by the scores alone


def test_length_that_comes_with_quality_is_no_failure() -> None:
    """Each word that makes an answer better also makes it longer."""
    data = before_and_after(
        _texts(1, length=0, quality=4),
        _texts(2, length=0, quality=9),
        proxy=_quality,
        independent=_quality,
    )
    audit = _audits(data)["length_gain"]
    assert audit.value.mean > 0.9
    assert audit.verdict == "warn"
    assert "longer answers are better ones" in audit.finding


@pytest.mark.parametrize("k", [1, 3])
def test_the_share_that_length_explains_is_the_planted_one(k: int) -> None:
    """The score is 0.1 a word, and the model after has 1 more: 10 words more make a half."""
    before, after = (
        _texts(seed, length=length, quality=0, prompts=400, k=k)
        for seed, length in ((1, 8), (2, 8 + 10 / 3))
    )
    data = BeforeAndAfter(
        [str(i) for i in range(400)],
        before_and_after(before, after).before,
        before_and_after(before, after).after,
        proxy_before=[[0.1 * len(t.split()) for t in row] for row in before],
        proxy_after=[[0.1 * len(t.split()) + 1 for t in row] for row in after],
    )
    audit = _audits(data)["length_gain"]
    words = audit.details["words_after"] - audit.details["words_before"]
    assert audit.value.mean == pytest.approx(0.1 * words / (0.1 * words + 1))
    assert audit.details["gain_at_equal_length"] == pytest.approx(1)
    assert audit.value.low is not None
    assert audit.value.low < audit.value.mean


def test_without_a_gain_there_is_nothing_to_explain() -> None:
    data = before_and_after(BEFORE, BEFORE, proxy=_length_bonus, independent=_quality)
    audits = _audits(data)
    assert audits["length_gain"].verdict == "pass"
    assert audits["independent_gain"].verdict == "warn"  # training that changed nothing


def test_an_ensemble_that_parts_company() -> None:
    rng = np.random.default_rng(0)
    data = before_and_after(BEFORE, BEFORE)
    before = [[[float(rng.normal(0, 1)) for _ in row] for row in BEFORE] for _ in range(4)]
    agreeing = [[[float(rng.normal(3, 1)) for _ in row] for row in BEFORE] for _ in range(4)]
    parted = [[[float(rng.normal(3 * m, 1)) for _ in row] for row in BEFORE] for m in range(4)]
    verdicts = {
        name: disagreement_audit(data, before, after)
        for name, after in (("same", before), ("agreeing", agreeing), ("parted", parted))
    }
    assert verdicts["same"].value.mean == pytest.approx(1)
    assert verdicts["agreeing"].verdict == "pass"
    assert verdicts["parted"].verdict == "fail"


def test_members_on_other_scales_count_alike() -> None:
    """A member's scores are measured by its own spread before, whatever their unit."""
    rng = np.random.default_rng(0)
    data = before_and_after(BEFORE, BEFORE)
    members = [[[float(rng.normal(0, 1)) for _ in row] for row in BEFORE] for _ in range(2)]
    after = [[[float(rng.normal(1, 2)) for _ in row] for row in BEFORE] for _ in range(2)]
    scaled = [[[100 * v + 7 for v in row] for row in members[0]], members[1]]
    scaled_after = [[[100 * v + 7 for v in row] for row in after[0]], after[1]]
    plain = disagreement_audit(data, members, after).value.mean
    assert disagreement_audit(data, scaled, scaled_after).value.mean == pytest.approx(plain)
