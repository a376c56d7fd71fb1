"""`accord judge check`: what is read, asked, reported and recorded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.cli.entry import run
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict
from accord.data.voted_pairs import PairVote, VotedPair
from accord.errors import DataError, SettingsError, WorkError
from accord.pipeline.judges.run import judge_settings
from accord.records import Response
from accord.respond import http as attempts
from tests.fake_openai import FakeOpenAi, completion
from tests.pipeline.rule_judges import RuleJudges


def voted_pairs(count: int = 40) -> list[VotedPair]:
    """People prefer the response with a plus; lengths and sides say nothing of it."""
    pairs = []
    for n in range(count):
        good, bad = "+ " + "word " * (n % 3), "word " * ((n + 1) % 3) + "-"
        a, b = (good, bad) if n % 2 else (bad, good)
        side: Any = "a" if n % 2 else "b"
        pairs.append(VotedPair(f"prompt {n}", a.strip(), b.strip(), (PairVote("ada", side),)))
    return pairs


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    server.answer = RuleJudges(voted_pairs())
    yield server
    server.close()


def write_file(path: Path) -> str:
    rows = [
        {
            "instruction": pair.prompt,
            "response1": pair.response_a,
            "response2": pair.response_b,
            "annotator1": 1 if pair.votes[0].side == "a" else 2,
            "annotator2": 1 if pair.votes[0].side == "a" else 2,
            "annotator3": 0,
            "part": "even" if n % 2 == 0 else "odd",
        }
        for n, pair in enumerate(voted_pairs())
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def test_the_command_reports_writes_and_records(
    fake: FakeOpenAi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, store = write_file(tmp_path / "people.json"), str(tmp_path / "votes.db")
    command = ["judge", "check", people, f"base_url={fake.url}", "--repeats", "5"]
    output = str(tmp_path / "check.json")
    assert run([*command, "model=majority", "--store", store, "--output", output]) == 0
    text = capsys.readouterr().out
    assert "PASS: Its agreement with people is kappa 1.00" in text
    assert "40 judged in both orders: 40 labelled" in text
    assert "the same verdict in 100%" in text
    report = json.loads(Path(output).read_text())
    assert (report["result"], report["usage"]["calls"]) == ("pass", 90)
    assert report["people"]["annotators"] == 3
    # All answers are cached, those to the repeated questions too.
    assert run([*command, "model=majority", "--store", store]) == 0
    assert len(fake.requests) == 90
    assert run([*command, "model=first", "--store", store]) == 1
    assert "FAIL: Its two orders disagree in all 40 pairs" in capsys.readouterr().out
    with PreferenceStore.read(store) as opened:
        checks = opened.judge_checks()
    assert [(c.fingerprint.model, c.passed) for c in checks] == [
        ("majority", True),
        ("majority", True),
        ("first", False),
    ]
    assert checks[0].fingerprint.digest == report["fingerprint"]["digest"]


def test_any_change_makes_it_another_judge(fake: FakeOpenAi) -> None:
    pairs = voted_pairs(4)
    judge = {"base_url": fake.url, "model": "majority"}

    def fingerprint(**changes: Any) -> Any:
        report = accord.check_judge(pairs, {**judge, **changes}, repeats=0)
        assert report.fingerprint is not None
        return report.fingerprint["digest"]

    changes: list[dict[str, Any]] = [
        {"criterion": "Which is kinder?"},
        {"principles": ["Be kind."]},
        {"temperature": 0.5},
        {"answer_tokens": 100},
        {"model": "longer"},
    ]
    digests = [fingerprint(), *(fingerprint(**change) for change in changes)]
    assert len(set(digests)) == len(digests)
    # How the server is reached changes no verdict.
    assert fingerprint(timeout=5.0, max_concurrent=2, retries=1) == digests[0]


def test_rows_of_a_column_are_selected(fake: FakeOpenAi, tmp_path: Path) -> None:
    people = write_file(tmp_path / "people.json")
    judge = {"base_url": fake.url, "model": "majority"}
    report = accord.check_judge(people, judge, where={"part": "odd"})
    assert report.proof.rows == 20
    with pytest.raises(DataError, match="`part` holds even, odd"):
        accord.check_judge(people, judge, where={"part": "third"})


def test_the_votes_of_people_in_a_store(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = tmp_path / "votes.db"
    pairs = voted_pairs()
    with PreferenceStore.open(path) as store:
        for number, pair in enumerate(pairs):
            a, b = store.add_responses(
                [
                    Response(pair.prompt, pair.response_a, "base"),
                    Response(pair.prompt, pair.response_b, "majority"),
                ]
            )
            side: Any = pair.votes[0].side
            other = "b" if side == "a" else "a"
            best_first = (0, 1) if side == "a" else (1, 0)
            store.add_verdicts(
                [
                    PairVerdict(a, b, other, "ada", source="person"),  # she changes her mind
                    PairVerdict(a, b, side, "ada", source="person"),
                    PairVerdict(b, a, other, "bo", source="person"),  # the same side, swapped
                    RankingVerdict((a, b), best_first, "cy", source="person"),
                    PairVerdict(a, b, "tie" if number % 4 else "skip", "di", source="person"),
                    PairVerdict(a, b, other, "a judge"),
                ]
            )
    judge = {"base_url": fake.url, "model": "majority"}
    report = accord.check_judge(str(path), judge, store=path, repeats=0)
    assert report.passed
    assert report.annotators == 4
    assert report.proof.rows == 40
    assert report.proof.preferences["own model"].rows == 40
    with PreferenceStore.read(path) as store:
        assert [check.passed for check in store.judge_checks()] == [True]
    assert not accord.check_judge(str(path), judge, annotators=["a judge"]).passed
    with pytest.raises(DataError, match="The annotators are a judge, ada, bo, cy, di"):
        accord.check_judge(str(path), judge, annotators=["eve"])
    with pytest.raises(DataError, match="on the criterion 'kind'"):
        accord.check_judge(str(path), judge, criterion="kind")


def test_what_can_not_measure_is_left_out_and_counted(fake: FakeOpenAi) -> None:
    pairs = voted_pairs()
    split = replace(pairs[0], votes=(PairVote("ada", "a"), PairVote("bo", "b")))
    equal = replace(pairs[1], response_b=pairs[1].response_a)
    report = accord.check_judge(
        [split, equal, *pairs[2:]], {"base_url": fake.url, "model": "majority"}, max_pairs=30
    )
    assert report.skipped == {
        "no majority of people": 1,
        "equal responses": 1,
        "not drawn (max_pairs)": 8,
    }
    assert report.proof.rows == 30
    with pytest.raises(DataError, match="None of 1 pairs can measure a judge: 1 no majority"):
        accord.check_judge([split], {"base_url": fake.url, "model": "majority"})


def test_prompts_that_it_was_tuned_on_are_left_out(fake: FakeOpenAi, tmp_path: Path) -> None:
    people = write_file(tmp_path / "people.json")
    tuned = tmp_path / "examples.jsonl"
    tuned.write_text("".join(json.dumps({"prompt": f"Prompt  {n}"}) + "\n" for n in range(10)))
    output = tmp_path / "check.json"
    command = ["judge", "check", people, f"base_url={fake.url}", "model=majority"]
    assert run([*command, "--tuned-on", str(tuned), "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["people"]["skipped"] == {"the judge was tuned on its prompt": 10}
    assert report["rows"] == 30


def test_a_judge_that_does_not_answer_the_question_is_stopped_early(fake: FakeOpenAi) -> None:
    fake.answer = lambda body: (200, completion("I like both."))
    with pytest.raises(WorkError, match="gave no verdict on any of 8 questions"):
        accord.check_judge(voted_pairs(), {"base_url": fake.url, "model": "m", "attempts": 1})
    assert len(fake.requests) == 8


def test_verdicts_that_can_not_be_read_are_missing_and_no_ties(fake: FakeOpenAi) -> None:
    rules = RuleJudges(voted_pairs())

    def silent_on_some(body: Any) -> Any:
        if "prompt 1" in body["messages"][0]["content"]:  # prompts 1 and 10 to 19
            return 200, completion("...")
        return rules(body)

    fake.answer = silent_on_some
    judge = {"base_url": fake.url, "model": "majority", "attempts": 1}
    report = accord.check_judge(voted_pairs(), judge, repeats=0)
    assert (report.proof.rows, report.proof.missing) == (29, 11)
    assert report.passed
    assert "11 pairs have no verdict that can be read" in report.proof.reason


def test_a_function_is_a_judge_without_a_fingerprint(tmp_path: Path) -> None:
    def better(prompt: Any, a: str, b: str) -> Any:
        return "a" if a.startswith("+") else "b"

    report = accord.check_judge(voted_pairs(), better)
    assert report.passed
    assert (report.judge, report.fingerprint) == ("better", None)
    with pytest.raises(SettingsError, match="can't be recorded"):
        accord.check_judge(voted_pairs(), better, store=tmp_path / "votes.db")
    with pytest.raises(DataError, match="The judge returned 'left'"):
        accord.check_judge(voted_pairs(), lambda *_: "left")


def test_a_coin_is_recognised_by_its_orders_and_by_being_asked_again() -> None:
    coin = random.Random(2)
    report = accord.check_judge(voted_pairs(200), lambda *_: coin.choice("ab"), repeats=100)
    assert report.proof.result == "fail"
    assert report.repeated.mean == pytest.approx(0.5, abs=0.12)


def test_the_settings_of_a_judge(tmp_path: Path) -> None:
    config = tmp_path / "stage.yaml"
    config.write_text("judge:\n  base_url: http://127.0.0.1:1/v1\n  model: a\n")
    settings = judge_settings(config, ["model=b"])
    assert (settings.kind, settings.model) == ("endpoint", "b")
    with pytest.raises(SettingsError, match="basis_url"):
        judge_settings(None, ["basis_url=http://127.0.0.1:1/v1"])
    world = judge_settings(None, [])
    with pytest.raises(SettingsError, match="are simulated"):
        accord.check_judge(voted_pairs(), {"kind": world.kind})


def test_wrong_requests_are_refused_before_anything_is_asked(
    fake: FakeOpenAi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = write_file(tmp_path / "people.json")
    command = ["judge", "check", people, f"base_url={fake.url}", "model=majority"]
    assert run([*command, "--store", "votes.txt"]) == 2
    assert "votes.txt is not a preference store" in capsys.readouterr().err
    assert run([*command, "--where", "part"]) == 2
    assert "Write COLUMN=VALUE" in capsys.readouterr().err
    assert run([*command, "--people", "ada"]) == 2
    assert "is a file, in which annotators" in capsys.readouterr().err
    assert not fake.requests
