"""`accord plan`: rows, steps, memory and the first batch, before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.errors import RequestError
from accord.learn.loop.schedule import RowOrder
from accord.pipeline.plan.machine import Machine, parse_machine
from accord.pipeline.plan.rows import RowFacts
from accord.pipeline.plan.run import PlannedStage, plan_stages, training_stages
from accord.pipeline.plan.split import split_to_come
from accord.pipeline.plan.text import marked_text
from accord.pipeline.run import run_stage
from accord.settings.recipe import Recipe, load_recipe, shipped_recipes, single_stage
from tests.learn.toys.files import user_says, write_jsonl
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

LARGE = Machine("cpu", 64 << 30)
SMALL = Machine("cpu", 1 << 20)
ANSWERS = ("ran", "sat on the mat", "is yes, and the answer is no", "no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    save_toy(root / "model")
    write_jsonl(
        root / "rows.jsonl",
        [{"prompt": user_says("the cat"), "completion": ANSWERS[i % 4]} for i in range(11)],
    )
    write_jsonl(root / "long.jsonl", [{"prompt": "the cat " * 200, "completion": "no"}])
    return root


def one_stage(folder: Path, *values: str, rows: str = "rows.jsonl") -> PlannedStage:
    overrides = [f"model={folder}/model", f"dataset={folder}/{rows}", f"output_dir={folder}/out"]
    plan = single_stage("train", "sft", overrides=[*overrides, *values])
    (stage,) = plan_stages(Recipe(f"{folder}/out", 0, (plan,)), LARGE)
    return stage


def facts_of(stage: PlannedStage) -> RowFacts:
    assert stage.facts is not None
    return stage.facts


def test_steps_and_tokens_are_those_of_the_rows(folder: Path) -> None:
    facts = facts_of(one_stage(folder, "per_device_train_batch_size=2", "num_train_epochs=2"))
    # 22 examples, 2 a step; the 2 epochs read every row's tokens twice.
    assert (facts.rows, facts.used, facts.steps, facts.passes) == (11, 11, 11, 1)
    tokenizer = toy_tokenizer()
    prompt = len(
        tokenizer.apply_chat_template(
            user_says("the cat"), add_generation_prompt=True, return_dict=False
        )
    )
    answers = [len(tokenizer(a)["input_ids"]) + 1 for a in ANSWERS]  # with its EOS
    row_tokens = [prompt + answers[i % 4] for i in range(11)]
    assert facts.tokens == pytest.approx(2 * sum(row_tokens), rel=0.01)
    assert facts.longest == max(row_tokens)
    # The largest pass is the largest of the run's own batches, not one of the longest rows.
    order = RowOrder(11, 0)
    batches = [order.slice(2 * step, 2 * step + 2) for step in range(11)]
    largest = max(sum(row_tokens[i] for i in batch) for batch in batches)
    assert sum(p + sum(r) for p, r in facts.largest) == largest


def test_a_step_of_several_passes_is_split_as_in_training(folder: Path) -> None:
    facts = facts_of(
        one_stage(folder, "per_device_train_batch_size=2", "gradient_accumulation_steps=3")
    )
    assert (facts.steps, facts.passes) == (2, 3)


def test_dropped_rows_are_counted_and_a_data_set_without_rows_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="can be used"):
        one_stage(folder, rows="long.jsonl")


def test_what_is_trained_on_is_marked_and_control_characters_are_escaped() -> None:
    (group,) = random_groups([(4, (5,))], 300)
    tokenizer = toy_tokenizer()
    text = tokenizer("\x1b[31m red")["input_ids"]
    group = type(group)(tuple(text), (tuple(tokenizer("yes no")["input_ids"]),))
    shown = marked_text(group, tokenizer).plain
    assert shown == "\\x1b[31m red⟦yes no⟧"


def test_only_the_trained_tokens_of_a_response_are_marked() -> None:
    tokenizer = toy_tokenizer()
    (group,) = random_groups([(1, (1,))], 300)
    first, second = (tuple(tokenizer(t)["input_ids"]) for t in ("the cat", " sat"))
    mask = ((False,) * len(first) + (True,) * len(second),)
    group = type(group)(group.prompt, (first + second,), loss_mask=mask)
    assert marked_text(group, tokenizer).plain.endswith("the cat⟦ sat⟧")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_the_training_stages_of_each_recipe_are_found(name: str) -> None:
    recipe = load_recipe(name)
    names = [plan.name for plan, _ in training_stages(recipe)]
    trains = [plan.name for plan in recipe.stages if plan.kind == "train"]
    assert [n for n in names if "/" not in n] == trains


def test_a_recipe_is_planned_before_its_first_stage_has_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(Path(__file__).with_name("tiny.yaml"), [f"output_dir={tmp_path}/out"])
    planned = {stage.plan.name: stage for stage in plan_stages(recipe, LARGE)}
    assert list(planned) == ["base", "sft", "reward", "dpo", "ppo"]
    for stage in planned.values():
        assert stage.problem is None
        assert stage.memory is not None
        assert "has not run" in (facts_of(stage).unknown or "")
        assert stage.fits(LARGE) is True
        assert stage.fits(SMALL) is None  # the rows may be shorter
    ppo = planned["ppo"].memory
    assert ppo is not None
    assert set(ppo.roles) == {"policy", "reference", "reward model", "critic"}
    assert not (tmp_path / "out").exists()


def test_rows_that_a_split_will_write_are_those_that_it_reads(folder: Path, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"prompt": user_says(f"cat {i}"), "completion": ANSWERS[i % 4]} for i in range(20)],
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path}/out\nstages:\n"
        f"- {{stage: split, dataset: {tmp_path}/rows.jsonl, test_fraction: 0.25}}\n"
        f"- {{stage: train, method: sft, model: {folder}/model, dataset: $split/train.jsonl}}\n"
        f"- {{stage: train, name: other, method: sft, model: {folder}/model,\n"
        f"   dataset: $split/test.jsonl, per_device_train_batch_size: 2}}\n"
    )
    planned = plan_stages(load_recipe(recipe), LARGE)
    # 20 prompts: a quarter are held out.
    assert [facts_of(stage).used for stage in planned] == [15, 5]
    assert not (tmp_path / "out").exists()
    split = load_recipe(recipe).stages[:1]
    assert split_to_come(f"{tmp_path}/out/split/train.jsonl", split) is not None
    assert split_to_come(f"{tmp_path}/out/split/other.jsonl", split) is None  # it writes none
    run_stage(split[0])
    for before, after in zip(planned, plan_stages(load_recipe(recipe), LARGE), strict=True):
        # All but the paths of their sources.
        assert replace(facts_of(before), first=()) == replace(facts_of(after), first=())


def test_the_command_tells_by_its_exit_code_whether_it_fits(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "sft", f"model={folder}/model", f"dataset={folder}/rows.jsonl"]
    words.append(f"output_dir={tmp_path}/out")
    assert run([*words, "--memory", "8GB"]) == 0
    shown = capsys.readouterr().out
    assert "forward and backward" in shown
    assert "⟦" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert run([*words, "--memory", "601MB", "--json"]) == 3
    plan = json.loads(capsys.readouterr().out)
    (stage,) = plan["training"]
    assert stage["fits"] is False
    assert stage["memory"]["peak"] > plan["machine"]["usable"]
    assert stage["memory"]["roles"]["model"]["weights"] > 0
    assert not (tmp_path / "out").exists()


def test_machines_are_read_or_refused() -> None:
    assert parse_machine("4x80GB", None) == Machine("cuda", 80 << 30, 4)
    assert parse_machine("24 gib", None) == Machine("cuda", 24 << 30, 1)
    assert parse_machine(None, "1.5GB") == Machine("cpu", 3 << 29)
    assert parse_machine(None, None).memory > 1 << 20
    for gpus, memory in (("two", None), ("0x8GB", None), (None, "many"), (None, "0GB")):
        with pytest.raises(RequestError, match="Write"):
            parse_machine(gpus, memory)
    with pytest.raises(RequestError, match="one of them"):
        parse_machine("1x8GB", "8GB")
