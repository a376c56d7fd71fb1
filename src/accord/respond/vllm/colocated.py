"""Sampling by a vLLM engine in accord's own process, on the device that trains.

The policy's tensors are copied into the engine without a file, an adapter's added to those of its
base. Prompts go in as token ids and responses come out as token ids. The tokens that end a response
are those of the local engine, whatever the model's generation_config.json says. While the policy
trains the engine sleeps, where the platform lets it: it wakes to receive weights, its cache of
prefixes is emptied, it samples, and it sleeps again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from accord.errors import AccordError, SettingsError, WorkError
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.building import (
    ColocatedEngine,
    EngineModel,
    build_engine,
    generators_restored,
    is_out_of_memory,
)
from accord.respond.vllm.parameters import sampling_parameters
from accord.runs import digest_json
from accord.settings.sampling import SamplerSettings

T = TypeVar("T")
Weights = Callable[[], Iterable[tuple[str, Tensor]]]

log = logging.getLogger(__name__)


class ColocatedSampler:
    """A Sampler (`respond.protocol`) on a vLLM engine in this process; its samples are not `exact`.

    `weights` gives the tensors that `publish` copies into the engine; without it the engine has
    read the model's files. With `sleeps` it sleeps between calls. The same call with the same
    weights gives the same responses but for rounding. Raises SettingsError where vLLM is missing or
    does not start, WorkError where the engine fails later.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        model: EngineModel,
        *,
        weights: Weights | None = None,
        sleeps: bool = False,
        build: Callable[[SamplerSettings, EngineModel, int, bool], ColocatedEngine] | None = None,
    ) -> None:
        self.model, self.weights = model, weights
        self.sleep_level = settings.sleep_level if sleeps else 0
        build = build or build_engine
        self.engine = build(settings, model, self.sleep_level, weights is not None)
        if self.sleep_level and not self.engine.can_sleep:
            log.info("vLLM can't sleep on this device: it stays in memory while the run trains.")
            self.sleep_level = 0
        self.max_length: int | None = self.engine.max_length
        self._has_weights = weights is None
        self._asleep = False
        self._failure: str | None = None
        self._closed = self._warned = False
        self._sleep()

    def publish(self) -> None:
        """Copy the present weights into the engine, which wakes up for it. No later response is
        from older ones, or uses their keys and values."""
        assert self.weights is not None
        if self._asleep:
            self._run("wake up", lambda: self.engine.wake_up(["weights"]))
        weights = self.weights()
        self._run("load weights", lambda: self.engine.load_weights(weights))
        if self._asleep:
            self._run("wake up", lambda: self.engine.wake_up(["kv_cache"]))
        self._asleep = False
        self._run("reset its cache of prefixes", self.engine.reset_prefix_cache)
        self._has_weights = True

    def close(self) -> None:
        """End the engine and free its memory. What fails here is logged: the work is done, or has
        raised an error of its own."""
        if self._closed:
            return
        self._closed = True
        self._failure = self._failure or "it was closed"
        try:
            self.engine.close()
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            log.warning("vLLM did not end cleanly (%s: %s).", type(error).__name__, text)

    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]:
        """Raises WorkError and SettingsError."""
        self._check(prompts, settings)
        if not prompts:
            return []
        if not self._has_weights:
            self.publish()
        elif self._asleep:
            self._run("wake up", lambda: self.engine.wake_up(None))
            self._asleep = False
        size = max(1, settings.batch_size // settings.num_responses)
        samples: list[list[Sample]] = []
        for start in range(0, len(prompts), size):
            work = partial(self._sample_batch, prompts[start : start + size], settings)
            with _seeded(seed, streams[start : start + size]):
                samples += self._run("sample", work)
        self._sleep()
        return samples

    def _sample_batch(
        self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings
    ) -> list[list[Sample]]:
        greedy = settings.temperature == 0  # vLLM then accepts only n=1
        count = 1 if greedy else settings.num_responses
        answers = self.engine.generate(prompts, _parameters(settings, count, self.model.eos_ids))
        groups = [[_parse(output, settings) for output in outputs] for outputs in answers]
        if len(groups) != len(prompts) or any(len(group) != count for group in groups):
            raise WorkError("vLLM gave another number of responses than were requested.")
        return [group * settings.num_responses for group in groups] if greedy else groups

    def _check(self, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings) -> None:
        longest = max(map(len, prompts), default=0) + settings.max_new_tokens
        if self.max_length is not None and longest > self.max_length:
            raise SettingsError(
                f"A prompt with its response may have {self.max_length} tokens in the vLLM engine, "
                f"and {longest} are asked for; see max_prompt_length and max_new_tokens."
            )
        if settings.temperature not in (0.0, self.model.temperature):
            raise SettingsError(
                f"The vLLM engine was built for log-probs at temperature="
                f"{self.model.temperature:g}, and {settings.temperature:g} is asked for."
            )
        if settings.is_truncated and self.model.temperature != 1 and not self._warned:
            self._warned = True
            log.warning("vLLM returns log-probs after top-k, top-p and min-p.")

    def _sleep(self) -> None:
        if not self.sleep_level or self._asleep:
            return
        self._run("sleep", lambda: self.engine.sleep(self.sleep_level))
        self._asleep = True
        if self.sleep_level == 2:
            self._has_weights = self.weights is None

    def _run(self, what: str, work: Callable[[], T]) -> T:
        """The result of a call of the engine; after one that failed it is not called again."""
        if self._failure is None:
            try:
                return work()
            except AccordError:
                raise
            except Exception as error:
                text = " ".join(str(error).split())[:300]
                self._failure = f"it could not {what} ({type(error).__name__}: {text})"
                raise self._error(is_out_of_memory(error)) from error
        raise self._error(out_of_memory=False)

    def _error(self, out_of_memory: bool) -> WorkError:
        remedy = (
            "Lower sampler.gpu_memory_utilization, or the run's own memory (accord plan)"
            if out_of_memory
            else "Look at what vLLM printed above"
        )
        return WorkError(
            f"The vLLM engine in this process is dead: {self._failure}. {remedy}, and run the same "
            f"command again: it resumes where it stopped. With sampler.mode=server an engine that "
            f"dies does not end the run."
        )


def _parameters(settings: SamplingSettings, count: int, eos_ids: frozenset[int]) -> dict[str, Any]:
    """vLLM's SamplingParams. No seed: one of a request kills the engine of the CPU build; the
    process's generators are seeded instead."""
    return {
        **sampling_parameters(settings),
        "n": count,
        "ignore_eos": True,  # vLLM's own set of end tokens; those of the local engine are these:
        "stop_token_ids": sorted(eos_ids),
        "detokenize": bool(settings.stop),
    }


def _parse(output: Any, settings: SamplingSettings) -> Sample:
    """The sample of a CompletionOutput. Raises WorkError for one that lacks what it must have."""
    tokens, steps = tuple(output.token_ids), output.logprobs or ()
    if not tokens or len(steps) != len(tokens) or len(tokens) > settings.max_new_tokens:
        raise WorkError(
            f"vLLM gave a response of {len(tokens)} tokens with {len(steps)} log-probs."
        )
    logps = tuple(float(step[token].logprob) for token, step in zip(tokens, steps, strict=True))
    if not all(map(math.isfinite, logps)):
        raise WorkError("vLLM gave a log-prob that is not finite.")
    if output.finish_reason not in ("stop", "length"):
        raise WorkError(f"vLLM gave a response that ended by {output.finish_reason!r}.")
    stop = output.stop_reason if isinstance(output.stop_reason, str) else None
    return Sample(tokens, logps, output.finish_reason == "stop", stop, exact=False)


@contextmanager
def _seeded(seed: int, streams: Sequence[int]) -> Iterator[None]:
    """A context in which numpy's and torch's generators start from a seed and the numbers of a
    batch's random streams, and after which they are as before. vLLM draws tokens from torch's on a
    CPU, and on a GPU the seed of each request from numpy's."""
    number = int(digest_json([seed, list(streams)])[:15], 16)
    with generators_restored():
        torch.manual_seed(number)
        np.random.set_state(np.random.RandomState(number % 2**32).get_state())
        yield
