"""The limits of audits that a user sets: which audits have them, and what is refused."""

import json
from typing import Any

import pytest

from accord.errors import SettingsError
from accord.measure.audits import (
    broken,
    curves,
    diversity,
    lost_phrases,
    refusals,
    repeats,
    rewards,
    shared_wording,
    stock_phrases,
    wording,
)
from accord.measure.audits.broken import TASK
from accord.measure.audits.models import AUDIT_NAMES
from accord.settings.audit import LIMITED, TASK_PREFIX, AuditSettings
from accord.settings.identity import identity_settings
from accord.settings.recipe import single_stage

THRESHOLDS = {
    "independent_gain": rewards.GAIN,
    "length_gain": rewards.LENGTH_SHARE,
    "ensemble_disagreement": rewards.DISAGREEMENT,
    "over_optimisation": curves.LOSS,
    "best_of_n": curves.LOSS,
    "over_refusal": refusals.OVER_REFUSAL,
    "harmful_compliance": refusals.HARMFUL_COMPLIANCE,
    "refusals": refusals.REFUSALS,
    "one_answer": repeats.ONE_ANSWER,
    "shared_answers": repeats.SHARED_ANSWERS,
    "diversity_per_prompt": diversity.PER_PROMPT,
    "diversity_across_prompts": diversity.ACROSS_PROMPTS,
    "length": wording.LENGTH,
    "flattery": wording.FLATTERY,
    "hedging": wording.HEDGING,
    "repetition": wording.REPETITION,
    "shared_wording": shared_wording.SHARED_WORDING,
    "stock_phrase": stock_phrases.STOCK_PHRASE,
    "lost_phrase": lost_phrases.LOST_PHRASE,
    "held_out_loss": broken.HELD_OUT_LOSS,
    "yes_no_questions": broken.ACCURACY,
    "task_": broken.ACCURACY,
}


def _settings(**settings: Any) -> AuditSettings:
    values = {"responses": "a.jsonl", "before_responses": "b.jsonl", "output_dir": "out"}
    overrides = [f"{key}={json.dumps(value)}" for key, value in (values | settings).items()]
    audit = single_stage("audit", None, overrides=overrides).settings
    assert isinstance(audit, AuditSettings)
    return audit


def test_every_audit_has_limits_on_its_bad_side() -> None:
    assert {name: threshold.bad for name, threshold in THRESHOLDS.items()} == LIMITED
    assert set(LIMITED) == {*AUDIT_NAMES, TASK}
    assert TASK_PREFIX == TASK


def test_limits_are_read_and_belong_to_the_identity_unless_there_are_none() -> None:
    settings = _settings(limits={"length": {"warn": 1.3, "fail": 1.6}})
    assert settings.limit_pairs == {"length": (1.3, 1.6)}
    assert identity_settings(settings)["limits"] == {"length": {"warn": 1.3, "fail": 1.6}}
    assert "limits" not in identity_settings(_settings())
    assert _settings(limits={"length": {"warn": 1.3, "fail": 1.3}}).limit_pairs
    equal = _settings(limits={"diversity_per_prompt": {"warn": 0.5, "fail": 0.5}})
    assert equal.limit_pairs == {"diversity_per_prompt": (0.5, 0.5)}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"lenght": {"warn": 1.3, "fail": 1.6}}, "Did you mean `length`"),
        ({"task_sums": {"warn": -0.1, "fail": -0.2}}, "names an audit 'task_sums'"),
        ({"task_": {"warn": -0.1, "fail": -0.2}}, "names an audit 'task_'"),
        ({"length": {"warn": 1.6, "fail": 1.3}}, "can't lie above `fail`"),
        ({"diversity_per_prompt": {"warn": 0.3, "fail": 0.5}}, "can't lie below `fail`"),
        ({"length": {"fail": 1.6}}, "warn"),
        ({"length": {"warn": 1.3, "fail": 1.6, "why": "so"}}, "why"),
        ({"length": 1.6}, "length"),
        ({"length": {"warn": "high", "fail": 1.6}}, "warn"),
    ],
)
def test_limits_that_can_not_be_meant(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _settings(limits=limits)


def test_a_task_of_the_settings_may_be_limited() -> None:
    settings = {"model": "m", "before": "b", "dataset": "rows.jsonl"}
    task = {"name": "sums", "dataset": "sums.jsonl"}
    limits = {"task_sums": {"warn": -0.1, "fail": -0.2}}
    assert _settings(**settings, tasks=[task], limits=limits).limit_pairs == {
        "task_sums": (-0.1, -0.2)
    }
    with pytest.raises(SettingsError, match="can't lie below"):
        _settings(**settings, tasks=[task], limits={"task_sums": {"warn": -0.2, "fail": -0.1}})
