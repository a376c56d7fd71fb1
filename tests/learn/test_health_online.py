"""What online learning's numbers say: each alarm rings at its pattern, and at no healthy run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.learn.health.history import MetricHistory
from accord.learn.health.online_rules import SCORE
from accord.learn.health.rules import training_health

Curve = Callable[[float], float]


def line(a: float, b: float) -> Curve:
    return lambda t: a + (b - a) * t


def peak(a: float, top: float, b: float) -> Curve:
    """From a to its top in the middle and on to b."""
    return lambda t: a + (top - a) * 2 * t if t < 0.5 else top + (b - top) * (2 * t - 1)


HEALTHY: dict[str, Curve] = {
    "objective/scores": line(0.0, 1.0),
    "objective/scores_std": line(1.0, 0.7),
    "objective/kl": line(0.0, 4.0),
    "objective/entropy": line(1.2, 0.8),
    "response_length": line(20.0, 22.0),
    "eos_rate": line(0.95, 0.99),
    "policy/clipfrac_avg": line(0.1, 0.15),
    "val/ratio": line(1.0, 1.01),
    "val/explained_variance": line(-0.2, 0.6),
    "loss/value_avg": line(0.5, 0.2),
    "stopped_by_kl": line(0.0, 0.0),
}
NOISE = {  # standard deviations of one row
    "objective/scores": 0.1,
    "objective/kl": 0.2,
    "response_length": 0.5,
    "val/explained_variance": 0.1,
    "val/ratio": 0.01,
    "eos_rate": 0.01,
}
GRPO: dict[str, Curve] = {
    "reward": line(0.2, 0.8),
    "reward_std": line(0.4, 0.3),
    "frac_reward_zero_std": line(0.1, 0.4),
    "kl": line(0.0, 0.1),
    "entropy": line(1.0, 0.6),
    "completions/mean_length": line(100.0, 110.0),
    "completions/clipped_ratio": line(0.05, 0.02),
    "clip_ratio/region_mean": line(0.0, 0.01),
    "sampler/mismatch_kl": line(0.001, 0.002),
}


def rows_of(curves: dict[str, Curve], steps: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"step": i + 1}
        | {
            name: curve(i / (steps - 1)) + rng.gauss(0, NOISE.get(name, 0.0))
            for name, curve in curves.items()
        }
        for i in range(steps)
    ]


def told(
    base: dict[str, Curve] = HEALTHY, *, steps: int = 60, seed: int = 0, **curves: Curve
) -> dict[str, str]:
    named = {name.replace("__", "/"): curve for name, curve in curves.items()}
    found = training_health(rows_of({**base, **named}, steps, seed), {"max_kl": 6.0}, {})
    assert len({h.about for h in found}) == len(found)
    return {h.about: h.text for h in found}


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_nothing_to_tell(seed: int) -> None:
    assert told(seed=seed) == {}
    assert told(steps=12, seed=seed) == {}
    assert told(GRPO, seed=seed) == {}
    flat = {name: line(curve(0.5), curve(0.5)) for name, curve in HEALTHY.items()}
    assert told(flat, seed=seed) == {}  # a run that learns nothing is not ill


def real(name: str) -> list[dict[str, Any]]:
    """Rows of a run on the embedded world: docs/reading-the-curves.md says how it was made."""
    place = Path(__file__).with_name("curves") / f"{name}.jsonl"
    return [json.loads(line) for line in place.read_text().splitlines()]


def test_the_demos_ppo_is_healthy_at_any_moment() -> None:
    rows = real("demo")
    assert len(rows) == 40
    for count in range(1, len(rows) + 1):
        assert training_health(rows[:count], {}, {}) == [], count


def test_a_hacked_reward_is_seen() -> None:
    sources = [{"name": "flawed", "weight": 1.0}, {"name": "truth", "weight": 0.0}]
    found = {h.about: h for h in training_health(real("hacked"), {"rewards": sources}, {})}
    assert set(found) == {"source truth", "length", "explained variance"}
    assert "while truth, one of its sources, fell from 0.4" in found["source truth"].text
    assert "while the score grew" in found["length"].text
    half = {h.about for h in training_health(real("hacked")[:24], {"rewards": sources}, {})}
    assert {"source truth", "length"} <= half


def test_steps_that_are_too_large_are_seen() -> None:
    rows = real("steep")
    assert {h.about for h in training_health(rows, {}, {})} >= {"entropy collapse", "ratio"}
    assert {"clip fraction", "ratio"} <= {h.about for h in training_health(rows[:10], {}, {})}


def test_too_few_rows_for_a_course() -> None:
    assert told(steps=9, objective__scores=line(1.0, -9.0)) == {}


def test_kl_up_and_score_down() -> None:
    found = told(objective__scores=peak(0.0, 1.0, -0.5))
    assert list(found) == ["KL up, score down"]
    assert "best near step 30" in found["KL up, score down"]
    assert list(told(GRPO, reward=peak(0.2, 0.8, 0.1))) == ["KL up, score down"]
    # A score that falls while the policy comes back to its reference is what a larger beta does.
    assert told(objective__scores=peak(0.0, 1.0, -0.5), objective__kl=peak(0.0, 4.0, 1.0)) == {}
    assert told(objective__scores=peak(0.0, 1.0, 0.8)) == {}  # within the noise


def test_score_and_length_grow_together() -> None:
    found = told(response_length=line(20.0, 40.0))
    assert list(found) == ["length"]
    assert "while the score grew" in found["length"]
    assert "`length_regularisation`" in found["length"]
    still = told(response_length=line(20.0, 40.0), objective__scores=line(0.5, 0.5))
    assert "no score grew with it" in still["length"]
    assert list(told(response_length=line(20.0, 12.0))) == ["length"]
    assert "no score" in told({"response_length": line(30.0, 60.0)})["length"]


@pytest.mark.parametrize(("weight", "level"), [(0.0, "warning"), (0.5, "note"), (-1.0, None)])
def test_a_source_that_falls_while_the_score_grows(weight: float, level: str | None) -> None:
    settings = {"rewards": [{"kind": "world", "name": "truth", "weight": weight}]}
    rows = rows_of({**HEALTHY, "rewards/truth/mean": line(0.5, 0.2)})
    found = {h.about: h.level for h in training_health(rows, settings, {})}
    assert found == ({} if level is None else {"source truth": level})
    for curves in (
        {**HEALTHY, "rewards/truth/mean": line(0.2, 0.5)},
        {**HEALTHY, "rewards/truth/mean": line(0.5, 0.2), "objective/scores": line(1.0, 1.0)},
    ):
        assert training_health(rows_of(curves), settings, {}) == []


def test_entropy_collapse() -> None:
    found = told(objective__entropy=line(1.2, 0.05))
    assert list(found) == ["entropy collapse"]
    assert "while the score grew" in found["entropy collapse"]
    bare = told(objective__entropy=line(1.2, 0.05), objective__scores=line(0.0, 0.0))
    assert "gained nothing" in bare["entropy collapse"]
    assert list(told(GRPO, entropy=line(1.0, 0.0))) == ["entropy collapse"]
    # Supervised fine-tuning logs an entropy too, and is to lower it.
    assert told({"entropy": line(2.0, 0.1), "loss": line(2.0, 0.1)}) == {}


def test_negative_kl() -> None:
    assert list(told(objective__kl=line(0.0, -3.0))) == ["negative KL"]
    noise = told(objective__kl=line(-0.02, -0.02))
    assert noise == {}  # near 0 it has either sign
    rounding = [{"step": i, "objective/scores": 0.0, "objective/kl": -0.02} for i in range(40)]
    assert training_health(rounding, {}, {}) == []
    assert list(told(GRPO, kl=line(0.0, -3.0))) == []  # another estimator; never below 0


def test_responses_that_no_longer_end() -> None:
    assert list(told(eos_rate=line(0.95, 0.5))) == ["answers do not end"]
    assert "0% of the answers" in told(eos_rate=line(0.0, 0.0))["answers do not end"]
    assert list(told(GRPO, **{"completions/clipped_ratio": line(0.0, 0.6)})) == [
        "answers do not end"
    ]
    assert told(eos_rate=line(1.0, 1.0)) == {}  # all end, with something to say


def test_constant_eos() -> None:
    found = told(eos_rate=line(0.9, 1.0), response_length=line(20.0, 0.0))
    assert list(found) == ["length", "constant EOS"]
    found = told(eos_rate=line(1.0, 1.0), response_length=line(1.0, 1.0))
    assert list(found) == ["constant EOS"]


@pytest.mark.parametrize(
    ("base", "name", "curve", "about"),
    [
        (HEALTHY, "policy/clipfrac_avg", line(0.1, 0.5), "clip fraction"),
        (GRPO, "clip_ratio/region_mean", line(0.1, 0.5), "clip fraction"),
        (HEALTHY, "val/ratio", line(1.0, 1.5), "ratio"),
        (HEALTHY, "val/ratio", line(1.0, 0.6), "ratio"),
        (HEALTHY, "val/explained_variance", line(0.2, -0.8), "explained variance"),
        (HEALTHY, "loss/value_avg", peak(0.5, 0.1, 5.0), "value loss"),
        (GRPO, "frac_reward_zero_std", line(0.4, 1.0), "equal groups"),
        (HEALTHY, "rewards/clipped_share", line(0.0, 0.2), "clipped scores"),
        (GRPO, "sampler/mismatch_kl", line(0.0, 0.2), "sampler mismatch"),
    ],
)
def test_one_number_out_of_its_range(
    base: dict[str, Curve], name: str, curve: Curve, about: str
) -> None:
    assert list(told({**base, name: curve})) == [about]


def test_equal_groups_name_dynamic_sampling_or_its_limit() -> None:
    off = told({**GRPO, "frac_reward_zero_std": line(0.4, 1.0)})
    assert "dynamic_sampling_max_rounds replaces such prompts" in off["equal groups"]
    replaced = {"dynamic_sampling/replaced_prompts": line(24.0, 24.0)}
    limit = told({**GRPO, **replaced, "frac_reward_zero_std": line(0.4, 1.0)})
    assert "24 prompts of an iteration have been replaced already" in limit["equal groups"]


def test_a_value_loss_that_only_begins_high_is_none_that_explodes() -> None:
    assert told(loss__value_avg=line(50.0, 0.1)) == {}
    assert told(loss__value_avg=lambda t: 50.0 if t < 0.2 else 0.1 if t < 0.8 else 20.0) == {}


def test_the_kls_limit_is_told_of_however_short_the_run() -> None:
    stopped = [{"step": 1, "stopped_by_kl": 0.0}, {"step": 2, "stopped_by_kl": 1.0}]
    (remark,) = training_health(stopped, {"max_kl": 0.5}, {})
    assert (remark.about, remark.level) == ("KL limit", "note")
    assert "passed max_kl=0.5 at step 2" in remark.text


@pytest.mark.parametrize(("every", "level"), [(40, "note"), (4, "warning")])
def test_steps_that_were_taken_back(every: int, level: str) -> None:
    rows = rows_of(HEALTHY)
    for row in rows[every - 1 :: every]:
        row["rolled_back"] = 1.0
    (remark,) = training_health(rows, {"max_kl": 0.5}, {})
    assert (remark.about, remark.level) == ("rolled back", level)
    assert remark.text.startswith(f"{60 // every} of 60 logged steps passed max_kl=0.5")


def test_steps_that_were_not_finite_are_told() -> None:
    rows = rows_of(HEALTHY)
    for row in rows:
        row["skipped"] = 0.0
    assert training_health(rows, {}, {}) == []
    rows[7]["skipped"] = rows[30]["skipped"] = 1.0
    (remark,) = training_health(rows, {}, {})
    assert (remark.about, remark.level) == ("not finite", "warning")
    assert remark.text.startswith("2 of 60 logged steps had a loss or gradient that was not finite")
    assert "the last at step 31" in remark.text


def test_numbers_that_were_not_finite_are_passed_over() -> None:
    rows = rows_of(HEALTHY)
    for row in rows[::3]:
        row["objective/scores"] = None
    assert training_health(rows, {}, {}) == []
    empty: list[dict[str, Any]] = [{"step": i + 1, SCORE[0]: None} for i in range(20)]
    assert training_health(empty, {}, {}) == []


def test_noise_is_that_of_the_rows_and_not_of_their_trend() -> None:
    rng = random.Random(1)
    rows = [{"step": i, "x": 0.05 * i + rng.gauss(0, 2.0)} for i in range(1, 2001)]
    course = MetricHistory(rows)
    assert course.noise("x", 1) == pytest.approx(2.0, rel=0.1)
    assert course.noise("x", 100) == pytest.approx(0.2, rel=0.1)
    assert course.rose("x")
    assert not MetricHistory([{**row, "x": -row["x"]} for row in rows]).rose("x")
    still = MetricHistory([{"step": i, "x": rng.gauss(0, 2.0)} for i in range(1, 2001)])
    assert not still.rose("x")
    assert course.noise("y", 1) == 0.0
    assert not course.rose("y")
