"""Training on rows: supervised fine-tuning, reward models, preference optimisation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from accord.compare.dataset import load_records
from accord.errors import SettingsError
from accord.learn.checkpoints import Learner, TrainState, remove_checkpoints
from accord.learn.fit import StepResult, fit
from accord.learn.losses import Metric, Objective, merge_metrics
from accord.learn.methods import METHODS, Method
from accord.learn.optimiser import adamw
from accord.learn.reference import batches_of, kept_reference, reference_logps
from accord.learn.stage import keep_going, model_card
from accord.lm.adapters import add_adapters
from accord.lm.encode import Limits, encode
from accord.lm.forward import response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.runs import write_json_atomic
from accord.settings.training import DpoSettings, RewardSettings, TrainSettings

log = logging.getLogger(__name__)


def train_offline(name: str, settings: TrainSettings) -> Iterator[StepResult]:
    """Train by METHODS[name], yielding after each step; at the end `output_dir/model` is written.

    Close the generator to stop between two steps: a checkpoint is written, and the same call goes
    on from it.
    """
    method = METHODS[name]
    lm = start_model(settings, scalar=method.scalar)
    groups = _rows(settings.dataset, lm, method, settings, "data.json")
    held_out = None
    if settings.eval_dataset is not None:
        held_out = _rows(settings.eval_dataset, lm, method, settings, "eval_data.json")
    reference, eval_reference = _references(lm, method, settings, groups, held_out or [])
    parameters = lm.trainable()
    learner = Learner(parameters, adamw(parameters.values(), settings))
    state = TrainState({"model": learner})
    objective = method.objective(lm, settings, reference)

    def evaluate() -> dict[str, float]:
        assert held_out is not None
        held_objective = method.objective(lm, settings, eval_reference)
        return evaluate_rows(lm, method, held_objective, held_out, settings)

    yield from keep_going(
        lambda s: fit(s, groups, objective, method.weight, settings, lm.device),
        state,
        settings,
        None if held_out is None else evaluate,
    )
    if isinstance(settings, RewardSettings):
        lm.max_length, lm.max_prompt_length = settings.max_length, settings.max_prompt_length
        _normalise(lm, method, settings, groups)
    save_model(lm, Path(settings.output_dir) / "model", card=model_card(lm, name, settings))
    remove_checkpoints(Path(settings.output_dir))


def start_model(settings: TrainSettings, *, scalar: bool) -> LanguageModel:
    """The model that training starts from, with what learns marked: all of it, or adapters."""
    half = settings.lora is not None and settings.precision == "bf16"
    if scalar:
        lm = load_scalar(
            settings.model,
            seed=settings.seed,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            half_weights=half,
        )
    else:
        lm = load_causal(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            half_weights=half,
        )
    if settings.lora is not None:
        lm = add_adapters(lm, settings.lora, seed=settings.seed)
    if settings.gradient_checkpointing:
        lm.recompute_activations()
    return lm


def same_tokenizer(lm: LanguageModel, reference: LanguageModel) -> None:
    """Raise SettingsError where a reference reads tokens as other words than the model does."""
    if lm.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise SettingsError(
            f"The reference {reference.name} has another tokenizer than {lm.name}, so their "
            f"log-probs can't be compared. Set ref_model to a model of the same family."
        )


def limits_of(settings: TrainSettings) -> Limits:
    return Limits(
        settings.max_length,
        settings.max_prompt_length,
        settings.long_prompts,
        settings.long_responses,
    )


def _rows(
    place: str, lm: LanguageModel, method: Method, settings: TrainSettings, report_name: str
) -> list[PromptGroup]:
    records, read = load_records(place, method.kind)
    groups, encoded = encode(records, lm.tokenizer, limits_of(settings), eos_ids=lm.eos_ids)
    log.info("%s", read.summary())
    log.info("%s: %s", place, encoded.summary())
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / report_name, {"read": read.to_json(), "encoded": encoded.to_json()})
    return groups


def _references(
    lm: LanguageModel,
    method: Method,
    settings: TrainSettings,
    groups: Sequence[PromptGroup],
    held_out: Sequence[PromptGroup],
) -> tuple[list[Tensor], list[Tensor]]:
    """Reference log-probs of the training and the held-out rows, before any weight has moved."""
    if not method.needs_reference:
        return [], []
    assert isinstance(settings, DpoSettings)
    reference = lm
    if settings.ref_model is not None and settings.ref_model != settings.model:
        log.warning(
            "The reference %s is not the starting model %s: the KL penalty pulls towards it from "
            "the first step.",
            settings.ref_model,
            settings.model,
        )
        reference = load_causal(
            settings.ref_model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
        same_tokenizer(lm, reference)
    size = settings.per_device_train_batch_size
    return (
        kept_reference(Path(settings.output_dir), reference, groups, batch_size=size),
        reference_logps(reference, held_out, batch_size=size),
    )


@torch.no_grad()
def evaluate_rows(
    lm: LanguageModel,
    method: Method,
    objective: Objective,
    groups: Sequence[PromptGroup],
    settings: TrainSettings,
) -> dict[str, float]:
    """The objective and its metrics over held-out rows."""
    total, mass, parts = 0.0, 0.0, list[dict[str, Metric]]()
    for rows in batches_of(len(groups), settings.per_device_train_batch_size):
        batch = pack([groups[i] for i in rows], lm.device)
        losses = objective(batch, rows, log=True)
        total += float(losses.total())
        mass += float(losses.weights.sum())
        parts.append(losses.metrics)
    return {"loss": total / mass, **merge_metrics(parts)}


@torch.no_grad()
def _normalise(
    lm: LanguageModel, method: Method, settings: RewardSettings, groups: Sequence[PromptGroup]
) -> None:
    """Set the score's mean and standard deviation on reference responses to 0 and 1."""
    if settings.reference_dataset is not None:
        records, _ = load_records(settings.reference_dataset, "sft")
        groups, _ = encode(records, lm.tokenizer, limits_of(settings), eos_ids=lm.eos_ids)
    chosen = groups[:: max(1, len(groups) // settings.reference_rows)][: settings.reference_rows]
    scores = []
    for rows in batches_of(len(chosen), settings.per_device_train_batch_size):
        scores.append(response_scores(lm, pack([chosen[i] for i in rows], lm.device)))
    flat = torch.cat(scores)
    lm.score_mean = float(flat.mean())
    lm.score_std = max(float(flat.std()), 1e-6)
    if not math.isfinite(lm.score_std):
        lm.score_std = 1.0
