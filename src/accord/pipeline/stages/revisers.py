"""The revisers: a model in process, a model at an endpoint, or the embedded world's rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from accord.compare.constitution.principles import Principle
from accord.compare.constitution.requests import critique_request, revision_request
from accord.compare.constitution.revising import Answer, Draft, NotWritten, Reviser, Written
from accord.compare.judges.endpoint import ChatRequest, Endpoint, Refusal
from accord.compare.texts import replace_surrogates
from accord.errors import DataError, SettingsError, WorkError
from accord.lm.load import load_causal
from accord.lm.tokens.encode import encode_prompts, sampling_limits
from accord.records import Message, Prompt, PromptOnly
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from accord.settings.reading.suggest import listed
from accord.settings.revise import ReviserSettings
from accord.world.critic import criticise, known_principles
from accord.world.critic import revise as revise_by_rule

_UNUSABLE = "too long for the model's context, or with the model's control tokens"

Complete = Callable[[Sequence[Prompt], Sequence[int]], list[Answer]]
"""The answers to prompts, each with the number of its random stream."""


@dataclass(frozen=True, slots=True)
class NamedReviser:
    """A reviser with its name; `answer` answers prompts, where it can; `usage` returns its cost."""

    name: str
    reviser: Reviser
    answer: Complete | None = None
    usage: Callable[[], Mapping[str, int]] | None = None


@dataclass(frozen=True, slots=True)
class TextReviser:
    """A language model that is asked in words."""

    complete: Complete

    def critique(self, drafts: Sequence[Draft]) -> list[Answer]:
        return self._ask(
            [critique_request(d.prompt, d.response, d.principle) for d in drafts], drafts
        )

    def revise(self, drafts: Sequence[Draft]) -> list[Answer]:
        requests = [revision_request(d.prompt, d.response, d.principle, d.critique) for d in drafts]
        return self._ask(requests, drafts)

    def _ask(self, requests: Sequence[str], drafts: Sequence[Draft]) -> list[Answer]:
        prompts = [(Message("user", text),) for text in requests]
        return self.complete(prompts, [d.stream for d in drafts]) if drafts else []


@dataclass(frozen=True, slots=True)
class WorldReviser:
    """The embedded world's rules, whose errors are a function of the seed and the stream."""

    settings: ReviserSettings
    seed: int

    def critique(self, drafts: Sequence[Draft]) -> list[Answer]:
        return [
            Written(
                criticise(
                    d.principle.id,
                    d.prompt,
                    d.response,
                    misses=self.settings.misses,
                    false_alarms=self.settings.false_alarms,
                    rng=random.Random(f"{self.seed} {d.stream}"),
                )
            )
            for d in drafts
        ]

    def revise(self, drafts: Sequence[Draft]) -> list[Answer]:
        return [
            Written(
                revise_by_rule(
                    d.principle.id,
                    d.prompt,
                    d.response,
                    rng=random.Random(f"{self.seed} {d.stream}"),
                )
            )
            for d in drafts
        ]


def build_reviser(
    settings: ReviserSettings, principles: Sequence[Principle], seed: int
) -> NamedReviser:
    """The reviser that the settings describe. Raises SettingsError, also where the world's rules do
    not know a principle."""
    if settings.kind == "world":
        known = known_principles()
        unknown = [p.id for p in principles if p.id not in known]
        if unknown:
            raise SettingsError(
                f"`reviser.kind=world` has no rule for the principle {unknown[0]}. Name in "
                f"`principles` those that it knows: {listed(known)}."
            )
        return NamedReviser("world", WorldReviser(settings, seed))
    assert settings.model is not None  # ReviserSettings validates this
    if settings.kind == "endpoint":
        endpoint = Endpoint(settings.endpoint(), settings.model)
        ask = _ask_endpoint(endpoint)
        return NamedReviser(settings.model, TextReviser(ask), ask, lambda: endpoint.usage.to_json())
    ask = _ask_model(settings, seed)
    return NamedReviser(settings.model, TextReviser(ask), ask)


def _ask_endpoint(endpoint: Endpoint) -> Complete:
    def complete(prompts: Sequence[Prompt], streams: Sequence[int]) -> list[Answer]:
        texts = [_single_turn(prompt) for prompt in prompts]
        asked = [ChatRequest(text, {}) for text in texts if text is not None]
        try:
            answers = iter(endpoint.complete(asked))
        except (SettingsError, WorkError) as error:  # the client's other caller is a judge
            message = str(error).replace("he judge", "he reviser")
            raise type(error)(message) from error
        written: list[Answer] = []
        for text in texts:
            if text is None:
                written.append(NotWritten("the prompt has several turns, which `sample` answers"))
                continue
            answer = next(answers)
            if isinstance(answer, Refusal):
                written.append(NotWritten(f"the server refused the request ({answer.reason})"))
            else:
                written.append(Written(replace_surrogates(answer.text), finished=not answer.cut))
        return written

    return complete


def _single_turn(prompt: Prompt) -> str | None:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0] == Message("user", prompt[0].content):
        return prompt[0].content
    return None


def _ask_model(settings: ReviserSettings, seed: int) -> Complete:
    assert settings.model is not None
    lm = load_causal(
        settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    sampler = LocalSampler(lm)
    limits = sampling_limits(sampler.max_length, settings.answer_tokens, settings.model, None)
    sampling = SamplingSettings(
        max_new_tokens=settings.answer_tokens,
        temperature=settings.temperature,
        batch_size=settings.batch_size,
    )
    has_template = bool(getattr(lm.tokenizer, "chat_template", None))

    def complete(prompts: Sequence[Prompt], streams: Sequence[int]) -> list[Answer]:
        answers: list[Answer] = [NotWritten(_UNUSABLE)] * len(prompts)
        tokens: dict[int, tuple[int, ...]] = {}
        for i, prompt in enumerate(prompts):
            with suppress(DataError):  # its place in `answers` says so
                record = PromptOnly(_plain(prompt, has_template))
                tokens[i] = encode_prompts([record], lm.tokenizer, limits)[0][0]
        numbers = [streams[i] for i in tokens]
        samples = sampler(list(tokens.values()), sampling, seed=seed, streams=numbers)
        for (i, ids), (sample,) in zip(tokens.items(), samples, strict=True):
            answers[i] = Written(response_text(sample, lm.tokenizer, ids), sample.finished)
        return answers

    return complete


def _plain(prompt: Prompt, has_template: bool) -> Prompt:
    """A request as text to be continued, for a model without a chat template."""
    text: Any = _single_turn(prompt)
    return prompt if has_template or text is None or isinstance(prompt, str) else f"{text}\n\n"
