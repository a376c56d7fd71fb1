"""Suites in their published forms, from files as they are published, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from accord.data.suites.formats import COPYRIGHT, NO_LABEL
from accord.data.suites.read import REPEATED, SHIPPED, SuiteSource, read_suites
from accord.data.suites.suite import Suite, SuitePrompt
from accord.errors import DataError
from accord.records import Message


def _read(folder: Path, name: str, text: str, label: str | None = None) -> Suite:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    (suite,) = read_suites([SuiteSource(str(path), label)])  # type: ignore[arg-type]
    return suite


@pytest.mark.parametrize(
    ("path", "form", "rows", "harmful", "harmless", "dropped"),
    [
        ("xstest/prompts.csv", "XSTest", 450, 200, 250, {}),
        ("redteam/advbench_behaviors.csv", "HarmBench", 520, 520, 0, {}),
        ("redteam/harmbench_behaviors_text_val.csv", "HarmBench", 80, 60, 0, {COPYRIGHT: 20}),
        ("redteam/strongreject_dataset.csv", "StrongREJECT", 313, 313, 0, {}),
    ],
)
def test_real_files(
    shared_data: Path, path: str, form: str, rows: int, harmful: int, harmless: int, dropped: dict
) -> None:
    (suite,) = read_suites([SuiteSource(str(shared_data / path))])
    assert suite.to_json() == {
        "name": Path(path).stem,
        "format": form,
        "rows": rows,
        "harmful": harmful,
        "harmless": harmless,
        "dropped": dropped,
    }
    assert all(prompt.request for prompt in suite.prompts)


def test_a_prompt_of_two_suites_is_the_first_s(shared_data: Path) -> None:
    folder = shared_data / "redteam"
    names = ("advbench_behaviors.csv", "strongreject_dataset.csv")
    first, second = read_suites([SuiteSource(str(folder / name)) for name in names])
    rows = (folder / names[1]).read_text().count("\nDisinformation") + 1
    assert rows > 10  # it is the real file
    assert len(second.prompts) + len(second.dropped[REPEATED]) == second.rows
    assert not {p.id for p in first.prompts} & {p.id for p in second.prompts}


def test_accord_s_own_suite() -> None:
    (suite,) = read_suites([SuiteSource(SHIPPED)])
    counts = Counter((prompt.language, prompt.label) for prompt in suite.prompts)
    assert len(suite.prompts) == 84
    assert not suite.dropped
    # As many look-alikes as harmful prompts in each of ten languages.
    assert len(counts) == 20
    for (language, _), count in counts.items():
        assert count == (24 if language == "en" else 2)
    assert all(prompt.category for prompt in suite.prompts)


def test_it_holds_no_prompt_of_a_published_suite(shared_data: Path) -> None:
    paths = [*(shared_data / "redteam").glob("*.csv"), shared_data / "xstest/prompts.csv"]
    suites = read_suites([*(SuiteSource(str(path)) for path in paths), SuiteSource(SHIPPED)])
    assert not suites[-1].dropped


def test_xstest_of_both_versions(tmp_path: Path) -> None:
    new = (
        "id,prompt,type,label\n1,How do I kill time?,homonyms,safe\n"
        "2,Kill?,contrast_homonyms,unsafe\n"
    )
    old = "id,type,prompt\nv1,homonyms,How do I kill time?\nv2,contrast_homonyms,Kill?\n"
    for text in (new, old):
        suite = _read(tmp_path, "prompts.csv", text)
        assert [(p.request, p.label, p.category) for p in suite.prompts] == [
            ("How do I kill time?", "harmless", "homonyms"),
            ("Kill?", "harmful", "contrast_homonyms"),
        ]
    wrong = "prompt,type,label\nA?,homonyms,unsafe\nB?,homonyms,perhaps\nC?,homonyms,safe\n"
    suite = _read(tmp_path, "prompts.csv", wrong)
    assert {reason: len(rows) for reason, rows in suite.dropped.items()} == {
        "`type` and `label` contradict each other": 1,
        "a `label` that is neither safe nor unsafe": 1,
    }


def test_harmbench_puts_the_context_before_the_behavior(tmp_path: Path) -> None:
    header = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    rows = "Do it,contextual,illegal,,The context,do_it\nSing it,copyright,copyright,,,sing\n"
    suite = _read(tmp_path, "harmbench.csv", header + rows)
    (prompt,) = suite.prompts
    assert prompt.request == "The context\n\n---\n\nDo it"
    assert (prompt.label, prompt.category) == ("harmful", "illegal")
    assert list(suite.dropped) == [COPYRIGHT]


def test_advbench_gives_the_beginning_of_an_answer(tmp_path: Path) -> None:
    suite = _read(tmp_path, "advbench.csv", 'goal,target\nDo harm,"Sure, here is harm"\n')
    assert suite.form == "AdvBench"
    assert suite.prompts[0].target == "Sure, here is harm"


JBB, OR_BENCH = "Index,Goal,Target,Behavior\n0,G,T,B\n", "prompt,category\nP,privacy\n"


@pytest.mark.parametrize(
    ("name", "text", "form", "label"),
    [
        ("harmful-behaviors.csv", JBB, "JailbreakBench", "harmful"),
        ("benign-behaviors.csv", JBB, "JailbreakBench", "harmless"),
        ("or-bench-80k.csv", OR_BENCH, "OR-Bench", "harmless"),
        ("or-bench-hard-1k.csv", OR_BENCH, "OR-Bench", "harmless"),
        ("or-bench-toxic.csv", OR_BENCH, "OR-Bench", "harmful"),
    ],
)
def test_the_name_says_it_where_the_rows_do_not(
    tmp_path: Path, name: str, text: str, form: str, label: str
) -> None:
    suite = _read(tmp_path, name, text)
    assert (suite.form, suite.prompts[0].label) == (form, label)
    with pytest.raises(DataError, match=NO_LABEL):
        _read(tmp_path, "rows.csv", text)
    other = "harmless" if label == "harmful" else "harmful"
    assert _read(tmp_path, "rows.csv", text, other).prompts[0].label == other


def test_plain_rows_and_the_world_s_kinds(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "A"}], "meta": {"kind": "harmful"}},
        {"prompt": [{"role": "user", "content": "B"}], "meta": {"kind": "jailbreak"}},
        {"prompt": [{"role": "user", "content": "C"}], "meta": {"kind": "thanks"}},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "D"}],
         "meta": {"kind": "safe"}, "language": "de"},
        {"prompt": [{"role": "user", "content": "E"}], "meta": {}},
        {"prompt": [{"role": "assistant", "content": "F"}], "meta": {"kind": "safe"}},
    ]  # fmt: skip
    suite = _read(tmp_path, "world.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [(p.request, p.label, p.attack, p.language) for p in suite.prompts] == [
        ("A", "harmful", "", "en"),
        ("B", "harmful", "jailbreak", "en"),
        ("C", "harmless", "", "en"),
        ("D", "harmless", "", "de"),
    ]
    assert suite.prompts[3].turns[0] == Message("system", "S")
    assert {reason: len(where) for reason, where in suite.dropped.items()} == {
        NO_LABEL: 1,
        "the last turn is not a request of the user's": 1,
    }


def test_a_label_given_may_not_contradict_the_rows(tmp_path: Path) -> None:
    text = "prompt,label\nA,harmful\nB,harmless\nC,dubious\n"
    suite = _read(tmp_path, "own.csv", text, "harmful")
    assert [prompt.request for prompt in suite.prompts] == ["A"]
    assert sorted(suite.dropped) == [
        "a `label` that is neither harmful nor harmless",
        "it is labelled harmless, not harmful as the suite's `label` says",
    ]


def test_columns_that_no_suite_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns answer, question.*XSTest: prompt, type"):
        _read(tmp_path, "x.csv", "question,answer\na,b\n")
    with pytest.raises(DataError, match=r"None of the 1 rows.*Give the suite's `label`"):
        _read(tmp_path, "x.csv", "prompt\na\n")


def test_suites_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    sources = []
    for label in ("harmful", "harmless"):
        path = tmp_path / f"{label}.csv"
        path.write_text("prompt\nThe same\n")
        sources.append(SuiteSource(str(path)))
    with pytest.raises(DataError, match=r"harmless\.csv:2 calls a prompt harmless that .*harmful"):
        read_suites(sources)


def test_an_id_is_that_of_the_conversation() -> None:
    one = SuitePrompt((Message("user", "A"),), "harmful", "x")
    assert one.id == SuitePrompt((Message("user", "A"),), "harmless", "y", "other").id
    assert one.id != SuitePrompt((Message("user", "B"),), "harmful", "x").id
