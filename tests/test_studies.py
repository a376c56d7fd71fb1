"""The studies: gains paired by seed, verdicts by intervals, kills, damaged files, comparisons."""

from __future__ import annotations

import contextlib
import importlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from accord.measure.statistics import Interval
from accord.runs import write_json_atomic

STUDIES = Path(__file__).resolve().parent.parent / "studies"


@pytest.fixture
def bake_off(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("bake_off")


def write_seed(run: Path, start: float, gain: float) -> None:
    rows = [
        {"model": name, "true_reward": reward, "kl": 1.0, "mean_length": 12.0, "elo": 1000.0}
        for name, reward in (("sft", start), ("dpo", start + gain))
    ]
    write_json_atomic(run / "results.json", {"models": rows})
    for name in ("sft", "dpo"):
        (run / name).mkdir()
        lines = [json.dumps({"step": s, "num_tokens": 1000.0 * s}) for s in (1, 2)]
        (run / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_gains_are_paired_by_seed(bake_off: ModuleType, tmp_path: Path) -> None:
    runs = [tmp_path / str(seed) for seed in range(3)]
    for run, start, gain in zip(runs, (0.1, 0.5, 0.3), (0.5, 0.6, 0.7), strict=True):
        write_seed(run, start, gain)
    gain = bake_off.summarise(runs)["dpo"]["gain"]
    # The mean of 0.5, 0.6 and 0.7; their deviation is 0.1, and Student's t with 2 degrees of
    # freedom is 4.30265 at 97.5%: 4.30265 · 0.1 / √3 = 0.24841, whatever the starts are.
    assert gain.mean == pytest.approx(0.6)
    assert gain.high - gain.mean == pytest.approx(0.24841, abs=1e-5)
    text = bake_off.markdown(bake_off.summarise(runs))
    assert "| 0.600 ± 0.248 | 1.00 ± 0.00 | 12.0 ± 0.0 | 1000 ± 0 | 2,000 |" in text
    assert "| sft | 0.300 ± 0.497 |  | 1.00" in text  # deviation of 0.2; SFT has no gain


def test_a_gain_counts_when_its_interval_is_above_zero(bake_off: ModuleType) -> None:
    def summary(low: float | None) -> dict[str, dict[str, Interval]]:
        return {"sft": {"gain": Interval(0.0)}, "dpo": {"gain": Interval(0.2, low, 0.4)}}

    assert bake_off.verdict(summary(0.01)).startswith("Every method")
    assert bake_off.verdict(summary(0.0)) == "Not shown to gain over SFT: dpo."
    assert bake_off.verdict(summary(None)) == "Not shown to gain over SFT: dpo."


def test_rounds_gain_by_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    rounds = importlib.import_module("rounds")
    runs = [tmp_path / str(seed) for seed in range(3)]
    for run, start, gain in zip(runs, (0.1, 0.5, 0.3), (0.5, 0.6, 0.7), strict=True):
        rewards = (start, start + gain, start + gain + 0.1)
        rows = [
            {"round": n, "true_reward": {"mean": r, "low": None, "high": None}, "kl": {"mean": 1.0}}
            for n, r in enumerate(rewards)
        ]
        write_json_atomic(run / "iterate/rounds.json", {"rounds": rows})
    first, second, third = rounds.summarise(runs)
    assert "gain" not in first
    # As above: a mean of 0.6 whose interval is 0.24841 wide either way.
    assert second["gain"].mean == second["step"].mean == pytest.approx(0.6)
    assert second["step"].high - 0.6 == pytest.approx(0.24841, abs=1e-5)
    assert third["gain"].mean == pytest.approx(0.7)
    assert third["step"].mean == pytest.approx(0.1)
    assert rounds.verdict([first, second, third]).startswith("Every round gains")
    worse = {**third, "step": Interval(0.1, -0.1, 0.3)}
    assert rounds.verdict([first, second, worse]).endswith("the round before: round 2.")
    table = rounds.markdown([first, second, third])
    assert "| 1 | 0.900 ± 0.657 | 0.600 ± 0.248 | 0.600 ± 0.248 | 1.00 ± 0.00 |" in table


def test_kills_leave_no_difference(tmp_path: Path) -> None:
    # As `python studies/kills.py` runs it, on runs of a few steps.
    folder = tmp_path / "kills"
    command = [sys.executable, str(STUDIES / "kills.py"), "--kills=4", "--size=0.02"]
    result = subprocess.run(
        [*command, f"--output-dir={folder}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["kills"], summary["equal"]) == (4, True)
    for study in summary["studies"]:
        assert len(study["kills"]) == 2
        assert study["starts"] >= 3
    assert "| ppo |" in result.stdout


def test_differences_between_two_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    differences = importlib.import_module("compare_runs").differences

    def write(name: str, loss: float, seconds: float, text: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"step": 1, "loss": loss, "seconds": seconds}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / "model").write_text(text)
        stage = {"digest": "d", "inputs": {}, "seconds": seconds, "finished": f"at {seconds}"}
        (folder / "stage.json").write_text(json.dumps(stage))
        with contextlib.closing(sqlite3.connect(folder / "store.db")) as store, store:
            store.execute("CREATE TABLE answers (text TEXT, created TEXT)")
            store.execute("INSERT INTO answers VALUES (?, ?)", (text, f"at {seconds}"))
        return folder

    original = write("original", 0.5, 1.0, "a")
    assert differences(original, write("later", 0.5, 2.0, "a")) == []  # only clocks differ
    changed = differences(original, write("changed", 0.4, 1.0, "b"))
    assert changed == ["differs: metrics.jsonl", "differs: model", "differs: store.db"]
    unfinished = write("unfinished", 0.5, 1.0, "a")
    (unfinished / ".model.partial-1234").write_text("")
    (unfinished / "checkpoints").mkdir()
    assert [d.split(": ")[1] for d in differences(original, unfinished)] == [
        ".model.partial-1234",
        "checkpoints",
    ]


def test_damaged_files_are_read_or_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    fuzz = importlib.import_module("fuzz")
    assert fuzz.main(["--files=200", "--seed=7"]) == 0
    assert "Failures: 0." in capsys.readouterr().out


def test_what_a_constitution_changes_is_paired_by_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(STUDIES))
    study = importlib.import_module("constitution")
    runs = [tmp_path / str(seed) for seed in range(3)]
    for run, start, gain in zip(runs, (0.1, 0.5, 0.3), (0.5, 0.6, 0.7), strict=True):
        rows = [
            {
                **dict.fromkeys(study.MEASURES, 0.5),
                "model": name,
                "true_reward": start + gain * (name != "sft"),
                "refusal_safe": 0.4 - start * (name == "ppo"),
            }
            for name in study.MODELS
        ]
        write_json_atomic(run / "results.json", {"models": rows})
        counts = {"responses": {"revised": 30 * gain, "all": 30}, "better_share": {"mean": start}}
        write_json_atomic(run / "revise/revise.json", counts)
    summary = study.summarise(runs)
    # As above: a mean of 0.6 whose interval is 0.24841 wide either way, whatever the starts are.
    gain = summary["ppo"]["gain"]
    assert (gain.mean, gain.high - gain.mean) == pytest.approx((0.6, 0.24841), abs=1e-5)
    assert summary["ppo"]["refusal_safe_change"].mean == pytest.approx(-0.3)
    assert summary["revised"]["refusal_safe_change"].mean == 0
    assert study.summarise_revisions(runs)["revised"].mean == pytest.approx(0.6)
    assert study.summarise_revisions(runs)["preferred"].mean == pytest.approx(0.3)
    table = study.markdown(summary)
    assert "| sft | 0.300 ± 0.497 |  | 0.50 ± 0.00 | 0.50 ± 0.00 | 0.40 ± 0.00 |  |" in table
    # Of −0.1, −0.5, −0.3 the interval is 0.497 wide either way, so it holds 0.
    assert study.verdict(summary).splitlines() == [
        f"{model}: gains over SFT in true reward; over-refusal is not shown to change."
        for model in ("revised", "ppo")
    ]
    row = {"gain": Interval(0.2, 0.0, 0.4), "refusal_safe_change": Interval(-0.2, -0.3, -0.1)}
    assert study.verdict({"ppo": row}) == (
        "ppo: is not shown to gain over SFT in true reward; over-refusal falls."
    )
    row = {"gain": Interval(0.2), "refusal_safe_change": Interval(0.2, 0.1, 0.3)}
    assert study.verdict({"ppo": row}).endswith(
        "not shown to gain over SFT in true reward; over-refusal rises."
    )
