"""KTO from files of ratings and pairs, and on a world with known rewards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.compare.dataset import load_records
from accord.learn.loop.fit import fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.schedule import RowOrder, make_schedule
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.rows import encode_rows
from accord.learn.offline.train import train_offline
from accord.lm.load import load_causal
from accord.lm.packing import PromptGroup
from accord.settings.preferences import KtoSettings
from tests.learn.offline.kto_rows import kto_objective
from tests.learn.toys.files import user_says, write_jsonl, write_yes_no_pairs
from tests.learn.toys.known_optimum import PROMPTS, make_one_token_world
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import SavedToys
from tests.learn.toys.settings import REQUIRED
from tests.lm.toys import save_toy


def write_ratings_and_pairs(path: Path, count: int) -> str:
    """Rated rows and pairs, one after the other; yes is desirable."""
    words = "cat dog sea house door".split()
    rows: list[dict[str, Any]] = []
    for i in range(count):
        prompt = user_says(f"the {words[i % 5]} {i}")
        if i % 2:
            rows.append({"prompt": prompt, "chosen": "yes", "rejected": "no, the answer is far"})
        else:
            label = i % 4 == 0
            completion = "yes" if label else "no"
            rows.append({"prompt": prompt, "completion": completion, "label": label})
    return write_jsonl(path, rows)


def run_settings(folder: Path, name: str, **overrides: Any) -> KtoSettings:
    """Settings of a run on the toy in the folder, into the folder `name` beside it."""
    toy = folder / "toy"
    return KtoSettings(
        **{
            "model": str(toy) if toy.is_dir() else save_toy(toy),
            "dataset": write_ratings_and_pairs(folder / "rows.jsonl", 12),
            "eval_dataset": write_ratings_and_pairs(folder / "held_out.jsonl", 3),
            "output_dir": str(folder / name),
            "max_steps": 5,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "beta": 0.5,
            "max_length": 64,
            **overrides,
        }
    )


def test_every_step_on_pairs_has_both_labels(toys: SavedToys, tmp_path: Path) -> None:
    # A pair is one row, so that no step, however small, has responses of one label alone.
    settings = KtoSettings(
        **{**REQUIRED, "model": toys.model("llama")}, per_device_train_batch_size=1
    )
    path = write_yes_no_pairs(tmp_path / "pairs.jsonl", 7, seed=0)
    records, _ = load_records(path, METHODS["kto"].kind)
    groups, _ = encode_rows(records, load_causal(settings.model), settings)
    schedule = make_schedule(len(groups), settings)
    assert schedule.steps == 7
    for step in range(schedule.steps):
        rows = schedule.step_rows(step, RowOrder(len(groups), seed=0))
        assert {label for i in rows for label in groups[i].labels} == {True, False}


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(tmp_path: Path, lora: Any) -> None:
    settings = run_settings(tmp_path, "straight", lora=lora)
    straight = [without_seconds(s.metrics) for s in train_offline("kto", settings)]
    settings = run_settings(tmp_path, "stopped", lora=lora)
    steps = train_offline("kto", settings)
    stopped = [without_seconds(next(steps).metrics) for _ in range(2)]
    steps.close()
    stopped += [without_seconds(s.metrics) for s in train_offline("kto", settings)]
    assert len(straight) == 5
    assert stopped == straight
    assert any(metrics["kl"] > 0 for metrics in straight)


def test_a_run_on_ratings_and_pairs_learns_what_is_desirable(tmp_path: Path) -> None:
    settings = run_settings(tmp_path, "out", max_steps=30)
    steps = [s.metrics for s in train_offline("kto", settings)]
    encoded = json.loads((tmp_path / "out" / "data.json").read_text())["encoded"]
    # 6 pairs give one response of each label; of 6 ratings every second is desirable.
    assert (encoded["used"], encoded["desirable"], encoded["undesirable"]) == (12, 9, 9)
    # At first r = z₀ = 0 for all: λ·σ(0) = ½.
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert steps[-1]["rewards/accuracies"] > 0.9
    assert steps[-1]["eval/rewards/accuracies"] == 1.0
    assert steps[-1]["loss"] < 0.3
    assert steps[-1]["rewards/margins"] > 1.0
    # Held out: one pair and one desirable, one undesirable rating, by the same weights of 1.
    assert steps[-1]["eval/loss"] < 0.4


def test_held_out_rows_have_the_weights_of_the_training_rows(tmp_path: Path) -> None:
    held_out = write_jsonl(
        tmp_path / "one.jsonl", [{"prompt": "the", "completion": " sea", "label": True}]
    )
    data = write_jsonl(
        tmp_path / "rated.jsonl",
        ({"prompt": f"a {i}", "completion": " b", "label": i == 0} for i in range(4)),
    )
    settings = run_settings(
        tmp_path, "out", dataset=data, eval_dataset=held_out, max_steps=1, learning_rate=1e-9
    )
    (step,) = train_offline("kto", settings)
    # λ_D = 3 from the training rows, and r = z₀ = 0: 3·σ(0).
    assert step.metrics["eval/loss"] == pytest.approx(1.5, abs=1e-4)


@pytest.mark.slow
def test_labels_alone_improve_on_the_reference() -> None:
    # The best policy under KTO has no closed form. Labels are drawn from the true rewards: two
    # answers of π_ref, the better one (Bradley-Terry) desirable. Over 5 worlds the expected true
    # reward rises: the mean gain is above 0 by more than 2.78 standard errors (t, 4 degrees of
    # freedom, 95%).
    gains = []
    for seed in range(5):
        world = make_one_token_world(seed)
        reference = world.distribution(world.reference)
        generator = torch.Generator().manual_seed(seed)
        groups = []
        for x, prompt in enumerate(PROMPTS):
            answers = torch.multinomial(reference[x], 400, replacement=True, generator=generator)
            for a, b in answers.view(-1, 2).tolist():
                wins = torch.rand((), generator=generator) < torch.sigmoid(
                    world.rewards[x, a] - world.rewards[x, b]
                )
                groups.append(PromptGroup(prompt, ((a,),), (0,), labels=(bool(wins),)))
                groups.append(PromptGroup(prompt, ((b,),), (0,), labels=(not bool(wins),)))
        settings = KtoSettings(
            **REQUIRED,
            beta=0.5,
            seed=seed,
            learning_rate=5e-3,
            max_steps=60,
            per_device_train_batch_size=64,
        )
        objective = kto_objective(settings, groups, world.policy, world.reference)
        state = TrainState({"model": make_learner(world.policy, settings)}, FitState())
        weight = METHODS["kto"].weight
        for _ in fit(state, groups, objective, weight, settings, torch.device("cpu")):
            pass
        trained = world.distribution(world.policy)
        gains.append(float(((trained - reference) * world.rewards).sum(1).mean()))
    mean = torch.tensor(gains, dtype=torch.float64).mean()
    error = torch.tensor(gains, dtype=torch.float64).std() / math.sqrt(5)
    assert mean > 2.78 * error, gains
