"""The prompts that are shown, and the marks of answers."""

from __future__ import annotations

from accord.data.write import ResponseRow
from accord.records import Message, Response
from accord.report.examples import examples


def row(prompt: str, kind: str, *texts: str, finished: bool = True) -> ResponseRow:
    messages = (Message("user", prompt),)
    responses = tuple(Response(messages, text, "m", finished=finished) for text in texts)
    return ResponseRow(messages, {"kind": kind} if kind else {}, "m", {}, responses)


def test_kinds_alternate_and_only_shared_prompts_are_shown() -> None:
    first = [row(p, p[0], "x") for p in ("a1", "a2", "a3", "b1", "b2")]
    second = [row(p, p[0], "y") for p in ("b2", "b1", "a3", "a2")]
    shown = examples({"one": first, "two": second}, 3)
    assert [example.prompt for example in shown] == ["a2", "b1", "a3"]
    assert [answer.model for answer in shown[0].answers] == ["one", "two"]
    assert [answer.text for answer in shown[0].answers] == ["x", "y"]
    assert examples({"one": first}, 0) == []
    assert examples({}, 5) == []


def test_without_shared_prompts_the_others_are_shown() -> None:
    shown = examples({"one": [row("a", "", "x")], "two": [row("b", "", "y")]}, 5)
    assert [example.prompt for example in shown] == ["a", "b"]
    assert [len(example.answers) for example in shown] == [1, 1]


def test_refusals_and_cut_answers_are_marked() -> None:
    (shown,) = examples({"m": [row("p", "safe", "I cannot help with that.", finished=False)]}, 1)
    (answer,) = shown.answers
    assert answer.refuses
    assert answer.cut
    assert shown.kind == "safe"


def test_a_conversation_is_shown_with_its_roles() -> None:
    messages = (Message("system", "Be brief."), Message("user", "Hello"))
    answered = ResponseRow(messages, {}, "m", {}, (Response(messages, "Hi", "m"),))
    (shown,) = examples({"m": [answered]}, 1)
    assert shown.prompt == "system: Be brief.\n\nuser: Hello"
