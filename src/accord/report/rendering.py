"""The templates of pages: they escape every text, and fail on a name that is not given."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent / "templates"
TEMPLATES = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
SCRIPT = (_FOLDER / "report.js").read_text(encoding="utf-8")
"""The only script of the report."""


def script_digest() -> str:
    """The digest by which the page's security policy admits `SCRIPT`, and no other script."""
    return base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
