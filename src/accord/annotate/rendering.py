"""Model text as HTML that can harm nobody: Markdown without HTML, images or links, sanitised.

Text of models is untrusted. markdown-it-py escapes HTML (`html: false`); its rules for images and
links are off, so their source stands there as text and nothing is fetched; nh3 then removes every
tag and attribute that the list below does not name. Characters that a reader can't see, or that
change the direction of what follows, are shown by their numbers.
"""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from accord.annotate import mathematics
from accord.compare.texts import CONTROLS, numbered, visible_controls

LONG = 50_000  # characters: a longer text is shown as plain text, in parts
PART = 20_000

_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "em", "strong", "s", "code", "pre"),
    *("blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *mathematics.TAGS,
}
_ATTRIBUTES = {"ol": {"start"}, **mathematics.ATTRIBUTES}
_OPERATORS = "\u2061\u2062\u2063\u2064"  # of formulas, which are not drawn


def plain_html(text: str) -> Markup:
    """The text as it is, to stand where white space is preserved."""
    return escape(visible_controls(text))


@lru_cache(maxsize=256)
def markdown_html(text: str) -> Markup:
    """Markdown as sanitised HTML. Longer texts than `LONG` are not read as Markdown."""
    if len(text) > LONG:
        return plain_html(text)
    html = _MARKDOWN.render(visible_controls(text))
    clean = nh3.clean(html, tags=_TAGS, attributes=_ATTRIBUTES, link_rel=None)
    # Markdown can write an unseen character as `&#x202e;`.
    return Markup(CONTROLS.sub(lambda m: m[0] if m[0] in _OPERATORS else numbered(m), clean))


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 30})
    reader.enable(["table", "strikethrough"])
    mathematics.add_mathematics(reader)
    # A link's or image's address is a part of what the model wrote: it is shown, not followed.
    # A reference's definition would vanish from what is seen.
    return reader.disable(["image", "link", "autolink", "reference", "html_block", "html_inline"])


_MARKDOWN = _reader()
