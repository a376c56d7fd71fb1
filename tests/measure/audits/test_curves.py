"""Over-optimisation over checkpoints: the turning point, and a loss that is more than chance."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from accord.measure.audits.curves import CurvePoint, best_of_n_points, over_optimisation_audit

DISTANCES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def _points(
    quality: Callable[[float], float], *, noise: float = 0.3, prompts: int = 200
) -> list[CurvePoint]:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 0.3, prompts)
    return [
        CurvePoint(
            f"step {i}",
            d * d,
            (level + 0.3 * d + rng.normal(0, noise, prompts)).tolist(),
            (level + quality(d) + rng.normal(0, noise, prompts)).tolist(),
        )
        for i, d in enumerate(DISTANCES)
    ]


def _turning(d: float) -> float:
    """Gao's curve for training with its peak at exp(.5/.25 − 1) = e."""
    return d * (0.5 - 0.25 * math.log(d)) if d else 0.0


def test_quality_that_turns_down_fails_with_its_turning_point() -> None:
    audit = over_optimisation_audit(_points(_turning))
    assert audit.verdict == "fail"
    assert audit.details["best"] in ("step 2", "step 3")
    fit = audit.details["fits"]["independent"]
    assert fit["curve"] == "reinforcement"
    assert fit["peak_low"] < math.e < fit["peak_high"]
    assert audit.details["fits"]["proxy"]["peak_distance"] is None  # it never turns
    assert audit.details["fits"]["proxy"]["peak_reward"] is None


def test_quality_that_rises_to_the_end_passes() -> None:
    audit = over_optimisation_audit(_points(lambda d: 0.3 * d))
    assert audit.verdict == "pass"
    assert audit.value.mean == 0
    assert "highest at the last point" in audit.finding


def test_the_highest_of_equal_points_is_no_loss() -> None:
    """Chosen and compared on the same prompts, the best of 40 equal points would lie above the
    last by chance; on other prompts the difference has no bias."""
    losses = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        points = [
            CurvePoint(str(i), 0.0, rng.normal(0, 1, 40).tolist(), rng.normal(0, 1, 40).tolist())
            for i in range(40)
        ]
        audit = over_optimisation_audit(points)
        losses.append(audit.value.mean)
        assert audit.verdict != "fail" or seed % 20  # a rare chance at most
    assert abs(np.mean(losses)) < 3 * np.std(losses) / math.sqrt(len(losses))


def test_best_of_n_has_its_own_curve() -> None:
    points = [
        CurvePoint(f"best of {n}", d * d, [d] * 8, [d * (1 - 0.25 * d)] * 8, best_of=n)
        for n, d in ((1, 0.0), (2, 1.0), (4, 2.0), (16, 3.0))
    ]
    fit = over_optimisation_audit(points).details["fits"]["independent"]
    assert fit["curve"] == "best_of_n"
    assert fit["peak_distance"] == pytest.approx(2)  # α/2β = 1/(2 · .25)


def test_points_of_training_are_not_fitted_with_best_of_n() -> None:
    training = _points(_turning)
    mixed = [training[0], CurvePoint("best of 4", 0.6, [9.0] * 200, [9.0] * 200, best_of=4)]
    alone = over_optimisation_audit(training).details["fits"]["independent"]
    assert over_optimisation_audit([*mixed, *training[1:]]).details["fits"]["independent"] == alone


def test_too_little_is_not_measured() -> None:
    assert over_optimisation_audit([]).verdict == "undecided"
    assert "Not measured" in over_optimisation_audit(_points(_turning)[:1]).finding


def test_points_of_other_prompts_are_refused() -> None:
    points = [CurvePoint("a", 0, [1.0] * 5, [1.0] * 5), CurvePoint("b", 1, [1.0] * 4, [1.0] * 4)]
    with pytest.raises(ValueError, match="same prompts"):
        over_optimisation_audit(points)


def test_best_of_n_from_one_set_of_responses() -> None:
    proxy = [[1.0, 2.0, 3.0, 4.0]] * 4
    points = best_of_n_points(proxy, [[10.0, 20.0, 5.0, 0.0]] * 4)
    assert [point.name for point in points] == ["best of 1", "best of 2", "best of 4"]
    assert points[0].proxy[0] == 2.5
    assert points[1].proxy[0] == pytest.approx(10 / 3)
    # Of six pairs, the best by the proxy is the second in one, the third in two, the last in three.
    assert points[1].independent[0] == pytest.approx((20 + 2 * 5 + 3 * 0) / 6)
    assert (points[2].proxy[0], points[2].independent[0]) == (4, 0)
    assert points[1].kl == pytest.approx(math.log(2) - 0.5)
    assert best_of_n_points([[1.0], [1.0, 2.0]], [[1.0], [1.0, 2.0]])[-1].best_of == 1
    assert best_of_n_points([], []) == []


def test_a_reward_that_chooses_worse_answers_fails() -> None:
    rng = np.random.default_rng(0)
    quality = rng.normal(0, 1, (100, 8))
    audit = over_optimisation_audit(
        best_of_n_points((-quality).tolist(), quality.tolist()), name="best_of_n"
    )
    assert (audit.name, audit.verdict) == ("best_of_n", "fail")
    good = over_optimisation_audit(best_of_n_points(quality.tolist(), quality.tolist()))
    assert good.verdict == "pass"
