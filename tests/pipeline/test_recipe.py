"""A tiny recipe of the whole cycle, run from end to end."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from accord.compare.dataset import load_records
from accord.data.write import record_json, write_jsonl
from accord.lm.load import load_causal
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import Limits, encode
from accord.pipeline import plan_recipe, run_recipe
from tests.pipeline.conftest import tiny

MODELS = ["sft", "<dpo & co>", "ppo", "best of 4"]
STAGES = [plan.name for plan in tiny(Path("out")).stages]


def read_results(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    return results


def stage_files(run: Path) -> dict[str, bytes]:
    """The stage.json of each stage, by name; that of the report is in the run's folder."""
    files = [run / "stage.json", *run.glob("*/stage.json")]
    return {json.loads(file.read_text())["name"]: file.read_bytes() for file in files}


def read_weights(run: Path) -> dict[str, bytes]:
    return {
        name: (run / name / "model/model.safetensors").read_bytes()
        for name in ("sft", "reward", "dpo", "ppo")
    }


def test_results_have_every_model(tiny_run: Path) -> None:
    results = read_results(tiny_run)
    assert [row["model"] for row in results["models"]] == MODELS
    for row in results["models"]:
        numbers = (
            "true_reward true_reward_low true_reward_high reward_model_score kl elo elo_low "
            "elo_high mean_length distinct_2 duplicate_share"
        )
        for name in numbers.split():
            assert math.isfinite(row[name]), (row["model"], name)
        # Null where no prompt is of the kind, or no response is in words that can be graded.
        assert {"refusal_harmful", "refusal_safe", "refusal_jailbreak"} <= set(row)
        assert row["true_reward_low"] <= row["true_reward"] <= row["true_reward_high"]
        assert (row["seconds"] is None) == (row["model"] == "best of 4")
        assert row["kl"] >= 0
    by_name = {row["model"]: row for row in results["models"]}
    assert by_name["sft"]["kl"] == 0
    assert by_name["<dpo & co>"]["kl"] > 0
    # log N − (N − 1)/N with N = 4, the closed form of best-of-N.
    assert by_name["best of 4"]["kl"] == pytest.approx(math.log(4) - 0.75)
    assert by_name["best of 4"]["reward_model_score"] > by_name["sft"]["reward_model_score"]
    # The reward model of the evaluation is the one that ppo was trained against.
    scores = {name: by_name[name]["reward_model_score"] for name in ("ppo", "sft")}
    assert by_name["ppo"]["proxy_gain"] == pytest.approx(scores["ppo"] - scores["sft"])
    assert by_name["sft"]["proxy_gain"] is None
    assert by_name["sft"]["elo"] == 1000  # the anchor
    assert 0 <= results["reward_model"]["accuracy"]["mean"] <= 1
    assert {"command", "version", "seed", "machine", "date", "seconds"} <= set(results["run"])
    assert results["run"]["seed"] == 0


def test_the_page_names_every_model_and_escapes(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    assert "Tiny &lt;run&gt;" in page
    assert "<run>" not in page
    assert "&lt;dpo &amp; co&gt;" in page
    assert "<dpo" not in page
    for name in ("sft", "ppo", "best of 4"):
        assert name in page


def test_every_stage_is_recorded(tiny_run: Path) -> None:
    files = stage_files(tiny_run)
    assert sorted(files) == sorted(STAGES)
    for name, content in files.items():
        stage = json.loads(content)
        assert stage["finished"]
        assert stage["seconds"] > 0
        folder = tiny_run if name == "report" else tiny_run / name
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
    inputs = json.loads(files["ppo"])["inputs"]
    used = [tiny_run / path for path in ("reward/model", "sft/model", "world/train_prompts.jsonl")]
    assert sorted(inputs) == sorted(map(str, used))


def test_a_finished_run_runs_nothing_again(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stage_files(tiny_run)
    run_recipe(tiny(tiny_run))
    assert stage_files(tiny_run) == before
    messages = capsys.readouterr().err.splitlines()
    assert [f"{name}: finished before, not run again" for name in STAGES] == messages


@dataclass(frozen=True)
class SecondRun:
    """The same recipe run a second time, with its results before any change."""

    folder: Path
    results: dict[str, Any]
    weights: dict[str, bytes]


@pytest.fixture(scope="module")
def second_run(tmp_path_factory: pytest.TempPathFactory) -> SecondRun:
    folder = tmp_path_factory.mktemp("again") / "out"
    run_recipe(tiny(folder))
    return SecondRun(folder, read_results(folder), read_weights(folder))


def test_a_changed_setting_runs_its_stage_and_what_depends_on_it(
    second_run: SecondRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run, results = second_run.folder, second_run.results
    before = stage_files(run)
    capsys.readouterr()
    recipe = tiny(run, "dpo.beta=0.5")
    plan = plan_recipe(recipe)
    assert "dpo (train dpo): to run again: beta was 0.1, is 0.5\n" in plan
    later = "to run again if `dpo`, which runs before it, gives something else\n"
    assert f"\ndpo-test (sample): {later}" in plan
    for name in ("evaluate", "arena", "report"):
        assert f"\n{name} ({name}): to run again if " in plan
    for name in ("sft (train sft)", "ppo (train ppo)", "ppo-test (sample)"):
        assert f"\n{name}: finished " in plan
    assert stage_files(run) == before  # a plan runs nothing
    run_recipe(recipe)
    messages = capsys.readouterr().err
    assert "\ndpo: beta was 0.1, is 0.5; runs again from the start\n" in messages
    assert f"\ndpo-test: {run}/dpo/model has changed; runs again from the start\n" in messages
    after = stage_files(run)
    again = [name for name in STAGES if after[name] != before[name]]
    assert again == ["dpo", "dpo-test", "evaluate", "arena", "report"]
    # Another β changes the model trained with it, and no other.
    for old, new in zip(results["models"], read_results(run)["models"], strict=True):
        assert (old["kl"] == new["kl"]) == (old["model"] != "<dpo & co>")


def test_a_plan_lists_settings_and_states(tmp_path: Path) -> None:
    plan = plan_recipe(tiny(tmp_path / "out", "ppo.max_kl=9"))
    assert plan.startswith(f"output_dir: {tmp_path / 'out'}\nseed: 0\n")
    assert plan.count(": not begun\n") == len(STAGES)
    assert "\nppo (train ppo): not begun\n" in plan
    assert "\n  max_kl: 9.0\n" in plan
    assert f'\n  reward_model: "{tmp_path / "out"}/reward/model"\n' in plan
    assert not (tmp_path / "out").exists()


def reproducible(results: dict[str, Any]) -> dict[str, Any]:
    """The results without dates, durations and facts of the machine."""
    models = [{k: v for k, v in row.items() if k != "seconds"} for row in results["models"]]
    cost = re.sub(r"its training took [^,]+, ", "", results["verdict"]["cost"])
    verdict = {**results["verdict"], "cost": cost}
    return {**results, "models": models, "run": results["run"]["seed"], "verdict": verdict}


def test_equal_seeds_give_equal_results(tiny_run: Path, second_run: SecondRun) -> None:
    assert reproducible(second_run.results) == reproducible(read_results(tiny_run))
    assert second_run.weights == read_weights(tiny_run)


def test_another_seed_gives_other_results(tiny_run: Path, tmp_path: Path) -> None:
    run_recipe(tiny(tmp_path / "other", "seed=1"))
    first, second = read_results(tiny_run), read_results(tmp_path / "other")
    assert second["run"]["seed"] == 1
    for row, other_row in zip(first["models"], second["models"], strict=True):
        assert row["reward_model_score"] != other_row["reward_model_score"]


def test_a_store_and_a_file_of_its_rows_give_the_same_groups(
    tiny_run: Path, tmp_path: Path
) -> None:
    lm = load_causal(str(tiny_run / "sft/model"))

    def encode_file(path: Path) -> list[PromptGroup]:
        records, _ = load_records(path, "preferences")
        groups, _ = encode(records, lm.tokenizer, Limits(256), eos_ids=lm.eos_ids)
        return groups

    store = tiny_run / "preferences/store.db"
    records, _ = load_records(store, "preferences")
    assert len(records) > 20
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, map(record_json, records))
    stored, read = encode_file(store), encode_file(file)
    assert len(stored) >= 4
    for a, b in zip(stored, read, strict=True):
        assert (a.prompt, a.responses, a.ranks) == (b.prompt, b.responses, b.ranks)
