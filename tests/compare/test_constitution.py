"""Constitutions: those that come with accord, YAML, and the files of Constitutional AI."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from accord.compare.constitution.principles import read_principles, shipped_constitutions
from accord.compare.judges.prompts import format_rubric
from accord.errors import SettingsError
from accord.settings.endpoint import EndpointSettings


@pytest.mark.parametrize("name", ["helpful", "harmless", "honest"])
def test_shipped_constitutions_ask_for_critique_and_revision(name: str) -> None:
    assert name in shipped_constitutions()
    principles = read_principles(name)
    assert len(principles) >= 7
    for principle in principles:
        assert principle.critique
        assert principle.revision
        assert not principle.id.isdigit()
    rubric = format_rubric(EndpointSettings(criterion="c", principles_file=name))
    assert rubric.splitlines()[2] == f"1. {principles[0].text}"


def test_a_file_of_the_same_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("honest").mkdir()  # the folder of a run
    assert read_principles("honest")[0].id == "true-statements"
    Path("harmless").write_text("principles: [mine]\n")
    assert [p.text for p in read_principles("harmless")] == ["mine"]


def test_tables_of_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "principles:\n"
        "  - be kind\n"
        "  - {id: truth, text: be true, weight: 2,\n"
        "     critique: name what is false, revision: mend it}\n"
    )
    first, second = read_principles(str(path))
    assert (first.id, first.weight, first.critique) == ("1", 1.0, "")
    assert (second.id, second.weight) == ("truth", 2.0)
    assert (second.critique, second.revision) == ("name what is false", "mend it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: []\n", "must hold a list"),
        ("rules: [x]\n", "must hold a list"),
        ("principles:\n  - {id: a}\n", r"p\.yaml:2 has no `text`"),
        ("principles:\n  - x\n  - {text: b, weight: 0}\n", r"p\.yaml:3 has the weight 0"),
        ("principles:\n  - {text: b, wieght: 1}\n", r"p\.yaml:2 is no principle"),
        ("principles:\n  - 7\n", r"p\.yaml:2 is no principle"),
        ("principles:\n  - {text: b, critique: ' '}\n", r"p\.yaml:2 has ' ' as `critique`"),
        ("principles:\n  - {text: b, revision: 3}\n", r"p\.yaml:2 has 3 as `revision`"),
        ("principles:\n  - {text: b, id: []}\n", r"p\.yaml:2 has the id \[\]"),
        ("principles: [x, {text: y, id: 1}]\n", "two principles with the id '1'"),
    ],
)
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_principles(str(tmp_path / "p.yaml"))


def test_instructions_of_constitutional_ai(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "CritiqueRevisionInstructions.json"
    entry = {"prompt": "Identify harm. ", "edit_request": "Please rewrite.", "note": "x"}
    path.write_text(json.dumps({"HARM_V1": entry}))
    with caplog.at_level(logging.INFO, "accord"):
        (principle,) = read_principles(str(path))
    assert (principle.id, principle.critique) == ("HARM_V1", "Identify harm.")
    assert principle.revision == "Please rewrite."
    assert principle.text.endswith("Identify harm.")
    assert "HARM_V1: not read: note" in caplog.text


def test_instructions_of_its_preference_model(tmp_path: Path) -> None:
    path = tmp_path / "RL.json"
    path.write_text(json.dumps(["\nWhich is less harmful? Options:", "Choose the kinder one."]))
    principles = read_principles(str(path))
    assert [p.text for p in principles] == ["Which is less harmful?", "Choose the kinder one."]
    assert [p.id for p in principles] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"c\.json holds no principles. Write a YAML list"),
        ("[]", "holds no principles"),
        ('["a", 3]', "holds no principles"),
        ('"a"', "holds no principles"),
        ('{"A": {"prompt": "find"}}', "The entry 'A' of .* `prompt` and `edit_request`"),
        ('{"A": "find"}', "The entry 'A'"),
        ('{"A": {"prompt": " ", "edit_request": "b"}}', "The entry 'A'"),
        ('{"A": {}, "A": {}}', "gives the key 'A' twice"),
        ('{"A": ', r"c\.json:1 is not JSON"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_principles(str(tmp_path / "c.json"))


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no constitution 'harmles'.*`harmless`"):
        read_principles("harmles")
    with pytest.raises(SettingsError, match="no settings file"):
        read_principles(str(tmp_path / "gone.yaml"))
    with pytest.raises(SettingsError, match="There is no file"):
        read_principles(str(tmp_path / "gone.json"))
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_principles(str(tmp_path / "bytes.json"))
