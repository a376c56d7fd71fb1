"""`accord label` as a command: settings in files, a kill in the middle, what is printed."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from studies.commands import CommandServer

import accord
from accord.cli import main
from accord.pipeline.labels.forecast import Forecast
from accord.pipeline.labels.label import LabelReport
from accord.pipeline.labels.run import read_label_settings
from tests.fake_openai import FakeOpenAi, Reply, request_text
from tests.pipeline.labels.stores import fill, outcomes


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_settings_come_from_files_and_the_command_line(tmp_path: Path) -> None:
    config, one, two = (tmp_path / name for name in ("label.yaml", "one.yaml", "two.yaml"))
    config.write_text(
        "judges:\n  - {base_url: 'http://h:1/v1', model: a}\n  - {kind: local, model: b}\n"
        "quorum: 2\ncriteria: {helpful: 'Which helps?'}\n"
    )
    one.write_text("base_url: http://h:1/v1\nmodel: c\n")
    two.write_text("judge: {base_url: 'http://h:2/v1', model: d}\n")
    settings = read_label_settings(config, ["judges.0.model=e", "quorum=3"], [one, two])
    assert [(j.kind, j.model) for j in settings.judges] == [
        ("endpoint", "e"),
        ("local", "b"),
        ("endpoint", "c"),
        ("endpoint", "d"),
    ]
    assert (settings.quorum, settings.criteria) == (3, {"helpful": "Which helps?"})
    # One judge by its own keys, beside the others; and the file of `accord judge check`.
    settings = read_label_settings(None, ["base_url=http://h:1/v1", "model=m", "round=2"])
    assert (settings.judges[0].model, settings.round) == ("m", 2)
    changed = read_label_settings(two, ["quorum=1", "model=f"]).judges[0]
    assert (changed.base_url, changed.model) == ("http://h:2/v1", "f")
    config.write_text("judges:\n  - {base_url: 'http://h:1/v1', modle: a}\n")
    with pytest.raises(accord.errors.SettingsError, match=r"judges\.0\.modle.*label\.yaml:2"):
        read_label_settings(config, [])


def test_the_command_prints_the_forecast_and_then_what_was_found(
    fake: FakeOpenAi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = fill(tmp_path / "s.db"), tmp_path / "out.json"
    judge = [f"base_url={fake.url}", "model=other"]
    assert exit_code("label", str(path), *judge, "--forecast", "--output", str(output)) == 0
    assert not fake.requests
    assert "12 calls" in capsys.readouterr().out
    assert json.loads(output.read_text())["judges"][0]["calls"] == 12
    assert exit_code("label", str(path), *judge, "--output", str(output)) == 0
    captured = capsys.readouterr()
    assert "6 pairs in both orders, by 1 criterion and 1 judge: 12 calls." in captured.err
    assert "labels: 6 of 6 pairs have a winner" in captured.out
    assert "12 calls, 240 tokens of prompts" in captured.out
    found = json.loads(output.read_text())
    assert found["criteria"] == {"overall": {"winner": 6}}
    assert exit_code("label", str(path)) == 2
    assert "there is no judge" in capsys.readouterr().err


def test_killed_at_any_moment_and_started_again_nothing_is_asked_twice(
    fake: FakeOpenAi, tmp_path: Path, commands: CommandServer
) -> None:
    path = fill(tmp_path / "s.db", prompts=40)
    by_rule, asked = fake.answer, Counter[str]()
    held, dead = threading.Event(), threading.Event()
    blocked = (23, 61)  # requests that get no answer: in the second batch of pairs

    def answer(body: Any) -> Reply:
        asked[request_text(body)] += 1
        if asked.total() in blocked:
            held.set()
            dead.wait(30)
            return 0, None
        return by_rule(body)

    fake.answer = answer
    arguments = ["label", str(path), f"base_url={fake.url}", "model=other", "max_concurrent=1"]
    environment = {"ACCORD_CACHE": str(tmp_path / "cache")}
    for _ in blocked:
        running = commands.start(*arguments, cwd=tmp_path, environment=environment)
        while not held.wait(0.01):
            assert not running.has_ended(), running.log.read_text()
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        held.clear()
        dead.set()
        dead.clear()
    running = commands.start(*arguments, cwd=tmp_path, environment=environment)
    assert running.wait() == 0, running.log.read_text()
    # 40 pairs in both orders. What had no answer when the process died was asked again.
    assert len(asked) == 80
    assert sorted(asked.values())[-3:] == [1, 2, 2]
    assert outcomes(path) == {("other", None, "a"): 20, ("other", None, "b"): 20}


def test_from_python(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    judge = {"base_url": fake.url, "model": "yes"}
    plan = accord.label(path, judge, forecast=True)
    assert isinstance(plan, Forecast)
    assert plan.calls == 12
    panel = [judge, {**judge, "model": "first"}]
    report = accord.label(path, panel, quorum=2, escalate=True, models=["red", "blue"])
    assert isinstance(report, LabelReport)
    assert report.escalated == 6
    with pytest.raises(accord.errors.SettingsError, match="quorun"):
        accord.label(path, judge, quorun=2)
