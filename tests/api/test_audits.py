"""accord.probe, audit and redteam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.api.audits import _response_rows
from accord.errors import SettingsError
from accord.lm.load import load_scalar
from accord.lm.loading.saving import save_model
from accord.reasoning import answer_of
from tests.lm.toys import save_toy

PAIRS = [
    {"prompt": f"say {n}", "chosen": "one two three " * (n + 2), "rejected": f"one {n}"}
    for n in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("audits") / "model"
    save_toy(folder)
    return str(folder)


def length(responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def length_of_answer(prompt: Any, a: str, b: str) -> Any:
    assert a == "<think>b b b"
    return "a" if len(answer_of(a)) > len(answer_of(b)) else "b"


def by_name(document: Any) -> dict[str, Any]:
    return {audit.name: audit for audit in document.audits}


def test_a_function_is_probed_on_rows_in_memory(tmp_path: Path) -> None:
    document = accord.probe(length, PAIRS, probes=["lengthened"], output_dir=tmp_path / "probe")
    audits = by_name(document)
    # Longer is better by it: every chosen answer is longer, and a longer rejected one gains.
    assert audits["accuracy"].value.mean == 1.0
    assert audits["lengthened_gain"].verdict == "fail"
    assert document.subject == "length"
    assert document.settings["preferences"] == "list in memory"
    content = json.loads((tmp_path / "probe/probe.json").read_text())
    assert content == document.to_json()
    assert [p.name for p in (tmp_path / "probe").iterdir()] == ["probe.json"]
    # Nothing says that a function is still the same: it is asked again, and not read from a log.
    shorter = accord.probe(
        lambda responses: [-float(len(r)) for r in responses],
        PAIRS,
        probes=["lengthened"],
        output_dir=tmp_path / "probe",
    )
    assert by_name(shorter)["accuracy"].value.mean == 0.0


def test_a_described_reward_resumes_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    reward = {"kind": "length", "at_most": 3}
    first = accord.probe(reward, path, probes=["blanks"], output_dir=tmp_path / "probe")
    log = (tmp_path / "probe/scores.jsonl").read_bytes()
    again = accord.probe(reward, str(path), probes=["blanks"], output_dir=tmp_path / "probe")
    assert again.to_json() == first.to_json()
    assert (tmp_path / "probe/scores.jsonl").read_bytes() == log != b""


def test_a_reward_model_in_memory_has_logits(model: str) -> None:
    saved = Path(model).parent / "reward/model"
    save_model(load_scalar(model, new_head=True), saved, card="")
    lm = load_scalar(str(saved))
    assert "calibration" in by_name(accord.probe(lm, PAIRS, probes=["blanks"]))
    assert "calibration" not in by_name(accord.probe([lm, length], PAIRS, probes=["blanks"]))


@pytest.mark.parametrize(
    "values", [{}, {"reward": length}, {"reward": length, "judge": {}, "pairs": PAIRS}]
)
def test_what_is_missing_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"accord\.probe|`pairs`"):
        accord.probe(**values)
    with pytest.raises(SettingsError, match="probes"):
        accord.probe(length, PAIRS, probes=["lengthend"])


def test_answers_and_folders_are_audited(model: str, tmp_path: Path) -> None:
    prompts = [{"prompt": p, "meta": {"kind": "safe"}} for p in ("say", "ask", "go")]
    answers = [
        accord.sample(model, prompts, num_responses=2, max_new_tokens=6, seed=s) for s in (1, 2)
    ]
    document = accord.audit(answers[1], answers[0], rewards=[{"kind": "length", "at_most": 4}])
    assert document.results == {"prompts": 3}
    assert by_name(document)["over_refusal"].count == 3  # by the kind of the prompts' rows
    rows = [{"prompt": "Say it.", "completion": f" A cat {n}."} for n in range(3)]
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = accord.audit(model, model, held_out=str(path), output_dir=tmp_path / "audit")
    assert [audit.name for audit in broken.audits] == ["held_out_loss"]
    assert broken.audits[0].value.mean == 0
    assert (tmp_path / "audit/stage.json").is_file()


def test_answers_keep_what_the_prompt_opened(model: str) -> None:
    (row,) = accord.sample(model, ["say"], max_new_tokens=4)
    opened = type(row)(row.prompt, ("a</think>b",), (True,), (-1.0,), opened="<think>")
    (written,) = _response_rows(accord.Answers("m", (opened,)))
    assert [r.answer for r in written.responses] == ["b"]
    unended = type(row)(row.prompt, ("b b b",), (True,), (-1.0,), opened="<think>")
    plain = type(row)(row.prompt, ("b",), (True,), (-1.0,))
    battles = accord.compare(
        accord.Answers("m", (unended,)),
        accord.Answers("n", (plain,)),
        judge=length_of_answer,
    )
    assert [battle.outcome for battle in battles] == ["b"]


def test_a_model_is_attacked(model: str) -> None:
    document = accord.redteam(
        model, suites=["accord"], max_prompts=1, attacks=["prefill"], max_new_tokens=4
    )
    assert document.kind == "redteam"
    assert {"harmful_compliance", "over_refusal"} <= set(by_name(document))
