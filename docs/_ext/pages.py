"""What the pages need beyond Sphinx: figures in two styles, and docstrings in Markdown.

- A mean with its interval stays on one line in a table.
- An image NAME.svg with NAME-dark.svg beside it is shown in the theme that is on.
- A docstring's single backticks are code; what reStructuredText would take for markup is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

OUTSIDE = {
    "README.md": "overview.md",
    "src/accord/learn/online/README.md": "online-iteration.md",
}
_CODE = re.compile(r"(``.*?``|`[^`]*`)")
_ITEM = re.compile(r"\s*([-*]|\d+\.) ")


class TwoStyles(SphinxTransform):
    """Each figure with a dark twin becomes two images, of which the theme shows one."""

    default_priority = 10  # before images are collected

    def apply(self, **_: Any) -> None:
        page = Path(self.env.doc2path(self.env.docname)).parent
        for image in list(self.document.findall(nodes.image)):
            light = Path(image["uri"])
            dark = light.with_name(f"{light.stem}-dark{light.suffix}")
            if "://" in image["uri"] or not (page / dark).is_file():
                continue
            twin = image.deepcopy()
            twin["uri"] = dark.as_posix()
            image["classes"].append("only-light")
            twin["classes"].append("only-dark")
            image.parent.insert(image.parent.index(image) + 1, twin)


class UnbrokenIntervals(SphinxTransform):
    """`0.71 ± 0.02` stays on one line, so that a column of numbers is not broken on a phone."""

    default_priority = 20

    def apply(self, **_: Any) -> None:
        for table in self.document.findall(nodes.table):
            for text in list(table.findall(nodes.Text)):
                if " ± " in text:
                    unbroken = nodes.Text(
                        text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
                    )
                    text.parent.replace(text, unbroken)


def _read_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = markdown_to_rst(lines)


def markdown_to_rst(lines: list[str]) -> list[str]:
    """A docstring's lines, in which only backticks, lists and indented blocks are markup."""
    result: list[str] = []
    in_list = in_block = False
    for line in lines:
        starts_item = _ITEM.match(line) is not None
        after_blank = not result or not result[-1].strip()
        if line.strip():
            in_list = starts_item or (in_list and line.startswith(" "))
            if line.startswith("    ") and after_blank and not in_list and not in_block:
                result += ["::", ""]  # an indented block is code
                in_block = True
            in_block = in_block and line.startswith("    ")
        if (
            starts_item
            and not after_blank
            and not _ITEM.match(result[-1])
            and result[-1][:1] != " "
        ):
            result.append("")  # Markdown lets a list follow a paragraph at once
        result.append(line if in_block else _escape(line))
    return result


def _escape(line: str) -> str:
    """What reStructuredText takes for markup, and Markdown does not, as it is written."""
    marker = _ITEM.match(line)
    start = marker.end() if marker else 0
    parts = _CODE.split(line[start:])
    parts[::2] = [re.sub(r"([|*\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return line[:start] + "".join(parts)


def _read_source(app: Sphinx, name: str, content: list[str]) -> None:
    """Pages of the repository beside docs/ that the site has too, under names of its own."""
    for outside, page in OUTSIDE.items():
        if page.removesuffix(".md") != name:
            content[0] = content[0].replace(f"](../{outside}", f"]({page}")
            content[0] = content[0].replace(f"](../../{outside}", f"](../{page}")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(TwoStyles)
    app.add_transform(UnbrokenIntervals)
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _read_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
