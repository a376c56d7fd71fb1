"""The documentation site: it builds without a warning, is whole, and loads nothing from afar."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mdit_py_plugins.anchors.index import slugify  # which MyST makes anchors with
from sphinx.cmd.build import build_main

from tests.annotate.browsers import CHROMIUM

DOCS = Path(__file__).resolve().parent.parent / "docs"
LEARN = DOCS / "learn"
PAGES = sorted(p for p in LEARN.glob("*.md") if p.name not in ("index.md", "questions.md"))
HEADINGS = (
    "The mathematics",
    "The code",
    "An experiment",
    "When to use it",
    "What goes wrong, and how it looks",
    "Questions",
    "Sources",
)


class Page(HTMLParser):
    """The ids of a page, its links, and the files that a browser loads with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.formulas = 0
        self.loose_formulas = 0  # in no box that scrolls
        self.last = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.formulas += tag == "math"
        self.loose_formulas += tag == "math" and self.last not in ("formula", "inline-formula")
        if tag != "span" or "class" in values:
            self.last = values.get("class", "")
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "index", "search"):
            self.loaded.append(values["href"])
        self.loaded += [values[key] for key in ("src", "srcset", "data") if values.get(key)]


def broken(site: Path, pages: dict[Path, Page]) -> list[str]:
    """Links and loaded files that lead nowhere, and what would be loaded from a network."""
    faults = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loaded:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme not in ("", "data"):
                faults.append(f"{name} loads {address} from a network")
            elif parts.path and not (path.parent / unquote(parts.path)).exists():
                faults.append(f"{name} loads {address}, which does not exist")
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                faults.append(f"{name} links to {address}, which does not exist")
            elif target in pages and unquote(parts.fragment) not in pages[target].ids | {""}:
                faults.append(f"{name} links to {address}: there is no such heading")
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        for address in re.findall(r"(?:url\(|@import\s)\s*['\"]?(https?:[^'\")]*)", text):
            faults.append(f"{style.relative_to(site)} loads {address} from a network")
    return faults


def too_wide(paths: list[Path]) -> list[str]:
    """Pages of which a phone shows a part only, unless all of the page is moved sideways."""
    from playwright.sync_api import sync_playwright

    faults = []
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, is_mobile=True)
        for path in paths:
            page.goto(path.as_uri())
            # The theme lets the box of the text scroll where the text is wider.
            if page.evaluate(
                "() => [document.scrollingElement, document.querySelector('.content')]"
                ".some(e => e && e.scrollWidth > e.clientWidth)"
            ):
                faults.append(path.name)
        browser.close()
    return faults


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One test, since a build takes some ten seconds. A page outside every table of contents, a link
    # to a missing heading and a formula that can't be converted are warnings, which -W forbids.
    site = (tmp_path / "site").resolve()
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", str(tmp_path / "doctrees")]
    assert build_main([*options, str(DOCS), str(site)]) == 0, capsys.readouterr().err
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert broken(site, pages) == []
    sources = {p.relative_to(DOCS).with_suffix(".html") for p in DOCS.rglob("*.md")}
    sources = {
        p for p in sources if p.parts[:2] != ("learn", "figures") and "_build" not in p.parts
    }
    assert sources <= {path.relative_to(site) for path in pages}
    api = pages[site / "api.html"]
    assert {"accord.train", "accord.steps", "accord.objectives.preference.dpo_loss"} <= api.ids
    for source in PAGES:
        written = len(re.findall(r"\$", re.sub(r"`+[^`]*`+", "", source.read_text("utf-8"))))
        page = pages[site / "learn" / f"{source.stem}.html"]
        assert page.formulas > 0 or written == 0, source
        assert page.loose_formulas == 0, f"{source}: a formula that can't be scrolled"
    if CHROMIUM and find_spec("playwright"):
        assert too_wide(list(pages)) == []


def test_broken_links_and_files_from_a_network_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text("<h1 id='here'>B</h1>")
    (tmp_path / "a.html").write_text(
        "<script src='https://cdn.example/x.js'></script><img src='none.svg'>"
        "<a href='b.html#here'>1</a><a href='b.html#there'>2</a><a href='c.html'>3</a>"
        "<a href='https://elsewhere.example'>4</a>"
    )
    (tmp_path / "s.css").write_text("@font-face { src: url('https://fonts.example/f.woff2') }")
    pages = {p: Page(p.read_text()) for p in tmp_path.glob("*.html")}
    assert broken(tmp_path, pages) == [
        "a.html loads https://cdn.example/x.js from a network",
        "a.html loads none.svg, which does not exist",
        "a.html links to b.html#there: there is no such heading",
        "a.html links to c.html, which does not exist",
        "s.css loads https://fonts.example/f.woff2 from a network",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_learn_page_has_its_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    assert tuple(headings) == HEADINGS
    assert "{literalinclude}" in text
    assert re.search(r"^### .*\?$", text.partition("## Questions")[2], re.M)
    assert f"python docs/learn/experiments/{page.stem}.py" in text
    assert f"](figures/{page.stem}.svg)" in text
    assert f"```{{include}} figures/{page.stem}.md\n```" in text
    assert (LEARN / "experiments" / f"{page.stem}.py").is_file()
    for suffix in (".svg", "-dark.svg", ".md"):
        figure = LEARN / "figures" / f"{page.stem}{suffix}"
        assert figure.stat().st_size < 100_000, f"{figure} is large"
    fragment = (LEARN / "figures" / f"{page.stem}.md").read_text(encoding="utf-8")
    assert re.search(r"`python docs/learn/experiments/[\w-]+\.py`, .*, \d{4}-\d\d-\d\d\.", fragment)


def test_each_question_of_the_table_leads_to_a_heading_of_a_page() -> None:
    table = (LEARN / "questions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*\?) \| \[[^]]+\]\(([\w-]+\.md)#([\w-]+)\) \|$", table, re.M)
    assert len(rows) == table.count("\n| ") - 1  # the head of the table has no link
    assert len({question for question, _, _ in rows}) == len(rows)
    for question, page, anchor in rows:
        headings = re.findall(r"^##+ (.*)$", (LEARN / page).read_text(encoding="utf-8"), re.M)
        assert anchor in {slugify(heading) for heading in headings}, question
