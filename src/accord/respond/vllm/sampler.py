"""Sampling from a vLLM server, with the policy's newest adapter.

Prompts are sent as token ids and responses come back as token ids, so no text is ever encoded
again. Penalties and cuts are sent even where they do nothing: a server takes what a request leaves
out from the model's generation_config.json. No seed is sent (a request's seed kills the engine of
the CPU build), so the same call gives other responses each time.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from accord.errors import SettingsError, WorkError
from accord.lm.digest import is_same_path
from accord.respond.http import RefusedError
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.server import Server
from accord.settings.sampling import SamplerSettings

log = logging.getLogger(__name__)

COMPLETIONS = "/v1/completions"
PROBES = (1.0, 2.0)  # temperatures at which processed log-probs differ


class VllmSampler:
    """A Sampler (`respond.protocol`) on a vLLM server; its samples are not `exact`.

    `publish` makes it sample from an adapter. `max_length` is the server's limit on a prompt and
    its response, in tokens. Raises WorkError when there is no server, SettingsError when it does
    not serve the model.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self.server = Server(settings)
        served = self.server.get("/v1/models").get("data")
        if not isinstance(served, list) or not all(isinstance(m, dict) for m in served):
            raise self.server.nonsense("/v1/models", "no list of models")
        chosen = _chosen(served, settings.model, self.server.url)
        self.base = self.model = str(chosen["id"])
        longest = chosen.get("max_model_len")
        self.max_length = longest if isinstance(longest, int) else None
        self._root = chosen.get("root")
        self._run, self._version = uuid.uuid4().hex[:8], 0
        self._processed: bool | None = None

    def serves(self, place: str) -> bool:
        """Whether the server says that what it samples from was loaded from this folder or name."""
        return isinstance(self._root, str) and is_same_path(place, self._root)

    def expect(self, place: str) -> None:
        """Warn where it can't be seen that the server has the model at a place.

        It tells no digest of its weights, and may have the same ones from elsewhere: no error.
        """
        if not self.serves(place):
            log.warning(
                "The vLLM server at %s says that it serves %s: it can't be seen whether that is "
                "%s. If its weights are others, the responses are another model's.",
                self.server.url,
                self._root or self.base,
                place,
            )

    def publish(self, folder: Path) -> None:
        """Sample from the adapter that peft saved in a folder, from the next call on.

        Each version has a name of its own, so that no answer can be from an older one. The server
        reads the folder itself, before this returns. Raises SettingsError where it will not.
        """
        if not (folder / "adapter_config.json").is_file():
            raise SettingsError(
                f"{folder} holds no adapter (no adapter_config.json), and a vLLM server can only "
                f"be given adapters. Train with `lora`, or use sampler.kind=local."
            )
        name = f"accord-{self._run}-{self._version + 1}"
        told = {"lora_name": name, "lora_path": str(folder.resolve())}
        try:
            self.server.command("/v1/load_lora_adapter", told)
        except RefusedError as refused:
            if "already" not in refused.message:  # else an answer was lost: it did load
                raise SettingsError(
                    f"The vLLM server at {self.server.url} does not load the adapter {folder} "
                    f"(status {refused.status}: {refused.message}). {_lora_remedy(refused)}"
                ) from refused
        old, self.model, self._version = self.model, name, self._version + 1
        if old != self.base:
            self._unload(old)

    def close(self) -> None:
        """Take the adapter off the server, and hang up."""
        if self.model != self.base:
            self._unload(self.model)
            self.model = self.base
        self.server.client.close()

    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]:
        """Seed and streams have no effect here. Raises WorkError and SettingsError."""
        if prompts:
            self._check_log_probs(prompts[0], settings)
        size = max(1, settings.batch_size // settings.num_responses)
        found: list[list[Sample]] = []
        for start in range(0, len(prompts), size):
            found += self._batch(prompts[start : start + size], settings)
        return found

    def _batch(
        self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings
    ) -> list[list[Sample]]:
        greedy = settings.temperature == 0  # of which a server gives but one response
        n = 1 if greedy else settings.num_responses
        body = self._request(prompts, settings) | {"n": n}
        answer = self._complete(body)
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != n * len(prompts):
            count = len(choices) if isinstance(choices, list) else "no"
            raise self.server.nonsense(
                COMPLETIONS, f"{count} responses where {n * len(prompts)} were asked for"
            )
        by_index = sorted(choices, key=_index)
        if [_index(c) for c in by_index] != list(range(len(choices))):
            raise self.server.nonsense(COMPLETIONS, "responses that are not numbered 0, 1, 2, …")
        samples = [self._sample(c, settings) for c in by_index]
        if greedy:
            return [[s] * settings.num_responses for s in samples]
        return [samples[i : i + n] for i in range(0, len(samples), n)]

    def _request(
        self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings
    ) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": [list(p) for p in prompts],
            "n": 1,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,  # 0: all
            "min_p": settings.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop": list(settings.stop),
            "logprobs": 0,  # those of the sampled tokens alone
            "return_token_ids": True,
        }

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.server.post(COMPLETIONS, body)
        except RefusedError as refused:
            raise SettingsError(
                f"The vLLM server at {self.server.url} refused to sample from {self.model!r} "
                f"(status {refused.status}): {refused.message} A prompt with its response may have "
                f"{self.max_length} tokens there; see max_prompt_length and max_new_tokens."
            ) from refused

    def _sample(self, choice: dict[str, Any], settings: SamplingSettings) -> Sample:
        tokens = choice.get("token_ids")
        logprobs = choice.get("logprobs")
        logps = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        if not _are(tokens, int):
            raise self.server.nonsense(COMPLETIONS, "a response without token_ids")
        if not _are(logps, int | float) or len(logps) != len(tokens):
            raise self.server.nonsense(COMPLETIONS, "a response without a log-prob for each token")
        if not all(map(math.isfinite, logps)):
            raise self.server.nonsense(COMPLETIONS, "a log-prob that is not finite")
        reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
        if reason not in ("stop", "length") or len(tokens) > settings.max_new_tokens:
            raise self.server.nonsense(
                COMPLETIONS, f"a response of {len(tokens)} tokens that ended by {reason!r}"
            )
        by_string = stop if isinstance(stop, str) else None
        return Sample(
            tuple(tokens), tuple(map(float, logps)), reason == "stop", by_string, exact=False
        )

    def _check_log_probs(self, prompt: tuple[int, ...], settings: SamplingSettings) -> None:
        """Whether the server's log-probs are those that the protocol promises.

        A server tells those before temperature and cuts (raw), or after (processed). The likeliest
        token's log-prob at two temperatures tells which.
        """
        tempered = settings.temperature not in (0.0, 1.0)
        if not tempered and not settings.cuts:
            return
        if self._processed is None:
            plain = SamplingSettings(max_new_tokens=1)
            peaks = []
            for temperature in PROBES:
                body = self._request([prompt], plain) | {"temperature": temperature, "logprobs": 1}
                peaks.append(self._peak(self._complete(body)))
            self._processed = abs(peaks[0] - peaks[1]) > 1e-4
            if self._processed and settings.cuts:
                log.warning("%s tells log-probs after top-k, top-p and min-p.", self.server.url)
        if tempered and not self._processed:
            raise SettingsError(
                f"The vLLM server at {self.server.url} tells log-probs before the temperature, and "
                f"temperature={settings.temperature:g} was asked for. Start it with "
                f"`--logprobs-mode processed_logprobs`, or use temperature=1."
            )

    def _peak(self, answer: dict[str, Any]) -> float:
        try:
            return float(max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise self.server.nonsense(COMPLETIONS, "a response without top_logprobs") from error

    def _unload(self, name: str) -> None:
        try:
            self.server.command("/v1/unload_lora_adapter", {"lora_name": name})
        except (RefusedError, WorkError) as error:  # it holds a place on the server, no more
            log.warning("The adapter %s stays on the server: %s", name, error)


def _chosen(served: list[dict[str, Any]], wanted: str | None, url: str) -> dict[str, Any]:
    """What the server tells of the model to sample from."""
    names = {str(m.get("id")): m for m in served}
    bases = [name for name, m in names.items() if not m.get("parent")]
    if wanted is None and len(bases) != 1:
        raise SettingsError(
            f"The vLLM server at {url} serves {', '.join(bases) or 'no model'}: set sampler.model "
            f"to one of them."
        )
    name = bases[0] if wanted is None else wanted
    if name not in names:
        raise SettingsError(
            f"The vLLM server at {url} serves no model {name!r}, only {', '.join(names)}. Correct "
            f"sampler.model, or leave it out."
        )
    return names[name]


def _lora_remedy(refused: RefusedError) -> str:
    """What to do about a refused adapter, by what the server said."""
    said = refused.message.lower()
    if "rank" in said:
        return "Start the server with a --max-lora-rank that is at least lora.r."
    if "no adapter found" in said:
        return "The server must see the same folder: run it on this machine, or share the disk."
    if said == "not found" or "detail" in said or "lora" not in said:
        return (
            "Start the server with --enable-lora and the environment variable "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
        )
    return "Look at the server's log."


def _index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1


def _are(values: Any, kind: Any) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)
