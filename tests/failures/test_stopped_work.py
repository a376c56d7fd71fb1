"""Work that stops, one test each: a loss that is no number, a full disk, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from studies.commands import CommandServer

from accord.cli.entry import run
from accord.errors import SettingsError
from accord.learn.loop.schedule import RowOrder
from accord.learn.offline.train import train_offline
from accord.pipeline.identity import stage_identity
from accord.runs import read_metrics, write_json_atomic
from accord.settings.recipe import single_stage
from accord.settings.training import SftSettings
from tests.failures.commands import GOOD, SFT, Fails, write
from tests.small_disk import mount_small_disk


def steps(settings: SftSettings, count: int) -> None:
    """Take `count` steps, then stop as Ctrl-C does: a checkpoint is written."""
    work = train_offline("sft", settings)
    for _ in range(count):
        next(work)
    work.close()  # type: ignore[attr-defined]


def checkpoints() -> list[str]:
    return sorted(p.name for p in Path("out/checkpoints").iterdir())


@pytest.fixture
def stopped(workdir: Path) -> SftSettings:
    """The settings of a training run that was stopped after two steps."""
    write([GOOD, {"prompt": "c", "completion": "d"}])
    identity = stage_identity(single_stage("train", "sft", overrides=list(SFT[2:])))
    write_json_atomic("out/stage.json", {**identity, "seconds": 1.0, "finished": None})
    settings = SftSettings(model="m", dataset="rows.jsonl", output_dir="out", max_steps=8)
    steps(settings, 2)
    assert checkpoints() == ["step-00000002"]
    return settings


def test_a_checkpoint_of_other_settings(stopped: SftSettings) -> None:
    with pytest.raises(
        SettingsError,
        match=r"written under other settings: learning_rate was 2e-05 and is 0\.5; max_steps was 8 "
        r"and is 9\. Set them back to resume, name another output_dir, or remove out/checkpoints",
    ):
        steps(stopped.model_copy(update={"learning_rate": 0.5, "max_steps": 9}), 1)
    assert checkpoints() == ["step-00000002"]
    steps(stopped.model_copy(update={"save_steps": 1, "logging_steps": 1, "device": "cpu"}), 1)
    assert checkpoints() == ["step-00000003"]


def test_a_checkpoint_with_resume_turned_off(stopped: SftSettings, fails: Fails) -> None:
    assert fails(*SFT, "resume=false") == (
        "out holds a checkpoint at step 2, and resume=false refuses to resume from it. "
        "Name another output_dir, or remove out/checkpoints."
    )
    assert checkpoints() == ["step-00000002"]


def test_a_checkpoint_that_cannot_be_read(stopped: SftSettings, fails: Fails) -> None:
    os.truncate("out/checkpoints/step-00000002/state.safetensors", 100)
    message = fails(*SFT, code=1)
    assert message.startswith("The checkpoint out/checkpoints/step-00000002 can't be read: ")
    assert message.endswith("Remove it to resume from the previous one, or from the start.")


def test_a_loss_that_is_not_a_number(workdir: Path, fails: Fails) -> None:
    """One row contains a token whose embedding is NaN: training stops at the step that reads it."""
    rows = [{"prompt": f"word {i}", "completion": "yes"} for i in range(8)]
    rows[5]["prompt"] = "~"
    write(rows)
    config = json.loads((workdir / "m/config.json").read_text())
    config["tie_word_embeddings"] = False  # with one matrix for both, every logit would be NaN
    (workdir / "m/config.json").write_text(json.dumps(config))
    vocabulary = json.loads((workdir / "m/tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(workdir / "m/model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone()
    embedding[vocabulary["~"]] = float("nan")
    save_file(weights, workdir / "m/model.safetensors", metadata={"format": "pt"})
    positions = [[RowOrder(8, seed).at(i) for i in range(8)].index(5) for seed in range(20)]
    # A seed with some steps before the row.
    seed, good_steps = next((s, n) for s, n in enumerate(positions) if n >= 3)
    flags = ("per_device_train_batch_size=1", "save_steps=1", f"seed={seed}")
    assert fails(*SFT, *flags, code=1).startswith(
        f"The loss is nan at step {good_steps + 1}; the last checkpoint is unchanged. "
        "The rows in the batch: rows.jsonl:6. Look at them first; then try a lower learning_rate"
    )
    assert checkpoints() == [f"step-{good_steps:08d}"]
    saved = load_file(f"out/checkpoints/step-{good_steps:08d}/state.safetensors")
    name = "model/weight/model.layers.0.self_attn.q_proj.weight"
    assert saved[name].isfinite().all()
    assert [row["step"] for row in read_metrics("out/metrics.jsonl")] == list(
        range(1, good_steps + 1)
    )
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith("NotFiniteError: The loss is nan at step")
    assert not Path("out/model").exists()


@pytest.fixture
def small_disk(workdir: Path) -> Iterator[Path]:
    """A disk of 700 kB, where one checkpoint of the tiny model fits and a second does not."""
    with mount_small_disk(workdir / "disk", "700k") as disk:
        yield disk


def test_no_space_for_a_checkpoint(small_disk: Path, workdir: Path, fails: Fails) -> None:
    write([GOOD, {"prompt": "c", "completion": "d"}])
    out = small_disk / "out"
    command = [*SFT[:4], f"output_dir={out}", "max_steps=4", "save_steps=1"]
    message = fails(*command, code=1)
    failed = out / "checkpoints/step-00000002"
    assert message.startswith(f"Could not write {failed}: no space is left on the disk (")
    assert "point `output_dir` to another disk; then run the same command again" in message
    assert [p.name for p in failed.parent.iterdir()] == ["step-00000001"]
    assert not json.loads((out / "stage.json").read_text())["finished"]
    # With more space, the same command resumes from the checkpoint that is left.
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert run(command) == 0
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (out / "model/model.safetensors").is_file()


def test_no_space_for_responses(
    small_disk: Path, workdir: Path, tiny_world: Path, fails: Fails
) -> None:
    # Some 50 kB are left: enough for the stage's records, not for 24 × 16 responses.
    (small_disk / "filler").write_bytes(b"0" * 660_000)
    out = small_disk / "out"
    prompts = f"dataset={tiny_world / 'train_prompts.jsonl'}"
    command = ["sample", "model=m", prompts, f"output_dir={out}", "num_responses=16"]
    command += ["batch_size=16", "max_new_tokens=32"]
    message = fails(*command, code=1)
    assert message.startswith(f"Could not write {out / 'responses.partial.jsonl'}: no space is ")
    (small_disk / "filler").unlink()
    assert run(command) == 0
    assert len((out / "responses.jsonl").read_text().splitlines()) == 24


def test_a_second_interrupt_does_not_wait(
    commands: CommandServer, tiny_world: Path, workdir: Path
) -> None:
    """The first Ctrl-C waits for the current piece of work; the second one does not."""
    write([GOOD])
    flags = ["max_steps=100000", "gradient_accumulation_steps=100000", "save_steps=1"]
    running = commands.start(*SFT[:5], *flags, cwd=workdir)
    while not (workdir / "out/data.json").exists():
        assert not running.has_ended()
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    for _ in range(50):
        if running.has_ended():
            break
        time.sleep(0.05)
        running.send_signal(signal.SIGINT)
    assert running.wait() == 130
