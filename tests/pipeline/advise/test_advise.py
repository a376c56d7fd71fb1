"""`accord advise` from files to an advice and a recipe that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.cli.entry import run
from accord.errors import DataError, RequestError, SettingsError
from accord.measure.audits.audit import Audit
from accord.measure.audits.document import AuditDocument
from accord.measure.statistics import Interval
from accord.pipeline.advise import machine
from accord.pipeline.advise.advice import Advice, advise
from accord.pipeline.advise.gather import gather, with_spread
from accord.pipeline.advise.machine import count_parameters
from accord.pipeline.advise.recipe import write_recipe
from accord.pipeline.advise.rules import CHOICES, RULES
from accord.pipeline.advise.settings import read_advise_settings
from accord.pipeline.advise.situation import Situation
from accord.pipeline.plan.machine import CUDA_CONTEXT, Machine
from accord.pipeline.progress import run_to_end
from accord.settings.advise import AdviseSettings
from accord.settings.recipe import load_recipe

Row = dict[str, Any]


def write(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(i: int, chosen: str = "Yes, gladly.", rejected: str = "No.") -> Row:
    return {"prompt": f"May I ask question {i}?", "chosen": chosen, "rejected": rejected}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write(tmp_path / "pairs.jsonl", [pair(i) for i in range(40)])


def facts_of(**values: Any) -> Situation:
    return run_to_end(gather(AdviseSettings.model_validate(values)))


def test_rows_are_counted_by_their_kind(pairs: str, tmp_path: Path, tiny_world: Path) -> None:
    demonstrations = [{"prompt": f"Question {i}", "completion": "Answer."} for i in range(3)]
    labels = [{"prompt": f"Q {i}", "completion": "A.", "label": i % 2 == 0} for i in range(6)]
    files = [
        pairs,
        write(tmp_path / "demos.jsonl", demonstrations),
        write(tmp_path / "labels.jsonl", labels),
        write(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}, {"prompt": "How?"}]),
    ]
    facts = facts_of(model=str(tiny_world / "model"), data=files)
    assert (facts.pairs, facts.demonstrations, facts.labels, facts.prompts) == (40, 3, 6, 2)
    assert facts.files == dict(
        zip(("pairs", "demonstrations", "labels", "prompts"), files, strict=True)
    )
    assert facts.online_fits


def test_pairs_that_were_judged_twice_give_their_agreement(
    tmp_path: Path, tiny_world: Path
) -> None:
    rows = [pair(i) for i in range(40)]
    rows += [pair(i) for i in range(6)]  # six with the same label
    rows += [pair(i, "No.", "Yes, gladly.") for i in range(6, 8)]  # two with the other
    path = write(tmp_path / "pairs.jsonl", rows)
    facts = facts_of(model=str(tiny_world / "model"), data=[path])
    assert facts.repeats is not None
    assert facts.repeats.mean == 6 / 8
    # Clopper-Pearson for 6 of 8, from tables: 0.349 to 0.968.
    assert facts.repeats.low == pytest.approx(0.349, abs=5e-4)
    assert facts.repeats.high == pytest.approx(0.968, abs=5e-4)
    assert facts.words is None  # too few for a model of words


def test_prompts_that_are_held_out_are_counted(
    pairs: str, tmp_path: Path, tiny_world: Path
) -> None:
    held_out = write(tmp_path / "held.jsonl", [pair(3), pair(5), pair(99)])
    facts = facts_of(model=str(tiny_world / "model"), data=[pairs], held_out=[held_out])
    assert facts.leaks == 2
    assert advise(facts).choice == "stay"


def test_the_gain_of_the_best_answer_is_in_standard_deviations() -> None:
    # The best of 2 of 2: gains 1 and 0; of all scores (0, 2, 1, 1) the variance is 1/2.
    facts = with_spread(Situation(), [[0.0, 2.0], [1.0, 1.0]])
    assert facts.gain is not None
    assert facts.gain.mean == pytest.approx(0.5 / 0.5**0.5)
    assert (facts.answers, facts.tied) == (2, 0.5)
    # With 3 and 2 answers the gain is that of 2: the best of 2 of (0, 1, 5) is (1 + 5 + 5)/3.
    facts = with_spread(Situation(), [[0.0, 1.0, 5.0], [2.0, 2.0], [float("nan"), 1.0]])
    spread = float(__import__("numpy").std([0, 1, 5, 2, 2]))
    assert facts.gain is not None
    assert facts.gain.mean == pytest.approx(((11 / 3 - 2) + 0) / 2 / spread)
    assert with_spread(Situation(), [[float("nan")] * 2] * 3).gain is None
    tied = with_spread(Situation(), [[1.0, 1.0]] * 3)
    assert (tied.tied, tied.gain and tied.gain.mean) == (1.0, 0.0)


def test_responses_are_scored_by_the_reward(tmp_path: Path, tiny_world: Path) -> None:
    rows = [
        {"prompt": f"Q{i}", "model": "m", "responses": [{"text": "short"}, {"text": "a b c d e f"}]}
        for i in range(5)
    ]
    path = write(tmp_path / "responses.jsonl", rows)
    values = {
        "model": str(tiny_world / "model"),
        "responses": path,
        "rewards": [{"kind": "length", "at_most": 3}],
    }
    facts = facts_of(**values)
    assert (facts.reward, facts.answers, facts.tied) == ("rule", 2, 0.0)
    assert facts.gain is not None
    assert facts.gain.mean == pytest.approx(1.0)  # half a gap of two deviations
    single = [{**row, "responses": row["responses"][:1]} for row in rows]
    with pytest.raises(DataError, match="2 or more answers"):
        facts_of(**{**values, "responses": write(tmp_path / "one.jsonl", single)})


def probe_file(path: Path, verdict: Any, kind: Any = "probe") -> str:
    audits = [
        Audit("accuracy", "g", "q", "pass", "f", Interval(0.9)),
        Audit("lengthened_flips", "g", "q", verdict, "f", Interval(0.5)),
    ]
    path.write_text(json.dumps(AuditDocument(kind, "s", tuple(audits)).to_json()))
    return str(path)


def test_the_probes_verdict_is_read(tmp_path: Path, tiny_world: Path) -> None:
    values = {"model": str(tiny_world / "model"), "rewards": [{"kind": "length", "at_most": 3}]}
    facts = facts_of(**values, probe=probe_file(tmp_path / "probe.json", "fail"))
    assert (facts.probe, facts.accuracy) == ("fail", "pass")
    with pytest.raises(DataError, match="`accord audit`"):
        facts_of(**values, probe=probe_file(tmp_path / "audit.json", "fail", "audit"))
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match="can't be read"):
        facts_of(**values, probe=str(tmp_path / "bad.json"))


def test_battles_are_refused(tmp_path: Path, tiny_world: Path) -> None:
    rows = [{"prompt": "Q", "model_a": "a", "model_b": "b", "winner": "model_a"}] * 2
    with pytest.raises(DataError, match="no method learns from"):
        facts_of(model=str(tiny_world / "model"), data=[write(tmp_path / "b.jsonl", rows)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probe": "p.json"}, "none is given"),
        ({"responses": "r.jsonl"}, "scored by a reward"),
        (
            {"reward_model": "a", "rewards": [{"kind": "length", "at_most": 9}]},
            "both say what scores",
        ),
        ({"candidates": 0}, "greater than or equal to 1"),
    ],
)
def test_what_contradicts_itself_is_refused(values: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdviseSettings.model_validate({"model": "m", **values})


def test_arguments_without_a_key_are_files_of_data() -> None:
    assert read_advise_settings(None, ["dataset=c.jsonl", "model=m"]).data == ["c.jsonl"]
    settings = read_advise_settings(None, ["a.jsonl", "model=m", "b.jsonl", "candidates=4"])
    assert (settings.data, settings.candidates) == (["a.jsonl", "b.jsonl"], 4)
    with pytest.raises(SettingsError):
        read_advise_settings(None, ["a.jsonl"])


def test_whether_sampling_in_training_fits(
    monkeypatch: pytest.MonkeyPatch, tiny_world: Path
) -> None:
    name = str(tiny_world / "model")
    settings = AdviseSettings(model=name, device="cpu")
    assert machine.online_fits(settings)[0]
    monkeypatch.setattr(machine, "count_parameters", lambda *_: 10**8)
    assert "too slowly on a CPU" in machine.online_fits(settings)[1]

    def on_a_gpu(free: int) -> tuple[bool, str]:
        gpu = Machine("cuda", free + CUDA_CONTEXT)
        monkeypatch.setattr(machine, "_machine", lambda device: gpu)
        return machine.online_fits(settings)

    # The plan's estimate decides, to the byte.
    memory = machine.plan_grpo(settings, Machine("cuda", 80 << 30)).memory
    assert memory is not None
    assert set(memory.roles) == {"policy", "reference", "reward model"}
    assert on_a_gpu(memory.peak)[0]
    fits, why = on_a_gpu(memory.peak - 1)
    assert not fits
    assert "GRPO with adapters on 100.0 million parameters takes about" in why
    assert machine.online_fits(settings.model_copy(update={"online": True}))[0]


def test_parameters_are_those_of_the_loaded_model(tiny_world: Path) -> None:
    import accord

    lm = accord.load_model(tiny_world / "model", trainable=False)
    expected = sum(p.numel() for p in lm.model.parameters())
    assert count_parameters(str(tiny_world / "model"), False) == expected


@pytest.mark.parametrize("choice", sorted(set(CHOICES) - {"stay"}))
def test_every_recipe_loads(choice: Any, pairs: str, tiny_world: Path, tmp_path: Path) -> None:
    rule = next(rule for rule in RULES if rule.advice == choice)
    files = dict.fromkeys(("pairs", "demonstrations", "labels", "prompts"), pairs)
    advice = Advice(Situation(files=files), rule, (), ())
    settings = AdviseSettings.model_validate(
        {"model": str(tiny_world / "model"), "rewards": [{"kind": "length", "at_most": 9}]}
    )
    path = tmp_path / "recipe.yaml"
    assert str(path) in write_recipe(advice, settings, path)
    text = path.read_text()
    assert text.startswith(f"# Advised by `accord advise`: {choice}")
    loaded = load_recipe(path)
    stages = [stage.kind for stage in loaded.stages]
    trained = {stage.name for stage in loaded.stages} & {"reward", "dpo", "kto", "orpo", "sft"}
    if choice.startswith("reward+"):
        assert "reward" in trained
        assert "$reward" not in json.dumps(loaded.stages[-1].settings.model_dump(mode="json"))
    if choice in ("best-of-n", "reward+best-of-n"):
        assert stages[-2:] == ["sample", "select"]
        select = loaded.stages[-1].settings
        assert (select.n, loaded.stages[-2].settings.num_responses) == (8, 8)
        assert (select.rewards is None) == (choice != "best-of-n")
    if choice == "grpo":
        grpo = next(stage for stage in loaded.stages if stage.name == "grpo")
        assert grpo.settings.rewards[0].at_most == 9


def test_no_recipe_is_written_where_nothing_is_trained_or_can_be(
    tiny_world: Path, tmp_path: Path
) -> None:
    settings = AdviseSettings(model=str(tiny_world / "model"))
    path = tmp_path / "recipe.yaml"
    stay = advise(Situation(demonstrations=5))
    assert "not to train" in write_recipe(stay, settings, path)
    with pytest.raises(RequestError, match="needs prompts"):
        write_recipe(advise(Situation()), settings, path)
    assert not path.exists()


def test_the_command_advises_and_writes_a_recipe_once(
    pairs: str, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["advise", pairs, f"model={tiny_world / 'model'}", f"--output={tmp_path / 'r.yaml'}"]
    assert run(command) == 0
    assert "Advice: DPO on the pairs (dpo; confidence: low)." in capsys.readouterr().out
    assert run(["run", str(tmp_path / "r.yaml"), "--dry-run"]) == 0
    capsys.readouterr()
    assert run(command) == 2
    assert "exists" in capsys.readouterr().err
    assert run([*command[:-1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["advice"] == "dpo"
