"""Reward sources combined: weights, scores by source, ensembles, clips, and bad settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from accord.compare.rewards.build import SOURCES, first_reward_model
from accord.compare.rewards.models import encode_for_reward, model_reward
from accord.compare.rewards.reward import (
    CombinedReward,
    PromptResponse,
    WeightedSource,
    score_responses,
    source_metrics,
)
from accord.errors import RewardError, SettingsError
from accord.lm.load import load_scalar, save_model
from accord.settings.base import Settings
from accord.settings.ppo import PpoSettings
from accord.settings.reading.load import build
from accord.settings.rewards import RewardSource
from accord.settings.stages import SelectSettings
from tests.compare.reward_sources import PROMPTS, TEXTS, build_sources, reward_from
from tests.lm.toys import save_toy, toy_tokenizer


def constant(name: str, weight: float, values: Sequence[Any]) -> WeightedSource:
    return WeightedSource(name, weight, lambda rows: values)


def test_the_score_is_the_weighted_sum_and_each_sources_score_is_reported() -> None:
    reward = CombinedReward(
        (constant("a", 2.0, [1.0, 3.0]), constant("b", -0.5, [4, 0]), constant("c", 0.0, [9, 9]))
    )
    assert reward(PROMPTS, TEXTS) == [2 * 1 - 0.5 * 4, 2 * 3]
    scores = score_responses(reward, PROMPTS, TEXTS)
    assert scores.total == [0.0, 6.0]
    assert scores.by_source == {"a": [1.0, 3.0], "b": [4.0, 0.0], "c": [9.0, 9.0]}
    metrics = source_metrics(scores.by_source)
    assert metrics["rewards/a/mean"] == 2.0
    assert metrics["rewards/a/std"] == pytest.approx(math.sqrt(2.0))  # over n − 1, as TRL's
    assert metrics["rewards/c/std"] == 0.0
    assert source_metrics({"a": []}) == {}


def test_any_function_is_a_reward_without_sources() -> None:
    scores = score_responses(lambda p, r, finished=None: [float(len(t)) for t in r], PROMPTS, TEXTS)
    assert (scores.total, scores.by_source) == ([7.0, 3.0], {})


def test_every_kind_of_source_can_be_built() -> None:
    union, _ = get_args(RewardSource)
    assert set(SOURCES) == set(get_args(union))


def test_each_kind_of_rule_from_settings() -> None:
    reward = reward_from(
        {"kind": "length", "at_most": 3, "penalty": 1.0},
        {"kind": "regex", "pattern": "^y"},
        {"kind": "format", "form": "json"},
        {"kind": "repetition", "ngram": 1},
        {"kind": "contains", "text": "B", "weight": 10.0},
        {"kind": "answer", "column": "right"},
    )
    scores = reward.scores(PROMPTS, TEXTS, metas=[{"right": "A  b c d"}, {"right": 4}])
    assert scores.by_source == {
        "length": [-1.0, 0.0],
        "regex": [0.0, 1.0],
        "format": [0.0, 0.0],
        "repetition": [0.0, 0.0],
        "contains": [1.0, 0.0],
        "answer": [1.0, 0.0],
    }
    assert scores.total == [-1 + 10 + 1, 1]


def test_length_in_tokens(tmp_path: Path) -> None:
    tokenizer = save_toy(tmp_path / "toy")
    count = len(toy_tokenizer()("the cat sat", add_special_tokens=False)["input_ids"])
    reward = reward_from({"kind": "length", "at_most": 0, "penalty": 1.0, "tokenizer": tokenizer})
    assert reward(["p"], ["the cat sat"]) == [-count]
    assert reward(["p"], ["half \ud800 a character"])[0] < 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "gave 1 scores for 2 responses"),
        ([1.0, math.nan], "gave nan, which is no finite number, for the response 'yes'"),
        ([math.inf, 1.0], "gave inf, .* to the prompt 'one'"),
        ([1.0, "2"], "gave '2', "),
        ([10**400, 1.0], "no finite number"),
    ],
)
def test_scores_that_are_not_finite_numbers_are_refused(values: list[Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        CombinedReward((constant("mine", 1.0, values),))(PROMPTS, TEXTS)


@pytest.mark.parametrize(
    ("compare", "meta"),
    [
        ("exact", {}),
        ("exact", {"answer": " "}),
        ("exact", {"answer": True}),
        ("contains", {"answer": ["a"]}),
        ("number", {"answer": "four"}),
    ],
)
def test_a_row_without_an_answer_is_named(compare: str, meta: dict[str, Any]) -> None:
    reward = reward_from({"kind": "answer", "compare": compare})
    with pytest.raises(RewardError, match=r"the column `answer`, and the row of the prompt 'one'"):
        reward.scores(PROMPTS[:1], TEXTS[:1], metas=[{**meta, "topic": 1}])
    with pytest.raises(RewardError, match=r"Its other columns: none"):
        reward(PROMPTS, TEXTS)


def test_the_worlds_reward_is_passed_in() -> None:
    flaws: list[float] = []

    def world(settings: Any) -> Any:
        flaws.append(settings.length)
        return lambda prompts, responses, finished=None: [float(len(r)) for r in responses]

    reward = reward_from({"kind": "world", "flaws": {"length": 0.25}, "name": "true"}, world=world)
    assert reward.scores(PROMPTS, TEXTS).by_source == {"true": [7.0, 3.0]}
    assert flaws == [0.25]
    with pytest.raises(SettingsError, match="is the embedded world's, which is not known here"):
        reward_from({"kind": "world"})


def trained(folder: Path, seed: int, heads: int, mean: float, std: float) -> str:
    lm = load_scalar(save_toy(folder / "base", seed=seed), new_head=True, seed=seed, heads=heads)
    lm.score_mean, lm.score_std = mean, std
    lm.head_means = tuple(0.1 * k for k in range(heads)) if heads > 1 else ()
    save_model(lm, folder / "model", card="")
    return str(folder / "model")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A reward model of one head, and one of two."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    return trained(first / "first", 1, 1, 0.3, 2.0), trained(second / "second", 2, 2, 0.0, 0.5)


def raw_heads(folder: str) -> torch.Tensor:
    """Each head's raw score as transformers gives it, one row at a time."""
    lm, rows = load_scalar(folder), []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        group = encode_for_reward(lm, prompt, text)
        ids = torch.tensor([[*group.prompt, *group.responses[0]]])
        rows.append(lm.model(input_ids=ids).logits[0].detach())
    return torch.stack(rows)


def test_ensembles_of_folders_and_heads(models: tuple[str, str]) -> None:
    first, second = models
    members = torch.cat(
        [(raw_heads(first) - 0.3) / 2.0, (raw_heads(second) - torch.tensor([0.0, 0.1])) / 0.5], 1
    )

    def score(**more: Any) -> list[float]:
        return reward_from({"kind": "reward_model", "model": [first, second], **more})(
            PROMPTS, TEXTS
        )

    close = {"abs": 1e-4}
    assert score(combine="mean") == pytest.approx(members.mean(1).tolist(), **close)
    assert score(combine="worst") == pytest.approx(members.min(1).values.tolist(), **close)
    mean = members.mean(1, keepdim=True)
    spread = (members - mean).square().sum(1) / 3
    expected = (mean[:, 0] - 0.7 * spread).tolist()
    combined = score(combine="mean_minus_variance", variance_penalty=0.7)
    assert combined == pytest.approx(expected, **close)
    model_scores = [model_reward(load_scalar(folder))(PROMPTS, TEXTS) for folder in models]
    assert score() == pytest.approx(
        [sum(pair) / 2 for pair in zip(*model_scores, strict=True)], **close
    )
    heads = reward_from({"kind": "reward_model", "model": second, "combine": "worst"})
    assert heads(PROMPTS, TEXTS) == pytest.approx(members[:, 1:].min(1).values.tolist(), **close)


def test_one_head_is_no_ensemble(models: tuple[str, str]) -> None:
    reward = reward_from({"kind": "reward_model", "model": models[0]})
    assert reward.sources[0].name == "first"
    assert [lm.name for lm in reward.models] == [models[0]]
    assert reward(PROMPTS, TEXTS) == model_reward(load_scalar(models[0]))(PROMPTS, TEXTS)
    assert reward([], []) == []
    with pytest.raises(SettingsError, match="`combine=worst` needs members that can disagree"):
        reward_from({"kind": "reward_model", "model": models[0], "combine": "worst"})


def test_a_critic_starts_from_the_first_reward_model() -> None:
    length = {"kind": "length", "at_most": 3}
    tables = [length, {"kind": "reward_model", "model": ["a", "b"]}]
    assert first_reward_model(build_sources(*tables)) == "a"
    assert first_reward_model(build_sources(length)) is None


def test_a_row_is_finished_by_default() -> None:
    seen: list[PromptResponse] = []
    source = WeightedSource("s", 1.0, lambda rows: seen.extend(rows) or [0.0] * len(rows))
    CombinedReward((source,))(PROMPTS, TEXTS)
    CombinedReward((source,))(PROMPTS, TEXTS, [True, False])
    assert [row.finished for row in seen] == [True, True, True, False]
    assert [row.meta for row in seen] == [{}] * 4


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "lenght"}, "`rewards.0.kind` is 'lenght' (x), which is none. Did you mean `l"),
        ({"at_most": 3}, "`rewards.0.kind` is missing (x). The kinds are `reward_model`, `length`"),
        ({"kind": "length", "at_most": 3, "limit": 4}, "`rewards.0.limit` is not a key (x)"),
        ({"kind": "length", "at_most": "3"}, "`rewards.0.at_most` must be a whole number at least"),
        ({"kind": "length"}, "A `length` needs `at_least`, `at_most`, or both"),
        ({"kind": "length", "at_least": 4, "at_most": 3}, "no length lies between them"),
        ({"kind": "length", "at_most": 3, "name": "a/b"}, "'a/b' can't be a metric's name"),
        ({"kind": "regex", "pattern": "(a"}, "'(a' is no regular expression: missing )"),
        ({"kind": "contains", "text": ""}, "an empty text is in every response"),
        ({"kind": "world", "flaws": {"lenght": 1}}, "`rewards.0.flaws.lenght` is not a key"),
        ({"kind": "format", "form": "tags"}, "`tags` belongs to `form=tags`"),
        ({"kind": "format", "form": "tags", "tags": ["a"], "keys": ["b"]}, "`keys` belongs to"),
        ({"kind": "format", "form": "tags", "tags": ["a", "a"]}, "repeated tag"),
        ({"kind": "python", "function": "abc"}, "'abc' names no function. Write module:function"),
        ({"kind": "reward_model", "model": []}, "`model` is an empty list"),
        ({"kind": "reward_model", "model": ["a", "a"]}, "`model` names a folder twice"),
        (
            {"kind": "reward_model", "model": "a", "variance_penalty": 1},
            "`variance_penalty` is read by `combine=mean_minus_variance` only",
        ),
        ({"kind": "regex", "pattern": "a", "weight": math.nan}, "`rewards.0.weight`"),
    ],
)
def test_sources_that_are_refused(table: dict[str, Any], message: str) -> None:
    settings = {"model": "m", "dataset": "d", "output_dir": "o", "rewards": [table]}
    with pytest.raises(SettingsError) as caught:
        build(PpoSettings, settings, where="x")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings_class", "more", "message"),
    [
        (PpoSettings, {}, "Set `reward_model` or `rewards`"),
        (PpoSettings, {"rewards": []}, "a reward needs at least one source"),
        (PpoSettings, {"reward_model": "a", "rewards": [{"kind": "world"}]}, "Keep one of them"),
        (SelectSettings, {"reward_model": "a", "rewards": [{"kind": "world"}]}, "Keep one of them"),
        (PpoSettings, {"rewards": [{"kind": "world"}] * 2}, "two sources are called `world`"),
    ],
)
def test_rewards_are_set_by_one_key(
    settings_class: type[Settings], more: dict[str, Any], message: str
) -> None:
    required = {"model": "m", "dataset": "d", "output_dir": "o"}
    if settings_class is SelectSettings:
        required = {"responses": "r", "output_dir": "o", "model_name": "n"}
    with pytest.raises(SettingsError) as caught:
        build(settings_class, {**required, **more}, where="x")
    assert message in str(caught.value)


def test_short_for_one_source() -> None:
    required = {"responses": "r", "output_dir": "o", "model_name": "n"}
    kinds = [
        [(s.kind, s.title) for s in build(SelectSettings, {**required, **more}, where="x").sources]
        for more in ({}, {"reward_model": "runs/rm/model"}, {"reward_model": "hub/rm"})
    ]
    assert kinds == [[("world", "world")], [("reward_model", "rm")], [("reward_model", "rm")]]


def test_blanks_in_a_pattern_are_significant() -> None:
    (source,) = build_sources({"kind": "contains", "text": " no "})
    assert source.model_dump()["text"] == " no "


def test_only_reward_models_are_clipped_and_all_are_reported_unclipped() -> None:
    model = WeightedSource("model", 2.0, lambda rows: [25.0, -3.0], is_reward_model=True, clip=10.0)
    reward = CombinedReward((model, constant("function", 1.0, [50.0, 0.0])))
    scores = score_responses(reward, PROMPTS, TEXTS)
    assert scores.total == [2 * 10 + 50, 2 * -3]
    assert scores.by_source == {"model": [25.0, -3.0], "function": [50.0, 0.0]}


def test_the_clip_applies_to_reward_models_alone(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    save_model(load_scalar(base, new_head=True, seed=3), tmp_path / "rm", card="")
    model = {"kind": "reward_model", "model": str(tmp_path / "rm")}
    reward = reward_from(model, {"kind": "length", "at_most": 9}, clip=0.01)
    assert [source.clip for source in reward.sources] == [0.01, None]
    raw, rule = (source.score(make_rows()) for source in reward.sources)
    assert max(abs(score) for score in raw) > 0.01
    clipped = [max(-0.01, min(0.01, score)) for score in raw]
    assert reward(PROMPTS, TEXTS) == pytest.approx(
        [x + y for x, y in zip(clipped, rule, strict=True)]
    )


def make_rows() -> list[PromptResponse]:
    return [PromptResponse(*row) for row in zip(PROMPTS, TEXTS, strict=True)]


def test_the_error_of_a_broken_reward_model_says_what_to_do(tmp_path: Path) -> None:
    broken = WeightedSource("rm", 1.0, lambda rows: [math.nan] * len(rows), is_reward_model=True)
    with pytest.raises(RewardError, match="Its weights are broken, or overflow on this text"):
        CombinedReward((broken,))(PROMPTS, TEXTS)


def test_a_response_cut_before_any_text_is_scored_at_the_prompts_end(tmp_path: Path) -> None:
    lm = load_scalar(save_toy(tmp_path / "base"), new_head=True, seed=3)
    ended = encode_for_reward(lm, "one", "", True)
    assert ended.responses[0][-1] in lm.eos_ids
    cut = encode_for_reward(lm, "one", "", False)
    assert (*cut.prompt, *cut.responses[0]) == ended.prompt  # no EOS is added
    assert cut.responses == ((ended.prompt[-1],),)  # there is a token to score


def test_a_critic_starts_from_a_reward_model_that_counts() -> None:
    logged = {"kind": "reward_model", "model": "a", "name": "a", "weight": 0}
    counted = {"kind": "reward_model", "model": "b", "name": "b"}
    assert first_reward_model(build_sources(logged, counted)) == "b"
    rule = {"kind": "length", "at_most": 9}
    assert first_reward_model(build_sources(logged, rule)) == "a"
