"""Rounds: sample from the current model, judge, train on the verdicts, measure, go on.

Iterative DPO (Xu et al. 2023; Yuan et al. 2024) and, with SFT on the best of each prompt's
responses, rejection sampling (RAFT, Dong et al. 2023; ReST, Gulcehre et al. 2023). A round is made
of stages as a recipe has them, each in a folder of `round-N/`, so that each is skipped where it is
finished and goes on where it stopped:

    round-0/  answers  evaluate                                of the model that all starts from
    round-N/  prompts.jsonl  sample  compare  train  answers  evaluate  arena
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from accord.compare.dataset import load_records
from accord.data.write import record_json, write_jsonl
from accord.errors import SettingsError
from accord.learn.online.roles import merged_base_error
from accord.lm.load import base_and_adapter
from accord.pipeline.progress import Progress
from accord.pipeline.stages.lineage import FILE, Round, lineage, read_lineage
from accord.records import Record
from accord.report.tables.rounds import rounds_table
from accord.runs import atomic_folder, digest_json, write_json_atomic
from accord.settings.iterate import IterateSettings
from accord.settings.recipe import StagePlan
from accord.settings.stages import (
    ArenaSettings,
    CompareSettings,
    Contestant,
    EvaluateSettings,
    SampleSettings,
)

Begin = Callable[[StagePlan], Iterator[Progress] | None]
"""What is left of a stage's work; None where it is finished."""


def iterate(plan: StagePlan, begin: Begin) -> Iterator[Progress]:
    """Run all rounds, then write `model/`, the last round's; rounds.json grows by every round."""
    settings = _settings(plan)
    _one_base(settings)
    folder = Path(settings.output_dir)
    done: list[Round] = []
    yield Progress(0, 1)
    for one in rounds_of(settings):
        if one.number and settings.prompts_per_round is not None:
            _deal_prompts(settings, settings.prompts_per_round, one)
        for stage in one.stages:
            work = begin(stage)
            if work is not None:
                yield from _noted(work, stage.name)
        done.append(one)
        write_json_atomic(folder / FILE, lineage(settings, done))
    with atomic_folder(folder / "model") as temporary:
        shutil.copytree(done[-1].model, temporary, dirs_exist_ok=True)
    yield Progress(1, 1)


def _noted(work: Iterator[Progress], name: str) -> Iterator[Progress]:
    """The progress of one of its stages, with that stage's name."""
    try:
        for progress in work:
            yield Progress(progress.done, progress.total, f"{name}  {progress.note}".rstrip())
    finally:
        work.close()  # type: ignore[attr-defined]  # stopped here, it is to write a checkpoint


def _one_base(settings: IterateSettings) -> None:
    """Raise SettingsError where the first round would leave the base that a server has."""
    lora = settings.lora
    if settings.sampler.kind != "vllm" or lora is None or lora.continue_adapter:
        return
    if base_and_adapter(settings.model)[1] is not None:
        raise merged_base_error(settings.model, "train.lora.continue_adapter")


def plans_of(plan: StagePlan) -> list[StagePlan]:
    """The stages of all rounds, in order."""
    return [stage for one in rounds_of(_settings(plan)) for stage in one.stages]


def rounds_table_of(plan: StagePlan) -> Table:
    """The rounds' numbers as a table, from the rounds.json that the stage wrote."""
    return rounds_table(read_lineage(_settings(plan).output_dir))


def rounds_of(settings: IterateSettings) -> Iterator[Round]:
    """Round 0 and those that train, in order: a pure function of the settings."""
    folder = Path(settings.output_dir)
    first = folder / "round-0"
    yield Round(
        0, first, settings.model, settings.model, tuple(_measuring(settings, 0, settings.model))
    )
    start = settings.model
    for number in range(1, settings.rounds + 1):
        own = folder / f"round-{number}"
        model = str(own / "train/model")
        learning = _learning(settings, number, own, start)
        stages = (*learning, *_measuring(settings, number, model))
        yield Round(number, own, start, model, stages)
        start = model


def _learning(settings: IterateSettings, number: int, own: Path, start: str) -> list[StagePlan]:
    prompts = settings.dataset if settings.prompts_per_round is None else f"{own}/prompts.jsonl"
    sample = SampleSettings(
        model=start,
        dataset=prompts,
        output_dir=f"{own}/sample",
        model_name=f"round-{number - 1}",
        num_responses=settings.num_responses,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=_seed(settings, "sample", number),
        **_sampling(settings),
    )
    earlier = None
    if settings.keep_data == "all" and number > 1:
        earlier = str(own.parent / f"round-{number - 1}/compare/store.db")
    compare = CompareSettings(
        responses=[f"{own}/sample/responses.jsonl"],
        output_dir=f"{own}/compare",
        judge=settings.judge,
        form=settings.verdicts,
        earlier=earlier,
        round=number,
        seed=_seed(settings, "compare", number),
    )
    places = {"model": start, "dataset": f"{own}/compare/store.db", "output_dir": f"{own}/train"}
    if settings.has_reference and settings.reference == "fixed":
        places["ref_model"] = settings.model
    train = settings.training(number, **places, seed=_seed(settings, "train", number))
    method = "sft" if settings.method == "rejection_sampling" else settings.method
    return [
        StagePlan(f"round-{number} sample", "sample", sample),
        StagePlan(f"round-{number} compare", "compare", compare),
        StagePlan(f"round-{number} train", "train", train, method),
    ]


def _measuring(settings: IterateSettings, number: int, model: str) -> Iterator[StagePlan]:
    """The model's answers to the prompts measured on, the same draws in each round."""
    own, first = (Path(settings.output_dir) / f"round-{n}" for n in (number, 0))
    answers = SampleSettings(
        model=model,
        dataset=settings.eval_dataset or settings.dataset,
        output_dir=f"{own}/answers",
        model_name=f"round-{number}",
        num_responses=settings.eval_responses,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        max_prompts=settings.eval_prompts,
        seed=_seed(settings, "answers", 0),
        **_sampling(settings),
    )
    now, then = (
        Contestant(name=name, responses=f"{place}/answers/responses.jsonl", model=held)
        for name, place, held in (
            (f"round-{number}", own, model),
            ("round-0", first, settings.model),
        )
    )
    judge = settings.judge
    evaluate = EvaluateSettings(
        contestants=[now],
        output_dir=f"{own}/evaluate",
        reference=settings.model,
        reward_model=judge.model if judge.kind == "reward_model" else None,
        world=settings.world or judge.kind == "world",
        device=settings.device,
    )
    yield StagePlan(f"round-{number} answers", "sample", answers)
    yield StagePlan(f"round-{number} evaluate", "evaluate", evaluate)
    if number:
        arena = ArenaSettings(
            contestants=[then, now],
            output_dir=f"{own}/arena",
            judge=judge,
            bootstrap=0,
            anchor="round-0",
            prior=1,
            seed=_seed(settings, "arena", number),
        )
        yield StagePlan(f"round-{number} arena", "arena", arena)


def _sampling(settings: IterateSettings) -> dict[str, Any]:
    """What all sampling has in common."""
    return {
        "sampler": settings.sampler,
        "stop": settings.stop,
        "batch_size": settings.batch_size,
        "max_prompt_length": settings.max_prompt_length,
        "precision": settings.precision,
        "device": settings.device,
        "trust_remote_code": settings.trust_remote_code,
    }


def _seed(settings: IterateSettings, what: str, number: int) -> int:
    """A seed of its own for each thing that a round draws; 60 bits."""
    return int(digest_json([settings.seed, what, number])[:15], 16)


def _deal_prompts(settings: IterateSettings, count: int, one: Round) -> None:
    """Write the round's prompts: the next ones of an order drawn anew once all had their turn."""
    records, _ = load_records(settings.dataset, "prompts")
    if count > len(records):
        raise SettingsError(
            f"prompts_per_round={count}, but {settings.dataset} has {len(records)} prompts. Leave "
            f"it out to use all of them in every round, or set it lower."
        )
    own = dealt(records, count, one.number, settings.seed)
    write_jsonl(one.folder / "prompts.jsonl", map(record_json, own))


def dealt(records: Sequence[Record], count: int, number: int, seed: int) -> list[Record]:
    """The prompts of round `number`, from 1: `count` off a shuffled pack in every round.

    A pack that runs out is shuffled anew, with what the round holds already at its end.
    """
    pack, hand, turn = list[int](), list[int](), 0
    for _ in range(number):
        hand = []
        while len(hand) < count:
            if not pack:
                pack = list(range(len(records)))
                random.Random(f"prompts {seed} {turn}").shuffle(pack)
                pack = sorted(pack, key=set(hand).__contains__)
                turn += 1
            hand.append(pack.pop(0))
    return [records[i] for i in hand]


def _settings(plan: StagePlan) -> IterateSettings:
    assert isinstance(plan.settings, IterateSettings)
    return plan.settings
