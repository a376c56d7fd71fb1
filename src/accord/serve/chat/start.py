"""What `accord chat` does: open the models, and talk."""

from __future__ import annotations

import getpass
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console

from accord.compare.rewards.reward import CombinedReward
from accord.compare.texts import replace_surrogates
from accord.errors import RequestError
from accord.hub_names import short_name
from accord.lm.load import load_causal
from accord.lm.loading.folders import model_of_run
from accord.lm.tokens.opened import opened_by_prompt
from accord.respond.http import key_of_environment
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer, nothing_opened
from accord.serve.chat.conversation import Manner, Side
from accord.serve.chat.screen import Screen
from accord.serve.chat.session import ChatSession, ReadLine
from accord.serve.chat.votes import Ballot
from accord.serve.engine import Engine
from accord.serve.local import LocalEngine
from accord.serve.threads import in_thread_of_its_own
from accord.serve.upstream.engine import UpstreamEngine
from accord.serve.upstream.server import find_model

MOST_CANDIDATES = 256  # of /best


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a chat begins. `models` are folders, hub names or addresses, one or two."""

    models: tuple[str, ...]
    store: str = "chat.db"
    annotator: str | None = None
    system: str | None = None
    seed: int | None = None
    temperature: float = 0.7
    max_tokens: int | None = 1024
    best_of: int = 1
    api_key_env: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


def chat_with(
    options: ChatOptions,
    make_reward: Callable[[], CombinedReward] | None = None,
    *,
    console: Console | None = None,
    read_line: ReadLine | None = None,
) -> None:
    """Talk with the models until the end of the input.

    Raises RequestError for options that do not fit, ModelError and WorkError for a model that can't
    be opened.
    """
    _check(options, make_reward is not None)
    screen = Screen(console or Console())
    scorer = None if make_reward is None else Scorer(make_reward())
    names = _names(options.models)
    sides = [
        _open_side(model, name, options, scorer)
        for model, name in zip(options.models, names, strict=True)
    ]
    ballot = None
    if len(sides) == 2:
        annotator = options.annotator or getpass.getuser()
        ballot = Ballot(options.store, annotator, (names[0], names[1]))
    manner = Manner(options.temperature, options.max_tokens, options.seed, options.best_of)
    session = ChatSession(
        sides,
        screen,
        read_line or typed_lines(screen),
        manner=manner,
        system=options.system,
        ballot=ballot,
        rng=random.Random(options.seed),
    )
    if ballot is None:
        screen.note(f"You talk with {names[0]}. /help lists the commands.")
    else:
        screen.note(
            f"Two models answer, in an order that is drawn each time. Your votes, as "
            f"{ballot.annotator}, go into {ballot.path}. /help lists the commands."
        )
    session.run()


def typed_lines(screen: Screen) -> ReadLine:
    """Lines that a person types, with what was typed before on the arrow keys; or of a pipe, which
    are shown behind their prompt as a terminal shows them. What is no text is replaced."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - editing and history of `input`

    def read(prompt: str) -> str:
        if is_typed:
            return replace_surrogates(input(prompt))
        data = sys.stdin.buffer.readline()
        if not data:
            raise EOFError
        line = data.decode("utf-8", "replace").rstrip("\r\n")
        screen.line(prompt + line)
        return line

    return read


def _check(options: ChatOptions, has_reward: bool) -> None:
    if len(options.models) > 2:
        raise RequestError("A chat is with one model, or with two side by side.")
    if len(set(options.models)) < len(options.models):
        raise RequestError(
            f"{options.models[0]} is named twice. Two answers of one model are no comparison."
        )
    if options.best_of > 1 and not has_reward:
        raise RequestError(
            "--best needs something that scores the answers. Give --reward MODEL as well."
        )
    if options.best_of > 1 and options.temperature == 0:
        raise RequestError(
            "With --temperature 0 all answers are equal, and --best has no choice. Set a "
            "temperature."
        )


def _names(models: Sequence[str]) -> list[str]:
    """The models' names in votes: short ones where these differ."""
    short = [_short_name(model) for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _short_name(model: str) -> str:
    if _is_address(model):
        return urlsplit(model).fragment or model
    return short_name(model) or model


def _is_address(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _open_side(model: str, name: str, options: ChatOptions, scorer: Scorer | None) -> Side:
    engine: Engine
    opened = nothing_opened
    if _is_address(model):
        key = key_of_environment(
            options.api_key_env, setting="--api-key-env", key_owner="the server's"
        )
        url, _, served = model.partition("#")
        engine = UpstreamEngine(url, served or find_model(url, key=key), key=key)
    else:
        load = partial(
            load_causal,
            model_of_run(model),
            precision=options.precision,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
        )
        lm = in_thread_of_its_own(load)
        engine = LocalEngine(lm, (name,), max_rows=MOST_CANDIDATES)
        opened = lambda prompt: opened_by_prompt(prompt, lm.tokenizer)  # noqa: E731
    if scorer is None:
        return Side(name, engine)
    best = BestOfEngine(engine, scorer, BestOfOptions(limit=MOST_CANDIDATES), opened)
    return Side(name, best, chooses=True)
