"""Model text as HTML: what it may become, and what it never does."""

from __future__ import annotations

import pytest

pytest.importorskip("nh3", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")

from accord.annotate.difference import difference_html
from accord.annotate.identity import named_model
from accord.annotate.items import show_text
from accord.annotate.rendering import LONG, markdown_html, plain_html, visible_controls


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**bold** and `code`", "<p><strong>bold</strong> and <code>code</code></p>"),
        ("1. one\n2. two", "<ol>\n<li>one</li>\n<li>two</li>\n</ol>"),
        ("```python\nx < 1\n```", "<pre><code>x &lt; 1\n</code></pre>"),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("![a](http://evil.example/x.png)", "<p>![a](http://evil.example/x.png)</p>"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("<http://evil.example>", "<p>&lt;http://evil.example&gt;</p>"),
        ("[a]: http://evil.example", "<p>[a]: http://evil.example</p>"),
        ("a\u202eb\u2066c", "<p>a⟦U+202E⟧b⟦U+2066⟧c</p>"),
        ("&lt;b&gt; &#x202e;", "<p>&lt;b&gt; ⟦U+202E⟧</p>"),
        ("$5 and $10, or $ 7 $", "<p>$5 and $10, or $ 7 $</p>"),
        (r"$\frac{$", r"<p><code>$\frac{$</code></p>"),
    ],
)
def test_markdown(text: str, html: str) -> None:
    assert markdown_html(text).strip() == html


@pytest.mark.parametrize("text", ["$x_1*y*$", r"\(x_1*y*\)", "$$x_1*y*$$", r"\[ x_1*y* \]"])
def test_formulas(text: str) -> None:
    html = markdown_html(text)
    assert "<msub><mi>x</mi><mn>1</mn></msub>" in html
    assert "<em>" not in html
    assert ('display="block"' in html) is (text[:2] in ("$$", "\\["))


def test_formulas_hide_nothing() -> None:
    assert "x &lt; y" not in markdown_html("$x<y$")
    assert "<mo>&lt;</mo>" in markdown_html("$x<y$")
    assert "script" in markdown_html(r"$\text{<script>}$")
    for formula in (r"$\href{http://evil.example}{x}$", r"$\phantom{secret}$"):
        assert markdown_html(formula) == f"<p><code>{formula}</code></p>\n"


def test_formulas_harm_nothing() -> None:
    evil = [
        r"$\href{javascript:alert(1)}{x}$",
        r"$\text{</mtext></math><script>alert(1)</script><img src=x onerror=alert(1)>}$",
        r"$\class{x}{y}\style{color:red}{z}$",
        r"$<annotation-xml encoding='text/html'><img src=x></annotation-xml>$",
        "$" + "{" * 900 + "}" * 900 + "$",
        "$x$ " * 12_000,
        r"\(" * 16_000,
    ]
    for text in evil:
        html = markdown_html(text).lower()
        for forbidden in ("<script", "<img", "href=", "style=", "<annotation", " on"):
            assert forbidden not in html.replace("&lt;", " lt ").replace(
                " onerror=alert(1)&gt;", ""
            )


def test_raw_text_is_what_the_model_wrote() -> None:
    text = "  **x** <b>\n\n\t![a](b)"
    assert plain_html(text) == "  **x** &lt;b&gt;\n\n\t![a](b)"
    assert visible_controls("a\x00\x1b[31m\u200b\U000e0041\ud800\r\nb") == (
        "a⟦U+0000⟧⟦U+001B⟧[31m⟦U+200B⟧⟦U+E0041⟧⟦U+D800⟧\nb"
    )


def test_a_megabyte_of_text_is_shown_in_parts() -> None:
    shown = show_text("[" * 1_000_000 + "<script>")
    assert shown.rest == 1_000_008 - len(shown.raw)
    assert show_text("[" * (LONG - 1)).rest == 0  # nor does nesting take long or fail


@pytest.mark.parametrize(
    ("text", "other", "html"),
    [
        ("a red car", "a blue car", "a <ins>red</ins> car"),
        ("a car", "a blue car", "a car"),
        ("same  text", "same text", "same  text"),
        ("<b>\u202e", "x", "<ins>&lt;b&gt;⟦U+202E⟧</ins>"),
        ("", "x", ""),
    ],
)
def test_differences(text: str, other: str, html: str) -> None:
    assert difference_html(text, other) == html


def test_long_texts_are_not_compared() -> None:
    assert difference_html("word " * 5000, "word") is None


@pytest.mark.parametrize(
    ("text", "model", "named"),
    [
        ("As ChatGPT, I can't.", "sft", "ChatGPT"),
        ("I'm an AI assistant called Claude.", "sft", "Claude"),
        ("I am Qwen, created by Alibaba Cloud.", "sft", "Qwen"),
        ("I was trained by OpenAI.", "sft", "OpenAI"),
        ("Claude Monet painted it.", "sft", None),
        ("A llama is an animal.", "sft", None),
        ("I, smol-7b, agree.", "org/Smol-7B", "smol-7b"),
        ("The base is chosen.", "base", None),
        ("chosen", "runs/chosen", None),
    ],
)
def test_a_response_that_names_its_model(text: str, model: str, named: str | None) -> None:
    assert named_model(text, model) == named
