"""Metrics of an iteration's episodes: scores, KL, entropy, length; under PPO's and TRL's names."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from accord.compare.rewards.reward import source_metrics
from accord.learn.online.episodes import Episodes
from accord.learn.online.methods import final_scores, log_ratio_to_reference
from accord.objectives.advantages import has_equal_scores
from accord.objectives.divergences import kl_k1, kl_k3
from accord.settings.online import OnlineSettings
from accord.settings.rewards import RewardModelSource


def mean_kl(episodes: Episodes) -> float:
    """The mean KL (k1) of an episode, in nats, over those whose old log-probs are known."""
    return float(kl_k1(log_ratio_to_reference(episodes)).sum(1)[episodes.known].mean())


def episode_metrics(episodes: Episodes, settings: OnlineSettings, beta: float) -> dict[str, float]:
    """Scores, KL, entropy and length of the episodes, over response tokens only."""
    scores = final_scores(episodes, settings)
    scored = ~scores.isnan()
    numbers = {
        **_score_metrics(episodes.scores[scored]),
        "objective/beta": beta,
        "eos_rate": float(episodes.finished.float().mean()),
        "response_length": float(episodes.lengths.float().mean()),
        **_repeats(episodes),
        **source_metrics(episodes.by_source),
        **_clipped_share(episodes, settings),
    }
    known = episodes.known
    if not known.any():
        return numbers | _mean("objective/rlhf_reward", scores[scored])
    mask = episodes.mask & known[:, None]
    if episodes.entropy is not None:
        numbers["objective/entropy"] = float(episodes.entropy[mask].mean())
    if episodes.ref_logps is None:
        return numbers | _mean("objective/rlhf_reward", scores[scored])
    log_ratio = log_ratio_to_reference(episodes)
    kl = kl_k1(log_ratio).sum(1)[known]
    return numbers | {
        "objective/kl": float(kl.mean()),
        "objective/kl_k3": float((kl_k3(log_ratio) * mask).sum(1)[known].mean()),
        "objective/non_score_reward": float((-beta * kl).mean()),
        **_mean("objective/rlhf_reward", (scores[known] - beta * kl)[scored[known]]),
    }


def _repeats(episodes: Episodes) -> dict[str, float]:
    """The share of the answers to a prompt that differ, where it has several, and the share of
    answers that another prompt gets too."""
    k = episodes.group_size
    texts = [text.strip() for text in episodes.texts]
    groups = [texts[i : i + k] for i in range(0, len(texts), k)]
    numbers = {}
    if k > 1:
        shares = [len(set(group)) / k for group in groups]
        numbers["completions/distinct_share"] = sum(shares) / len(shares)
    if len(groups) > 1:
        prompts_of = Counter(text for group in groups for text in set(group))
        repeated = sum(prompts_of[text] > 1 for text in texts)
        numbers["completions/repeated_across_prompts"] = repeated / len(texts)
    return numbers


def _score_metrics(scores: Tensor) -> dict[str, float]:
    """Mean and population standard deviation of the responses' scores, where any has one."""
    if not len(scores):
        return {}
    return {
        "objective/scores": float(scores.mean()),
        "objective/scores_std": float(scores.std(unbiased=False)),
    }


def _mean(name: str, values: Tensor) -> dict[str, float]:
    return {name: float(values.mean())} if len(values) else {}


def _clipped_share(episodes: Episodes, settings: OnlineSettings) -> dict[str, float]:
    """The share of the reward models' scores that are clipped."""
    names = [s.title for s in settings.sources if isinstance(s, RewardModelSource)]
    scores = [score for name in names for score in episodes.by_source.get(name, ())]
    if settings.reward_clip is None or not scores:
        return {}
    clipped = sum(abs(score) > settings.reward_clip for score in scores)
    return {"rewards/clipped_share": clipped / len(scores)}


def group_metrics(episodes: Episodes, settings: OnlineSettings) -> dict[str, float]:
    """The same under TRL's names for GRPO, and the share of groups with equal scores."""
    scores = final_scores(episodes, settings)
    equal = has_equal_scores(scores.view(len(episodes.groups), -1))
    scored = scores[~scores.isnan()]
    numbers = {
        **_mean("reward", scored),
        **({"reward_std": float(scored.std())} if len(scored) > 1 else {}),
        "frac_reward_zero_std": float(equal.float().mean()),
        "completions/mean_length": float(episodes.lengths.float().mean()),
        "completions/clipped_ratio": float((~episodes.finished).float().mean()),
    }
    mask = episodes.mask & episodes.known[:, None]
    if mask.any() and episodes.entropy is not None:
        numbers["entropy"] = float(episodes.entropy[mask].mean())
    if mask.any() and episodes.ref_logps is not None:
        numbers["kl"] = float(kl_k3(log_ratio_to_reference(episodes))[mask].mean())
    return numbers
