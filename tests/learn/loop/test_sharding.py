"""When a model is divided, what accelerate's configuration says of it, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from accord.errors import NotFiniteError, SettingsError, TrainingError
from accord.learn.loop import sharding as module
from accord.learn.loop.deferred import Errors
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.optimiser import clip_gradients, scale_to_norm, squared_norm
from accord.learn.loop.processes import Processes
from accord.learn.loop.schedule import make_schedule, own_passes
from accord.learn.loop.sharding import load_divided, resolve_sharding
from accord.settings.ppo import PpoSettings
from accord.settings.training import SftSettings, TrainSettings
from tests.learn.toys.models import causal_lm
from tests.learn.toys.settings import REQUIRED
from tests.lm.toys import random_groups

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processes", lambda: Processes(0, 2))


def resolved(environment: dict[str, str], **settings: Any) -> TrainSettings:
    return resolve_sharding(SftSettings(**REQUIRED, **settings), NOTHING, environment)


@pytest.mark.parametrize(
    ("environment", "setting", "expected"),
    [
        ({}, None, "none"),
        ({}, "fsdp", "fsdp"),
        (FSDP, None, "fsdp"),
        (FSDP, "none", "none"),
        ({**FSDP, "ACCELERATE_USE_FSDP": "false"}, None, "none"),
        ({"FSDP_VERSION": "1"}, "fsdp", "fsdp"),  # of a configuration without FSDP
    ],
)
def test_the_setting_counts_and_else_the_launchers_configuration(
    environment: dict[str, str], setting: Any, expected: str
) -> None:
    assert resolved(environment, sharding=setting).sharding == expected


def test_one_process_divides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "processes", Processes)
    assert resolved(FSDP).sharding == "none"
    assert resolved({}, sharding="fsdp").sharding == "none"


def test_accelerates_activation_checkpointing_is_followed_where_it_divides() -> None:
    environment = {**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}
    assert resolved(environment).gradient_checkpointing
    assert not resolved(environment, sharding="none").gradient_checkpointing


@pytest.mark.parametrize(
    ("environment", "remedy"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        ({**FSDP, "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "Set it to false"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "Choose FSDP"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Choose FSDP"),
    ],
)
def test_a_configuration_that_cant_be_followed_is_refused(
    environment: dict[str, str], remedy: str
) -> None:
    with pytest.raises(SettingsError, match=remedy):
        resolved(environment)


def test_another_precision_of_the_launcher_is_named(caplog: pytest.LogCaptureFixture) -> None:
    resolved({**FSDP, "ACCELERATE_MIXED_PRECISION": "no"})
    resolved({**FSDP, "ACCELERATE_MIXED_PRECISION": "bf16"}, precision="bf16")
    assert "mixed_precision" not in caplog.text
    resolved({**FSDP, "ACCELERATE_MIXED_PRECISION": "bf16"})
    assert "precision=fp32" in caplog.text


def test_models_in_memory_and_an_engine_in_the_process_are_refused() -> None:
    settings = SftSettings(**REQUIRED, sharding="fsdp")
    for memory in (InMemory(model=causal_lm()), InMemory(ref_model=causal_lm())):
        with pytest.raises(SettingsError, match="loads from folders"):
            resolve_sharding(settings, memory, {})
        assert resolve_sharding(SftSettings(**REQUIRED), memory, {}).sharding == "none"
    for values in (
        {"optim": "adamw_8bit"},
        {"quantization": "nf4", "lora": {}},
        {"activation_offload": True},
    ):
        with pytest.raises(SettingsError, match=next(iter(values))):
            resolved({}, sharding="fsdp", **values)
        assert resolved({}, sharding="none", **values).sharding == "none"
    online = PpoSettings(
        **REQUIRED,
        reward_model="r",
        lora={},
        sharding="fsdp",
        sampler={"kind": "vllm", "mode": "colocate"},
    )
    with pytest.raises(SettingsError, match=r"sampler\.mode=colocate needs the whole policy"):
        resolve_sharding(online, NOTHING, {})


def test_without_division_a_model_is_loaded_as_ever() -> None:
    lm = load_divided(causal_lm, lambda model: [model], SftSettings(**REQUIRED))
    assert lm.sharded is None


def test_in_lockstep_each_process_has_as_many_passes() -> None:
    for count in range(1, 8):
        parts = [[i] for i in range(count)]
        shares = [list(own_passes(parts, Processes(rank, 3), lockstep=True)) for rank in range(3)]
        assert {len(share) for share in shares} == {math.ceil(count / 3)}
        assert sorted(part for share in shares for part, counts in share if counts) == parts
        assert all(part in parts for share in shares for part, _ in share)
        loose = [list(own_passes(parts, Processes(rank, 3), lockstep=False)) for rank in range(3)]
        assert [p for share in loose for p, _ in share] == [
            p for share in shares for p, counts in share if counts
        ]


def test_more_processes_than_the_run_began_with_share_a_steps_rows() -> None:
    groups = random_groups([(3, (4, 2))] * 8, 24)
    settings = SftSettings(**REQUIRED, per_device_train_batch_size=4)
    schedule = make_schedule(8, settings, 2)
    assert schedule.examples_per_step == 8
    assert len(schedule.micro_batches(range(8), groups)) == 2
    assert [len(p) for p in schedule.micro_batches(range(8), groups, 4)] == [2] * 4
    assert len(schedule.micro_batches(range(8), groups, 1)) == 2


def test_parts_of_gradients_are_clipped_as_the_whole_is() -> None:
    generator = torch.Generator().manual_seed(0)
    whole, parts = [nn.Parameter(torch.zeros(6, 3)) for _ in range(2)], []
    for parameter in whole:
        parameter.grad = torch.randn(6, 3, generator=generator)
        for rows in parameter.grad.clone().split(2):
            parts.append(nn.Parameter(torch.zeros(2, 3)))
            parts[-1].grad = rows
    parts.append(nn.Parameter(torch.zeros(1)))  # one that no pass has reached
    norm = math.sqrt(squared_norm(parts))
    for max_norm in (0.0, 1e6, norm, 0.5):
        scale_to_norm(parts, norm, max_norm)
        assert clip_gradients(whole, max_norm) == pytest.approx(norm, rel=1e-6)
        joined = torch.cat([p.grad for p in parts if p.grad is not None])
        expected = torch.cat([p.grad for p in whole if p.grad is not None])
        assert torch.allclose(joined, expected, rtol=1e-6, atol=0)


def test_deferred_errors_wait_and_the_first_is_raised() -> None:
    def fail(error: Exception) -> None:
        raise error

    errors = Errors(deferred=True)
    errors.raise_first()
    for error in (NotFiniteError("first"), TrainingError("second")):
        errors.run(lambda error=error: fail(error))
    with pytest.raises(NotFiniteError, match="first"):
        errors.raise_first()
    with pytest.raises(ValueError, match="a bug"):
        errors.run(lambda: fail(ValueError("a bug")))
    with pytest.raises(TrainingError):
        Errors(deferred=False).run(lambda: fail(TrainingError("at once")))
