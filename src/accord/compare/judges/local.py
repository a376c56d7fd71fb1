"""A language model in process as a judge: asked as an endpoint is, cached as one.

It generates its answer, or it is read by the probabilities that it gives the letters A and B where
its answer begins. The weights are loaded when something is asked that is not in the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from accord.compare.judges.cache import AnswerCache, CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Refusal, Usage
from accord.compare.judges.identity import LOCAL
from accord.compare.judges.letters import write_letters
from accord.compare.judges.thoughts import final_answer
from accord.errors import ModelError
from accord.lm.forward import response_logps
from accord.lm.load import base_and_adapter, load_causal
from accord.lm.packing import PromptGroup, forward_batches, pack
from accord.lm.tokens.opened import opened_by_prompt
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.template import encode_prompt, refuse_control_tokens
from accord.records import Message, with_context
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from accord.runs import digest_json
from accord.runs.digests import digest_path

if TYPE_CHECKING:
    from accord.lm.model import LanguageModel
    from accord.settings.judge import JudgeSettings

log = logging.getLogger(__name__)

LETTERS = ("A", "B")
LITTLE_MASS = 0.5  # of the probability, on both letters: below it, the model would not begin so
LONGEST_PIECE = 12  # characters of a token that may be a letter with blanks
NO_THOUGHTS = {"enable_thinking": False}  # of templates that read it: the answer begins at once


class LocalModel:
    """A model in a folder. `complete` answers requests as `Endpoint.complete` does."""

    url = LOCAL

    def __init__(self, settings: JudgeSettings, model: str) -> None:
        """Raises ModelError where the folder holds no model, StorageError where the cache fails."""
        self.settings, self.model = settings, model
        self.weights = weights_digest(model)
        self.cache = AnswerCache({"local": self.weights})
        self.usage = Usage()
        self._mass: list[float] = []

    @cached_property
    def lm(self) -> LanguageModel:
        """The model, loaded when it is first needed."""
        lm = load_causal(self.model, precision=self.settings.precision, device=self.settings.device)
        if not getattr(lm.tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.model} has no chat template, by which a judge is asked. Use a model that "
                f"was trained to follow instructions, or save a chat_template with its tokenizer."
            )
        return lm

    @cached_property
    def letter_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens of A and of B, in the same forms: alone, with a blank before it and so on."""
        return find_letter_tokens(self.lm.tokenizer, self.model)

    def complete(self, requests: Sequence[ChatRequest]) -> list[CachedAnswer | Refusal]:
        """The answer to each request. Equal requests are computed once, cached ones not at all."""
        keys = [self._cache_key(request) for request in requests]
        answers: dict[str, CachedAnswer | Refusal] = {}
        new: dict[str, ChatRequest] = {}
        for key, request in zip(keys, requests, strict=True):
            cached = self.cache.get(key)
            if cached is None:
                new[key] = request
            else:
                answers[key] = cached
        self.usage.cached += len(answers)
        for key, answer in self._answer_all(new):
            answers[key] = answer
            if isinstance(answer, Refusal):
                self.usage.refused += 1
                continue
            self.usage.calls += 1
            self.usage.prompt_tokens += answer.prompt_tokens or 0
            self.usage.answer_tokens += answer.answer_tokens or 0
            self.cache.put(key, answer)
        return [answers[key] for key in keys]

    def cached(self, request: ChatRequest) -> CachedAnswer | None:
        """The cached answer to a request, None where it would be computed."""
        return self.cache.get(self._cache_key(request))

    def _cache_key(self, request: ChatRequest) -> str:
        settings = self.settings
        return digest_json(
            {
                "weights": self.weights,
                "question": request.text,
                "precision": settings.precision,
                "verdict": settings.verdict,
                "temperature": settings.temperature,
                "answer_tokens": settings.answer_tokens,
                "repeat": request.repeat,
            }
        )

    def _answer_all(
        self, requests: dict[str, ChatRequest]
    ) -> Iterator[tuple[str, CachedAnswer | Refusal]]:
        """The answers to new requests, a batch at a time."""
        encoded: list[tuple[str, tuple[int, ...]]] = []
        for key, request in requests.items():
            ids = self._encode(request)
            if isinstance(ids, Refusal):
                yield key, ids
            else:
                encoded.append((key, ids))
        encoded.sort(key=lambda pair: len(pair[1]))
        sizes = [len(ids) for _, ids in encoded]
        answer = self._letters if self.settings.verdict == "probabilities" else self._generate
        for batch in forward_batches(sizes, self.settings.batch_size):
            chosen = [encoded[i] for i in batch]
            yield from zip((key for key, _ in chosen), answer(chosen), strict=True)

    def _turns(self, request: ChatRequest) -> tuple[Message, ...]:
        turns = (Message("user", request.text),)
        letters = self.settings.verdict == "probabilities"
        return with_context(turns, NO_THOUGHTS) if letters else turns

    def _encode(self, request: ChatRequest) -> tuple[int, ...] | Refusal:
        turns, tokenizer = self._turns(request), self.lm.tokenizer
        try:
            refuse_control_tokens(turns, (), tokenizer)
            ids = encode_prompt(turns, tokenizer)
        except UnusableRow as reason:
            return Refusal(f"the judge can't read it: {reason}", "Leave such prompts out.")
        letters = self.settings.verdict == "probabilities"
        if letters and final_answer(opened_by_prompt(turns, tokenizer) + "A") is None:
            raise ModelError(
                f"The chat template of {self.model} begins every answer with thoughts, so its "
                f"first word is no verdict. Use verdict=answer, or a model that can leave them out."
            )
        needed, limit = 1 if letters else self.settings.answer_tokens, self.lm.max_length
        if limit is not None and len(ids) + needed > limit:
            return Refusal(
                f"it has {len(ids)} tokens, and with {needed} for the answer more than the "
                f"{limit} that the model reads",
                "Shorten what is judged, lower the judge's answer_tokens, or use a model that "
                "reads more.",
            )
        return ids

    def _generate(self, rows: Sequence[tuple[str, tuple[int, ...]]]) -> list[CachedAnswer]:
        settings, tokenizer = self.settings, self.lm.tokenizer
        sampling = SamplingSettings(
            max_new_tokens=settings.answer_tokens,
            temperature=settings.temperature or 0.0,
            batch_size=settings.batch_size,
        )
        prompts = [ids for _, ids in rows]
        streams = [int(key[:8], 16) for key, _ in rows]  # the same draws in any batch
        samples = LocalSampler(self.lm)(prompts, sampling, seed=0, streams=streams)
        opened = opened_by_prompt((Message("user", "?"),), tokenizer)
        return [
            CachedAnswer(
                opened + response_text(sample, tokenizer, ids),
                not sample.finished,
                len(ids),
                len(sample.tokens),
            )
            for (sample,), ids in zip(samples, prompts, strict=True)
        ]

    @torch.no_grad()
    def _letters(self, rows: Sequence[tuple[str, tuple[int, ...]]]) -> list[CachedAnswer]:
        """The log-probabilities of A and B as the next token, over all forms of each."""
        first, second = self.letter_tokens
        candidates = tuple((token,) for token in (*first, *second))
        groups = [PromptGroup(ids, candidates) for _, ids in rows]
        logps = response_logps(self.lm, pack(groups, self.lm.device)).double().cpu()
        both = logps.view(len(rows), 2, len(first)).logsumexp(-1)
        self._watch_mass(both.exp().sum(-1).tolist())
        return [
            CachedAnswer(write_letters(a, b), False, len(ids), 0)
            for (a, b), (_, ids) in zip(both.tolist(), rows, strict=True)
        ]

    def _watch_mass(self, mass: Sequence[float]) -> None:
        """Warn, of the first batch, where the model would begin its answer with another token."""
        first = not self._mass
        self._mass = [*mass]
        mean = sum(mass) / len(mass)
        if first and mean < LITTLE_MASS:
            log.warning(
                "%s gives the letters A and B only %.1f%% of the probability where its answer "
                "begins: it would begin otherwise, and their ratio may mean little. Check it with "
                "`accord judge check`, or use verdict=answer.",
                self.model,
                100 * mean,
            )


def find_letter_tokens(tokenizer: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that are A or B but for blanks, of each letter in the same forms.

    Tokenizers have several: `A` and ` A` in one byte-level vocabulary, for example, of which the
    chat template decides the one that begins an answer. A form that only one letter has is left
    out. Raises ModelError where no form is left.
    """
    forms: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for piece, token in tokenizer.get_vocab().items():
        if len(piece) > LONGEST_PIECE or not any(letter in piece for letter in LETTERS):
            continue
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        for letter, pieces in zip(LETTERS, forms, strict=True):
            if text.strip() == letter:
                pieces.setdefault(piece.replace(letter, "", 1), token)
    shared = sorted(forms[0].keys() & forms[1].keys())
    if not shared:
        raise ModelError(
            f"The tokenizer of {name} has no token for the letters A and B, so their probabilities "
            f"can't be read. Use verdict=answer."
        )
    return tuple(forms[0][form] for form in shared), tuple(forms[1][form] for form in shared)


def weights_digest(model: str) -> str:
    """What a model's answers depend on: the content of its folder, and of its base where it is an
    adapter. A model of the hub is known by its name. Raises ModelError where there is none."""
    parts = [part for part in base_and_adapter(model) if part is not None]
    return digest_json([digest_path(part) if Path(part).exists() else part for part in parts])
