"""axe-core on every page, light and dark, and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")

from playwright import sync_api

from tests.annotate.browsers import CHROMIUM, press, serving, tab, wait_for_done

if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def violations(page: Any) -> list[str]:
    page.evaluate(AXE)
    # Behind an open dialog everything is inert and dimmed.
    found = page.evaluate("() => axe.run(document.querySelector('dialog[open]') ?? document)")
    return [
        f"{each['impact']}: {each['id']} at {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("task", ["pairs", "rankings", "labels"])
def test_items(path: Path, browser: Any, task: str, look: str) -> None:
    guide = path.with_name("guide.md")
    guide.write_text("# Guide\n\nBe *kind*.\n\n- one\n- two\n")
    settings = (f"task={task}", "tags=[wrong,rude]", f"guidelines={guide}")
    with serving(path, *settings) as server, tab(browser, server, **LOOKS[look]) as page:
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
        page.goto(server.url + "owner")
        assert violations(page) == []
        page.goto(server.url + "enter")
        assert violations(page) == []
        overflow = "() => document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(overflow) <= 0
