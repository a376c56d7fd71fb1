"""Models in memory: what changes with training, what is saved, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import accord
from accord.errors import DataError, ModelError, SettingsError
from accord.lm import response_logps
from accord.lm.packing import PromptGroup, pack
from tests.api.test_train import ONLINE, PAIRS, SETTINGS, length, weights
from tests.lm.toys import save_toy

SFT = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
BATCH = [PromptGroup((5, 9, 11), ((7, 8), (6,)))]


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_toy(tmp_path / "model")
    return str(tmp_path / "model")


def logps(lm: accord.LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return response_logps(lm, pack(BATCH, lm.device))


def test_adapters_on_weights_that_no_folder_holds_are_saved_merged(
    model: str, tmp_path: Path
) -> None:
    sft = accord.train("sft", model=model, dataset=SFT, progress=False, **SETTINGS)
    lora = accord.Lora(r=2)
    run = accord.train("dpo", model=sft.model, dataset=PAIRS, lora=lora, progress=False, **SETTINGS)
    saved = run.save(tmp_path / "run")
    assert run.model.is_peft  # the model in memory keeps its adapters
    loaded = accord.load_model(saved)
    torch.testing.assert_close(logps(loaded), logps(run.model), rtol=0, atol=1e-4)


def test_after_saving_the_base_adapters_name_it(model: str, tmp_path: Path) -> None:
    sft = accord.train("sft", model=model, dataset=SFT, progress=False, **SETTINGS)
    base = sft.save(tmp_path / "sft")
    lora = accord.Lora(r=2)
    run = accord.train("dpo", model=sft.model, dataset=PAIRS, lora=lora, progress=False, **SETTINGS)
    folder = run.save(tmp_path / "dpo")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(base)
    torch.testing.assert_close(
        logps(accord.load_model(folder)), logps(run.model), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("method", ["sft", "ppo"])
def test_a_bf16_model_can_be_trained_after_an_early_end(model: str, method: str) -> None:
    lm = accord.load_model(model, precision="bf16")
    more: dict[str, Any] = {"dataset": SFT, **SETTINGS}
    if method == "ppo":
        more = {"dataset": PAIRS, "reward": length, **ONLINE}
    with accord.steps(method, model=lm, **more) as steps:
        next(steps)
    middle = weights(lm)
    assert all(w.dtype == torch.float32 for w in middle.values())
    run = accord.train("sft", model=lm, dataset=SFT, precision="fp32", progress=False, **SETTINGS)
    assert run.metrics[-1]["grad_norm"] > 0
    assert not all(torch.equal(w, middle[n]) for n, w in weights(lm).items())


def test_a_run_is_resumed_from_the_same_start_only(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lm = accord.load_model(model)
    with accord.steps("dpo", model=lm, dataset=PAIRS, output_dir=out, **SETTINGS) as steps:
        next(steps)
    assert json.loads((out / "manifest.json").read_text())["status"] == "interrupted"
    again: dict[str, Any] = {
        "dataset": PAIRS,
        "output_dir": out,
        "progress": False,
        **SETTINGS,
    }
    with pytest.raises(SettingsError, match="written under other settings: model was"):
        accord.train("dpo", model=lm, **again)  # half trained: it would be its own reference
    resumed = accord.train("dpo", model=accord.load_model(model), **again)
    whole = accord.train("dpo", model=model, dataset=PAIRS, progress=False, **SETTINGS)
    for name, weight in weights(whole.model).items():
        assert torch.equal(weight, weights(resumed.model)[name]), name


def test_a_run_is_resumed_with_the_same_rows_only(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with accord.steps("dpo", model=model, dataset=PAIRS, output_dir=out, **SETTINGS) as steps:
        next(steps)
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS
    ]  # as many rows, so that only their content tells
    other: dict[str, Any] = {"output_dir": out, "progress": False, **SETTINGS}
    with pytest.raises(SettingsError, match="written under other settings: dataset was"):
        accord.train("dpo", model=model, dataset=swapped, **other)
    accord.train("dpo", model=model, dataset=PAIRS, **other)


def test_a_reference_that_would_change_with_the_model_is_refused(model: str) -> None:
    lm = accord.load_model(model)
    with pytest.raises(SettingsError, match="`ref_model` has the weights of `model`"):
        accord.train("dpo", model=lm, dataset=PAIRS, ref_model=lm, progress=False, **SETTINGS)
    run = accord.train(
        "dpo",
        model=lm,
        dataset=PAIRS,
        ref_model=accord.load_model(model),
        progress=False,
        **SETTINGS,
    )
    assert run.metrics[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)


def test_what_would_be_ignored_is_refused(model: str) -> None:
    lm = accord.load_model(model, lora={"r": 2})
    assert lm.is_peft
    with pytest.raises(SettingsError, match="has an adapter already"):
        accord.train("dpo", model=lm, dataset=PAIRS, lora=accord.Lora(r=8), **SETTINGS)
    with pytest.raises(SettingsError, match="its own tokenizer is used"):
        accord.train("dpo", model=model, tokenizer=lm.tokenizer, dataset=PAIRS, **SETTINGS)


def test_gradient_checkpointing_is_of_one_run(model: str) -> None:
    lm = accord.load_model(model)
    more: dict[str, Any] = {"dataset": SFT, "progress": False, **SETTINGS}
    accord.train("sft", model=lm, gradient_checkpointing=True, **more)
    assert lm.recomputes_activations
    accord.train("sft", model=lm, **more)
    assert not lm.recomputes_activations


def test_a_classifier_of_two_labels_is_no_reward_model(model: str) -> None:
    from transformers import AutoModelForSequenceClassification

    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    with pytest.raises(ModelError, match="has 2 labels, and a reward model has one"):
        accord.score(classifier, ["say"], [" a"])


def test_values_out_of_range_and_prompts_that_are_none(model: str) -> None:
    for key, value in {"temperature": -1.0, "num_responses": 0, "max_new_tokens": 0}.items():
        with pytest.raises(SettingsError, match=f"`{key}` must be"):
            accord.sample(model, ["say"], **{key: value})
    with pytest.raises(DataError, match="The prompts are one dict"):
        accord.sample(model, {"prompt": "say"})
    with pytest.raises(DataError, match=r"Pass a list, such as \['Say hi\.'\]"):
        accord.sample(model, "Say hi.")


def test_battles_may_come_from_a_generator_and_need_equal_counts(model: str) -> None:
    rows = [{"model_a": "x", "model_b": "y", "winner": "model_a"}] * 3
    ratings = accord.rate((row for row in rows), bootstrap=0, prior=1)
    assert [m.battles for m in ratings.models] == [3, 3]
    a, b = (
        accord.sample(model, ["say"], num_responses=n, max_new_tokens=4, seed=n) for n in (1, 2)
    )
    with pytest.raises(DataError, match="more responses to a prompt"):
        accord.compare(a, b, judge=[length], names=("a", "b"))


def test_a_run_reports_its_rows_and_remarks(model: str) -> None:
    rows = [*PAIRS, {"prompt": "x", "chosen": " a", "rejected": " a"}]
    run = accord.train("dpo", model=model, dataset=rows, progress=False, **SETTINGS)
    assert run.data["read"]["used"] == 4
    assert list(run.data["read"]["dropped"]) == ["chosen and rejected are equal"]
    assert isinstance(run.health, list)
    assert run.settings.output_dir == "in memory"
