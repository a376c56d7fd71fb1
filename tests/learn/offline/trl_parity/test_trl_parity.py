"""Losses and gradients against TRL's trainers, on the same saved weights and rows.

Runs where a Python with TRL is named by ACCORD_TRL_PYTHON, or is in `.venv-trl` in the
repository's root. TRL takes one real training step a case in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from accord.compare.dataset import load_records
from accord.learn.offline.methods import METHODS
from accord.learn.offline.rows import encode_rows
from accord.learn.online.methods import ONLINE, PolicyTerms
from accord.lm.forward import response_logps
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.advantages import overlong_penalty
from accord.objectives.policy import token_weights
from accord.objectives.unpaired import kto_reference_point
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.stage_kinds import METHOD_SETTINGS
from accord.settings.training import RewardSettings, SftSettings, TrainSettings
from tests.conftest import ROOT
from tests.learn.offline.trl_parity.cases import CASES, Case
from tests.learn.offline.trl_parity.rows import (
    EPISODES,
    UNPAIRED,
    PlainReader,
    save_tokenizer_and_models,
)
from tests.learn.toys.files import write_jsonl
from tests.learn.toys.settings import REQUIRED

ORACLE = Path(__file__).with_name("oracle.py")
NAMED_PYTHON = os.environ.get("ACCORD_TRL_PYTHON")
TRL_PYTHON = Path(NAMED_PYTHON or ROOT / ".venv-trl" / "bin" / "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NAMED_PYTHON or TRL_PYTHON.exists()),
        reason="no Python with TRL: name one by ACCORD_TRL_PYTHON, or install it in .venv-trl",
    ),
]


@dataclass(frozen=True)
class AccordRun:
    """A case of TRL's as accord trains it: a method with its settings."""

    case: str
    method: str
    settings: Callable[..., TrainSettings]
    options: dict[str, Any]


def dpo(case: str, **options: Any) -> AccordRun:
    return AccordRun(case, "dpo", DpoSettings, {"loss_type": case, "beta": 0.5, **options})


# bco_pair is not here: accord shifts its rewards, as the paper does and TRL does not.
RUNS = [
    dpo("sigmoid"),
    dpo("hinge", beta=2.0),
    dpo("ipo"),
    AccordRun("ipo", "ipo", IpoSettings, {"beta": 0.5}),
    dpo("robust", label_smoothing=0.1),
    dpo("exo_pair", label_smoothing=0.1),
    dpo("nca_pair"),
    dpo("sppo_hard"),
    dpo("aot"),
    dpo("aot_unpaired"),
    dpo("apo_zero"),
    dpo("apo_down"),
    dpo("discopop"),
    dpo("sigmoid_norm"),
    dpo("sft"),
    dpo("mixture", loss_type=["sigmoid", "sft"], loss_weights=[0.8, 0.3]),
    dpo("ld", loss_type="sigmoid", ld_alpha=0.4),
    dpo("forward_kl", loss_type="sigmoid", f_divergence_type="forward_kl"),
    dpo("jensen_shannon", loss_type="sigmoid", f_divergence_type="js_divergence"),
    dpo(
        "alpha",
        loss_type="sigmoid",
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=0.7,
    ),
    dpo("weighted", loss_type="sigmoid", use_weighting=True),
    AccordRun("orpo_responses", "orpo", OrpoSettings, {"beta": 0.3}),
    AccordRun("simpo", "simpo", SimpoSettings, {"beta": 2.0, "gamma": 0.5}),
    AccordRun("reward", "reward", RewardSettings, {}),
    AccordRun("reward_margin", "reward", RewardSettings, {"center_rewards_coefficient": 0.1}),
    AccordRun("completions", "sft", SftSettings, {}),
    AccordRun("assistant", "sft", SftSettings, {"loss_on": "assistant"}),
    AccordRun(
        "kto",
        "kto",
        KtoSettings,
        # With this seed accord mismatches as TRL does: each prompt with the previous response.
        {"beta": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.7, "seed": 2},
    ),
    AccordRun(
        "apo_zero_unpaired",
        "kto",
        KtoSettings,
        {
            "beta": 0.5,
            "loss_type": "apo_zero_unpaired",
            "desirable_weight": 1.0,
            "undesirable_weight": 1.0,
        },
    ),
]


# Of each online method: TRL's case, and the settings that are its configuration.
SURROGATES: dict[str, dict[str, Any]] = {
    "grpo": {"cliprange": 0.3, "cliprange_high": 0.28},
    "gspo": {"cliprange": 0.1, "cliprange_high": 0.02},
    "cispo": {"cliprange": 1.0, "cliprange_high": 0.25},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the saved models and what TRL computed on them."""
    folder = tmp_path_factory.mktemp("parity")
    save_tokenizer_and_models(folder)
    job = {"output": str(folder), "cases": [make_job_case(case, folder) for case in CASES]}
    (folder / "job.json").write_text(json.dumps(job))
    process = subprocess.run(
        [TRL_PYTHON, ORACLE, folder / "job.json"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return folder


def make_job_case(case: Case, folder: Path) -> dict[str, Any]:
    model = "reward" if case.trainer == "reward" else "policy"
    job = {
        "name": case.name,
        "trainer": case.trainer,
        "config": case.config,
        "rows": case.rows,
        "model": str(folder / model),
    }
    if case.trainer in ("dpo", "kto"):
        job["reference"] = str(folder / "reference")
    if case.trainer == "grpo":
        job["old_policy"] = str(folder / "reference")
    return job


def scores(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    return torch.stack([model(torch.tensor([row])).logits[0, 0] for row in ids])


def objective_loss(case: Case, folder: Path) -> tuple[Any, Tensor]:
    """The model whose gradients count, and the case's loss on it."""
    if case.trainer != "reward":
        reader = PlainReader(folder)
        return reader.policy, case.loss(reader.batch(case.rows))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward")
    tokenizer = AutoTokenizer.from_pretrained(folder / "reward")
    chosen, rejected = (
        scores(model, tokenizer, [row["prompt"] + row[key] for row in case.rows])
        for key in ("chosen", "rejected")
    )
    return model, case.loss(chosen, rejected)


def method_loss(run: AccordRun, dataset: str, folder: Path) -> tuple[LanguageModel, Tensor]:
    """The loss of one packed batch of all rows, read from a file, by accord's method."""
    method = METHODS[run.method]
    model = folder / ("reward" if method.scalar else "policy")
    settings = run.settings(
        **run.options, model=str(model), dataset=dataset, output_dir=str(folder / "output")
    )
    load_model = load_scalar if method.scalar else load_causal
    lm = load_model(str(model), device="cpu", trainable=True)
    records, _ = load_records(dataset, method.kind)
    groups, _ = encode_rows(records, lm, settings)
    reference_lm = load_causal(str(folder / "reference"), device="cpu")

    @torch.no_grad()
    def reference(batch: PackedBatch, rows: Sequence[int]) -> Tensor:
        return response_logps(reference_lm, batch)

    objective = method.objective(lm, settings, groups, lambda groups: reference)
    all_rows = range(len(groups))
    context = objective.prepare(all_rows)
    losses = objective.losses(pack(groups, "cpu"), all_rows, context, log=False)
    return lm, losses.weighted_sum() / losses.weights.sum()


def surrogate_loss(name: str, folder: Path) -> tuple[LanguageModel, Tensor, Tensor]:
    """The policy, its loss by an online method on one packed batch of all episodes, and the log
    of the ratio that is clipped."""
    settings: Any = METHOD_SETTINGS[name](**REQUIRED, reward_model="toy", **SURROGATES[name])
    lm, old_policy = (
        load_causal(str(folder / model), device="cpu", trainable=model == "policy")
        for model in ("policy", "reference")
    )
    encode = lm.tokenizer
    groups = [
        PromptGroup(
            tuple(encode(row["prompt"])["input_ids"]),
            ((*encode(row["completion"])["input_ids"], encode.eos_token_id),),
        )
        for row in EPISODES
    ]
    batch = pack(groups, "cpu")
    logps = response_logps(lm, batch)
    with torch.no_grad():
        old_logps = response_logps(old_policy, batch)
    advantages = torch.tensor([row["advantage"] for row in EPISODES])[batch.response_of]
    terms = PolicyTerms(logps, logps - old_logps, advantages, batch)
    surrogate = ONLINE[name].surrogate(terms, settings)
    weights = token_weights(batch.lengths, kind=settings.loss_type, longest=8)
    loss = (surrogate.values * weights[batch.response_of]).sum()
    return lm, loss, surrogate.log_ratio.detach()


def assert_gradients(parameters: dict[str, Tensor], trl_tensors: dict[str, Tensor]) -> None:
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    assert {f"gradient.{name}" for name in gradients} == {
        name for name in trl_tensors if name.startswith("gradient.")
    }
    for name, gradient in gradients.items():
        expected = trl_tensors[f"gradient.{name}"]
        distance = float((gradient - expected).norm() / expected.norm())
        assert distance < 1e-3, f"{name}: {distance}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_objectives_have_the_losses_and_gradients_of_trl(case: Case, folder: Path) -> None:
    trl_tensors = load_file(folder / f"{case.name}.safetensors")
    model, loss = objective_loss(case, folder)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(trl_tensors["loss"]), rel=1e-4)
    assert_gradients(dict(model.named_parameters()), trl_tensors)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.method}-{run.case}")
def test_methods_have_the_losses_and_gradients_of_trl(
    run: AccordRun, folder: Path, tmp_path: Path
) -> None:
    (case,) = (case for case in CASES if case.name == run.case)

    trl_tensors = load_file(folder / f"{case.name}.safetensors")
    dataset = write_jsonl(tmp_path / "rows.jsonl", case.rows)
    lm, loss = method_loss(run, dataset, folder)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(trl_tensors["loss"]), rel=1e-4)
    assert_gradients(lm.trainable_parameters(), trl_tensors)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_have_the_losses_and_gradients_of_trl(name: str, folder: Path) -> None:
    trl_tensors = load_file(folder / f"{name}.safetensors")
    lm, loss, log_ratio = surrogate_loss(name, folder)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(trl_tensors["loss"]), rel=1e-4)
    assert_gradients(lm.trainable_parameters(), trl_tensors)
    # Some of the ratios are clipped, and some are not.
    low, high = SURROGATES[name]["cliprange"], SURROGATES[name]["cliprange_high"]
    is_clipped = (log_ratio.exp() < 1 - low) | (log_ratio.exp() > 1 + high)
    assert 0 < int(is_clipped.sum()) < len(is_clipped)


def test_the_overlong_penalty_is_that_of_trl() -> None:
    program = (
        "import json; from trl.rewards import get_soft_overlong_punishment as get; "
        "print(json.dumps(get(20, 7)([[1] * n for n in range(1, 25)])))"
    )
    process = subprocess.run(
        [TRL_PYTHON, "-c", program], capture_output=True, text=True, check=True
    )
    expected = json.loads(process.stdout.splitlines()[-1])
    penalty = overlong_penalty(torch.arange(1, 25), limit=20, buffer=7)
    assert penalty.tolist() == pytest.approx(expected)


def test_the_losses_differ_on_these_rows(folder: Path) -> None:
    # Otherwise agreement would say little: AOT is DPO where its sorting changes nothing, and z₀
    # may be clamped at 0.
    losses = {
        case.name: round(float(load_file(folder / f"{case.name}.safetensors")["loss"]), 3)
        for case in CASES
        if case.trainer in ("dpo", "grpo") and case.name != "smoothed"
    }
    assert len(set(losses.values())) == len(losses), losses
    unpaired = PlainReader(folder).batch(UNPAIRED)
    assert float(kto_reference_point(unpaired.ratios[1])) > 0.1
