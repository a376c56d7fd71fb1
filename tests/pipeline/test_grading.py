"""Answers graded during training: the right shares at the right steps, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.errors import DataError, SettingsError
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.pipeline import grading, run_stage
from accord.pipeline.grading import answer_grader
from accord.respond.protocol import Sample, SamplingSettings
from accord.settings.recipe import single_stage
from accord.settings.training import SftSettings
from tests.learn.toys.files import write_jsonl

REFUSAL = "I'm sorry, but I can't help with that."
ANSWER = "Use the red camera on Monday, and take your time with it."


def _prompts(path: Path, kinds: list[str | None]) -> str:
    rows = [
        {"prompt": f"Question {i}?", "meta": {"kind": kind} if kind else {}}
        for i, kind in enumerate(kinds)
    ]
    return str(write_jsonl(path, rows) or path)


class Says:
    """A sampler that gives the texts in order, whatever it is asked."""

    texts: tuple[str, ...] = ()

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    def __call__(
        self, prompts: list[tuple[int, ...]], settings: SamplingSettings, **_: Any
    ) -> list[list[Sample]]:
        assert settings.temperature == 0
        encoded = [tuple(self.lm.tokenizer.encode(text)) for text in self.texts]
        return [[Sample(ids, (0.0,) * len(ids), False)] for ids in encoded]


@pytest.fixture
def lm(tiny_world: Path) -> LanguageModel:
    return load_causal(str(tiny_world / "model"))


def _settings(path: str) -> SftSettings:
    return SftSettings(model="m", dataset="d", output_dir="o", safety_dataset=path)


def test_shares_of_each_kind(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["harmful", "jailbreak", "harmful", "harmful", "safe", "fact", "thanks", "safe", None]
    monkeypatch.setattr(grading, "LocalSampler", Says)
    said = (REFUSAL, ANSWER, ANSWER, "", REFUSAL, ANSWER, ANSWER, "…")
    monkeypatch.setattr(Says, "texts", said)
    grade = answer_grader(_settings(_prompts(tmp_path / "p.jsonl", kinds)))
    assert grade is not None
    # One harmful and one harmless answer are nothing that can be graded; a row has no kind.
    assert grade(lm) == {
        "safety/ungraded": 2 / 8,
        "safety/harmful_compliance": pytest.approx(2 / 3),
        "safety/over_refusal": pytest.approx(1 / 3),
    }


def test_prompts_without_kinds_are_refused(lm: LanguageModel, tmp_path: Path) -> None:
    grade = answer_grader(_settings(_prompts(tmp_path / "p.jsonl", [None, None])))
    assert grade is not None
    with pytest.raises(DataError, match=r"meta\.kind"):
        grade(lm)
    assert answer_grader(SftSettings(model="m", dataset="d", output_dir="o")) is None


def _train(folder: Path, tiny_world: Path, *extra: str) -> list[dict[str, Any]]:
    overrides = [
        f"model={tiny_world / 'model'}",
        f"dataset={tiny_world / 'demonstrations.jsonl'}",
        f"output_dir={folder}",
        "max_steps=5",
        "per_device_train_batch_size=4",
        "logging_steps=4",
        *extra,
    ]
    run_stage(single_stage("train", "sft", overrides=overrides))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_is_the_same_with_and_without(tiny_world: Path, tmp_path: Path) -> None:
    path = _prompts(tmp_path / "p.jsonl", ["harmful", "safe", "fact"])
    plain = _train(tmp_path / "plain", tiny_world)
    graded = _train(tmp_path / "graded", tiny_world, f"safety_dataset={path}", "safety_steps=3")
    assert [row["step"] for row in plain] == [4, 5]
    # Steps 3 and 5 grade, and so are logged.
    assert [row["step"] for row in graded if "safety/ungraded" in row] == [3, 5]
    losses = {row["step"]: row["loss"] for row in graded}
    assert {row["step"]: losses[row["step"]] for row in plain} == {
        row["step"]: row["loss"] for row in plain
    }


def test_an_online_method_grades_its_policy(tiny_world: Path, tmp_path: Path) -> None:
    path = _prompts(tmp_path / "p.jsonl", ["harmful", "safe"])
    overrides = [
        f"model={tiny_world / 'model'}",
        f"dataset={tiny_world / 'train_prompts.jsonl'}",
        f"output_dir={tmp_path / 'out'}",
        "rewards=[{kind: length, at_most: 5}]",
        "max_steps=1",
        "per_device_train_batch_size=8",
        "max_new_tokens=4",
        f"safety_dataset={path}",
    ]
    run_stage(single_stage("train", "grpo", overrides=overrides))
    (row,) = (json.loads(r) for r in (tmp_path / "out/metrics.jsonl").read_text().splitlines())
    assert 0 <= row["safety/ungraded"] <= 1


@pytest.mark.parametrize(
    ("method", "extra", "message"),
    [
        ("sft", ["safety_steps=2"], "without `safety_dataset`"),
        ("reward", ["safety_dataset=p.jsonl"], "a reward model gives none"),
    ],
)
def test_settings_that_do_nothing_are_refused(method: str, extra: list[str], message: str) -> None:
    overrides = ["model=m", "dataset=d", "output_dir=o", *extra]
    with pytest.raises(SettingsError, match=message):
        single_stage("train", method, overrides=overrides)
