"""A chat: reads lines, lets one model or two answer, takes votes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from accord.errors import AccordError
from accord.records import Message, Outcome
from accord.serve.chat.commands import CommandError, run_command
from accord.serve.chat.conversation import ChatReply, Conversation, Manner, Side
from accord.serve.chat.screen import Screen
from accord.serve.chat.votes import CHOICES, WORDS, Ballot, response

PROMPT, MORE = "> ", "… "
ReadLine = Callable[[str], str]
"""Shows a prompt and returns the line typed; raises EOFError at the end, KeyboardInterrupt at
Ctrl-C."""


class ChatSession:
    """A conversation with one side, or with two that answer every message, in an order that is
    drawn each time and not shown; the preferred answer continues the conversation."""

    def __init__(
        self,
        sides: Sequence[Side],
        screen: Screen,
        read_line: ReadLine,
        *,
        manner: Manner,
        system: str | None = None,
        ballot: Ballot | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.sides, self.screen, self.read_line = list(sides), screen, read_line
        self.manner, self.ballot = manner, ballot
        self.conversation = Conversation(system)
        self.rng = rng or random.Random()
        self._runner = asyncio.Runner()

    def run(self) -> None:
        """Talk until the end of the input or /exit, then close the engines."""
        try:
            while self._one_line():
                pass
        finally:
            for side in self.sides:
                self._runner.run(side.engine.close())
            self._runner.close()
            if self.ballot is not None:
                self.screen.note(self.ballot.summary())

    def _one_line(self) -> bool:
        """Read a line and do what it asks; whether the chat goes on."""
        try:
            line = self.read_line(PROMPT)
            while line.endswith("\\"):
                line = line[:-1] + "\n" + self.read_line(MORE)
        except EOFError:
            return False
        except KeyboardInterrupt:
            self.screen.note("Ctrl-D or /exit ends the chat.")
            return True
        if not line.strip():
            return True
        try:
            if line.startswith("/"):
                return run_command(self, line.rstrip())
            self.say(line)
        except (CommandError, AccordError) as error:
            self.screen.error(str(error))
        except EOFError:  # at a vote
            return False
        return True

    def say(self, text: str) -> None:
        """Send a message and add the answer to the conversation, with what was stopped of it.

        Raises AccordError where there is no answer; the message is then not part of the
        conversation.
        """
        turns = self.conversation.with_message(text)
        answer = self._ask_one(turns) if len(self.sides) == 1 else self._ask_two(turns)
        self.manner.turns_drawn += 1
        if answer.text:
            self.conversation.add(text, answer.text)

    def _ask_one(self, turns: tuple[Message, ...]) -> ChatReply:
        side, answer = self.sides[0], ChatReply()
        request = self.manner.request(turns, chooses=side.chooses)
        try:
            stopped = self._run(answer.read(side.engine.stream(request), self.screen.piece))
        finally:
            self.screen.end_answer()
        self._remark(answer, stopped)
        return answer

    def _ask_two(self, turns: tuple[Message, ...]) -> ChatReply:
        order = [0, 1]
        self.rng.shuffle(order)
        answers = [ChatReply(), ChatReply()]  # in the order of the sides

        def shown() -> list[str]:
            return [answers[i].text for i in order]

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                for side, answer in zip(self.sides, answers, strict=True):
                    request = self.manner.request(turns, chooses=side.chooses)
                    events = side.engine.stream(request)
                    group.create_task(
                        answer.read(events, lambda _: self.screen.update_pair(shown()))
                    )

        self.screen.begin_pair()
        try:
            stopped = self._run(both())
        except ExceptionGroup as group:
            raise next(e for e in group.exceptions) from None
        finally:
            self.screen.end_pair(shown())
        if stopped:
            self.screen.note("Stopped: there is no vote on it.")
            return answers[order[0]]
        for number, i in enumerate(order, 1):
            if not answers[i].finished:
                self.screen.note(f"Answer {number} is cut at the limit of its length.")
        outcome = self._vote(turns, answers, order)
        preferred = {"a": 0, "b": 1}.get(outcome or "", order[0])
        return answers[preferred]

    def _vote(
        self, turns: tuple[Message, ...], answers: Sequence[ChatReply], order: Sequence[int]
    ) -> Outcome | None:
        """Ask which answer is better, and store it; None where nothing was said."""
        assert self.ballot is not None
        start = time.monotonic()
        while True:
            try:
                word = self.read_line(f"Which is better? {CHOICES}: ").strip().lower()
            except KeyboardInterrupt:
                word = "skip"
            if word == "/exit":
                raise EOFError
            if word in WORDS:
                break
            self.screen.note(f"Give {CHOICES}.")
        choice = WORDS[word]
        if choice == "skip":
            return None
        outcome: Outcome
        if choice in ("first", "second"):
            outcome = "a" if order[choice == "second"] == 0 else "b"
        else:
            outcome = choice  # type: ignore[assignment]
        recorded = self.manner.recorded()
        a, b = (
            response(turns, answer.text, side.name, recorded, answer.tokens, answer.finished)
            for side, answer in zip(self.sides, answers, strict=True)
        )
        first = "a" if order[0] == 0 else "b"
        self.ballot.add(turns, (a, b), outcome, first, time.monotonic() - start)  # type: ignore[arg-type]
        return outcome

    def _run(self, work: object) -> bool:
        """Do work in the event loop; whether Ctrl-C stopped it."""
        try:
            self._runner.run(work)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            return True
        return False

    def _remark(self, answer: ChatReply, stopped: bool) -> None:
        scores = answer.report.get("candidate_scores") or []
        known = [score for score in scores if score is not None]
        if known:
            self.screen.note(
                f"Best of {len(scores)}: {max(known):.3g}; the others from {min(known):.3g}, "
                f"mean {sum(known) / len(known):.3g}."
            )
        if stopped:
            self.screen.note("Stopped.")
        elif not answer.finished:
            self.screen.note("Cut at the limit of its length.")
