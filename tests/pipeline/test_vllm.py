"""Sampling and rounds with a server: which adapter it is given, when, and that it is taken away."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from itertools import islice
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

LOAD, UNLOAD, ASK = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, place: Path) -> Iterator[FakeVllm]:
    """A server that says it has the SFT model."""
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    found = serving(place.parent / "sft/model")
    yield found
    found.close()


def serving(root: Path) -> FakeVllm:
    found = FakeVllm()
    base = {"id": "base", "parent": None, "max_model_len": 256, "root": str(root)}
    found.answers["/v1/models"] = lambda body: (200, {"data": [base]})
    found.answers[ASK] = said
    return found


def said(body: Any) -> tuple[int, Any]:
    """Responses that differ by a word, for there to be something to prefer."""
    found = completion(body)
    for choice in found["choices"]:
        choice["token_ids"][:2] = [400 + choice["index"], 500 + choice["index"]]
    return 200, found


@pytest.fixture
def place(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder beside the tiny run's stages."""
    for name in ("world", "sft"):
        (tmp_path / name).symlink_to(tiny_run / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def adapter(place: Path) -> Path:
    lm = add_adapters(load_causal("../sft/model", device="cpu"), LoraSettings(r=2), seed=0)
    save_model(lm, place / "adapter", card="")
    return place / "adapter"


def asked(fake: FakeVllm) -> list[tuple[str, str]]:
    """What the server was told of adapters, and whom it was asked to be, in order."""
    told = {LOAD: "lora_path", UNLOAD: "lora_name", ASK: "model"}
    found = [(path, body[told[path]]) for path, body in fake.seen if path in told]
    names = {b["lora_name"]: b["lora_path"] for path, b in fake.seen if path == LOAD}
    here = f"{Path.cwd()}/"
    return [(path, names.get(what, what).replace(here, "")) for path, what in found]


def runs(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without repetitions in a row."""
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


def settings_of(fake: FakeVllm, place: Path | str, **more: Any) -> SampleSettings:
    return SampleSettings(
        model=str(place),
        dataset="../world/test_prompts.jsonl",
        output_dir="out",
        num_responses=2,
        max_new_tokens=16,
        batch_size=2,  # four prompts are written at a time
        sampler=SamplerSettings(kind="vllm", url=fake.url, **more),
    )


def test_an_adapter_is_published_for_as_long_as_it_is_sampled_from(
    fake: FakeVllm, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [p.done for p in sample(settings_of(fake, adapter))] == [0, 4, 8, 12]
    assert runs(asked(fake)) == [(what, "adapter") for what in (LOAD, ASK, UNLOAD)]
    assert len(asked(fake)) == 1 + 12 + 1
    assert "can't be seen" not in caplog.text


def test_a_whole_model_is_the_servers_own(fake: FakeVllm, place: Path) -> None:
    for _ in sample(settings_of(fake, "../sft/model")):
        pass
    assert runs(asked(fake)) == [(ASK, "base")]


def test_another_base_than_the_servers_is_told(
    fake: FakeVllm, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.answers["/v1/models"] = lambda body: (
        200,
        {"data": [{"id": "base", "root": "/elsewhere", "max_model_len": 256}]},
    )
    for model, wanted in ((adapter, "../sft/model"), ("../world/model", "../world/model")):
        caplog.clear()
        for _ in sample(settings_of(fake, model)):
            pass
        assert "serves /elsewhere: it can't be seen whether that is " + wanted in caplog.text


def test_an_adapter_that_the_server_has_is_not_published(fake: FakeVllm, adapter: Path) -> None:
    both = fake.answers["/v1/models"](None)[1]["data"]
    both += [{"id": "mine", "parent": "base", "root": str(adapter), "max_model_len": 256}]
    fake.answers["/v1/models"] = lambda body: (200, {"data": both})
    for _ in sample(settings_of(fake, adapter, model="mine")):
        pass
    assert runs(asked(fake)) == [(ASK, "mine")]


def test_a_stage_that_stops_takes_its_adapter_away(fake: FakeVllm, adapter: Path) -> None:
    work = sample(settings_of(fake, adapter))
    assert [p.done for p in islice(work, 2)] == [0, 4]
    work.close()  # type: ignore[attr-defined]
    assert runs(asked(fake)) == [(what, "adapter") for what in (LOAD, ASK, UNLOAD)]
    # Another server, elsewhere, may go on: how one is reached does not count.
    other = serving(adapter.parent.parent / "sft/model")
    assert [p.done for p in sample(settings_of(other, adapter))] == [4, 8, 12]
    other.answers[ASK] = lambda body: (400, {"error": {"message": "no"}})
    with pytest.raises(SettingsError, match="refused to sample"):
        list(sample(settings_of(other, adapter)))
    assert asked(other)[-1] == (UNLOAD, "adapter")
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


def command(fake: FakeVllm, *more: str) -> list[str]:
    named = {text.partition("=")[0] for text in more}
    given = [*ROUNDS, f"sampler.url={fake.url}", "model=../sft/model"]
    return [*(text for text in given if text.partition("=")[0] not in named), *more]


def go(fake: FakeVllm, *more: str) -> None:
    run_stage(single_stage("iterate", overrides=command(fake, *more)))


def adapter_config(number: int) -> dict[str, Any]:
    kept = Path(f"out/round-{number}/train/model/adapter_config.json")
    read: dict[str, Any] = json.loads(kept.read_text())
    return read


ADAPTERS = [f"out/round-{n}/train/model" for n in (1, 2)]
FIRST = [(ASK, "base"), *((what, ADAPTERS[0]) for what in (LOAD, ASK, UNLOAD))]
WHOLE = [*FIRST, *FIRST[1:], *((what, ADAPTERS[1]) for what in (LOAD, ASK, UNLOAD))]
"""Round 0's answers and round 1's samples are the base's; then come round 1's answers, round 2's
samples from the same adapter, and round 2's answers."""


@pytest.mark.parametrize("reference", ["fixed", "moving"])
def test_each_round_is_sampled_from_its_own_adapter(
    reference: str, fake: FakeVllm, place: Path
) -> None:
    go(fake, f"reference={reference}")
    assert runs(asked(fake)) == WHOLE
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


def test_killed_rounds_go_on_with_the_adapter_that_they_had(
    fake: FakeVllm, place: Path, commands: CommandServer
) -> None:
    # Killed in round 2, after one chunk of its samples: 16 of 32 prompts.
    partial = Path("out/round-2/sample/responses.partial.jsonl")
    reached, over = threading.Event(), threading.Event()

    def answer(body: Any) -> tuple[int, Any]:
        if partial.is_file() and partial.read_bytes().count(b"\n") > 1:
            reached.set()
            over.wait(120)
        return said(body)

    fake.answers[ASK] = answer
    running = commands.start("iterate", *command(fake), cwd=place)
    assert reached.wait(120), running.log.read_text()
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    over.set()
    before = {p: p.read_bytes() for p in sorted(Path("out").glob("round-*/*/stage.json"))}
    written = partial.read_text().splitlines()
    kept = digest_path(ADAPTERS[0])
    other = serving(place.parent / "sft/model")
    go(other)
    assert runs(asked(other)) == WHOLE[len(FIRST) :]
    other.close()
    after = {p: p.read_bytes() for p in before}
    assert [str(p) for p in before if before[p] != after[p]] == ["out/round-2/sample/stage.json"]
    assert digest_path(ADAPTERS[0]) == kept
    final = Path("out/round-2/sample/responses.jsonl").read_text().splitlines()
    assert len(written) == 1 + 16
    assert final[:16] == written[1:]


def test_a_server_that_dies_leaves_rounds_that_go_on(fake: FakeVllm, place: Path) -> None:
    fake.answers[ASK] = lambda body: (
        (500, {"error": {"message": "dead"}}) if body["model"] != "base" else said(body)
    )
    with pytest.raises(WorkError, match="in 4 attempts"):
        go(fake)
    assert asked(fake)[-1] == (UNLOAD, ADAPTERS[0])
    fake.seen.clear()
    fake.answers[ASK] = said
    go(fake)
    assert runs(asked(fake)) == WHOLE[1:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["train.lora=off"], r"`sampler\.kind=vllm` needs `train\.lora`"),
        (["train.lora.continue_adapter=false"], "the vLLM server's base does not change"),
    ],
)
def test_settings_that_leave_the_servers_base(
    given: list[str], message: str, fake: FakeVllm, place: Path
) -> None:
    own = [text for text in command(fake) if not text.startswith("train.lora")]
    with pytest.raises(SettingsError, match=message):
        single_stage("iterate", overrides=[*own, *given])


def test_rounds_that_start_from_an_adapter(fake: FakeVllm, adapter: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"merged into its base .* Set train\.lora\.continue_adapter=true"
    ):
        go(fake, "model=adapter")
    assert fake.seen == []
    go(fake, "model=adapter", "rounds=1", "train.lora.continue_adapter=true")
    ends = [(what, place) for place in ("adapter", ADAPTERS[0]) for what in (LOAD, ASK, UNLOAD)]
    assert runs(asked(fake)) == [*ends[:3], *ends]
    assert adapter_config(1)["base_model_name_or_path"] == "../sft/model"
    first = read_metrics("out/round-1/train/metrics.jsonl")[0]
    assert abs(first["rewards/margins"]) < 1e-6  # the reference is the adapter as it was
