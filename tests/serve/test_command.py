"""What `accord serve` loads, under which names, and which keys open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from accord.errors import RequestError
from accord.lm.load import load_causal, save_model
from accord.serve import command
from accord.serve.command import ServeOptions, find_keys, names_of, serve_model
from accord.serve.server import listen_to_clients
from tests.lm.toys import save_toy, with_adapters


def test_a_model_is_named_after_its_run_or_folder() -> None:
    assert names_of("runs/dpo/model", None) == ("dpo", "runs/dpo/model")
    assert names_of("runs/dpo", None) == ("dpo", "runs/dpo")
    assert names_of("owner/name", None) == ("name", "owner/name")
    assert names_of("runs/dpo", "mine") == ("mine", "runs/dpo")
    assert names_of("model", None) == ("model",)


def test_keys_come_from_the_command_line_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(command.KEY_VARIABLE, "secret")
    assert find_keys(()) == ("secret",)
    assert find_keys(("given",)) == ("given",)
    monkeypatch.delenv(command.KEY_VARIABLE)
    assert find_keys(()) == ()


def test_an_adapter_is_served_on_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_toy(tmp_path / "base")
    adapted = with_adapters(load_causal(base, trainable=True), seed=1)
    save_model(adapted, tmp_path / "run" / "model", card="")
    engines: list[Any] = []
    monkeypatch.setattr(
        "accord.serve.server.run_server", lambda engine, *rest, **more: engines.append(engine)
    )
    serve_model(ServeOptions(str(tmp_path / "run"), max_length=50), log=print)
    (engine,) = engines
    assert engine.model_names[0] == "run"
    assert engine.max_length == 50
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        own = engine.lm.model(ids).logits
        expected = adapted.model(ids).logits  # through the adapter's own layers
    assert torch.allclose(own, expected, atol=1e-4)
    assert not torch.allclose(own, load_causal(base).model(ids).logits, atol=1e-2)


def test_other_machines_and_ports_in_use_are_refused_before_the_model_loads() -> None:
    with pytest.raises(RequestError, match="without-key"):
        serve_model(ServeOptions("no such model", host="0.0.0.0"), log=print)
    taken = listen_to_clients("127.0.0.1", 0)
    with pytest.raises(RequestError, match="in use"):
        listen_to_clients("127.0.0.1", taken.getsockname()[1])
    taken.close()
