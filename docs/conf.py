"""The documentation site: `make site` builds docs/ into docs/_build, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent / "src"))

import accord  # noqa: E402

project = "accord"
author = "The authors of accord"
project_copyright = "Apache-2.0"
version = release = accord.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "pages"]
exclude_patterns = ["_build", "_ext", "_static", "learn/experiments", "learn/figures"]
source_suffix = {".md": "markdown"}
nitpicky = True
# Types of torch, transformers and the standard library are named, not linked.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
suppress_warnings = ["myst.header"]  # a figure's fragment, or a section, may begin below level 1

default_role = "code"  # docstrings mark code by single backticks, as Markdown does
add_module_names = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "accord"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": False}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
