"""Remarks on online runs: each at its pattern, and none on a healthy run."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.learn.health.online_rules import SCORE
from accord.learn.health.rules import training_health
from tests.learn.toys.files import read_jsonl

Curve = Callable[[float], float]


def line(a: float, b: float) -> Curve:
    return lambda t: a + (b - a) * t


def peak(a: float, top: float, b: float) -> Curve:
    """From a to `top` in the middle, then to b."""
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


def noisy_rows(curves: dict[str, Curve], steps: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"step": i + 1}
        | {
            name: curve(i / (steps - 1)) + rng.gauss(0, NOISE.get(name, 0.0))
            for name, curve in curves.items()
        }
        for i in range(steps)
    ]


def remark_texts(
    base: dict[str, Curve] = HEALTHY, *, steps: int = 60, seed: int = 0, **curves: Curve
) -> dict[str, str]:
    """The text of each remark, by its subject; `curves` override those of `base`."""
    overrides = {name.replace("__", "/"): curve for name, curve in curves.items()}
    remarks = training_health(noisy_rows({**base, **overrides}, steps, seed), {"max_kl": 6.0}, {})
    assert len({r.about for r in remarks}) == len(remarks)
    return {r.about: r.text for r in remarks}


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_has_no_remarks(seed: int) -> None:
    assert remark_texts(seed=seed) == {}
    assert remark_texts(steps=12, seed=seed) == {}
    assert remark_texts(GRPO, seed=seed) == {}
    flat = {name: line(curve(0.5), curve(0.5)) for name, curve in HEALTHY.items()}
    assert remark_texts(flat, seed=seed) == {}  # a run that learns nothing is not unhealthy


def recorded_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a run on the embedded world; docs/reading-the-curves.md describes how it was made."""
    path = Path(__file__).with_name("curves") / f"{name}.jsonl"
    return read_jsonl(path)


def test_the_demos_ppo_is_healthy_at_any_moment() -> None:
    rows = recorded_rows("demo")
    assert len(rows) == 40
    for count in range(1, len(rows) + 1):
        assert training_health(rows[:count], {}, {}) == [], count


def test_a_hacked_reward_is_seen() -> None:
    sources = [{"name": "flawed", "weight": 1.0}, {"name": "truth", "weight": 0.0}]
    remarks = {
        h.about: h for h in training_health(recorded_rows("hacked"), {"rewards": sources}, {})
    }
    assert set(remarks) == {"source truth", "length", "explained variance"}
    assert "while truth, one of its sources, fell from 0.4" in remarks["source truth"].text
    assert "while the score grew" in remarks["length"].text
    first_half = {
        h.about for h in training_health(recorded_rows("hacked")[:24], {"rewards": sources}, {})
    }
    assert {"source truth", "length"} <= first_half


def test_steps_that_are_too_large_are_seen() -> None:
    rows = recorded_rows("steep")
    assert {h.about for h in training_health(rows, {}, {})} >= {"entropy collapse", "ratio"}
    assert {"clip fraction", "ratio"} <= {h.about for h in training_health(rows[:10], {}, {})}


def test_few_rows_are_not_judged() -> None:
    assert remark_texts(steps=9, objective__scores=line(1.0, -9.0)) == {}


def test_a_score_that_falls_while_the_kl_rises_is_a_warning() -> None:
    texts = remark_texts(objective__scores=peak(0.0, 1.0, -0.5))
    assert list(texts) == ["KL up, score down"]
    assert "best near step 30" in texts["KL up, score down"]
    assert list(remark_texts(GRPO, reward=peak(0.2, 0.8, 0.1))) == ["KL up, score down"]
    # With a larger beta the score falls while the policy returns to its reference.
    assert (
        remark_texts(objective__scores=peak(0.0, 1.0, -0.5), objective__kl=peak(0.0, 4.0, 1.0))
        == {}
    )
    assert remark_texts(objective__scores=peak(0.0, 1.0, 0.8)) == {}  # within the noise


def test_a_length_that_changes_is_a_warning() -> None:
    texts = remark_texts(response_length=line(20.0, 40.0))
    assert list(texts) == ["length"]
    assert "while the score grew" in texts["length"]
    assert "`length_regularisation`" in texts["length"]
    flat_score = remark_texts(response_length=line(20.0, 40.0), objective__scores=line(0.5, 0.5))
    assert "no score grew with it" in flat_score["length"]
    assert list(remark_texts(response_length=line(20.0, 12.0))) == ["length"]
    assert "no score" in remark_texts({"response_length": line(30.0, 60.0)})["length"]


@pytest.mark.parametrize(("weight", "level"), [(0.0, "warning"), (0.5, "note"), (-1.0, None)])
def test_a_source_that_falls_while_the_score_grows(weight: float, level: str | None) -> None:
    settings = {"rewards": [{"kind": "world", "name": "truth", "weight": weight}]}
    rows = noisy_rows({**HEALTHY, "rewards/truth/mean": line(0.5, 0.2)})
    levels = {h.about: h.level for h in training_health(rows, settings, {})}
    assert levels == ({} if level is None else {"source truth": level})
    for curves in (
        {**HEALTHY, "rewards/truth/mean": line(0.2, 0.5)},
        {**HEALTHY, "rewards/truth/mean": line(0.5, 0.2), "objective/scores": line(1.0, 1.0)},
    ):
        assert training_health(noisy_rows(curves), settings, {}) == []


def test_an_entropy_that_collapses_is_a_warning() -> None:
    texts = remark_texts(objective__entropy=line(1.2, 0.05))
    assert list(texts) == ["entropy collapse"]
    assert "while the score grew" in texts["entropy collapse"]
    flat_score = remark_texts(objective__entropy=line(1.2, 0.05), objective__scores=line(0.0, 0.0))
    assert "gained nothing" in flat_score["entropy collapse"]
    assert list(remark_texts(GRPO, entropy=line(1.0, 0.0))) == ["entropy collapse"]
    # Supervised fine-tuning logs an entropy too, and is to lower it.
    assert remark_texts({"entropy": line(2.0, 0.1), "loss": line(2.0, 0.1)}) == {}


def test_a_kl_below_zero_by_more_than_noise_is_a_warning() -> None:
    assert list(remark_texts(objective__kl=line(0.0, -3.0))) == ["negative KL"]
    slightly_negative = remark_texts(objective__kl=line(-0.02, -0.02))
    assert slightly_negative == {}  # near 0 it has either sign
    rounding = [{"step": i, "objective/scores": 0.0, "objective/kl": -0.02} for i in range(40)]
    assert training_health(rounding, {}, {}) == []
    assert (
        list(remark_texts(GRPO, kl=line(0.0, -3.0))) == []
    )  # an estimator that is never below 0 is not judged


def test_responses_that_no_longer_end_are_a_warning() -> None:
    assert list(remark_texts(eos_rate=line(0.95, 0.5))) == ["answers do not end"]
    assert "0% of the answers" in remark_texts(eos_rate=line(0.0, 0.0))["answers do not end"]
    assert list(remark_texts(GRPO, **{"completions/clipped_ratio": line(0.0, 0.6)})) == [
        "answers do not end"
    ]
    assert remark_texts(eos_rate=line(1.0, 1.0)) == {}  # all end, after more than one token


def test_responses_of_eos_alone_are_a_warning() -> None:
    texts = remark_texts(eos_rate=line(0.9, 1.0), response_length=line(20.0, 0.0))
    assert list(texts) == ["length", "constant EOS"]
    texts = remark_texts(eos_rate=line(1.0, 1.0), response_length=line(1.0, 1.0))
    assert list(texts) == ["constant EOS"]


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
def test_a_metric_out_of_its_range_has_one_remark(
    base: dict[str, Curve], name: str, curve: Curve, about: str
) -> None:
    assert list(remark_texts({**base, name: curve})) == [about]


def test_equal_groups_name_dynamic_sampling_or_its_limit() -> None:
    equal = {**GRPO, "frac_reward_zero_std": line(0.4, 1.0)}
    text = remark_texts(equal)["equal groups"]
    assert "dynamic_sampling_max_rounds replaces such prompts" in text
    replaced = {"dynamic_sampling/replaced_prompts": line(24.0, 24.0)}
    text = remark_texts({**equal, **replaced})["equal groups"]
    assert "24 prompts of an iteration have been replaced already" in text


def test_a_value_loss_that_only_begins_high_does_not_explode() -> None:
    assert remark_texts(loss__value_avg=line(50.0, 0.1)) == {}
    assert (
        remark_texts(loss__value_avg=lambda t: 50.0 if t < 0.2 else 0.1 if t < 0.8 else 20.0) == {}
    )


def test_the_kl_limit_is_noted_however_short_the_run() -> None:
    stopped = [{"step": 1, "stopped_by_kl": 0.0}, {"step": 2, "stopped_by_kl": 1.0}]
    (remark,) = training_health(stopped, {"max_kl": 0.5}, {})
    assert (remark.about, remark.level) == ("KL limit", "note")
    assert "passed max_kl=0.5 at step 2" in remark.text


@pytest.mark.parametrize(("every", "level"), [(40, "note"), (4, "warning")])
def test_rolled_back_steps_are_noted_and_many_are_a_warning(every: int, level: str) -> None:
    rows = noisy_rows(HEALTHY)
    for row in rows[every - 1 :: every]:
        row["rolled_back"] = 1.0
    (remark,) = training_health(rows, {"max_kl": 0.5}, {})
    assert (remark.about, remark.level) == ("rolled back", level)
    assert remark.text.startswith(f"{60 // every} of 60 logged steps passed max_kl=0.5")


def test_steps_that_were_not_finite_are_a_warning() -> None:
    rows = noisy_rows(HEALTHY)
    for row in rows:
        row["skipped"] = 0.0
    assert training_health(rows, {}, {}) == []
    rows[7]["skipped"] = rows[30]["skipped"] = 1.0
    (remark,) = training_health(rows, {}, {})
    assert (remark.about, remark.level) == ("not finite", "warning")
    assert remark.text.startswith("2 of 60 logged steps had a loss or gradient that was not finite")
    assert "the last at step 31" in remark.text


def test_numbers_that_were_not_finite_are_ignored() -> None:
    rows = noisy_rows(HEALTHY)
    for row in rows[::3]:
        row["objective/scores"] = None
    assert training_health(rows, {}, {}) == []
    empty: list[dict[str, Any]] = [{"step": i + 1, SCORE[0]: None} for i in range(20)]
    assert training_health(empty, {}, {}) == []
