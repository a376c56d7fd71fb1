"""Sampling from a vLLM server, with the policy's newest adapter or weights.

Prompts are sent as token ids and responses come back as token ids, so no text is ever encoded
again. Penalties, top-k, top-p and min-p are sent even where they do nothing: a server takes what a
request leaves out from the model's generation_config.json. No seed is sent (a request's seed kills
the engine of the CPU build), so the same call gives other responses each time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from accord.errors import SettingsError
from accord.lm.digest import is_same_path
from accord.respond.http import RefusedError
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.client import ServerDownError, VllmClient
from accord.respond.vllm.parameters import sampling_parameters
from accord.respond.vllm.publishing import Publisher
from accord.settings.sampling import SamplerSettings

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_RESTARTS = 3  # of a server, within one request of accord's
COMPLETIONS = "/v1/completions"
PROBE_TEMPERATURES = (1.0, 2.0)  # processed log-probs differ between them


class VllmSampler:
    """A Sampler (`respond.protocol`) on a vLLM server; its samples are not `exact`.

    `publish` makes it sample from an adapter or a model. `max_length` is the server's limit on a
    prompt and its response, in tokens. A server that goes down is waited for, and gets again what
    was published. Raises WorkError when the server can't be reached, SettingsError when it does not
    serve the model.
    """

    def __init__(self, settings: SamplerSettings) -> None:
        self.client = VllmClient(settings)
        models = self.client.get("/v1/models").get("data")
        if not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
            raise self.client.unexpected_answer("/v1/models", "no list of models")
        model = _select_model(models, settings.model, self.client.url)
        max_length = model.get("max_model_len")
        self.max_length = max_length if isinstance(max_length, int) else None
        root = model.get("root")  # the folder or name that the server loaded it from
        base = str(model["id"])
        self.published = Publisher(self.client, base, root if isinstance(root, str) else None)
        self.published.restore_started()
        self._logprobs_processed: bool | None = None

    @property
    def model(self) -> str:
        """The name that is requested: of the server's model, or of the adapter published to it."""
        return self.published.model

    def is_serving(self, model_path: str) -> bool:
        """Whether the server says that it loaded its model from this folder or name."""
        root = self.published.root
        return root is not None and is_same_path(model_path, root)

    def warn_unless_serving(self, model_path: str) -> None:
        """Log a warning where the server may serve another model than the one at a path.

        It is no error: a server reports no digest of its weights, and may have loaded the same
        ones from elsewhere.
        """
        if not self.is_serving(model_path):
            log.warning(
                "The vLLM server at %s says that it serves %s: it can't be seen whether that is "
                "%s. If its weights differ, the responses are another model's.",
                self.client.url,
                self.published.root or self.published.base,
                model_path,
            )

    def publish(self, folder: Path) -> None:
        """Sample from the adapter or the model that was saved in a folder, from the next call on.

        The server reads the folder itself, before this returns, and no later answer is from an
        older version. Raises SettingsError where the server refuses.
        """
        self._through_restarts(lambda: self.published.publish(folder))

    def close(self) -> None:
        """Remove from the server what was published, and close the connection."""
        self.published.close()
        self.client.http.close()

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
        samples: list[list[Sample]] = []
        for start in range(0, len(prompts), size):
            batch = partial(self._sample_batch, prompts[start : start + size], settings)
            samples += self._through_restarts(batch)
        return samples

    def _through_restarts(self, work: Callable[[], T]) -> T:
        """The result of requests. A server that went down is waited for; one that was started again
        gets what was published again, and is asked again."""
        down: ServerDownError | None = None
        for attempt in range(MAX_RESTARTS + 1):
            try:
                if attempt:
                    self.published.publish_again()
                result = work()
                if self.published.is_current():
                    return result
                down = ServerDownError(
                    f"The vLLM server at {self.client.url} does not keep the weights that it "
                    "gets: it is started again and again, or another run publishes to it."
                )
            except ServerDownError as error:
                down = error
                log.warning("%s", error)
                self.client.wait_until_healthy(error)
            log.warning("The vLLM server at %s is asked again.", self.client.url)
        assert down is not None
        raise down

    def _sample_batch(
        self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings
    ) -> list[list[Sample]]:
        greedy = settings.temperature == 0  # a server then accepts only n=1
        n = 1 if greedy else settings.num_responses
        body = self._make_body(prompts, settings) | {"n": n}
        answer = self._complete(body)
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != n * len(prompts):
            count = len(choices) if isinstance(choices, list) else "no"
            raise self.client.unexpected_answer(
                COMPLETIONS, f"{count} responses where {n * len(prompts)} were requested"
            )
        ordered = sorted(choices, key=_choice_index)
        if [_choice_index(c) for c in ordered] != list(range(len(choices))):
            raise self.client.unexpected_answer(
                COMPLETIONS, "responses that are not numbered 0, 1, 2, …"
            )
        samples = [self._parse_choice(c, settings) for c in ordered]
        if greedy:
            return [[s] * settings.num_responses for s in samples]
        return [samples[i : i + n] for i in range(0, len(samples), n)]

    def _make_body(
        self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings
    ) -> dict[str, Any]:
        return {
            **sampling_parameters(settings),
            "model": self.model,
            "prompt": [list(p) for p in prompts],
            "n": 1,
            "return_token_ids": True,
        }

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return self.client.post(COMPLETIONS, body)
        except RefusedError as refused:
            if refused.kind == "model" and self.published.is_published:
                gone = ServerDownError(
                    f"The vLLM server at {self.client.url} no longer has what was published to it "
                    f"({refused.message}): it was started again."
                )
                gone.restarted = True
                raise gone from refused
            raise SettingsError(
                f"The vLLM server at {self.client.url} refused to sample from {self.model!r} "
                f"(status {refused.status}): {refused.message} {self._refusal_remedy(refused)}"
            ) from refused

    def _refusal_remedy(self, refused: RefusedError) -> str:
        """The remedy for a refused request, by what the refusal is about."""
        if refused.kind == "key":
            return "Set sampler.api_key_env to the variable with the server's key."
        if refused.kind == "model":
            return "The server no longer has this model: see sampler.model."
        if refused.kind in ("parameter", "temperature", "schema"):
            return (
                "It does not take what accord asks of a vLLM server (0.10.2 or later), such as "
                "logprobs and return_token_ids: sampler.url must be its address, without a "
                "gateway between."
            )
        limit = "its limit on" if self.max_length is None else f"{self.max_length}"
        return (
            f"A prompt with its response may have {limit} tokens there; see max_prompt_length and "
            f"max_new_tokens."
        )

    def _parse_choice(self, choice: dict[str, Any], settings: SamplingSettings) -> Sample:
        tokens = choice.get("token_ids")
        logprobs = choice.get("logprobs")
        logps = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
        if not _is_list_of(tokens, int):
            raise self.client.unexpected_answer(COMPLETIONS, "a response without token_ids")
        if not _is_list_of(logps, int | float) or len(logps) != len(tokens):
            raise self.client.unexpected_answer(
                COMPLETIONS, "a response without a log-prob for each token"
            )
        if not all(map(math.isfinite, logps)):
            raise self.client.unexpected_answer(COMPLETIONS, "a log-prob that is not finite")
        reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
        if reason not in ("stop", "length") or len(tokens) > settings.max_new_tokens:
            raise self.client.unexpected_answer(
                COMPLETIONS, f"a response of {len(tokens)} tokens that ended by {reason!r}"
            )
        stop_string = stop if isinstance(stop, str) else None  # a number: a stop token
        return Sample(
            tuple(tokens), tuple(map(float, logps)), reason == "stop", stop_string, exact=False
        )

    def _check_log_probs(self, prompt: tuple[int, ...], settings: SamplingSettings) -> None:
        """Raise SettingsError where the server's log-probs are not those of `Sample`.

        A server returns log-probs before temperature, top-k, top-p and min-p (raw), or after them
        (processed). Only processed ones make the likeliest token's log-prob depend on the
        temperature, so it is requested at two.
        """
        tempered = settings.temperature not in (0.0, 1.0)
        if not tempered and not settings.is_truncated:
            return
        if self._logprobs_processed is None:
            plain = SamplingSettings(max_new_tokens=1)
            top_logps = []
            for temperature in PROBE_TEMPERATURES:
                probe = {"temperature": temperature, "logprobs": 1}
                answer = self._complete(self._make_body([prompt], plain) | probe)
                top_logps.append(self._parse_top_logp(answer))
            self._logprobs_processed = abs(top_logps[0] - top_logps[1]) > 1e-4
            if self._logprobs_processed and settings.is_truncated:
                log.warning("%s returns log-probs after top-k, top-p and min-p.", self.client.url)
        if tempered and not self._logprobs_processed:
            raise SettingsError(
                f"The vLLM server at {self.client.url} returns log-probs before the temperature, "
                f"and temperature={settings.temperature:g} is set. Start it with "
                f"`--logprobs-mode processed_logprobs`, or use temperature=1."
            )

    def _parse_top_logp(self, answer: dict[str, Any]) -> float:
        try:
            return float(max(answer["choices"][0]["logprobs"]["top_logprobs"][0].values()))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise self.client.unexpected_answer(
                COMPLETIONS, "a response without top_logprobs"
            ) from error


def _select_model(models: list[dict[str, Any]], name: str | None, url: str) -> dict[str, Any]:
    """The entry of /v1/models to sample from: `name`, or the only base model."""
    by_name = {str(m.get("id")): m for m in models}
    base_names = [key for key, m in by_name.items() if not m.get("parent")]
    if name is None and len(base_names) != 1:
        raise SettingsError(
            f"The vLLM server at {url} serves {', '.join(base_names) or 'no model'}: set "
            f"sampler.model to one of them."
        )
    name = base_names[0] if name is None else name
    if name not in by_name:
        raise SettingsError(
            f"The vLLM server at {url} serves no model {name!r}, only {', '.join(by_name)}. "
            f"Correct sampler.model, or leave it out."
        )
    return by_name[name]


def _choice_index(choice: Any) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else -1


def _is_list_of(values: Any, kind: Any) -> TypeGuard[list[Any]]:
    """Whether `values` is a list of that type with at least one item."""
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)
