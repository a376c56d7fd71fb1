"""`accord judge correct`: a judge's win rate, corrected by what people said of the same pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError
from accord.pipeline.judges.correct import correct_win_rate
from accord.records import Response


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 pairs, of which people prefer dpo in 40%; the judge agrees where they do, and calls half
    of the others wins as well: 70% by its word. People judged 150 of them."""
    path = tmp_path_factory.mktemp("correct") / "store.db"
    rng = random.Random(0)
    with PreferenceStore.open(path) as opened:
        responses = []
        for n in range(600):
            models = ("dpo", "sft") if n % 2 else ("sft", "dpo")
            responses += [Response(f"prompt {n}", f"by {m}", m) for m in models]
        ids = opened.add_responses(responses)
        verdicts = []
        for n in range(600):
            a, b = ids[2 * n : 2 * n + 2]
            wins = n % 10 in (0, 3, 4, 7)  # on both sides as often
            judge_wins = wins or rng.random() < 0.5
            sides: dict[bool, Any] = {True: "a", False: "b"} if n % 2 else {True: "b", False: "a"}
            verdicts.append(PairVerdict(a, b, sides[judge_wins], "m", source="judge"))
            if n < 150:
                verdicts.append(PairVerdict(a, b, sides[wins], "ada", source="person"))
        opened.add_verdicts(verdicts)
    return str(path)


def test_the_judges_error_is_removed(store: str) -> None:
    result = correct_win_rate(store, "m", "dpo", "sft")
    assert (result.pairs, result.people_pairs) == (600, 150)
    assert result.people.mean == pytest.approx(0.4)
    assert result.judge.low is not None
    assert result.judge.low > 0.6
    assert result.corrected.low is not None
    assert result.corrected.high is not None
    assert result.people.low is not None
    assert result.people.high is not None
    assert result.corrected.low < 0.4 < result.corrected.high
    # More certain than people's 150 pairs alone.
    width = result.corrected.high - result.corrected.low
    assert width < result.people.high - result.people.low
    other_way = correct_win_rate(store, "m", "sft", "dpo")
    assert other_way.corrected.mean == pytest.approx(1 - result.corrected.mean)


def test_the_command(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["--judge", "m", "--model", "dpo", "--against", "sft"]
    output = tmp_path / "rate.json"
    assert run(["judge", "correct", store, *names, "--output", str(output)]) == 0
    assert "  people       40.0% (" in capsys.readouterr().out
    assert json.loads(output.read_text())["people_pairs"] == 150


def test_wins_on_every_pair_leave_the_doubt_of_so_many_prompts(tmp_path: Path) -> None:
    # 20 wins in 20 prompts, 5 of 5 by people: the exact lower bounds are .025^(1/20) and
    # .025^(1/5), and never 1 (Clopper and Pearson 1934).
    with PreferenceStore.open(tmp_path / "store.db") as opened:
        texts = [Response(f"prompt {n}", f"by {m}", m) for n in range(20) for m in ("dpo", "sft")]
        ids = opened.add_responses(texts)
        pairs = list(zip(ids[::2], ids[1::2], strict=True))
        opened.add_verdicts([PairVerdict(a, b, "a", "m", source="judge") for a, b in pairs])
        opened.add_verdicts([PairVerdict(a, b, "a", "ada", source="person") for a, b in pairs[:5]])
    result = correct_win_rate(tmp_path / "store.db", "m", "dpo", "sft")
    assert (result.judge.mean, result.judge.high) == (1.0, 1.0)
    assert result.judge.low == pytest.approx(0.025 ** (1 / 20))
    assert result.people.low == pytest.approx(0.025 ** (1 / 5))
    assert result.corrected.low == pytest.approx(0.025 ** (1 / 5))
    assert "people       100.0% (47.8% to 100.0%)" in str(result)


def test_names_that_the_store_lacks_are_refused(store: str) -> None:
    with pytest.raises(DataError, match="has 0 pairs of dpo and ppo"):
        correct_win_rate(store, "m", "dpo", "ppo")
    with pytest.raises(DataError, match=r"600 pairs .* 0 of them judged by people too"):
        correct_win_rate(store, "m", "dpo", "sft", people=["bo"])
