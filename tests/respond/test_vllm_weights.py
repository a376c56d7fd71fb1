"""Whole weights on a vLLM server, and servers that are started again in the middle of a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from accord.errors import SettingsError, WorkError
from accord.respond.vllm.sampler import MAX_RESTARTS
from tests.respond.fake_vllm import FakeVllm, completion
from tests.respond.test_vllm_client import connect, generate

DEAD = (500, {"error": {"message": "EngineCore encountered an issue."}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("start", "policy"):
        (tmp_path / name).mkdir()
        config = {"model_type": "llama", "hidden_size": 8}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    return tmp_path


def adapter(folder: Path) -> Path:
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    return folder / "adapter"


def posts(fake: FakeVllm) -> list[str]:
    return [path for path, body in fake.seen if body is not None]


def test_whole_weights_are_read_from_a_folder(fake: FakeVllm, folder: Path) -> None:
    fake.take_weights(str(folder / "start"))
    sampler = connect(fake)
    sampler.publish(folder / "policy")
    reload = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache"]
    assert posts(fake) == [*reload, "/update_weight_version", "/resume"]
    assert fake.weights == str(folder / "policy")
    assert sampler.model == "base"
    first = fake.version
    generate(sampler)
    sampler.publish(folder / "policy")
    assert fake.version != first
    sampler.close()  # the server gets back what it was started with
    assert (fake.weights, fake.version) == (str(folder / "start"), "default")


def test_a_server_that_does_not_replace_its_weights(fake: FakeVllm, folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"Start it with .* VLLM_SERVER_DEV_MODE=1 .*`lora`"):
        connect(fake).publish(folder / "policy")
    assert not posts(fake)


def test_a_model_of_another_shape_never_reaches_the_server(fake: FakeVllm, folder: Path) -> None:
    fake.take_weights(str(folder / "start"))
    (folder / "policy/config.json").write_text('{"hidden_size": 16}')
    with pytest.raises(SettingsError, match=r"has hidden_size=16, .* which has hidden_size=8"):
        connect(fake).publish(folder / "policy")
    assert not posts(fake)


def test_weights_that_are_refused_leave_the_server_running(fake: FakeVllm, folder: Path) -> None:
    fake.take_weights(str(folder / "start"))
    fake.answers["/collective_rpc"] = lambda body: (500, {"error": {"message": "no such file"}})
    with pytest.raises(SettingsError, match=r"no such file.*It must see the same folder"):
        connect(fake).publish(folder / "policy")
    assert posts(fake)[-1] == "/resume"


def test_the_weights_of_another_run_are_replaced(
    fake: FakeVllm, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.take_weights(str(folder / "start"))
    fake.weights, fake.version = "other", "accord-other-7"
    with caplog.at_level(logging.WARNING):
        connect(fake)
    assert (fake.weights, fake.version) == (str(folder / "start"), "default")
    assert "holds the weights of another run" in caplog.text


def test_a_server_that_was_started_again_gets_the_weights_again(
    fake: FakeVllm, folder: Path
) -> None:
    fake.take_weights(str(folder / "start"))
    sampler = connect(fake)
    sampler.publish(folder / "policy")

    def restarted(body: Any) -> tuple[int, Any]:
        fake.answers["/v1/completions"] = lambda body: (200, completion(body))
        fake.weights = fake.version = "default"
        return 200, completion(body)  # of the weights that it was started with: not used

    fake.answers["/v1/completions"] = restarted
    assert len(generate(sampler)) == 2
    assert fake.weights == str(folder / "policy")
    assert posts(fake).count("/v1/completions") == 2


def test_a_server_that_never_keeps_the_weights(fake: FakeVllm, folder: Path) -> None:
    fake.take_weights(str(folder / "start"))
    fake.answers["/update_weight_version"] = lambda body: (200, {"success": True})
    with pytest.raises(WorkError, match="does not keep the weights that it gets"):
        connect(fake).publish(folder / "policy")
    assert posts(fake).count("/collective_rpc") == MAX_RESTARTS + 1 + MAX_RESTARTS


def test_a_server_without_the_adapter_gets_it_again(fake: FakeVllm, folder: Path) -> None:
    sampler = connect(fake)
    sampler.publish(adapter(folder))
    first = sampler.model

    def lacking(body: Any) -> tuple[int, Any]:
        if body["model"] == first:
            message = f"The model `{first}` does not exist."
            return 404, {"error": {"message": message, "type": "NotFoundError"}}
        return 200, completion(body)

    fake.answers["/v1/completions"] = lacking
    assert len(generate(sampler)) == 2
    assert sampler.model != first
    assert posts(fake).count("/v1/load_lora_adapter") == 2
    assert "/v1/unload_lora_adapter" not in posts(fake)  # the first one is gone


def test_a_server_that_is_down_is_waited_for(
    fake: FakeVllm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.respond.vllm.client.time.sleep", lambda seconds: None)
    fake.take_weights(str(folder / "start"))
    sampler = connect(fake)
    sampler.publish(folder / "policy")
    fake.answers["/v1/completions"] = lambda body: DEAD
    states = iter([503, 503, 503])

    def health(body: Any) -> tuple[int, Any]:
        state = next(states, 200)
        if state == 200:  # it runs again, with the weights that it was started with
            fake.weights = fake.version = "default"
            fake.answers["/v1/completions"] = lambda body: (200, completion(body))
            fake.answers["/health"] = lambda body: (200, "")
        return state, ""

    fake.answers["/health"] = health
    assert len(generate(sampler)) == 2
    assert fake.weights == str(folder / "policy")


def test_a_server_that_stays_down_ends_the_run(fake: FakeVllm) -> None:
    sampler = connect(fake, restart_timeout=0)
    fake.answers["/v1/completions"] = lambda body: DEAD
    fake.answers["/health"] = lambda body: (503, "")
    with pytest.raises(WorkError, match="is dead"):
        generate(sampler)
