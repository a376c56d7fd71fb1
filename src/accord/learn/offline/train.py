"""Training on rows: supervised fine-tuning, reward models, preference optimisation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from accord.compare.dataset import load_records
from accord.errors import SettingsError
from accord.learn.loop.checkpoints import TrainState, remove_checkpoints
from accord.learn.loop.fit import StepResult, fit
from accord.learn.loop.learner import make_learner
from accord.learn.loop.limits import cap_to_positions, check_reference_positions, token_limits
from accord.learn.loop.objective import (
    Metric,
    Objective,
    Reference,
    ReferenceFactory,
    merge_metrics,
)
from accord.learn.loop.passes import row_batches
from accord.learn.loop.processes import processes
from accord.learn.loop.stage import model_card, run_with_checkpoints
from accord.learn.offline.methods import METHODS, Method
from accord.learn.offline.reference import (
    adapters_off_reference,
    cached_log_probs,
    reference_kind,
    stored_log_probs,
)
from accord.lm.adapters.lora import add_adapters, continue_adapter
from accord.lm.adapters.views import base_view
from accord.lm.forward import response_head_scores
from accord.lm.load import base_and_adapter, load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.tokens.encode import encode
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.known_tokens import check_token_ids
from accord.records import Comparison, Record
from accord.runs import write_json_atomic
from accord.settings.preferences import KtoSettings, ReferenceSettings
from accord.settings.training import RewardSettings, SftSettings, TrainSettings

log = logging.getLogger(__name__)


def train_offline(name: str, settings: TrainSettings) -> Iterator[StepResult]:
    """Train by METHODS[name], yielding after each step; at the end `output_dir/model` is written.

    Close the generator to stop between two steps: a checkpoint is written, and the same call goes
    on from it.
    """
    method, team = METHODS[name], processes()
    lm = load_starting_model(settings, scalar=method.scalar)
    settings = cap_to_positions(settings, lm)
    groups = _rows(settings.dataset, lm, method, settings, "data.json")
    held_out = None
    if settings.eval_dataset is not None:
        held_out = _rows(settings.eval_dataset, lm, method, settings, "eval_data.json")
    scored = groups
    if isinstance(settings, RewardSettings) and settings.reference_dataset is not None:
        place, read_as = settings.reference_dataset, METHODS["sft"]
        log.info("The score's mean and standard deviation are set on the responses of %s.", place)
        scored = _rows(place, lm, read_as, settings, "reference_data.json")
    settings = method.settled(settings, groups)
    learner = make_learner(lm, settings)  # before the reference, which computes as it does
    reference = _reference(lm, settings)
    objective = method.objective(lm, settings, groups, reference)
    held_objective = method.objective(lm, method.measured(settings), held_out or [], reference)
    del reference  # and with it another reference model, of which the log-probs are known now
    state = TrainState({"model": learner})

    def evaluate() -> dict[str, float]:
        assert held_out is not None
        return evaluate_objective(lm, method, held_objective, held_out, settings)

    yield from run_with_checkpoints(
        lambda s: fit(s, groups, objective, method.weight, settings, lm.device, team),
        state,
        settings,
        None if held_out is None else evaluate,
    )
    if isinstance(settings, RewardSettings):
        lm.max_length, lm.max_prompt_length = settings.max_length, settings.max_prompt_length
        _normalise(lm, method, settings, scored)
    learner.restore()
    if team.is_main:
        save_model(lm, Path(settings.output_dir) / "model", card=model_card(lm, name, settings))
        remove_checkpoints(Path(settings.output_dir))


def load_starting_model(settings: TrainSettings, *, scalar: bool) -> LanguageModel:
    """The model that training starts from, with what learns marked: all of it, or adapters.

    An adapter in `model` goes on learning on its base where the settings say so; else it is merged
    into the base, under new ones.
    """
    lora, (_, adapter) = settings.lora, base_and_adapter(settings.model)
    goes_on = adapter is not None and lora is not None and lora.continue_adapter
    if scalar:
        lm = load_scalar(
            settings.model,
            seed=settings.seed,
            heads=settings.heads if isinstance(settings, RewardSettings) else None,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            learns=lora is None,
            merge=not goes_on,
        )
    else:
        lm = load_causal(
            settings.model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            learns=lora is None,
            merge=not goes_on,
        )
    if lora is not None and goes_on:
        lm = continue_adapter(lm, settings.model, lora)
    elif lora is not None:
        lm = add_adapters(lm, lora, seed=settings.seed)
        if lora.continue_adapter:
            log.info("%s is no adapter that could go on learning: it is given one.", lm.name)
    if settings.gradient_checkpointing:
        lm.enable_gradient_checkpointing()
    return lm


def check_same_tokenizer(lm: LanguageModel, reference: LanguageModel) -> None:
    """Raise SettingsError where a reference reads tokens as other words than the model does."""
    if lm.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise SettingsError(
            f"The reference {reference.name} has another tokenizer than {lm.name}, so their "
            f"log-probs can't be compared. Set ref_model to a model of the same family."
        )


def encode_rows(
    records: Sequence[Record], lm: LanguageModel, settings: TrainSettings
) -> tuple[list[PromptGroup], EncodeReport]:
    """Records as a method's rows of tokens, within its limits, and what became of them.

    Raises ModelError where the tokenizer gives tokens that the model does not know.
    """
    groups, report = encode(
        records,
        lm.tokenizer,
        token_limits(settings),
        eos_ids=lm.eos_ids,
        loss_on=settings.loss_on if isinstance(settings, SftSettings) else "response",
        desirable_from=settings.desirable_from if isinstance(settings, KtoSettings) else None,
    )
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    return groups, report


def _rows(
    place: str, lm: LanguageModel, method: Method, settings: TrainSettings, report_name: str
) -> list[PromptGroup]:
    records, read = load_records(place, method.kind)
    margins = [r.margin for r in records if isinstance(r, Comparison) and r.margin is not None]
    if margins and not method.margins:
        note = f"the margins of {len(margins):,} pairs are not read: only `reward` learns from them"
        read = replace(read, notes=[*read.notes, note])
    groups, encoded = encode_rows(records, lm, settings)
    log.info("%s", read.summary())
    log.info("%s: %s", place, encoded.summary())
    folder = Path(settings.output_dir)
    if processes().is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(
            folder / report_name, {"read": read.to_json(), "encoded": encoded.to_json()}
        )
    return groups


def _reference(lm: LanguageModel, settings: TrainSettings) -> ReferenceFactory:
    """What gives rows their reference log-probs; to be asked before any weight has moved."""
    loaded: list[LanguageModel] = []

    def other() -> LanguageModel:
        assert isinstance(settings, ReferenceSettings)
        assert settings.ref_model is not None
        log.info(
            "The reference %s is not the starting model %s: the KL penalty pulls towards it from "
            "the first step.",
            settings.ref_model,
            settings.model,
        )
        found = load_causal(
            settings.ref_model,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
        check_same_tokenizer(lm, found)
        return found

    def make(groups: Sequence[PromptGroup]) -> Reference:
        assert isinstance(settings, ReferenceSettings)
        model, kind = lm, reference_kind(lm, settings.model, settings.ref_model)
        if kind == "other":
            loaded[:] = loaded or [other()]
            model = loaded[0]
            check_reference_positions(model, groups)
        elif kind == "base":
            if not _precomputed(settings):
                return adapters_off_reference(lm)
            model = base_view(lm)
        elif settings.precompute_ref_log_probs is False:
            raise SettingsError(
                f"precompute_ref_log_probs=false, but the reference is the adapter in "
                f"{settings.model} as it is now, and it goes on learning. Leave it out."
            )
        if not groups:
            return stored_log_probs([])
        return stored_log_probs(
            cached_log_probs(
                model,
                groups,
                batch_size=settings.per_device_train_batch_size,
                most_tokens=settings.max_tokens_per_forward,
                processes=processes(),
            )
        )

    return make


def _precomputed(settings: ReferenceSettings) -> bool:
    """Whether the log-probs of a base under adapters are computed before training."""
    if settings.precompute_ref_log_probs is not None:
        return settings.precompute_ref_log_probs
    return settings.max_steps is None and settings.num_train_epochs > 1


def _batches(groups: Sequence[PromptGroup], settings: TrainSettings) -> Iterator[list[int]]:
    """The numbers of rows that are only read, a forward pass at a time."""
    return row_batches(
        [g.num_tokens for g in groups],
        settings.per_device_train_batch_size,
        most=settings.max_tokens_per_forward,
    )


@torch.no_grad()
def evaluate_objective(
    lm: LanguageModel,
    method: Method,
    objective: Objective,
    groups: Sequence[PromptGroup],
    settings: TrainSettings,
) -> dict[str, float]:
    """The objective and its metrics over held-out rows."""
    total, mass, parts = 0.0, 0.0, list[dict[str, Metric]]()
    objective.begin_step(range(len(groups)))
    for rows in _batches(groups, settings):
        batch = pack([groups[i] for i in rows], lm.device)
        losses = objective.losses(batch, rows, log=True)
        total += float(losses.total())
        mass += float(losses.weights.sum())
        parts.append(losses.metrics)
    return {"loss": total / mass, **merge_metrics(parts)}


@torch.no_grad()
def _normalise(
    lm: LanguageModel, method: Method, settings: RewardSettings, groups: Sequence[PromptGroup]
) -> None:
    """Set the score's mean and standard deviation on the rows' responses to 0 and 1; of an
    ensemble each head's mean too."""
    chosen = groups[:: max(1, len(groups) // settings.reference_rows)][: settings.reference_rows]
    scores: dict[int, Tensor] = {}
    for rows in _batches(chosen, settings):
        found = response_head_scores(lm, pack([chosen[i] for i in rows], lm.device))
        scores.update(zip(rows, found.split([len(chosen[i].responses) for i in rows]), strict=True))
    lm.score_penalty, lm.length_slope = settings.ensemble_penalty, settings.length_slope
    raw = torch.cat([scores[i] for i in range(len(chosen))])
    lm.head_means = tuple(raw.mean(0).tolist()) if lm.heads > 1 else ()
    flat = lm.combined(raw)
    lm.score_mean = float(flat.mean())
    lm.score_std = max(float(flat.std()), 1e-6)
    if not math.isfinite(lm.score_std):
        lm.score_std = 1.0
