"""Training on rows in chunks is training on the same rows in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from studies.forked import run_forked

from accord.errors import DataError
from accord.learn.loop.fit import StepResult
from accord.learn.offline import dataset_rows, prepared, reference_cache, rows
from accord.lm.tokens import encode_chunks
from accord.lm.tokens.token_rows import TokenRows
from accord.settings.stage_kinds import METHOD_SETTINGS
from tests.learn.toys.files import read_jsonl, user_says, write_jsonl
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import train
from tests.lm.toys import save_toy

PAIRS = [
    {"prompt": user_says(f"the {word} {i}"), "chosen": "sat on the mat", "rejected": "no " * i}
    for i, word in enumerate("cat sea sun mat dog door house tree far near".split(), start=1)
]


def run(folder: Path, method: str, name: str, **overrides: Any) -> list[StepResult]:
    return train(method, make_settings(folder, method, name, **overrides))


def make_settings(folder: Path, method: str, name: str, **overrides: Any) -> Any:
    """Settings of a run on the toy model and the pairs, which are written to `folder`."""
    toy = folder / "toy"
    model = str(toy) if toy.is_dir() else save_toy(toy)
    return METHOD_SETTINGS[method](
        **{
            "model": model,
            "dataset": write_jsonl(folder / "rows.jsonl", PAIRS),
            "eval_dataset": write_jsonl(folder / "held_out.jsonl", PAIRS[:5]),
            "output_dir": str(folder / name),
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            **overrides,
        }
    )


def assert_same_steps(first: list[StepResult], second: list[StepResult]) -> None:
    rows = [[without_seconds(step.metrics) for step in steps] for steps in (first, second)]
    assert rows[0] == rows[1]


def reports(folder: Path, *names: str, data: str = "data.json") -> list[Any]:
    return [json.loads((folder / name / data).read_text()) for name in names]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward", "orpo"])
def test_losses_and_weights_are_equal_to_the_bit(
    method: str, streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path, method, "whole")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    if streamed:
        monkeypatch.setattr(prepared, "MIN_BYTES", 1)
        monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
        monkeypatch.setattr(dataset_rows, "encode_rows", None)
    monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 3)
    monkeypatch.setattr(rows, "MIN_RECORDS", 4)
    monkeypatch.setattr(reference_cache, "SHARD_ROWS", 4)
    opened: list[int] = []
    real = TokenRows.__getitem__

    def counted(self: TokenRows, index: Any) -> Any:
        opened.append(1)
        return real(self, index)

    monkeypatch.setattr(TokenRows, "__getitem__", counted)
    chunked = run(tmp_path, method, "chunked")
    assert opened
    assert_same_steps(chunked, whole)
    first, second = (
        load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "chunked")
    )
    assert all(bool((first[key] == second[key]).all()) for key in first.keys() | second.keys())
    expected, report = reports(tmp_path, "whole", "chunked")
    assert report == expected


def test_a_large_file_with_columns_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_of_file = [
        {"q": p["prompt"], "good": p["chosen"], "rejected": p["rejected"]} for p in PAIRS
    ]
    rows_of_file[3]["good"] = " "
    changed = {
        "dataset": write_jsonl(tmp_path / "own.jsonl", [*rows_of_file, {"q": 1}]),
        "columns": {"prompt": "q", "chosen": "good"},
    }
    whole = run(tmp_path, "dpo", "whole", **changed)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "encode_rows", None)
    chunked = run(tmp_path, "dpo", "chunked", **changed)
    assert_same_steps(chunked, whole)
    expected, report = reports(tmp_path, "whole", "chunked")
    assert report == expected
    assert sum(map(len, report["read"]["dropped"].values())) == 2


DIALOGUES = [
    {
        "chosen": f"\n\nHuman: the {word}?\n\nAssistant: sat on the mat",
        "rejected": f"\n\nHuman: the {word}?\n\nAssistant: no",
    }
    for word in "cat sea sun mat dog door house tree".split()
]


@pytest.mark.parametrize(
    "changed",
    [
        {"max_samples": 6},
        {"max_eval_samples": 3},
        {"max_samples": 6, "samples_from": "anywhere"},
        {"mixture": [{"dataset": "more.jsonl"}]},
        {"mixture": [{"dataset": "more.jsonl", "weight": 0.5}]},
        {"mixture": [{"dataset": "more.jsonl", "weight": 2, "max_samples": 4}], "max_samples": 7},
        {
            "mixture": [{"dataset": "more.jsonl", "weight": 2}],
            "max_samples": 7,
            "samples_from": "anywhere",
        },
        {"mixture": [{"dataset": "own.jsonl", "columns": {"prompt": "q", "chosen": "good"}}]},
        {"dataset": "dialogues.jsonl"},
        {"dataset": "dialogues.jsonl", "dialogue_text": "keep"},
    ],
    ids=lambda changed: "-".join(map(str, changed)),
)
def test_a_choice_of_rows_of_a_large_file(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "more.jsonl", [{"prompt": "a"}, *PAIRS[3:9]])
    own = [{"q": p["prompt"], "good": p["chosen"], "rejected": p["rejected"]} for p in PAIRS]
    write_jsonl(tmp_path / "own.jsonl", own)
    write_jsonl(tmp_path / "dialogues.jsonl", DIALOGUES)
    whole = run(tmp_path, "dpo", "whole", **changed)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "encode_rows", None)
    streamed = run(tmp_path, "dpo", "streamed", **changed)
    assert_same_steps(streamed, whole)
    for name in ("data.json", "eval_data.json"):
        expected, report = reports(tmp_path, "whole", "streamed", data=name)
        assert report == expected


@pytest.fixture
def large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are large, of which few steps read few rows."""
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "MIN_ROWS", 1)


def test_few_steps_read_few_rows_of_a_large_file(tmp_path: Path, large_files: None) -> None:
    numbered = [{**PAIRS[n % 10], "prompt": user_says(f"{n} cats")} for n in range(40)]
    dataset = write_jsonl(tmp_path / "many.jsonl", numbered)
    for steps, number in ((1, 8), (2, 16), (4, 40)):  # of 4 rows each, and of 40 at most half
        run(tmp_path, "dpo", f"run{steps}", dataset=dataset, max_steps=steps)
        (report,) = reports(tmp_path, f"run{steps}")
        assert report["encoded"]["records"] == report["read"]["used"] == number
        note = f"{number} of the 40 rows are read: a random choice by seed 0, more than"
        assert any(note in n for n in report["read"]["notes"]) == (number < 40)


def test_few_steps_count_the_usable_rows_where_too_few_of_the_chosen_are(
    tmp_path: Path, large_files: None
) -> None:
    numbered = [
        {**PAIRS[n % 10], "prompt": user_says(f"{n} cats"), "margin": 1.0 if n < 20 else "high"}
        for n in range(80)
    ]
    dataset = write_jsonl(tmp_path / "many.jsonl", numbered)
    run(tmp_path, "dpo", "run", dataset=dataset, max_steps=2)
    (report,) = reports(tmp_path, "run")
    assert report["read"]["used"] == 20
    assert report["encoded"]["records"] == 16
    assert any("16 of the 20 usable rows are used" in note for note in report["read"]["notes"])


UNCLEAR = [
    {"prompt": str(n), "response_a": "b", "response_b": "c", "preferred": 1} for n in range(6)
]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": {"prompt": "question"}}, "has no column 'question'"),
        ({"dataset": [{"text": "a"}] * 9}, "has the columns text; preferences need"),
        ({"dataset": [{**p, "chosen": ""} for p in PAIRS]}, "none of which can be used"),
        (
            {"dataset": [{**p, "chosen": ""} for p in PAIRS], "max_samples": 3},
            "none of which can be used",
        ),
        ({"dataset": UNCLEAR}, "it can't be known which response"),
        ({"max_length": 2}, "None of the 10 rows can be used"),
    ],
)
def test_a_large_file_is_refused_as_a_small_one(
    changed: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "dataset" in changed:
        changed = {"dataset": write_jsonl(tmp_path / "other.jsonl", changed["dataset"])}
    with pytest.raises(DataError, match=message) as small:
        run(tmp_path, "dpo", "whole", **changed)
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
    if message.startswith("has"):
        monkeypatch.setattr("accord.learn.offline.train.load_starting_model", None)  # before it
    with pytest.raises(DataError) as large:
        run(tmp_path, "dpo", "chunked", **changed)
    assert str(large.value) == str(small.value)


@pytest.fixture
def chunks_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few rows, as large data sets have them."""
    monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 3)
    monkeypatch.setattr(rows, "MIN_RECORDS", 4)
    monkeypatch.setattr(reference_cache, "SHARD_ROWS", 3)


@pytest.mark.slow
def test_two_processes_read_the_chunks_of_the_first(tmp_path: Path, chunks_of_three: None) -> None:
    one = run(tmp_path, "dpo", "one")
    settings = make_settings(tmp_path, "dpo", "two", per_device_train_batch_size=2)
    run_forked(2, lambda rank: check_all(train("dpo", settings)), tmp_path / "log")
    losses = [row["loss"] for row in read_jsonl(tmp_path / "two/metrics.jsonl")]
    assert losses == pytest.approx([step.metrics["loss"] for step in one], abs=1e-5)


def check_all(steps: list[StepResult]) -> None:
    assert len(steps) == 4


@pytest.mark.slow
def test_all_processes_stop_where_no_row_can_be_used(tmp_path: Path, chunks_of_three: None) -> None:
    settings = make_settings(tmp_path, "dpo", "out", max_length=2)

    def work(rank: int) -> None:
        with pytest.raises(DataError, match="None of the 10 rows can be used"):
            train("dpo", settings)

    run_forked(2, work, tmp_path / "log")
