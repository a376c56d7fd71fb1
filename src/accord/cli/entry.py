"""The entry point of the `accord` command; it turns every error into a paragraph and an exit code.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 an audit failed (`cli/gate.py`) or
a plan does not fit the machine (`cli/plan.py`), 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer

from accord.cli.app import app
from accord.cli.quiet import quiet_libraries
from accord.errors import AccordError
from accord.interrupts import INTERRUPTS

_INTERRUPTED = 130
_MAX_NAME = 60  # characters of a file's name that an error shows
_RESUME = "Interrupted. The same command resumes where it stopped."
_STATELESS = ("serve", "chat")  # commands that have nothing to resume


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--debug" not in arguments:
        quiet_libraries()
    sys.exit(run(arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; `--debug` is accepted at any position."""
    _replace_unencodable_characters()
    debug = "--debug" in arguments
    try:
        with _interrupted_by_signals():
            code = app([a for a in arguments if a != "--debug"], "accord", standalone_mode=False)
            code = code if isinstance(code, int) else 0
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # quiet at exit too
        return 0
    except typer.TyperException as error:
        _print_error(f"{error.format_message()} `accord COMMAND --help` explains the command.")
        return 2
    except AccordError as error:
        return _report(error, str(error), debug, code=error.exit_code)
    except SystemExit as error:  # of a module that the run has imported: the work is not done
        message = (
            f"Code that accord ran ended it by sys.exit({error.code!r}): "
            f"{_in_one_line(error)}. Look there for what it waits for, and let it raise an error "
            f"instead."
        )
        return _report(error, message, debug, code=1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            name = max(Path(str(error.filename)).parts, key=len)
            shown = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
            message = f"The path with {shown!r} can't be used: {error.strerror}. Check it."
            return _report(error, message, debug, code=2)
        message = (
            f"accord met an unexpected error: {_in_one_line(error)}. Run the same command with "
            "--debug for the traceback, and report it if it is a bug of accord."
        )
        return _report(error, message, debug, code=1)
    if code == _INTERRUPTED:
        with suppress(OSError):  # the terminal may be closed
            message = "Interrupted." if arguments[0] in _STATELESS else _RESUME
            typer.echo(f"\n{message}", err=True)
    return code


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """End the command as Ctrl-C does where a signal would end the process without a word, as when
    its terminal is closed or a batch system's time is up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {}
    with suppress(ValueError):  # not in the main thread
        for number in INTERRUPTS:  # Python raises KeyboardInterrupt for the first, SIGINT, itself
            if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores one
                previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _report(error: BaseException, message: str, debug: bool, *, code: int) -> int:
    if debug:
        traceback.print_exception(error)
    _print_error(message)
    return code


def _print_error(message: str) -> None:
    """Print one paragraph on stderr; control characters, which a terminal would execute, are
    escaped."""
    shown = "".join(
        char if char.isprintable() else " " if char in "\n\t" else f"\\x{ord(char):02x}"
        for char in message.strip()
    )
    typer.secho("Error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.echo(shown, err=True)


def _in_one_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}{where}"


def _replace_unencodable_characters() -> None:
    """Print an escape sequence for each character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
