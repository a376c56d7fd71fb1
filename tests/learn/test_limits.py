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
from tests.lm.toys import ARCHITECTURES, save_toy, toy_tokenizer

POSITIONS = 128  # of the toys
LONG = "q" * 420  # a token each: no merge was learned from it
KNOWN = len(toy_tokenizer())


def row(completion: str = "sat", **more: Any) -> dict[str, Any]:
    return {"prompt": "the cat", "completion": completion, **more}


def pair(chosen: str = "sat", rejected: str = "ran") -> dict[str, Any]:
    return {"prompt": "the cat", "chosen": chosen, "rejected": rejected}


def named(folder: Path, model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What settings need, with the rows in a file."""
    place = folder / "rows.jsonl"
    place.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {
        "model": model,
        "dataset": str(place),
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "device": "cpu",
    }


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/data.json").read_text())["encoded"]
    return found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])  # learned and rotated
def test_rows_are_cut_to_the_positions_and_that_is_told_once(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = save_toy(tmp_path / "m", architecture)
    rows = [row(LONG), row(), {"prompt": LONG, "completion": "sat"}]
    with caplog.at_level(logging.INFO):
        list(train_offline("sft", SftSettings(**named(tmp_path, model, rows))))
    told = [m for m in caplog.messages if "so max_length is" in m]
    assert told == [
        f"{model} has positions for 128 tokens, so max_length is 128 here and not 1024."
    ]
    report = report_of(tmp_path)
    assert (report["used"], report["responses_cut"]) == (2, 1)
    assert report["dropped"] == {"the prompt has more than 127 tokens": 1}


def test_a_smaller_limit_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = SftSettings(
        **named(tmp_path, save_toy(tmp_path / "m", "gpt2"), [row(LONG)]), max_length=POSITIONS
    )
    with caplog.at_level(logging.INFO):
        list(train_offline("sft", settings))
    assert not [m for m in caplog.messages if "so max_length is" in m]


def test_a_response_to_another_prompt_keeps_to_the_positions(tmp_path: Path) -> None:
    # The rows fit; the long response behind the longer prompt of another row would not.
    rows = [row("q" * 120, label=True), row("sat", label=False) | {"prompt": "q" * 100}]
    model = save_toy(tmp_path / "m", "gpt2")
    list(train_offline("kto", KtoSettings(**named(tmp_path, model, rows))))
    assert report_of(tmp_path)["used"] == 2


def test_a_reward_model_keeps_the_limit_that_it_was_trained_with(tmp_path: Path) -> None:
    model = save_toy(tmp_path / "m", "llama")
    rows = [pair(LONG, "ran"), pair()]
    list(train_offline("reward", RewardSettings(**named(tmp_path, model, rows))))
    kept = tmp_path / "out/model/reward.json"
    numbers = json.loads(kept.read_text())
    assert numbers["max_length"] == POSITIONS
    # As one that was kept without a look at the positions says of itself.
    kept.write_text(json.dumps(numbers | {"max_length": 1024}))
    lm = load_scalar(str(kept.parent))
    assert lm.max_length == POSITIONS
    assert encode_for_reward(lm, "the cat", LONG).num_tokens <= POSITIONS
    # One trained on less may be trained on more again, as far as its positions go.
    kept.write_text(json.dumps(numbers | {"max_length": 40}))
    assert load_scalar(str(kept.parent)).max_length == 40
    more = named(tmp_path, str(kept.parent), rows) | {"output_dir": str(tmp_path / "again")}
    list(train_offline("reward", RewardSettings(**more)))
    again = json.loads((tmp_path / "again/model/reward.json").read_text())
    assert again["max_length"] == POSITIONS


def with_positions(folder: Path, positions: int) -> str:
    shape = {**ARCHITECTURES["llama"], "max_position_embeddings": positions}
    save_untrained(
        untrained_model("llama", shape, toy_tokenizer(), seed=1), toy_tokenizer(), folder
    )
    return str(folder)


def test_a_reference_with_fewer_positions_than_a_row(tmp_path: Path) -> None:
    settings = DpoSettings(
        **named(tmp_path, save_toy(tmp_path / "m"), [pair("q" * 90)]),
        ref_model=with_positions(tmp_path / "short", 64),
    )
    with pytest.raises(SettingsError, match=r"short has positions for 64 tokens, .*max_length=64"):
        list(train_offline("dpo", settings))


def online(folder: Path, prompts: list[str], **more: Any) -> GrpoSettings:
    model = save_toy(folder / "m", "gpt2")
    lm = load_scalar(with_positions(folder / "longer", 2 * POSITIONS), seed=1)
    save_model(lm, folder / "reward", card="")
    return GrpoSettings(
        **{
            **named(folder, model, [{"prompt": p} for p in prompts]),
            "reward_model": str(folder / "reward"),
            "num_generations": 2,
            "per_device_train_batch_size": 2,
            "max_new_tokens": 100,
            **more,
        }
    )


def test_prompts_leave_room_for_the_response_within_the_positions(tmp_path: Path) -> None:
    settings = online(tmp_path, ["q" * 20, "q" * 60])  # 100 more tokens: 120 and 160 of 128
    list(train_online("grpo", settings))
    assert report_of(tmp_path)["dropped"] == {"the prompt has more than 28 tokens": 1}


def test_a_response_that_leaves_no_room_for_a_prompt(tmp_path: Path) -> None:
    settings = online(tmp_path, ["the cat"], max_new_tokens=POSITIONS)
    with pytest.raises(
        SettingsError,
        match=r"max_new_tokens=128 leaves no room for a prompt in the 128 positions of .*m\. Lower",
    ):
        list(train_online("grpo", settings))


def test_the_fewest_positions_among_those_that_read_responses_count(tmp_path: Path) -> None:
    settings = online(
        tmp_path, ["the cat"], max_new_tokens=70, ref_model=with_positions(tmp_path / "short", 64)
    )
    with pytest.raises(SettingsError, match=r"in the 64 positions of .*short\. Lower"):
        list(train_online("grpo", settings))


@pytest.fixture
def grown(tmp_path: Path) -> str:
    """A model whose tokenizer was given a token more than the model has embeddings for."""
    tokenizer = deepcopy(toy_tokenizer())
    model = untrained_model("gpt2", ARCHITECTURES["gpt2"], tokenizer, seed=0)
    assert model.get_input_embeddings().weight.shape[0] == KNOWN
    tokenizer.add_tokens(["zebra"])
    save_untrained(model, tokenizer, tmp_path / "grown")
    return str(tmp_path / "grown")


UNKNOWN = rf"grown writes the token 'zebra' as number {KNOWN}, and the model has embeddings for"


def _learn(model: str, folder: Path) -> None:
    settings = SftSettings(**named(folder, model, [row("a zebra ran")]))
    list(train_offline("sft", settings))


def _learn_online(model: str, folder: Path) -> None:
    settings = online(folder, ["the zebra"], max_new_tokens=4)
    list(train_online("grpo", settings.model_copy(update={"model": model})))


def _sample(model: str, folder: Path) -> None:
    lm = load_causal(model)
    ids = tuple(lm.tokenizer("the zebra")["input_ids"])
    LocalSampler(lm)([ids], SamplingSettings(1, 4), seed=0, streams=[0])


def _score(model: str, folder: Path) -> None:
    model_reward(load_scalar(model))(["the cat"], ["a zebra"])


@pytest.mark.parametrize("use", [_learn, _learn_online, _sample, _score])
def test_a_token_without_an_embedding_is_named(
    use: Callable[[str, Path], None], grown: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=UNKNOWN):
        use(grown, tmp_path)


def test_a_token_without_an_embedding_that_nobody_writes_is_let_be(
    grown: str, tmp_path: Path
) -> None:
    (result,) = train_offline("sft", SftSettings(**named(tmp_path, grown, [row()])))
    assert result.step == 1
