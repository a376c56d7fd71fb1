"""The reference: its log-probs and their cache, and which model it is."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from accord.errors import SettingsError
from accord.learn.offline import reference_cache
from accord.learn.offline.reference import adapters_off_reference, stored_log_probs
from accord.learn.offline.reference_cache import cached_log_probs, compute_log_probs
from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import response_logps
from accord.lm.packing import pack
from accord.settings.training import LoraSettings
from tests.learn.toys.models import causal_lm
from tests.learn.toys.saved import SavedToys, save_with_other_tokenizer, train
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups, save_toy

GROUPS = random_groups([(4, (3, 5)), (2, (7, 1)), (6, (2, 2, 4))], VOCABULARY)


@pytest.fixture
def computed_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The number of rows of each computation, beside an empty cache."""
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    counts: list[int] = []

    def counted(lm: Any, groups: Any, **options: Any) -> Any:
        counts.append(len(groups))
        return compute_log_probs(lm, groups, **options)

    monkeypatch.setattr(reference_cache, "compute_log_probs", counted)
    monkeypatch.setattr(reference_cache, "PROBED_ROWS", 1)
    return counts


def test_token_log_probs_are_those_of_the_forward_pass() -> None:
    lm = causal_lm()
    logps = compute_log_probs(lm, GROUPS, batch_size=2)
    expected = response_logps(lm, pack(GROUPS)).detach()
    torch.testing.assert_close(torch.cat(logps), expected, rtol=0, atol=1e-5)
    assert [len(row) for row in logps] == [8, 8, 8]
    look_up = stored_log_probs(logps)
    batch = pack([GROUPS[2], GROUPS[0]])
    torch.testing.assert_close(look_up(batch, [2, 0]), torch.cat([logps[2], logps[0]]))


def test_no_pass_has_more_tokens_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12, 10 and 14 tokens, of which no two fit into 20; into 24 the second and either other do.
    lm, pass_tokens = causal_lm(), list[int]()

    def counted(groups: Any, device: Any) -> Any:
        pass_tokens.append(sum(g.num_tokens for g in groups))
        return pack(groups, device)

    expected = compute_log_probs(lm, GROUPS, batch_size=3)
    monkeypatch.setattr(reference_cache, "pack", counted)
    for max_tokens, expected_tokens in ((20, [10, 12, 14]), (24, [14, 22]), (None, [36])):
        logps = compute_log_probs(lm, GROUPS, batch_size=3, max_tokens=max_tokens)
        torch.testing.assert_close(torch.cat(logps), torch.cat(expected), rtol=0, atol=1e-5)
        assert [len(row) for row in logps] == [8, 8, 8]
        assert sorted(pass_tokens) == expected_tokens
        pass_tokens.clear()


def test_a_second_run_uses_the_cache_of_the_first(computed_rows: list[int]) -> None:
    first = cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    second = cached_log_probs(causal_lm(), GROUPS, batch_size=3)
    assert computed_rows == [3, 1]  # all rows, then the probe alone
    assert torch.equal(torch.cat([*first]), torch.cat([*second]))


@pytest.mark.parametrize("change", ["weights", "rows", "configuration", "precision"])
def test_log_probs_are_computed_again_after_a_change(computed_rows: list[int], change: str) -> None:
    cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    lm, groups = causal_lm(), GROUPS
    if change == "weights":
        with torch.no_grad():
            next(lm.model.parameters())[3, 3] += 1e-3
    elif change == "rows":
        groups = [replace(GROUPS[0], prompt=(5, *GROUPS[0].prompt[1:])), *GROUPS[1:]]
    elif change == "configuration":
        lm.inner.config = deepcopy(lm.inner.config)  # all tests share the original
        lm.inner.config.rms_norm_eps = 1e-3
    else:
        lm.precision = "bf16"
    cached_log_probs(lm, groups, batch_size=2)
    assert computed_rows == [3, 3]


def test_a_wrong_or_broken_cache_is_computed_again(
    computed_rows: list[int], tmp_path: Path
) -> None:
    expected = [*cached_log_probs(causal_lm(), GROUPS, batch_size=2)]
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    save_file({"logps": load_file(path)["logps"] + 0.5}, path)
    logps = cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    assert computed_rows == [3, 1, 3]
    assert torch.equal(torch.cat([*expected]), torch.cat([*logps]))
    path.write_bytes(b"cut short")
    cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    assert computed_rows == [3, 1, 3, 3]
    save_file({"logps": load_file(path)["logps"][:-1]}, path)  # of fewer tokens
    logps = cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    assert computed_rows == [3, 1, 3, 3, 3]
    assert torch.equal(torch.cat([*expected]), torch.cat([*logps]))


def test_files_of_some_rows_each(computed_rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cache, "SHARD_ROWS", 2)
    groups = random_groups(
        [(4, (3, 5)), (2, (7, 1)), (6, (2,)), (3, (4, 4)), (5, (1,))], VOCABULARY
    )
    lm = causal_lm()
    logps = cached_log_probs(lm, groups, batch_size=2)
    assert computed_rows == [2, 2, 1]
    expected = compute_log_probs(lm, groups, batch_size=1)
    assert [len(row) for row in logps] == [8, 8, 2, 8, 1]
    for row, value in zip(logps, expected, strict=True):
        torch.testing.assert_close(row, value, rtol=0, atol=1e-5)
    assert torch.equal(logps[-1], logps[4])
    assert [len(row) for row in logps[1::2]] == [8, 8]
    # Only the file that is damaged is computed again, after the probe.
    before = torch.cat([*logps])
    (damaged,) = logps.folder.glob("00001*")
    damaged.write_bytes(b"cut short")
    computed_rows.clear()
    again = cached_log_probs(lm, groups, batch_size=2)
    assert computed_rows == [1, 2]
    assert torch.equal(before, torch.cat([*again]))
    # With two files open at most, any order gives the same.
    monkeypatch.setattr(reference_cache, "OPEN_SHARDS", 1)
    for i in (4, 0, 3, 1, 2, 4):
        assert torch.equal(again[i], logps[i])


def test_a_killed_run_goes_on_behind_its_files(
    computed_rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "SHARD_ROWS", 1)
    counted = reference_cache.compute_log_probs

    def stopping(lm: Any, groups: Any, **options: Any) -> Any:
        if len(computed_rows) == 2:
            raise KeyboardInterrupt
        return counted(lm, groups, **options)

    with monkeypatch.context() as patch:
        patch.setattr(reference_cache, "compute_log_probs", stopping)
        with pytest.raises(KeyboardInterrupt):
            cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    computed_rows.clear()
    logps = cached_log_probs(causal_lm(), GROUPS, batch_size=2)
    assert computed_rows == [1, 1]  # the probe, and the last row
    expected = compute_log_probs(causal_lm(), GROUPS, batch_size=1)
    assert torch.equal(torch.cat([*logps]), torch.cat(expected))


def test_training_continues_where_the_cache_can_not_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    assert len(cached_log_probs(causal_lm(), GROUPS, batch_size=2)) == 3
    assert "not cached for later runs" in caplog.text


def test_adapters_off_is_the_base_however_far_they_have_moved() -> None:
    base = torch.cat(compute_log_probs(causal_lm(), GROUPS, batch_size=3))
    lm = add_adapters(causal_lm(), LoraSettings(r=2), seed=0)
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    batch = pack(GROUPS)
    torch.testing.assert_close(
        adapters_off_reference(lm)(batch, [0, 1, 2]), base, rtol=0, atol=1e-5
    )
    assert float((response_logps(lm, batch) - base).abs().max()) > 1e-2


def test_a_reference_with_another_tokenizer_is_refused(toys: SavedToys, tmp_path: Path) -> None:
    ref_model = save_with_other_tokenizer(
        tmp_path / "other", "llama", "quite other words", 290, seed=0
    )
    for method in ("dpo", "ppo"):
        settings = toys.settings(method, "llama", tmp_path / method, ref_model=ref_model)
        with pytest.raises(SettingsError, match="has another tokenizer than"):
            train(method, settings)


def test_with_another_reference_model_the_first_kl_and_margin_are_not_zero(
    toys: SavedToys, tmp_path: Path
) -> None:
    ref_model = save_toy(tmp_path / "other", "llama", seed=7)
    settings = toys.settings("ppo", "llama", tmp_path / "ppo", ref_model=ref_model)
    (result,) = train("ppo", settings)
    assert abs(result.metrics["objective/kl"]) > 1e-3
    settings = toys.settings("dpo", "llama", tmp_path / "dpo", ref_model=ref_model)
    (result,) = train("dpo", settings)
    assert abs(result.metrics["rewards/margins"]) > 1e-4


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_in_bf16_the_reference_computes_as_the_policy_does(
    lora: dict[str, int] | None, toys: SavedToys, tmp_path: Path
) -> None:
    # In the same passes the first step's log-ratios are 0 to the bit, and not bf16's noise.
    settings = toys.settings(
        "dpo", "llama", tmp_path, precision="bf16", lora=lora, per_device_train_batch_size=3
    )
    (result,) = train("dpo", settings)
    assert abs(result.metrics["rewards/chosen"]) < 1e-6
    assert abs(result.metrics["rewards/margins"]) < 1e-6
