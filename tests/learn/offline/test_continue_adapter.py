"""Offline training that continues an adapter: what its reference is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.compare.dataset import load_records
from accord.errors import SettingsError
from accord.learn.offline.train import train_offline
from accord.lm.forward import response_logps
from accord.lm.load import load_causal, save_model
from accord.lm.packing import pack
from accord.lm.tokens.encode import Limits, encode
from accord.settings.preferences import DpoSettings
from tests.learn.toys.adapters import CONTINUE, AdapterToys
from tests.lm.toys import with_adapters

BETA = 0.5


def dpo_settings(adapters: AdapterToys, output: Path, **overrides: Any) -> DpoSettings:
    return DpoSettings(
        **{
            "model": adapters.adapter,
            "dataset": adapters.pairs,
            "output_dir": str(output),
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "beta": BETA,
            "max_length": 64,
            "lora": CONTINUE,
            "device": "cpu",
            **overrides,
        }
    )


def first_margin(pairs: str, model: str, reference: str) -> float:
    """DPO's mean margin before the first step, from two models loaded whole."""
    lms = [load_causal(model), load_causal(reference)]
    records, _ = load_records(pairs, "preferences")
    groups, _ = encode(records, lms[0].tokenizer, Limits(64), eos_ids=lms[0].eos_ids)
    total = 0.0
    with torch.no_grad():
        for group in groups:
            differences = []  # chosen − rejected log-prob
            for lm in lms:
                logps = response_logps(lm, pack([group])).split([len(r) for r in group.responses])
                differences.append(float(logps[0].sum() - logps[1].sum()))
            total += BETA * (differences[0] - differences[1])
    return total / len(groups)


def test_the_reference_is_the_adapter_as_it_was_at_the_start(
    adapter_toys: AdapterToys, tmp_path: Path
) -> None:
    settings = dpo_settings(adapter_toys, tmp_path / "out")
    rows = [r.metrics for r in train_offline("dpo", settings)]
    assert abs(rows[0]["rewards/margins"]) < 1e-6  # not so against the base under it
    assert rows[-1]["rewards/margins"] > 0.5
    saved = json.loads((tmp_path / "out/model/adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == adapter_toys.base


@pytest.mark.parametrize("precompute", [False, True])
def test_the_base_as_reference_is_the_adapter_off(
    precompute: bool, adapter_toys: AdapterToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = first_margin(adapter_toys.pairs, adapter_toys.adapter, adapter_toys.base)
    assert abs(expected) > 1e-2
    loaded: list[str] = []

    def counted(path: str, **options: Any) -> Any:
        loaded.append(path)
        return load_causal(path, **options)

    for module in ("rows", "reference"):
        monkeypatch.setattr(f"accord.learn.offline.{module}.load_causal", counted)
    settings = dpo_settings(
        adapter_toys,
        tmp_path / "out",
        ref_model=adapter_toys.base,
        precompute_ref_log_probs=precompute,
    )
    first = next(iter(train_offline("dpo", settings))).metrics
    assert first["rewards/margins"] == pytest.approx(expected, rel=1e-3)
    assert loaded == [adapter_toys.adapter]  # the base is in memory under it


def test_another_adapter_as_reference_is_a_separate_model(
    adapter_toys: AdapterToys, tmp_path: Path
) -> None:
    reference = str(tmp_path / "other")
    save_model(with_adapters(load_causal(adapter_toys.base), seed=7), Path(reference), card="")
    settings = dpo_settings(adapter_toys, tmp_path / "out", ref_model=reference)
    first = next(iter(train_offline("dpo", settings))).metrics
    expected = first_margin(adapter_toys.pairs, adapter_toys.adapter, reference)
    assert first["rewards/margins"] == pytest.approx(expected, rel=1e-3)


def test_a_reference_that_training_changes_must_be_precomputed(
    adapter_toys: AdapterToys, tmp_path: Path
) -> None:
    settings = dpo_settings(adapter_toys, tmp_path / "out", precompute_ref_log_probs=False)
    with pytest.raises(SettingsError, match=r"training changes it\. Leave it out"):
        next(iter(train_offline("dpo", settings)))


def test_a_whole_model_is_given_a_new_adapter(adapter_toys: AdapterToys, tmp_path: Path) -> None:
    settings = dpo_settings(
        adapter_toys, tmp_path / "out", model=adapter_toys.base, lora={"r": 4, **CONTINUE}
    )
    for _ in train_offline("dpo", settings):
        pass
    assert json.loads((tmp_path / "out/model/adapter_config.json").read_text())["r"] == 4
