"""The stage `curve` and `accord best-of curve`: from responses to curve.json and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from accord.cli.app import app
from accord.data.write import ResponseRow, write_responses
from accord.errors import DataError, RewardError, SettingsError
from accord.pipeline import run_stage
from accord.pipeline.stages.curve import read_curve
from accord.records import Response
from accord.settings.recipe import single_stage


@pytest.fixture
def responses(tmp_path: Path) -> str:
    """Each prompt's responses have 1 to 4 words; the longer, the more of them are `bad`."""
    texts = ["good", "good good", "good bad bad", "bad bad bad bad"]
    rows = [
        ResponseRow(p, {}, "m", {}, tuple(Response(p, t, "m", tokens=len(t)) for t in texts[k:]))
        for p, k in (("a", 0), ("b", 0), ("c", 0))
    ]
    write_responses(tmp_path / "responses.jsonl", rows)
    return str(tmp_path / "responses.jsonl")


LONGER = {"kind": "length", "at_least": 4, "penalty": 1.0}  # −3, −2, −1, 0
GOOD = {"kind": "contains", "text": "good"}  # 1, 1, 1, 0


def curve(output_dir: Path, **settings: Any) -> dict[str, Any]:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    run_stage(single_stage("curve", None, overrides=[f"output_dir={output_dir}", *values]))
    return read_curve(output_dir)


def test_the_reward_rises_while_the_independent_measure_turns_down(
    responses: str, tmp_path: Path
) -> None:
    content = curve(tmp_path / "out", responses=responses, rewards=[LONGER], independent=[GOOD])
    points = content["points"]
    assert [p["n"] for p in points] == [1, 2, 4]
    # All prompts are alike. Reward −3/2, of two −(3·0 + 2·1 + 1·2)/6 = −2/3, of four 0. The answer
    # without `good` is the longest: it is chosen in 1/4, 1/2 and all of the draws.
    assert [p["proxy"]["mean"] for p in points] == pytest.approx([-1.5, -2 / 3, 0.0])
    assert [p["independent"]["mean"] for p in points] == pytest.approx([0.75, 0.5, 0.0])
    assert [p["independent_gain"]["mean"] for p in points] == pytest.approx([0, -0.25, -0.75])
    assert content["turn"]["n"] == 2
    assert "turns down at N = 2" in content["finding"]
    assert (content["reward"], content["independent"]) == ("length", "contains")
    assert points[0]["seconds"] is None  # the responses were given, not sampled
    assert points[2]["tokens"]["mean"] == sum(map(len, ["good", "good good", "good bad bad"])) + 15
    # Finished: nothing is scored again, and the table is printed again.
    scores = (tmp_path / "out/scores.jsonl").read_text()
    assert curve(tmp_path / "out", responses=responses, rewards=[LONGER], independent=[GOOD])
    assert (tmp_path / "out/scores.jsonl").read_text() == scores


def test_an_interrupted_run_scores_only_what_is_missing(responses: str, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "mine.py").write_text(
        "def score(responses):\n"
        f"    open({str(calls)!r}, 'a').write(f'{{len(responses)}}\\n')\n"
        "    return [float(len(r)) for r in responses]\n"
    )
    source = {"kind": "python", "function": f"{tmp_path}/mine.py:score"}
    out, settings = tmp_path / "out", {"responses": responses, "rewards": [source]}
    curve(out, batch_size=5, **settings)
    first = [int(line) for line in calls.read_text().split()]
    assert sum(first) == 12
    assert max(first) == 5
    # As a run that was killed leaves its folder: two of its batches are in the log, one is not.
    lines = (out / "scores.jsonl").read_text().splitlines(keepends=True)
    (out / "scores.jsonl").write_text("".join(lines[:10]) + lines[10][:20])
    (out / "curve.json").unlink()
    stage = json.loads((out / "stage.json").read_text())
    (out / "stage.json").write_text(json.dumps({**stage, "finished": None}))
    content = curve(out, batch_size=5, **settings)
    assert sum(int(line) for line in calls.read_text().split()) == 12 + 2
    assert content["points"][2]["proxy"]["mean"] == 15


def test_the_command_samples_scores_and_warns(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        *("best-of", "curve", str(tiny_world / "model"), "output_dir=out", "num_responses=4"),
        *(f"dataset={tiny_world}/test_prompts.jsonl", "max_prompts=3", "max_new_tokens=5"),
        *(f"reward_model={tiny_world}/reward", "independent=[{kind: world}]", "device=cpu"),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    content = json.loads(Path("out/curve.json").read_text())
    assert content["finding"] in result.output
    assert [p["n"] for p in content["points"]] == [1, 2, 4]
    assert content["points"][1]["seconds"] == pytest.approx(2 * content["points"][0]["seconds"])
    assert content["points"][2]["kl"] == pytest.approx(0.6363, abs=1e-4)
    again = CliRunner().invoke(app, command)
    assert "Done: out" in again.output
    changed = CliRunner().invoke(app, [*command, "temperature=0.5"])
    assert isinstance(changed.exception, SettingsError)
    assert "temperature" in str(changed.exception)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Set both, or give `responses`"),
        ({"model": "m"}, "Set both"),
        ({"responses": "r", "model": "m"}, "either, not both"),
        ({"responses": "r", "top_p": 0.9}, "`top_p` is of sampling"),
        ({"responses": "r", "rewards": [GOOD], "reward_model": "m"}, "One reward"),
        ({"responses": "r", "rewards": [{**GOOD, "weight": 0}]}, "weight 0"),
        ({"responses": "r", "rewards": [GOOD], "independent": [{**GOOD, "weight": 0}]}, "weight 0"),
    ],
)
def test_settings_that_give_no_curve(settings: dict[str, Any], message: str) -> None:
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    with pytest.raises(SettingsError, match=message):
        single_stage("curve", None, overrides=["output_dir=o", *values])


def test_responses_that_give_no_curve(responses: str, tmp_path: Path) -> None:
    lines = Path(responses).read_text().splitlines(keepends=True)
    Path(responses).write_text(lines[0])
    with pytest.raises(DataError, match="needs 2 prompts"):
        curve(tmp_path / "a", responses=responses, rewards=[GOOD])
    Path(responses).write_text("".join(lines))
    (tmp_path / "mine.py").write_text("def none(responses):\n    return [None] * len(responses)\n")
    source = {"kind": "python", "function": f"{tmp_path}/mine.py:none"}
    with pytest.raises(RewardError, match="none gives no score to a response to 'a'"):
        curve(tmp_path / "b", responses=responses, rewards=[source])
    with pytest.raises(DataError, match="is no curve of best-of-N"):
        read_curve(tmp_path / "nothing.json")
