"""Processes that divide a model learn what one does, resume in any number, and stop together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.forked import run_forked
from studies.sharded_cases import (
    METHODS,
    MODELS,
    Case,
    build_inputs,
    case_settings,
    run_case,
    start_run,
)

from accord.errors import AccordError
from accord.learn.loop.checkpoints import FOLDER
from accord.lm.load import load_causal


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_inputs(tmp_path_factory.mktemp("inputs"))


def run_divided(case: Case, inputs: Path, output: Path, count: int, **options: Any) -> None:
    """Train in `count` processes to the end."""
    options = {"processes": count, **options}
    run_forked(
        count,
        lambda rank: check_all(run_case(case, inputs, output, **options)),
        output.parent / "log",
    )


def check_all(rows: list[Mapping[str, float]]) -> None:
    assert rows


def interrupt(case: Case, inputs: Path, output: Path, count: int, taken: int, steps: int) -> None:
    """Close the main process's run after some steps, as Ctrl-C does; the others stop with it."""

    def work(rank: int) -> None:
        settings = case_settings(case, inputs, output, processes=2, steps=steps)
        run = start_run(settings, case.method)
        try:
            for number, _ in enumerate(run, 1):
                if rank == 0 and number == taken:
                    run.close()  # type: ignore[attr-defined]
                    return
        except KeyboardInterrupt:
            assert rank > 0
            return
        raise AssertionError("the run went on")

    run_forked(count, work, output.parent / "log")


def metrics(output: Path) -> list[dict[str, float]]:
    text = (output / "metrics.jsonl").read_text()
    return [json.loads(row) for row in text.splitlines()]


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in metrics(output) if "loss" in row]  # not of one taken back


def norms(output: Path) -> list[float]:
    """The norms of the gradients: Adam would hide that all of them are twice as large."""
    return [v for row in metrics(output) for k, v in row.items() if k.startswith("grad_norm")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_close(output: Path, expected: Path, name: str = "model") -> None:
    assert losses(output) == pytest.approx(losses(expected), rel=0, abs=1e-5)
    assert norms(output) == pytest.approx(norms(expected), rel=1e-3, abs=1e-5)
    saved, other = weights(output / name), weights(expected / name)
    assert saved.keys() == other.keys()
    for key, value in saved.items():
        assert value.dtype == other[key].dtype
        assert torch.allclose(
            value, other[key], rtol=1e-4 if value.dtype == torch.float32 else 0.01, atol=1e-5
        ), key


def test_two_processes_that_divide_a_model_learn_what_one_does(
    inputs: Path, tmp_path: Path
) -> None:
    # The last step has two rows, in one pass: the second process repeats it, and it counts once.
    values = {"max_samples": 18, "max_steps": None, "save_dtype": "bf16"}
    case = Case("DPO", settings=tuple(values.items()))
    run_case(case, inputs, tmp_path / "one", processes=1, steps=1)
    run_divided(case, inputs, tmp_path / "two", 2, steps=1)
    assert len(losses(tmp_path / "two")) == 2
    assert_close(tmp_path / "two", tmp_path / "one")
    assert not (tmp_path / "two" / FOLDER).exists()
    configs = [(tmp_path / name / "model/config.json").read_text() for name in ("one", "two")]
    assert configs[0] == configs[1]
    load_causal(str(tmp_path / "two/model"))


def test_a_loss_that_is_not_finite_ends_all_processes_together(
    inputs: Path, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        case = Case("SFT", settings=(("learning_rate", 1e30), ("max_grad_norm", 0.0)))
        with pytest.raises(AccordError, match="at step 2; the last checkpoint is unchanged"):
            run_case(case, inputs, tmp_path / "out", processes=2, steps=4)

    run_forked(2, work, tmp_path / "log")


@pytest.mark.slow
def test_a_run_resumes_to_the_same_bits_and_in_another_number_of_processes(
    inputs: Path, tmp_path: Path
) -> None:
    case = Case("DPO")
    run_divided(case, inputs, tmp_path / "whole", 2, steps=4)
    for folder in ("same", "other"):
        interrupt(case, inputs, tmp_path / folder, 2, taken=1, steps=4)
        (checkpoint,) = (tmp_path / folder / FOLDER).iterdir()
        assert checkpoint.name == "step-00000001"
        assert len(list(checkpoint.glob("shard-*.safetensors"))) == 2
    run_divided(case, inputs, tmp_path / "same", 2, steps=4)
    assert losses(tmp_path / "same") == losses(tmp_path / "whole")
    same, whole = weights(tmp_path / "same/model"), weights(tmp_path / "whole/model")
    assert all(torch.equal(same[key], whole[key]) for key in whole)
    # On 4, then on 1, which has no group and reads what 4 wrote.
    interrupt(case, inputs, tmp_path / "other", 4, taken=2, steps=4)
    settings = case_settings(case, inputs, tmp_path / "other", processes=2, steps=4)
    list(start_run(settings, case.method))
    assert len(losses(tmp_path / "other")) == 4
    assert_close(tmp_path / "other", tmp_path / "whole")


slow_cases: list[Case] = [
    Case(method, model, lora) for method in METHODS for model in MODELS for lora in (False, True)
]


@pytest.mark.slow
@pytest.mark.parametrize("case", slow_cases, ids=lambda case: case.name)
def test_every_method_in_divided_models(case: Case, inputs: Path, tmp_path: Path) -> None:
    run_case(case, inputs, tmp_path / "one", processes=1, steps=3)
    run_divided(case, inputs, tmp_path / "two", 2, steps=3)
    assert_close(tmp_path / "two", tmp_path / "one")
    if "PPO" in case.method:
        assert_close(tmp_path / "two", tmp_path / "one", "critic")


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recomputed activations": ("DPO", {"gradient_checkpointing": True}),
    "evaluations and the best": (
        "KTO",
        {"eval_dataset": "labels.jsonl", "eval_steps": 1, "load_best_model_at_end": True},
    ),
    "small passes": ("GRPO", {"max_tokens_per_forward": 30, "num_iterations": 2}),
    "held-out prompts, several steps": (
        "PPO, separate critic",
        {"eval_dataset": "prompts.jsonl", "num_mini_batches": 2, "entropy_coef": 0.01},
    ),
    "warm-up": ("PPO, shared critic", {"critic_warmup_steps": 1}),
    "rollback": (
        "GRPO",
        {
            "learning_rate": 1e-3,
            "max_kl": 1e-5,
            "max_kl_action": "rollback",
            "rollback_copy": "disk",
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_what_surrounds_the_steps_in_divided_models(
    name: str, inputs: Path, tmp_path: Path
) -> None:
    method, values = VARIANTS[name]
    paths = {k: str(inputs / v) for k, v in values.items() if k == "eval_dataset"}
    case = Case(method, settings=tuple({**values, **paths}.items()))
    run_case(case, inputs, tmp_path / "one", processes=1, steps=3)
    run_divided(case, inputs, tmp_path / "two", 2, steps=3)
    assert_close(tmp_path / "two", tmp_path / "one")
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys()
    if name == "rollback":
        assert [row["rolled_back"] for row in metrics(tmp_path / "two")] == [0.0, 1.0, 0.0]


@pytest.mark.slow
def test_bf16_computes_on_gathered_copies_of_float32_weights(inputs: Path, tmp_path: Path) -> None:
    for case in (Case("DPO"), Case("PPO, shared critic", "Qwen3, tied", lora=True)):
        run_case(
            case, inputs, tmp_path / f"one {case.name}", processes=1, steps=3, precision="bf16"
        )
        run_divided(case, inputs, tmp_path / f"two {case.name}", 2, steps=3, precision="bf16")
        one, two = losses(tmp_path / f"one {case.name}"), losses(tmp_path / f"two {case.name}")
        assert two == pytest.approx(one, rel=0.03, abs=0.01)
