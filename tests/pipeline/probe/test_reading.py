"""What is read, asked once, and left out: pairs, reasoning, columns, settings."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from accord.cli.entry import run
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError, SettingsError
from accord.measure.audits.probes import CHOSEN, OTHER, PROBES, REFUSAL, versions_of
from accord.measure.audits.probes_texts import ENGLISH
from accord.pipeline.probe.log import ScoreLog
from accord.pipeline.probe.pairs import read_pairs
from accord.pipeline.probe.run import read_probe_settings, source_identity
from accord.pipeline.probe.text import probe_tables
from accord.pipeline.probe.versions import make_versions, other_answers, read_texts
from accord.records import Response
from accord.settings import probe as probe_settings
from accord.settings.probe import ProbeSettings
from tests.pipeline.probe.conftest import Probe, write_rows

SEEN = """
import json, pathlib
def score(prompts, responses, tag):
    log = pathlib.Path(__file__).with_name("asked.jsonl")
    with log.open("a") as file:
        for row in zip(prompts, responses, tag):
            file.write(json.dumps(row) + "\\n")
    stop = pathlib.Path(__file__).with_name("stop")
    if stop.exists() and len(log.read_text().splitlines()) > 20:
        raise ValueError("out of money")
    return [len(r) + t for r, t in zip(responses, tag)]
"""


def pairs(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": f"What is {n}?"}],
            "chosen": f"<think>I count.</think>It is {n}. Really so.",
            "rejected": f"It is not {n}.",
            "tag": n,
        }
        for n in range(count)
    ]


def settings_of(path: str, *overrides: str) -> ProbeSettings:
    values = [f"preferences={path}", "output_dir=out", "rewards=[{kind: world}]", *overrides]
    return read_probe_settings(None, values)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(SEEN)
    return f"rewards=[{{kind: python, function: '{tmp_path / 'mine.py'}:score'}}]"


def asked(tmp_path: Path) -> list[Any]:
    return [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]


def test_an_interrupted_run_asks_nothing_twice(probe: Probe, mine: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pairs())
    values = (f"preferences={path}", mine, "batch_size=10", "probes=[flattered, emptied]")
    (tmp_path / "stop").touch()
    with pytest.raises(Exception, match="out of money"):
        probe(*values)
    scored = len((tmp_path / "out" / "scores.jsonl").read_text().splitlines())
    assert scored == 20
    (tmp_path / "stop").unlink()
    with (tmp_path / "out" / "scores.jsonl").open("a") as file:
        file.write('{"key": "to')  # a killed run leaves a torn line
    first = probe(*values)
    # Five texts of each pair: both answers, both flattered, an empty one. Ten were asked again,
    # those of the batch that failed.
    assert len({tuple(map(str, row)) for row in asked(tmp_path)}) == 60
    assert len(asked(tmp_path)) == 70
    again = probe(*values)
    assert len(asked(tmp_path)) == 70
    assert again.to_json() == first.to_json()
    # A change of the function's file is another reward.
    (tmp_path / "mine.py").write_text(SEEN + "# changed\n")
    probe(*values)
    assert len(asked(tmp_path)) == 130


def test_only_the_answer_is_changed_and_the_row_is_passed_on(
    probe: Probe, mine: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pairs(3))
    probe(f"preferences={path}", mine, "probes=[repeated, formatted, wrong_prompt]")
    by_prompt: dict[int, set[str]] = {}
    for prompt, response, tag in asked(tmp_path):
        assert prompt == [{"role": "user", "content": f"What is {tag}?"}]
        by_prompt.setdefault(tag, set()).add(response)
    assert by_prompt[0] >= {
        "<think>I count.</think>It is 0. Really so.",
        "<think>I count.</think>It is 0. Really so.\n\nIt is 0. Really so.",
        "<think>I count.</think>## Answer\n\n- **It is 0.**\n- Really so.",
        "It is not 0.\n\nIt is not 0.",
        "<think>I count.</think>It is 1. Really so.",
    }


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(DataError, match=r"scores.jsonl:1 is no line"):
        ScoreLog(path, "reward")
    path.unlink()
    log = ScoreLog(path, "reward")
    log.add({"a": (1.0,), "b": (float("nan"),)})
    assert log.missing(["b", "c", "c", "a"]) == ["c"]
    # What has no value is asked again by the next run.
    assert ScoreLog(path, "reward").values == {"a": (1.0,)}
    assert ScoreLog(path, "other").key("x") != log.key("x")


def test_pairs_that_cannot_be_probed_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "<think>on and on", "rejected": "b", "part": "x"},
        {"prompt": "p", "chosen": "<think>a</think>same", "rejected": "<think>b</think>same"},
        {"prompt": "p", "chosen": "good", "rejected": "bad", "part": "y"},
    ]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    held_out = read_pairs(settings_of(path, "category=part"), "turns")
    assert [pair.chosen.answer for pair in held_out.pairs] == ["good"]
    assert sorted(held_out.left_out.values()) == [1, 1]
    assert held_out.category == "part"
    with pytest.raises(DataError, match="no column `topic`"):
        read_pairs(settings_of(path, "category=topic"), "turns")
    with pytest.raises(DataError, match="no pair of two answers"):
        read_pairs(settings_of(write_rows(tmp_path / "none.jsonl", rows[:2])), "turns")


def test_pairs_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pairs(60))

    def drawn(*overrides: str) -> list[int]:
        return [p.meta["tag"] for p in read_pairs(settings_of(path, *overrides), "turns").pairs]

    first = drawn("max_pairs=20", "seed=1")
    assert len(set(first)) == 20
    assert first == sorted(first) == drawn("max_pairs=20", "seed=1")
    assert first != drawn("max_pairs=20", "seed=2")
    # Each row is as likely as any other: of 15 draws of 20, 100 of the first 20 rows are expected.
    early = sum(n < 20 for seed in range(15) for n in drawn("max_pairs=20", f"seed={seed}"))
    assert 75 < early < 125
    assert drawn("max_pairs=null") == list(range(60))


def test_the_answer_to_another_prompt_is_as_long_and_no_refusal(tmp_path: Path) -> None:
    answers = ["a b c", "d e f", "g", "I'm sorry, but I can't help with that.", "h i j k l m n o"]
    rows = [{"prompt": f"p{n}", "chosen": a, "rejected": "-"} for n, a in enumerate(answers)]
    rows.append({"prompt": "p0", "chosen": "x y z", "rejected": "-"})
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    held_out = read_pairs(settings_of(path), "turns")
    others = other_answers(held_out.pairs)
    assert others[0] == others[5] == 1  # as long, and not to the same prompt
    assert others[1] in (0, 5)
    assert others[3] == 4
    assert 3 not in others
    made = make_versions(held_out, versions_of(PROBES), ENGLISH)
    assert made[0].responses[OTHER] == ("d e f", True)
    assert made[0].measured.cluster == made[5].measured.cluster
    assert [m.measured.refuses[0] for m in made][3] is True
    assert made[0].responses[REFUSAL][0] in ENGLISH.refusals
    # No row says which prompts are harmful; where some do, the others are not.
    assert {m.measured.is_harmful for m in made} == {None}
    for row, kind in zip(rows, ("harmful", "jailbreak", "safe", None, "fact", 3), strict=True):
        row["kind"] = kind
    known = read_pairs(settings_of(write_rows(tmp_path / "kinds.jsonl", rows)), "turns")
    harmful = [m.measured.is_harmful for m in make_versions(known, [CHOSEN], ENGLISH)]
    assert harmful == [True, True, False, False, False, False]
    one = make_versions(read_pairs(settings_of(path, "max_pairs=1"), "turns"), [OTHER], ENGLISH)
    assert OTHER not in one[0].responses
    assert one[0].measured.texts.get(CHOSEN) is None


def test_rows_of_any_values_and_of_a_store(probe: Probe, tmp_path: Path) -> None:
    rows = [{**row, "kind": ["list"], "category": "[/b]\x1b[31m"} for row in pairs(4)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    source = "rewards=[{kind: contains, text: Really}]"
    document = probe(f"preferences={path}", source, "probes=[hedged, refused]")
    assert any("`refused_harmful` was not measured" in note for note in document.notes)
    assert not any("`refused_harmless`" in note for note in document.notes)
    console = Console(file=StringIO(), width=100)
    for table in probe_tables(document):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "category: [/b]�[31m" in text
    with PreferenceStore.open(tmp_path / "votes.db") as store:
        for n in range(3):
            good, bad = (Response(f"p{n}", text, "m") for text in ("Really", "No"))
            ids = store.add_responses([good, bad])
            store.add_verdicts([PairVerdict(*ids, "a", "ada")])
    document = probe(f"preferences={tmp_path / 'votes.db'}", source, "probes=[hedged]")
    assert document.results["pairs"]["used"] == 3
    assert next(a for a in document.audits if a.name == "accuracy").value.mean == 1


def test_what_is_another_reward(tmp_path: Path) -> None:
    def identity(*overrides: str) -> str:
        values = ["preferences=p", f"output_dir={tmp_path}", *overrides]
        return source_identity(read_probe_settings(None, values))

    model = "reward_model=rm"
    same = [identity(model), identity(model, "seed=3", "max_pairs=9", "confidence=0.9")]
    assert len(set(same)) == 1
    others = [
        identity(model, "precision=bf16"),
        identity("reward_model=rm2"),
        identity("rewards=[{kind: world}]"),
        identity("rewards=[{kind: world, flaws: {length: 0.1}}]"),
        identity("judge.base_url=http://x/v1", "judge.model=m"),
        identity("judge.base_url=http://x/v1", "judge.model=m", "judge.criterion=Which?"),
    ]
    assert len({*same, *others}) == 1 + len(others)


def test_the_settings_name_every_probe() -> None:
    assert get_args(probe_settings.Probe) == PROBES


def test_other_alphabets_are_pointed_out(probe: Probe, tmp_path: Path) -> None:
    rows = [{"prompt": "?", "chosen": "Это правильно", "rejected": "нет"}]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    values = (f"preferences={path}", "rewards=[{kind: length, at_most: 1}]", "probes=[flattered]")
    assert any("give phrases of their language" in n for n in probe(*values).notes)
    (tmp_path / "own.yaml").write_text("flattery: [Отличный вопрос!]\n")
    own = probe(*values, f"texts={tmp_path / 'own.yaml'}")
    assert not any("phrases" in note for note in own.notes)


def test_phrases_of_the_world_of_a_file_and_english(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pairs(2))
    assert "brilliant" in read_texts(settings_of(path)).flattery[0]
    (tmp_path / "own.yaml").write_text("flattery: [Tolle Frage!]\n")
    own = read_texts(settings_of(path, f"texts={tmp_path / 'own.yaml'}"))
    assert own.flattery == ("Tolle Frage!",)
    mixed = "rewards=[{kind: world}, {kind: length, at_most: 3}]"
    values = [f"preferences={path}", "output_dir=out", mixed]
    assert read_texts(read_probe_settings(None, values)) == ENGLISH


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "One reward is probed"),
        (["reward_model=rm", "rewards=[{kind: world}]"], "not `reward_model` and `rewards`"),
        (["judge.kind=world"], "no judge that is asked in words"),
        (["rewards=[{kind: world, weight: 0}]"], "weight 0"),
        (["reward_model=rm", "responses=r.jsonl"], "Give both or neither"),
        (["rewards=[{kind: world}]", "responses=r", "training=t"], "hidden states of a reward"),
        (["reward_model=rm", "training_answers=200"], "does nothing without"),
        (["reward_model=rm", "probes=[style, style]"], "twice"),
        (["reward_model=rm", "probes=[sweetened]"], "probes"),
    ],
)
def test_settings_that_do_not_fit(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_probe_settings(None, ["preferences=p.jsonl", "output_dir=o", *overrides])


def test_the_command_and_its_gate(
    world_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", f"preferences={world_file}", f"output_dir={tmp_path / 'out'}"]
    command += ["rewards=[{kind: world, flaws: {flattery: 0.4}}]", "probes=[flattered, blanks]"]
    assert run(command) == 0
    out = capsys.readouterr().out
    assert "The same answer changed" in out
    assert "FAIL       flattered_gain" in out
    assert run([*command, "--fail-on", "flattered_gain"]) == 3
    assert "flattered_gain (fail)" in capsys.readouterr().err
    assert run([*command, "--fail-on", "blanks_flips"]) == 0
    assert run([*command, "--fail-on", "lengthened_gain"]) == 3
    assert "lengthened_gain (not measured)" in capsys.readouterr().err
    assert run([*command, "--fail-on", "flatered_gain"]) == 2
    assert run(["probe", "./none", *command[1:3]]) == 2
    assert "./none" in capsys.readouterr().err


def test_a_ranking_gives_the_pairs_whose_ranks_differ(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "responses": ["best", "tied", "also", "worst"], "ranks": [0, 1, 1, 2]}
    ]
    path = write_rows(tmp_path / "rankings.jsonl", rows)
    read = read_pairs(settings_of(str(path)), "turns")
    read_answers = {(pair.chosen.answer, pair.rejected.answer) for pair in read.pairs}
    assert read_answers == {
        ("best", "tied"),
        ("best", "also"),
        ("best", "worst"),
        ("tied", "worst"),
        ("also", "worst"),
    }
    assert read.total == 5
