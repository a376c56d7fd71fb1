"""The model that a red team talks with: on this machine, or at an OpenAI-compatible endpoint."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accord.errors import WorkError
from accord.hub_names import short_name
from accord.machine.loopback import is_local
from accord.records import Message
from accord.settings.annotate import ChatSettings

PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What the model said; `finished` is False where the limit of its length cut it, and `opened`
    is what its chat template already wrote of the text."""

    text: str
    finished: bool
    tokens: int | None = None
    logp: float | None = None
    opened: str = ""


class ChatModel(Protocol):
    """A model that continues conversations. `name` is its name in the store, `settings` what is
    stored of how it was asked."""

    name: str
    settings: dict[str, Any]

    def answer(self, turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        """The next turn. Raises RequestError where the conversation can't be continued, WorkError
        where the server does not answer."""
        ...

    def close(self) -> None: ...


def make_chat_model(settings: ChatSettings) -> ChatModel:
    """The model that the settings name. Raises SettingsError and ModelError as loading one does."""
    return LocalChat(settings) if settings.base_url is None else EndpointChat(settings)


class LocalChat:
    """A model folder or hub name, through accord's sampler; one answer at a time."""

    def __init__(self, settings: ChatSettings) -> None:
        from accord.lm.load import load_causal
        from accord.respond.local.sampler import LocalSampler

        self.lm = load_causal(settings.model, device=settings.device)
        self.sampler = LocalSampler(self.lm)
        self.name = settings.model_name or short_name(settings.model)
        self.settings = _recorded(settings, "local")
        self.max_new_tokens = settings.max_new_tokens
        self._turn = threading.Lock()
        self._encode([Message("user", "Hello.")])  # refuses a model that has no chat template

    def answer(self, turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        from accord.lm.tokens.opened import opened_by_prompt
        from accord.respond.protocol import SamplingSettings
        from accord.respond.text import response_text

        sampling = SamplingSettings(
            max_new_tokens=self.max_new_tokens, temperature=self.settings["temperature"]
        )
        # A template's limit of memory is the whole process's: nobody samples while one renders.
        with self._turn:
            prompt = self._encode(turns)
            opened = opened_by_prompt(tuple(turns), self.lm.tokenizer)
            ((sample,),) = self.sampler([prompt], sampling, seed=seed, streams=[stream])
        text = response_text(sample, self.lm.tokenizer, prompt)
        return ChatAnswer(text, sample.finished, len(sample.tokens), sum(sample.logps), opened)

    def close(self) -> None:
        self.sampler.close()

    def _encode(self, turns: Sequence[Message]) -> tuple[int, ...]:
        from accord.lm.tokens.encode import encode_prompts, sampling_limits
        from accord.records import PromptOnly

        limits = sampling_limits(self.lm.max_length, self.max_new_tokens, self.name)
        (prompt,), _, _ = encode_prompts([PromptOnly(tuple(turns))], self.lm.tokenizer, limits)
        return prompt


class EndpointChat:
    """A model at an endpoint, asked by any number of threads."""

    def __init__(self, settings: ChatSettings) -> None:
        from accord.respond.http import authorization_header, make_client

        url = str(settings.base_url).rstrip("/")
        headers = authorization_header(
            settings.api_key_env, setting="chat.api_key_env", key_owner="the endpoint's"
        )
        self.client = make_client(
            url, timeout=settings.timeout, headers=headers, use_proxies=not is_local(url)
        )
        self.url, self.model, self.retries = url, settings.model, settings.retries
        self.name = settings.model_name or settings.model
        self.settings = {**_recorded(settings, "endpoint"), "base_url": url}
        self._stop = threading.Event()

    def answer(self, turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        import httpx2

        from accord.compare.judges.completions import find_completion_fault, read_completion
        from accord.respond.http import request_with_retries

        body = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "temperature": self.settings["temperature"],
            "max_tokens": self.settings["max_new_tokens"],
        }
        reason = "it was stopped"
        for result in request_with_retries(
            self.client,
            "POST",
            self.url + PATH,
            body,
            retries=self.retries,
            stop=self._stop,
            find_fault=find_completion_fault,
        ):
            if isinstance(result, httpx2.Response):
                completion = read_completion(result)
                if completion.withheld is not None:
                    raise WorkError(f"{self.model}: {completion.withheld}.")
                return ChatAnswer(completion.text, not completion.cut, completion.answer_tokens)
            reason = result.reason
        raise WorkError(f"{self.model} at {self.url} does not answer: {reason}.")

    def close(self) -> None:
        self._stop.set()
        self.client.close()


def _recorded(settings: ChatSettings, kind: str) -> dict[str, Any]:
    return {
        "model": settings.model,
        "sampler": kind,
        "temperature": settings.temperature,
        "max_new_tokens": settings.max_new_tokens,
    }
