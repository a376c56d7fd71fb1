"""Judges that measure what they shaped themselves.

A model that was selected by a reward, or trained towards it, does well by that reward whatever its
answers are worth (Gao, Schulman and Hilton 2022), and a model that judges its own answers prefers
them (Panickssery et al. 2024). Such a measure is no evidence, and agreement with it is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.measure.ratings.notes import join_names
from accord.report.findings.finding import Finding
from accord.report.formatting import format_percent, visible

_DEEDS: Mapping[str, str] = {
    "selected": "selected the answers of {}",
    "trained": "was the reward that {} learned from",
    "labelled": "labelled the comparisons that {} learned from",
    "revised": "wrote the revisions that {} learned from",
    "itself": "is {}, which so judges itself",
}
_WHO: Mapping[str, str] = {
    "selected": "which selected its answers",
    "trained": "which it was trained to please",
    "labelled": "whose verdicts it was trained on",
    "revised": "which wrote the revisions that it was trained on",
    "itself": "which is the model itself",
}


def circular_findings(judges: Mapping[str, Any], *, has_truth: bool) -> list[Finding]:
    """What is circular in results.json's `judges`. With a true reward the scores of a reward model
    are shown as the proxy that they are, and nothing rests on them."""
    results = []
    ratings, scores = judges.get("ratings") or {}, judges.get("scores") or {}
    one_judge = bool(judges.get("one_judge"))
    if ratings.get("influences"):
        text = (
            f"The judge is circular: {visible(ratings['name'])} rates the models here, and it "
            f"{_deeds(ratings)}. A model does well by the judge that shaped it whatever its "
            f"answers are worth, so this rating is no evidence that it is better."
        )
        if one_judge:
            text += " The scores are by the same judge: that both agree says nothing."
        text += (
            " Let a judge rate that had no part in it: a reward model of other data, an AI judge "
            "(judge.kind=endpoint), or people."
        )
        results.append(Finding("warning", text))
    if scores.get("influences") and not has_truth and not (one_judge and ratings["influences"]):
        text = (
            f"The scores are circular: they are by {visible(scores['name'])}, which "
            f"{_deeds(scores)}. They show how well it was pleased, not whether answers are better."
        )
        results.append(Finding("warning", text))
    seen = [visible(name) for name in judges.get("seen_prompts") or ()]
    if seen:
        text = (
            f"The prompts are not new to {join_names(seen)}: they are those of a data set that it "
            f"was trained on, so the measures may be better than on new prompts. Sample responses "
            f"to held-out prompts."
        )
        results.append(Finding("warning", text))
    unjudged = [visible(name) for name in judges.get("unjudged_revisions") or ()]
    if unjudged:
        text = (
            f"No judge compared the revisions that {join_names(unjudged)} learned from with their "
            f"originals, and a revision isn't better by definition. Give the stage `revise` a "
            f"`judge`."
        )
        results.append(Finding("warning", text))
    return results


def circular_reason(judges: Mapping[str, Any], model: str) -> str | None:
    """Why the judge of the ratings can't say that a model is best, as a relative clause; None where
    it can."""
    influences = ((judges.get("ratings") or {}).get("influences") or {}).get(model)
    return _WHO[influences[0]] if influences else None


def seen_comparisons(reward_model: Mapping[str, Any]) -> Finding:
    """The accuracy of a reward model on comparisons that it was trained on."""
    share = format_percent(reward_model["accuracy"]["mean"])
    text = (
        f"The reward model picks the preferred answer in {share} of "
        f"{reward_model.get('pairs', 0):,} comparisons, but it was trained on these: on new ones "
        f"it is less accurate. Name held-out rows as `comparisons`."
    )
    return Finding("warning", text)


def _deeds(judge: Mapping[str, Any]) -> str:
    """What the judge did, and for which models: one deed for each model, its strongest."""
    models: dict[str, list[str]] = {}
    for model, influences in judge["influences"].items():
        models.setdefault(influences[0], []).append(visible(model))
    deeds: Sequence[str] = [
        text.format(join_names(models[influence]))
        for influence, text in _DEEDS.items()
        if influence in models
    ]
    return join_names(deeds)
