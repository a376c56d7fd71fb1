r"""TeX formulas in Markdown as MathML, which browsers draw without any script or font.

`$…$` and `\(…\)` stand in the line, `$$…$$` and `\[…\]` apart from it. As in Pandoc, a single
dollar begins a formula only where no space follows it, and ends one where no space precedes it and
no digit follows: $5 and $10 are money. What can't be read as TeX stays as it is written, and so
does what would hide a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import escape

LONGEST = 2000  # characters of a formula
MAX_FORMULAS = 300  # in one text, so that none takes long
_HIDING = re.compile(
    r"\\(href|url|class|cssId|style|color|textcolor|colorbox|[hv]?phantom|require|def|newcommand)\b"
)
DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msub", "msup", "msubsup", "mfrac"),
    *("msqrt", "mroot", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "mstyle"),
}
ATTRIBUTES = {"math": {"display"}, "mo": {"stretchy", "fence"}, "mi": {"mathvariant"}}


def add_mathematics(reader: MarkdownIt) -> None:
    """Let a Markdown reader read formulas."""
    reader.inline.ruler.before("escape", "formula", _read)
    reader.add_render_rule("formula", _render)


def _read(state: StateInline, silent: bool) -> bool:
    for opening, closing in DELIMITERS:
        start = state.pos + len(opening)
        if not state.src.startswith(opening, state.pos):
            continue
        end = state.src.find(closing, start, start + LONGEST)
        formula = state.src[start:end]
        if end < 0 or not formula.strip():
            continue
        if opening == "$" and (
            formula != formula.strip() or state.src[end + 1 : end + 2].isdigit()
        ):
            return False
        if not silent:
            token = state.push("formula", "", 0)
            token.content, token.markup, token.info = formula, opening, closing
        state.pos = end + len(closing)
        return True
    return False


def _render(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    index: int,
    options: OptionsDict,
    env: EnvType,
) -> str:
    token = tokens[index]
    number = env["formulas"] = env.get("formulas", 0) + 1
    if number <= MAX_FORMULAS and not _HIDING.search(token.content):
        # In `\text{…}` the converter would leave a tag as it is, which is then removed unseen.
        formula = token.content.replace("<", r"\lt ").replace(">", r"\gt ")
        try:
            is_apart = token.markup in ("$$", "\\[")
            return str(convert(formula, display="block" if is_apart else "inline"))
        except Exception:  # whatever a model took for TeX
            pass
    return f"<code>{escape(token.markup + token.content + token.info)}</code>"
