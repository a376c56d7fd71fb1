"""Rules on the metrics of an online run: score, KL, entropy, length, EOS, steps.

Metrics have the names that PPO or TRL's GRPO logs. docs/reading-the-curves.md describes each
pattern at more length; the thresholds are here, each with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from accord.learn.health.history import (
    SIGNIFICANT,
    HealthRemark,
    Level,
    MetricHistory,
    is_number,
    metric_mean,
)

SCORE = ("objective/scores", "reward")
KL = ("objective/kl", "kl")
ENTROPY = ("objective/entropy", "entropy")
LENGTH = ("response_length", "completions/mean_length")
SPREAD = ("objective/scores_std", "reward_std")
CLIPPED = ("policy/clipfrac_avg", "clip_ratio/region_mean")

MAX_SCORE_DROP = 0.3  # deviations below its best; the mean of 64 answers has an error of 0.125
MAX_NEGATIVE_KL = 0.05  # nats below 0; rounding leaves less
MAX_LENGTH_RATIO = 1.3
COLLAPSED_ENTROPY = 0.2  # of the first entropy; at a fifth of the nats few answers are left
MAX_END_RATE_DROP = 0.1  # share of responses that no longer end
MIN_END_RATE = 0.02  # share of responses; below it the policy has unlearned to end
MAX_EMPTY_LENGTH = 1.5  # mean tokens of responses that are EOS and nothing else
MAX_CLIP_FRACTION = 0.3  # of tokens; .1 to .2 is usual, and beyond .3 a third teach nothing
MIN_EXPLAINED_VARIANCE = 0.0  # a constant explains this much
MAX_RATIO_ERROR = 0.1  # the ratio's mean under the sampling policy is exactly 1
MAX_VALUE_LOSS_GROWTH = 10.0  # times its minimum; a critic that follows a rising score stays below
MAX_EQUAL_GROUPS = 0.8  # share; only a fifth of the sampled answers is then used
MAX_SAMPLER_KL = 0.05  # nats a token; importance weights of 30 tokens are then off by more than e
MAX_CLIPPED_SCORES = 0.05  # share; normalised scores have a standard deviation of 1


def online_health(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Remarks on a run that learns from scores of its own answers; none on other runs."""
    if history.first_logged(*SCORE, *LENGTH) is None:
        return []
    score = history.first_logged(*SCORE)
    return [
        *_score_fell(history, score),
        *_sources(history, score, settings),
        *_clipped_scores(history, settings),
        *_negative_kl(history),
        *_lengths(history, score),
        *_entropy(history, score),
        *_ends(history),
        *_clipped(history),
        *_ratio(history),
        *_critic(history),
        *_equal_groups(history),
        *_mismatch(history),
    ]


def _score_fell(history: MetricHistory, score: str | None) -> list[HealthRemark]:
    """KL up and score down, since the tenth of the run in which the score was best."""
    kl, spread = history.first_logged(*KL), history.first_logged(*SPREAD)
    if score is None or kl is None:
        return []
    scores = history.tenths(score)
    best = max(range(len(scores)), key=lambda i: scores[i][1])
    (step, highest), (_, now) = scores[best], scores[-1]
    deviation = (history.first(spread) if spread else None) or 1.0
    max_drop = max(MAX_SCORE_DROP * deviation, SIGNIFICANT * history.noise(score, history.window))
    kls = dict(history.tenths(kl))
    best_kl, last_kl = kls.get(step), kls.get(scores[-1][0])
    if highest - now <= max_drop or best_kl is None or last_kl is None or last_kl <= best_kl:
        return []
    text = (
        f"The score was best near step {step} ({highest:.2f}) and is {now:.2f} now, while the KL "
        f"went from {best_kl:.2g} to {last_kl:.2g}: the policy leaves its reference and gains "
        f"nothing. Lower learning_rate or num_ppo_epochs, raise beta, or end at "
        f"max_kl={best_kl:.2g}."
    )
    return [HealthRemark("KL up, score down", "warning", text)]


def _sources(
    history: MetricHistory, score: str | None, settings: Mapping[str, Any]
) -> list[HealthRemark]:
    """Sources of the reward that fell while the score grew; one of weight 0 is only measured."""
    if score is None or not history.rose(score):
        return []
    remarks = []
    for source in settings.get("rewards") or ():
        name, key = source.get("name"), f"rewards/{source.get('name')}/mean"
        if source.get("weight", 1.0) < 0 or not history.moved(key) or history.rose(key):
            continue
        text = (
            f"The score grew from {history.first(score):.2f} to {history.last(score):.2f} while "
            f"{name}, one of its sources, fell from {history.first(key):.2f} to "
            f"{history.last(key):.2f}: "
        )
        if source.get("weight", 1.0) == 0:
            text += (
                f"what is learned is not what {name} measures. Raise beta, end earlier (max_kl), "
                f"or mend the sources that grew."
            )
        else:
            text += "the others outweigh it. If that is not intended, raise its weight."
        level: Level = "warning" if source.get("weight", 1.0) == 0 else "note"
        remarks.append(HealthRemark(f"source {name}", level, text))
    return remarks


def _clipped_scores(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    name = "rewards/clipped_share"
    share = history.last(name)
    if share is None or share <= MAX_CLIPPED_SCORES + SIGNIFICANT * _error(history, name):
        return []
    text = (
        f"{share:.0%} of the reward models' scores are beyond ±{settings.get('reward_clip')} "
        f"(`reward_clip`), where a better answer counts no more: of such scores a reward model has "
        f"seen none. Read the answers: raise beta or end earlier (max_kl) if they got worse, raise "
        f"reward_clip if not."
    )
    return [HealthRemark("clipped scores", "warning", text)]


def _negative_kl(history: MetricHistory) -> list[HealthRemark]:
    """A KL is at least 0 in expectation; a negative mean of log-ratios estimates something else."""
    mean = history.second_half("objective/kl")
    error = history.noise("objective/kl", len(history.rows) - len(history.rows) // 2)
    if mean is None or mean > -max(MAX_NEGATIVE_KL, SIGNIFICANT * error):
        return []
    text = (
        f"The KL to the reference is {mean:.2f} nats in the second half, and no KL is below 0: the "
        f"answers were not drawn from the policy whose log-probs are taken. Look for what changes "
        f"the draws: temperature, top-p or top-k, a minimum length, a forbidden EOS, another "
        f"engine."
    )
    return [HealthRemark("negative KL", "warning", text)]


def _lengths(history: MetricHistory, score: str | None) -> list[HealthRemark]:
    length = history.first_logged(*LENGTH)
    if length is None:
        return []
    first, last = history.first(length), history.last(length)
    if not first or last is None or 1 / MAX_LENGTH_RATIO < last / first < MAX_LENGTH_RATIO:
        return []
    if not history.moved(length):
        return []
    text = f"Answers went from {first:.0f} to {last:.0f} tokens"
    if score is None or not history.rose(score):
        return [HealthRemark("length", "warning", f"{text}, and no score grew with it.")]
    text += (
        " while the score grew. The reward may have learned to like the length itself: compare at "
        "equal length in the report. A `length` source in `rewards`, or a reward model trained "
        "with `length_regularisation`, takes it out."
    )
    return [HealthRemark("length", "warning", text)]


def _entropy(history: MetricHistory, score: str | None) -> list[HealthRemark]:
    entropy = history.first_logged(*ENTROPY)
    if entropy is None:
        return []
    first, last = history.first(entropy), history.last(entropy)
    if not first or last is None or last > COLLAPSED_ENTROPY * first:
        return []
    if not history.moved(entropy):
        return []
    effect = "and the score gained nothing by it"
    if score is not None and history.rose(score):
        effect = "while the score grew"
    text = (
        f"The entropy fell from {first:.2f} to {last:.2f} nats a token {effect}: few different "
        f"answers are left, and little to learn from. Raise beta or temperature, "
        f"lower learning_rate, or stop earlier; the report's diversity shows what it cost."
    )
    return [HealthRemark("entropy collapse", "warning", text)]


def _ends(history: MetricHistory) -> list[HealthRemark]:
    """Responses that no longer end, or that end before they say anything."""
    first, last = _end_rate(history.first), _end_rate(history.last)
    if first is None or last is None:
        return []
    length = history.first_logged(*LENGTH)
    tokens = history.last(length) if length else None
    if tokens is not None and tokens < MAX_EMPTY_LENGTH and last > 1 - MIN_END_RATE:
        text = (
            f"Answers are {tokens:.1f} tokens long: the policy says EOS and nothing else. An empty "
            f"answer has the best score it knows; read some, and score empty answers with the "
            f"reward. Lower missing_eos_penalty, or add a `length` source with at_least."
        )
        return [HealthRemark("constant EOS", "warning", text)]
    name = history.first_logged("eos_rate", "completions/clipped_ratio") or ""
    has_dropped = first - last > MAX_END_RATE_DROP and history.moved(name)
    # Of the few answers of one step none may end by chance; of those of half a run, hardly.
    late = _end_rate(history.second_half)
    if not has_dropped and (late is None or late >= MIN_END_RATE):
        return []
    text = (
        f"{last:.0%} of the answers end by themselves, {first:.0%} did at first; the others are "
        f"cut at max_new_tokens. Raise missing_eos_penalty, or max_new_tokens if the answers need "
        f"the room."
    )
    return [HealthRemark("answers do not end", "warning", text)]


def _error(history: MetricHistory, name: str) -> float:
    """The standard error of a metric's mean over the last tenth."""
    return history.noise(name, history.window)


def _end_rate(mean: Callable[[str], float | None]) -> float | None:
    """The share of responses that end, from the mean of a metric over part of the run: PPO logs
    it; GRPO logs the share that was cut."""
    rate, cut = mean("eos_rate"), mean("completions/clipped_ratio")
    if rate is not None:
        return rate
    return None if cut is None else 1 - cut


def _clipped(history: MetricHistory) -> list[HealthRemark]:
    name = history.first_logged(*CLIPPED)
    if name is None:
        return []
    share = max(metric_mean(history.rows, name) or 0.0, history.last(name) or 0.0)
    if share <= MAX_CLIP_FRACTION:
        return []
    text = (
        f"{share:.0%} of the tokens' ratios are outside of the clip, which removes their gradient "
        f"(of cispo: bounds it): an iteration's steps go too far. Lower learning_rate, "
        f"num_mini_batches or the passes (num_ppo_epochs, num_iterations)."
    )
    return [HealthRemark("clip fraction", "note", text)]


def _ratio(history: MetricHistory) -> list[HealthRemark]:
    """The ratio's mean, which is 1 in expectation however far the steps went: where it is not, a
    few tokens' ratios outweigh all others."""
    errors = [
        {"error": abs(r["val/ratio"] - 1)} for r in history.rows if is_number(r.get("val/ratio"))
    ]
    mean = metric_mean(errors, "error")
    if mean is None or mean <= MAX_RATIO_ERROR:
        return []
    text = (
        f"The probability ratio's mean is off by {mean:.2f} from the 1 that is expected: the steps "
        f"of an iteration leave the policy that sampled. Lower learning_rate or num_ppo_epochs."
    )
    return [HealthRemark("ratio", "warning", text)]


def _critic(history: MetricHistory) -> list[HealthRemark]:
    remarks = []
    explained = history.second_half("val/explained_variance")
    error = history.noise("val/explained_variance", len(history.rows) - len(history.rows) // 2)
    if explained is not None and explained < MIN_EXPLAINED_VARIANCE - SIGNIFICANT * error:
        text = (
            f"In the second half the critic explains {explained:.2f} of the returns' variance: "
            f"less than a constant would, so its advantages are noise. Raise critic_learning_rate, "
            f"or train it alone at first with critic_warmup_steps."
        )
        remarks.append(HealthRemark("explained variance", "warning", text))
    losses = history.tenths("loss/value_avg")
    if losses:
        step, lowest = min(losses, key=lambda pair: pair[1])
        now = losses[-1][1]
        rise, error = now - lowest, _error(history, "loss/value_avg")
        if (
            now > MAX_VALUE_LOSS_GROWTH * lowest
            and now > losses[0][1]
            and rise > SIGNIFICANT * error
        ):
            text = (
                f"The value loss was {lowest:.3g} near step {step} and is {now:.3g} now: the "
                f"critic runs away. Lower critic_learning_rate; check that scores are normalised, "
                f"or set reward_clip."
            )
            remarks.append(HealthRemark("value loss", "warning", text))
    return remarks


def _equal_groups(history: MetricHistory) -> list[HealthRemark]:
    share = history.last("frac_reward_zero_std")
    error = _error(history, "frac_reward_zero_std")
    if share is None or share <= MAX_EQUAL_GROUPS:
        return []
    half = history.second_half("frac_reward_zero_std") or 0.0
    if half <= MAX_EQUAL_GROUPS and share - SIGNIFICANT * error <= MAX_EQUAL_GROUPS:
        return []
    text = (
        f"In {share:.0%} of the groups all answers score the same, so they teach nothing. Take "
        f"prompts that are neither always nor never solved, a finer reward, or more "
        f"num_generations"
    )
    replaced = history.last("dynamic_sampling/replaced_prompts")
    if replaced is None:
        text += "; dynamic_sampling_max_rounds replaces such prompts by the next ones."
    else:
        text += (
            f"; {replaced:.0f} prompts of an iteration have been replaced already, as many as "
            f"dynamic_sampling_max_rounds allows."
        )
    return [HealthRemark("equal groups", "warning", text)]


def _mismatch(history: MetricHistory) -> list[HealthRemark]:
    kl = history.last("sampler/mismatch_kl")
    if kl is None or kl <= MAX_SAMPLER_KL + SIGNIFICANT * _error(history, "sampler/mismatch_kl"):
        return []
    text = (
        f"Sampler and trainer disagree by {kl:.3f} nats a token: the answers are not the policy's "
        f"own. Use one precision for both, and check that the sampler has the newest weights."
    )
    return [HealthRemark("sampler mismatch", "warning", text)]
