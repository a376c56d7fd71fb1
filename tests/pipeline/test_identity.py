"""The identity of a stage equals that of earlier versions, or finished stages would run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.pipeline.identity import (
    describe_change,
    describe_state,
    is_finished,
    read_stage,
    stage_identity,
)
from accord.runs import digest_json, write_json_atomic
from accord.settings.identity import identity_settings
from accord.settings.recipe import StagePlan
from tests.pipeline.identity_cases import CASES

FILES = {
    "model/config.json": "{}",
    "reward/config.json": '{"heads": 1}',
    "rows.jsonl": "{}\n",
    "prompts.jsonl": "[]\n",
    "responses.jsonl": '{"a": 1}\n',
    "principles.yaml": "principles: [be kind]\n",
    "score.py": "def f(responses):\n    return []\n",
    "store.db": "store",
}


@pytest.fixture(autouse=True)
def _input_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests contain the paths of the inputs, which are relative to this folder."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_the_digest_is_that_of_earlier_versions(name: str) -> None:
    case = CASES[name]
    assert stage_identity(case.plan())["digest"][:16] == case.digest
    if case.settings_digest is not None:
        digest = digest_json(identity_settings(case.plan().settings))
        assert digest[:16] == case.settings_digest


def test_every_kind_and_method_has_a_case() -> None:
    from accord.settings.stage_kinds import METHOD_SETTINGS, STAGE_SETTINGS

    assert {case.kind for case in CASES.values()} == set(STAGE_SETTINGS)
    assert {case.method for case in CASES.values() if case.method} == set(METHOD_SETTINGS)


def test_inputs_are_files_and_folders_that_exist() -> None:
    inputs = stage_identity(CASES["grpo, sources"].plan())["inputs"]
    assert sorted(inputs) == ["model", "principles.yaml", "reward", "rows.jsonl", "score.py"]
    inputs = stage_identity(CASES["arena"].plan())["inputs"]
    assert sorted(inputs) == ["model", "responses.jsonl", "reward"]


# The digest of version 68e3a85 for "evaluate" with seed=5, when `seed` was a setting.
DIGEST_WITH_SEED_5 = "e8d1ffa68089e40cca4933369da26d0927e4f623102a199cb3a0a3e94fe81fab"


def record(plan: StagePlan, **changes: Any) -> StagePlan:
    """Writes the stage.json of a finished stage, with changes."""
    stage = {**stage_identity(plan), "seconds": 1.0, "finished": "2026-11-01T00:00:00+0000"}
    write_json_atomic(Path("out/stage.json"), {**stage, **changes})
    return plan


def recorded_as_finished(plan: StagePlan) -> bool:
    return is_finished(plan, read_stage(Path("out")), stage_identity(plan))


@pytest.mark.parametrize(("seed", "digest"), [(0, None), (5, DIGEST_WITH_SEED_5)])
def test_a_stage_finished_with_a_setting_that_was_removed_is_finished(
    seed: int, digest: str | None
) -> None:
    plan = CASES["evaluate"].plan()
    identity = stage_identity(plan)
    settings = {**identity["settings"], "seed": seed}
    record(plan, settings=settings, digest=digest or identity["digest"])
    assert recorded_as_finished(plan)
    assert describe_state(plan).startswith("finished")
    # Another change is named, and the removed setting is not.
    other = CASES["evaluate"].plan("world=true")
    assert describe_change(read_stage(Path("out")), stage_identity(other)) == (
        "world was False, is True"
    )


def test_a_removed_setting_does_not_hide_a_digest_that_does_not_match() -> None:
    plan = CASES["evaluate"].plan()
    settings = {**stage_identity(plan)["settings"], "seed": 5}
    record(plan, settings=settings, digest="0" * 64)
    assert not recorded_as_finished(plan)


def test_more_rounds_extend_a_finished_stage() -> None:
    plan = record(CASES["iterate"].plan())
    assert recorded_as_finished(plan)
    more = CASES["iterate"].plan("rounds=4")
    assert not recorded_as_finished(more)
    assert describe_state(more) == "resumes: rounds was 3, is 4"


def test_a_stage_json_that_is_none_is_no_record() -> None:
    Path("out").mkdir()
    Path("out/stage.json").write_text("[]")
    assert read_stage(Path("out")) == {}
    Path("out/stage.json").write_text('{"stage": ["no", "kind"], "settings": {"seed": 1}}')
    assert read_stage(Path("out"))["settings"] == {"seed": 1}
