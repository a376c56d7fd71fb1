"""The stage that samples from vLLM in this process, with an engine that samples from a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.errors import WorkError
from accord.lm.load import load_causal, save_model
from accord.pipeline.stages.engine import colocated_engine
from accord.settings.stages import SampleSettings
from tests.lm.toys import save_toy, with_adapters
from tests.respond.fake_engine import FakeEngine, replace_engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return replace_engine(monkeypatch, "accord.respond.vllm.building")


def make_settings(folder: Path, model: str, **values: Any) -> SampleSettings:
    return SampleSettings(
        model=model,
        dataset="prompts.jsonl",
        output_dir=str(folder / "out"),
        sampler={"kind": "vllm", "mode": "colocate"},  # type: ignore[arg-type]
        device="cpu",
        **values,
    )


@pytest.mark.parametrize(
    ("max_prompt_length", "expected"), [(None, None), (16, 24), (1000, 128)]
)  # of the toy's 128 positions, with 8 new tokens
def test_the_engine_has_no_more_positions_than_the_model(
    max_prompt_length: int | None, expected: int | None, engine: FakeEngine, tmp_path: Path
) -> None:
    model = save_toy(tmp_path / "model")
    colocated_engine(
        make_settings(tmp_path, model, max_prompt_length=max_prompt_length, max_new_tokens=8)
    )
    assert engine.built.max_length == expected


def test_an_engine_that_can_not_get_the_weights_is_ended(
    engine: FakeEngine, tmp_path: Path
) -> None:
    lm = with_adapters(load_causal(save_toy(tmp_path / "model"), device="cpu"), 0)
    save_model(lm, tmp_path / "adapter", card="")
    engine.fails = RuntimeError("device-side assert")
    with pytest.raises(WorkError, match="could not load weights"):
        colocated_engine(make_settings(tmp_path, str(tmp_path / "adapter")))
    assert engine.calls == ["build", "load weights", "close"]
