"""The rows that a training stage would learn from: its steps, its passes, its tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.data.kinds import Kind
from accord.data.selection import ReadRows
from accord.errors import DataError
from accord.learn.loop.datasets import read_datasets
from accord.learn.loop.in_memory import NOTHING
from accord.learn.loop.limits import token_limits
from accord.learn.loop.schedule import RowOrder, balance_by_tokens, make_schedule, num_batches
from accord.learn.offline.methods import METHODS
from accord.learn.offline.mismatched import mismatched_groups
from accord.learn.online.methods import ONLINE
from accord.learn.plan.passes import Shape
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import Limits, encode, encode_prompts
from accord.pipeline.plan.models import maker_of
from accord.pipeline.plan.split import split_rows, split_to_come
from accord.records import PromptOnly
from accord.settings.online import OnlineSettings
from accord.settings.preferences import KtoSettings
from accord.settings.recipe import StagePlan
from accord.settings.training import SftSettings

SAMPLED_ROWS = 2000  # rows that are tokenised of a larger data set
SEARCHED_STEPS = 5000  # steps among which the largest pass is looked for


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What the data gives of a stage.

    `used` are the rows that are trained on (estimated where only `sampled` rows were tokenised),
    `dropped` those that are not, by reason; `tokens` those of all passes of the run. `largest` is
    the pass with most tokens, `first` the rows of the first one. `mismatched` are KTO's: the tokens
    of another row's response to each prompt of `largest` (`offline/mismatched.py`). `unknown` says
    why there are no rows to look at; then `largest` has the longest rows that the settings allow.
    """

    rows: int | None
    used: int | None
    steps: int | None
    tokens: int | None
    largest: tuple[Shape, ...]
    passes: int
    first: tuple[PromptGroup, ...] = ()
    mismatched: tuple[int, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sampled: int | None = None
    unknown: str | None = None
    longest: int = 0


ReadCache = dict[tuple[str, str], ReadRows]
"""Data sets that have been read, by stage and path: a stage may be planned several times."""


def read_rows(
    plan: StagePlan,
    tokenizer: Any,
    eos_ids: frozenset[int],
    stages: Sequence[StagePlan],
    world: int,
    cache: ReadCache,
) -> RowFacts:
    """The rows of a training stage on `world` processes; `stages` are those before it."""
    settings: Any = plan.settings
    why = _why_unknown(settings, tokenizer, stages)
    if why is not None:
        return _longest_rows(plan, why)
    if plan.method in ONLINE:
        return _prompt_facts(_read(plan, "prompts", stages, cache), settings, tokenizer, world)
    method = METHODS[plan.method or ""]
    read = _read(plan, method.kind, stages, cache)
    records, sampled = _sample(read.records)
    groups, report = encode(
        records,
        tokenizer,
        token_limits(settings),
        eos_ids=eos_ids,
        loss_on=settings.loss_on if isinstance(settings, SftSettings) else "response",
        desirable_from=settings.desirable_from if isinstance(settings, KtoSettings) else None,
    )
    if not groups:
        raise DataError(f"No row of {settings.dataset} can be used: {report.summary()}.")
    share = len(read.records) / max(1, len(records))
    count = round(len(groups) * share)
    schedule = make_schedule(count, settings, world)
    first, largest, passes = _passes(groups, settings, count, world)
    mismatched: tuple[int, ...] = ()
    if plan.method == "kto" and settings.loss_type == "kto":
        mismatched = _mismatched_lengths(largest, groups, settings)
    mean = sum(g.num_tokens for g in groups) / len(groups)
    return RowFacts(
        rows=len(read.records),
        used=count,
        steps=schedule.steps,
        tokens=round(mean * schedule.examples),
        largest=tuple(map(shape_of, largest)),
        passes=passes,
        first=tuple(first),
        mismatched=mismatched,
        dropped={reason: round(len(s) * share) for reason, s in report.dropped.items()},
        notes=(report.summary(),),
        sampled=len(records) if sampled else None,
        longest=max(map(_longest_of, groups)),
    )


def shape_of(group: PromptGroup) -> Shape:
    return len(group.prompt), tuple(map(len, group.responses))


def _longest_of(group: PromptGroup) -> int:
    return len(group.prompt) + max(map(len, group.responses))


def _why_unknown(settings: Any, tokenizer: Any, stages: Sequence[StagePlan]) -> str | None:
    path = settings.dataset
    if not Path(path).exists() and split_to_come(path, stages) is None:
        maker = maker_of(path, stages)
        if maker is not None:
            return f"the stage `{maker.name}` writes {Path(path).name}, and has not run"
    if tokenizer is None:
        maker = maker_of(settings.model, stages)
        name = maker.name if maker else "an earlier stage"
        return f"the tokenizer is that of `{name}`, which has not run"
    return None


def _sample(records: list[Any]) -> tuple[list[Any], bool]:
    """All records, or evenly spaced ones of many."""
    if len(records) <= SAMPLED_ROWS:
        return records, False
    step = len(records) / SAMPLED_ROWS
    return [records[int(i * step)] for i in range(SAMPLED_ROWS)], True


def _passes(
    groups: Sequence[PromptGroup], settings: Any, count: int, world: int
) -> tuple[list[PromptGroup], list[PromptGroup], int]:
    """The first pass, the one with most tokens, and the number of passes in a step.

    Of a sample, as many batches are drawn from it as the run has steps: the largest of many.
    """
    schedule = make_schedule(count, settings, world)
    steps = range(min(schedule.steps, SEARCHED_STEPS))
    largest: list[PromptGroup] = []
    first: list[PromptGroup] = []
    passes = max_tokens = 0
    for rows in _step_rows(groups, schedule, settings.seed, steps, count):
        parts = schedule.micro_batches(rows, groups)
        passes = max(passes, -(-len(parts) // world))
        for part in parts:
            tokens = sum(groups[i].num_tokens for i in part)
            first = first or [groups[i] for i in part]
            if tokens > max_tokens:
                max_tokens, largest = tokens, [groups[i] for i in part]
    return first, largest, passes


def _step_rows(
    groups: Sequence[PromptGroup], schedule: Any, seed: int, steps: range, count: int
) -> Iterator[list[int]]:
    if count == len(groups):
        order = RowOrder(count, seed)
        for step in steps:
            yield schedule.step_rows(step, order)
        return
    rng = random.Random(seed)
    size = min(schedule.examples_per_step, len(groups))
    for _ in steps:
        yield rng.sample(range(len(groups)), size)


def _mismatched_lengths(
    largest: Sequence[PromptGroup], groups: Sequence[PromptGroup], settings: KtoSettings
) -> tuple[int, ...]:
    """Tokens of the other row's response that KTO puts behind each prompt; empty if no two prompts
    differ."""
    mismatched = mismatched_groups(groups, settings)
    if not mismatched:
        return ()
    numbers = {id(group): i for i, group in enumerate(groups)}
    return tuple(mismatched[numbers[id(group)]].num_targets for group in largest)


def _read(plan: StagePlan, kind: Kind, stages: Sequence[StagePlan], cache: ReadCache) -> ReadRows:
    settings: Any = plan.settings
    key = (plan.name, settings.dataset)
    if key not in cache:
        with split_rows(settings.dataset, stages) as path:
            there = settings.model_copy(update={"dataset": path})
            cache[key] = read_datasets(there, {"dataset": kind}, NOTHING)["dataset"]
    return cache[key]


def _prompt_facts(read: ReadRows, settings: OnlineSettings, tokenizer: Any, world: int) -> RowFacts:
    """The prompts of an online method; its responses are as long as `max_new_tokens` allows."""
    candidates = [r for r in read.records if isinstance(r, PromptOnly)]
    records, sampled = _sample(candidates)
    room = settings.max_length - settings.max_new_tokens
    limits = Limits(
        settings.max_length, min(settings.max_prompt_length or room, room), settings.long_prompts
    )
    prompts, _, report = encode_prompts(records, tokenizer, limits)
    share = len(candidates) / max(1, len(records))
    count, number = round(len(prompts) * share), settings.prompts_per_iteration * world
    steps = settings.max_steps or num_batches(settings.num_train_epochs, count, number)
    order = RowOrder(len(prompts), settings.seed)
    batches = [
        [prompts[i] for i in order.slice(step * number, (step + 1) * number)]
        for step in range(min(steps, SEARCHED_STEPS))
    ]
    largest = max(batches, key=lambda batch: sum(map(len, batch)))
    responses = (settings.max_new_tokens,) * settings.num_generations
    shapes = [(len(prompt), responses) for prompt in largest]
    parts = online_passes(shapes, settings, world)
    mean = sum(map(len, prompts)) / len(prompts) + sum(responses)
    return RowFacts(
        rows=len(read.records),
        used=count,
        steps=steps,
        tokens=round(mean * number * steps),
        largest=tuple(parts[0]),
        passes=-(-len(parts) // world),
        first=tuple(PromptGroup(tuple(p), ((0,),)) for p in batches[0][:2]),
        dropped={reason: round(len(s) * share) for reason, s in report.dropped.items()},
        notes=(report.summary(),),
        sampled=len(records) if sampled else None,
        longest=max(map(len, prompts)) + settings.max_new_tokens,
    )


def online_passes(
    shapes: Sequence[Shape], settings: OnlineSettings, world: int = 1
) -> list[list[Shape]]:
    """An iteration's prompts with their responses, those of all processes, split into their passes,
    the largest first."""
    sizes = [prompt + sum(responses) for prompt, responses in shapes]
    count = settings.num_mini_batches * settings.gradient_accumulation_steps * world
    parts = balance_by_tokens(
        sizes,
        min(count, len(sizes)),
        max_tokens=settings.max_tokens_per_forward,
        multiple=world,
    )
    passes = [[shapes[i] for i in part] for part in parts]
    return sorted(passes, key=lambda p: -sum(q + sum(r) for q, r in p))


def _longest_rows(plan: StagePlan, why: str) -> RowFacts:
    """Rows as long as the settings allow, where there are none yet."""
    settings: Any = plan.settings
    if isinstance(settings, OnlineSettings):
        prompt = settings.max_length - settings.max_new_tokens
        prompt = min(prompt, settings.max_prompt_length or prompt)
        responses = (settings.max_new_tokens,) * settings.num_generations
        shapes = [(max(1, prompt), responses)] * settings.prompts_per_iteration
        parts = online_passes(shapes, settings)
        return RowFacts(
            None,
            None,
            settings.max_steps,
            None,
            tuple(parts[0]),
            len(parts),
            unknown=why,
            longest=settings.max_length,
        )
    half = settings.max_length // 2
    count = 2 if METHODS[plan.method or ""].kind == "preferences" else 1
    rows = [(half, (settings.max_length - half,) * count)] * settings.per_device_train_batch_size
    if settings.max_tokens_per_forward:
        rows = rows[: max(1, settings.max_tokens_per_forward // (half * (count + 1)))]
    return RowFacts(
        None,
        None,
        settings.max_steps,
        None,
        tuple(rows),
        settings.gradient_accumulation_steps,
        unknown=why,
        longest=settings.max_length,
    )
