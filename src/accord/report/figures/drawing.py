"""The style of figures, and their conversion to SVG that can share a page with other figures."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2430", "#667085", "#e6e8ee"

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#7f7f7f")
"""Okabe and Ito's colours (2008), which colour-blind people can distinguish, with yellow and
black replaced by a violet and a grey that are visible on white."""

MARKERS = ("o", "s", "D", "^", "v", "p", "<", ">")

STYLE: Mapping[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "accord",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#c3c8d2",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def styled() -> AbstractContextManager[None]:
    """A context manager in which matplotlib draws in this style."""
    context: AbstractContextManager[None] = rc_context(dict(STYLE))
    return context


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each model, the same in all figures and tables; past eight they repeat."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def markers(names: Sequence[str]) -> dict[str, str]:
    """One marker for each model, shifted against the colours where those repeat."""
    size = len(MARKERS)
    return {name: MARKERS[(i + i // size) % size] for i, name in enumerate(names)}


def to_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as inline SVG, the same bytes for the same figure.

    Ids begin with `name`, so that the ids of two figures on a page differ; text stays text, in the
    page's font. `description` is for screen readers.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with styled():
        figure.savefig(buffer, format="svg", metadata=no_metadata, bbox_inches=None)
    source = buffer.getvalue()
    source = source[source.index("<svg") :]
    source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    source = re.sub(r"<style.*?</style>", "", source, flags=re.DOTALL)
    source = re.sub(r"<!--.*?-->\n?", "", source, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    source = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", source
    )
    source = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", source)
    head = Markup('<svg role="img" aria-label="{}"').format(description)
    source = re.sub(r"^<svg([^>]*)>", lambda m: f"{head}{_viewbox(m[1])}>", source, count=1)
    return Markup(source.strip())


def _viewbox(attributes: str) -> str:
    """Keep the coordinate system; the page sets the size."""
    box = re.search(r'viewBox="[^"]*"', attributes)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f" {box[0] if box else ''} {names}"
