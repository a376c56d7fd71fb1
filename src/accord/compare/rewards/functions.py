"""Reward functions that users write, called as TRL calls them.

The settings name the function, and only the module that they name is run. The function is called
with these keyword arguments, each a list with one entry for each response:

- `prompts`: text, or a list of `{role, content}` for a conversation;
- `responses`: the texts of the responses;
- `completions`: as in TRL: the texts, or for conversations a list with one assistant message;
- `completion_ids`: the ids of the responses' tokens, where the responses are being sampled;
- `opened`: what the rendered prompt already wrote of each answer, such as `<think>`: a response
  begins behind it;
- any other name: that column of the prompts' rows, None where some rows lack it.

A function gets those that it has parameters for; with `**kwargs` it gets all. A parameter without a
default that no row has is an error. The function returns, for each response, a finite number, or
None where it does not apply. An `async def` is awaited, at the same time as others. What a function
does to the process is put back (`user_code.py`).
"""

from __future__ import annotations

import asyncio
import copy
import difflib
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from accord.compare.rewards.reward import (
    PendingScores,
    PromptResponse,
    SourceContext,
    WeightedSource,
)
from accord.compare.rewards.user_code import (
    catch_exits,
    event_loop,
    read_process_state,
    restore_process_state,
    run_user_code,
)
from accord.compare.texts import shorten
from accord.errors import RewardError
from accord.records import turns_json
from accord.settings.rewards import PythonSource

Function = Callable[..., Any]
_NAMED_PARAMETERS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


GIVEN = ("prompts", "responses", "completions", "completion_ids", "opened")
NOT_GIVEN = ("trainer_state", "log_extra", "log_metric", "environments")  # of TRL's arguments


def function_sources(source: PythonSource, _: SourceContext) -> list[WeightedSource]:
    """The scores that a function gives. Raises RewardError where it can't be found or called."""
    function = UserFunction(load_function(source), source.function)
    return [WeightedSource(source.title, source.weight, function, check=function.check)]


@dataclass
class UserFunction:
    """A loaded function as a Scorer; messages call it `name`.

    `check` is called with all the prompts' rows before the first response: it raises RewardError
    where a parameter has no value in any of them.
    """

    function: Function
    name: str
    columns: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Raises RewardError where no parameter takes the responses."""
        self.required, self.optional, self.takes_all = _read_parameters(self.function, self.name)

    def check(self, rows: Sequence[PromptResponse]) -> None:
        """Raise RewardError for a parameter without a default that no row of a data set has."""
        columns = {column for row in rows for column in row.meta}
        self._check_columns(columns, rows)
        self.columns |= columns

    def _check_columns(self, columns: set[str], rows: Sequence[PromptResponse]) -> None:
        missing = [n for n in self.required if n not in columns and n not in GIVEN]
        if missing and rows:
            raise RewardError(self._describe_missing(missing[0], columns))

    def __call__(self, rows: Sequence[PromptResponse]) -> list[Any] | PendingScores:
        """One value for each row. Raises RewardError for whatever goes wrong in the function."""
        self._check_columns(self.columns | {c for row in rows for c in row.meta}, rows)
        known = _make_arguments(rows)
        if "completion_ids" in self.required and "completion_ids" not in known and rows:
            raise RewardError(
                f"The reward function {self.name} has the parameter `completion_ids`, and these "
                f"responses are known as text only. Give it a default, such as None."
            )
        arguments = {name: known.get(name, [None] * len(rows)) for name in self.required}
        names = known if self.takes_all else self.optional
        arguments |= {name: known[name] for name in names if name in known}
        describe = partial(self._describe_failure, rows)

        def call() -> Any:
            returned = self.function(**arguments)
            return returned if inspect.isawaitable(returned) else _as_list(returned, len(rows))

        returned = run_user_code(call, self.name, describe)
        return returned if isinstance(returned, list) else self._start(returned, describe)

    def _start(self, awaitable: Any, describe: Callable[[BaseException], str]) -> PendingScores:
        """The scores of an `async def`, which runs beside other sources until they are needed."""
        before, loop = read_process_state(), event_loop()
        future = asyncio.run_coroutine_threadsafe(catch_exits(awaitable), loop.loop)

        def result() -> list[Any]:
            try:
                return run_user_code(
                    lambda: _as_list(loop.result(future), None), self.name, describe
                )
            finally:
                restore_process_state(before, self.name)

        return PendingScores(result, partial(loop.cancel, future))

    def _describe_missing(self, parameter: str, columns: set[str]) -> str:
        if parameter in NOT_GIVEN:
            return (
                f"The reward function {self.name} has the parameter `{parameter}`, which TRL gives "
                f"and accord does not. Give it a default, such as None, and do without it."
            )
        close = difflib.get_close_matches(parameter, [*columns, *GIVEN], 1)
        names = ", ".join(sorted(columns)) or "none"
        suggestion = f" Did you mean `{close[0]}`?" if close else ""
        return (
            f"The reward function {self.name} has the parameter `{parameter}`, and no row of the "
            f"data has such a column.{suggestion} The rows' other columns: {names}. Correct the "
            f"name, add the column, or give the parameter a default."
        )

    def _describe_failure(self, rows: Sequence[PromptResponse], error: BaseException) -> str:
        first = shorten(repr(rows[0].response)) if rows else "of none"
        return (
            f"The reward function {self.name} failed on {len(rows)} responses, the first {first}: "
            f"{_name_error(error)}. It must return a list with one number a response; --debug "
            f"shows where it failed."
        )


def _as_list(returned: Any, count: int | None) -> list[Any]:
    """What a function returned, as a list; of what has no end one more than the responses. Raises
    TypeError for what has no order, or is one text."""
    if isinstance(returned, Mapping | set | frozenset | str | bytes):
        raise TypeError(f"it returned a {type(returned).__name__}")
    return list(returned if count is None else itertools.islice(returned, count + 1))


def _name_error(error: BaseException) -> str:
    """An error's type and words; what `sys.exit` raises is named after it."""
    name = "sys.exit" if isinstance(error, SystemExit) else type(error).__name__
    return f"{name}: {shorten(str(error))}"


def load_function(source: PythonSource) -> Function:
    """The function that a source names; its module or file is run. Raises RewardError."""

    def describe(error: BaseException) -> str:
        return (
            f"The reward function {source.function} can't be loaded: importing {source.module} "
            f"failed with {_name_error(error)}. Give module:function of a module that Python finds "
            f"from here, or file.py:function."
        )

    module = run_user_code(lambda: _import_module(source.module), source.module, describe)
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
    except (ValueError, TypeError):  # some functions written in C have no signature
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
    prompts = [
        row.prompt if isinstance(row.prompt, str) else turns_json(row.prompt) for row in rows
    ]
    arguments = {column: [_copy(row.meta.get(column)) for row in rows] for column in columns}
    if all(row.tokens is not None for row in rows):
        arguments["completion_ids"] = [list(row.tokens or ()) for row in rows]
    return {
        **arguments,
        "prompts": prompts,
        "responses": [row.response for row in rows],
        "opened": [row.opened for row in rows],
        "completions": [_make_completion(row) for row in rows],
    }


def _copy(value: Any) -> Any:
    """A row's value, such that a function that changes it changes no row."""
    return copy.deepcopy(value) if isinstance(value, list | dict) else value


def _make_completion(row: PromptResponse) -> str | list[dict[str, str]]:
    if isinstance(row.prompt, str):
        return row.response
    return [{"role": "assistant", "content": row.response}]
