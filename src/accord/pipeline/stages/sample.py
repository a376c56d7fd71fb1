"""The stages that write responses: sample K for each prompt, and select the best of N."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.compare.dataset import load_records
from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import write_usage
from accord.compare.store.store import PreferenceStore
from accord.compare.texts import shorten
from accord.data.write import ResponseRow, read_responses, response_json, write_responses
from accord.errors import DataError, RewardError
from accord.hub_names import short_name
from accord.lm.load import base_and_adapter, load_causal, load_tokenizer
from accord.lm.tokens.encode import encode_prompts, sampling_limits
from accord.lm.tokens.opened import opened_by_prompt
from accord.lm.tokens.template import how_to_read_dialogues
from accord.pipeline.progress import Progress
from accord.pipeline.stages.engine import colocated_engine
from accord.pipeline.stages.judges import flawed_reward
from accord.records import PromptOnly, Response, prompt_text
from accord.respond.build import make_sampler
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sample, Sampler, SamplingSettings
from accord.respond.text import response_text
from accord.runs import digest_json, storage_errors
from accord.settings.identity import identity_settings
from accord.settings.stages import SampleSettings, SelectSettings

if TYPE_CHECKING:
    from accord.respond.vllm.colocated import ColocatedSampler
    from accord.respond.vllm.sampler import VllmSampler

    Opened = LocalSampler | VllmSampler | ColocatedSampler

log = logging.getLogger(__name__)

BATCHES_PER_CHUNK = 4  # sorted by length together, written together


def sample(settings: SampleSettings) -> Iterator[Progress]:
    """Write responses.jsonl: `num_responses` to each prompt. Resumes after an interruption."""
    tokenizer, sampler = _open_sampler(settings)
    try:
        yield from _write_responses(settings, tokenizer, sampler)
    finally:
        sampler.close()  # unloads the adapter from a server, or ends the engine
    final = Path(settings.output_dir) / "responses.jsonl"
    if settings.store is not None:
        with PreferenceStore.open(settings.store) as store:
            store.add_responses([r for row in read_responses(final) for r in row.responses])


def _write_responses(
    settings: SampleSettings, tokenizer: Any, sampler: Opened
) -> Iterator[Progress]:
    """Append rows to a partial file, a chunk at a time, and rename it at the end."""
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, tokenizer)
    records, report = load_records(settings.dataset, "prompts", dialogue_text)
    log.info("%s: %s", report.name, report.summary())
    requested = [r for r in records if isinstance(r, PromptOnly)][: settings.max_prompts]
    limits = sampling_limits(
        sampler.max_length, settings.max_new_tokens, settings.model, settings.max_prompt_length
    )
    prompts, records_used, encode_report = encode_prompts(requested, tokenizer, limits)
    log.info("%s: %s.", report.name, encode_report.summary())
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "responses.partial.jsonl"
    size = BATCHES_PER_CHUNK * max(1, settings.batch_size // settings.num_responses)
    done = _resume_partial_file(partial, settings, size)
    yield Progress(done, len(prompts))
    while done < len(prompts):
        stop = min(done + size, len(prompts))
        chunk = range(done, stop)
        rows = _sample_rows(sampler, tokenizer, prompts, records_used, settings, chunk)
        with storage_errors(partial), partial.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(response_json(row), ensure_ascii=False) + "\n")
        done = stop
        yield Progress(done, len(prompts), f"{stop * settings.num_responses:,} responses")
    final = folder / "responses.jsonl"
    with storage_errors(final):
        temporary = folder / ".responses.jsonl"
        _, written_rows = partial.read_bytes().split(b"\n", 1)  # without the header
        temporary.write_bytes(written_rows)
        temporary.replace(final)
    partial.unlink()


def _open_sampler(settings: SampleSettings) -> tuple[Any, Opened]:
    """The model's tokenizer and a sampler.

    With a server no weights are loaded: it has the model, or the base of an adapter, which is
    then published to it; a server that replaces its weights gets another model's.
    """
    if settings.sampler.is_colocated:
        return colocated_engine(settings)
    if settings.sampler.kind == "vllm":
        tokenizer = load_tokenizer(settings.model, trust_remote_code=settings.trust_remote_code)
        base, adapter = base_and_adapter(settings.model)
        sampler = make_sampler(settings.sampler, None)
        assert not isinstance(sampler, LocalSampler)
        if adapter is not None and not sampler.is_serving(adapter):
            sampler.warn_unless_serving(base)
            sampler.publish(Path(adapter))
        elif adapter is None and not sampler.is_serving(base):
            if sampler.published.takes_weights and Path(base).is_dir():
                sampler.publish(Path(base))
            else:
                sampler.warn_unless_serving(base)
        return tokenizer, sampler
    lm = load_causal(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    return lm.tokenizer, make_sampler(settings.sampler, lm)


def _resume_partial_file(partial: Path, settings: SampleSettings, size: int) -> int:
    """The number of prompts that an earlier run with the same settings answered, in whole chunks
    of `size`.

    The rows of an incomplete chunk are removed from the file: in other batches than before, their
    log-probs would be rounded differently.
    """
    header = json.dumps({"settings": digest_json(identity_settings(settings))})
    lines = partial.read_bytes().split(b"\n") if partial.is_file() else [b""]
    done = 0
    if lines[0] == header.encode():
        done = max(0, len(lines) - 2) // size * size  # without the header and a torn last line
    with storage_errors(partial):
        partial.write_bytes(b"\n".join([header.encode(), *lines[1 : done + 1], b""]))
    return done


def _sample_rows(
    sampler: Sampler,
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: SampleSettings,
    rows: range,
) -> list[ResponseRow]:
    sampling = SamplingSettings(
        settings.num_responses,
        settings.max_new_tokens,
        settings.temperature,
        settings.top_p,
        settings.batch_size,
        settings.top_k,
        settings.min_p,
        tuple(settings.stop),
    )
    samples = sampler([prompts[i] for i in rows], sampling, seed=settings.seed, streams=rows)
    name = settings.model_name or short_name(settings.model)
    recorded = {
        "model": settings.model,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        "stop": settings.stop,
        "sampler": settings.sampler.kind,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
    }
    return [
        ResponseRow(
            records[i].prompt,
            records[i].meta,
            name,
            recorded,
            tuple(
                _response(
                    s, records[i], name, recorded, response_text(s, tokenizer, prompts[i]), opened
                )
                for s in row_samples
            ),
        )
        for i, row_samples in zip(rows, samples, strict=True)
        for opened in [opened_by_prompt(records[i].prompt, tokenizer)]
    ]


def _response(
    sample: Sample,
    record: PromptOnly,
    name: str,
    recorded: dict[str, object],
    text: str,
    opened: str,
) -> Response:
    return Response(
        record.prompt,
        text,
        name,
        recorded,
        logp=sum(sample.logps),
        tokens=len(sample.tokens),
        finished=sample.finished,
        opened=opened,
    )


def select(settings: SelectSettings) -> Iterator[Progress]:
    """Best-of-N (Stiennon et al. 2020): the highest reward of each prompt's first N responses."""
    rows = read_responses(settings.responses)
    short = next((r for r in rows if len(r.responses) < settings.n), None)
    if short is not None:
        raise DataError(
            f"{settings.responses} has {len(short.responses)} responses to a prompt, too few for "
            f"best-of-{settings.n}. Sample with num_responses={settings.n} or more."
        )
    reward = build_reward(settings.sources, device=settings.device, world=flawed_reward)
    reward.check_rows([row.prompt for row in rows], [row.meta for row in rows])
    selected: list[ResponseRow] = []
    size = max(1, 1024 // settings.n)
    yield Progress(0, len(rows))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        candidates = [r for row in chunk for r in row.responses[: settings.n]]
        scores = reward.scores(
            [r.prompt for r in candidates],
            [r.text for r in candidates],
            [r.finished for r in candidates],
            [row.meta for row in chunk for _ in range(settings.n)],
            opened=[r.opened for r in candidates],
        ).total
        for i, row in enumerate(chunk):
            row_scores = scores[i * settings.n : (i + 1) * settings.n]
            best = row.responses[_best_index(row_scores, row, settings.responses)]
            recorded = {**row.settings, "best_of": settings.n}
            selected.append(
                replace(row, model=settings.model_name, settings=recorded, responses=(best,))
            )
        yield Progress(min(start + size, len(rows)), len(rows))
    write_responses(Path(settings.output_dir) / "responses.jsonl", selected)
    write_usage(reward, Path(settings.output_dir))


def _best_index(scores: Sequence[float], row: ResponseRow, path: str) -> int:
    """The index of the highest score. Raises RewardError where no response has a score."""
    scored = [i for i, score in enumerate(scores) if not math.isnan(score)]
    if not scored:
        prompt = shorten(repr(prompt_text(row.prompt)))
        raise RewardError(
            f"No reward applies to any response to the prompt {prompt} in {path}, so none of them "
            f"is the best. Leave the prompt out, or add a reward that applies to it."
        )
    return max(scored, key=scores.__getitem__)
