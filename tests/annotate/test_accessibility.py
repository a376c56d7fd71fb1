"""axe-core on every page, light and dark, and on a phone."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")

from tests.annotate.browsers import press, serving, tab, wait_for_done

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True},
}


def violations(page: Any) -> list[str]:
    page.evaluate(AXE)
    # Behind an open dialog everything is inert and dimmed.
    found = page.evaluate("() => axe.run(document.querySelector('dialog[open]') ?? document)")
    return [
        f"{each['impact']}: {each['id']} at {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]


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
