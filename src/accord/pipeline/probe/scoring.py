"""Scores of all versions by a reward, or verdicts on pairs of them by a judge, each logged."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence

import numpy as np

from accord.compare.judges.questions import BothOrders, Candidates, NoVerdict, Preferred
from accord.compare.rewards.models import encode_for_reward
from accord.compare.rewards.reward import CombinedReward
from accord.errors import RewardError, WorkError
from accord.measure.audits.probes import CHOSEN, REJECTED, Floats, Version
from accord.pipeline.judges.asking import AskedJudge
from accord.pipeline.probe.log import ScoreLog, Values
from accord.pipeline.probe.versions import VersionedPair
from accord.pipeline.progress import Progress
from accord.reasoning import answer_of
from accord.records import prompt_json

log = logging.getLogger(__name__)

Scores = dict[Version, Floats]
Verdicts = dict[tuple[Version, Version], Floats]
UNCHANGED = (CHOSEN, REJECTED)
TRIAL = 4  # pairs that a judge is asked about before the others, since each may cost money


def leave_out_cut(
    reward: CombinedReward, pairs: Sequence[VersionedPair]
) -> tuple[list[VersionedPair], int, int]:
    """The pairs without the changed versions that a reward model of theirs would not read whole:
    such a score is that of another text. Returns also how many versions these are, and how many
    pairs have an unchanged answer that is cut (they stay)."""
    limited = [lm for lm in reward.models if lm.max_length is not None]
    left: list[VersionedPair] = []
    cut_versions = cut_pairs = 0
    for pair in pairs:
        cut = set()
        for version, (response, finished) in pair.responses.items():
            for lm in limited:
                group = encode_for_reward(lm, pair.prompt, answer_of(response), finished)
                if group.num_tokens >= (lm.max_length or math.inf):
                    cut.add(version)
        cut_pairs += bool(cut.intersection(UNCHANGED))
        changed = cut.difference(UNCHANGED)
        cut_versions += len(changed)
        responses = {v: r for v, r in pair.responses.items() if v not in changed}
        left.append(VersionedPair(pair.prompt, pair.meta, responses, pair.measured))
    return left, cut_versions, cut_pairs


def score_versions(
    reward: CombinedReward,
    pairs: Sequence[VersionedPair],
    versions: Sequence[Version],
    score_log: ScoreLog,
    batch_size: int,
) -> Generator[Progress, None, Scores]:
    """The score of each version of each pair, NaN where there is no such version or no score.

    Only what the log lacks is asked, in batches. Raises RewardError as the sources do.
    """
    reward.check_rows([pair.prompt for pair in pairs], [pair.meta for pair in pairs])
    keys = {
        (i, version): score_log.key(
            prompt_json(pair.prompt), *pair.responses[version], dict(pair.meta)
        )
        for i, pair in enumerate(pairs)
        for version in versions
        if version in pair.responses
    }
    asked = {key: question for question, key in reversed(keys.items())}
    missing = score_log.missing(keys.values())
    total = len(set(keys.values()))
    log.info("%d answers to score, %d of them scored before.", total, total - len(missing))
    yield Progress(total - len(missing), total, "scoring")
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        questions = [asked[key] for key in batch]
        score_log.add(dict(zip(batch, _score(reward, pairs, questions), strict=True)))
        yield Progress(total - len(missing) + start + len(batch), total, "scoring")
    scores = {version: np.full(len(pairs), np.nan) for version in versions}
    for (i, version), key in keys.items():
        scores[version][i] = score_log.values[key][0]
    if np.isnan(scores[CHOSEN] + scores[REJECTED]).all():
        names = ", ".join(source.name for source in reward.sources if source.weight)
        raise RewardError(
            f"The reward {names} gives no score to both answers of any of the {len(pairs):,} "
            f"pairs. Give pairs that it applies to, or make it give a number for every text."
        )
    return scores


def _score(
    reward: CombinedReward,
    pairs: Sequence[VersionedPair],
    questions: Sequence[tuple[int, Version]],
) -> list[Values]:
    """The scores of some versions. A score that a source filled in with a mean is none."""
    responses = [pairs[i].responses[version] for i, version in questions]
    given = reward.scores(
        [pairs[i].prompt for i, _ in questions],
        [text for text, _ in responses],
        [finished for _, finished in responses],
        [pairs[i].meta for i, _ in questions],
    )
    filled = [values for name, values in given.by_source.items() if name.endswith(".unreadable")]
    return [
        (math.nan,) if any(values[k] for values in filled) else (score,)
        for k, score in enumerate(given.total)
    ]


def judge_versions(
    judge: AskedJudge,
    pairs: Sequence[VersionedPair],
    comparisons: Sequence[tuple[Version, Version]],
    score_log: ScoreLog,
    batch_size: int,
) -> Generator[Progress, None, tuple[Verdicts, Floats, Floats]]:
    """The verdict on each comparison of each pair, the mean over both orders, NaN where there is
    none; and on the pairs themselves that with chosen shown first, and shown second.

    Raises WorkError where the judge gives no verdict on any of the first questions.
    """
    keys = {
        (i, comparison): score_log.key(
            prompt_json(pair.prompt), *(pair.responses[version] for version in comparison)
        )
        for i, pair in enumerate(pairs)
        for comparison in comparisons
        if all(version in pair.responses for version in comparison)
    }
    asked = {key: question for question, key in reversed(keys.items())}
    missing = score_log.missing(keys.values())
    total = len(set(keys.values()))
    log.info(
        "%d comparisons, in both orders; %d of them asked before.", total, total - len(missing)
    )
    yield Progress(total - len(missing), total, "judging")
    done = 0
    while done < len(missing):
        batch = missing[done : done + (batch_size if done else min(TRIAL, batch_size))]
        verdicts = _ask(judge, pairs, [asked[key] for key in batch])
        score_log.add({k: _values(both) for k, both in zip(batch, verdicts, strict=True)})
        if all(any(map(math.isnan, score_log.values.get(key, (math.nan,)))) for key in asked):
            _raise_without_verdict(judge.name, verdicts)
        done += len(batch)
        yield Progress(total - len(missing) + done, total, "judging")
    orders: Mapping[tuple[Version, Version], np.ndarray] = {
        comparison: np.full((2, len(pairs)), np.nan) for comparison in comparisons
    }
    for (i, comparison), key in keys.items():
        orders[comparison][:, i] = score_log.values[key]
    forward, backward = orders[CHOSEN, REJECTED]
    return {comparison: both.mean(axis=0) for comparison, both in orders.items()}, forward, backward


def _ask(
    judge: AskedJudge,
    pairs: Sequence[VersionedPair],
    questions: Sequence[tuple[int, tuple[Version, Version]]],
) -> list[BothOrders]:
    candidates = []
    for i, comparison in questions:
        texts, finished = zip(*(pairs[i].responses[v] for v in comparison), strict=True)
        candidates.append(Candidates(pairs[i].prompt, texts, finished))
    return judge.ask(candidates)


def _raise_without_verdict(name: str, verdicts: Sequence[BothOrders]) -> None:
    """Raise WorkError: the judge has given no verdict at all, so it does not work."""
    missing = next(both.missing for both in verdicts if both.missing is not None)
    raise WorkError(
        f"The judge {name} gave no verdict on any of the first {len(verdicts)} pairs: "
        f"{missing.reason}. {missing.advice}".rstrip()
    )


def _values(both: BothOrders) -> Values:
    return _first_wins(both.forward), _first_wins(both.backward)


def _first_wins(verdict: Preferred | NoVerdict) -> float:
    if isinstance(verdict, NoVerdict):
        return math.nan
    return 0.5 if verdict is None else float(verdict == 0)
