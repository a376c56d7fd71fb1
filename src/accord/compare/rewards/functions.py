"""Reward functions that users write, called as TRL calls them.

The settings name the function, and only the module that they name is run. The function is called
with these keyword arguments, each a list with one entry for each response:

- `prompts`: text, or a list of `{role, content}` for a conversation;
- `responses`: the texts of the responses;
- `completions`: as in TRL: the texts, or for conversations a list with one assistant message;
- any other name: that column of the prompts' rows, None where a row lacks it.

A function gets those that it has parameters for; with `**kwargs` it gets all. It returns one finite
number for each response.
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

from accord.compare.rewards.reward import PromptResponse, Scorer, SourceContext
from accord.compare.texts import shorten
from accord.errors import RewardError
from accord.records import prompt_json
from accord.settings.rewards import PythonSource

Function = Callable[..., Any]
_NAMED_PARAMETERS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def function_scores(source: PythonSource, _: SourceContext) -> Scorer:
    """The scores that a function gives. Raises RewardError where it can't be found or called."""
    return call_by_columns(load_function(source), source.function)


def call_by_columns(function: Function, name: str) -> Scorer:
    """The scores that a loaded function gives; messages call it `name`. Raises RewardError where
    it can't be called."""
    required, optional, takes_all = _read_parameters(function, name)

    def scores(rows: Sequence[PromptResponse]) -> list[Any]:
        known = _make_arguments(rows)
        arguments = {name: known.get(name, [None] * len(rows)) for name in required}
        arguments |= {n: values for n, values in known.items() if takes_all or n in optional}
        try:
            return list(function(**arguments))
        except Exception as error:
            raise RewardError(
                f"The reward function {name} failed on {len(rows)} responses, the first "
                f"{shorten(repr(rows[0].response)) if rows else 'of none'}: "
                f"{type(error).__name__}: {shorten(str(error))}. It must return a list with one "
                f"number a response; --debug shows where it failed."
            ) from error

    return scores


def load_function(source: PythonSource) -> Function:
    """The function that a source names; its module or file is run. Raises RewardError."""
    try:
        module = _import_module(source.module)
    except Exception as error:
        raise RewardError(
            f"The reward function {source.function} can't be loaded: importing {source.module} "
            f"failed with {type(error).__name__}: {shorten(str(error))}. Give module:function of a "
            f"module that Python finds from here, or file.py:function."
        ) from error
    function = getattr(module, source.function_name, None)
    if not callable(function):
        functions = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise RewardError(
            f"The reward function {source.function} does not exist: {source.module} has no "
            f"function {source.function_name!r}. Its functions are "
            f"{', '.join(functions) or 'none'}."
        )
    named: Function = function
    return named


def _import_module(name_or_path: str) -> ModuleType:
    if not name_or_path.endswith(".py"):
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.append(folder)  # searched last, so that it hides no module
        return importlib.import_module(name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {name_or_path!r}")
    name = f"rewards_in_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def _read_parameters(function: Function, function_name: str) -> tuple[list[str], list[str], bool]:
    """A function's required parameters, its optional ones, and whether it has `**kwargs`.

    Raises RewardError where no parameter takes the responses.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions written in C have no signature
        parameters = {}.values()
    named = [p for p in parameters if p.kind in _NAMED_PARAMETERS]
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    if not takes_all and not {"responses", "completions"} & {p.name for p in named}:
        raise RewardError(
            f"The reward function {function_name} has no parameter `responses` or `completions`, "
            f"so it can't see what it scores. Write def "
            f"{function_name.rpartition(':')[2]}(prompts, responses)."
        )
    required = [p.name for p in named if p.default is p.empty]
    return required, [p.name for p in named if p.default is not p.empty], takes_all


def _make_arguments(rows: Sequence[PromptResponse]) -> Mapping[str, list[Any]]:
    """All arguments that a function may be called with."""
    columns = dict.fromkeys(column for row in rows for column in row.meta)
    prompts = [prompt_json(row.prompt) for row in rows]
    return {
        **{column: [row.meta.get(column) for row in rows] for column in columns},
        "prompts": prompts,
        "responses": [row.response for row in rows],
        "completions": [_make_completion(row) for row in rows],
    }


def _make_completion(row: PromptResponse) -> str | list[dict[str, str]]:
    if isinstance(row.prompt, str):
        return row.response
    return [{"role": "assistant", "content": row.response}]
