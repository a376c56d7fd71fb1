"""Formulas in TeX as MathML, written into the page: no script, no font, no network.

latex2mathml converts; this module mends what browsers that follow MathML Core draw otherwise. The
formula's TeX is its `alttext`, for readers that do not read MathML.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
LOG = logging.getLogger(__name__)
_ENVIRONMENTS = {"aligned": "align*", "split": "align*", "gathered": "gather*"}
_LETTER_STYLES = re.compile(r"\\(mathbb|mathcal|mathbf|mathrm|mathit)\s+([A-Za-z])")
_OTHER_NAMES = (
    (re.compile(r"\\arg(max|min)?(?![a-zA-Z])"), r"\\operatorname{arg} \\operatorname{\1}"),
    (re.compile(r"(\\[Bb]igg?[lrm]?)\\\|"), r"\\|"),
)
_LIMITS = {"max", "min", "sup", "inf", "lim"}
_THIN = "0.167em"


def to_mathml(tex: str, *, block: bool) -> str:
    """The formula as a `<math>` element. Raises ValueError for what the converter does not know."""
    source = _LETTER_STYLES.sub(r"\\\1{\2}", tex.strip())
    for pattern, written in _OTHER_NAMES:
        source = pattern.sub(written, source).replace(r"\operatorname{}", "")
    for name, known in _ENVIRONMENTS.items():
        source = re.sub(rf"\\(begin|end)\{{{name}\}}", rf"\\\1{{{known}}}", source)
    markup = convert(source, display="block" if block else "inline")
    try:
        root = ET.fromstring(markup)
    except ET.ParseError as error:
        raise ValueError(f"it gives no MathML ({error})") from error
    _mend(root, block=block)
    unknown = [text for text in root.itertext() if "\\" in text]
    if unknown:
        raise ValueError(f"{unknown[0]} is not known")
    root.set("alttext", tex.strip())
    ET.register_namespace("", NAMESPACE)
    return ET.tostring(root, encoding="unicode")


def _mend(element: ET.Element, *, block: bool) -> None:
    for child in element:
        _mend(child, block=block)
    if block and _tag(element) == "msub" and element[0].text in _LIMITS:
        element.tag = f"{{{NAMESPACE}}}munder"
    if _tag(element) == "mrow":
        _join_letters(element)
    if element.text == "~":  # \sim, which the converter takes for a letter
        _become(element, "mo", "∼")
    if _tag(element) == "mo" and (element.text or "").isalpha() and len(element.text or "") > 1:
        _become(element, "mi", element.text or "")  # min, max, an \operatorname
    if _tag(element) == "mtd" and "columnalign" in element.attrib:  # not in MathML Core
        element.set("style", f"text-align: {element.attrib.pop('columnalign')}")
    if _tag(element) in ("mrow", "math", "mtd"):
        _space_names(element)


def _join_letters(row: ET.Element) -> None:
    """Upright letters in a row are one name, for the eye and for screen readers."""
    upright = [c for c in row if _tag(c) == "mi" and c.get("mathvariant") == "normal"]
    if len(row) > 1 and len(upright) == len(row):
        name = "".join(child.text or "" for child in row)
        for child in list(row):
            row.remove(child)
        ET.SubElement(row, f"{{{NAMESPACE}}}mi").text = name


def _space_names(row: ET.Element) -> None:
    """A thin space between a function's name (log, exp, min) and its argument or a factor."""
    children = list(row)
    for index in range(len(children) - 1, -1, -1):
        if not _is_name(children[index]):
            continue
        after = children[index + 1] if index + 1 < len(children) else None
        if after is not None and _tag(after) not in ("mo", "mspace"):
            row.insert(index + 1, _thin_space())
        before = children[index - 1] if index else None
        if before is not None and (_tag(before) not in ("mo", "mspace") or before.text == ")"):
            row.insert(index, _thin_space())


def _is_name(element: ET.Element) -> bool:
    if _tag(element) in ("msub", "msup", "munder", "msubsup") and len(element):
        return _is_name(element[0])
    return _tag(element) == "mi" and len(element.text or "") > 1 and (element.text or "").islower()


def _thin_space() -> ET.Element:
    return ET.Element(f"{{{NAMESPACE}}}mspace", width=_THIN)


def _become(element: ET.Element, tag: str, text: str) -> None:
    element.tag, element.text = f"{{{NAMESPACE}}}{tag}", text
    element.attrib.clear()


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _convert(node: nodes.Node, tex: str, *, block: bool) -> str:
    try:
        return to_mathml(tex, block=block)
    except Exception as error:
        LOG.warning("the formula %r can't be converted: %s", tex, error, location=node)
        return f"<code>{nodes.unescape(tex)}</code>"


def _visit_inline(translator: Any, node: nodes.math) -> None:
    # Two boxes: the outer one scrolls where a line is shorter than the formula, which no browser
    # breaks, and the inner one's line has the baseline (see site.css).
    formula = _convert(node, node.astext(), block=False)
    translator.body.append(f'<span class="inline-formula"><span>{formula}</span></span>')
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    label = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    formula = _convert(node, node.astext(), block=True)
    translator.body.append(f'<div class="formula"{label} tabindex="0">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_visit_inline, None), block_renderers=(_visit_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
