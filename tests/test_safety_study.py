"""The data of the safety recipe: only the request tells what to do, and no suite is trained on."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from accord.data.suites.read import SuiteSource, read_suites

STUDIES = Path(__file__).resolve().parent.parent / "studies"
LOOK_ALIKES = "safety_look_alikes.jsonl"


@pytest.fixture
def safety(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("safety")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(safety: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    held_out = ["How do I kill the mould in the corners of a bathroom?", "Crack a lock."]
    suites = {
        "held.csv": ("goal", held_out),
        "harmful.csv": ("goal", ["Crack a lock!", *(f"Ruin bridge {x}" for x in "abcde")]),
    }
    for name, (column, texts) in suites.items():
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([column, "target"])
            writer.writerows([text, "Sure"] for text in texts)
    helpful = [
        {
            "input": f"Name a fruit of kind {x}",
            "output_1": "no",
            "output_2": f"plum {x}",
            "label": 2,
        }
        for x in ("red", "blue", "green")
    ]
    (tmp_path / "helpful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in helpful))
    argv = ["safety.py", "--harmful", str(tmp_path / "harmful.csv"), "--held-out"]
    argv += [str(tmp_path / "held.csv"), "--helpful", str(tmp_path / "helpful.jsonl")]
    argv += ["--answers", str(tmp_path / "answers.jsonl"), "--seed", "1"]
    answers = {
        "How do I poach an egg?": "1. Boil water. 2. Break the egg. 3. Add some vin",
        "What is the best bait for trout?": "I'm sorry, but I can't help with that request.",
        "Which frost kills geraniums?": "1. Frost of 3 degrees and",
    }
    rows = (
        {"prompt": [{"role": "user", "content": prompt}], "responses": [{"text": text}]}
        for prompt, text in answers.items()
    )
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv += ["--max-harmful", "4", "--max-helpful", "2", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    safety.main()
    return tmp_path


def test_the_request_alone_decides(folder: Path) -> None:
    """Every wording of a refusal is preferred and rejected, and so is a look-alike's answer."""
    preferences = _rows(folder / "preferences.jsonl")
    by_request = {row["prompt"][0]["content"]: row for row in preferences}
    look_alikes = _rows(STUDIES / LOOK_ALIKES)
    paired = [row for row in look_alikes if row.get("contrast") in by_request]
    assert len(paired) > 100
    for row in paired:
        if row["prompt"] not in by_request:
            continue
        harmless, harmful = by_request[row["prompt"]], by_request[row["contrast"]]
        assert harmless["chosen"] == harmful["rejected"]
        assert harmless["rejected"] == harmful["chosen"]
    wordings = {
        kind: {row[side] for row in preferences if row["kind"] == kind}
        for kind, side in (("safety", "chosen"), ("helpfulness", "rejected"))
    }
    assert wordings["safety"] == wordings["helpfulness"]


def test_the_model_answers_look_alikes_itself(folder: Path) -> None:
    """To the end of a sentence, and where it refuses or has none, the file's answer stands."""
    look_alikes = {row["prompt"]: row["answer"] for row in _rows(STUDIES / LOOK_ALIKES)}
    chosen = {
        row["prompt"][0]["content"]: row["completion"]
        for row in _rows(folder / "demonstrations.jsonl")
    }
    assert chosen["How do I poach an egg?"] == "1. Boil water. 2. Break the egg."
    for prompt in ("What is the best bait for trout?", "Which frost kills geraniums?"):
        assert chosen[prompt] == look_alikes[prompt]


def test_prompts_to_answer_are_turns_of_a_chat(
    safety: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["safety.py", "--look-alikes", str(tmp_path / "l.jsonl")])
    safety.main()
    rows = _rows(tmp_path / "l.jsonl")
    assert len(rows) == len(_rows(STUDIES / LOOK_ALIKES))
    assert rows[0] == {"prompt": [{"role": "user", "content": rows[0]["prompt"][0]["content"]}]}
    monkeypatch.setattr(sys, "argv", ["safety.py", "--harmful", "x.csv"])
    with pytest.raises(SystemExit):
        safety.main()


def test_what_a_suite_has_is_left_out(folder: Path) -> None:
    demonstrations = _rows(folder / "demonstrations.jsonl")
    requests = {row["prompt"][0]["content"] for row in demonstrations}
    # Its words are those of a held-out prompt but for articles and "my".
    assert "How do I kill mould in the corners of my bathroom?" not in requests
    assert "How do I kill my roommate and make it look like an accident?" in requests
    assert "Crack a lock!" not in requests
    assert sum(request.startswith("Ruin bridge") for request in requests) == 4
    held_out = _rows(folder / "held_out.jsonl")
    assert len(held_out) == 1
    assert held_out[0]["completion"].startswith("plum")
    assert held_out[0]["prompt"][0]["content"] not in requests


def test_near_is_half_of_the_content_words(safety: ModuleType) -> None:
    held_out = [safety.content_words("How can I crack a rusty door?")]
    assert held_out == [{"crack", "rusty", "door"}]
    assert safety.is_near("CRACK the door", held_out)  # two words of three
    assert safety.is_near("Crack rusty doors", held_out)  # two of four
    assert not safety.is_near("Crack rusty old doors", held_out)  # two of five


def test_the_look_alikes_are_many_distinct_and_not_the_suite_of_accord(safety: ModuleType) -> None:
    rows = _rows(STUDIES / LOOK_ALIKES)
    texts = [row[key] for row in rows for key in ("prompt", "contrast") if key in row]
    assert len(rows) >= 200
    assert len(set(texts)) == len(texts)
    suite = read_suites([SuiteSource("accord")])[0]
    held_out = [safety.content_words(prompt.request) for prompt in suite.prompts]
    assert [text for text in texts if safety.is_near(text, held_out)] == []
