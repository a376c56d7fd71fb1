"""accord.train and accord.steps: equal to the command, in place, resumable, and strict."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import accord
from accord.api.run import Steps
from accord.errors import DataError, ModelError, SettingsError
from accord.learn.offline.train import train_offline
from accord.settings.stage_kinds import METHOD_SETTINGS
from tests.lm.toys import save_toy

PAIRS: list[dict[str, Any]] = [
    {"prompt": "say", "chosen": " the sea", "rejected": " a cat"},
    {"prompt": "ask", "chosen": " the sun", "rejected": " a dog sat"},
    {"prompt": "go", "chosen": " on", "rejected": " off and off"},
    {"prompt": "see", "chosen": " a sun", "rejected": " the dog"},
]
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "device": "cpu",
}
ONLINE: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_new_tokens": 4,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "device": "cpu",
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_toy(tmp_path / "model")
    return str(tmp_path / "model")


def write_pairs(path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    return str(path)


def weights(lm: accord.LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_memory_is_the_command_to_the_bit(model: str, tmp_path: Path, precision: str) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl")
    settings = METHOD_SETTINGS["dpo"](
        model=model, dataset=path, output_dir=str(tmp_path / "out"), precision=precision, **SETTINGS
    )
    for _ in train_offline("dpo", settings):  # type: ignore[arg-type]
        pass
    run = accord.train(
        "dpo", model=model, dataset=PAIRS, precision=precision, progress=False, **SETTINGS
    )
    saved = load_file(tmp_path / "out/model/model.safetensors")
    trained = run.model.model.state_dict()
    for name, tensor in saved.items():
        assert torch.equal(tensor, trained[name].to(tensor.dtype)), name
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_in_memory_is_trained_in_place_and_may_be_trained_again(
    model: str, precision: str
) -> None:
    lm = accord.load_model(model, precision=precision)  # type: ignore[arg-type]
    start = weights(lm)
    sft = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    first = accord.train("sft", model=lm, dataset=sft, progress=False, **SETTINGS)
    assert first.model is lm
    middle = weights(lm)
    assert not all(torch.equal(middle[n], start[n]) for n in start)
    # The reference of the second run is the model as the first has left it: rewards begin at 0.
    second = accord.train("dpo", model=lm, dataset=PAIRS, progress=False, **SETTINGS)
    assert second.metrics[0]["rewards/chosen"] == pytest.approx(0.0, abs=0.02)
    assert not all(torch.equal(weights(lm)[n], middle[n]) for n in start)


def test_a_path_leaves_the_files_alone(model: str) -> None:
    before = load_file(Path(model) / "model.safetensors")
    accord.train("dpo", model=model, dataset=PAIRS, progress=False, **SETTINGS)
    assert_equal(before, load_file(Path(model) / "model.safetensors"))


def test_rows_may_be_a_frame_a_dataset_or_a_generator(model: str) -> None:
    import pandas as pd
    from datasets import Dataset

    runs = [
        accord.train("dpo", model=model, dataset=rows, progress=False, **SETTINGS)
        for rows in (PAIRS, pd.DataFrame(PAIRS), Dataset.from_list(PAIRS), (row for row in PAIRS))
    ]
    for run in runs[1:]:
        assert_equal(weights(runs[0].model), weights(run.model))


def test_an_adapter_is_continued_from_transformers_and_peft_objects(model: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    peft_model = get_peft_model(plain, config)
    run = accord.train(
        "dpo", model=peft_model, tokenizer=tokenizer, dataset=PAIRS, progress=False, **SETTINGS
    )
    assert run.settings.lora is not None
    assert (run.settings.lora.r, run.settings.lora.alpha) == (2, 4.0)
    moved = [n for n, p in run.model.trainable_parameters().items() if "lora_B" in n and p.any()]
    assert moved
    # Trained further, its reference is the adapter as it is, not the base below it.
    again = accord.train("dpo", model=run.model, dataset=PAIRS, progress=False, **SETTINGS)
    assert again.metrics[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("lora", [None, accord.Lora(r=2)])
def test_ppo_in_memory_keeps_the_start_as_its_reference(model: str, lora: Any) -> None:
    lm = accord.load_model(model, lora=lora)
    run = accord.train("ppo", model=lm, dataset=PAIRS, reward=length, progress=False, **ONLINE)
    # At the first iteration policy and reference are equal; afterwards the policy has moved.
    assert run.metrics[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(run.metrics[1]["objective/kl"]) > 1e-4
    assert "rewards/length/mean" in run.metrics[0]


def test_a_reward_model_in_memory_scores_and_starts_the_critic(model: str) -> None:
    reward = accord.train("reward", model=model, dataset=PAIRS, progress=False, **SETTINGS)
    before = weights(reward.model)
    run = accord.train(
        "ppo", model=model, dataset=PAIRS, reward=reward.model, progress=False, **ONLINE
    )
    assert "rewards/reward_model/mean" in run.metrics[0]
    assert_equal(before, weights(reward.model))  # the critic is a copy


def test_a_run_in_a_folder_is_resumed_to_the_same_weights(model: str, tmp_path: Path) -> None:
    whole = accord.train("dpo", model=model, dataset=PAIRS, progress=False, **SETTINGS)
    out = tmp_path / "out"
    with accord.steps("dpo", model=model, dataset=PAIRS, output_dir=out, **SETTINGS) as steps:
        next(steps)
        next(steps)
    assert (out / "checkpoints/step-00000002").is_dir()
    rest = accord.train(
        "dpo", model=model, dataset=PAIRS, output_dir=out, progress=False, **SETTINGS
    )
    assert [row["step"] for row in rest.metrics] == [3, 4]
    assert_equal(weights(whole.model), weights(rest.model))
    assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    with pytest.raises(SettingsError, match="holds a finished run"):
        accord.train("dpo", model=model, dataset=PAIRS, output_dir=out, progress=False, **SETTINGS)


def test_an_interrupt_writes_a_checkpoint(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    take = Steps.__next__

    def interrupt_second_step(steps: Steps) -> Any:
        seen.append(steps)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
        return take(steps)

    monkeypatch.setattr(Steps, "__next__", interrupt_second_step)
    with pytest.raises(KeyboardInterrupt):
        accord.train("dpo", model=model, dataset=PAIRS, output_dir=out, progress=False, **SETTINGS)
    assert (out / "checkpoints/step-00000002").is_dir()


def test_steps_may_be_left_early(model: str) -> None:
    with accord.steps("dpo", model=model, dataset=PAIRS, **SETTINGS) as steps:
        next(steps)
    run = steps.result()
    assert len(run.metrics) == 1
    assert run.output_dir is None
    assert repr(run).startswith("Run(dpo, 1 steps, loss 0.69")


def test_a_loss_of_ones_own_is_the_method(model: str) -> None:
    from accord.objectives import dpo_loss

    plain = accord.train("dpo", model=model, dataset=PAIRS, progress=False, **SETTINGS)
    custom = accord.train(
        "dpo",
        model=model,
        dataset=PAIRS,
        loss=lambda terms, s: dpo_loss(terms.chosen, terms.rejected, beta=s.beta),
        progress=False,
        **SETTINGS,
    )
    assert_equal(weights(plain.model), weights(custom.model))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "dpu"}, SettingsError, "Did you mean `dpo`?"),
        ({"bata": 0.1}, SettingsError, "`bata` is not a key"),
        ({"beta": "0.1"}, SettingsError, "Write it without quotes: 0.1"),
        ({"dataset": []}, DataError, "list"),
        ({"dataset": [{"prompt": "a"}]}, DataError, "prompt"),
        ({"model": object()}, ModelError, "object is not a model that accord can train"),
        ({"reward": length}, SettingsError, "takes no `reward`"),
        ({"method": "kto", "loss": lambda t, s: t}, SettingsError, "for `dpo`, and not for `kto`"),
        ({"targets": lambda e, s, b: e}, SettingsError, "`dpo` is offline"),
        ({"method": "grpo"}, SettingsError, "nothing scores the"),
        ({"method": "grpo", "reward": []}, accord.errors.RewardError, "list of rewards is empty"),
        ({"method": "grpo", "reward": 3}, accord.errors.RewardError, "3 is no reward"),
    ],
)
def test_a_wrong_request_is_an_error_before_the_first_step(
    model: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {"method": "dpo", "model": model, "dataset": PAIRS, **arguments}
    with pytest.raises(error, match=re.escape(message)):
        accord.train(given.pop("method"), progress=False, **given)
