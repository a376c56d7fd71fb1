"""Every method trains saved models of several families, from files to a model that loads."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.compare.dataset import load_records
from accord.compare.rewards.models import model_reward
from accord.errors import DataError, SettingsError
from accord.learn.loop.fit import StepResult
from accord.learn.offline import reference
from accord.learn.offline import train as offline
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import PromptGroup, pack
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.lm.tokens.encode import Limits, encode
from accord.records import Comparison, Demonstration, Message
from accord.runs import read_metrics
from accord.settings.groups import GROUP_METHODS
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PPO_METHODS
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.training import RewardSettings, SftSettings, TrainSettings
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer

PROBE = random_groups([(4, (5, 3))], len(toy_tokenizer()))
SETTINGS: dict[str, Callable[..., TrainSettings]] = {
    "sft": SftSettings,
    "reward": RewardSettings,
    "dpo": DpoSettings,
    **PPO_METHODS,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
    **GROUP_METHODS,
}
DATA = {
    "sft": "sft.jsonl",
    **dict.fromkeys(ONLINE, "prompts.jsonl"),
    "kto": "judged.jsonl",
    **dict.fromkeys(("reward", "dpo", "ipo", "orpo", "simpo"), "pairs.jsonl"),
}
# These run on every architecture; the others, which share all but their loss with one of them, on
# llama and one more.
EVERYWHERE = ("sft", "reward", "dpo", "ppo")
ELSEWHERE = {
    "ipo": "qwen3",
    "kto": "gemma",
    "orpo": "gpt2",
    "simpo": "phi",
    "grpo": "mistral",
    "rloo": "qwen3",
    "gspo": "gpt2",
    "cispo": "gemma",
    "reinforce_plus_plus": "phi",
}
FULL = [
    *((method, architecture) for method in EVERYWHERE for architecture in ARCHITECTURES),
    *(
        (method, architecture)
        for method, other in ELSEWHERE.items()
        for architecture in ("llama", other)
    ),
]
LORA = [
    *((method, architecture) for method in EVERYWHERE for architecture in ("llama", "gpt2")),
    *((method, "llama") for method in ELSEWHERE),
]
HALF = [
    *((method, lora) for method in EVERYWHERE for lora in (None, {"r": 2})),
    *((method, None) for method in ELSEWHERE),
]
# What a method's first loss is where the policy is its own reference: −log σ(0), λ·σ(0) with the
# two kinds of equal weight, and (0 − 1/(2β))² for β = 0.1.
AT_THE_REFERENCE = {"dpo": math.log(2), "kto": 0.5, "ipo": 25.0}


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


ROWS: dict[str, list[dict[str, Any]]] = {
    "sft.jsonl": [
        {"prompt": chat("the cat"), "completion": "sat on the mat"},
        {"prompt": chat("a dog"), "completion": "ran"},
        {"prompt": chat("the answer"), "completion": "is yes, and the answer is no"},
    ],
    "pairs.jsonl": [
        {"prompt": chat("the cat"), "chosen": "sat on the mat", "rejected": "ran far away"},
        {"prompt": chat("a dog"), "chosen": "ran", "rejected": "sat on the sea, please"},
        {"prompt": chat("the answer"), "chosen": "is yes", "rejected": "no"},
    ],
    "judged.jsonl": [
        {"prompt": chat("the cat"), "completion": "sat on the mat", "label": True},
        {"prompt": chat("the sea"), "completion": "no", "label": False},
        {"prompt": chat("a dog"), "chosen": "ran", "rejected": "sat on the sea, please"},
    ],
    "prompts.jsonl": [{"prompt": chat(text)} for text in ("the cat", "a dog", "the sea", "yes")],
}


class Toys:
    """Saved models, made once each, and data files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, rows in ROWS.items():
            (root / name).write_text("".join(json.dumps(r) + "\n" for r in rows))

    def model(self, architecture: str) -> str:
        folder = self.root / architecture
        return str(folder) if folder.is_dir() else save_toy(folder, architecture)

    def reward_model(self, architecture: str) -> str:
        folder = self.root / f"{architecture}-reward"
        if not folder.is_dir():
            lm = load_scalar(self.model(architecture), seed=1)
            lm.score_mean, lm.score_std = 0.5, 2.0
            save_model(lm, folder, card="")
        return str(folder)

    def settings(self, method: str, architecture: str, output: Path, **more: Any) -> TrainSettings:
        own: dict[str, Any] = {}
        if method in ONLINE:
            own = {
                "reward_model": self.reward_model(architecture),
                "per_device_train_batch_size": 4,
                "max_new_tokens": 5,
            }
            own |= {"num_ppo_epochs": 1} if method == "ppo" else {"num_generations": 2}
        return SETTINGS[method](
            **{
                "model": self.model(architecture),
                "dataset": str(self.root / DATA[method]),
                "output_dir": str(output),
                "max_steps": 1,
                "learning_rate": 1e-2,
                "max_length": 64,
                "device": "cpu",
                **own,
                **more,
            }
        )


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    return Toys(tmp_path_factory.mktemp("toys"))


def train(method: str, settings: TrainSettings) -> list[StepResult]:
    steps: Iterator[StepResult]
    if isinstance(settings, OnlineSettings):
        steps = train_online(method, settings)
    else:
        steps = train_offline(method, settings)
    return list(steps)


@torch.no_grad()
def read(method: str, place: str, seed: int = 0) -> torch.Tensor:
    """Log-probs, or scores, of a few fixed tokens under a saved model."""
    if method == "reward":
        return response_scores(load_scalar(place, seed=seed), pack(PROBE))
    return response_logps(load_causal(place), pack(PROBE))


def assert_trained(method: str, settings: TrainSettings, results: list[StepResult]) -> None:
    (result,) = results
    assert (result.step, result.total) == (1, 1)
    assert all(math.isfinite(v) for v in result.metrics.values())
    output = Path(settings.output_dir)
    before, after = read(method, settings.model), read(method, str(output / "model"))
    assert float((after - before).abs().max()) > 1e-4
    (row,) = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert row["step"] == 1
    assert row["loss"] == pytest.approx(result.metrics["loss"])
    used = json.loads((output / "data.json").read_text())["encoded"]["used"]
    assert used == len(ROWS[DATA[method]])
    assert f"accord train {method}" in (output / "model" / "README.md").read_text()


@pytest.mark.parametrize(("method", "architecture"), FULL)
def test_a_step_of_full_tuning(method: str, architecture: str, toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings(method, architecture, tmp_path)
    results = train(method, settings)
    assert_trained(method, settings, results)
    metrics = results[0].metrics
    if method in AT_THE_REFERENCE:
        assert metrics["loss"] == pytest.approx(AT_THE_REFERENCE[method], rel=1e-4)
    if method in ONLINE:
        assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
        assert metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)  # it is its own reference


@pytest.mark.parametrize(("method", "architecture"), LORA)
def test_a_step_of_lora(method: str, architecture: str, toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings(method, architecture, tmp_path, lora={"r": 2})
    results = train(method, settings)
    assert_trained(method, settings, results)
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()
    if method in AT_THE_REFERENCE:
        assert results[0].metrics["loss"] == pytest.approx(AT_THE_REFERENCE[method], rel=1e-4)
    if method in ONLINE:
        assert results[0].metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
        assert results[0].metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("method", "lora"), HALF)
def test_a_step_in_bf16(
    method: str, lora: dict[str, int] | None, toys: Toys, tmp_path: Path
) -> None:
    settings = toys.settings(method, "llama", tmp_path, precision="bf16", lora=lora)
    assert_trained(method, settings, train(method, settings))


@pytest.mark.parametrize(
    ("method", "lora"), [*((m, lora) for m, lora in HALF if m in EVERYWHERE), ("kto", {"r": 2})]
)
def test_checkpointing_changes_no_number(
    method: str, lora: dict[str, int] | None, toys: Toys, tmp_path: Path
) -> None:
    plain = train(method, toys.settings(method, "llama", tmp_path / "plain", lora=lora))
    settings = toys.settings(
        method, "llama", tmp_path / "again", lora=lora, gradient_checkpointing=True
    )
    again = train(method, settings)
    assert_trained(method, settings, again)
    for key, value in plain[0].metrics.items():
        # At the reference all margins are 0, and rounding decides which count as right.
        if key not in ("seconds", "rewards/accuracies"):
            assert again[0].metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize(
    ("precision", "lora"), [("fp32", None), ("fp32", {"r": 2}), ("bf16", None)]
)
def test_an_ensemble_takes_a_step(
    precision: str, lora: dict[str, int] | None, toys: Toys, tmp_path: Path
) -> None:
    settings = toys.settings(
        "reward",
        "llama",
        tmp_path,
        heads=2,
        ensemble_penalty=0.5,
        length_regularisation=0.5,
        precision=precision,
        lora=lora,
    )
    results = train("reward", settings)
    assert results[0].metrics["rewards/std"] > 0
    lm = load_scalar(str(tmp_path / "model"))
    assert (lm.heads, lm.score_penalty) == (2, 0.5)
    assert lm.length_slope is not None


@pytest.mark.parametrize("loss_on", ["response", "assistant", "all"])
def test_what_of_a_conversation_is_learned(loss_on: str, toys: Toys, tmp_path: Path) -> None:
    talk = [
        *chat("the cat"),
        {"role": "assistant", "content": "sat on the mat"},
        *chat("a dog"),
        {"role": "assistant", "content": "ran"},
    ]
    data = tmp_path / "talk.jsonl"
    data.write_text(json.dumps({"messages": talk}) + "\n")
    settings = toys.settings("sft", "llama", tmp_path / "out", dataset=str(data), loss_on=loss_on)
    (result,) = train("sft", settings)
    tokenizer = toy_tokenizer()
    ids = tokenizer(tokenizer.apply_chat_template(talk, tokenize=False), add_special_tokens=False)[
        "input_ids"
    ]
    # Turns of the assistant's: from behind its role token to its end token.
    learned = [False] * len(ids)
    for i, token in enumerate(ids):
        if token == tokenizer.convert_tokens_to_ids("<|assistant|>"):
            end = ids.index(2, i)
            learned[i + 1 : end + 1] = [True] * (end - i)
    if loss_on == "response":
        last = len(ids) - ids[::-1].index(tokenizer.convert_tokens_to_ids("<|assistant|>"))
        learned[:last] = [False] * last
    elif loss_on == "all":
        learned = [False] + [True] * (len(ids) - 1)
    with torch.no_grad():
        logits = load_causal(toys.model("llama")).model(input_ids=torch.tensor([ids])).logits[0]
    logps = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
    chosen = logps[torch.tensor(learned[1:])]
    assert result.metrics["loss"] == pytest.approx(-float(chosen.mean()), rel=1e-4)
    encoded = json.loads((tmp_path / "out" / "data.json").read_text())["encoded"]
    assert encoded["answers_not_learned"] == (loss_on == "response")


def test_sft_loss_is_the_mean_log_prob_of_the_completions(toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings("sft", "llama", tmp_path, per_device_train_batch_size=3)
    (result,) = train("sft", settings)
    lm, tokenizer = load_causal(toys.model("llama")), toy_tokenizer()
    total, count = 0.0, 0
    for row in ROWS["sft.jsonl"]:
        shown = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(shown, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [2]
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0]
        rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total -= float(rows.gather(1, torch.tensor(answer)[:, None]).sum())
        count += len(answer)
    assert result.metrics["loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_trained_reward_has_mean_0_and_deviation_1(toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings("reward", "llama", tmp_path, max_steps=3)
    train("reward", settings)
    numbers = json.loads((tmp_path / "model" / "reward.json").read_text())
    lm = load_scalar(str(tmp_path / "model"))
    assert (lm.score_mean, lm.score_std) == (numbers["mean"], numbers["std"])
    records, _ = load_records(settings.dataset, "preferences")
    pairs = [r for r in records if isinstance(r, Comparison)]
    prompts = [r.prompt for r in pairs] * 2
    texts = [r.chosen for r in pairs] + [r.rejected for r in pairs]
    scores = torch.tensor(model_reward(lm, batch_size=4)(prompts, texts))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-4)
    one_by_one = model_reward(lm, batch_size=1)(prompts, texts)
    assert scores.tolist() == pytest.approx(one_by_one, abs=1e-4)


def test_reward_is_normalised_on_reference_rows_where_given(toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings(
        "reward", "llama", tmp_path, reference_dataset=str(toys.root / "sft.jsonl")
    )
    train("reward", settings)
    lm = load_scalar(str(tmp_path / "model"))
    records, _ = load_records(toys.root / "sft.jsonl", "sft")
    groups, _ = encode(records, lm.tokenizer, Limits(64), eos_ids=lm.eos_ids)
    with torch.no_grad():
        raw = response_scores(lm, pack(groups))
    assert lm.score_mean == pytest.approx(float(raw.mean()), abs=1e-5)
    assert lm.score_std == pytest.approx(float(raw.std()), abs=1e-5)


def test_of_reference_pairs_the_chosen_responses_are_scored(toys: Toys, tmp_path: Path) -> None:
    pairs = str(toys.root / "pairs.jsonl")
    train("reward", toys.settings("reward", "llama", tmp_path, reference_dataset=pairs))
    lm = load_scalar(str(tmp_path / "model"))
    chosen = [
        Demonstration((Message(**row["prompt"][0]),), row["chosen"]) for row in ROWS["pairs.jsonl"]
    ]
    groups, _ = encode(chosen, lm.tokenizer, Limits(64), eos_ids=lm.eos_ids)
    with torch.no_grad():
        raw = response_scores(lm, pack(groups))
    assert lm.score_mean == pytest.approx(float(raw.mean()), abs=1e-5)


def test_what_became_of_reference_rows_is_told(
    toys: Toys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*ROWS["sft.jsonl"], {"prompt": chat("a dog"), "completion": ""}]
    data = tmp_path / "reference.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = toys.settings(
        "reward", "llama", tmp_path / "out", reference_dataset=str(data), max_length=12
    )
    with caplog.at_level(logging.INFO):
        train("reward", settings)
    report = json.loads((tmp_path / "out" / "reference_data.json").read_text())
    assert report["read"]["place"] == str(data)
    assert list(report["read"]["dropped"]) == ["an empty response"]
    assert report["encoded"]["responses_cut"] == 2
    assert f"mean and standard deviation are set on the responses of {data}" in caplog.text
    assert "1 an empty response (reference.jsonl:4)" in caplog.text
    assert f"{data}: 3 of 3 rows used" in caplog.text


@pytest.mark.parametrize(
    "rows", [None, [], [{"prompt": "no response"}], [{"prompt": "p", "completion": ""}]]
)
def test_reference_rows_that_fail_do_so_before_training(
    rows: list[dict[str, str]] | None, toys: Toys, tmp_path: Path
) -> None:
    data = tmp_path / "reference.jsonl"
    if rows is not None:
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = toys.settings("reward", "llama", tmp_path / "out", reference_dataset=str(data))
    with pytest.raises(DataError, match=r"reference\.jsonl"):
        next(train_offline("reward", settings))


def test_a_cut_response_is_scored_without_an_end(toys: Toys) -> None:
    lm = load_scalar(toys.reward_model("llama"))
    reward = model_reward(lm)
    tokenizer = toy_tokenizer()
    prompt = tuple(tokenizer("the cat", add_special_tokens=False)["input_ids"])
    text = tuple(tokenizer(" sat", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        raw = response_scores(lm, pack([PromptGroup(prompt, (text, (*text, 2)))]))
    cut, whole = ((raw - 0.5) / 2.0).tolist()
    assert reward(["the cat"] * 2, [" sat"] * 2, [False, True]) == pytest.approx([cut, whole])
    assert reward(["the cat"], [" sat"]) == pytest.approx([whole])


def test_rankings_and_plackett_luce(toys: Toys, tmp_path: Path) -> None:
    rows = [
        {"prompt": chat("the cat"), "responses": ["yes", "no", "the sea"], "ranks": [1, 0, 2]},
        {"prompt": chat("a dog"), "responses": ["ran", "sat", "one"], "ranks": [0, 1, 1]},
    ]
    data = tmp_path / "rankings.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    for loss in ("pairs", "plackett_luce"):
        settings = toys.settings(
            "reward", "llama", tmp_path / loss, dataset=str(data), ranking_loss=loss
        )
        (result,) = train("reward", settings)
        assert math.isfinite(result.metrics["loss"])
    (result,) = train("dpo", toys.settings("dpo", "llama", tmp_path / "dpo", dataset=str(data)))
    assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("method", ["reward", "dpo", "ipo", "kto", "orpo", "simpo"])
def test_margins_that_a_method_does_not_learn_from_are_told(
    method: str, toys: Toys, tmp_path: Path
) -> None:
    rows = [{**row, "margin": 1.5} for row in ROWS["pairs.jsonl"][:2]] + ROWS["pairs.jsonl"][2:]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    train(method, toys.settings(method, "llama", tmp_path / "out", dataset=str(data)))
    notes = json.loads((tmp_path / "out" / "data.json").read_text())["read"]["notes"]
    told = "the margins of 2 pairs are not used: only `reward` learns from them"
    assert notes == ([] if method == "reward" else [told])


def test_lora_from_end_to_end(toys: Toys, tmp_path: Path) -> None:
    # SFT, a reward model and PPO on it, each an adapter that starts from the SFT adapter.
    lora = {"r": 2}
    train("sft", toys.settings("sft", "llama", tmp_path / "sft", lora=lora))
    sft = str(tmp_path / "sft" / "model")
    train("reward", toys.settings("reward", "llama", tmp_path / "rm", model=sft, lora=lora))
    settings = toys.settings(
        "ppo",
        "llama",
        tmp_path / "ppo",
        model=sft,
        reward_model=str(tmp_path / "rm" / "model"),
        lora=lora,
        max_steps=2,
        learning_rate=1e-3,
    )
    first, second = train("ppo", settings)
    assert first.metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert second.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    # What is saved is the SFT model moved a little, not the base with a second adapter alone.
    start, end = read("ppo", sft), read("ppo", str(tmp_path / "ppo" / "model"))
    base = read("ppo", toys.model("llama"))
    assert float((end - start).abs().mean()) < 0.3 * float((base - start).abs().mean())


def test_a_reward_model_with_another_tokenizer_scores_text(toys: Toys, tmp_path: Path) -> None:
    from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model

    other = train_tokenizer(["entirely different words are in here"], 280, 128)
    model = untrained_model("llama", ARCHITECTURES["llama"], other, seed=4)
    save_untrained(model, other, tmp_path / "other")
    lm = load_scalar(str(tmp_path / "other"))
    save_model(lm, tmp_path / "rm", card="")
    settings = toys.settings("ppo", "llama", tmp_path / "out", reward_model=str(tmp_path / "rm"))
    assert_trained("ppo", settings, train("ppo", settings))


def test_evaluation_rows_are_measured_and_not_learned(toys: Toys, tmp_path: Path) -> None:
    held = str(toys.root / "pairs.jsonl")
    for method in ("dpo", "reward"):
        settings = toys.settings(
            method, "llama", tmp_path / method, eval_dataset=held, eval_steps=1, max_steps=2
        )
        results = train(method, settings)
        assert all("eval/loss" in r.metrics for r in results)
        assert all(0 <= r.metrics["eval/rewards/accuracies"] <= 1 for r in results)


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_rows_that_are_only_read_keep_to_the_tokens_of_a_pass_too(
    method: str, toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def counted(groups: Any, device: Any) -> Any:
        held.append(len(groups))
        return pack(groups, device)

    for module in (offline, reference):
        monkeypatch.setattr(module, "pack", counted)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    place, last = str(toys.root / "pairs.jsonl"), []
    for most in (None, 1):  # all three pairs in one pass, and each in its own
        out = tmp_path / str(most)
        settings = toys.settings(
            method, "llama", out, eval_dataset=place, max_tokens_per_forward=most
        )
        last.append(train(method, settings)[-1].metrics)
        assert set(held) == {3 if most is None else 1}
        held.clear()
        monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "another"))
    names = [name for name in last[0] if name.startswith("eval/")]
    assert {n: last[1][n] for n in names} == pytest.approx({n: last[0][n] for n in names}, abs=1e-4)
    if method == "reward":
        whole, alone = (
            json.loads((tmp_path / most / "model" / "reward.json").read_text())
            for most in ("None", "1")
        )
        for number in ("mean", "std"):
            assert alone[number] == pytest.approx(whole[number], abs=1e-4)


def test_no_evaluation_is_lost_between_two_logged_steps(toys: Toys, tmp_path: Path) -> None:
    # Logged at 2, 4, 6 and 8, and measured at 3, 6 and at the end.
    settings = toys.settings(
        "dpo",
        "llama",
        tmp_path,
        eval_dataset=str(toys.root / "pairs.jsonl"),
        eval_steps=3,
        logging_steps=2,
        max_steps=8,
    )
    train("dpo", settings)
    rows = {row["step"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert list(rows) == [2, 3, 4, 6, 8]
    assert [step for step, row in rows.items() if "eval/loss" in row] == [3, 6, 8]
    assert all("rewards/margins" in row for row in rows.values())  # the step's own


def test_ppo_is_measured_on_held_out_prompts(toys: Toys, tmp_path: Path) -> None:
    held = str(toys.root / DATA["ppo"])
    settings = toys.settings("ppo", "llama", tmp_path, eval_dataset=held, eval_steps=2, max_steps=3)
    results = train("ppo", settings)
    measured = [r.step for r in results if "eval/objective/kl" in r.metrics]
    assert measured == [2, 3]  # every second step, and the last
    assert results[-1].metrics["eval/response_length"] <= 5


def test_a_reference_of_another_tokenizer_is_refused(toys: Toys, tmp_path: Path) -> None:
    other = train_tokenizer(["quite other words"], 290, 128)
    model = untrained_model("llama", ARCHITECTURES["llama"], other, seed=0)
    save_untrained(model, other, tmp_path / "other")
    for method in ("dpo", "ppo"):
        settings = toys.settings(
            method, "llama", tmp_path / method, ref_model=str(tmp_path / "other")
        )
        with pytest.raises(SettingsError, match="has another tokenizer than"):
            train(method, settings)


def test_another_reference_than_the_start(toys: Toys, tmp_path: Path) -> None:
    other = save_toy(tmp_path / "other", "llama", seed=7)
    settings = toys.settings("ppo", "llama", tmp_path / "ppo", ref_model=other)
    (result,) = train("ppo", settings)
    assert abs(result.metrics["objective/kl"]) > 1e-3
    settings = toys.settings("dpo", "llama", tmp_path / "dpo", ref_model=other)
    (result,) = train("dpo", settings)
    assert abs(result.metrics["rewards/margins"]) > 1e-4


def test_the_same_seed_gives_the_same_run(toys: Toys, tmp_path: Path) -> None:
    for method in ("sft", "ppo"):
        runs = [
            train(method, toys.settings(method, "llama", tmp_path / method / str(i), max_steps=2))
            for i in range(2)
        ]
        for a, b in zip(*runs, strict=True):
            same = {k: v for k, v in a.metrics.items() if k != "seconds"}
            assert same == {k: v for k, v in b.metrics.items() if k != "seconds"}


def test_a_second_run_in_the_same_folder_that_may_not_resume(toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings("sft", "llama", tmp_path, max_steps=4, save_steps=1)
    steps = train_offline("sft", settings)
    next(steps)
    steps.close()
    again = toys.settings("sft", "llama", tmp_path, max_steps=4, save_steps=1, resume=False)
    with pytest.raises(SettingsError, match="resume=false refuses to resume from it"):
        train("sft", again)


def test_health_is_looked_at_though_little_is_logged(toys: Toys, tmp_path: Path) -> None:
    # Looked at every step here, and logged every fifth.
    settings = toys.settings("dpo", "llama", tmp_path, max_steps=6, logging_steps=5)
    results = train("dpo", settings)
    assert len(results) == 6
    assert json.loads((tmp_path / "health.json").read_text()) == []


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_in_bf16_the_reference_computes_as_the_policy_does(
    lora: dict[str, int] | None, toys: Toys, tmp_path: Path
) -> None:
    # In the same passes the first step's log-ratios are 0 to the bit, and not bf16's noise.
    settings = toys.settings(
        "dpo", "llama", tmp_path, max_steps=1, precision="bf16", lora=lora, num_train_epochs=1.0
    )
    settings = settings.model_copy(update={"per_device_train_batch_size": 3})
    (result,) = train("dpo", settings)
    assert abs(result.metrics["rewards/chosen"]) < 1e-6
    assert abs(result.metrics["rewards/margins"]) < 1e-6


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_without_a_kl_no_reference_is_loaded(
    lora: dict[str, int] | None,
    toys: Toys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "accord.learn.online.roles.load_causal", lambda *a, **k: pytest.fail("loaded")
    )
    monkeypatch.setattr("accord.learn.online.roles.base_view", lambda policy: pytest.fail("made"))
    settings = toys.settings("grpo", "llama", tmp_path, beta=0.0, lora=lora)
    with caplog.at_level("INFO", logger="accord"):
        (result,) = train("grpo", settings)
    assert "objective/kl" not in result.metrics
    assert "memory of the policy" in caplog.text
    assert "memory of the reference" not in caplog.text
    assert "memory of the critic" not in caplog.text


def test_ppo_with_pretraining_rows_and_without_critic(toys: Toys, tmp_path: Path) -> None:
    settings = toys.settings(
        "ppo",
        "llama",
        tmp_path,
        ptx_dataset=str(toys.root / "sft.jsonl"),
        vf_coef=0.0,
        gae_lambda=1.0,
    )
    results = train("ppo", settings)
    assert_trained("ppo", settings, results)
    assert results[0].metrics["loss/ptx_avg"] > 0
    assert "loss/value_avg" not in results[0].metrics
