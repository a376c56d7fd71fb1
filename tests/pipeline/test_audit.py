"""The stage `audit` and its command: both models on the same prompts, scored, and gated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from accord.cli.app import app
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.errors import DataError, SettingsError
from accord.measure.audits.models import AUDIT_NAMES
from accord.pipeline import run_stage
from accord.pipeline.stages.audit import read_document
from accord.settings.recipe import single_stage


def _audit(output_dir: Path, **settings: Any) -> dict[str, Any]:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run_stage(single_stage("audit", None, overrides=[f"output_dir={output_dir}", *values]))
    content: dict[str, Any] = json.loads((output_dir / "audit.json").read_text())
    return content


def _verdicts(content: dict[str, Any]) -> dict[str, str]:
    return {audit["name"]: audit["verdict"] for audit in content["audits"]}


def _constant(rows: list[ResponseRow], text: str) -> list[ResponseRow]:
    return [
        replace(row, responses=tuple(replace(r, text=text) for r in row.responses)) for row in rows
    ]


def _another_reward(tiny_run: Path, tmp_path: Path) -> str:
    """A reward model with other weights."""
    folder = tmp_path / "another"
    shutil.copytree(tiny_run / "reward/model", folder)
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def responses(tiny_run: Path) -> str:
    return str(tiny_run / "responses/responses.jsonl")


def test_models_are_sampled_and_scored(tiny_run: Path, tmp_path: Path) -> None:
    settings = {
        "model": str(tiny_run / "dpo/model"),
        "before": str(tiny_run / "sft/model"),
        "dataset": str(tiny_run / "world/test_prompts.jsonl"),
        "reward_model": str(tiny_run / "reward/model"),
        "world": True,
        "num_responses": 2,
        "max_new_tokens": 16,
        "ensemble": [str(tiny_run / "reward/model"), _another_reward(tiny_run, tmp_path)],
    }
    content = _audit(tmp_path / "audit", **settings)
    assert set(_verdicts(content)) <= set(AUDIT_NAMES)
    before, after = (
        read_responses(tmp_path / f"audit/{side}/responses.jsonl") for side in ("before", "after")
    )
    assert [row.prompt for row in before] == [row.prompt for row in after]
    assert {row.model for row in before} == {"before"}
    assert len(before[0].responses) == 2
    by_name = {audit["name"]: audit for audit in content["audits"]}
    assert by_name["ensemble_disagreement"]["details"] == {"members": 2}
    assert by_name["ensemble_disagreement"]["value"]["mean"] > 0
    assert by_name["independent_gain"]["verdict"] == "undecided"  # all are worth nothing
    # Finished, the command does no work again; a setting that matters runs it anew elsewhere.
    stamp = (tmp_path / "audit/audit.json").stat().st_mtime_ns
    _audit(tmp_path / "audit", **settings)
    assert (tmp_path / "audit/audit.json").stat().st_mtime_ns == stamp
    with pytest.raises(SettingsError):
        _audit(tmp_path / "audit", **(settings | {"num_responses": 1}))


def test_refusals_of_everything_fail(responses: str, tmp_path: Path) -> None:
    rows = read_responses(responses)
    answers = _constant(rows, "Sure, here is the answer to that question: it is easy.")
    refusals = _constant(rows, "I'm sorry, but I can't help with that.")
    for name, side in (("answers", answers), ("refusals", refusals)):
        many = [replace(row, prompt=f"{row.prompt} {i}") for i in range(20) for row in side]
        kinds = [replace(row, meta={"kind": "safe"}) for row in many]
        write_responses(tmp_path / f"{name}.jsonl", kinds)
    content = _audit(
        tmp_path / "audit",
        responses=str(tmp_path / "refusals.jsonl"),
        before_responses=str(tmp_path / "answers.jsonl"),
    )
    assert _verdicts(content)["over_refusal"] == "fail"
    assert content["verdict"] == "fail"
    document = read_document(str(tmp_path / "audit"))
    assert document.to_json() == content
    assert "Not audited: over_optimisation" in document.text()


def test_limits_of_the_settings_decide(responses: str, tmp_path: Path) -> None:
    rows = read_responses(responses)
    short, long = (_constant(rows, " ".join(["word"] * n)) for n in (10, 13))
    for name, side in (("short", short), ("long", long)):
        write_responses(tmp_path / f"{name}.jsonl", side)
    paths = {
        "responses": str(tmp_path / "long.jsonl"),
        "before_responses": str(tmp_path / "short.jsonl"),
    }
    assert _verdicts(_audit(tmp_path / "default", **paths))["length"] == "fail"
    limits = {"length": {"warn": 1.3, "fail": 1.6}}
    content = _audit(tmp_path / "limited", **paths, limits=limits)
    assert _verdicts(content)["length"] == "pass"  # 1.3 is not beyond 1.3
    threshold = next(a["threshold"] for a in content["audits"] if a["name"] == "length")
    assert (threshold["warn"], threshold["fail"]) == (1.3, 1.6)
    assert content["settings"]["limits"] == limits


def test_the_gate_ends_with_code_3(responses: str, tmp_path: Path) -> None:
    arguments = [
        "audit",
        f"responses={responses}",
        f"before_responses={responses}",
        f"output_dir={tmp_path / 'audit'}",
    ]
    assert CliRunner().invoke(app, [*arguments, "--fail-on", "fail"]).exit_code == 0
    result = CliRunner().invoke(app, [*arguments, "--fail-on", "independent_gain"])
    assert result.exit_code == 3
    assert "independent_gain" in result.output
    unknown = CliRunner().invoke(app, [*arguments, "--fail-on", "over-refusal"])
    assert unknown.exit_code not in (0, 3)


def test_models_without_a_prompt_in_common(responses: str, tmp_path: Path) -> None:
    rows = [replace(row, prompt=f"{row.prompt}?") for row in read_responses(responses)]
    write_responses(tmp_path / "others.jsonl", rows)
    with pytest.raises(DataError, match="no prompt in common"):
        _audit(
            tmp_path / "audit",
            responses=responses,
            before_responses=str(tmp_path / "others.jsonl"),
        )


def test_rows_of_one_prompt_are_joined_and_others_left_out(responses: str, tmp_path: Path) -> None:
    rows = read_responses(responses)
    write_responses(tmp_path / "twice.jsonl", [*rows[:-1], *rows[:-1]])
    content = _audit(
        tmp_path / "audit",
        responses=responses,
        before_responses=str(tmp_path / "twice.jsonl"),
    )
    prompts = {row.prompt for row in rows[:-1]}
    assert content["results"]["prompts"] == len(prompts)
    left = len({row.prompt for row in rows}) - len(prompts)
    assert (f"{left} prompts that only one" in " ".join(content["notes"])) == (left > 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"responses": "a.jsonl"}, "Set `before` or `before_responses`"),
        ({"model": "a", "before_responses": "b.jsonl"}, "no `dataset`"),
        (
            {"responses": "a", "before_responses": "b", "model_name": "x", "before_name": "x"},
            "are both 'x'",
        ),
        (
            {"responses": "a", "before_responses": "b", "ensemble": ["m"]},
            "can't disagree with itself",
        ),
        (
            {"responses": "a", "before_responses": "b", "ensemble": ["m", "m"]},
            "names a folder twice",
        ),
        (
            {
                "responses": "a",
                "before_responses": "b",
                "curve": [{"name": "c", "responses": "c", "model": "m"}],
            },
            "needs the KL",
        ),
    ],
)
def test_settings_that_lack_something(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    with pytest.raises(SettingsError, match=message):
        single_stage("audit", None, overrides=[f"output_dir={tmp_path}", *values])
