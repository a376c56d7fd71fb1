"""Rows that are longer than a model has positions for, and tokens that it does not know."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from accord.compare.rewards.models import encode_for_reward, model_reward
from accord.errors import ModelError, SettingsError
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.scratch import save_untrained, untrained_model
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.settings.groups import GrpoSettings
from accord.settings.preferences import DpoSettings, KtoSettings
from accord.settings.training import RewardSettings, SftSettings
from tests.learn.toys.files import write_jsonl
from tests.lm.toys import ARCHITECTURES, save_toy, toy_tokenizer

POSITIONS = 128  # of the toys
LONG = "q" * 420  # a token each: no merge was learned from it
VOCAB_SIZE = len(toy_tokenizer())


def demonstration(completion: str = "sat", **fields: Any) -> dict[str, Any]:
    return {"prompt": "the cat", "completion": completion, **fields}


def pair(chosen: str = "sat", rejected: str = "ran") -> dict[str, Any]:
    return {"prompt": "the cat", "chosen": chosen, "rejected": rejected}


def one_step(folder: Path, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of one step on rows, which are written to a file."""
    return {
        "model": model,
        "dataset": write_jsonl(folder / "rows.jsonl", rows),
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "device": "cpu",
    }


def read_encode_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "out/data.json").read_text())["encoded"]
    return report


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])  # learned and rotary positions
def test_rows_are_cut_to_the_positions_and_that_is_logged_once(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save_toy(tmp_path / "m", architecture)
    rows = [demonstration(LONG), demonstration(), {"prompt": LONG, "completion": "sat"}]
    with caplog.at_level(logging.INFO):
        cut = {**one_step(tmp_path, model, rows), "long_responses": "cut"}
        list(train_offline("sft", SftSettings(**cut)))
    assert [m for m in caplog.messages if "so max_length is" in m] == [
        f"{model} has positions for 128 tokens, so max_length is 128 here and not 1024."
    ]
    report = read_encode_report(tmp_path)
    assert (report["used"], report["responses_cut"]) == (2, 1)
    assert report["dropped"] == {"the prompt has more than 127 tokens": 1}


def test_a_limit_within_the_positions_is_not_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save_toy(tmp_path / "m", "gpt2")
    settings = SftSettings(**one_step(tmp_path, model, [demonstration()]), max_length=POSITIONS)
    with caplog.at_level(logging.INFO):
        list(train_offline("sft", settings))
    assert not [m for m in caplog.messages if "so max_length is" in m]


def test_a_mismatched_response_is_cut_to_the_positions(tmp_path: Path) -> None:
    # The rows fit; the long response after the longer prompt of the other row would not.
    rows = [
        demonstration("q" * 120, label=True),
        {"prompt": "q" * 100, "completion": "sat", "label": False},
    ]
    model = save_toy(tmp_path / "m", "gpt2")
    list(train_offline("kto", KtoSettings(**one_step(tmp_path, model, rows))))
    assert read_encode_report(tmp_path)["used"] == 2


def test_a_reward_model_saves_the_limit_that_it_was_trained_with(tmp_path: Path) -> None:
    model = save_toy(tmp_path / "m", "llama")
    rows = [pair(LONG, "ran"), pair()]
    list(train_offline("reward", RewardSettings(**one_step(tmp_path, model, rows))))
    reward_file = tmp_path / "out/model/reward.json"
    numbers = json.loads(reward_file.read_text())
    assert numbers["max_length"] == POSITIONS
    # A saved limit above the positions is capped at them.
    reward_file.write_text(json.dumps(numbers | {"max_length": 1024}))
    lm = load_scalar(str(reward_file.parent))
    assert lm.max_length == POSITIONS
    assert encode_for_reward(lm, "the cat", LONG).num_tokens <= POSITIONS
    # A model with a lower limit may be trained further with a higher one, within its positions.
    reward_file.write_text(json.dumps(numbers | {"max_length": 40}))
    assert load_scalar(str(reward_file.parent)).max_length == 40
    further = one_step(tmp_path, str(reward_file.parent), rows)
    further["output_dir"] = str(tmp_path / "further")
    list(train_offline("reward", RewardSettings(**further)))
    numbers = json.loads((tmp_path / "further/model/reward.json").read_text())
    assert numbers["max_length"] == POSITIONS


def save_with_positions(folder: Path, positions: int) -> str:
    shape = {**ARCHITECTURES["llama"], "max_position_embeddings": positions}
    model = untrained_model("llama", shape, toy_tokenizer(), seed=1)
    save_untrained(model, toy_tokenizer(), folder)
    return str(folder)


def test_a_reference_with_fewer_positions_than_a_row_is_refused(tmp_path: Path) -> None:
    settings = DpoSettings(
        **one_step(tmp_path, save_toy(tmp_path / "m"), [pair("q" * 90)]),
        ref_model=save_with_positions(tmp_path / "short", 64),
    )
    with pytest.raises(SettingsError, match=r"short has positions for 64 tokens, .*max_length=64"):
        list(train_offline("dpo", settings))


def grpo_settings(folder: Path, prompts: list[str], **overrides: Any) -> GrpoSettings:
    """A policy with 128 positions and a reward model with twice as many."""
    model = save_toy(folder / "m", "gpt2")
    reward_model = load_scalar(
        save_with_positions(folder / "longer", 2 * POSITIONS), new_head=True, seed=1
    )
    save_model(reward_model, folder / "reward", card="")
    return GrpoSettings(
        **{
            **one_step(folder, model, [{"prompt": p} for p in prompts]),
            "reward_model": str(folder / "reward"),
            "num_generations": 2,
            "per_device_train_batch_size": 2,
            "max_new_tokens": 100,
            **overrides,
        }
    )


def test_prompts_leave_room_for_the_response_within_the_positions(tmp_path: Path) -> None:
    # With 100 tokens of a response these are 120 and 160 of 128.
    settings = grpo_settings(tmp_path, ["q" * 20, "q" * 60])
    list(train_online("grpo", settings))
    assert read_encode_report(tmp_path)["dropped"] == {"the prompt has more than 28 tokens": 1}


def test_a_response_that_leaves_no_room_for_a_prompt_is_refused(tmp_path: Path) -> None:
    settings = grpo_settings(tmp_path, ["the cat"], max_new_tokens=POSITIONS)
    with pytest.raises(
        SettingsError,
        match=r"max_new_tokens=128 leaves no room for a prompt in the 128 positions of .*m\. Lower",
    ):
        list(train_online("grpo", settings))


def test_the_model_with_the_fewest_positions_sets_the_limit(tmp_path: Path) -> None:
    short = save_with_positions(tmp_path / "short", 64)
    settings = grpo_settings(tmp_path, ["the cat"], max_new_tokens=70, ref_model=short)
    with pytest.raises(SettingsError, match=r"in the 64 positions of .*short\. Lower"):
        list(train_online("grpo", settings))


@pytest.fixture
def zebra_model(tmp_path: Path) -> str:
    """A model whose tokenizer has a token, 'zebra', that the model has no embedding for."""
    tokenizer = deepcopy(toy_tokenizer())
    model = untrained_model("gpt2", ARCHITECTURES["gpt2"], tokenizer, seed=0)
    assert model.get_input_embeddings().weight.shape[0] == VOCAB_SIZE
    tokenizer.add_tokens(["zebra"])
    save_untrained(model, tokenizer, tmp_path / "grown")
    return str(tmp_path / "grown")


def _learn(model: str, folder: Path) -> None:
    settings = SftSettings(**one_step(folder, model, [demonstration("a zebra ran")]))
    list(train_offline("sft", settings))


def _learn_online(model: str, folder: Path) -> None:
    settings = grpo_settings(folder, ["the zebra"], max_new_tokens=4)
    list(train_online("grpo", settings.model_copy(update={"model": model})))


def _sample(model: str, folder: Path) -> None:
    lm = load_causal(model)
    ids = tuple(lm.tokenizer("the zebra")["input_ids"])
    LocalSampler(lm)([ids], SamplingSettings(1, 4), seed=0, streams=[0])


def _score(model: str, folder: Path) -> None:
    save_model(load_scalar(model, new_head=True), folder / "reward", card="")
    model_reward(load_scalar(str(folder / "reward")))(["the cat"], ["a zebra"])


@pytest.mark.parametrize("use", [_learn, _learn_online, _sample, _score])
def test_a_token_without_an_embedding_is_named(
    use: Callable[[str, Path], None], zebra_model: str, tmp_path: Path
) -> None:
    message = (
        rf"(grown|reward) writes the token 'zebra' as number {VOCAB_SIZE}, "
        r"and the model has embeddings for"
    )
    with pytest.raises(ModelError, match=message):
        use(zebra_model, tmp_path)


def test_a_token_without_an_embedding_that_no_row_has_is_no_error(
    zebra_model: str, tmp_path: Path
) -> None:
    settings = SftSettings(**one_step(tmp_path, zebra_model, [demonstration()]))
    (result,) = train_offline("sft", settings)
    assert result.step == 1
