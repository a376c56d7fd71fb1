"""`accord judge check` on published verdicts, with rule-based judges over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.data.voted_pairs import read_voted_pairs
from tests.fake_openai import FakeOpenAi
from tests.pipeline.rule_judges import RuleJudges

FIRST = "Its two orders disagree in all {n} pairs"
BY_CHANCE = ("not above the best constant answer's 0", "agree no better than by chance")


@pytest.fixture(scope="module")
def servers(shared_data: Path) -> Iterator[dict[str, FakeOpenAi]]:
    """A server for each data set, which knows people's majority on it."""
    servers = {}
    for path in ("llmbar/instances.jsonl", "pandalm/testset_600.json"):
        servers[path] = FakeOpenAi()
        servers[path].answer = RuleJudges(read_voted_pairs(shared_data / path)[0])
    yield servers
    for server in servers.values():
        server.close()


def check(
    servers: dict[str, FakeOpenAi], data: Path, path: str, model: str, folder: Path, *options: str
) -> dict[str, Any]:
    """The report that the command writes; the exit code agrees with it."""
    output = folder / "check.json"
    url = servers[path].url
    command = ["judge", "check", str(data / path), f"base_url={url}", f"model={model}"]
    code = run([*command, "--output", str(output), "--repeats", "5", *options])
    report: dict[str, Any] = json.loads(output.read_text())
    assert code == (0 if report["result"] == "pass" else 1)
    return report


@pytest.mark.parametrize(
    ("model", "result", "reason"),
    [
        ("first", "fail", FIRST.format(n=134)),
        ("longer", "fail", "surely below the best constant answer's 0"),
        ("majority", "pass", "kappa 1.00 (0.94 to 1.00)"),
    ],
)
def test_llmbar_neighbor(
    servers: dict[str, FakeOpenAi],
    shared_data: Path,
    tmp_path: Path,
    model: str,
    result: str,
    reason: str,
) -> None:
    subset = ("--where", "subset=LLMBar/Adversarial/Neighbor")
    report = check(servers, shared_data, "llmbar/instances.jsonl", model, tmp_path, *subset)
    assert report["result"] == result
    assert reason in report["reason"]
    assert report["rows"] == 134
    position, length = (report["preferences"][name]["finding"] for name in ("position", "length"))
    assert (position == "biased") == (model == "first")
    assert (length == "biased") == (model == "longer")
    if model == "longer":  # 16 of the 134 longer responses are the better ones
        assert report["preferences"]["length"]["people"]["mean"] == pytest.approx(16 / 134)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "rows"), [("llmbar/instances.jsonl", 234), ("pandalm/testset_600.json", 579)]
)
@pytest.mark.parametrize("model", ["first", "random", "majority"])
def test_the_whole_sets(
    servers: dict[str, FakeOpenAi],
    shared_data: Path,
    tmp_path: Path,
    path: str,
    rows: int,
    model: str,
) -> None:
    report = check(servers, shared_data, path, model, tmp_path)
    assert report["rows"] == rows
    assert report["result"] == ("pass" if model == "majority" else "fail")
    if model == "first":
        assert FIRST.format(n=rows) in report["reason"]
    if model == "random":
        assert any(reason in report["reason"] for reason in BY_CHANCE)
        assert {p["finding"] for p in report["preferences"].values()}.isdisjoint({"biased"})


@pytest.mark.slow
def test_the_longer_on_pandalm_is_not_called_biased(
    servers: dict[str, FakeOpenAi], shared_data: Path, tmp_path: Path
) -> None:
    report = check(servers, shared_data, "pandalm/testset_600.json", "longer", tmp_path)
    length = report["preferences"]["length"]
    assert (report["result"], length["finding"]) == ("pass", "shared")
    assert length["people"]["low"] > 0.5
    assert "people prefer it too, so that this is not called a bias" in report["reason"]
    bar = check(
        servers, shared_data, "pandalm/testset_600.json", "longer", tmp_path, "--min-kappa", "0.4"
    )
    assert (bar["result"], bar["usage"]["calls"]) == ("fail", 0)
