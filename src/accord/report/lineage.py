"""What stands behind the models of a run: the stages that each comes from, and its judges.

A stage is another one's parent where one of its inputs lies in that stage's folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accord.hub_names import short_name
from accord.report.reading import ReportInputs, StageRecord
from accord.settings.stages import Contestant

Influence = Literal["selected", "trained", "labelled", "revised", "itself"]
"""What a judge did for a model: it selected its responses, was the reward of its training, labelled
the comparisons that it learned from, revised the answers that it learned from, or is the model
itself."""
INFLUENCES: tuple[Influence, ...] = ("selected", "trained", "labelled", "revised", "itself")

_MEASURES = frozenset({"arena", "evaluate", "report"})
"""Kinds of stages that nothing is made from."""


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """A source of verdicts or scores. Two are the same where they share a key: a path, the digest
    of a folder's content, or the name of a model at an endpoint."""

    name: str
    keys: frozenset[str]

    def is_same(self, other: JudgeIdentity) -> bool:
        """Whether both are one judge, wherever its files are."""
        return not self.keys.isdisjoint(other.keys)


class Lineage:
    """The stages of a run by their folders, and what each of them comes from."""

    def __init__(self, stages: Sequence[StageRecord]) -> None:
        self.stages = stages
        self._folders = {folder: stage for stage in stages for folder in _folder_names(stage)}

    def maker(self, path: str) -> StageRecord | None:
        """The stage in whose folder a path lies: the innermost one."""
        for name in dict.fromkeys((os.path.normpath(path), str(Path(path).resolve()))):
            for folder in (Path(name), *Path(name).parents):
                if str(folder) in self._folders:
                    return self._folders[str(folder)]
        return None

    def ancestors(self, path: str) -> list[StageRecord]:
        """All stages that a file or folder comes from, the last one first."""
        stages: dict[str, StageRecord] = {}
        pending = [self.maker(path)]
        while pending:
            stage = pending.pop(0)
            if stage is None or str(stage.folder) in stages or stage.kind in _MEASURES:
                continue
            stages[str(stage.folder)] = stage
            pending += [self.maker(parent) for parent in _parent_paths(stage)]
        return list(stages.values())

    def influences(self, contestant: Contestant, judge: JudgeIdentity) -> list[Influence]:
        """What the judge did for a contestant, each influence one time, the strongest first."""
        influences: set[Influence] = set()
        for stage in self.contestant_stages(contestant):
            influences |= {i for i, other in stage_judges(stage) if judge.is_same(other)}
        trained_against = contestant.reward_model
        if trained_against and judge.is_same(reward_model_identity(trained_against, {})):
            influences.add("trained")
        if contestant.model and judge.is_same(_model_identity(contestant.model)):
            influences.add("itself")
        return [influence for influence in INFLUENCES if influence in influences]

    def contestant_stages(self, contestant: Contestant) -> list[StageRecord]:
        """All stages that a contestant's responses and model come from."""
        sources = (contestant.responses, contestant.model, contestant.train)
        stages = [stage for source in sources if source for stage in self.ancestors(source)]
        return list({str(stage.folder): stage for stage in stages}.values())

    def knows_rows(self, judge: JudgeIdentity, digest: str | None) -> bool:
        """Whether a reward model was trained on the data set with this digest."""
        return digest is not None and any(
            digest in dataset_digests(stage)
            for stage in self.stages
            if stage.kind == "reward"
            and any(
                judge.is_same(reward_model_identity(f"{folder}/model", {}))
                for folder in _folder_names(stage)
            )
        )

    def has_unjudged_revisions(self, contestant: Contestant) -> bool:
        """Whether a contestant learned from revisions that no judge compared with their
        originals."""
        return any(
            stage.kind == "revise" and not stage.settings.get("judge")
            for stage in self.contestant_stages(contestant)
        )

    def knows_prompts(self, contestant: Contestant) -> bool:
        """Whether a contestant answers prompts of a data set that it was trained on."""
        sampled: set[str] = set()
        learned: set[str] = set()
        for stage in self.contestant_stages(contestant):
            if stage.kind == "sample":
                sampled |= set(dataset_digests(stage))
            elif stage.metrics:
                learned |= set(dataset_digests(stage))
        return not sampled.isdisjoint(learned)


def stage_judges(stage: StageRecord) -> Iterator[tuple[Influence, JudgeIdentity]]:
    """The judges that shape what a stage makes."""
    settings, digests = stage.settings, stage.manifest.get("inputs") or {}
    if stage.kind == "select":
        if int(settings.get("n") or 0) > 1:  # the best of one is not selected
            for judge in _sources(settings, digests):
                yield "selected", judge
        return
    if stage.kind == "revise":
        reviser = settings.get("reviser") or {}
        if isinstance(reviser.get("model"), str):
            yield "revised", _model_identity(reviser["model"])
    if stage.kind in ("compare", "iterate", "revise"):
        labelling = judge_identity(settings.get("judge"), digests)
        if labelling is not None:
            yield "labelled", labelling
        return
    for judge in _sources(settings, digests):
        yield "trained", judge


def judges_of_results(inputs: ReportInputs) -> dict[str, Any]:
    """The part of results.json about who measured.

    `ratings` and `scores` name the arena's judge and the reward model of the scores, with what each
    did for the models that it measures (`influences`); null where it is unknown, or is the true
    reward. `one_judge` says that both are the same. `seen_comparisons` says that the reward
    model's accuracy is on rows that it was trained on, `seen_prompts` names the models that were
    measured on a data set that they were trained on, and `unjudged_revisions` those that learned
    from revisions which no judge compared with their originals.
    """
    lineage = Lineage(inputs.stages)
    rating, digests = _stage_of(inputs.ratings_path, inputs.stages)
    ratings = judge_identity(rating.get("judge"), digests)
    evaluation, digests = _stage_of(inputs.evaluation_path, inputs.stages)
    path = evaluation.get("reward_model")
    scores = reward_model_identity(path, digests) if isinstance(path, str) else None
    comparisons = digests.get(str(evaluation.get("comparisons")))
    return {
        "ratings": _judge_json(ratings, lineage, inputs.contestants),
        "scores": _judge_json(scores, lineage, inputs.contestants),
        "one_judge": bool(ratings and scores and ratings.is_same(scores)),
        "seen_comparisons": bool(scores and lineage.knows_rows(scores, comparisons)),
        "seen_prompts": [c.name for c in inputs.contestants if lineage.knows_prompts(c)],
        "unjudged_revisions": [
            c.name for c in inputs.contestants if lineage.has_unjudged_revisions(c)
        ],
    }


def _judge_json(
    judge: JudgeIdentity | None, lineage: Lineage, contestants: Sequence[Contestant]
) -> dict[str, Any] | None:
    if judge is None:
        return None
    influences = {c.name: lineage.influences(c, judge) for c in contestants}
    named = {name: list(shaped) for name, shaped in influences.items() if shaped}
    return {"name": judge.name, "influences": named}


def dataset_digests(stage: StageRecord) -> list[str]:
    """The digests of the data sets that a stage learns from, or samples responses for."""
    digests = stage.manifest.get("inputs") or {}
    mixture = [source.get("dataset") for source in stage.settings.get("mixture") or ()]
    paths = _texts([stage.settings.get("dataset"), *mixture])
    return [str(digests[path]) for path in paths if path in digests]


def judge_identity(judge: Any, digests: Mapping[str, Any]) -> JudgeIdentity | None:
    """The identity of a stage's `judge`; None for the embedded world's true reward."""
    if not isinstance(judge, Mapping):
        return None
    model, kind = judge.get("model"), judge.get("kind", "world")
    if kind == "reward_model" and isinstance(model, str):
        return reward_model_identity(model, digests)
    if kind == "endpoint" and isinstance(model, str):
        return _endpoint_identity(model)
    return _flawed_world(judge.get("flaws")) if kind == "world" else None


def reward_model_identity(path: str, digests: Mapping[str, Any]) -> JudgeIdentity:
    """A reward model by its folder, or hub name, and by its content where the digest is known."""
    keys = {f"path:{os.path.normpath(path)}", f"path:{Path(path).resolve()}"}
    if digests.get(path):
        keys.add(f"digest:{digests[path]}")
    return JudgeIdentity(f"the reward model “{short_name(path)}”", frozenset(keys))


def _model_identity(path: str) -> JudgeIdentity:
    keys = {f"endpoint:{path}", f"endpoint:{Path(path).resolve()}"}
    return JudgeIdentity(f"the model “{short_name(path)}”", frozenset(keys))


def _endpoint_identity(model: str) -> JudgeIdentity:
    return JudgeIdentity(f"the AI judge “{model}”", frozenset({f"endpoint:{model}"}))


def _flawed_world(flaws: Any) -> JudgeIdentity | None:
    """The world's annotators with planted flaws; without flaws their verdicts are the truth."""
    if not isinstance(flaws, Mapping) or not any(flaws.values()):
        return None
    key = f"world:{json.dumps(dict(flaws), sort_keys=True)}"
    return JudgeIdentity("the annotators with planted flaws", frozenset({key}))


def _sources(settings: Mapping[str, Any], digests: Mapping[str, Any]) -> Iterator[JudgeIdentity]:
    """The judges among the sources of a stage's reward; rules are none."""
    if isinstance(settings.get("reward_model"), str):
        yield reward_model_identity(settings["reward_model"], digests)
    for source in settings.get("rewards") or ():
        if not isinstance(source, Mapping) or source.get("weight", 1.0) <= 0:
            continue
        kind, model = source.get("kind"), source.get("model")
        if kind == "reward_model":
            for path in [model] if isinstance(model, str) else model or ():
                yield reward_model_identity(str(path), digests)
        elif kind == "judge" and isinstance(model, str):
            yield _endpoint_identity(model)
        elif kind == "world":
            flawed = _flawed_world(source.get("flaws"))
            if flawed is not None:
                yield flawed


def _stage_of(
    result: Path | None, stages: Sequence[StageRecord]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings and the input digests of the stage that wrote a file."""
    if result is None:
        return {}, {}
    folder = result.resolve().parent
    for stage in stages:
        if stage.folder.resolve() == folder:
            return stage.settings, stage.manifest.get("inputs") or {}
    try:
        record = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, {}
    settings = record.get("settings") if isinstance(record, dict) else None
    return (settings, record.get("inputs") or {}) if isinstance(settings, dict) else ({}, {})


def _folder_names(stage: StageRecord) -> list[str]:
    """A stage's folder as it is now, and as it was named when the stage ran."""
    names = [os.path.normpath(stage.folder), str(stage.folder.resolve())]
    written = (stage.manifest.get("settings") or {}).get("output_dir")
    return [*names, os.path.normpath(written)] if isinstance(written, str) else names


def _parent_paths(stage: StageRecord) -> Iterator[str]:
    """The inputs that go into a stage's result; of one response none is selected, so that the
    reward of best-of-1 has no part in it."""
    if stage.kind == "select" and int(stage.settings.get("n") or 0) <= 1:
        yield str(stage.settings.get("responses"))
        return
    measured = set(_texts(stage.settings.get("eval_dataset")))
    yield from (path for path in stage.manifest.get("inputs") or () if path not in measured)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a setting that is a text, a list or a table."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)
