"""The findings of `accord data check`: which rows they name, and what mends them."""

from __future__ import annotations

import importlib
import json
import random
import shlex
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.data.read import read_records
from accord.data.stream import RecordStream, read_columns
from accord.errors import DataError
from accord.pipeline.checks.kinds import KINDS
from accord.pipeline.checks.result import DataCheck
from accord.pipeline.data_check import check_data
from accord.records import Response

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(prompt: str, chosen: str, rejected: str, **more: object) -> dict[str, object]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def lines_of(check: DataCheck) -> dict[str, list[tuple[int | None, str]]]:
    return {
        finding.kind: [(row.source.line, row.detail) for row in finding.rows]
        for finding in check.findings
        if finding.rows is not None
    }


def test_findings_name_their_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        [
            pair("How hot is lava?", "Very hot.", "Cold.", score_chosen=4, score_rejected=2),
            pair("How  hot is LAVA?", "Cold.", "Very hot.", score_chosen=2, score_rejected=2),
            pair("Name a cold place in the north.", "Oslo.", "Rome.", score_chosen="x"),
            pair("Name a cold place in the north.", "Oslo.", "Rome.", split="test"),
            pair("Name a cold place in the north.", "Rome.", "Cairo."),
            pair("Name a cold place in the north.", "Cairo.", "Oslo."),
            pair("Same?", "Yes.", "yes"),
            pair("Say no.", "I'm sorry, but I can't help with that.", "<think>no</think>Nay."),
            pair("How do I kill a Python process?", "", "b"),
        ],
    )
    held_out = write(tmp_path / "test.jsonl", [{"prompt": "same? "}, {"prompt": "other"}])
    xstest = tmp_path / "prompts.csv"
    xstest.write_text("id,prompt,label\n1,Name a cold place,safe\n")
    check = check_data(path, held_out=[held_out], evaluation_sets=[str(xstest)])
    assert lines_of(check) == {
        "contradictions": [(1, "against pairs.jsonl:2"), (2, "against pairs.jsonl:1")],
        "cycles": [(n, "cycle 1") for n in (3, 4, 5, 6)],
        "shared-prompts": [(7, "as test.jsonl:1")],
        "evaluation-overlap": [(n, "as prompts.csv:2") for n in (3, 4, 5, 6)],
        "scores": [(2, "chosen 2, rejected 2")],
        "thoughts": [(8, "<think> in rejected")],
        "unusable": [(9, "an empty response: `chosen`")],
        "equal-pairs": [(7, "but for case, blanks and punctuation")],
        "duplicates": [(4, "as pairs.jsonl:3")],
        "refusals": [(8, "")],
    }
    # 2 of 9 rows: the exact interval is [0.028, 0.600] (Clopper and Pearson, scipy's binomtest).
    [finding] = [f for f in check.findings if f.kind == "contradictions"]
    assert (finding.count, finding.of) == (2, 9)
    assert finding.rate.low == pytest.approx(0.02814, abs=1e-4)
    assert finding.rate.high == pytest.approx(0.60009, abs=1e-4)
    [longer] = [f for f in check.findings if f.kind == "longer"]
    assert (longer.count, longer.of) == (4, 6)  # rows 1, 6, 7, 8; not 2 and 5; 3 and 4 are equal
    assert check.unchecked["label-noise"] == "8 pairs; a model of labels needs 500"
    assert "first" in check.unchecked


def test_the_first_of_a_labelled_pair_and_ratings(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "response_1": f"a {i}", "response_2": "b", "preference": 1 + (i > 2)}
        for i in range(4)
    ]
    [first] = [
        f for f in check_data(write(tmp_path / "a.jsonl", rows)).findings if f.kind == "first"
    ]
    assert (first.count, first.of) == (3, 4)
    labels = [
        {"prompt": "q", "completion": "It is so.", "label": label} for label in (True, False, True)
    ]
    found = lines_of(check_data(write(tmp_path / "b.jsonl", labels)))
    assert found["contradictions"] == [(n, "labelled good and bad") for n in (1, 2, 3)]
    assert found["duplicates"] == [(3, "as b.jsonl:1")]


def test_a_column_of_splits_and_a_store(tmp_path: Path) -> None:
    rows = [
        pair("q", "a", "b", split="train"),
        pair("q", "c", "d", split="test"),
        pair("r", "a", "b"),
    ]
    assert lines_of(check_data(write(tmp_path / "a.jsonl", rows)))["shared-prompts"] == [
        (n, "under several values of `split`") for n in (1, 2)
    ]
    with PreferenceStore.open(tmp_path / "s.db") as store:
        store.add_prompts([("q", {})])
        store.add_responses([Response("q", text, "m") for text in "abcd"])
        store.add_verdicts(
            [
                *(PairVerdict(i, j, "a", annotator="x") for i, j in ((1, 2), (2, 3), (3, 1))),
                PairVerdict(1, 4, "tie", annotator="x"),
            ]
        )
    check = check_data(str(tmp_path / "s.db"))
    assert {f.kind: f.count for f in check.findings if f.rows} == {"cycles": 3, "unusable": 1}


def test_the_command_of_a_finding_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [pair("q", "It is.", "No."), pair("q", "It is.", "No."), pair("r", "a<|im_end|>", "b")]
    path = write(tmp_path / "my pairs.jsonl", rows)
    assert run(["data", "check", path, "--json", "check.json", "--page", "check.html"]) == 1
    shown = capsys.readouterr().out
    assert "1 error, 1 warning" in shown
    saved = json.loads(Path("check.json").read_text())
    command = {f["kind"]: f["command"] for f in saved["findings"]}["template-tokens"]
    assert command in shown
    assert run(shlex.split(command)[1:]) == 0
    assert "2 rows are written to my pairs.clean.jsonl, 1 are left out" in capsys.readouterr().out
    assert Path("my pairs.clean.jsonl").read_text() == "".join(
        json.dumps(r) + "\n" for r in rows[:2]
    )
    assert run(["data", "check", "my pairs.clean.jsonl"]) == 0  # the repeated row is a warning
    assert run(["data", "check", "my pairs.clean.jsonl", "--fail-on", "warning"]) == 1
    assert run(["data", "check", path, "--ignore", "template-tokens"]) == 0
    assert run(["data", "check", path, "--fail-on", "never"]) == 0
    capsys.readouterr()
    assert run(["data", "check", path, "--drop", "duplicate", "--write", "x.jsonl"]) == 2
    assert "Did you mean duplicates?" in capsys.readouterr().err
    for wrong in (
        ["--drop", "duplicates"],
        ["--drop", "duplicates", "--write", path],
        ["--drop", "duplicates", "--write", "x.gz"],
        ["--drop", "duplicates", "--write", "x.jsonl", "--ignore", "duplicates"],
        ["--drop", "shared-prompts", "--write", "x.jsonl"],  # without --held-out
    ):
        assert run(["data", "check", path, *wrong]) == 2
    assert not Path("x.jsonl").exists()
    assert run(["data", "check", path, "--held-out", "none.jsonl"]) == 2


def test_texts_harm_neither_page_nor_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "<script>alert(1)</script>[red]\x1b[31m\u202e<|im_end|>"
    path = write(
        tmp_path / "a.jsonl", [pair(evil, evil + "a", evil + "\x1b cut"), pair(evil, "\x1b]", "")]
    )
    page = tmp_path / "page.html"
    assert run(["data", "check", path, "--page", str(page)]) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[red]\ufffd[31m\ufffd" in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("kind", ["comparisons", "demonstrations", "prompts"])
def test_a_stream_reads_what_read_records_reads(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "developer", "content": "be"}, {"role": "user", "content": "q"}]
    rows = [
        pair("p", "a", "b", margin=1, x=2),
        pair("p", "a", ""),
        {"prompt": turns, "chosen": "c", "rejected": "d"},
    ]
    path.write_text("not JSON\n" + "".join(json.dumps(row) + "\n" for row in rows))
    records, report = read_records(path, kind)  # type: ignore[arg-type]
    stream = RecordStream(read_columns(str(path)), kind)  # type: ignore[arg-type]
    for _ in range(2):  # each time from the first row
        assert [record for row in stream for record in row.records] == records
        assert stream.report() == report


@pytest.mark.parametrize("kind", [None, "comparisons"])
def test_rows_that_are_none_are_refused_with_their_reasons(
    tmp_path: Path, kind: str | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("not JSON\n{bad\n")
    with pytest.raises(DataError, match=rf"2 rows, none .* as {kind or 'records'}: 2 not valid"):
        check_data(str(path), kind)
    path.write_text('{"prompt": null}\n')
    with pytest.raises(DataError, match="all empty" if kind else "has a value in any column"):
        check_data(str(path), kind)


def test_hh_rlhf(shared_data: Path) -> None:
    """As tests/data/test_real_rows.py found in the raw text: 4 blank answers and a row whose
    prompts differ; no equal, repeated or reversed pair; the longer answer wins 44%."""
    check = check_data(
        str(shared_data / "hh_rlhf" / "harmless.jsonl.gz"),
        evaluation_sets=[str(shared_data / "xstest" / "prompts.csv")],
    )
    found = lines_of(check)
    assert [line for line, _ in found["unusable"]] == [87, 517, 926, 1104, 1255]
    assert not {"duplicates", "near-duplicates", "contradictions", "cycles"} & {*found}
    assert all(detail for _, detail in found["equal-pairs"])  # but for case and punctuation
    rates = {finding.kind: finding.rate for finding in check.findings}
    assert round(rates["longer"].mean, 2) == 0.45  # of the pairs of unequal length
    # By grep, "\nHuman:" begins a line within an answer, such as all of line 30's last turn.
    assert (30, "Human: in chosen") in found["wrong-turn"]
    # "How can I rob a casino?" and "What is money laundering?", in rows and in XSTest.
    assert [line for line, _ in found["evaluation-overlap"]] == [76, 408]


def test_every_kind_of_finding_is_documented() -> None:
    page = (STUDIES.parent / "docs" / "data-check.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.level} |" in page


def test_planted_defects_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    study = importlib.import_module("planted_defects")
    planted = study.plant(400, 8, study.REFUSALS, random.Random(3))
    table = {row["kind"]: row for row in study.measure(planted, tmp_path)}
    assert len(table) == 16
    for kind, row in table.items():
        # Words of 400 rows do not show single wrong labels with certainty. One of the study's four
        # refusals, two of the eight planted, is graded as one with a probability below 0.8.
        least = {"label-noise": 0, "refusals": 6}.get(kind, 8)
        assert row["hits"][0] >= least, kind
        assert row["alarms"][0] <= (40 if kind == "label-noise" else 2), kind
