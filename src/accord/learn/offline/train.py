"""Training on rows: supervised fine-tuning, reward models, preference optimisation."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from accord.learn.loop.card import model_card
from accord.learn.loop.checkpoints import remove_checkpoints
from accord.learn.loop.datasets import eval_prefixes
from accord.learn.loop.destinations import check_destinations, upload_if_asked
from accord.learn.loop.fit import StepResult, fit
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.learner import Learner, make_learner
from accord.learn.loop.limits import cap_to_positions
from accord.learn.loop.objective import Losses, Metric, Objective, mean_metrics, metric
from accord.learn.loop.processes import limit_waiting, naming_lost_processes, processes
from accord.learn.loop.schedule import row_batches
from accord.learn.loop.sharding import load_divided, resolve_sharding, undivided_router
from accord.learn.loop.stage import Grade, run_with_checkpoints
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.dataset_rows import DatasetRows
from accord.learn.offline.methods import METHODS, Method
from accord.learn.offline.reference import make_reference_factory
from accord.learn.offline.reward import normalise_scores
from accord.learn.offline.rows import load_starting_model
from accord.lm.load import save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.lm.router import RouterLoss, recorded_router, router_loss
from accord.lm.sharding.saving import gather_to_main
from accord.lm.tokens.token_rows import token_counts
from accord.settings.training import RewardSettings, TrainSettings

log = logging.getLogger(__name__)


@naming_lost_processes
def train_offline(
    name: str,
    settings: TrainSettings,
    memory: InMemory = NOTHING,
    *,
    grade: Grade | None = None,
) -> Generator[StepResult, None, LanguageModel]:
    """Train by METHODS[name], yielding after each step; at the end `output_dir/model` is written.

    Close the generator to stop between two steps: a checkpoint is written, and the same call
    resumes from it. `memory` holds objects that replace paths, and `grade` measures the model's
    answers every `safety_steps`. Returns the trained model.
    """
    method, procs = memory.method or METHODS[name], processes()
    limit_waiting(settings.ddp_timeout)
    settings = resolve_sharding(settings, memory)
    check_destinations(settings)
    with closing(DatasetRows(settings, method, memory)) as datasets:
        lm = load_divided(
            lambda: memory.model or load_starting_model(settings, scalar=method.scalar),
            lambda model: [model],
            settings,
        )
        settings = cap_to_positions(settings, lm)
        groups = datasets.load("dataset", lm, settings)
        eval_groups = {
            prefix: datasets.load(name, lm, settings)
            for name, prefix in eval_prefixes(datasets.names).items()
        }
        scale_groups = groups
        if "reference_dataset" in datasets.names:
            path = getattr(settings, "reference_dataset", None)
            log.info(
                "The score's mean and standard deviation are set on the responses of %s.", path
            )
            scale_groups = datasets.load("reference_dataset", lm, settings, METHODS["sft"])
    settings = method.fit_settings(settings, groups)
    learner = make_learner(lm, settings)  # first: the reference computes in the same precision
    try:
        yield from _fit_and_evaluate(
            lm, method, settings, learner, groups, eval_groups, memory.ref_model, grade
        )
        if isinstance(settings, RewardSettings):
            lm.max_length, lm.max_prompt_length = settings.max_length, settings.max_prompt_length
            normalise_scores(lm, settings, scale_groups)
    finally:  # however it ends: the caller may use the model further
        learner.use_masters()
    gather_to_main([lm], settings.save_dtype, is_main=procs.is_main)
    if procs.is_main and memory.save_model:
        folder = Path(settings.output_dir)
        card = model_card(lm, name, settings)
        save_model(lm, folder / "model", card=card, dtype=settings.save_dtype)
        remove_checkpoints(folder)
        upload_if_asked(settings)
    return lm


def _fit_and_evaluate(
    lm: LanguageModel,
    method: Method[Any],
    settings: TrainSettings,
    learner: Learner,
    groups: Sequence[PromptGroup],
    eval_groups: Mapping[str, Sequence[PromptGroup]],
    ref_model: LanguageModel | None,
    grade: Grade | None,
) -> Iterator[StepResult]:
    """The steps, with checkpoints, and metrics on held-out rows if there are any."""
    reference = make_reference_factory(lm, settings, ref_model)
    objective = method.objective(lm, settings, groups, reference)
    eval_objectives = {
        prefix: method.objective(lm, method.eval_settings(settings), held_out, reference)
        for prefix, held_out in eval_groups.items()
    }
    router = None if method.scalar else router_loss(lm)
    if router is not None:
        if lm.sharded is not None:
            raise undivided_router(lm)
        objective = add_router_loss(objective, lm, router)
        eval_objectives = {
            prefix: add_router_loss(eval_objective, lm, router)
            for prefix, eval_objective in eval_objectives.items()
        }
    del reference  # a reference model is no longer needed: its log-probs are stored

    def evaluate() -> dict[str, float]:
        return {
            prefix + name: value
            for prefix, objective in eval_objectives.items()
            for name, value in evaluate_objective(
                lm, objective, eval_groups[prefix], settings
            ).items()
        }

    yield from run_with_checkpoints(
        lambda s: fit(s, groups, objective, method.weight, settings, lm.device, processes()),
        TrainState({"model": learner}, FitState()),
        settings,
        evaluate if eval_groups else None,
        None if grade is None else partial(grade, lm),
        models=[lm],
    )


def add_router_loss(objective: Objective, lm: LanguageModel, router: RouterLoss) -> Objective:
    """The objective with a mixture of experts' load-balancing loss, as the model's own loss has it:
    that of each forward pass, times the configuration's coefficient."""

    def losses(batch: PackedBatch, rows: Sequence[int], context: Any, *, log: bool) -> Losses:
        with recorded_router(lm, router, batch) as record:
            result = objective.losses(batch, rows, context, log=log)
        # Of a reference on the same base a pass may follow; the policy's is the first.
        aux_loss = record.losses[0]
        metrics = {**result.metrics, "aux_loss": metric(aux_loss)} if log else result.metrics
        return Losses(result.values + router.coef * aux_loss, result.weights, metrics)

    return replace(objective, losses=losses)


@torch.no_grad()
def evaluate_objective(
    lm: LanguageModel, objective: Objective, groups: Sequence[PromptGroup], settings: TrainSettings
) -> dict[str, float]:
    """The loss and metrics over held-out rows."""
    total, weight, parts = 0.0, 0.0, list[dict[str, Metric]]()
    context = objective.prepare(range(len(groups)))
    sizes = token_counts(groups).tolist()
    batch_size, max_tokens = settings.per_device_train_batch_size, settings.max_tokens_per_forward
    for rows in row_batches(sizes, batch_size, max_tokens=max_tokens):
        batch = pack([groups[i] for i in rows], lm.device)
        losses = objective.losses(batch, rows, context, log=True)
        total += float(losses.weighted_sum())
        weight += float(losses.weights.sum())
        parts.append(losses.metrics)
    return {"loss": total / weight, **mean_metrics(parts)}
