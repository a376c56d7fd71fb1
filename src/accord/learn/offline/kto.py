"""Kahneman-Tversky optimisation: single responses that are desirable or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from accord.learn.loop.fit import make_schedule
from accord.learn.loop.objective import (
    Losses,
    Metric,
    Objective,
    Reference,
    ReferenceFactory,
    metric,
)
from accord.learn.loop.processes import Processes, processes
from accord.learn.offline.pairs import accuracy
from accord.lm.forward import response_logps, response_logps_and_others
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.unpaired import kto_loss, kto_reference_point
from accord.settings.preferences import KtoSettings

log = logging.getLogger(__name__)

SHIFT = 1 << 40  # the stream of random numbers that matches prompts with others' responses


@dataclass(slots=True)
class Step:
    """What is known of a whole step: z₀, how many of its responses are desirable or not, and the
    reference's log-probs of each row's response tokens. `elsewhere` are those of the mismatched
    responses, where the one pass of the step is to read these too."""

    reference_point: float = 0.0
    desirable: int = 0
    undesirable: int = 0
    before: dict[int, Tensor] = field(default_factory=dict)
    elsewhere: dict[int, Tensor] = field(default_factory=dict)


def kto(
    lm: LanguageModel,
    settings: KtoSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """KTO on labelled responses, each counting one; or, with `apo_zero_unpaired`, without z₀.

    z₀ is the mean over the step's rows of log π/π_ref of another row's response to their prompt,
    so it does not depend on how the step is split. Which response that is, is fixed for the run.
    """
    settings = balanced(settings, groups)
    assert settings.desirable_weight is not None
    assert settings.undesirable_weight is not None
    weights = (settings.desirable_weight, settings.undesirable_weight)
    elsewhere = mismatched(groups, settings) if settings.loss_type == "kto" else []
    together = behind_one_prompt(groups, elsewhere)
    known = reference(together)
    step = Step()

    def begin_step(rows: Sequence[int]) -> None:
        labels = [label for i in rows for label in groups[i].labels]
        step.desirable, step.undesirable = sum(labels), len(labels) - sum(labels)
        if elsewhere and reads_at_once(lm, groups, rows, settings, processes()):
            step.before, step.elsewhere = of_reference(lm, together, elsewhere, known, rows)
            return
        step.before, ratios = before_step(
            lm, together, elsewhere, known, rows, settings, processes()
        )
        step.elsewhere = {}
        if elsewhere:
            step.reference_point = float(kto_reference_point(ratios))

    def losses(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        before = torch.cat([step.before[i] for i in rows]).to(batch.device)
        if step.elsewhere:
            others = [elsewhere[i].responses[0] for i in rows]
            logps, theirs = response_logps_and_others(lm, batch, others)
            theirs = theirs - torch.cat([step.elsewhere[i] for i in rows])
            found = torch.stack([part.sum() for part in theirs.split([*map(len, others)])])
            step.reference_point = float(kto_reference_point(found))
        else:
            logps = response_logps(lm, batch)
        ratios = batch.per_response(logps - before)
        labels = [label for group in batch.groups for label in group.labels]
        desirable = torch.tensor(labels, device=batch.device)
        values = kto_loss(
            ratios,
            desirable,
            step.reference_point,
            beta=settings.beta,
            desirable_weight=weights[0],
            undesirable_weight=weights[1],
        )
        metrics: dict[str, Metric] = {}
        if log:
            summed = batch.per_response(logps.detach())
            metrics = _metrics(settings.beta * ratios.detach(), summed, desirable, batch, step)
            above = ratios.detach() - step.reference_point
            metrics["rewards/accuracies"] = _on_their_side(above, desirable, weights)
        return Losses(values, torch.ones_like(values), metrics)

    return Objective(losses, begin_step)


def balanced(settings: KtoSettings, groups: Sequence[PromptGroup]) -> KtoSettings:
    """The settings with both weights, λ_D·n_D : λ_U·n_U brought to 1 : 1 where they were not given.

    Ethayarajh et al. 2024, eq. 8 and 9, allow 1 to 4/3. The rarer kind is weighted up, the other
    stays at 1; where one weight is given, the other follows it.
    """
    if settings.desirable_weight is not None and settings.undesirable_weight is not None:
        return settings
    labels = [label for group in groups for label in group.labels]
    up, down = sum(labels), len(labels) - sum(labels)
    if not up or not down:
        if labels:
            log.warning(
                "All %d responses are %s, so nothing is told apart. If their scores are on another "
                "scale, set desirable_from (now %g).",
                len(labels),
                "desirable" if up else "undesirable",
                settings.desirable_from,
            )
        up = down = 1
    if settings.desirable_weight is not None:
        weights = settings.desirable_weight, settings.desirable_weight * up / down
    elif settings.undesirable_weight is not None:
        weights = settings.undesirable_weight * down / up, settings.undesirable_weight
    else:
        weights = max(1.0, down / up), max(1.0, up / down)
    if labels:
        log.info(
            "Desirable responses weigh %.3g each and undesirable ones %.3g, so that both kinds "
            "have the same weight in all.",
            *weights,
        )
    return settings.model_copy(
        update={"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    )


def mismatched(groups: Sequence[PromptGroup], settings: KtoSettings) -> list[PromptGroup]:
    """Each row's prompt with a response of another row whose prompt differs; empty if none does.

    Row i takes the row a fixed shift further on, or the next after it that has another prompt. The
    shift, and which response of several, come from the seed. The response is cut to `max_length`.
    """
    count = len(groups)
    follows = _next_other_prompt(groups)
    if not any(follows):
        if groups:
            log.warning(
                "All rows have the same prompt, so no response can be matched to another one: z₀ "
                "of the loss is 0 throughout, as with loss_type=apo_zero_unpaired."
            )
        return []
    generator = np.random.Generator(np.random.Philox(key=[settings.seed, SHIFT]))
    shift = int(generator.integers(1, count))
    draws = generator.random(count)
    found = []
    for i, group in enumerate(groups):
        other = (i + shift) % count
        if groups[other].prompt == group.prompt:
            other = (other + follows[other]) % count
        responses = groups[other].responses
        response = responses[int(draws[i] * len(responses))]
        room = max(1, settings.max_length - len(group.prompt))
        found.append(PromptGroup(group.prompt, (response[:room],), source=group.source))
    return found


def _next_other_prompt(groups: Sequence[PromptGroup]) -> list[int]:
    """How many rows further on, round and round, the prompt is another one; 0 where none is."""
    count = len(groups)
    steps = [0] * count
    for i in range(2 * count - 2, -1, -1):
        here, after = i % count, (i + 1) % count
        if groups[here].prompt != groups[after].prompt:
            steps[here] = 1
        elif steps[after]:
            steps[here] = steps[after] + 1
    return steps


def behind_one_prompt(
    groups: Sequence[PromptGroup], elsewhere: Sequence[PromptGroup]
) -> list[PromptGroup]:
    """Each row with its mismatched response as one more: the reference reads the prompt once."""
    if not elsewhere:
        return list(groups)
    found = []
    for group, other in zip(groups, elsewhere, strict=True):
        (response,) = other.responses
        learned = (*group.loss_mask, (True,) * len(response)) if group.loss_mask else ()
        responses = (*group.responses, response)
        found.append(replace(group, responses=responses, loss_mask=learned, ranks=(), labels=()))
    return found


def reads_at_once(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    rows: Sequence[int],
    settings: KtoSettings,
    team: Processes,
) -> bool:
    """Whether the step has one pass, which can read the mismatched responses behind its prompts:
    z₀, which is of the whole step, is then known in time."""
    return (
        lm.shares_prefixes
        and lm.device.type == "cpu"
        and not settings.gradient_checkpointing  # layers would be read again going back
        and team.world_size == 1
        and len(make_schedule(len(groups), settings).passes(rows, groups)) == 1
    )


@torch.no_grad()
def of_reference(
    lm: LanguageModel,
    together: Sequence[PromptGroup],
    elsewhere: Sequence[PromptGroup],
    known: Reference,
    rows: Sequence[int],
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The reference's log-probs of each row's own response tokens, and of its mismatched ones'."""
    once = list(dict.fromkeys(rows))
    found = known(pack([together[i] for i in once], lm.device), once).cpu()
    both = dict(zip(once, found.split([together[i].num_targets for i in once]), strict=True))
    cuts = {
        i: together[i].num_targets - (elsewhere[i].num_targets if elsewhere else 0) for i in once
    }
    return (
        {i: part[: cuts[i]] for i, part in both.items()},
        {i: part[cuts[i] :] for i, part in both.items()},
    )


@torch.no_grad()
def before_step(
    lm: LanguageModel,
    together: Sequence[PromptGroup],
    elsewhere: Sequence[PromptGroup],
    known: Reference,
    rows: Sequence[int],
    settings: KtoSettings,
    team: Processes,
) -> tuple[dict[int, Tensor], Tensor]:
    """Of each row the reference's log-probs of its own response tokens; and log π/π_ref (rows,)
    of its mismatched response, 0 where there is none. The processes take turns."""
    once = list(dict.fromkeys(rows))
    passes = make_schedule(len(together), settings, team.world_size).passes(once, together)
    found: dict[int, tuple[Tensor, float]] = {}
    for part in passes[team.rank :: team.world_size]:
        own, theirs = of_reference(lm, together, elsewhere, known, part)
        ratios = [0.0] * len(part)
        if elsewhere:
            batch = pack([elsewhere[i] for i in part], lm.device)
            reference = torch.cat([theirs[i] for i in part]).to(batch.device)
            ratios = batch.per_response(response_logps(lm, batch) - reference).tolist()
        found.update({i: (own[i], ratio) for i, ratio in zip(part, ratios, strict=True)})
    for share in team.all_gather(found):
        found.update(share)
    return {i: own for i, (own, _) in found.items()}, torch.tensor([found[i][1] for i in rows])


def _on_their_side(above: Tensor, desirable: Tensor, weights: tuple[float, float]) -> Metric:
    """The share of responses on the right side of z₀, which is where their value is above its
    middle: r − z₀ above 0 for desirable ones, below it for others. Each weighs as in the loss, so
    that a rare kind is not drowned."""
    sides = torch.where(desirable, above, -above)
    return metric(accuracy(sides), torch.where(desirable, *weights))


def _metrics(
    rewards: Tensor, logps: Tensor, desirable: Tensor, batch: PackedBatch, step: Step
) -> dict[str, Metric]:
    """The numbers of desirable ("chosen") and other responses, as sums over a pass."""
    up, down = desirable.float(), (~desirable).float()
    metrics: dict[str, Metric] = {}
    for name, values in (("rewards", rewards), ("logps", logps), ("lengths", batch.lengths)):
        metrics[f"{name}/chosen"] = metric(values, up)
        metrics[f"{name}/rejected"] = metric(values, down)
    share = len(desirable) / (step.desirable + step.undesirable)
    if step.desirable and step.undesirable:
        # The step's means are taken apart over its passes; their shares add up to 1.
        margin = (rewards * (up / step.desirable - down / step.undesirable)).sum()
        metrics["rewards/margins"] = (float(margin), share)
    metrics["kl"] = (step.reference_point * share, share)
    return metrics
