"""Remarks on a run's data and on its reference."""

from __future__ import annotations

from pathlib import Path

from accord.learn.health.rules import check_command, training_health
from accord.settings.recipe import single_stage
from tests.learn.health.courses import HEALTHY, linear_rows, remark_levels


def test_a_reference_that_is_not_the_starting_model_is_noted() -> None:
    rows = linear_rows(**HEALTHY)
    settings = {"model": "sft", "ref_model": "base"}
    assert remark_levels(rows, settings) == {"reference": "note"}  # rounds intend it
    assert remark_levels(rows, {"model": "sft", "ref_model": "sft"}) == {}
    rows[0]["rewards/chosen"] = 0.8  # equal by name, but not by numbers
    assert remark_levels(rows, {"model": "sft", "ref_model": None}) == {"reference": "warning"}


def test_the_reference_is_the_start_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "base").mkdir()
    rows, model = linear_rows(**HEALTHY), str(tmp_path / "sft")
    for spelling in (f"{model}/", f"{tmp_path}/base/../sft"):
        assert remark_levels(rows, {"model": model, "ref_model": spelling}) == {}
    settings = {"model": model, "ref_model": str(tmp_path / "base")}
    assert remark_levels(rows, settings) == {"reference": "note"}


def test_many_rows_that_are_not_learned_from_are_a_warning() -> None:
    data = {
        "read": {"rows": 100, "dropped": {"no prompt": [{"line": 3}] * 2}},
        "encoded": {"records": 98, "used": 80, "dropped": {"a response is empty": 18}},
    }
    (remark,) = training_health([], {}, data)
    assert "20 of 100 rows" in remark.text
    assert "accord data check" not in remark.text  # of what, for which model?
    settings = {"dataset": "my pairs.jsonl", "model": "base", "max_length": 256}
    (remark,) = training_health([], settings, data)
    command = "accord data check 'my pairs.jsonl' --model base --max-length 256"
    assert f"`{command}` shows them." in remark.text
    # The settings of a stage are those of one method, which is named with what is not its default.
    given = {"model": "base", "dataset": "p.jsonl", "output_dir": "out", "max_length": 64}
    stage = single_stage("train", "dpo", overrides=[f"{k}={v}" for k, v in given.items()])
    values = {**stage.settings.model_dump(mode="json"), "long_prompts": "keep_end"}
    assert check_command(values) == (
        "accord data check p.jsonl --model base --method dpo --max-length 64 long_prompts=keep_end"
    )
    memory = {**settings, "dataset": "list in memory"}
    assert "accord data check" not in training_health([], memory, data)[0].text
    assert "a response is empty" in remark.text
    # Three texts give 39 rows of tokens; two of five texts were dropped all the same.
    pieces = {
        "read": {"rows": 5},
        "encoded": {"records": 5, "used": 3, "groups": 39, "dropped": {"the text is empty": 2}},
    }
    (remark,) = training_health([], {}, pieces)
    assert "2 of 5 rows are not learned from" in remark.text
    # Of 10 rows one was dropped, and the 20 responses of the other 9 are a record each.
    several_responses = {
        "read": {"rows": 10, "dropped": {"no prompt": [{"line": 3}]}},
        "encoded": {"records": 20, "used": 18, "dropped": {"a response is empty": 2}},
    }
    (remark,) = training_health([], {}, several_responses)
    assert "3 of 21 rows are not learned from" in remark.text
    cut = {"read": {"rows": 100}, "encoded": {"records": 100, "used": 100, "responses_cut": 30}}
    assert remark_levels([], {}, cut) == {"cut responses": "warning"}
