"""Sample responses from a model, and score responses, from Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.api.models import Model, inference_model
from accord.api.rewards import RewardLike, combine_rewards
from accord.compare.dataset import load_records
from accord.compare.rewards.reward import CombinedReward, score_responses
from accord.compare.texts import shorten
from accord.data.columns import DialogueText
from accord.errors import DataError
from accord.hub_names import is_hub_name, short_name
from accord.lm.load import Device
from accord.lm.tokens.encode import encode_prompts, sampling_limits
from accord.lm.tokens.opened import opened_by_prompt
from accord.lm.tokens.template import how_to_read_dialogues
from accord.reasoning import whole_text
from accord.records import Message, Prompt, PromptOnly, prompt_json, prompt_text
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.text import response_text
from accord.settings.reading.load import build
from accord.settings.stages import SampleSettings


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """A prompt with K sampled responses; `scores` are a reward's, if one was passed, NaN where none
    of its sources applies.

    `logps` are the sums of the responses' token log-probs at the sampling temperature;
    `finished[k]` is False for a response that was cut at `max_new_tokens`. `opened` is what the
    rendered prompt already wrote of each, such as `<think>`, and `meta` the prompt's other columns.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    finished: tuple[bool, ...]
    logps: tuple[float, ...]
    scores: tuple[float, ...] | None = None
    opened: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole_responses(self) -> tuple[str, ...]:
        """The responses with the tag that opened their reasoning, where the prompt wrote it."""
        return tuple(whole_text(text, self.opened) for text in self.responses)

    @property
    def best(self) -> str:
        """The response with the highest score (best-of-N). Raises DataError without scores."""
        if self.scores is None:
            raise DataError("These answers have no scores. Pass reward=… to accord.sample.")
        scored = [i for i, score in enumerate(self.scores) if not math.isnan(score)]
        if not scored:
            raise DataError("No reward applies to any of these answers, so none is the best.")
        return self.responses[max(scored, key=self.scores.__getitem__)]


@dataclass(frozen=True, repr=False)
class Answers(Sequence[PromptAnswers]):
    """A model's responses to prompts, in the order of the prompts."""

    model: str
    rows: tuple[PromptAnswers, ...]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[PromptAnswers]:
        return iter(self.rows)

    def to_rows(self) -> list[dict[str, Any]]:
        """A dict for each prompt, which JSON or a DataFrame can hold."""
        return [
            {
                "prompt": prompt_json(row.prompt),
                "responses": list(row.responses),
                "finished": list(row.finished),
                "logps": list(row.logps),
                **({} if row.scores is None else {"scores": list(row.scores)}),
            }
            for row in self.rows
        ]

    def __repr__(self) -> str:
        lines = [f"Answers({self.model}: {len(self.rows)} prompts)"]
        for row in self.rows[:3]:
            score = "" if row.scores is None else f" [{row.scores[0]:.3g}]"
            prompt, response = shorten(prompt_text(row.prompt)), shorten(row.responses[0])
            lines.append(f"  {prompt} → {response}{score}")
        return "\n".join([*lines, "  …"] if len(self.rows) > 3 else lines)


def sample(
    model: Model,
    prompts: Iterable[Any] | str | Path,
    *,
    num_responses: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    reward: RewardLike = None,
    tokenizer: Any = None,
    batch_size: int = 512,
    device: Device = "auto",
) -> Answers:
    """Sample `num_responses` to each prompt; with `reward` each response is scored too.

    `prompts` are texts, conversations (lists of `{role, content}`), rows with a `prompt`, or a
    path. Temperature 0 takes the likeliest token. The same seed gives the same responses. Raises
    SettingsError for a value out of range, DataError where a prompt can't be used.
    """
    values = {
        "num_responses": num_responses,
        "max_new_tokens": max_new_tokens,
        "temperature": float(temperature),
        "top_p": float(top_p),
        "top_k": top_k,
        "min_p": float(min_p),
        "stop": list(stop),
        "batch_size": batch_size,
        "seed": seed,
    }
    named = {"model": "model", "dataset": "prompts", "output_dir": "in memory"}
    build(SampleSettings, {**named, **values}, where="accord.sample")  # raises SettingsError
    lm = inference_model(model, tokenizer=tokenizer, device=device)
    combined = None if reward is None else combine_rewards(reward, device=device)
    settings = SamplingSettings(
        num_responses, max_new_tokens, temperature, top_p, batch_size, top_k, min_p, tuple(stop)
    )
    records = read_prompts(prompts, how_to_read_dialogues("turns", lm.tokenizer))
    limits = sampling_limits(lm.max_length, max_new_tokens, lm.name)
    ids, used, report = encode_prompts(records, lm.tokenizer, limits)
    if len(used) < len(records):
        raise DataError(
            f"{len(records) - len(used)} of {len(records)} prompts can't be used: "
            f"{report.summary()}."
        )
    if combined is not None:
        combined.check_rows([r.prompt for r in used], [r.meta for r in used])
    samples = LocalSampler(lm)(ids, settings, seed=seed, streams=range(len(ids)))
    texts = [
        tuple(response_text(s, lm.tokenizer, prompt) for s in group)
        for prompt, group in zip(ids, samples, strict=True)
    ]
    scores: Sequence[tuple[float, ...] | None] = [None] * len(used)
    if combined is not None:
        scores = _score_groups(combined, used, texts, samples, lm.tokenizer)
    parts = zip(used, texts, samples, scores, strict=True)
    rows = tuple(_prompt_answers(*part, lm.tokenizer) for part in parts)
    return Answers(short_name(lm.name), rows, settings)


def _prompt_answers(
    record: PromptOnly,
    responses: tuple[str, ...],
    samples: Sequence[Sample],
    scores: tuple[float, ...] | None,
    tokenizer: Any,
) -> PromptAnswers:
    return PromptAnswers(
        record.prompt,
        responses,
        tuple(sample.finished for sample in samples),
        tuple(sum(sample.logps) for sample in samples),
        scores,
        opened_by_prompt(record.prompt, tokenizer),
        record.meta,
    )


def _score_groups(
    reward: CombinedReward,
    records: Sequence[PromptOnly],
    texts: Sequence[Sequence[str]],
    samples: Sequence[Sequence[Sample]],
    tokenizer: Any,
) -> list[tuple[float, ...]]:
    """The scores of each prompt's responses, all at once: models score in batches, and judges
    several at a time."""
    k = len(texts[0])
    repeated = [record for record in records for _ in range(k)]
    opened = [opened_by_prompt(record.prompt, tokenizer) for record in records]
    flat = score_responses(
        reward,
        [record.prompt for record in repeated],
        [text for group in texts for text in group],
        [s.finished for group in samples for s in group],
        [record.meta for record in repeated],
        [s.tokens for group in samples for s in group],
        [text for text in opened for _ in range(k)],
    ).total
    return [tuple(flat[i * k : (i + 1) * k]) for i in range(len(records))]


def score(
    reward: RewardLike,
    prompts: Iterable[Any] | str | Path,
    responses: Sequence[str],
    *,
    device: Device = "auto",
) -> list[float]:
    """The reward of each response to the prompt of the same index; higher is better.

    `reward` is a reward model (loaded, or its path), a Python function, a table of settings, or a
    list of these. Raises DataError where there are not as many prompts as responses, RewardError
    where a score is not a finite number. NaN where no source applies to a response.
    """
    records = read_prompts(prompts)
    if len(records) != len(responses):
        raise DataError(f"{len(records)} prompts and {len(responses)} responses: pass one each.")
    combined = combine_rewards(reward, device=device)
    metas = [record.meta for record in records]
    return score_responses(combined, [r.prompt for r in records], responses, None, metas).total


def read_prompts(
    prompts: Iterable[Any] | str | Path, dialogue_text: DialogueText = "turns"
) -> list[PromptOnly]:
    """Prompts as records, in order. Raises DataError where one can't be used."""
    if isinstance(prompts, Mapping):
        raise DataError("The prompts are one dict. Pass a list with one entry for each prompt.")
    if isinstance(prompts, str) and not Path(prompts).exists() and not is_hub_name(prompts):
        raise DataError(
            f"{prompts!r} is no file of prompts. Pass a list, such as [{prompts!r}], or a path."
        )
    if isinstance(prompts, str | Path):
        rows: Any = prompts
    elif hasattr(prompts, "columns") or hasattr(prompts, "column_names"):
        rows = prompts
    else:
        rows = [_prompt_row(prompt) for prompt in prompts]
    records, report = load_records(rows, "prompts", dialogue_text)
    if report.used < report.rows:
        raise DataError(f"Some prompts can't be used: {report.summary()}")
    return [record for record in records if isinstance(record, PromptOnly)]


def _prompt_row(prompt: Any) -> Any:
    """A text or a conversation as a row with a `prompt`; rows and records as they are."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if isinstance(prompt, list | tuple):
        if prompt and all(isinstance(turn, Message) for turn in prompt):
            return {"prompt": prompt_json(tuple(prompt))}
        return {"prompt": list(prompt)}
    return prompt
