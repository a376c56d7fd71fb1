"""The rules of `accord advise`, in the order in which they are asked: the first that applies wins.

Each says when it applies, what it advises, why, what would change it, and where it comes from.
docs/advise.md explains them; `python studies/advise.py` compares them with what each option is
truly worth on the embedded world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from accord.pipeline.advise.situation import Situation

Choice = Literal[
    "stay",
    "annotate",
    "best-of-n",
    "reward+best-of-n",
    "sft",
    "dpo",
    "kto",
    "orpo",
    "grpo",
    "reward+grpo",
    "revise",
]
CHOICES: dict[Choice, str] = {
    "stay": "don't train: stay with the model that you have",
    "annotate": "don't train yet: collect more or better preferences first",
    "best-of-n": "don't train: answer with the best of N by the reward",
    "reward+best-of-n": "a reward model from the pairs, and the best of N answers by it",
    "sft": "supervised fine-tuning on the demonstrations",
    "dpo": "DPO on the pairs",
    "kto": "KTO on the labels",
    "orpo": "ORPO: demonstrations and preferences in one stage",
    "grpo": "GRPO against the reward, with a KL penalty",
    "reward+grpo": "a reward model from the pairs, then GRPO against it",
    "revise": "a constitution: the model revises its own answers, and SFT learns from them",
}

FEW = 30
"""Preferences below which training on them moves a model less than they vary by chance."""
ENOUGH_FOR_A_REWARD = 300
"""Pairs from which on a reward model trained on them chooses well among a model's answers."""
WORTH_CANDIDATES = 4
"""Answers a request from which on the best of them gains about a standard deviation (the mean of
the largest of 4 normal draws is 1.03)."""
LITTLE_GAIN = 0.15
"""Standard deviations of the reward: best-of-N gains at least 0.56 for N = 2 where answers to one
prompt differ as all answers do."""
ALL_TIED = 0.9
AGREEMENT = 0.6
"""On pairs judged twice; people's agreement on summaries and dialogues is 0.63 to 0.77
(Stiennon et al. 2020; Bai et al. 2022)."""
MANY_CANDIDATES = 16
"""Best-of-16 is at most 1.84 nats from the model: by a flawed reward, more find its flaws."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` reads facts only. `change` says what would lead to other advice. `sure` is the
    confidence where all facts that the rule reads are known."""

    name: str
    when: Callable[[Situation], bool]
    advice: Choice
    reason: str
    change: str
    source: str
    sure: Literal["high", "medium", "low"] = "medium"


def flips_coins(s: Situation) -> bool:
    """Nothing shows that labels are better than chance, and something that they are not: pairs
    judged twice rarely agree, or a model of words, which has enough pairs, predicts none."""
    if any(known is not None and (known.low or 0) > 0.5 for known in (s.repeats, s.words)):
        return False
    return s.words is not None or (s.repeats is not None and s.repeats.mean < AGREEMENT)


def is_at_ceiling(s: Situation) -> bool:
    """Even the best of the model's answers is hardly better than their mean, by the reward."""
    if s.tied is not None and s.tied >= ALL_TIED:
        return True
    return s.gain is not None and s.gain.high is not None and s.gain.high < LITTLE_GAIN


def can_optimise(s: Situation) -> bool:
    return s.trainable and s.online_fits and s.trusted


RULES: tuple[Rule, ...] = (
    Rule(
        "leak",
        lambda s: s.leaks > 0,
        "stay",
        "Prompts of the data are also held out, or in an evaluation set. Whatever is trained on "
        "them looks better than it is, and no later number would show it.",
        "Leave these rows out (`accord data check FILE --drop …` names the command) and ask again.",
        "Sainz et al. 2023, on contaminated benchmarks",
        "high",
    ),
    Rule(
        "nothing to learn from",
        lambda s: (
            s.reward is None and not s.preferences and not s.demonstrations and s.goal != "safe"
        ),
        "annotate",
        "There are no demonstrations, no preferences and no reward: nothing says what is better.",
        "A few hundred pairs by people (`accord annotate`) or a judge (`accord label`); a rule "
        "that checks answers; or demonstrations.",
        "Ouyang et al. 2022",
        "high",
    ),
    Rule(
        "principles alone",
        lambda s: s.reward is None and not s.preferences and not s.demonstrations and s.trainable,
        "revise",
        "For safety, principles can stand in for labels: the model criticises and revises its own "
        "answers, and learns from the revisions.",
        "Preferences of people for your own kind of request; a model too small to criticise "
        "itself (compare the revisions with `accord arena` first).",
        "Bai et al. 2022 (Constitutional AI)",
        "low",
    ),
    Rule(
        "a flawed reward, and few answers to choose from",
        lambda s: (
            s.probe == "fail"
            and s.accuracy in ("pass", "warn")
            and s.supervised
            and WORTH_CANDIDATES <= s.candidates <= MANY_CANDIDATES
            and s.preferences < FEW
        ),
        "best-of-n",
        "The reward fails some probes, but orders held-out pairs rightly. Training would find its "
        "flaws; the best of a few answers stays close to the model.",
        "An independent measure that falls with N; a reward that passes `accord probe`, which can "
        "then be trained against.",
        "Gao et al. 2022",
        "medium",
    ),
    Rule(
        "the reward fails its probes",
        lambda s: (
            s.reward is not None
            and s.probe == "fail"
            and s.pairs < FEW
            and not s.demonstrations
            and s.labels < 2 * FEW
        ),
        "stay",
        "The reward prefers answers for what makes them no better, and optimising it, by training "
        "or by choosing among answers, finds just these.",
        "A reward that passes `accord probe`: a mended rule, a judge with better principles, or a "
        "reward model trained on pairs that hold its flaw's counter-examples.",
        "Gao et al. 2022; Skalse et al. 2022",
        "high",
    ),
    Rule(
        "nothing to choose from",
        lambda s: s.trusted and s.pairs < FEW and s.labels < 2 * FEW and is_at_ceiling(s),
        "stay",
        "By the reward, the best of the model's answers is hardly better than their mean. Every "
        "method that learns from its own answers needs better ones among them.",
        "Demonstrations of what it never answers well; harder prompts; or a reward that "
        "distinguishes the answers.",
        "Yue et al. 2025; Shao et al. 2024",
        "medium",
    ),
    Rule(
        "no training",
        lambda s: not s.trainable and s.trusted and s.candidates >= WORTH_CANDIDATES,
        "best-of-n",
        "Nothing can be trained, the reward is trusted, and a request may cost several answers.",
        "A model that can be trained: then the gain costs nothing at inference.",
        "Stiennon et al. 2020; Beirami et al. 2024",
        "high",
    ),
    Rule(
        "no training and no candidates",
        lambda s: not s.trainable,
        "stay",
        "Nothing can be trained, and best-of-N needs a trusted reward and at least "
        f"{WORTH_CANDIDATES} answers a request.",
        f"`candidates={WORTH_CANDIDATES}` or more with a reward that passes `accord probe`.",
        "Stiennon et al. 2020",
        "high",
    ),
    Rule(
        "several answers by a trusted reward",
        lambda s: s.trusted and s.supervised and s.candidates >= WORTH_CANDIDATES,
        "best-of-n",
        "A request may cost several answers, and choosing by the reward gains about a standard "
        "deviation of it at once, without training and with a bounded distance from the model.",
        "Traffic that makes N answers dear: GRPO against the same reward moves the gain into the "
        "model.",
        "Stiennon et al. 2020; Beirami et al. 2024",
        "high",
    ),
    Rule(
        "a trusted reward that can be optimised",
        lambda s: can_optimise(s) and s.reward == "rule" and s.supervised,
        "grpo",
        "A rule scores any answer, so the model can learn from its own, as far as it explores. It "
        "needs no critic, and its gain costs nothing at inference.",
        "A reward that fails `accord probe`; a machine on which sampling does not fit; answers "
        "that all score the same (`responses=…`).",
        "Shao et al. 2024; Lambert et al. 2024 (verifiable rewards)",
        "high",
    ),
    Rule(
        "a trusted reward model",
        lambda s: can_optimise(s) and s.probe in ("pass", "warn") and s.supervised,
        "grpo",
        "The reward passed its probes, and online methods reach beyond the answers that were "
        "compared. The KL penalty, and an independent measure, guard against its flaws.",
        "A falling independent measure (`accord audit`); a machine on which sampling does not fit.",
        "Ouyang et al. 2022; Xu et al. 2024",
    ),
    Rule(
        "labels like coin flips",
        lambda s: s.preferences > 0 and flips_coins(s),
        "annotate",
        "The labels agree with themselves, or with anything that the answers show, hardly more "
        "often than chance. A method fits them nevertheless, and what it learns is noise.",
        "Clearer guidelines, and pairs that differ clearly (`accord annotate`): about 70% "
        "agreement on pairs that are judged twice.",
        "Gao et al. 2024 (noise in preferences); Stiennon et al. 2020 (agreement of labellers)",
        "high",
    ),
    Rule(
        "too few preferences",
        lambda s: (
            s.preferences > 0 and s.pairs < FEW and s.labels < 2 * FEW and not s.demonstrations
        ),
        "annotate",
        f"There are fewer than {FEW} pairs, and fewer than {2 * FEW} labels: a model learns these "
        "answers, and little that holds for others.",
        f"At least {FEW} preferences over different prompts, better several hundred.",
        "measured by studies/advise.py; Zhou et al. 2023, on how few can do",
    ),
    Rule(
        "a base model with both kinds of data",
        lambda s: not s.supervised and s.demonstrations > 0,
        "sft",
        "The model has not learned to answer yet. Preferences shape answers that it gives; "
        "demonstrations make it give them.",
        "After SFT, ask again with the new model and the preferences.",
        "Ouyang et al. 2022",
        "high",
    ),
    Rule(
        "a base model with preferences alone",
        lambda s: not s.supervised and s.pairs >= FEW,
        "orpo",
        "The model has not learned to answer yet, and ORPO learns the chosen answers and the "
        "preference in one stage, without a reference.",
        "Demonstrations, for SFT before DPO.",
        "Hong et al. 2024",
    ),
    Rule(
        "enough pairs, and several answers a request",
        lambda s: (
            s.pairs >= ENOUGH_FOR_A_REWARD
            and s.candidates >= WORTH_CANDIDATES
            and s.supervised
            and s.trainable
        ),
        "reward+best-of-n",
        "The pairs suffice for a reward model, and a request may cost several answers: the best "
        "of them by that model gains more than DPO on the same pairs, and the model is unchanged.",
        "Traffic that makes N answers dear: DPO. A reward model that fails `accord probe`: DPO.",
        "Stiennon et al. 2020; measured by studies/advise.py",
    ),
    Rule(
        "pairs",
        lambda s: s.pairs >= FEW,
        "dpo",
        "There are enough pairs, and DPO learns from them without a reward model or sampling.",
        "Answers of another author (`pairs_from=elsewhere`) gain less: have the model's own "
        "answers judged (`accord iterate`). With more pairs and a machine that can sample, a "
        "reward model and GRPO.",
        "Rafailov et al. 2023; Tajwar et al. 2024",
    ),
    Rule(
        "enough pairs for a reward model",
        lambda s: (
            s.pairs >= ENOUGH_FOR_A_REWARD
            and s.trainable
            and s.online_fits
            and s.pairs_from != "elsewhere"
        ),
        "reward+grpo",
        "The pairs suffice for a reward model, and optimising it online reaches beyond the answers "
        "that were compared. Probe it before (`accord probe`).",
        "A reward model that fails its probes, or a machine on which sampling does not fit: DPO.",
        "Xu et al. 2024; Tajwar et al. 2024",
    ),
    Rule(
        "labels",
        lambda s: s.labels >= 2 * FEW,
        "kto",
        "Answers are labelled good or bad one by one, which KTO learns from; no pairs are needed.",
        "Two judged answers to the same prompt, for DPO.",
        "Ethayarajh et al. 2024",
    ),
    Rule(
        "demonstrations that the model has learned",
        lambda s: s.supervised and s.demonstrations > 0,
        "stay",
        "The model has been fine-tuned on demonstrations, and nothing here says which of its "
        "answers is better.",
        "Demonstrations that it has not seen (`supervised=false`: SFT first); pairs, labels or a "
        "reward.",
        "Ouyang et al. 2022",
    ),
)


def matching(situation: Situation) -> list[Rule]:
    """The rules that apply, in order: the first is the advice."""
    return [rule for rule in RULES if rule.when(situation)]


FALLBACK = Rule(
    "nothing applies",
    lambda s: True,
    "stay",
    "Nothing at hand is a reason to train: the reward has not passed its probes, sampling does not "
    "fit this machine, or the model has not learned to answer yet, and there is nothing to learn "
    "it from.",
    "A reward that passes `accord probe`, pairs or labels, a larger machine, or demonstrations.",
    "Gao et al. 2022",
    "low",
)
