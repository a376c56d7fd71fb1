"""The stages that answer: sample K responses a prompt, and select the best of N."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord.compare.dataset import load_records
from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import write_usage
from accord.compare.store.store import PreferenceStore
from accord.data.write import ResponseRow, read_responses, response_json, write_responses
from accord.errors import DataError, SettingsError
from accord.lm.load import base_and_adapter, load_causal, load_tokenizer
from accord.lm.tokens.encode import Limits, encode_prompts
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import flawed_reward
from accord.records import PromptOnly, Response
from accord.respond.build import make_sampler
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sample, Sampler, SamplingSettings
from accord.respond.text import response_text
from accord.runs import digest_json, storage_errors
from accord.settings.identity import identity_settings
from accord.settings.stages import SampleSettings, SelectSettings

if TYPE_CHECKING:
    from accord.respond.vllm.sampler import VllmSampler

log = logging.getLogger(__name__)

UNLIMITED = 1 << 30  # positions of a model that does not count them
BATCHES_A_CHUNK = 4  # sorted by length together, written together


def sample(settings: SampleSettings) -> Iterator[Progress]:
    """Write responses.jsonl: `num_responses` to each prompt. Goes on where it stopped."""
    tokenizer, sampler = _engine(settings)
    try:
        yield from _written(settings, tokenizer, sampler)
    finally:
        sampler.close()  # a server keeps no adapter that nobody samples from
    final = Path(settings.output_dir) / "responses.jsonl"
    if settings.store is not None:
        with PreferenceStore.open(settings.store) as store:
            store.add_responses([r for row in read_responses(final) for r in row.responses])


def _written(
    settings: SampleSettings, tokenizer: Any, sampler: LocalSampler | VllmSampler
) -> Iterator[Progress]:
    """The rows of responses.jsonl, a chunk at a time, and at the end the file."""
    records, read = load_records(settings.dataset, "prompts")
    log.info("%s", read.summary())
    wanted = [r for r in records if isinstance(r, PromptOnly)][: settings.max_prompts]
    limits = Limits(_room(sampler.max_length, settings), settings.max_prompt_length)
    prompts, kept, report = encode_prompts(wanted, tokenizer, limits)
    log.info("%s: %s", settings.dataset, report.summary())
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "responses.partial.jsonl"
    size = BATCHES_A_CHUNK * max(1, settings.batch_size // settings.num_responses)
    done = _lines_done(partial, settings, size)
    yield Progress(done, len(prompts))
    while done < len(prompts):
        stop = min(done + size, len(prompts))
        part = range(done, stop)
        rows = _answers(sampler, tokenizer, prompts, kept, settings, part)
        with storage_errors(partial), partial.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(response_json(row), ensure_ascii=False) + "\n")
        done = stop
        yield Progress(done, len(prompts), f"{stop * settings.num_responses:,} responses")
    final = folder / "responses.jsonl"
    with storage_errors(final):
        temporary = folder / ".responses.jsonl"
        _, rows_written = partial.read_bytes().split(b"\n", 1)  # without the header
        temporary.write_bytes(rows_written)
        temporary.replace(final)
    partial.unlink()


def _engine(settings: SampleSettings) -> tuple[Any, LocalSampler | VllmSampler]:
    """A tokenizer, and what writes the responses.

    The weights are not loaded where a server has them; of an adapter it has the base, and is given
    the adapter.
    """
    if settings.sampler.kind == "vllm":
        tokenizer = load_tokenizer(settings.model, trust_remote_code=settings.trust_remote_code)
        base, adapter = base_and_adapter(settings.model)
        sampler = make_sampler(settings.sampler, None)
        assert not isinstance(sampler, LocalSampler)
        if adapter is None or not sampler.is_serving(adapter):
            sampler.warn_unless_serving(base)
            if adapter is not None:
                sampler.publish(Path(adapter))
        return tokenizer, sampler
    lm = load_causal(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    return lm.tokenizer, make_sampler(settings.sampler, lm)


def _room(longest: int | None, settings: SampleSettings) -> int:
    """Tokens a prompt may have and one more, so that the response stays within the positions."""
    if longest is None:
        return UNLIMITED
    room = longest - settings.max_new_tokens
    if room < 1:
        raise SettingsError(
            f"max_new_tokens={settings.max_new_tokens} leaves no room for a prompt in the "
            f"{longest} positions of {settings.model}. Lower max_new_tokens."
        )
    return room + 1


def _lines_done(partial: Path, settings: SampleSettings, size: int) -> int:
    """Prompts answered by an earlier start under the same settings, in whole chunks of `size`.

    What was written of a chunk is cut off: other batches would round log-probs another way.
    """
    header = json.dumps({"settings": digest_json(identity_settings(settings))})
    lines = partial.read_bytes().split(b"\n") if partial.is_file() else [b""]
    done = 0
    if lines[0] == header.encode():
        done = max(0, len(lines) - 2) // size * size  # without the header and what is torn
    with storage_errors(partial):
        partial.write_bytes(b"\n".join([header.encode(), *lines[1 : done + 1], b""]))
    return done


def _answers(
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
    found = sampler([prompts[i] for i in rows], sampling, seed=settings.seed, streams=rows)
    name = settings.model_name or _model_name(settings.model)
    told = {
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
            told,
            tuple(_response(s, records[i], name, told, tokenizer) for s in samples),
        )
        for i, samples in zip(rows, found, strict=True)
    ]


def _response(
    sample: Sample,
    record: PromptOnly,
    name: str,
    told: dict[str, object],
    tokenizer: Any,
) -> Response:
    return Response(
        record.prompt,
        response_text(sample, tokenizer),
        name,
        told,
        logp=sum(sample.logps),
        tokens=len(sample.tokens),
        finished=sample.finished,
    )


def _model_name(place: str) -> str:
    path = Path(place)
    return path.parent.name if path.name == "model" else path.name


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
    chosen: list[ResponseRow] = []
    chunk = max(1, 1024 // settings.n)
    yield Progress(0, len(rows))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        candidates = [r for row in part for r in row.responses[: settings.n]]
        scores = reward.scores(
            [r.prompt for r in candidates],
            [r.text for r in candidates],
            [r.finished for r in candidates],
            [row.meta for row in part for _ in range(settings.n)],
        ).total
        for i, row in enumerate(part):
            own = scores[i * settings.n : (i + 1) * settings.n]
            best = row.responses[own.index(max(own))]
            told = {**row.settings, "best_of": settings.n}
            chosen.append(ResponseRow(row.prompt, row.meta, settings.model_name, told, (best,)))
        yield Progress(min(start + chunk, len(rows)), len(rows))
    write_responses(Path(settings.output_dir) / "responses.jsonl", chosen)
    write_usage(reward, Path(settings.output_dir))
