"""What starts vLLM in this process, and loads its weights, with modules that stand for vLLM."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accord.errors import SettingsError
from accord.respond.vllm.building import EngineModel, VllmEngine, build_engine, require_vllm
from accord.settings.sampling import SamplerSettings


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("__version__ = '0.11.2'", "0.32 or later, and 0.11.2 is installed"),
        ("raise ImportError('no libcuda')", "can't be imported .ImportError: no libcuda"),
    ],
)
def test_a_vllm_that_is_of_no_use(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, __init__=source)
    with pytest.raises(SettingsError, match=f"{message}.*pip install 'accord.vllm.'"):
        require_vllm()


def test_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.respond.vllm.building.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"not installed there.*sampler\.mode=server"):
        require_vllm()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Make a package `vllm` of modules' sources importable."""
    (folder / "vllm").mkdir()
    for name, source in modules.items():
        (folder / f"vllm/{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")


@pytest.fixture(autouse=True)
def _no_vllm_is_imported() -> Iterator[None]:
    def forget() -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == "vllm"]:
            del sys.modules[name]

    forget()
    yield
    forget()


PLATFORMS = """
class current_platform:
    device_name = "cuda"
    is_cpu = staticmethod(lambda: False)
    is_sleep_mode_available = staticmethod(lambda: True)
"""


def test_a_vllm_for_gpus_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, __init__="__version__ = '0.32.0'", platforms=PLATFORMS)
    require_vllm()
    with pytest.raises(SettingsError, match=r"device=cpu .*computes on cuda.*device=auto"):
        require_vllm("cpu")


def test_an_engine_can_start_after_one_that_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = """
import torch.distributed as dist
__version__ = "0.32.0"
def LLM(**values):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    raise RuntimeError("no room")
"""
    cleanup = """
import torch.distributed as dist
cleanup_dist_env_and_memory = dist.destroy_process_group
"""
    install(tmp_path, monkeypatch, __init__=start, platforms=PLATFORMS, distributed=cleanup)
    model = EngineModel("toy", "fp32", frozenset({1}))
    for _ in range(2):  # the second is not refused as a run of several processes
        with pytest.raises(SettingsError, match=r"did not start .*no room"):
            build_engine(SamplerSettings(kind="vllm", mode="colocate"), model, 2, True)
        assert not torch.distributed.is_initialized()


class Pair(nn.Module):
    """Two weights, which `load_weights` copies and names as vLLM's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        given = dict(weights)
        for name, tensor in given.items():
            self.get_parameter(name).copy_(tensor)
        return set(given)


@pytest.mark.parametrize("quantization", [None, "fp8"])
def test_a_weight_that_was_not_given_is_an_error(quantization: str | None) -> None:
    # A quantised model computes some of its parameters itself.
    model = Pair()
    config = SimpleNamespace(max_model_len=8, enable_sleep_mode=False, quantization=quantization)
    worker: Any = SimpleNamespace(
        get_model=lambda: model,
        reload_weights=lambda weights_iterator: model.load_weights(weights_iterator),
        vllm_config=SimpleNamespace(model_config=config),
    )

    def call(work: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        if isinstance(work, str):
            getattr(worker, work)(*args, **(kwargs or {}))
        else:
            work(worker, *args, **(kwargs or {}))

    llm = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config), collective_rpc=call)
    engine = VllmEngine(llm)
    engine.load_weights([("left", torch.ones(2)), ("right", torch.ones(2))])
    assert model.right.tolist() == [1, 1]
    if quantization is None:
        with pytest.raises(RuntimeError, match="1 of its weights were not given: right"):
            engine.load_weights([("left", torch.ones(2))])
    else:
        engine.load_weights([("left", torch.ones(2))])
    assert "load_weights" not in vars(model)
