"""From the sources that settings list to one reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from accord.compare.judges.judge import judge_sources
from accord.compare.rewards.ensembles import ensemble_scores
from accord.compare.rewards.functions import function_scores
from accord.compare.rewards.reward import (
    CombinedReward,
    PromptResponse,
    Reward,
    WeightedSource,
    shorten,
)
from accord.compare.rewards.rules import (
    Rule,
    answer_rule,
    contains_rule,
    format_rule,
    last_number,
    length_rule,
    regex_rule,
    repetition_rule,
    words_in,
)
from accord.errors import RewardError, SettingsError
from accord.lm.load import Device, load_scalar, load_tokenizer
from accord.lm.model import LanguageModel, Precision
from accord.records import prompt_text
from accord.settings.rewards import (
    AnswerSource,
    ContainsSource,
    FlawSettings,
    FormatSource,
    JudgeSource,
    LengthSource,
    PythonSource,
    RegexSource,
    RepetitionSource,
    RewardModelSource,
    RewardSource,
    WorldSource,
)

Score = Callable[[Sequence[PromptResponse]], Sequence[Any]]
World = Callable[[FlawSettings], Reward]
"""The embedded world's reward with flaws; it stands apart, so who knows it passes it in."""


def build_reward(
    sources: Sequence[RewardSource],
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    world: World | None = None,
    load: Callable[[str], LanguageModel] | None = None,
    clip: float | None = None,
) -> CombinedReward:
    """The weighted sum of the sources, with their models loaded and their functions imported.
    Normalised scores, which are those of reward models, are clipped to ± `clip`.

    `load` gives a reward model of its folder where the caller has one on another's base.
    Raises RewardError, SettingsError or ModelError for a source that can't be used.
    """

    def alone(folder: str) -> LanguageModel:
        return load_scalar(
            folder, precision=precision, device=device, trust_remote_code=trust_remote_code
        )

    read = load or alone
    found: list[WeightedSource] = []
    models: list[LanguageModel] = []
    for source in sources:
        if isinstance(source, JudgeSource):
            found += judge_sources(source)
            continue
        if isinstance(source, RewardModelSource):
            loaded = [read(folder) for folder in source.folders]
            models += loaded
            score: Score = ensemble_scores(source, loaded)
        elif isinstance(source, WorldSource):
            score = _in_the_world(source, world)
        else:
            score = _score(source, trust_remote_code)
        of_model = isinstance(source, RewardModelSource)
        found.append(
            WeightedSource(
                source.title,
                source.weight,
                score,
                of_model=of_model,
                clip=clip if of_model else None,
            )
        )
    return CombinedReward(tuple(found), tuple(models))


def weighted_first(sources: Sequence[RewardSource]) -> list[RewardSource]:
    """The sources in their order, but that those which only watch, with weight 0, come last."""
    return sorted(sources, key=lambda source: source.weight == 0)


def first_reward_model(sources: Sequence[RewardSource]) -> str | None:
    """The folder of the first reward model among the sources, from which a critic may start; of
    one that only watches where there is no other."""
    ordered = weighted_first(sources)
    folders = [f for s in ordered if isinstance(s, RewardModelSource) for f in s.folders]
    return folders[0] if folders else None


def _score(
    source: LengthSource
    | RegexSource
    | FormatSource
    | RepetitionSource
    | ContainsSource
    | AnswerSource
    | PythonSource,
    trust_remote_code: bool,
) -> Score:
    if isinstance(source, PythonSource):
        return function_scores(source)
    if isinstance(source, AnswerSource):
        return _answers(source)
    if isinstance(source, LengthSource):
        return _each(length_rule(source, _counter(source, trust_remote_code)))
    if isinstance(source, RegexSource):
        return _each(regex_rule(source))
    if isinstance(source, FormatSource):
        return _each(format_rule(source))
    if isinstance(source, RepetitionSource):
        return _each(repetition_rule(source))
    return _each(contains_rule(source))


def _each(rule: Rule) -> Score:
    return lambda rows: [rule(row.response) for row in rows]


def _counter(source: LengthSource, trust_remote_code: bool) -> Callable[[str], int]:
    if source.tokenizer is None:
        return words_in
    tokenizer = load_tokenizer(source.tokenizer, trust_remote_code=trust_remote_code)

    def count(text: str) -> int:
        whole = text.encode("utf-8", "replace").decode()  # half characters have no tokens
        return len(tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"])

    return count


def _in_the_world(source: WorldSource, world: World | None) -> Score:
    if world is None:
        raise SettingsError(
            f"The reward `{source.title}` is the embedded world's, which is not known here. Use "
            f"accord's commands, or pass `world` to build_reward."
        )
    reward = world(source.flaws)
    return lambda rows: reward([r.prompt for r in rows], [r.response for r in rows])


def _answers(source: AnswerSource) -> Score:
    rule = answer_rule(source)

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        return [rule(row.response, _answer(source, row)) for row in rows]

    return scores


def _answer(source: AnswerSource, row: PromptResponse) -> str:
    """The answer in a prompt's row: text, or a number as it is written. Raises RewardError."""
    answer = row.meta.get(source.column)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        answer = ""
    what = "a number" if source.compare == "number" else "text or a number"
    usable = last_number(str(answer)) is not None if what == "a number" else str(answer).strip()
    if not usable:
        there = ", ".join(f"`{column}`" for column in row.meta) or "none"
        raise RewardError(
            f"The reward `{source.title}` needs an answer in the column `{source.column}`, and the "
            f"row of the prompt {shorten(repr(prompt_text(row.prompt)))} has none ({what}). "
            f"What it has besides: {there}. Add the column to the prompts, or name another in "
            f"`column`."
        )
    return str(answer)
