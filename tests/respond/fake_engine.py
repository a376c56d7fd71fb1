"""An engine in this process that samples from a copy of a model, as vLLM does; it records calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accord.lm.load import load_causal
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.respond.vllm.building import EngineModel
from accord.settings.sampling import SamplerSettings


class FakeEngine:
    """`calls` lists what was called; `parameters` are those of the last `generate`, `fails` an
    error that the next call raises. Level 2 of sleep loses the weights, as vLLM's does."""

    def __init__(self, calls: list[str], *, can_sleep: bool = True, max_length: int = 96) -> None:
        self.calls, self.can_sleep, self.max_length = calls, can_sleep, max_length
        self.parameters: dict[str, Any] = {}
        self.fails: Exception | None = None
        self.asleep: set[str] = set()

    def build(
        self, settings: SamplerSettings, model: EngineModel, sleep_level: int, gets_weights: bool
    ) -> FakeEngine:
        """What `build_engine` does, with the model's own weights or without any."""
        self.built = model
        self.lm = load_causal(model.path, device="cpu")
        if gets_weights:
            self._lose_weights()
        self.calls.append("build")
        return self

    @torch.no_grad()
    def _lose_weights(self) -> None:
        for parameter in self.lm.model.parameters():
            parameter.zero_()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        error, self.fails = self.fails, None
        if error is not None:
            raise error

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._call("load weights")
        assert "weights" not in self.asleep
        own = dict(self.lm.model.named_parameters())  # each tied one once
        given = dict(weights)
        assert set(given) == set(own)
        for name, tensor in given.items():
            own[name].copy_(tensor)

    def reset_prefix_cache(self) -> None:
        self._call("reset cache")

    def sleep(self, level: int) -> None:
        self._call(f"sleep {level}")
        self.asleep = {"weights", "kv_cache"}
        if level == 2:
            self._lose_weights()

    def wake_up(self, tags: list[str] | None) -> None:
        self._call("wake " + ("all" if tags is None else " ".join(tags)))
        self.asleep -= set(tags or self.asleep)

    def close(self) -> None:
        self._call("close")

    def generate(
        self, prompts: Sequence[tuple[int, ...]], parameters: dict[str, Any]
    ) -> list[list[Any]]:
        self._call("generate")
        assert not self.asleep
        self.parameters = parameters
        settings = SamplingSettings(
            parameters["n"],
            parameters["max_tokens"],
            parameters["temperature"],
            stop=tuple(parameters["stop"]),
        )
        # As vLLM, from the process's generators: torch's on a CPU, numpy's on a GPU.
        seed = int(torch.randint(1 << 30, ())) ^ int(np.random.randint(1 << 30))
        groups = LocalSampler(self.lm)(prompts, settings, seed=seed, streams=range(len(prompts)))
        return [
            [
                SimpleNamespace(
                    index=index,
                    token_ids=list(sample.tokens),
                    logprobs=[
                        {token: SimpleNamespace(logprob=logp)}
                        for token, logp in zip(sample.tokens, sample.logps, strict=True)
                    ],
                    finish_reason="stop" if sample.finished else "length",
                    stop_reason=sample.stop or (sample.tokens[-1] if sample.finished else None),
                )
                for index, sample in enumerate(group)
            ]
            for group in groups
        ]


def replace_engine(monkeypatch: pytest.MonkeyPatch, caller: str) -> FakeEngine:
    """A fake engine in place of vLLM's, which `caller`, a module, does not look for."""
    fake = FakeEngine([])
    monkeypatch.setattr("accord.respond.vllm.colocated.build_engine", fake.build)
    monkeypatch.setattr(f"{caller}.require_vllm", lambda device: None)
    return fake
