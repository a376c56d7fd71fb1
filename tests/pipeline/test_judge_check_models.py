"""`accord judge check` of a reward model, and of a judge whose own model wrote responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.cli.entry import run
from accord.compare.rewards.build import build_reward
from accord.compare.store.store import PreferenceStore
from accord.data.voted_pairs import PairVote, VotedPair
from accord.lm.load import load_scalar, save_model
from accord.settings.reading.load import build
from accord.settings.stages import SelectSettings
from tests.lm.toys import save_toy

WORDS = ["yes", "no", "well", "so", "fine", "never", "good", "bad"]
TEXTS = [(f"say {a}", f"{a} {b}", f"{b} {b} {a}") for a in WORDS for b in WORDS if a != b]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    lm = load_scalar(save_toy(folder / "toy"), new_head=True)
    save_model(lm, folder / "model", card="")
    return str(folder / "model")


def scores(reward_model: str) -> list[tuple[float, float]]:
    """What the reward model gives both responses, as a reward."""
    sources = [{"kind": "reward_model", "model": reward_model}]
    table = {"responses": "r", "output_dir": "o", "model_name": "n", "rewards": sources}
    reward = build_reward(build(SelectSettings, table, where="select").sources)
    prompts = [prompt for prompt, *_ in TEXTS for _ in range(2)]
    given = reward.scores(prompts, [r for _, *pair in TEXTS for r in pair]).total
    return list(zip(given[::2], given[1::2], strict=True))


def write_pairs(path: Path, labels: Sequence[str], **columns: Sequence[Any]) -> str:
    rows = [
        {"prompt": p, "response_a": a, "response_b": b, "label": label}
        | {name: values[n] for name, values in columns.items()}
        for n, ((p, a, b), label) in enumerate(zip(TEXTS, labels, strict=True))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_reward_model_is_checked_by_its_scores(
    reward_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["a" if a > b else "b" for a, b in scores(reward_model)]
    assert 0.2 < labels.count("a") / len(labels) < 0.8
    store = str(tmp_path / "checks.db")
    judge = ["kind=reward_model", f"model={reward_model}", "--repeats", "5", "--store", store]
    agrees = write_pairs(tmp_path / "agrees.jsonl", labels)
    assert run(["judge", "check", agrees, *judge]) == 0
    text = capsys.readouterr().out
    assert "PASS: Its agreement with people is kappa 1.00" in text
    assert "56 judged in both orders: 56 labelled, 0 undecided" in text
    assert "the same verdict in 100%" in text
    contrary = write_pairs(tmp_path / "contrary.jsonl", ["ba"["ab".index(x)] for x in labels])
    assert run(["judge", "check", contrary, *judge]) == 1
    assert "FAIL" in capsys.readouterr().out
    with PreferenceStore.read(store) as opened:
        checks = opened.judge_checks()
    assert [check.passed for check in checks] == [True, False]
    first, second = (check.fingerprint for check in checks)
    assert (first.endpoint, first.digest) == ("reward model", second.digest)
    # Its fingerprint is that of its files: other weights in the same folder are another judge.
    lm = load_scalar(reward_model)
    lm.score_mean += 1.0
    save_model(lm, Path(reward_model), card="")
    assert run(["judge", "check", agrees, *judge]) == 0
    with PreferenceStore.read(store) as opened:
        assert opened.judge_checks()[-1].fingerprint.digest != first.digest


def of_its_own(pairs: Sequence[tuple[str, str, str]], own: str) -> list[VotedPair]:
    """Pairs of `own` and another model, each shown first as often; people prefer each in turn."""
    voted = []
    for n, (prompt, a, b) in enumerate(pairs):
        side: Any = "a" if (n // 2) % 2 else "b"
        models = (own, "another") if n % 2 else ("another", own)
        votes = (PairVote("ada", side),)
        voted.append(VotedPair(f"{prompt} {n}", a, b, votes, models=models))
    return voted


def test_a_judge_that_prefers_its_own_model() -> None:
    pairs = of_its_own(TEXTS, "gpt")
    own = {(p.prompt, (p.response_a, p.response_b)[p.models.index("gpt")]) for p in pairs}

    def likes_its_own(prompt: Any, a: str, b: str) -> Any:
        return "a" if (prompt, a) in own else "b"

    def preference(**options: Any) -> Any:
        return accord.check_judge(pairs, likes_its_own, **options).proof.preferences["own model"]

    found = preference(own_model="gpt")
    assert (found.rows, found.finding, found.judge.mean) == (56, "biased", 1.0)
    assert found.people.mean == 0.5
    other = preference(own_model="another")  # it avoids that one
    assert (other.rows, other.judge.mean) == (56, 0.0)
    assert preference(own_model="nobody").rows == preference().rows == 0


def test_the_commands_own_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = of_its_own(TEXTS, "gpt")
    people = write_pairs(
        tmp_path / "people.jsonl",
        [pair.votes[0].side for pair in pairs],
        model_a=[pair.models[0] for pair in pairs],
        model_b=[pair.models[1] for pair in pairs],
    )
    folder = tmp_path / "toy"
    save_model(load_scalar(save_toy(folder), new_head=True), tmp_path / "rm", card="")
    command = ["judge", "check", people, "kind=reward_model", f"model={tmp_path / 'rm'}"]
    run(command)
    assert "own model" not in capsys.readouterr().out
    output = str(tmp_path / "check.json")
    run([*command, "--own-model", "gpt", "--output", output])
    assert "own model" in capsys.readouterr().out
    report = json.loads(Path(output).read_text())
    assert report["options"]["own_model"] == "gpt"
