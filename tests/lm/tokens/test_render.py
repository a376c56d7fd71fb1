"""Chat templates are code from a model's folder: they are limited, and their faults are named."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from typing import Any

import pytest

from accord.errors import DataError, ModelError
from accord.lm.tokens import render as module
from accord.lm.tokens.encode import Limits, encode, encode_prompts
from accord.lm.tokens.render import UnusableRow, render
from accord.records import Demonstration, Message, PromptOnly
from tests.lm.tokens.templates import TEMPLATES
from tests.lm.tokens.tokenizers import eos_ids, make_tokenizer

TURNS = [{"role": "user", "content": "hello"}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(x='A') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}{{ ns.x }}"
)
RECURSIVE = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"


def with_template(text: str) -> Any:
    made = make_tokenizer("byte-level", TEMPLATES["chatml"])
    made.chat_template = text
    return made


def test_a_template_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENDER_SECONDS", 0.2)
    with pytest.raises(ModelError, match=r"does not end within 0\.2 seconds"):
        render(TURNS, with_template(ENDLESS))
    # In another thread too, as a reward in the background renders.
    raised: list[BaseException] = []

    def work() -> None:
        try:
            render(TURNS, with_template(ENDLESS))
        except ModelError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert render(TURNS, make_tokenizer("byte-level", TEMPLATES["chatml"])).startswith("<|im_")


def test_the_deadline_passes_as_the_rendering_ends() -> None:
    # The watch has raised, but the rendering ended first: the error must reach no one.
    module._watch.raised = True
    late = threading.Timer(
        0.05,
        ctypes.pythonapi.PyThreadState_SetAsyncExc,
        (ctypes.c_ulong(threading.get_ident()), ctypes.py_object(module._TimeIsUp)),
    )
    late.start()
    module._watch.stop()
    late.join()
    assert sum(range(100_000)) == 4_999_950_000  # where it would be raised
    assert not module._watch.raised


PROFILED = """
import sys
from accord.lm.tokens.render import render

class Tokenizer:
    chat_template = "text"

    def apply_chat_template(self, turns, **options):
        return "text"

render([], Tokenizer())
sys.setprofile(lambda *event: None)
print(render([], Tokenizer()))
"""


def test_a_profiler_debugger_or_coverage_beside_a_template() -> None:
    # CPython 3.11 never left a traced function once a pending exception was taken back.
    done = subprocess.run(
        [sys.executable, "-c", PROFILED], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "text\n"


@pytest.mark.parametrize("text", ["{{ 'A' * 3000000 }}", "{{ lipsum(n=20000) }}"])
def test_a_template_that_writes_huge_text(text: str) -> None:
    with pytest.raises(ModelError, match=r"chat template writes [0-9,]{9,} characters"):
        render(TURNS, with_template(text))


@pytest.mark.skipif(module.sys.platform != "linux", reason="the system has no such limit")
@pytest.mark.parametrize(
    "text", ["{{ 'A' * 3000000000 }}", "{{ 'a'|center(3000000000) }}", "{{ '%3000000000d' % 1 }}"]
)
def test_a_template_that_takes_huge_memory(text: str) -> None:
    with pytest.raises(ModelError, match="needs more than 1 GiB of memory"):
        render(TURNS, with_template(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% include 'other' %}", r"reads another file \(\{% include … %\}\)"),
        ("{%- from 'other' import f %}", r"reads another file \(\{% from … %\}\)"),
        ("{% extends 'other' %}", r"reads another file \(\{% extends … %\}\)"),
        ("{{ 9 ** 9 ** 9 }}", "computes a power"),
        ("{% for x %}", "has a syntax error in line 1"),
        ("hi\n{{ '", "has a syntax error in line 2"),
        (RECURSIVE, "fails .RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "fails .SecurityError"),
    ],
)
def test_a_template_that_cannot_be_used(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        render(TURNS, with_template(text))


def test_words_of_statements_within_text_are_none() -> None:
    text = "{{ 'include' }}{# {% include 'x' %} #}{% raw %}{% include 'x' %}{% endraw %}"
    assert render(TURNS, with_template(text)) == "include{% include 'x' %}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ raise_exception('no system turn') }}", r"refuses it \(no system turn\)"),
        ("{{ messages[0].tool.name }}", "refuses it .*has no attribute 'tool'"),
        ("{{ 1 + messages[0]['content'] }}", "fails on it .TypeError"),
    ],
)
def test_a_row_that_the_template_fails_on(text: str, reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        render(TURNS, with_template(text))


def test_rows_that_a_template_refuses_are_dropped_with_its_reason() -> None:
    template = TEMPLATES["gemma"]
    made = make_tokenizer("metaspace never", template)
    user, system = Message("user", "hello"), Message("system", "be kind")
    prompts = [(user,), (system, user), (user, user)]
    rows = [Demonstration(prompt, "well") for prompt in prompts]
    groups, report = encode(rows, made, Limits(200), eos_ids=eos_ids(made, template))
    assert len(groups) == 1
    assert list(report.dropped) == [
        "the chat template refuses it (System role not supported)",
        "the chat template refuses it (roles must alternate user/assistant)",
    ]
    _, used, _ = encode_prompts([PromptOnly(p) for p in prompts], made, Limits(200))
    assert [record.prompt for record in used] == [(user,)]


def test_no_template() -> None:
    made = make_tokenizer("byte-level", TEMPLATES["chatml"])
    made.chat_template = None
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        render(TURNS, made)
