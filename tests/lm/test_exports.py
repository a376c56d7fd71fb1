"""The names that a user's own torch loop imports from `accord.lm`, each loaded on first use."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import accord.lm

NAMES = {
    "pack": "packing",
    "PromptGroup": "packing",
    "PackedBatch": "packing",
    "response_logps": "forward",
    "load_causal": "load",
    "load_scalar": "load",
    "save_model": "load",
    "encode": "tokens.encode",
    "Limits": "tokens.encode",
    "LanguageModel": "model",
}


def test_all_names_are_those_of_their_modules() -> None:
    assert set(accord.lm.__all__) == set(NAMES)
    assert set(NAMES) <= set(dir(accord.lm))
    for name, module in NAMES.items():
        defined = getattr(import_module(f"accord.lm.{module}"), name)
        assert getattr(accord.lm, name) is defined, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'accord\.lm' has no attribute 'load_casual'"):
        accord.lm.load_casual  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", ["accord.lm", "accord.objectives"])
def test_importing_the_package_loads_no_torch(package: str) -> None:
    script = f"import sys, {package}\nprint({package}.__all__[0], 'torch' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert process.stdout.split()[1] == "False"


def test_a_training_step_in_plain_torch(tmp_path: Path) -> None:
    from accord.lm import Limits, encode, load_causal, pack, response_logps, save_model
    from accord.objectives import dpo_loss
    from accord.records import Comparison
    from tests.lm.toys import save_toy

    policy = load_causal(save_toy(tmp_path / "base"), trainable=True)
    reference = load_causal(str(tmp_path / "base"))
    rows = [Comparison("the cat", " sat", " ran away"), Comparison("a dog", " ran", " sat")]
    groups, _ = encode(rows, policy.tokenizer, Limits(32), eos_ids=policy.eos_ids)
    batch = pack(groups, policy.device)
    with torch.no_grad():
        reference_logps = response_logps(reference, batch)
    optimizer = torch.optim.SGD(policy.trainable_parameters().values(), lr=0.1)
    values = []
    for _ in range(3):
        logratios = batch.per_response(response_logps(policy, batch) - reference_logps)
        loss = dpo_loss(
            logratios[batch.pairs.chosen], logratios[batch.pairs.rejected], beta=0.1
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    # The policy starts as the reference, where the loss is log 2.
    assert values[0] == pytest.approx(0.6931, abs=1e-3)
    assert values[2] < values[1] < values[0]
    save_model(policy, tmp_path / "trained", card="")
    with torch.no_grad():
        saved = response_logps(load_causal(str(tmp_path / "trained")), batch)
        torch.testing.assert_close(saved, response_logps(policy, batch), rtol=0, atol=1e-6)
