"""Reward functions that users write, called as TRL calls them.

A function is asked for by name in the settings, and only then is its module run. It is called with
the names of its parameters, one list entry a response:

- `prompts`: text, or a list of `{role, content}` for a conversation;
- `responses`: the texts of the responses;
- `completions`: as TRL has them: the texts, or for conversations a list that holds one message of
  the assistant's;
- any other name: that column of the prompts' rows, None where a row lacks it.

With `**kwargs` it gets all of these. It returns one finite number for each response.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from accord.compare.rewards.reward import PromptResponse, shorten
from accord.errors import RewardError
from accord.records import Message, prompt_json
from accord.settings.rewards import PythonSource

Function = Callable[..., Any]
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def function_scores(source: PythonSource) -> Callable[[Sequence[PromptResponse]], list[Any]]:
    """The scores that a function gives. Raises RewardError where it can't be found or called."""
    function = load_function(source)
    needed, optional, takes_all = _parameters(source, function)

    def scores(rows: Sequence[PromptResponse]) -> list[Any]:
        known = _arguments(rows)
        given = {name: known.get(name, [None] * len(rows)) for name in needed}
        given |= {name: all_ for name, all_ in known.items() if takes_all or name in optional}
        try:
            return list(function(**given))
        except Exception as error:
            raise RewardError(
                f"The reward function {source.function} failed on {len(rows)} responses, the first "
                f"{shorten(repr(rows[0].response)) if rows else 'of none'}: "
                f"{type(error).__name__}: {shorten(str(error))}. It must return a list with one "
                f"number a response; --debug shows where it failed."
            ) from error

    return scores


def load_function(source: PythonSource) -> Function:
    """The function that a source names; its module or file is run. Raises RewardError."""
    try:
        module = _module(source.place)
    except Exception as error:
        raise RewardError(
            f"The reward function {source.function} can't be loaded: importing {source.place} "
            f"failed with {type(error).__name__}: {shorten(str(error))}. Give module:function of a "
            f"module that Python finds from here, or file.py:function."
        ) from error
    function = getattr(module, source.called, None)
    if not callable(function):
        there = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise RewardError(
            f"The reward function {source.function} does not exist: {source.place} has no function "
            f"{source.called!r}. Its functions are {', '.join(there) or 'none'}."
        )
    found: Function = function
    return found


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)  # the last place that is looked in, so it hides no module
        return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise FileNotFoundError(f"no file {place!r}")
    name = f"rewards_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def _parameters(source: PythonSource, function: Function) -> tuple[list[str], list[str], bool]:
    """Parameters that a function needs, those it may get, and whether it takes all there are.

    Raises RewardError where it can't be given the responses.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some that are written in C do not tell
        parameters = {}.values()
    named = [p for p in parameters if p.kind in _NAMED]
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    if not takes_all and not {"responses", "completions"} & {p.name for p in named}:
        raise RewardError(
            f"The reward function {source.function} has no parameter `responses` or `completions`, "
            f"so it can't see what it scores. Write def {source.called}(prompts, responses)."
        )
    needed = [p.name for p in named if p.default is p.empty]
    return needed, [p.name for p in named if p.default is not p.empty], takes_all


def _arguments(rows: Sequence[PromptResponse]) -> Mapping[str, list[Any]]:
    """All that a function may be called with."""
    columns = dict.fromkeys(column for row in rows for column in row.meta)
    prompts = [prompt_json(row.prompt) for row in rows]
    return {
        **{column: [row.meta.get(column) for row in rows] for column in columns},
        "prompts": prompts,
        "responses": [row.response for row in rows],
        "completions": [_completion(row) for row in rows],
    }


def _completion(row: PromptResponse) -> str | list[dict[str, str]]:
    if isinstance(row.prompt, str):
        return row.response
    said = Message("assistant", row.response)
    return [{"role": said.role, "content": said.content}]
