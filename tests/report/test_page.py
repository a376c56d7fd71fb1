"""The page: self-contained, safe with untrusted text, the same bytes for the same run."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from accord.data.write import ResponseRow, write_responses
from accord.records import Message, Response
from accord.report.page import write_report
from accord.report.rendering import SCRIPT
from accord.runs import write_json_atomic
from accord.settings.stages import Contestant, ReportSettings
from tests.report.fake_run import write_run, write_stage

VOID = {"meta", "link", "br", "img", "input", "hr"}
EVIL = (
    "</dd><script>alert(1)</script>{{ 7 * 7 }}{% raw %}<img src=x onerror=alert(2)>"
    "\x00\u202e" + "long " * 500
)


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self) -> Iterator[tuple[str, str, str]]:
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                yield tag, name, value or ""


@pytest.fixture(scope="module")
def source(finished_run: ReportSettings) -> str:
    return write_report(finished_run).read_text(encoding="utf-8")


def test_every_section_is_on_the_page(source: str) -> None:
    page = Page(source)
    assert page.open == []
    for part in (
        "ppo is the best model.",
        "The reward is hacked: ppo-hacked scores",
        "Answers side by side",
        "Please thank",
        "Learning curves",
        "What was run",
        "10 dropped: an empty response",
        "accord demo --output-dir runs/demo",
        "Regularised on request",
    ):
        assert part in page.text
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings[0] == "h1"
    assert len(headings) == 10


def test_nothing_is_loaded_and_only_the_search_runs(source: str) -> None:
    page = Page(source)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"iframe", "object", "embed", "img", "base", "form", "image"}
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", source, re.DOTALL)
    assert scripts == [SCRIPT]
    for tag, name, value in page.values():
        assert not name.startswith("on")
        if tag == "a":
            assert value.startswith("https://doi.org/") or (name, value) == ("rel", "noreferrer")
        elif name in ("href", "xlink:href", "src"):
            assert value.startswith("#") or value == "data:,", (tag, name, value)
        assert "url(" not in value or re.fullmatch(r"[^()]*url\(#[^)]+\)[^()]*", value)
    assert "@import" not in source
    addresses = set(re.findall(r"https?://(?!doi\.org/)[^\s\"'<]+", source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert re.findall(r"script-src ([^;]*);", str(policy["content"])) == [f"'sha256-{digest}'"]


def test_ids_are_unique_and_references_resolve(source: str) -> None:
    page = Page(source)
    ids = [value for _, name, value in page.values() if name == "id"]
    assert len(ids) == len(set(ids))
    references = {
        v[1:] for _, n, v in page.values() if n in ("href", "xlink:href") and v[:1] == "#"
    }
    references |= {m for _, _, v in page.values() for m in re.findall(r"url\(#([^)]+)\)", v)}
    assert references
    assert references <= set(ids)


def test_the_same_run_gives_the_same_bytes(finished_run: ReportSettings, source: str) -> None:
    assert write_report(finished_run).read_text(encoding="utf-8") == source


def evil_run(folder: Path) -> ReportSettings:
    prompt = (Message("user", EVIL),)
    responses = folder / "responses.jsonl"
    row = ResponseRow(
        prompt, {"kind": "<b>"}, "m", {}, (Response(prompt, EVIL, "m"), Response(prompt, "", "m"))
    )
    write_responses(responses, [row])
    write_json_atomic(
        folder / "evaluation.json",
        {
            "models": [
                {
                    "model": "<i>$x_$",
                    "collapsed": True,
                    "commonest_answer": EVIL,
                    "commonest_share": 1.0,
                    "true_reward": {"mean": 0.5, "low": None, "high": None},
                    "kl": {"mean": 1.0, "low": None, "high": None},
                }
            ]
        },
    )
    write_json_atomic(
        folder / "stage.json",
        {"stage": "<u>", "name": "<u>", "settings": {"<k>": "<v>"}, "seconds": 1.0},
    )
    write_json_atomic(folder / "manifest.json", {"command": "<command>", "machine": "<machine>"})
    return ReportSettings(
        run=str(folder),
        output_dir=str(folder),
        title="<title>",
        contestants=[Contestant(name="<i>$x_$", responses=str(responses))],
    )


def test_text_of_models_and_people_stays_text(tmp_path: Path) -> None:
    source = write_report(evil_run(tmp_path)).read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "i", "u", "b", "k", "v", "command", "machine"}
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert "alert(1)" in page.text  # shown, not run
    assert "{{ 7 * 7 }}" in page.text
    assert "49" not in page.text
    assert "<i>$x_$" in page.text
    assert "\x00" not in source
    assert "\u202e" not in source
    # The long answer is folded, not cut: all of its words are there, twice (prompt and answer).
    assert page.text.count("long ") >= 1000


def test_real_data_without_a_true_reward(tmp_path: Path) -> None:
    settings = write_run(tmp_path / "run", prompts=10)
    path = Path(str(settings.evaluation))
    evaluation = json.loads(path.read_text())
    for row in evaluation["models"]:
        row["true_reward"] = None
        row["kl"] = None
    write_json_atomic(path, evaluation)
    text = Page(write_report(settings).read_text(encoding="utf-8")).text
    assert "Its Elo rating is" in text
    assert "True reward" not in text
    assert "Distance from the reference" not in text


def test_only_ratings(tmp_path: Path) -> None:
    settings = write_run(tmp_path / "run", prompts=10)
    (tmp_path / "alone").mkdir()
    alone = ReportSettings(
        run=str(tmp_path / "alone"), output_dir=str(tmp_path / "alone"), ratings=settings.ratings
    )
    text = Page(write_report(alone).read_text(encoding="utf-8")).text
    assert "Model against model" in text
    assert "Answers side by side" not in text


def test_a_single_training_run_has_its_curves(tmp_path: Path) -> None:
    write_stage(tmp_path / "dpo", "dpo", random.Random(0), steps=5)
    settings = ReportSettings(run=str(tmp_path / "dpo"), output_dir=str(tmp_path / "dpo"))
    page = Page(write_report(settings).read_text(encoding="utf-8"))
    assert "No model was measured." in page.text
    assert "Learning curves" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 4  # loss, accuracy, rewards, margin
    assert "learning_rate 0.0003" in page.text
