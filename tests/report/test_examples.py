"""Which prompts are shown, and how answers are marked."""

from __future__ import annotations

from accord.data.write import ResponseRow
from accord.records import Message, Response
from accord.report.examples import examples


def line(prompt: str, kind: str, *texts: str, finished: bool = True) -> ResponseRow:
    asked = (Message("user", prompt),)
    said = tuple(Response(asked, text, "m", finished=finished) for text in texts)
    return ResponseRow(asked, {"kind": kind} if kind else {}, "m", {}, said)


def test_kinds_take_turns_and_only_shared_prompts_are_shown() -> None:
    ours = [line(p, p[0], "x") for p in ("a1", "a2", "a3", "b1", "b2")]
    theirs = [line(p, p[0], "y") for p in ("b2", "b1", "a3", "a2")]
    shown = examples({"one": ours, "two": theirs}, 3)
    assert [example.prompt for example in shown] == ["a2", "b1", "a3"]
    assert [answer.model for answer in shown[0].answers] == ["one", "two"]
    assert [answer.text for answer in shown[0].answers] == ["x", "y"]
    assert examples({"one": ours}, 0) == []
    assert examples({}, 5) == []


def test_prompts_that_are_not_shared_are_shown_rather_than_none() -> None:
    shown = examples({"one": [line("a", "", "x")], "two": [line("b", "", "y")]}, 5)
    assert [example.prompt for example in shown] == ["a", "b"]
    assert [len(example.answers) for example in shown] == [1, 1]


def test_refusals_and_cut_answers_are_marked() -> None:
    (shown,) = examples({"m": [line("p", "safe", "I cannot help with that.", finished=False)]}, 1)
    (answer,) = shown.answers
    assert answer.refuses
    assert answer.cut
    assert shown.kind == "safe"


def test_a_conversation_is_told_with_its_roles() -> None:
    asked = (Message("system", "Be brief."), Message("user", "Hello"))
    row = ResponseRow(asked, {}, "m", {}, (Response(asked, "Hi", "m"),))
    (shown,) = examples({"m": [row]}, 1)
    assert shown.prompt == "system: Be brief.\n\nuser: Hello"
