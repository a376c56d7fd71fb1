"""What a line that begins with a slash does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from accord.runs import storage_errors

if TYPE_CHECKING:
    from accord.serve.chat.session import ChatSession

HELP = """\
/best N         answer with the best of N by the reward (--reward); 1 for the first answer
/temperature T  0 takes the likeliest token
/max_tokens N   tokens of an answer; "off" for as many as fit
/seed N         the same answers each time; "off" for new ones
/system TEXT    the system prompt; "off" for none; begins a new conversation
/retry          answer the last message again
/clear          begin a new conversation
/history        the conversation so far
/save FILE      write the conversation as a line of JSON
/votes          the votes so far: reveals which model is ahead
/exit           end (as Ctrl-D does). Ctrl-C stops an answer. A line that ends in \\ goes on."""


class CommandError(ValueError):
    """A command that can't be done, with the reason."""


def run_command(chat: ChatSession, line: str) -> bool:
    """Do what a line says; whether the chat goes on. Raises CommandError."""
    name, _, argument = line[1:].partition(" ")
    if name in ("exit", "quit", "q"):
        return False
    command = COMMANDS.get(name)
    if command is None:
        known = ", ".join(f"/{known}" for known in (*COMMANDS, "exit"))
        raise CommandError(f"There is no /{name}. The commands are {known}.")
    command(chat, argument.strip())
    return True


def _help(chat: ChatSession, argument: str) -> None:
    chat.screen.note(HELP)


def _best(chat: ChatSession, argument: str) -> None:
    n = _whole(argument, "best", 1, 256)
    if n > 1 and not all(side.chooses for side in chat.sides):
        raise CommandError("Nothing scores the answers. Start the chat with --reward MODEL.")
    if n > 1 and chat.manner.temperature == 0:
        raise CommandError("With temperature 0 all answers are equal. Set /temperature first.")
    chat.manner.best_of = n
    chat.screen.note("The first answer." if n == 1 else f"The best of {n}.")


def _temperature(chat: ChatSession, argument: str) -> None:
    try:
        value = float(argument)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise CommandError("/temperature needs a number from 0, such as 0.7.")
    if value == 0 and chat.manner.best_of > 1:
        raise CommandError("With temperature 0 all answers are equal. Set /best 1 first.")
    chat.manner.temperature = value
    chat.screen.note(f"Temperature {value:g}.")


def _seed(chat: ChatSession, argument: str) -> None:
    seed = None if argument == "off" else _whole(argument, "seed", 0, 2**63 - 1)
    chat.manner.seed, chat.manner.turns_drawn = seed, 0
    chat.screen.note("New answers each time." if seed is None else f"Seed {seed}.")


def _max_tokens(chat: ChatSession, argument: str) -> None:
    limit = None if argument == "off" else _whole(argument, "max_tokens", 1, 1 << 30)
    chat.manner.max_tokens = limit
    chat.screen.note("As long as it fits." if limit is None else f"At most {limit} tokens.")


def _system(chat: ChatSession, argument: str) -> None:
    if not argument:
        chat.screen.note(f"System prompt: {chat.conversation.system or 'none'}")
        return
    chat.conversation.system = None if argument == "off" else argument
    _clear(chat, "")


def _clear(chat: ChatSession, argument: str) -> None:
    chat.conversation.turns.clear()
    chat.manner.turns_drawn = 0
    chat.screen.note("A new conversation.")


def _history(chat: ChatSession, argument: str) -> None:
    messages = chat.conversation.messages()
    for message in messages:
        chat.screen.note(f"{message['role']}: {message['content']}")
    if not messages:
        chat.screen.note("Nothing was said yet.")


def _save(chat: ChatSession, argument: str) -> None:
    if not argument:
        raise CommandError("/save needs a file, such as /save talk.jsonl.")
    if not chat.conversation.turns:
        raise CommandError("Nothing was said yet, so there is nothing to save.")
    path = Path(argument).expanduser()
    row = {"messages": chat.conversation.messages()}
    line = json.dumps(row, ensure_ascii=True) + "\n"
    with storage_errors(path):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(line)
        except FileExistsError:
            raise CommandError(f"{path} exists already, and is not written over.") from None
    chat.screen.note(f"Written to {path}.")


def _retry(chat: ChatSession, argument: str) -> None:
    message = chat.conversation.take_back()
    if message is None:
        raise CommandError("Nothing was said yet, so there is nothing to answer again.")
    chat.say(message)


def _votes(chat: ChatSession, argument: str) -> None:
    if chat.ballot is None:
        raise CommandError("Votes are between two models: accord chat MODEL MODEL2.")
    chat.screen.note(chat.ballot.summary())


def _whole(text: str, name: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise CommandError(f"/{name} needs a whole number from {low} to {high}.")
    return value


COMMANDS: Mapping[str, Callable[[ChatSession, str], None]] = {
    "help": _help,
    "best": _best,
    "temperature": _temperature,
    "max_tokens": _max_tokens,
    "seed": _seed,
    "system": _system,
    "retry": _retry,
    "clear": _clear,
    "history": _history,
    "save": _save,
    "votes": _votes,
}
