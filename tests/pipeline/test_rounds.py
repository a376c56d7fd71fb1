"""Rounds: the data, the start and the reference of each, and how they are resumed."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.data.write import read_responses
from accord.errors import SettingsError
from accord.measure.texts.diversity import distinct_n, words
from accord.pipeline import plan_recipe, run_recipe, run_stage
from accord.records import Comparison, Demonstration
from accord.runs import digest_path, read_metrics
from accord.settings.recipe import load_recipe, single_stage

ROUNDS = [
    "dataset=../world/train_prompts.jsonl",
    "eval_dataset=../world/test_prompts.jsonl",
    "model=../sft/model",
    "judge.kind=reward_model",
    "judge.model=../reward/model",
    "output_dir=out",
    "num_responses=3",
    "max_new_tokens=16",
    "train.max_steps=2",
    "train.learning_rate=1.0e-2",
    "train.per_device_train_batch_size=8",
]


@pytest.fixture
def workspace(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder beside the tiny run's stages."""
    for name in ("world", "sft", "reward"):
        (tmp_path / name).symlink_to(tiny_run / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def iterate(*overrides: str) -> None:
    named = {text.partition("=")[0] for text in overrides}
    shared = [text for text in ROUNDS if text.partition("=")[0] not in named]
    run_stage(single_stage("iterate", overrides=[*shared, *overrides]))


def read_rounds(out: Path = Path("out")) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "rounds.json").read_text())
    return content


def read_settings(stage: str, out: Path = Path("out")) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((out / stage / "stage.json").read_text())["settings"]
    return settings


def stage_files(out: Path = Path("out")) -> dict[str, bytes]:
    return {str(p.parent): p.read_bytes() for p in sorted(out.glob("round-*/*/stage.json"))}


def test_each_round_trains_and_records_its_model(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate("rounds=2", "prompts_per_round=10", "world=true")
    models = ["../sft/model", "out/round-1/train/model", "out/round-2/train/model"]
    rows = read_rounds()["rounds"]
    assert [row["model"] for row in rows] == models
    assert [row.get("start") for row in rows] == [None, *models[:2]]
    for number in (1, 2):
        start, row = models[number - 1], rows[number]
        assert read_settings(f"round-{number}/sample")["model"] == start
        assert read_settings(f"round-{number}/train")["model"] == start
        assert row["digests"]["model"] == digest_path(models[number])
        assert row["sampled_prompts"] == 10
        assert row["counts"]["responses"] == 30
        with PreferenceStore.open(row["verdicts"], create=False) as store:
            assert {v.round for v in store.verdicts()} == {number}
            assert {r.response.model for r in store.responses()} == {f"round-{number - 1}"}
    assert len({digest_path(model) for model in models}) == 3
    assert digest_path("out/model") == digest_path(models[-1])
    assert not Path("out/model").is_symlink()
    first, second = (
        {row.prompt for row in read_responses(f"out/round-{n}/sample/responses.jsonl")}
        for n in (1, 2)
    )
    assert len(first) == len(second) == 10
    assert not first & second  # of 32 prompts, none is used again before all were used
    table = capsys.readouterr().out
    assert "round   true reward" in table
    assert "Done" not in table  # the command line prints that
    page = workspace / "out"
    run_stage(single_stage("report", overrides=[f"run={page}", f"output_dir={page}"]))
    html = (page / "report.html").read_text()
    assert "<h2>Rounds</h2>" in html
    section = html[html.index('id="rounds-1"') : html.index('id="figures"')]
    assert section.count(' by round"') == len(("true reward", "score", "rating", "KL", "words")) + 3


def test_the_measures_are_those_of_the_answers(workspace: Path) -> None:
    iterate("rounds=1", "eval_responses=2")
    rows = read_rounds()["rounds"]
    assert [row["win_rate"] is None for row in rows] == [True, False]
    texts = []
    for row in rows:
        lines = read_responses(f"out/round-{row['round']}/answers/responses.jsonl")
        responses = [r for line in lines for r in line.responses]
        texts.append([r.text for r in responses])
        assert len(responses) == 2 * 12
        assert row["mean_length"]["mean"] == pytest.approx(
            sum(len(words(r.text)) for r in responses) / len(responses)
        )
        ended = sum(r.finished for r in responses) / len(responses)
        assert row["finished_share"]["mean"] == pytest.approx(ended)
    assert texts[0] != texts[1]
    # Over equally many words, because the distinct share falls as text grows.
    fewest = min(sum(len(words(text)) for text in answers) for answers in texts)
    assert read_rounds()["distinct_2_words"] == fewest
    for row, answers in zip(rows, texts, strict=True):
        assert row["distinct_2"] == distinct_n(answers, 2, tokens=fewest)
    assert rows[0]["kl"]["mean"] == 0
    assert rows[1]["kl"]["mean"] > 0
    # By hand: of twelve prompts, how often the judge preferred the first answer of round 1's model.
    with PreferenceStore.open("out/round-1/arena/store.db", create=False) as store:
        battles = store.battles()
    score = Counter[str]()
    for battle in battles:
        winner = {"a": battle.model_a, "b": battle.model_b}.get(battle.outcome, "tie")
        score[winner] += 1
    assert sum(score.values()) == 12
    rate = (score["round-1"] + score["tie"] / 2) / 12
    assert rows[1]["win_rate"]["mean"] == pytest.approx(rate)
    # A pseudo-battle, half won by each, joins the twelve: the logit of the share is the rating.
    share = (12 * rate + 0.5) / 13
    elo = 1000 + 400 * math.log10(share / (1 - share))
    assert rows[1]["elo"]["mean"] == pytest.approx(elo, abs=1e-3)
    assert rows[1]["elo"]["low"] < elo < rows[1]["elo"]["high"]
    assert rows[0]["elo"] == {"mean": 1000.0, "low": None, "high": None}


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_the_reference_is_the_first_model_or_the_rounds_start(
    workspace: Path, reference: str
) -> None:
    iterate("rounds=2", f"reference={reference}", "eval_prompts=2")
    references = [read_settings(f"round-{n}/train")["ref_model"] for n in (1, 2)]
    assert references == (["../sft/model"] * 2 if reference == "fixed" else [None] * 2)
    recorded = [row.get("reference") for row in read_rounds()["rounds"]]
    start = "../sft/model" if reference == "fixed" else "out/round-1/train/model"
    assert recorded == [None, "../sft/model", start]
    # Margins are of log-ratios to the reference: 0 before the first step only where the model is
    # the reference itself.
    first, second = (
        read_metrics(f"out/round-{n}/train/metrics.jsonl")[0]["rewards/margins"] for n in (1, 2)
    )
    assert abs(first) < 1e-6  # rounding
    assert (abs(second) < 1e-6) == (reference == "moving")


def test_more_rounds_resume_and_repeat_nothing(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate("rounds=1", "eval_prompts=4")
    before, first = stage_files(), read_rounds()["rounds"]
    iterate("rounds=1", "eval_prompts=4")
    assert "iterate: finished before, not run again" in capsys.readouterr().err
    iterate("rounds=2", "eval_prompts=4")
    after = stage_files()
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 6
    assert [row["model"] for row in read_rounds()["rounds"][:2]] == [row["model"] for row in first]
    assert digest_path("out/model") == digest_path("out/round-2/train/model")
    iterate("output_dir=whole", "rounds=2", "eval_prompts=4")
    weights = "model/model.safetensors"  # the model's card names folders
    assert digest_path(f"whole/{weights}") == digest_path(f"out/{weights}")
    # Fewer rounds: the model is that of the first round, and the second round is not removed.
    iterate("rounds=1", "eval_prompts=4")
    assert digest_path("out/model") == digest_path("out/round-1/train/model")
    assert len(read_rounds()["rounds"]) == 2
    assert stage_files() == after


def test_other_settings_do_not_replace_the_folder(workspace: Path) -> None:
    iterate("rounds=1", "eval_prompts=2")
    before = stage_files()
    with pytest.raises(SettingsError, match=r"other settings or inputs made: train changed\."):
        iterate("rounds=1", "eval_prompts=2", "train.beta=0.7")
    iterate("rounds=1", "eval_prompts=2", "train.save_steps=1")  # which does not change the result
    assert stage_files() == before
    # Nor is an unfinished one replaced, which has stages to lose.
    stage = json.loads(Path("out/stage.json").read_text())
    Path("out/stage.json").write_text(json.dumps({**stage, "finished": None}))
    with pytest.raises(SettingsError, match="other settings or inputs made: seed was 0, is 1"):
        iterate("rounds=1", "eval_prompts=2", "seed=1")
    assert stage_files() == before


def test_all_data_is_that_of_all_rounds(workspace: Path) -> None:
    iterate("rounds=2", "keep_data=all", "eval_prompts=2", "form=pairs", "num_responses=4")
    with PreferenceStore.open("out/round-1/compare/store.db", create=False) as store:
        first = store.comparisons()
    with PreferenceStore.open("out/round-2/compare/store.db", create=False) as store:
        second = store.comparisons(round=2)
        rounds = Counter(v.round for v in store.verdicts())
    assert rounds == {1: 64, 2: 64}  # two pairs of each of 32 prompts
    learned, _ = load_records("out/round-2/compare/store.db", "preferences")
    pairs = [(r.prompt, r.chosen, r.rejected) for r in learned if isinstance(r, Comparison)]
    expected = [(r.prompt, r.chosen, r.rejected) for r in [*first, *second]]
    assert pairs == [pair for pair in expected if pair[1] != pair[2]]
    data = json.loads(Path("out/round-2/train/data.json").read_text())
    assert data["read"]["records"] == len(pairs)
    assert read_settings("round-2/train")["dataset"] == "out/round-2/compare/store.db"


def test_rejection_sampling_imitates_the_best(workspace: Path) -> None:
    iterate("rounds=1", "eval_prompts=2", "train.method=rejection_sampling")
    assert json.loads(Path("out/round-1/train/stage.json").read_text())["method"] == "sft"
    with PreferenceStore.open("out/round-1/compare/store.db", create=False) as store:
        rankings = store.rankings()
    assert len(rankings) == 32
    records, report = load_records("out/round-1/compare/store.db", "sft")
    assert [type(r) for r in records] == [Demonstration] * 32
    for ranking, record in zip(rankings, records, strict=True):
        assert isinstance(record, Demonstration)
        best = [t for t, rank in zip(ranking.responses, ranking.ranks, strict=True) if rank == 0]
        assert (record.prompt, record.response) == (ranking.prompt, best[0])
    assert "the best of each ranking is read as a demonstration" in report.notes
    assert read_rounds()["reference"] is None


@pytest.mark.parametrize("method", ["kto", "simpo"])
def test_other_methods_run_a_round(workspace: Path, method: str) -> None:
    form = ["form=labels"] if method == "kto" else []
    iterate("rounds=1", "eval_prompts=2", f"train.method={method}", *form)
    assert read_rounds()["method"] == method
    assert read_rounds()["rounds"][1]["kl"]["mean"] > 0


def test_adapters_move_from_round_to_round(workspace: Path) -> None:
    iterate("rounds=2", "eval_prompts=2", "train.lora.r=2")
    # Away from the first model before its first step: round 1's adapters are in what it trains.
    assert read_metrics("out/round-2/train/metrics.jsonl")[0]["rewards/margins"] != 0
    assert Path("out/round-1/train/model/adapter_config.json").is_file()
    assert all(row["kl"]["mean"] > 0 for row in read_rounds()["rounds"][1:])


def test_a_deleted_round_is_repeated_to_the_bit(workspace: Path) -> None:
    iterate("rounds=2", "eval_prompts=2")
    before = {name: digest_path(f"out/{name}") for name in ("model", "round-1/train/model")}
    rounds = Path("out/rounds.json").read_bytes()
    for name in ("round-1/train", "round-2/sample", "model"):
        shutil.rmtree(f"out/{name}")
    stage = json.loads(Path("out/stage.json").read_text())
    Path("out/stage.json").write_text(json.dumps({**stage, "finished": None}))
    iterate("rounds=2", "eval_prompts=2")
    assert {name: digest_path(f"out/{name}") for name in before} == before
    assert Path("out/rounds.json").read_bytes() == rounds


def test_more_prompts_than_there_are(workspace: Path) -> None:
    with pytest.raises(SettingsError, match=r"prompts_per_round=33, but .* has 32 prompts"):
        iterate("prompts_per_round=33", "eval_prompts=2")


def test_rejection_sampling_as_a_recipe(workspace: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "best.yaml"
    recipe.write_text(
        """\
output_dir: best
stages:
  - {stage: sample, model: ../sft/model, dataset: ../world/train_prompts.jsonl, max_new_tokens: 16}
  - {stage: select, responses: $sample/responses.jsonl, n: 4, reward_model: ../reward/model,
     model_name: best of 4}
  - {stage: train, method: sft, model: ../sft/model, dataset: $select/responses.jsonl, max_steps: 1}
"""
    )
    run_recipe(load_recipe(recipe))
    data = json.loads(Path("best/sft/data.json").read_text())
    selected = read_responses("best/select/responses.jsonl")
    not_empty = [row for row in selected if row.responses[0].text.strip()]
    assert data["read"]["records"] == len(not_empty) > 16


def test_rounds_in_a_recipe_are_extended_too(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "rounds.yaml"
    recipe.write_text(
        """\
output_dir: out
stages:
  - {stage: iterate, model: ../sft/model, dataset: ../world/train_prompts.jsonl, rounds: 1,
     num_responses: 2, max_new_tokens: 16, eval_prompts: 2, judge: {noise: 0.5},
     train: {method: dpo, max_steps: 1}}
"""
    )
    run_recipe(load_recipe(recipe))
    before = stage_files(Path("out/iterate"))
    more = load_recipe(recipe, ["iterate.rounds=2"])
    assert "iterate (iterate): resumes: rounds was 1, is 2" in plan_recipe(more)
    run_recipe(more)
    after = stage_files(Path("out/iterate"))
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 6
    run_recipe(load_recipe(recipe, ["iterate.rounds=2", "iterate.train.beta=0.5"]))
    assert "iterate: train changed; runs again from the start" in capsys.readouterr().err
    assert not set(stage_files(Path("out/iterate")).values()) & set(after.values())
