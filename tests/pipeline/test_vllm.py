"""Sampling and rounds with a server: which adapter is published, when, and that it is unloaded."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pytest
from studies.commands import CommandServer

from accord.data.write import read_responses
from accord.errors import SettingsError, WorkError
from accord.lm.adapters.lora import add_adapters
from accord.lm.load import load_causal, save_model
from accord.pipeline import run_stage
from accord.pipeline.stages.sample import sample
from accord.respond import http as attempts
from accord.runs import digest_path, read_metrics
from accord.settings.recipe import single_stage
from accord.settings.sampling import SamplerSettings
from accord.settings.stages import SampleSettings
from accord.settings.training import LoraSettings
from tests.respond.fake_vllm import FakeVllm, completion

LOAD, UNLOAD, SAMPLE = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[FakeVllm]:
    """A server that reports the SFT model as its base."""
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    server = serving(workspace.parent / "sft/model")
    yield server
    server.close()


def serving(root: Path) -> FakeVllm:
    server = FakeVllm()
    base = {"id": "base", "parent": None, "max_model_len": 256, "root": str(root)}
    server.answers["/v1/models"] = lambda body: (200, {"data": [base]})
    server.answers[SAMPLE] = distinct_responses
    return server


def distinct_responses(body: Any) -> tuple[int, Any]:
    """Responses that differ by a word, so that one can be preferred."""
    content = completion(body)
    for choice in content["choices"]:
        choice["token_ids"][:2] = [400 + choice["index"], 500 + choice["index"]]
    return 200, content


@pytest.fixture
def workspace(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder beside the tiny run's stages."""
    for name in ("world", "sft"):
        (tmp_path / name).symlink_to(tiny_run / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def adapter(workspace: Path) -> Path:
    lm = add_adapters(load_causal("../sft/model", device="cpu"), LoraSettings(r=2), seed=0)
    save_model(lm, workspace / "adapter", card="")
    return workspace / "adapter"


def requests(fake: FakeVllm) -> list[tuple[str, str]]:
    """The requests to load, unload and sample from an adapter or the base, in order."""
    keys = {LOAD: "lora_path", UNLOAD: "lora_name", SAMPLE: "model"}
    received = [(path, body[keys[path]]) for path, body in fake.seen if path in keys]
    names = {b["lora_name"]: b["lora_path"] for path, b in fake.seen if path == LOAD}
    here = f"{Path.cwd()}/"
    return [(path, names.get(name, name).replace(here, "")) for path, name in received]


def changes(received: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The requests without immediate repetitions."""
    previous = [None, *received]
    return [request for request, p in zip(received, previous, strict=False) if request != p]


def sample_settings(fake: FakeVllm, folder: Path | str, **sampler: Any) -> SampleSettings:
    return SampleSettings(
        model=str(folder),
        dataset="../world/test_prompts.jsonl",
        output_dir="out",
        num_responses=2,
        max_new_tokens=16,
        batch_size=2,  # four prompts are written at a time
        sampler=SamplerSettings(kind="vllm", url=fake.url, **sampler),
    )


def test_an_adapter_is_published_for_as_long_as_it_is_sampled_from(
    fake: FakeVllm, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [p.done for p in sample(sample_settings(fake, adapter))] == [0, 4, 8, 12]
    assert changes(requests(fake)) == [(what, "adapter") for what in (LOAD, SAMPLE, UNLOAD)]
    assert len(requests(fake)) == 1 + 12 + 1
    assert "can't be seen" not in caplog.text


def test_a_full_model_is_the_base_of_the_server(fake: FakeVllm, workspace: Path) -> None:
    for _ in sample(sample_settings(fake, "../sft/model")):
        pass
    assert changes(requests(fake)) == [(SAMPLE, "base")]


def test_a_base_that_may_differ_from_the_servers_is_logged(
    fake: FakeVllm, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers["/v1/models"] = lambda body: (
        200,
        {"data": [{"id": "base", "root": "/elsewhere", "max_model_len": 256}]},
    )
    for model, expected in ((adapter, "../sft/model"), ("../world/model", "../world/model")):
        caplog.clear()
        for _ in sample(sample_settings(fake, model)):
            pass
        assert "serves /elsewhere: it can't be seen whether that is " + expected in caplog.text


def test_an_adapter_that_the_server_has_is_not_published(fake: FakeVllm, adapter: Path) -> None:
    models = fake.answers["/v1/models"](None)[1]["data"]
    models += [{"id": "mine", "parent": "base", "root": str(adapter), "max_model_len": 256}]
    fake.answers["/v1/models"] = lambda body: (200, {"data": models})
    for _ in sample(sample_settings(fake, adapter, model="mine")):
        pass
    assert changes(requests(fake)) == [(SAMPLE, "mine")]


def test_an_interrupted_stage_unloads_its_adapter(fake: FakeVllm, adapter: Path) -> None:
    work = sample(sample_settings(fake, adapter))
    assert [p.done for p in islice(work, 2)] == [0, 4]
    work.close()  # type: ignore[attr-defined]
    assert changes(requests(fake)) == [(what, "adapter") for what in (LOAD, SAMPLE, UNLOAD)]
    # Sampling may resume at another server: its address does not change the result.
    other = serving(adapter.parent.parent / "sft/model")
    assert [p.done for p in sample(sample_settings(other, adapter))] == [4, 8, 12]
    other.answers[SAMPLE] = lambda body: (400, {"error": {"message": "no"}})
    with pytest.raises(SettingsError, match="refused to sample"):
        list(sample(sample_settings(other, adapter)))
    assert requests(other)[-1] == (UNLOAD, "adapter")
    other.close()


ROUNDS = [
    "dataset=../world/train_prompts.jsonl",
    "eval_dataset=../world/test_prompts.jsonl",
    "output_dir=out",
    "rounds=2",
    "num_responses=3",
    "max_new_tokens=16",
    "eval_prompts=4",
    "batch_size=12",
    "judge.noise=0.5",
    "sampler.kind=vllm",
    "train.max_steps=2",
    "train.learning_rate=1.0e-2",
    "train.per_device_train_batch_size=8",
    "train.lora.r=2",
]


def overrides_for(fake: FakeVllm, *overrides: str) -> list[str]:
    named = {text.partition("=")[0] for text in overrides}
    defaults = [*ROUNDS, f"sampler.url={fake.url}", "model=../sft/model"]
    return [*(text for text in defaults if text.partition("=")[0] not in named), *overrides]


def iterate(fake: FakeVllm, *overrides: str) -> None:
    run_stage(single_stage("iterate", overrides=overrides_for(fake, *overrides)))


def adapter_config(number: int) -> dict[str, Any]:
    path = Path(f"out/round-{number}/train/model/adapter_config.json")
    config: dict[str, Any] = json.loads(path.read_text())
    return config


ADAPTERS = [f"out/round-{n}/train/model" for n in (1, 2)]
FIRST = [(SAMPLE, "base"), *((what, ADAPTERS[0]) for what in (LOAD, SAMPLE, UNLOAD))]
WHOLE = [*FIRST, *FIRST[1:], *((what, ADAPTERS[1]) for what in (LOAD, SAMPLE, UNLOAD))]
"""Round 0's answers and round 1's samples are the base's; then come round 1's answers, round 2's
samples from the same adapter, and round 2's answers."""


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_each_round_is_sampled_from_its_adapter(
    reference: str, fake: FakeVllm, workspace: Path
) -> None:
    iterate(fake, f"reference={reference}")
    assert changes(requests(fake)) == WHOLE
    assert [adapter_config(n)["r"] for n in (1, 2)] == [2, 2]
    assert {adapter_config(n)["base_model_name_or_path"] for n in (1, 2)} == {"../sft/model"}
    starts = [read_metrics(f"out/round-{n}/train/metrics.jsonl")[0] for n in (1, 2)]
    first, second = (abs(row["rewards/margins"]) for row in starts)
    assert first < 1e-6
    assert (second < 1e-6) == (reference == "moving")
    health = json.loads(Path("out/round-2/train/health.json").read_text())
    assert [h["level"] for h in health if h["about"] == "reference"] == (
        ["note"] if reference == "fixed" else []
    )
    assert digest_path("out/model") == digest_path(ADAPTERS[1])
    assert all(
        r.settings["sampler"] == "vllm"
        for row in read_responses("out/round-2/sample/responses.jsonl")
        for r in row.responses
    )


def test_killed_rounds_resume_with_the_same_adapter(
    fake: FakeVllm, workspace: Path, commands: CommandServer
) -> None:
    # Killed in round 2, after one chunk of its samples: 16 of 32 prompts.
    partial = Path("out/round-2/sample/responses.partial.jsonl")
    reached, over = threading.Event(), threading.Event()

    def answer(body: Any) -> tuple[int, Any]:
        if partial.is_file() and partial.read_bytes().count(b"\n") > 1:
            reached.set()
            over.wait(120)
        return distinct_responses(body)

    fake.answers[SAMPLE] = answer
    running = commands.start("iterate", *overrides_for(fake), cwd=workspace)
    assert reached.wait(120), running.log.read_text()
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    over.set()
    before = {p: p.read_bytes() for p in sorted(Path("out").glob("round-*/*/stage.json"))}
    written = partial.read_text().splitlines()
    adapter_digest = digest_path(ADAPTERS[0])
    other = serving(workspace.parent / "sft/model")
    iterate(other)
    assert changes(requests(other)) == WHOLE[len(FIRST) :]
    other.close()
    after = {p: p.read_bytes() for p in before}
    assert [str(p) for p in before if before[p] != after[p]] == ["out/round-2/sample/stage.json"]
    assert digest_path(ADAPTERS[0]) == adapter_digest
    final = Path("out/round-2/sample/responses.jsonl").read_text().splitlines()
    assert len(written) == 1 + 16
    assert final[:16] == written[1:]


def test_rounds_resume_after_the_server_failed(fake: FakeVllm, workspace: Path) -> None:
    fake.answers[SAMPLE] = lambda body: (
        (500, {"error": {"message": "dead"}})
        if body["model"] != "base"
        else distinct_responses(body)
    )
    with pytest.raises(WorkError, match="in 4 attempts"):
        iterate(fake)
    assert requests(fake)[-1] == (UNLOAD, ADAPTERS[0])
    fake.seen.clear()
    fake.answers[SAMPLE] = distinct_responses
    iterate(fake)
    assert changes(requests(fake)) == WHOLE[1:]


def test_settings_that_leave_the_servers_base(fake: FakeVllm, workspace: Path) -> None:
    merged = [*without_lora(fake), "train.lora.continue_adapter=false"]
    with pytest.raises(SettingsError, match="the vLLM server's base does not change"):
        single_stage("iterate", overrides=merged)


def without_lora(fake: FakeVllm) -> list[str]:
    return [text for text in overrides_for(fake) if not text.startswith("train.lora")]


def test_rounds_of_whole_models_need_a_server_that_takes_them(
    fake: FakeVllm, workspace: Path
) -> None:
    with pytest.raises(SettingsError, match="VLLM_SERVER_DEV_MODE=1"):
        run_stage(single_stage("iterate", overrides=[*without_lora(fake), "train.lora=off"]))
    assert not Path("out/round-0").exists()


def test_each_round_is_sampled_from_its_whole_model(fake: FakeVllm, workspace: Path) -> None:
    root = str(workspace.parent / "sft/model")
    fake.take_weights(root)
    fake.weights = root
    used: list[str] = []

    def answer(body: Any) -> tuple[int, Any]:
        used.append(fake.weights)
        return distinct_responses(body)

    fake.answers[SAMPLE] = answer
    run_stage(single_stage("iterate", overrides=[*without_lora(fake), "train.lora=off"]))
    rounds = [str((workspace / f"out/round-{n}/train/model").resolve()) for n in (1, 2)]
    assert [weights for weights, _ in groupby(used)] == [root, *rounds]
    assert fake.weights == root


def test_rounds_that_start_from_an_adapter(fake: FakeVllm, adapter: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"merged into its base .* Set train\.lora\.continue_adapter=true"
    ):
        iterate(fake, "model=adapter")
    assert fake.seen == []
    iterate(fake, "model=adapter", "rounds=1", "train.lora.continue_adapter=true")
    expected = [(path, a) for a in ("adapter", ADAPTERS[0]) for path in (LOAD, SAMPLE, UNLOAD)]
    assert changes(requests(fake)) == [*expected[:3], *expected]
    assert adapter_config(1)["base_model_name_or_path"] == "../sft/model"
    first = read_metrics("out/round-1/train/metrics.jsonl")[0]
    assert abs(first["rewards/margins"]) < 1e-6  # the reference is the adapter at the start
