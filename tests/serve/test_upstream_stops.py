"""Stop strings in front of a server that shows them, or ignores them: texts, log-probs and ends."""

from __future__ import annotations

import pytest

from accord.respond.protocol import SamplingSettings
from accord.serve.engine import Delta, EngineRequest, TokenLogprob, TokenUsage
from accord.serve.upstream.stops import StopCut
from tests.serve.best_of import answers
from tests.serve.conftest import wait_for
from tests.serve.fake_upstream import fake_upstream
from tests.serve.test_upstream import CHAT, ask


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), -0.5)


def cut(
    stop: tuple[str, ...], *pieces: tuple[str, tuple[str, ...]], finish: bool = False
) -> list[tuple[str, tuple[str, ...]]]:
    """What is shown of pieces, each a text and the texts of its tokens."""
    cutter, shown = StopCut(stop), []
    for number, (text, tokens) in enumerate(pieces):
        reason = "stop" if finish and number == len(pieces) - 1 else None
        delta = cutter.cut(Delta(0, text, tuple(map(token, tokens)), reason))  # type: ignore[arg-type]
        if delta is not None:
            shown.append((delta.text, tuple(t.text for t in delta.tokens)))
    return shown


@pytest.mark.parametrize(
    ("stop", "pieces", "shown"),
    [
        # The tokens of a stop string, and one that it begins in, are not shown.
        (("two",), ("one", " two", " x"), [("one", ("one",)), (" ", ())]),
        (("e tw",), ("one", " two"), [("on", ()), ("", ())]),
        # Those of withheld text come with it.
        (
            (" two x",),
            ("one", " two", " y"),
            [("one", ("one",)), ("", ()), (" two y", (" two", " y"))],
        ),
        # A token that is shown in part waits for the rest of it.
        (("e x",), ("one", "a"), [("on", ()), ("ea", ("one", "a"))]),
    ],
)
def test_log_probs_keep_in_step_with_the_text(
    stop: tuple[str, ...], pieces: tuple[str, ...], shown: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert cut(stop, *((piece, (piece,)) for piece in pieces)) == shown


def test_tokens_of_another_form_than_the_text() -> None:
    # Several at once, without their blanks; parts of a character; a control token.
    several = ("one two END", ("one", "two", "E", "ND"))
    assert cut(("END",), several) == [("one two ", ("one", "two"))]
    parts = ("é E", ("<s>", "\ufffd", "\ufffd", " ", "E"))
    assert cut(("END",), parts, ("N", ("N",)), ("D", ("D",)))[0] == ("é ", parts[1][:-1])
    # The end shows all that was withheld.
    assert cut(("END",), ("one E", ("one", " E")), ("N", ("N",)), finish=True) == [
        ("one ", ("one",)),
        ("EN", (" E", "N")),
    ]


def test_the_tokens_of_a_stop_string_are_not_in_the_log_probs_of_an_answer() -> None:
    with fake_upstream() as server:
        asked = EngineRequest(CHAT, SamplingSettings(stop=("two",)), top_logprobs=0)
        _, (events,) = ask(server, asked)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [t.text for delta in deltas for t in delta.tokens] == ["one"]


@pytest.mark.parametrize("n", [1, 2])
def test_nobody_waits_for_what_a_server_generates_behind_a_stop_string(n: int) -> None:
    with fake_upstream() as server:
        server.texts, server.delay = ["a stop" + " x" * 500, "b c stop" + " x" * 500], 0.01
        asked = EngineRequest(CHAT, SamplingSettings(n, stop=("stop",)))
        engine, (events,) = ask(server, asked)
        assert answers(events) == dict(enumerate(("a ", "b c ")[:n]))
        usage = events[-1]
        assert isinstance(usage, TokenUsage)
        assert usage.accord == {"usage_estimated": True}
        assert 0 < usage.completion_tokens < 10 * n
        wait_for(lambda: not server.running)
        assert server.broken_off == 1
        assert engine.gauges()["upstream_running"] == 0
        assert engine.honours_n is (True if n > 1 else None)
