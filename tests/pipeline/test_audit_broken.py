"""What training broke: tasks, held-out loss and questions, measured on small models."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from accord.cli.app import app
from accord.data.checks import RowError
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.errors import DataError, SettingsError
from accord.pipeline import run_stage
from accord.pipeline.audits.tasks import accepted_answers, task_audits, write_task_prompts
from accord.records import Response
from accord.settings.audit import AuditSettings
from accord.settings.recipe import single_stage

FACTS = [
    {"prompt": "Is the red ball red?", "answer": "yes"},
    {"prompt": "Is water dry?", "answer": "No."},
    {"prompt": "Do cats bark? ", "answer": False},
    {"prompt": "Is it?", "answer": "maybe"},
    {"prompt": "Is water dry?", "answer": "yes"},
    {"prompt": "No answer?"},
]
HELD_OUT = [
    {"prompt": "Say it.", "completion": " A cat and a dog."},
    {"prompt": "Say it.", "completion": " Two birds."},
    {"prompt": "What else?", "completion": " Nothing."},
    {"prompt": "Empty?", "completion": " "},
]
TASK = [
    {"prompt": "One?", "answer": ["a", "e"]},
    {"prompt": "Two?", "answer": "o"},
    {"prompt": "Three?"},
    {"prompt": "Two?", "answer": "o"},
    {"prompt": "Four?", "answer": ""},
]


def _write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def audited(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of an audit that was run, and its audit.json."""
    folder = tmp_path_factory.mktemp("broken")
    responses = str(tiny_run / "responses/responses.jsonl")
    settings = {
        "model": str(tiny_run / "dpo/model"),
        "before": str(tiny_run / "base/model"),
        "responses": responses,
        "before_responses": responses,
        "output_dir": str(folder / "audit"),
        "tasks": [
            {
                "name": "letters",
                "dataset": _write(folder / "task.jsonl", TASK),
                "rule": "regex",
                "max_new_tokens": 4,
            }
        ],
        "held_out": _write(folder / "held.jsonl", HELD_OUT),
        "questions": _write(folder / "facts.jsonl", FACTS),
    }
    _run(settings)
    content = json.loads((folder / "audit/audit.json").read_text())
    audits = {audit["name"]: audit for audit in content["audits"]}
    return {"settings": settings, "content": content, "audits": audits}


def _run(settings: dict[str, Any]) -> None:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run_stage(single_stage("audit", None, overrides=values))


@cache
def _load(folder: str) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


def _log_probs(folder: str, prompt: str, response: str, *, ended: bool) -> list[float]:
    """Of each token of a response, by transformers alone."""
    tokenizer, model = _load(folder)
    before = tokenizer(prompt)["input_ids"]
    ids = tokenizer(prompt + response)["input_ids"]
    assert ids[: len(before)] == before
    ids = [*ids, tokenizer.eos_token_id] if ended else ids
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids))]


def test_the_held_out_loss_is_that_of_transformers(audited: dict[str, Any]) -> None:
    audit = audited["audits"]["held_out_loss"]
    for side, key in (("before", "before"), ("after", "model")):
        logps = [
            _log_probs(audited["settings"][key], r["prompt"], r["completion"], ended=True)
            for r in HELD_OUT[:3]
        ]
        flat = [x for row in logps for x in row]
        assert audit["details"][side]["mean"] == pytest.approx(-sum(flat) / len(flat), abs=1e-4)
    assert audit["details"]["tokens"] == len(flat)
    assert audit["details"]["rows"] == 3
    assert audit["count"] == 2  # two rows have one prompt
    assert "1 an empty response (held.jsonl:4)" in " ".join(audited["content"]["notes"])


def test_the_questions_are_scored_as_by_transformers(audited: dict[str, Any]) -> None:
    audit = audited["audits"]["yes_no_questions"]
    for side, key in (("before", "before"), ("after", "model")):
        mass, right = 0.0, 0
        for row, answer in zip(FACTS[:3], (True, False, False), strict=True):
            # A blank at the prompt's end is that before the answer.
            prompt, folder = str(row["prompt"]).strip(), audited["settings"][key]
            p = {
                form: math.exp(sum(_log_probs(folder, prompt, f" {form}", ended=False)))
                for form in ("Yes", "yes", "No", "no")
            }
            yes, no = p["Yes"] + p["yes"], p["No"] + p["no"]
            mass += (yes + no) / 3
            right += (yes > no) == answer
        details = audit["details"]
        assert details[f"probability_of_yes_or_no_{side}"] == pytest.approx(mass, rel=1e-3)
        assert details[side]["mean"] == pytest.approx(right / 3)
    assert audit["count"] == 3
    notes = " ".join(audited["content"]["notes"])
    assert "`answer` is neither yes nor no (facts.jsonl:4)" in notes
    assert "no value in `answer` (facts.jsonl:6)" in notes
    assert "the prompt of an earlier row (facts.jsonl:5)" in notes


def test_the_task_is_answered_greedily_and_graded(audited: dict[str, Any]) -> None:
    audit = audited["audits"]["task_letters"]
    folder = Path(audited["settings"]["output_dir"]) / "tasks/letters"
    for side in ("before", "after"):
        rows = read_responses(folder / side / "responses.jsonl")
        assert [row.prompt for row in rows] == ["One?", "Two?"]
        assert {row.settings["temperature"] for row in rows} == {0.0}
        texts = [row.responses[0].text for row in rows]
        right = [any(a in texts[0] for a in "ae"), "o" in texts[1]]
        assert audit["details"][side]["mean"] == pytest.approx(sum(right) / 2)
    assert audit["count"] == 2
    notes = " ".join(audited["content"]["notes"])
    assert "5 rows, 2 used, 3 dropped" in notes
    assert "an empty answer (task.jsonl:5)" in notes
    assert "Not audited: task_" not in notes
    stamp = (folder / "after/responses.jsonl").stat().st_mtime_ns
    _run(audited["settings"])  # finished
    (folder.parents[1] / "stage.json").unlink()
    (folder.parents[1] / "audit.json").unlink()
    assert (folder / "after/responses.jsonl").stat().st_mtime_ns == stamp


def _answered(texts: list[str], finished: bool = True) -> list[ResponseRow]:
    prompts = [f"p{i}" for i in range(len(texts))]
    return [
        ResponseRow(
            prompt,
            {"task_row": i},
            "m",
            {},
            (Response(prompt, text, "m", {}, 0.0, 1, finished),),
        )
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def _task_settings(folder: Path, rows: list[dict[str, Any]], **task: Any) -> AuditSettings:
    dataset = _write(folder / "rows.jsonl", rows)
    return AuditSettings(
        model="a",
        before="b",
        dataset="d",
        output_dir=str(folder / "out"),
        tasks=[{"name": "t", "dataset": dataset, **task}],  # type: ignore[list-item]
    )


def test_the_answer_behind_the_reasoning_is_graded(tmp_path: Path) -> None:
    settings = _task_settings(
        tmp_path, [{"prompt": f"p{i}", "answer": "B"} for i in range(4)], rule="choice"
    )
    write_task_prompts(settings)
    folder = tmp_path / "out/tasks/t"
    texts = ["B", "<think>A?</think>B", "<think>B", "<think>The answer is B</think>The answer is C"]
    write_responses(folder / "before/responses.jsonl", _answered(["B"] * 4))
    # In another order, and without one row: rows are matched by their number.
    after = [_answered(texts, finished=False)[i] for i in (3, 1, 2)]
    write_responses(folder / "after/responses.jsonl", after)
    ((audit, notes),) = task_audits(settings)
    assert audit.count == 3
    assert audit.details["after"]["mean"] == pytest.approx(1 / 3)
    assert audit.details["without_answer_after"] == 1
    assert audit.details["cut_off_after"] == 3
    assert audit.details["cut_off_before"] == 0
    assert "1 prompts that a model can't read" in notes[0]
    write_responses(folder / "after/responses.jsonl", [])
    with pytest.raises(DataError):
        list(task_audits(settings))


def test_the_number_of_rows_is_limited(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "solution": i} for i in range(5)]
    settings = _task_settings(tmp_path, rows, column="solution", max_prompts=3)
    write_task_prompts(settings)
    lines = (tmp_path / "out/tasks/t/prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["meta"]["task_row"] for line in lines] == [0, 1, 2]


def test_a_task_without_its_column(tmp_path: Path) -> None:
    settings = _task_settings(tmp_path, [{"prompt": "p", "target": "x"}])
    with pytest.raises(DataError, match=r"no column `answer`.*prompt, target"):
        write_task_prompts(settings)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("Paris", ("Paris",)),
        (7, ("7",)),
        (7.0, ("7",)),
        (0.5, ("0.5",)),
        (["a", 2], ("a", "2")),
        ('["a", "b"]', ("a", "b")),  # as CSV holds it
        ("[a", ("[a",)),
    ],
)
def test_accepted_answers(value: Any, accepted: tuple[str, ...]) -> None:
    assert accepted_answers(value, "exact") == accepted


def test_a_pattern_is_no_list() -> None:
    assert accepted_answers("[1]", "regex") == ("[1]",)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no value in `answer`"),
        ([], "an empty list"),
        (True, "true or false"),
        ({"a": 1}, "neither text"),
        (["a", " "], "an empty answer"),
    ],
)
def test_answers_that_are_none(value: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        accepted_answers(value, "exact")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"held_out": "h"}, "`held_out` asks both models.*`model` is absent"),
        ({"model": "m", "questions": "q"}, "`questions` asks both models.*`before` is absent"),
        ({"model": "m", "tasks": [{"name": "t", "dataset": "d"}]}, "`tasks` asks both models"),
        (
            {"model": "m", "before": "b", "tasks": [{"name": "t", "dataset": "d"}] * 2},
            "Two of `tasks` are called 't'",
        ),
        (
            {"model": "m", "before": "b", "tasks": [{"name": "a/b", "dataset": "d"}]},
            "name",
        ),
    ],
)
def test_settings_that_lack_something(given: dict[str, Any], message: str) -> None:
    settings = {"responses": "r", "before_responses": "r", "output_dir": "o", **given}
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    with pytest.raises(SettingsError, match=message):
        single_stage("audit", None, overrides=values)


def test_the_gate_knows_the_tasks(audited: dict[str, Any], tmp_path: Path) -> None:
    values = [
        f"{key}={json.dumps(value)}"
        for key, value in (audited["settings"] | {"output_dir": str(tmp_path / "audit")}).items()
        if key not in ("held_out", "questions")
    ]
    unknown = CliRunner().invoke(app, ["audit", *values, "--fail-on", "task_lettres"])
    assert unknown.exit_code not in (0, 3)
    assert "task_letters" in str(unknown.exception) + unknown.output
    result = CliRunner().invoke(app, ["audit", *values, "--fail-on", "task_letters"])
    assert result.exit_code == 3  # two rows decide nothing
    assert "task_letters (undecided)" in result.output
    missing = CliRunner().invoke(app, ["audit", *values, "--fail-on", "held_out_loss"])
    assert missing.exit_code == 3
    assert "held_out_loss (not measured)" in missing.output
