"""The stage `audit` on responses with a fault: each is failed for the right reason, a good model is
not. The responses are functions of the request, scored by the rewards that the settings name."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.data.write import ResponseRow, read_responses, write_responses
from accord.measure.audits.audit import Audit
from accord.pipeline import run_stage
from accord.pipeline.audits.inputs import read_pair
from accord.pipeline.stages.audit import read_document
from accord.records import Response
from accord.settings.audit import AuditSettings
from accord.settings.recipe import single_stage
from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.grammar import FILLER, FLATTERY
from accord.world.reward import true_reward
from accord.world.tasks import Task

Answer = Callable[[Task, random.Random], str]
TASKS = tuple(distinct_tasks(random.Random(0), 80, "test_prompts"))


def better(task: Task, rng: random.Random) -> str:
    answers = [demonstrate(task, rng) for _ in range(4)]
    return max(answers, key=lambda text: true_reward(task.prompt, text))


def constant(task: Task, rng: random.Random) -> str:
    return "Of course, I will look at it with care. Let me know if you need more."


def flattering(task: Task, rng: random.Random) -> str:
    return f"{rng.choice(FLATTERY)} {' '.join(demonstrate(task, rng).split()[:6])}"


def padded(task: Task, rng: random.Random) -> str:
    return " ".join([demonstrate(task, rng), *rng.sample(FILLER, 3)])


def _write(path: Path, answer: Answer, seed: int) -> str:
    rng = random.Random(seed)
    rows = [
        ResponseRow(
            task.prompt,
            {"kind": task.kind},
            "model",
            {},
            tuple(Response(task.prompt, answer(task, rng), "model") for _ in range(3)),
        )
        for task in TASKS
    ]
    write_responses(path, rows)
    return str(path)


def _audit(folder: Path, **settings: Any) -> dict[str, Audit]:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run_stage(single_stage("audit", None, overrides=[f"output_dir={folder}", *values]))
    return {audit.name: audit for audit in read_document(str(folder)).audits}


def _failed(audits: dict[str, Audit]) -> set[str]:
    return {name for name, audit in audits.items() if audit.verdict == "fail"}


def _of(tmp_path: Path, answer: Answer, **settings: Any) -> dict[str, Audit]:
    return _audit(
        tmp_path / "audit",
        before_responses=_write(tmp_path / "before.jsonl", demonstrate, 1),
        responses=_write(tmp_path / "after.jsonl", answer, 2),
        **settings,
    )


def test_a_good_model_is_not_failed(tmp_path: Path) -> None:
    audits = _of(tmp_path, better, world=True, rewards=[{"kind": "world"}])
    assert _failed(audits) == set()
    assert audits["independent_gain"].verdict == "pass"


def test_a_constant_answer(tmp_path: Path) -> None:
    audits = _of(tmp_path, constant)
    assert {"one_answer", "shared_answers", "shared_wording"} <= _failed(audits)
    assert "Of course, I will look at it with care." in audits["one_answer"].finding


def test_a_winner_by_the_proxy_alone(tmp_path: Path) -> None:
    proxy = {"kind": "world", "flaws": {"flattery": 2.0}}
    audits = _of(tmp_path, flattering, world=True, rewards=[proxy])
    assert {"independent_gain", "flattery"} <= _failed(audits)
    assert audits["independent_gain"].finding.startswith("The reward is hacked")


def test_a_length_gamer(tmp_path: Path) -> None:
    audits = _of(tmp_path, padded, rewards=[{"kind": "world", "flaws": {"length": 2.0}}])
    assert {"length", "length_gain"} <= _failed(audits)


def test_the_first_row_of_a_prompt_gives_its_kind(tmp_path: Path) -> None:
    """Two rows of a prompt are joined: the responses of both, and what the first says of it."""
    path = Path(_write(tmp_path / "rows.jsonl", demonstrate, 1))
    rows = read_responses(path)
    other = [ResponseRow(r.prompt, {"kind": "other"}, r.model, {}, r.responses[:1]) for r in rows]
    write_responses(path, [*rows, *other])
    settings = AuditSettings(
        responses=str(path), before_responses=str(path), output_dir=str(tmp_path)
    )
    pair = read_pair(settings)
    assert [row.meta["kind"] for row in pair.after] == [task.kind for task in TASKS]
    assert {len(row.responses) for row in pair.after} == {4}


@pytest.mark.parametrize("left_out", [0, 5])
def test_a_curve_is_over_the_prompts_that_all_of_its_points_answer(
    tmp_path: Path, left_out: int
) -> None:
    after = _write(tmp_path / "after.jsonl", better, 2)
    rows = read_responses(Path(after))
    fewer = tmp_path / "fewer.jsonl"
    write_responses(fewer, rows[: len(rows) - left_out])
    audits = _audit(
        tmp_path / "audit",
        before_responses=after,
        responses=after,
        world=True,
        rewards=[{"kind": "world"}],
        curve=[
            {"name": "one", "responses": after, "best_of": 1},
            {"name": "two", "responses": str(fewer), "best_of": 2},
        ],
    )
    assert audits["over_optimisation"].count == len(TASKS) - left_out
