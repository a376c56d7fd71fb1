"""The reference's log-probs: what they are keyed on, when they are used again, when not."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from accord.learn.offline import reference
from accord.learn.offline.reference import (
    adapters_off_reference,
    cached_log_probs,
    compute_log_probs,
    stored_log_probs,
)
from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import check_packing, response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import pack
from accord.settings.training import LoraSettings
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups

GROUPS = random_groups([(4, (3, 5)), (2, (7, 1)), (6, (2, 2, 4))], VOCABULARY)


class NoTokenizer:
    eos_token_id = 2


def model(seed: int = 0) -> LanguageModel:
    lm = LanguageModel(causal("llama", seed), NoTokenizer(), "toy")
    assert check_packing(lm)
    return lm


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many rows each computation took, in a cache of the test's own."""
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    counts: list[int] = []

    def counted(lm: Any, groups: Any, **more: Any) -> Any:
        counts.append(len(groups))
        return compute_log_probs(lm, groups, **more)

    monkeypatch.setattr(reference, "compute_log_probs", counted)
    monkeypatch.setattr(reference, "PROBED_ROWS", 1)
    return counts


def test_token_log_probs_are_those_of_the_forward_pass() -> None:
    lm = model()
    found = compute_log_probs(lm, GROUPS, batch_size=2)
    expected = response_logps(lm, pack(GROUPS)).detach()
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-5)
    assert [len(f) for f in found] == [8, 8, 8]
    look_up = stored_log_probs(found)
    batch = pack([GROUPS[2], GROUPS[0]])
    torch.testing.assert_close(look_up(batch, [2, 0]), torch.cat([found[2], found[0]]))


def test_no_forward_pass_has_more_tokens_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12, 10 and 14 tokens, of which no two fit into 20; into 24 the second and either other do.
    lm, held = model(), list[int]()

    def counted(groups: Any, device: Any) -> Any:
        held.append(sum(g.num_tokens for g in groups))
        return pack(groups, device)

    whole = compute_log_probs(lm, GROUPS, batch_size=3)
    monkeypatch.setattr(reference, "pack", counted)
    for most, tokens in ((20, [10, 12, 14]), (24, [14, 22]), (None, [36])):
        found = compute_log_probs(lm, GROUPS, batch_size=3, max_tokens=most)
        torch.testing.assert_close(torch.cat(found), torch.cat(whole), rtol=0, atol=1e-5)
        assert [len(row) for row in found] == [8, 8, 8]
        assert sorted(held) == tokens
        held.clear()


def test_a_second_run_takes_what_the_first_kept(computed: list[int]) -> None:
    first = cached_log_probs(model(), GROUPS, batch_size=2)
    second = cached_log_probs(model(), GROUPS, batch_size=3)
    assert computed == [3, 1]  # all rows, then the probe alone
    assert torch.equal(torch.cat(first), torch.cat(second))


@pytest.mark.parametrize("change", ["weights", "rows", "configuration", "precision"])
def test_what_changes_them_makes_them_anew(computed: list[int], change: str) -> None:
    cached_log_probs(model(), GROUPS, batch_size=2)
    lm, groups = model(), GROUPS
    if change == "weights":
        with torch.no_grad():
            next(lm.model.parameters())[3, 3] += 1e-3
    elif change == "rows":
        groups = [replace(GROUPS[0], prompt=(5, *GROUPS[0].prompt[1:])), *GROUPS[1:]]
    elif change == "configuration":
        lm.inner.config = deepcopy(lm.inner.config)  # all tests share the other
        lm.inner.config.rms_norm_eps = 1e-3
    else:
        lm.precision = "bf16"
    cached_log_probs(lm, groups, batch_size=2)
    assert computed == [3, 3]


def test_a_kept_set_that_is_wrong_is_not_believed(computed: list[int], tmp_path: Path) -> None:
    right = cached_log_probs(model(), GROUPS, batch_size=2)
    (place,) = (tmp_path / "cache").rglob("logps.safetensors")
    save_file({"logps": load_file(place)["logps"] + 0.5}, place)
    again = cached_log_probs(model(), GROUPS, batch_size=2)
    assert computed == [3, 1, 3]
    assert torch.equal(torch.cat(right), torch.cat(again))
    place.write_bytes(b"cut short")
    cached_log_probs(model(), GROUPS, batch_size=2)
    assert computed == [3, 1, 3, 3]


def test_a_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    found = cached_log_probs(model(), GROUPS, batch_size=2)
    assert len(found) == 3
    assert "not cached for later runs" in caplog.text


def test_adapters_off_is_the_base_however_far_they_have_moved() -> None:
    base = torch.cat(compute_log_probs(model(), GROUPS, batch_size=3))
    lm = add_adapters(model(), LoraSettings(r=2), seed=0)
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    batch = pack(GROUPS)
    torch.testing.assert_close(
        adapters_off_reference(lm)(batch, [0, 1, 2]), base, rtol=0, atol=1e-5
    )
    assert float((response_logps(lm, batch) - base).abs().max()) > 1e-2
