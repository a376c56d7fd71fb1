"""An AI judge's scores as a reward source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import NoVerdict
from accord.compare.rewards.reward import (
    PromptResponse,
    SourceContext,
    SourceScores,
    WeightedSource,
)
from accord.compare.texts import shorten
from accord.errors import RewardError
from accord.records import Prompt, prompt_text
from accord.settings.rewards import JudgeSource


def judge_sources(source: JudgeSource, _: SourceContext) -> list[WeightedSource]:
    """A judge's score; with `unreadable=mean` the responses without one are logged. Raises
    SettingsError where the judge can't be used."""
    judge = AiJudge(source, source.model)

    def scores(rows: Sequence[PromptResponse]) -> SourceScores:
        verdicts = judge.scores(rows, lowest=source.lowest, highest=source.highest)
        filled = fill_missing_scores(source, rows, verdicts)
        if source.unreadable == "error":  # none is missing
            return SourceScores(filled, {})
        is_missing = [float(isinstance(verdict, NoVerdict)) for verdict in verdicts]
        return SourceScores(filled, {"unreadable": is_missing})

    return [WeightedSource(source.title, source.weight, scores, judge.usage)]


def fill_missing_scores(
    source: JudgeSource, rows: Sequence[PromptResponse], verdicts: Sequence[int | NoVerdict]
) -> list[float]:
    """The scores, a missing one replaced by the mean of the others to its prompt, or of all.

    Raises RewardError where `unreadable` is `error` and a score is missing, or where all are.
    """
    by_prompt: dict[Prompt, list[int]] = defaultdict(list)
    for row, verdict in zip(rows, verdicts, strict=True):
        if not isinstance(verdict, NoVerdict):
            by_prompt[row.prompt].append(verdict)
    all_scores = [score for prompt_scores in by_prompt.values() for score in prompt_scores]
    filled = []
    for row, verdict in zip(rows, verdicts, strict=True):
        if isinstance(verdict, NoVerdict):
            if source.unreadable == "error" or not all_scores:
                raise RewardError(_describe_missing_score(source, row, verdict))
            known = by_prompt[row.prompt] or all_scores
            filled.append(sum(known) / len(known))
        else:
            filled.append(float(verdict))
    return filled


def _describe_missing_score(source: JudgeSource, row: PromptResponse, missing: NoVerdict) -> str:
    return (
        f"The judge `{source.title}` gave no score for the response "
        f"{shorten(repr(row.response))} to the prompt {shorten(repr(prompt_text(row.prompt)))} in "
        f"{source.attempts} attempts: {missing.reason}. {missing.advice} Or set unreadable=mean, "
        f"which uses the mean of the other scores instead and counts such responses."
    )
