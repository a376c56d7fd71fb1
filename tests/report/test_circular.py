"""Judges that measure what they shaped: derived from the stages' settings and digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.data.write import ResponseRow, write_responses
from accord.pipeline.stages.kinds import STAGES
from accord.records import Message, Response
from accord.report.findings.verdict import verdict
from accord.report.page import write_report
from accord.report.reading import read_inputs
from accord.report.results import merge_results
from accord.report.tables.rounds import rounds_table
from accord.runs import write_json_atomic
from accord.settings.identity import find_input_paths
from accord.settings.stage_kinds import settings_class
from accord.settings.stages import Contestant, ReportSettings

AI = {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "big-judge"}


class Run:
    """A folder of finished stages, each with its settings and the digests of its inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contestants: list[Contestant] = []

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def stage(
        self, name: str, kind: str, *, digests: dict[str, str] | None = None, **settings: Any
    ) -> None:
        method = None if kind in STAGES else kind
        folder, stage_kind = self.folder / name, "train" if method else kind
        paths = find_input_paths(settings, settings_class(stage_kind, method))
        inputs = {path: f"digest of {path}" for path in paths} | (digests or {})
        record = {
            "stage": stage_kind,
            "method": method,
            "name": name,
            "settings": settings,
            "inputs": inputs,
        }
        write_json_atomic(folder / "stage.json", record)
        manifest = {"settings": {**settings, "output_dir": str(folder)}, "inputs": inputs}
        write_json_atomic(folder / "manifest.json", manifest)
        if method:
            (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')

    def contestant(self, name: str, folder: str, **values: Any) -> None:
        prompt = (Message("user", "hello"),)
        rows = [ResponseRow(prompt, {}, name, {}, (Response(prompt, "hi", name),))]
        responses = self.folder / folder / "responses.jsonl"
        write_responses(responses, rows)
        self.contestants.append(Contestant(name=name, responses=str(responses), **values))

    def ratings(self, judge: dict[str, Any], *, digests: dict[str, str] | None = None) -> None:
        """An arena in which each model is significantly better than the one before it."""
        self.stage("arena", "arena", judge=judge, digests=digests)
        rows = [
            {
                "model": c.name,
                "rating": 1000.0 + 200 * i,
                "low": 960.0 + 200 * i,
                "high": 1040.0 + 200 * i,
            }
            for i, c in enumerate(self.contestants)
        ]
        write_json_atomic(self.folder / "arena/ratings.json", {"models": rows, "pairs": []})

    def scores(
        self, reward_model: str, *, digests: dict[str, str] | None = None, **settings: Any
    ) -> None:
        self.stage("evaluate", "evaluate", reward_model=reward_model, digests=digests, **settings)
        rows = [
            {
                "model": c.name,
                "reward_model_score": {"mean": float(i), "low": i - 0.1, "high": i + 0.1},
            }
            for i, c in enumerate(self.contestants)
        ]
        accuracy = {"accuracy": {"mean": 0.9, "low": 0.8, "high": 0.96}, "pairs": 60}
        write_json_atomic(
            self.folder / "evaluate/evaluation.json", {"models": rows, "reward_model": accuracy}
        )

    def settings(self) -> ReportSettings:
        return ReportSettings(
            run=str(self.folder), output_dir=str(self.folder), contestants=self.contestants
        )

    def results(self) -> dict[str, Any]:
        return merge_results(read_inputs(self.settings()))

    def verdict(self) -> tuple[str, list[str], list[str]]:
        """The headline, the warnings and the good news."""
        inputs = read_inputs(self.settings())
        result = verdict(merge_results(inputs), inputs.evaluation)
        by_level = {
            level: [f.text for f in result.findings if f.level == level]
            for level in ("warning", "good")
        }
        return result.headline, by_level["warning"], by_level["good"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with an SFT model, a reward model of other data, and the SFT model's answers."""
    run = Run(tmp_path / "run")
    run.stage("sft", "sft", model="base", dataset="demos.jsonl")
    run.stage("reward", "reward", model=run.path("sft/model"), dataset="pairs.jsonl")
    run.stage("sampled", "sample", model=run.path("sft/model"), dataset="prompts.jsonl")
    run.contestant("sft", "sampled")
    return run


def reward_judge(run: Run) -> dict[str, Any]:
    return {"kind": "reward_model", "model": run.path("reward/model")}


def test_best_of_n_judged_by_the_reward_that_selected_it(run: Run) -> None:
    for name, n in (("first", 1), ("best", 4)):
        responses, reward = run.path("sampled/responses.jsonl"), run.path("reward/model")
        run.stage(name, "select", responses=responses, n=n, reward_model=reward)
        run.contestant(f"best-of-{n}", name)
    run.ratings(reward_judge(run))
    run.scores(run.path("reward/model"))
    headline, warnings, good = run.verdict()
    assert headline == (
        "best-of-4 is rated best, but by the reward model “reward”, which selected its answers."
    )
    circular = [text for text in warnings if text.startswith("The judge is circular")]
    assert "it selected the answers of best-of-4." in circular[0]  # best-of-1 was not selected
    assert "The scores are by the same judge: that both agree says nothing." in circular[0]
    assert good == []  # it agrees with itself: no good news


def test_models_trained_towards_their_judge(run: Run) -> None:
    run.stage("ppo", "ppo", model=run.path("sft/model"), reward_model=run.path("reward/model"))
    source = {"kind": "reward_model", "model": [run.path("reward/model")], "weight": 1.0}
    run.stage("grpo", "grpo", model=run.path("sft/model"), rewards=[source])
    logged = {**source, "weight": 0.0}  # only logged: it moved nothing
    rule = {"kind": "length", "weight": 1.0}
    run.stage("rule", "grpo", model=run.path("sft/model"), rewards=[logged, rule])
    for name in ("ppo", "grpo", "rule"):
        run.stage(f"{name}-answers", "sample", model=run.path(f"{name}/model"), dataset="p.jsonl")
        run.contestant(name, f"{name}-answers")
    run.ratings(reward_judge(run))
    influences = run.results()["judges"]["ratings"]["influences"]
    assert influences == {"ppo": ["trained"], "grpo": ["trained"]}
    headline, warnings, _ = run.verdict()
    assert headline == "rule is rated best by the reward model “reward”."
    assert "was the reward that ppo and grpo learned from" in warnings[0]


def test_pairs_labelled_by_the_judge_that_rates(run: Run) -> None:
    run.stage("compare", "compare", responses=[run.path("sampled/responses.jsonl")], judge=AI)
    run.stage("dpo", "dpo", model=run.path("sft/model"), dataset=run.path("compare/store.db"))
    # A reward model of the judge's verdicts passes them on to what is trained against it.
    run.stage("rm", "reward", model="base", dataset=run.path("compare/store.db"))
    run.stage("ppo", "ppo", model=run.path("sft/model"), reward_model=run.path("rm/model"))
    for name in ("ppo", "dpo"):
        run.stage(f"{name}-answers", "sample", model=run.path(f"{name}/model"), dataset="p.jsonl")
        run.contestant(name, f"{name}-answers", train=run.path(name))
    run.ratings({**AI, "base_url": "http://127.0.0.1:2/v1"})  # the same model at another address
    headline, warnings, _ = run.verdict()
    assert headline == (
        "dpo is rated best, but by the AI judge “big-judge”, whose verdicts it was trained on."
    )
    assert "labelled the comparisons that ppo and dpo learned from" in warnings[0]
    run.ratings({**AI, "model": "another"})
    assert run.verdict()[0] == "dpo is rated best by the AI judge “another”."
    assert run.verdict()[1] == []


def revised_run(run: Run, **settings: Any) -> None:
    responses = [run.path("sampled/responses.jsonl")]
    run.stage("revise", "revise", responses=responses, **settings)
    run.stage("cai", "sft", model=run.path("sft/model"), dataset=run.path("revise/sft.jsonl"))
    run.stage("cai-answers", "sample", model=run.path("cai/model"), dataset="prompts.jsonl")
    run.contestant("cai", "cai-answers", model=run.path("cai/model"))
    run.ratings(AI)


def test_revisions_by_the_judge_that_rates(run: Run) -> None:
    revised_run(run, reviser={**AI}, judge={"kind": "world"})
    (warning,) = run.verdict()[1]
    assert "“big-judge” rates the models here, and it wrote the revisions that cai" in warning


def test_revisions_judged_by_the_judge_that_rates(run: Run) -> None:
    revised_run(run, reviser={"kind": "world"}, judge=AI)
    (warning,) = run.verdict()[1]
    assert "labelled the comparisons that cai learned from" in warning


def test_revisions_that_nobody_judged(run: Run) -> None:
    revised_run(run, reviser={"kind": "world"}, judge=None, assume_better=True)
    (warning,) = run.verdict()[1]
    assert warning.startswith("No judge compared the revisions that cai learned from")


def test_held_out_pairs_of_the_judge_are_not_learned_from(run: Run) -> None:
    run.stage("compare", "compare", responses=[run.path("sampled/responses.jsonl")], judge=AI)
    held_out = run.path("compare/store.db")
    run.stage("dpo", "dpo", model="base", dataset="pairs.jsonl", eval_dataset=held_out)
    run.stage("dpo-answers", "sample", model=run.path("dpo/model"), dataset="p.jsonl")
    run.contestant("dpo", "dpo-answers", train=run.path("dpo"))
    run.ratings(AI)
    assert run.verdict()[:2] == ("dpo is rated best by the AI judge “big-judge”.", [])


def test_a_copy_of_the_judge_is_known_by_its_content(run: Run) -> None:
    selecting, copy = run.path("reward/model"), "/elsewhere/copy"
    run.stage(
        "best", "select", digests={selecting: "d1"}, n=4, reward_model=selecting,
        responses=run.path("sampled/responses.jsonl"),
    )  # fmt: skip
    run.contestant("best-of-4", "best")
    judge = {"kind": "reward_model", "model": copy}
    run.ratings(judge, digests={copy: "d1"})
    assert "which selected its answers" in run.verdict()[0]
    run.ratings(judge, digests={copy: "d2"})
    assert run.verdict()[:2] == ("best-of-4 is rated best by the reward model “copy”.", [])


def test_rounds_and_a_model_that_judges_itself(run: Run) -> None:
    run.stage("iterate", "iterate", model=run.path("sft/model"), judge=AI, dataset="p.jsonl")
    run.stage("answers", "sample", model=run.path("iterate/model"), dataset="q.jsonl")
    run.contestant("rounds", "answers")
    run.contestant("judge", "own", model="big-judge")
    run.ratings(AI)
    influences = run.results()["judges"]["ratings"]["influences"]
    assert influences == {"rounds": ["labelled"], "judge": ["itself"]}
    assert run.verdict()[0].endswith("by the AI judge “big-judge”, which is the model itself.")


def test_the_worlds_truth_is_not_circular_but_its_flaws_are(run: Run) -> None:
    flawed = {"length": 0.2, "flattery": 0.0, "refusal": 0.0}
    for flaws, circular in (({"length": 0.0}, False), (flawed, True)):
        judge = {"kind": "world", "flaws": flaws}
        run.contestants = run.contestants[:1]
        run.stage(
            "compare", "compare", responses=[run.path("sampled/responses.jsonl")], judge=judge
        )
        run.stage("dpo", "dpo", model=run.path("sft/model"), dataset=run.path("compare/store.db"))
        run.stage("dpo-answers", "sample", model=run.path("dpo/model"), dataset="p.jsonl")
        run.contestant("dpo", "dpo-answers")
        run.ratings(judge)
        assert bool(run.verdict()[1]) is circular


def test_a_run_that_was_moved_is_still_understood(run: Run, tmp_path: Path) -> None:
    responses, reward = run.path("sampled/responses.jsonl"), run.path("reward/model")
    run.stage("best", "select", responses=responses, n=4, reward_model=reward)
    run.contestant("best-of-4", "best")
    run.ratings(reward_judge(run))
    run.folder.rename(tmp_path / "moved")
    moved = Run(tmp_path / "moved")
    moved.contestants = [
        c.model_copy(update={"responses": c.responses.replace("/run/", "/moved/")})
        for c in run.contestants
    ]
    assert "which selected its answers" in moved.verdict()[0]


def test_scores_by_the_reward_of_the_training_are_no_evidence(run: Run) -> None:
    run.stage("ppo", "ppo", model=run.path("sft/model"), reward_model=run.path("reward/model"))
    run.contestant("ppo", "ppo-answers", model=run.path("ppo/model"))
    run.scores(run.path("reward/model"))
    (warning,) = run.verdict()[1]
    start = "The scores are circular: they are by the reward model “reward”, which"
    assert warning.startswith(start)
    run.ratings(AI)  # an independent judge rates; the scores remain what they are
    assert run.verdict()[0] == "ppo is rated best by the AI judge “big-judge”."
    assert run.verdict()[1] == [warning]


def test_comparisons_and_prompts_that_were_trained_on(run: Run) -> None:
    pairs, demos = {"pairs.jsonl": "p"}, {"demos.jsonl": "d"}
    run.stage("reward", "reward", model="base", dataset="pairs.jsonl", digests=pairs)
    run.stage("sft", "sft", model="base", dataset="demos.jsonl", digests=demos)
    run.stage(
        "sampled", "sample", model=run.path("sft/model"), dataset="copy.jsonl",
        digests={"copy.jsonl": "d"},
    )  # fmt: skip
    run.scores(run.path("reward/model"), comparisons="pairs.jsonl", digests=pairs)
    warnings = run.verdict()[1]
    assert warnings[0].startswith("The prompts are not new to sft")
    assert "90% of 60 comparisons, but it was trained on these" in warnings[1]
    run.stage("sampled", "sample", model=run.path("sft/model"), dataset="new.jsonl")
    run.scores(run.path("reward/model"), comparisons="held.jsonl", digests={"held.jsonl": "h"})
    assert run.verdict()[1] == []


def test_prompts_of_a_mixture_that_was_trained_on(run: Run) -> None:
    mixture = [{"dataset": "demos.jsonl", "weight": 1.0}, {"dataset": "more.jsonl", "weight": 2.0}]
    run.stage("sft", "sft", model="base", mixture=mixture, digests={"more.jsonl": "m"})
    run.stage(
        "sampled", "sample", model=run.path("sft/model"), dataset="copy.jsonl",
        digests={"copy.jsonl": "m"},
    )  # fmt: skip
    run.scores(run.path("reward/model"))
    assert run.verdict()[1][0].startswith("The prompts are not new to sft")


def test_the_page_and_results_json_say_it(run: Run) -> None:
    responses, reward = run.path("sampled/responses.jsonl"), run.path("reward/model")
    run.stage("best", "select", responses=responses, n=4, reward_model=reward)
    run.contestant("<b>best</b>", "best")
    run.ratings(reward_judge(run))
    page = write_report(run.settings()).read_text()
    assert "<h1>&lt;b&gt;best&lt;/b&gt; is rated best, but by the reward model “reward”" in page
    assert "The judge is circular" in page


def test_the_rounds_table_says_who_measures() -> None:
    rows = [{"round": 0, "win_rate": None}, {"round": 1, "win_rate": {"mean": 0.8}}]
    content = {"method": "dpo", "keep_data": "round", "rounds": rows}
    sentence = rounds_table({**content, "judge": AI}).sentence
    assert "whose verdicts the rounds learn from" in sentence
    world = {"kind": "world", "flaws": {"length": 0.0}}
    assert "learn from:" not in rounds_table({**content, "judge": world}).sentence
