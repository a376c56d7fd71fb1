"""The models that a red team asks: in this process, or at an OpenAI-compatible endpoint.

Both take many conversations at once and yield each answer when it is there.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from accord.compare.judges.completions import find_completion_fault, read_completion
from accord.errors import SettingsError, WorkError
from accord.machine.loopback import is_local
from accord.records import Message
from accord.respond.attacks.turns import Turns, with_system
from accord.respond.http import (
    FailedAttempt,
    RefusedError,
    authorization_header,
    make_client,
    request_with_retries,
)
from accord.settings.redteam import RedteamSettings, TargetSettings

if TYPE_CHECKING:
    from accord.respond.protocol import Sample

log = logging.getLogger(__name__)

PATH = "/chat/completions"
ABOUT_ONE_REQUEST = ("too_long", "limit_too_low")


@dataclass(frozen=True, slots=True)
class Call:
    """A conversation to be continued; `stream` numbers its draws."""

    turns: Turns
    stream: int


@dataclass(frozen=True, slots=True)
class TargetAnswer:
    """What a model wrote. `finished` is False where the limit of its length cut it, and `opened` is
    what the rendered prompt had written of the answer, such as `<think>`.

    `withheld` says why a filter gave no answer, which is a refusal; `unusable` why the conversation
    could not be sent at all, which is no attempt. Token counts are None where they are not known.
    """

    text: str = ""
    finished: bool = True
    opened: str = ""
    withheld: str | None = None
    unusable: str | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Target(Protocol):
    """A model under attack, or the attacker model; it answers `width` conversations at a time."""

    name: str
    width: int

    def answer(self, calls: Sequence[Call]) -> Iterator[tuple[int, TargetAnswer]]:
        """The answers with the index of their call, as they come. Raises WorkError where the server
        does not answer, SettingsError where it refuses all requests."""
        ...

    def close(self) -> None: ...


def open_target(settings: TargetSettings, run: RedteamSettings) -> Target:
    """The model that settings name. Raises SettingsError and ModelError as loading one does."""
    return EndpointTarget(settings, run) if settings.base_url else LocalTarget(settings, run)


def _with_system(turns: Turns, settings: TargetSettings) -> Turns:
    return turns if settings.system is None else with_system(turns, settings.system)


def target_identity(settings: TargetSettings, run: RedteamSettings) -> dict[str, Any]:
    """What a model's answers depend on, beside the conversation: of a local one its weights, not
    its path."""
    identity: dict[str, Any] = {
        "system": settings.system,
        "temperature": run.temperature,
        "max_new_tokens": run.max_new_tokens,
        "seed": run.seed,
    }
    if settings.base_url is not None:
        return {**identity, "model": settings.model, "base_url": settings.base_url.rstrip("/")}
    from accord.compare.judges.local import weights_digest

    weights = weights_digest(settings.model)
    return {**identity, "weights": weights, "precision": settings.precision}


class LocalTarget:
    """A model folder or hub name, through accord's sampler, a batch at a time."""

    def __init__(self, settings: TargetSettings, run: RedteamSettings) -> None:
        from accord.lm.load import load_causal
        from accord.lm.tokens.opened import opened_by_prompt
        from accord.respond.local.sampler import LocalSampler

        self.name, self.settings, self.run = settings.display_name, settings, run
        self.width = settings.batch_size
        self.lm = load_causal(settings.model, precision=settings.precision, device=settings.device)
        if not getattr(self.lm.tokenizer, "chat_template", None):
            raise SettingsError(
                f"{settings.model} has no chat template, by which a conversation is put to it. "
                "Attack a model that was trained to answer, or save a chat_template with its "
                "tokenizer."
            )
        self.sampler = LocalSampler(self.lm)
        self.opened = opened_by_prompt((Message("user", "?"),), self.lm.tokenizer)

    def answer(self, calls: Sequence[Call]) -> Iterator[tuple[int, TargetAnswer]]:
        encoded: list[tuple[int, tuple[int, ...]]] = []
        for index, call in enumerate(calls):
            ids = self._encode(_with_system(call.turns, self.settings))
            if isinstance(ids, str):
                yield index, TargetAnswer(unusable=ids)
            else:
                encoded.append((index, ids))
        encoded.sort(key=lambda pair: len(pair[1]))
        size = self.settings.batch_size
        for start in range(0, len(encoded), size):
            yield from self._batch(calls, encoded[start : start + size])

    def _batch(
        self, calls: Sequence[Call], rows: Sequence[tuple[int, tuple[int, ...]]]
    ) -> Iterator[tuple[int, TargetAnswer]]:
        from accord.respond.protocol import SamplingSettings

        sampling = SamplingSettings(
            max_new_tokens=self.run.max_new_tokens,
            temperature=self.run.temperature,
            batch_size=self.settings.batch_size,
        )
        streams = [calls[index].stream for index, _ in rows]
        samples = self.sampler(
            [ids for _, ids in rows], sampling, seed=self.run.seed, streams=streams
        )
        for (index, ids), (sample,) in zip(rows, samples, strict=True):
            yield index, self._read(calls[index].turns, ids, sample)

    def _read(self, turns: Turns, ids: tuple[int, ...], sample: Sample) -> TargetAnswer:
        from accord.respond.text import response_text

        return TargetAnswer(
            response_text(sample, self.lm.tokenizer, ids),
            sample.finished,
            "" if turns[-1].role == "assistant" else self.opened,
            prompt_tokens=len(ids),
            answer_tokens=len(sample.tokens),
        )

    def _encode(self, turns: Turns) -> tuple[int, ...] | str:
        """The token ids, or why there are none."""
        from accord.lm.tokens.render import UnusableRow
        from accord.lm.tokens.template import encode_prompt, refuse_control_tokens

        try:
            refuse_control_tokens(turns, (), self.lm.tokenizer)
            ids = encode_prompt(turns, self.lm.tokenizer)
        except UnusableRow as reason:
            return str(reason)
        limit = self.lm.max_length
        if limit is not None and len(ids) + self.run.max_new_tokens > limit:
            return f"with the room for its answer it is longer than the {limit} tokens of the model"
        return ids

    def close(self) -> None:
        self.sampler.close()


class EndpointTarget:
    """A model at an endpoint, asked by several threads."""

    def __init__(self, settings: TargetSettings, run: RedteamSettings) -> None:
        assert settings.base_url is not None
        self.name, self.settings, self.run = settings.display_name, settings, run
        self.width = settings.max_concurrent
        self.url = settings.base_url.rstrip("/")
        headers = authorization_header(
            settings.api_key_env, setting="api_key_env", key_owner="the endpoint's"
        )
        self.client = make_client(
            self.url, timeout=settings.timeout, headers=headers, use_proxies=not is_local(self.url)
        )
        self._stop = threading.Event()
        self._limit, self._takes_temperature = "max_tokens", True

    def answer(self, calls: Sequence[Call]) -> Iterator[tuple[int, TargetAnswer]]:
        """As `Target.answer`. No more than `width` answers are under way or not yet taken, which is
        what a killed run loses. After a failure, answers under way still come before its error."""
        self._stop.clear()
        failure: BaseException | None = None
        waiting = iter(enumerate(calls))
        under_way: dict[Future[TargetAnswer], int] = {}
        with ThreadPoolExecutor(self.width) as threads:

            def begin(count: int) -> None:
                for index, call in itertools.islice(waiting, count):
                    under_way[threads.submit(self._ask, call)] = index

            try:
                begin(self.width)
                while under_way:
                    for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                        index, error = under_way.pop(done), done.exception()
                        if error is None:
                            yield index, done.result()
                        elif failure is None:
                            failure = error
                            self._stop.set()
                        if failure is None:
                            begin(1)  # only now: the answer before it is logged
            except BaseException:
                self._stop.set()
                raise
        if failure is not None:
            raise failure

    def _ask(self, call: Call) -> TargetAnswer:
        try:
            return self._negotiate(_with_system(call.turns, self.settings))
        except RefusedError as error:
            reason = f"status {error.status}: {error.message}"
            if error.kind == "filtered":
                return TargetAnswer(withheld=f"a filter refused the request ({reason})")
            if error.kind in ABOUT_ONE_REQUEST:
                return TargetAnswer(unusable=reason)
            prefills = call.turns[-1].role == "assistant"
            advice = (
                "It does not continue an answer that was begun: leave the attack `prefill` out."
                if prefills
                else "Check base_url, model and api_key_env."
            )
            raise SettingsError(f"{self.url} refuses a request ({reason}). {advice}") from error

    def _negotiate(self, turns: Turns) -> TargetAnswer:
        """An answer, without what the server does not take: the usual name of the limit, or a
        temperature, which is warned of."""
        while True:
            limit, temperature = self._limit, self._takes_temperature
            try:
                return self._send(turns, limit, temperature)
            except RefusedError as error:
                if error.kind == "limit_name" and limit == "max_tokens":
                    self._limit = "max_completion_tokens"
                elif error.kind == "temperature" and temperature:
                    self._takes_temperature = False
                    log.warning("%s takes no temperature, and uses its own.", self.name)
                else:
                    raise

    def _send(self, turns: Turns, limit: str, temperature: bool) -> TargetAnswer:
        import httpx2

        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            limit: self.run.max_new_tokens,
            **({"temperature": self.run.temperature} if temperature else {}),
        }
        if turns[-1].role == "assistant":
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        failures: list[FailedAttempt] = []
        for result in request_with_retries(
            self.client,
            "POST",
            self.url + PATH,
            body,
            retries=self.settings.retries,
            stop=self._stop,
            find_fault=find_completion_fault,
        ):
            if isinstance(result, httpx2.Response):
                completion = read_completion(result)
                return TargetAnswer(
                    completion.text,
                    not completion.cut,
                    withheld=completion.withheld,
                    prompt_tokens=completion.prompt_tokens,
                    answer_tokens=completion.answer_tokens,
                )
            failures.append(result)
        raise WorkError(
            f"{self.name} at {self.url} did not answer in {len(failures)} attempts: "
            f"{failures[-1].reason}. All earlier answers are logged: run the same command again."
        )

    def close(self) -> None:
        self._stop.set()
        self.client.close()
