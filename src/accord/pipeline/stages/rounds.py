"""Rounds: sample from the current model, judge, train on the verdicts, measure, repeat.

Iterative DPO (Xu et al. 2023; Yuan et al. 2024) and, with SFT on the best of each prompt's
responses, rejection sampling (RAFT, Dong et al. 2023; ReST, Gulcehre et al. 2023). A round consists
of stages as a recipe does, each in its folder in `round-N/`. Each stage is run, skipped if it is
finished, or resumed if it was interrupted:

    round-0/  answers  evaluate                                of the first model
    round-N/  prompts.jsonl  sample  compare  train  answers  evaluate  arena
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table

from accord.compare.dataset import load_records
from accord.data.write import record_json, write_jsonl
from accord.errors import SettingsError
from accord.learn.online.engines import merged_base_error
from accord.lm.load import base_and_adapter, load_tokenizer
from accord.lm.tokens.template import how_to_read_dialogues
from accord.pipeline.judges.record import require_check
from accord.pipeline.progress import Progress, StartStage
from accord.pipeline.stages.judges import build_judge
from accord.pipeline.stages.lineage import FILE, Round, lineage, read_lineage
from accord.records import Record
from accord.report.tables.rounds import terminal_rounds_table
from accord.respond.build import make_sampler
from accord.respond.local.sampler import LocalSampler
from accord.respond.vllm.building import require_vllm
from accord.runs import atomic_folder, digest_json, write_json_atomic
from accord.settings.arena import ArenaSettings
from accord.settings.iterate import IterateSettings
from accord.settings.judge import LANGUAGE_MODELS
from accord.settings.recipe import StagePlan
from accord.settings.stages import CompareSettings, Contestant, EvaluateSettings, SampleSettings


def iterate(plan: StagePlan, start: StartStage) -> Iterator[Progress]:
    """Run all rounds, then write `model/`, that of the last round; rounds.json grows by a row each
    round."""
    settings = _settings(plan)
    _check_base(settings)
    if settings.judge.kind in LANGUAGE_MODELS:  # before it is paid for labels that won't train
        require_check(build_judge(settings.judge), settings.filter, prefix="train.")
    folder = Path(settings.output_dir)
    finished: list[Round] = []
    yield Progress(0, 1)
    for round_ in plan_rounds(settings):
        if round_.number and settings.prompts_per_round is not None:
            _write_prompts(settings, settings.prompts_per_round, round_)
        for stage in round_.stages:
            work = start(stage)
            if work is not None:
                yield from _with_stage_name(work, stage.name)
        finished.append(round_)
        write_json_atomic(folder / FILE, lineage(settings, finished))
    with atomic_folder(folder / "model") as temporary:
        shutil.copytree(finished[-1].model, temporary, dirs_exist_ok=True)
    yield Progress(1, 1)


def _with_stage_name(work: Iterator[Progress], name: str) -> Iterator[Progress]:
    """The progress of an inner stage, with its name in the note."""
    try:
        for progress in work:
            yield Progress(progress.done, progress.total, f"{name}  {progress.note}".rstrip())
    finally:
        work.close()  # type: ignore[attr-defined]  # an interrupted stage writes a checkpoint


def _check_base(settings: IterateSettings) -> None:
    """Raise SettingsError where a server would sample from another model than the round's: it does
    not take whole weights, or the first round would merge an adapter into the base."""
    lora = settings.lora
    if settings.sampler.is_colocated:
        require_vllm(settings.device)  # before the first round, and not in it
    if not settings.sampler.is_server:
        return
    if lora is None:
        sampler = make_sampler(settings.sampler, None)
        assert not isinstance(sampler, LocalSampler)
        with closing(sampler):
            sampler.published.require_taking_weights()
        return
    if lora.continue_adapter:
        return
    if base_and_adapter(settings.model)[1] is not None:
        raise merged_base_error(settings.model, "train.lora.continue_adapter")


def stages_of_rounds(plan: StagePlan) -> list[StagePlan]:
    """The stages of all rounds, in order."""
    return [stage for round_ in plan_rounds(_settings(plan)) for stage in round_.stages]


def finished_rounds(plan: StagePlan) -> Table:
    """A table with the measures of every round, from the stage's rounds.json."""
    return terminal_rounds_table(read_lineage(_settings(plan).output_dir))


def plan_rounds(settings: IterateSettings) -> Iterator[Round]:
    """Round 0 and the rounds that train, in order: a pure function of the settings."""
    folder = Path(settings.output_dir)
    start = settings.model
    yield Round(0, folder / "round-0", start, start, tuple(_measuring_stages(settings, 0, start)))
    for number in range(1, settings.rounds + 1):
        round_folder = folder / f"round-{number}"
        model = str(round_folder / "train/model")
        learning = _learning_stages(settings, number, round_folder, start)
        stages = (*learning, *_measuring_stages(settings, number, model))
        yield Round(number, round_folder, start, model, stages)
        start = model


def _learning_stages(
    settings: IterateSettings, number: int, folder: Path, start: str
) -> list[StagePlan]:
    """The stages that sample from the model `start`, judge its responses, and train it on them."""
    prompts = settings.dataset if settings.prompts_per_round is None else f"{folder}/prompts.jsonl"
    sample = SampleSettings(
        model=start,
        dataset=prompts,
        output_dir=f"{folder}/sample",
        model_name=f"round-{number - 1}",
        num_responses=settings.num_responses,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=_seed(settings, "sample", number),
        **_sampling_settings(settings),
    )
    earlier = None
    if settings.keep_data == "all" and number > 1:
        earlier = str(folder.parent / f"round-{number - 1}/compare/store.db")
    compare = CompareSettings(
        responses=[f"{folder}/sample/responses.jsonl"],
        output_dir=f"{folder}/compare",
        judge=settings.judge,
        form=settings.verdicts,
        earlier=earlier,
        round=number,
        seed=_seed(settings, "compare", number),
    )
    paths = {
        "model": start,
        "dataset": f"{folder}/compare/store.db",
        "output_dir": f"{folder}/train",
    }
    if settings.has_reference and settings.reference == "fixed":
        paths["ref_model"] = settings.model
    train = settings.training(number, **paths, seed=_seed(settings, "train", number))
    method = "sft" if settings.method == "rejection_sampling" else settings.method
    return [
        StagePlan(f"round-{number} sample", "sample", sample),
        StagePlan(f"round-{number} compare", "compare", compare),
        StagePlan(f"round-{number} train", "train", train, method),
    ]


def _measuring_stages(settings: IterateSettings, number: int, model: str) -> Iterator[StagePlan]:
    """The stages that measure the round's model; its answers are drawn with the same random numbers
    in each round."""
    folder, first = (Path(settings.output_dir) / f"round-{n}" for n in (number, 0))
    answers = SampleSettings(
        model=model,
        dataset=settings.eval_dataset or settings.dataset,
        output_dir=f"{folder}/answers",
        model_name=f"round-{number}",
        num_responses=settings.eval_responses,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        max_prompts=settings.eval_prompts,
        seed=_seed(settings, "answers", 0),
        **_sampling_settings(settings),
    )
    contestant, first_contestant = (
        Contestant(name=name, responses=f"{path}/answers/responses.jsonl", model=source)
        for name, path, source in (
            (f"round-{number}", folder, model),
            ("round-0", first, settings.model),
        )
    )
    judge = settings.judge
    evaluate = EvaluateSettings(
        contestants=[contestant],
        output_dir=f"{folder}/evaluate",
        reference=settings.model,
        reward_model=judge.model if judge.kind == "reward_model" else None,
        world=settings.world or judge.kind == "world",
        device=settings.device,
    )
    yield StagePlan(f"round-{number} answers", "sample", answers)
    yield StagePlan(f"round-{number} evaluate", "evaluate", evaluate)
    if number:
        arena = ArenaSettings(
            contestants=[first_contestant, contestant],
            output_dir=f"{folder}/arena",
            judge=judge,
            bootstrap=0,
            anchor="round-0",
            prior=1,
            seed=_seed(settings, "arena", number),
        )
        yield StagePlan(f"round-{number} arena", "arena", arena)


def _sampling_settings(settings: IterateSettings) -> dict[str, Any]:
    """The settings that all sampling stages have in common."""
    return {
        "dialogue_text": settings.dialogue_text,
        "sampler": settings.sampler,
        "stop": settings.stop,
        "batch_size": settings.batch_size,
        "max_prompt_length": settings.max_prompt_length,
        "precision": settings.precision,
        "device": settings.device,
        "trust_remote_code": settings.trust_remote_code,
    }


def _seed(settings: IterateSettings, purpose: str, number: int) -> int:
    """A different seed of 60 bits for each purpose in each round."""
    return int(digest_json([settings.seed, purpose, number])[:15], 16)


def _write_prompts(settings: IterateSettings, count: int, round_: Round) -> None:
    tokenizer = load_tokenizer(settings.model, trust_remote_code=settings.trust_remote_code)
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, tokenizer)
    records, _ = load_records(settings.dataset, "prompts", dialogue_text)
    if count > len(records):
        raise SettingsError(
            f"prompts_per_round={count}, but {settings.dataset} has {len(records)} prompts. Leave "
            f"it out to use all of them in every round, or set it lower."
        )
    prompts = prompts_of_round(records, count, round_.number, settings.seed)
    write_jsonl(round_.folder / "prompts.jsonl", map(record_json, prompts))


def prompts_of_round(records: Sequence[Record], count: int, number: int, seed: int) -> list[Record]:
    """The next `count` prompts of a shuffled order, for round `number` (from 1).

    When the order is used up in the middle of a round, all prompts are shuffled again, with those
    that the round already has at the end.
    """
    order, chosen, shuffles = list[int](), list[int](), 0
    for _ in range(number):
        chosen = []
        while len(chosen) < count:
            if not order:
                order = list(range(len(records)))
                random.Random(f"prompts {seed} {shuffles}").shuffle(order)
                order = sorted(order, key=set(chosen).__contains__)
                shuffles += 1
            chosen.append(order.pop(0))
    return [records[i] for i in chosen]


def _settings(plan: StagePlan) -> IterateSettings:
    assert isinstance(plan.settings, IterateSettings)
    return plan.settings
