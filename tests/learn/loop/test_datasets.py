"""The rows that training uses: which, under which names, from which data sets, and when read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.cli.entry import run
from accord.data.read import records_from_rows
from accord.data.selection import ReadRows, limit_rows, mix_rows
from accord.errors import DataError, SettingsError
from accord.records import Demonstration
from accord.runs import read_metrics
from accord.settings.reading.load import build
from accord.settings.training import SftSettings

GOOD = {"prompt": "a pan", "completion": "a pot"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(name: str, count: int) -> ReadRows:
    rows = [{"prompt": f"{name}{i}", "completion": "x"} for i in range(count)]
    return ReadRows(*records_from_rows(rows, "sft"))


def prompts(rows: ReadRows) -> list[Any]:
    return [r.prompt for r in rows.records if isinstance(r, Demonstration)]


@pytest.mark.parametrize("method", ["dpo", "grpo"])
@pytest.mark.parametrize("key", ["dataset", "eval_dataset"])
def test_rows_that_do_not_fit_are_refused_before_the_model_is_loaded(
    method: str,
    key: str,
    tiny_world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("accord.learn.offline.train.load_starting_model", load)
    monkeypatch.setattr("accord.learn.online.train.load_roles", load)
    monkeypatch.setattr("accord.api.train.starting_model", load)
    model, pair = tiny_world / "model", {"prompt": "a", "chosen": "b", "rejected": "c"}
    paths = {k: write(tmp_path / f"{k}.jsonl", [pair]) for k in ("dataset", "eval_dataset")}
    paths[key] = write(tmp_path / "wrong.jsonl", [{"title": "x", "score": 3}])
    reward = [] if method == "dpo" else [f"reward_model={model}"]
    settings = [f"model={model}", f"output_dir={tmp_path / 'out'}", *reward]
    assert run(["train", method, *settings, *(f"{k}={v}" for k, v in paths.items())]) == 2
    assert "wrong.jsonl has the columns title, score" in capsys.readouterr().err
    with pytest.raises(DataError, match="has the columns title, score"):
        accord.train(method, model=model, reward=no_score if reward else None, **paths)


def no_score(responses: list[str]) -> list[float]:
    return [0.0 for _ in responses]


def test_a_number_of_rows() -> None:
    rows = read("a", 100)
    assert prompts(limit_rows(rows, 3, "start", 0)) == ["a0", "a1", "a2"]
    chosen = limit_rows(rows, 10, "anywhere", 7)
    assert prompts(chosen) == prompts(limit_rows(rows, 10, "anywhere", 7))
    assert prompts(chosen) != prompts(limit_rows(rows, 10, "anywhere", 8))
    numbers = [int(str(p)[1:]) for p in prompts(chosen)]
    assert numbers == sorted(set(numbers))  # ten different rows in their order
    assert chosen.report.notes[-1] == (
        "10 of the 100 usable rows are used: a random choice by seed 7"
    )
    assert limit_rows(rows, 100, "start", 0) is rows
    # All records of a row are used, or none: a pair gives two ratings.
    pairs = [{"prompt": str(i), "chosen": "b", "rejected": "c"} for i in range(5)]
    assert (
        len(limit_rows(ReadRows(*records_from_rows(pairs, "ratings")), 2, "start", 0).records) == 4
    )


def test_a_mixture_by_weights_repeats_no_row() -> None:
    # Weights 1 : 3 of 100 and 90 rows: min(100/1, 90/3) = 30, so 30 and 90 rows.
    mixed = mix_rows([read("a", 100), read("b", 90)], [1.0, 3.0], seed=0)
    assert Counter(str(p)[0] for p in prompts(mixed)) == {"a": 30, "b": 90}
    assert len(set(prompts(mixed))) == 120
    assert prompts(mixed) == prompts(mix_rows([read("a", 100), read("b", 90)], [1.0, 3.0], seed=0))
    assert (mixed.report.rows, mixed.report.used, mixed.report.records) == (190, 190, 120)
    assert any("30 of the 100 usable rows" in note for note in mixed.report.notes)
    whole = mix_rows([read("a", 2), read("b", 3)], [], seed=0)
    assert prompts(whole) == ["a0", "a1", "b0", "b1", "b2"]


def test_columns_under_other_names(tmp_path: Path) -> None:
    rows = [{"question": "q", "good": "g", "bad": "b", "prompt": "other"}]
    names = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    [pair], report = records_from_rows(rows, "comparisons", columns=names)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "g", "b")  # type: ignore[union-attr]
    assert report.notes == ["columns not read: original prompt"]
    with pytest.raises(DataError) as caught:
        records_from_rows(rows, "comparisons", columns={**names, "prompt": "questions"})
    assert str(caught.value) == (
        "The list has no column 'questions', which `columns` names for `prompt`. Did you mean "
        "'question'? It has question, good, bad, prompt."
    )
    with pytest.raises(DataError, match=r"names 'choosen', which is not read\. Did you mean 'cho"):
        records_from_rows(rows, "comparisons", columns={"choosen": "good"})
    read, _ = records_from_rows(
        [GOOD], "sft", columns={"prompt": "question"}, columns_required=False
    )
    assert read[0].prompt == "a pan"  # type: ignore[union-attr]


def test_training_on_a_mixture_with_named_held_out_sets(tiny_world: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"question": "a pan", "completion": "a pot"}] * 8)
    second = write(tmp_path / "b.jsonl", [GOOD] * 8)
    held_out = {name: write(tmp_path / f"{name}.jsonl", [GOOD] * 3) for name in ("easy", "hard")}
    out = tmp_path / "out"
    arguments = {
        "model": tiny_world / "model",
        "dataset": first,
        "columns": "{prompt: question}",
        "max_samples": 6,
        "samples_from": "anywhere",
        "mixture": f"[{{dataset: {second}, weight: 0.5}}]",
        "eval_dataset": json.dumps(held_out),
        "max_eval_samples": 2,
        "output_dir": out,
        "max_steps": 1,
    }
    assert run(["train", "sft", *(f"{k}={v}" for k, v in arguments.items())]) == 0
    data = json.loads((out / "data.json").read_text())
    assert data["encoded"]["records"] == 9  # 6 of the first, and half as many of the second
    assert json.loads((out / "eval_data.easy.json").read_text())["encoded"]["records"] == 2
    [row] = read_metrics(out / "metrics.jsonl")
    assert row["eval/easy/loss"] == row["eval/hard/loss"] > 0
    # From Python, with rows in memory.
    held_out_rows = {"one": [GOOD], "two": [GOOD] * 2}
    model = accord.train(
        "sft",
        model=tiny_world / "model",
        dataset=[GOOD],
        eval_dataset=held_out_rows,
        max_steps=1,
        progress=False,
    )
    assert {"eval/one/loss", "eval/two/loss"} <= set(model.metrics[-1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples_from": "anywhere"}, "`samples_from` does nothing without `max_samples`"),
        ({"max_eval_samples": 3}, "`max_eval_samples` does nothing without `eval_dataset`"),
        (
            {"mixture": [{"dataset": "a", "weight": 1}, {"dataset": "b"}]},
            "Give all of them one",
        ),
        ({"eval_dataset": {"a/b": "x"}}, "can't be the name of a held-out data set"),
    ],
)
def test_settings_that_do_nothing(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        build(
            SftSettings, {"model": "m", "dataset": "d", "output_dir": "o", **values}, where="train"
        )
