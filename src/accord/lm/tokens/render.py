"""The text that a chat template makes of a conversation, within limits of time and memory.

A template comes with a model and is run as code, so it is not trusted to end.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import pairwise
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

from accord.errors import DataError, ModelError

RENDER_SECONDS = 10.0
MAX_ADDED_CHARACTERS = 2_000_000  # real templates add some thousands
MEMORY_BYTES = 1 << 30
_POLL_SECONDS = 0.1
_limits_memory: ContextVar[bool] = ContextVar("_limits_memory", default=True)
_FILE_STATEMENTS = ("include", "import", "from", "extends")


class UnusableRow(Exception):  # noqa: N818 - not an error: the row is counted and left out
    """A row can't be used; the message is the reason."""


class _TimeIsUp(BaseException):
    """Not an Exception, so that no handler of the template engine catches it."""


def render(
    turns: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    generation_prompt: bool = False,
    continue_last: bool = False,
    context: Mapping[str, Any] | None = None,
) -> str:
    """The chat template's text of turns, as `apply_chat_template` of transformers renders it.

    With `generation_prompt` it ends where an answer begins; with `continue_last` it ends within the
    last turn, for the model to continue. `context` holds the template's further variables, such as
    `tools`. Raises DataError without a template, ModelError for a
    template that can't be used, and UnusableRow where the template refuses these turns.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise DataError(
            "The rows are conversations, but the tokenizer has no chat template. Save one with "
            "the tokenizer (`chat_template`), or give prompts and responses as plain text."
        )
    for source in template.values() if isinstance(template, dict) else [template]:
        _check_template(str(source))
    try:
        with _limits():
            text = str(
                tokenizer.apply_chat_template(
                    list(turns),
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                    continue_final_message=continue_last,
                    **(context or {}),
                )
            )
    except _TimeIsUp as error:
        raise _unusable(f"does not end within {RENDER_SECONDS:g} seconds", turns) from error
    except MemoryError as error:
        raise _unusable(f"needs more than {MEMORY_BYTES >> 30} GiB of memory", turns) from error
    except TemplateSyntaxError as error:
        raise _syntax_error(error) from error
    except (RecursionError, SecurityError) as error:
        raise _unusable(f"fails ({type(error).__name__}: {error})", turns) from error
    except TemplateError as error:
        raise UnusableRow(f"the chat template refuses it ({error})") from error
    except Exception as error:  # the template's code may raise anything
        if continue_last and "continue_final_message" in str(error):
            raise UnusableRow(
                "the chat template leaves out the last turn, which the answer was to continue"
            ) from error
        raise UnusableRow(
            f"the chat template fails on it ({type(error).__name__}: {error})"
        ) from error
    added = len(text) - sum(len(str(turn)) for turn in turns)
    if added > MAX_ADDED_CHARACTERS:
        raise _unusable(f"writes {len(text):,} characters", turns)
    return text


def _unusable(what: str, turns: Sequence[dict[str, Any]]) -> ModelError:
    length = sum(len(str(turn.get("content", ""))) for turn in turns)
    return ModelError(
        f"The tokenizer's chat template {what}, on a conversation of {len(turns)} turns with "
        f"{length:,} characters. Replace the template (`chat_template`) saved with the tokenizer."
    )


def _syntax_error(error: TemplateSyntaxError) -> ModelError:
    return ModelError(
        f"The tokenizer's chat template has a syntax error in line {error.lineno}: "
        f"{error.message}. Replace the template (`chat_template`) saved with the tokenizer."
    )


@lru_cache(maxsize=64)
def _check_template(source: str) -> None:
    """Raise ModelError for a template that could not be rendered, or not within the limits: a power
    of two numbers is one instruction, which nothing can interrupt."""
    try:
        tokens = [(kind, value) for _, kind, value in Environment().lex(source)]
    except TemplateSyntaxError as error:
        raise _syntax_error(error) from error
    statement = [value for kind, value in tokens if kind != "whitespace"]
    for before, name in pairwise(statement):
        if re.fullmatch(r"\{%[-+]?", before.strip()) and name in _FILE_STATEMENTS:
            raise ModelError(
                f"The tokenizer's chat template reads another file ({{% {name} … %}}), and a chat "
                f"template must be one file. Write the other template's text into it."
            )
    if ("operator", "**") in tokens:
        raise ModelError(
            "The tokenizer's chat template computes a power (**), which could take forever. "
            "Replace the template (`chat_template`) saved with the tokenizer."
        )


class _Watch:
    """A thread that raises _TimeIsUp in the rendering thread after its deadline."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every rendering: a lock that another thread holds at a fork would never be
        released in the child."""
        self.rendering = threading.RLock()  # one rendering at a time: the limits are the process's
        self.lock = threading.Lock()
        self.deadline: float | None = None
        self.raised = False
        self.target = 0
        self.thread: threading.Thread | None = None

    def start(self, seconds: float) -> None:
        with self.lock:
            self.target, self.deadline = threading.get_ident(), time.monotonic() + seconds
            self.raised = False
            if self.thread is None or not self.thread.is_alive():  # not alive after a fork
                self.thread = threading.Thread(target=self._run, daemon=True, name="template-limit")
                self.thread.start()

    def stop(self) -> None:
        """End the deadline. What was raised too late to end the rendering ends here.

        It is not taken back by raising NULL: CPython 3.11 then calls a profiled or traced function
        without end.
        """
        try:
            with self.lock:
                self.deadline = None
            for _ in range(10 if self.raised else 0):
                time.sleep(_POLL_SECONDS)
        except _TimeIsUp:
            pass
        self.raised = False

    def _run(self) -> None:
        while True:
            time.sleep(_POLL_SECONDS)
            with self.lock:
                if self.deadline is not None and time.monotonic() > self.deadline:
                    self.deadline, self.raised = None, True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(self.target), ctypes.py_object(_TimeIsUp)
                    )


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.reset)


@contextmanager
def without_memory_limit() -> Iterator[None]:
    """Within, rendering in this thread has no limit of memory: the limit is the whole process's,
    and other threads, such as an engine's, would fail at it."""
    token = _limits_memory.set(False)
    try:
        yield
    finally:
        _limits_memory.reset(token)


@contextmanager
def _limits() -> Iterator[None]:
    with _watch.rendering, _memory_limit():
        _watch.start(RENDER_SECONDS)
        try:
            yield
        except _TimeIsUp:
            _watch.raised = False
            raise
        finally:
            _watch.stop()


@contextmanager
def _memory_limit() -> Iterator[None]:
    """At most MEMORY_BYTES more address space than now, where the system knows such a limit."""
    if sys.platform != "linux" or not _limits_memory.get():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    bounds = [value for value in (soft, hard, limit) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
