"""Continuing an adapter on its base, instead of merging it into the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from torch import Tensor

from accord.errors import SettingsError
from accord.lm.adapters.lora import add_adapters, continue_adapter
from accord.lm.adapters.switch import adapter_name
from accord.lm.adapters.views import base_view, frozen_view, reward_view, why_not_shared
from accord.lm.digest import weights_digest
from accord.lm.forward import response_logps, response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import LoraSettings
from tests.lm.test_load import plain_logps
from tests.lm.toys import random_groups, save_toy, toy_tokenizer, with_adapters

GROUPS = random_groups([(5, (3, 9)), (2, (4,)), (7, (1, 6, 2))], len(toy_tokenizer()))
ENDED = [PromptGroup(g.prompt, tuple((*r, 2) for r in g.responses), g.ranks) for g in GROUPS]
CONTINUE = LoraSettings(continue_adapter=True)


@torch.no_grad()
def logps(lm: LanguageModel) -> Tensor:
    return response_logps(lm, pack(GROUPS))


def saved(folder: Path, architecture: str = "llama") -> tuple[str, str]:
    """A base, and an adapter on it with r=2 on all linear layers."""
    base = save_toy(folder / "base", architecture)
    save_model(with_adapters(load_causal(base), seed=0), folder / "adapter", card="")
    return base, str(folder / "adapter")


def continued(path: str, settings: LoraSettings = CONTINUE, **options: Any) -> LanguageModel:
    return continue_adapter(load_causal(path, merge=False, **options), path, settings)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_continued_adapter_and_its_base_have_the_saved_weights(
    architecture: str, tmp_path: Path
) -> None:
    base, path = saved(tmp_path, architecture)
    lm = continued(path)
    assert not lm.unsaved
    torch.testing.assert_close(logps(lm), logps(load_causal(path)), rtol=0, atol=1e-4)  # merged
    torch.testing.assert_close(logps(base_view(lm)), logps(load_causal(base)), rtol=0, atol=1e-5)
    assert float((logps(lm) - logps(base_view(lm))).abs().max()) > 0.05
    assert {adapter_name(n) for n in lm.trainable_parameters()} == {"default"}
    assert all(p.dtype == torch.float32 for p in lm.trainable_parameters().values())
    # After training it is saved as one adapter still, of the same rank on the same base.
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.mul_(1.5)
    save_model(lm, tmp_path / "next", card="")
    config = json.loads((tmp_path / "next" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 32.0, base)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "next").eval()
    actual = plain_logps(plain, toy_tokenizer(), GROUPS)
    torch.testing.assert_close(actual, logps(lm).double(), rtol=0, atol=1e-4)
    assert float((logps(lm) - logps(load_causal(path))).abs().max()) > 0.05


def test_a_bf16_base_is_as_without_the_adapter(tmp_path: Path) -> None:
    base, path = saved(tmp_path)
    lm = continued(path, precision="bf16")
    assert lm.weights_dtype == torch.bfloat16  # nothing was merged, so nothing is rounded away
    assert torch.equal(logps(base_view(lm)), logps(load_causal(base, precision="bf16")))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"r": 4}, r"lora\.r=4, but the adapter in .*adapter, .* has 2\. Leave lora\.r out"),
        ({"alpha": 16.0}, r"lora\.alpha=16\.0, but .* has 32\."),
        (
            {"target_modules": ["q_proj"]},
            r"target_modules=\['q_proj'\], but .* has 14 layers, such as",
        ),
    ],
)
def test_settings_that_differ_from_the_adapter_are_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(SettingsError, match=message):
        continued(path, LoraSettings(continue_adapter=True, **changed))


def test_settings_equal_to_the_adapter_are_accepted(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for layers in ("all-linear", names, r".*_proj"):
        equal = LoraSettings(continue_adapter=True, r=2, alpha=32.0, target_modules=layers)
        assert torch.equal(logps(continued(path, equal)), logps(continued(path)))
    # An adapter on few layers, also with the settings that a run saves, which include defaults.
    lm = load_causal(str(tmp_path / "base"))
    narrow = LoraSettings(r=2, target_modules=["q_proj"])
    save_model(add_adapters(lm, narrow, seed=0), tmp_path / "narrow", card="")
    continued(str(tmp_path / "narrow"), narrow.model_copy(update={"continue_adapter": True}))
    continued(str(tmp_path / "narrow"), LoraSettings(**CONTINUE.model_dump()))


def test_an_adapter_that_is_not_lora_alone_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    for key, value, reason in (
        ("peft_type", "IA3", "it is a IA3 adapter, and not LoRA"),
        ("bias", "all", "more than LoRA's matrices"),
        ("modules_to_save", ["embed_tokens"], "more than LoRA's matrices"),
    ):
        shutil.copytree(path, tmp_path / key)
        config = tmp_path / key / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
        with pytest.raises(SettingsError, match=f"can't continue training: .*{reason}"):
            continue_adapter(load_causal(path, merge=False), str(tmp_path / key), CONTINUE)


@torch.no_grad()
def test_a_reward_model_continues_with_its_head(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    first = with_adapters(load_scalar(base, new_head=True, seed=3), seed=5)
    first.score_mean, first.score_std = 0.75, 2.0
    save_model(first, tmp_path / "rm", card="")
    path = str(tmp_path / "rm")
    lm = continue_adapter(load_scalar(path, seed=9, merge=False), path, CONTINUE)
    expected = response_scores(first, pack(ENDED))
    torch.testing.assert_close(response_scores(lm, pack(ENDED)), expected, rtol=0, atol=1e-5)
    assert (lm.score_mean, lm.score_std) == (0.75, 2.0)
    assert any("score" in n for n in lm.trainable_parameters())
    with pytest.raises(SettingsError, match=r"score\.weight is in one of them only"):
        continued(path)


@torch.no_grad()
def test_a_reward_model_on_a_policys_adapter_shares_its_base(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    scorer = continue_adapter(load_scalar(path, new_head=True, seed=3, merge=False), path, CONTINUE)
    # The hidden states are those of the merged adapter, under a head of the same seed.
    whole = load_scalar(path, new_head=True, seed=3)
    expected = response_scores(whole, pack(ENDED))
    torch.testing.assert_close(response_scores(scorer, pack(ENDED)), expected, rtol=0, atol=1e-4)
    save_model(scorer, tmp_path / "rm", card="")
    policy = continued(path)
    assert why_not_shared(policy, str(tmp_path / "rm")) is None
    shared = reward_view(policy, str(tmp_path / "rm"))
    torch.testing.assert_close(response_scores(shared, pack(ENDED)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_frozen_view_does_not_change_with_the_policy(precision: str, tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    lm = continued(path, precision=precision)
    trainable = set(lm.trainable_parameters())
    if precision == "bf16":  # as it computes when it has float32 masters
        for parameter in lm.trainable_parameters().values():
            parameter.data = parameter.data.bfloat16()
    before = logps(lm)
    view = frozen_view(lm)
    assert torch.equal(logps(view), before)
    assert torch.equal(logps(lm), before)
    assert view.trainable_parameters() == {}
    assert set(lm.trainable_parameters()) == trainable
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.mul_(1.5)
    assert torch.equal(logps(view), before)
    assert not torch.equal(logps(lm), before)
    save_model(lm, tmp_path / "next", card="")
    assert not any(p.is_dir() for p in (tmp_path / "next").iterdir())  # the copy is not saved


def test_a_digest_depends_on_the_active_adapter(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    lm = continued(path)
    assert weights_digest(lm) == weights_digest(continued(path))
    with_adapter, base = weights_digest(lm), weights_digest(base_view(lm))
    assert with_adapter != base
    with torch.no_grad():
        next(iter(lm.trainable_parameters().values())).add_(1e-3)
    assert weights_digest(lm) != with_adapter
    assert weights_digest(base_view(lm)) == base
    config = Path(path) / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 16}))
    assert weights_digest(continued(path)) != with_adapter  # equal matrices, half the scale


def test_an_adapter_on_the_vocabulary_head_is_refused(tmp_path: Path) -> None:
    # The head's weight is read without calling the layer, so its adapter would do nothing.
    from peft import LoraConfig, get_peft_model

    base = save_toy(tmp_path / "base", "qwen3")
    with pytest.raises(SettingsError, match=r"vocabulary head \(lm_head\).*would do nothing"):
        add_adapters(load_causal(base), LoraSettings(target_modules=["q_proj", "lm_head"]), seed=0)
    model = load_causal(base).model
    options: Any = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "lm_head"]}
    get_peft_model(model, LoraConfig(**options)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(SettingsError, match=r"continue_adapter out, and it is merged"):
        continued(str(tmp_path / "adapter"))
    assert load_causal(str(tmp_path / "adapter")).unsaved  # merged, it counts
