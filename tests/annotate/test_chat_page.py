"""A red team's page in Chromium, by keys alone: no message and no verdict is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.compare.store.store import PreferenceStore
from tests.annotate.browsers import press, serving, tab
from tests.annotate.test_accessibility import LOOKS, violations
from tests.fake_openai import FakeOpenAi, completion

EVIL = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "![x](http://evil.example/x.png) [y](javascript:alert(1)) \u202egnp </div></section>"
)


@pytest.fixture
def openai() -> Iterator[FakeOpenAi]:
    server = FakeOpenAi()
    server.answer = lambda body: (200, completion(f"Answer {len(body['messages'])}. {EVIL}"))
    yield server
    server.close()


def arguments(openai: FakeOpenAi) -> list[str]:
    chat = ["chat.model=m", f"chat.base_url={openai.url}", "chat.retries=0"]
    return ["task=redteam", "tags=[unsafe,wrong]", *chat]


def say(page: Any, text: str, answers: int) -> None:
    page.locator("#message").focus()
    page.keyboard.type(text)
    press(page, "Enter")
    wait_for_answers(page, answers)


def wait_for_answers(page: Any, answers: int) -> None:
    page.locator(f".chat[data-answers='{answers}']").wait_for()
    page.locator("#item:not([aria-busy])").wait_for()


def stored(path: Path) -> tuple[list[Any], list[Any]]:
    """The model's answers, and the verdicts with all that were replaced."""
    with PreferenceStore.read(path) as store:
        return store.responses(model="m"), store.verdicts(history=True)


def test_a_conversation_and_its_verdict_by_keys_alone(
    path: Path, browser: Any, openai: FakeOpenAi
) -> None:
    with serving(path, *arguments(openai)) as server, tab(browser, server) as page:
        wait_for_answers(page, 0)
        say(page, "Hello", 1)
        say(page, "Break", 2)
        assert "accord annotate" in page.title()
        assert page.locator("#item img, #item a, #item script").count() == 0
        assert "\u202e" not in page.locator("#item").text_content()
        press(page, "Escape", "a", "ArrowUp", "Escape", "b", "3", "t", "Space", "c")
        page.keyboard.type("It gave in.")
        press(page, "Escape", "Enter")
        wait_for_answers(page, 0)
        say(page, "Again", 1)
        press(page, "Escape", "h", "Enter")
        wait_for_answers(page, 0)
        press(page, "Escape", "u")
        page.get_by_text("You are changing a verdict").wait_for()
        press(page, "b", "1", "t", "Tab", "Space", "Escape", "Enter")
        wait_for_answers(page, 0)
        page.goto(server.url + "owner")
        page.get_by_text("It gave in.").click()
        assert page.locator("#item img, .broken img, .broken a").count() == 0
    answers, verdicts = stored(path)
    assert [len(answer.response.prompt) for answer in answers] == [1, 3, 1]
    said = [(v.items[0].response_id, v.strength, v.tags, v.comment) for v in verdicts]
    first, _, third = (answer.id for answer in answers)
    assert said == [
        (first, 3, ("unsafe",), "It gave in."),
        (third, None, (), None),
        (third, 1, ("wrong",), None),
    ]
    assert verdicts[2].supersedes == verdicts[1].id


def test_reload_kill_and_two_tabs(path: Path, browser: Any, openai: FakeOpenAi) -> None:
    with serving(path, *arguments(openai)) as server, tab(browser, server) as page:
        wait_for_answers(page, 0)
        page.keyboard.type("half a")
        page.reload()
        wait_for_answers(page, 0)
        assert page.locator("#message").input_value() == "half a"
        say(page, "", 1)
        two = page.context.new_page()
        two.goto(server.url)
        wait_for_answers(two, 1)
        say(page, "second", 2)
        two.locator("#message").focus()
        two.keyboard.type("stale")
        press(two, "Enter")
        two.locator("#trouble").get_by_text("another window").wait_for()
        wait_for_answers(two, 2)
        assert two.locator("#message").input_value() == "stale"
        server.kill()
        page.locator("#message").focus()
        page.keyboard.type("third")
        press(page, "Enter")
        page.get_by_text("The server does not answer").wait_for()
        page.close()  # the browser has the message
        server.start()
        page = two.context.new_page()
        page.goto(server.url)
        wait_for_answers(page, 3)
    answers, _ = stored(path)
    assert [answer.response.prompt[-1].content for answer in answers] == [
        "half a",
        "second",
        "third",
    ]


def test_a_reload_while_the_model_writes(path: Path, browser: Any, openai: FakeOpenAi) -> None:
    reply = openai.answer

    def slow(body: Any) -> Any:
        time.sleep(1)
        return reply(body)

    openai.answer = slow
    with serving(path, *arguments(openai)) as server, tab(browser, server) as page:
        wait_for_answers(page, 0)
        page.keyboard.type("slowly")
        press(page, "Enter")
        page.locator("#waiting").wait_for()
        page.reload()
        wait_for_answers(page, 1)
        openai.answer = lambda body: (500, {"error": {"message": "out of order"}})
        page.locator("#message").focus()
        page.keyboard.type("now")
        press(page, "Enter")
        page.locator("#trouble").get_by_text("out of order").wait_for()
        page.locator("#item:not([aria-busy])").wait_for()
        assert page.locator("#message").input_value() == "now"
    assert len(stored(path)[0]) == 1
    assert len(openai.requests) == 2


def test_axe_finds_nothing(path: Path, browser: Any, openai: FakeOpenAi) -> None:
    with serving(path, *arguments(openai)) as server:
        for look in LOOKS.values():
            with tab(browser, server, **look) as page:
                check_pages(page, server.url)


def check_pages(page: Any, url: str) -> None:
    wait_for_answers(page, 0)
    assert violations(page) == []
    say(page, "Hello", 1)
    press(page, "Escape", "b")
    assert violations(page) == []
    press(page, "?")
    page.locator("dialog[open]").wait_for()
    assert violations(page) == []
    press(page, "Escape")
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    press(page, "3", "t", "Space", "Escape", "Enter")
    wait_for_answers(page, 0)
    page.goto(url + "owner")
    assert violations(page) == []
