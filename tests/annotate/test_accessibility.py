"""axe-core on every page, light and dark, and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.annotate.browsers import LOOKS, press, serving, tab, violations, wait_for_done


@pytest.mark.parametrize("task", ["pairs", "rankings", "labels"])
def test_items(path: Path, browser: Any, task: str) -> None:
    guide = path.with_name("guide.md")
    guide.write_text("# Guide\n\nBe *kind*.\n\n- one\n- two\n")
    with serving(path, f"task={task}", "tags=[wrong,rude]", f"guidelines={guide}") as server:
        for look in LOOKS.values():
            with tab(browser, server, **look) as page:
                check_pages(page, server.url)


def check_pages(page: Any, url: str) -> None:
    wait_for_done(page, 0)
    assert violations(page) == []
    press(page, "ArrowLeft", "t", "e", "d")
    page.locator("#item:not([aria-busy])").wait_for()
    assert violations(page) == []
    page.evaluate("() => document.activeElement.blur()")
    for key in "?sf":
        press(page, key)
        page.locator("dialog[open]").wait_for()
        assert violations(page) == []
        press(page, "Escape")
    page.goto(url + "owner")
    assert violations(page) == []
    page.goto(url + "enter")
    assert violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
