"""What is measured and compared of responses that reason: the answers."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from accord.compare.store.store import PreferenceStore
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.pipeline.data_check import check_data
from accord.pipeline.stages.compare import compare
from accord.pipeline.stages.measure import evaluate
from accord.records import Response
from accord.report.examples import examples
from accord.settings.judge import JudgeSettings
from accord.settings.stages import CompareSettings, EvaluateSettings
from tests.fake_openai import FakeOpenAi, prefers
from tests.learn.toys.files import write_jsonl

REFUSAL = "I can't help with that."


def with_thoughts(row: ResponseRow) -> ResponseRow:
    """The row's responses behind a thought that the prompt opened; the first is a thought alone."""
    responses = [
        replace(r, text=REFUSAL if i == 0 else f"{REFUSAL}</think>\n\n{r.text}", opened="<think>")
        for i, r in enumerate(row.responses)
    ]
    return replace(row, responses=tuple(responses))


def without_first(row: ResponseRow) -> ResponseRow:
    first, *others = row.responses
    answers = [replace(first, text=""), *(replace(r, text=r.text.lstrip()) for r in others)]
    return replace(row, responses=tuple(answers))


def test_evaluation_reads_the_answers(tiny_run: Path, tmp_path: Path) -> None:
    rows = read_responses(tiny_run / "responses/responses.jsonl")
    measured: list[dict[str, Any]] = []
    for name, change in (("answers", without_first), ("thoughts", with_thoughts)):
        path = tmp_path / f"{name}.jsonl"
        write_responses(path, map(change, rows))
        table = {
            "contestants": [{"name": "m", "responses": str(path)}],
            "reference": str(tiny_run / "sft/model"),
            "output_dir": str(tmp_path / name),
            "reward_model": str(tiny_run / "reward/model"),
            "world": True,
        }
        list(evaluate(EvaluateSettings.model_validate(table)))
        (row,) = json.loads((tmp_path / name / "evaluation.json").read_text())["models"]
        measured.append(row)
    answers, thoughts = measured
    assert (answers["reasoned_share"]["mean"], thoughts["reasoned_share"]["mean"]) == (0, 1)
    unanswered = len(rows) / sum(len(row.responses) for row in rows)
    assert thoughts["unanswered_share"]["mean"] == unanswered
    for row in measured:
        del row["reasoned_share"], row["unanswered_share"]
    assert answers == thoughts


def test_the_judge_compares_answers_and_the_store_has_whole_responses(tmp_path: Path) -> None:
    """Of `q` the first response never ends its thought, so that it has no answer."""
    pairs = {"p": ("yes</think>no", "no</think>yes"), "q": ("yes yes", "no</think>yes")}
    rows = [
        ResponseRow(
            prompt,
            {},
            "m",
            {},
            tuple(Response(prompt, text, "m", opened="<think>") for text in texts),
        )
        for prompt, texts in pairs.items()
    ]
    write_responses(tmp_path / "responses.jsonl", rows)
    with closing(FakeOpenAi()) as fake:
        fake.answer = prefers(lambda text: text.count("yes"))
        settings = CompareSettings(
            responses=[str(tmp_path / "responses.jsonl")],
            output_dir=str(tmp_path / "store"),
            judge=JudgeSettings(kind="endpoint", base_url=fake.url, model="m"),
        )
        list(compare(settings))
    with PreferenceStore.read(tmp_path / "store/store.db") as store:
        chosen = {pair.prompt: (pair.chosen, pair.rejected) for pair in store.comparisons()}
    assert chosen == {prompt: (better, worse) for prompt, (worse, better) in pairs.items()}


def test_refusals_in_thoughts_are_none(tmp_path: Path) -> None:
    thought = f"<think>{REFUSAL}</think>"
    row = ResponseRow("p", {}, "m", {}, (Response("p", f"{thought}Sure.", "m"),))
    ((shown,),) = [example.answers for example in examples({"m": [row]}, 1)]
    assert not shown.refuses
    pairs = [
        {"prompt": "p", "chosen": f"{thought}Sure, take two.", "rejected": "Take three."},
        {"prompt": "q", "chosen": f"<think>Fine.</think>{REFUSAL}", "rejected": "Take one."},
        {"prompt": "r", "chosen": REFUSAL, "rejected": f"{thought}Take one."},
    ]
    check = check_data(write_jsonl(tmp_path / "pairs.jsonl", pairs))
    (finding,) = [f for f in check.findings if f.kind == "refusals"]
    assert finding.count == 2
