"""Scalar heads in folders: what reward.json says, and whether a head was trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from accord.errors import ModelError, SettingsError
from accord.lm.loading.folders import read_json_object
from accord.lm.loading.pretrained import Pretrained
from accord.lm.loading.weight_files import tensor_headers
from accord.lm.model import LanguageModel

log = logging.getLogger(__name__)

REWARD_FILE = "reward.json"

_PYTHON = (
    "To score with it all the same, write a Python function that calls it, and name that as a "
    "reward of kind `python`."
)


def read_reward_file(path: str) -> dict[str, Any]:
    """The numbers in a folder's `reward.json`; empty where there is none. Raises ModelError."""
    file = Path(path) / REWARD_FILE
    if not file.is_file():
        return {}
    numbers = read_json_object(file)
    for key in ("mean", "std"):
        if not isinstance(numbers.get(key), int | float):
            raise ModelError(
                f"{file} has no number for {key}: it is no file that accord wrote. Train the "
                f"reward model again, or remove the file, and raw scores are used."
            )
    return numbers


def apply_reward_file(lm: LanguageModel, path: str) -> None:
    """Set a reward model's score statistics and limits from `reward.json`, where there is one."""
    numbers = read_reward_file(path)
    if numbers:
        lm.score_mean, lm.score_std = float(numbers["mean"]), float(numbers["std"])
        # A model trained with a limit above its positions has not learned those beyond.
        limits = numbers.get("max_length"), lm.max_positions
        lm.max_length = min((n for n in limits if n), default=None)
        lm.max_prompt_length = numbers.get("max_prompt_length")
        lm.head_means = tuple(map(float, numbers.get("head_means", ())))
        lm.score_penalty = float(numbers.get("ensemble_penalty", 0.0))
        lm.length_slope = numbers.get("length_slope")
        lm.is_critic = bool(numbers.get("critic", False))
        lm.reads_last_token = bool(numbers.get("reads_last_token", False))
        lm.unread_padding = numbers.get("unread_padding")
        _remark_on_precision(lm, path, numbers.get("quantization"))


def _remark_on_precision(lm: LanguageModel, path: str, trained_in: str | None) -> None:
    """Log that a reward model scores on another base than it was trained on, in digits."""
    if (trained_in is not None) != lm.is_quantised:
        log.info(
            "The scores of %s differ slightly from those in its training: its base was held in %s "
            "then, and is in %s now.",
            path,
            *("4 bits" if four else "full precision" for four in (trained_in, lm.is_quantised)),
        )


def reward_file_values(lm: LanguageModel) -> dict[str, Any]:
    """What `reward.json` says of a reward model or critic."""
    values: dict[str, Any] = {
        "mean": lm.score_mean,
        "std": lm.score_std,
        "max_length": lm.max_length,
        "max_prompt_length": lm.max_prompt_length,
        "heads": lm.heads,
        "head_means": list(lm.head_means),
        "ensemble_penalty": lm.score_penalty,
        "length_slope": lm.length_slope,
    }
    if lm.is_quantised:
        values["quantization"] = "nf4"
    if lm.is_critic:
        values["critic"] = True
    if lm.reads_last_token:
        values |= {"reads_last_token": True, "unread_padding": lm.unread_padding}
    return values


def check_score_head(path: str, loaded: Pretrained) -> None:
    """Raise ModelError where the class of a model has no head that scores its last token, or its
    files have a head that this class does not read."""
    model = loaded.model
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise ModelError(
            f"{path} is a {type(model).__name__}, which is no decoder with a `score` head: accord "
            f"reads one score at the last token of a conversation. {_PYTHON}"
        )
    odd = [n for n in loaded.unread if n.startswith(("score.", "classifier."))]
    if odd:
        raise ModelError(
            f"{path} holds {', '.join(odd[:3])}, a head that a {type(model).__name__} does not "
            f"have: its scores would not be those that it was trained for. {_PYTHON}"
        )


def check_labels(path: str, loaded: Pretrained, heads: int | None, trained: int | None) -> None:
    """Raise where the head in the files has another number of rows than is asked for.

    `trained` is what reward.json says. SettingsError where `heads` asks for another number;
    ModelError for a classifier of several labels.
    """
    labels = loaded.saved_score[0] if loaded.saved_score else None
    labels = labels or (loaded.model.score.out_features if loaded.has_score else None)
    if trained is None and labels not in (None, 1):
        raise ModelError(
            f"{path} is a classifier with {labels} labels, and a reward is one number: which label "
            f"is good is not in its files. {_PYTHON}"
        )
    if labels is not None and heads is not None and heads != (trained or labels):
        raise SettingsError(
            f"{path} is a reward model with heads={trained or labels}, and heads={heads} was asked "
            f"for. Set heads={trained or labels} to train it further, or start from a language "
            f"model."
        )
    if labels is not None and trained is not None and labels != trained:
        raise ModelError(
            f"{path}: {REWARD_FILE} says that it has {trained} heads, and the weight files have "
            f"{labels}. Copy the folder again from where it was trained."
        )


def no_head_error(path: str, model: Any) -> ModelError:
    """The error of a folder that is to score and has no trained scalar head."""
    others = _other_heads(path)
    names = ""
    if others:
        names = (
            f" It holds {', '.join(others[:3])}, which another tool reads as its head. {_PYTHON}"
        )
    return ModelError(
        f"{path} has no trained scalar head: its files hold no `score.weight`, which a "
        f"{type(model).__name__} scores with, so its scores would be random numbers. Train a "
        f"reward model with `accord train reward`, or name the folder that has the head (an "
        f'adapter must be saved with modules_to_save=["score"]).{names}'
    )


def _other_heads(path: str) -> list[str]:
    """Tensors in a folder's safetensors files that look like another class's scalar head."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    others = []
    for file in sorted(folder.glob("*.safetensors")):
        names = tensor_headers([file])
        marks = ("v_head", "value_head", "reward_head", "regression", "classifier", "score")
        others += [f"{n} (in {file.name})" for n in names if any(m in n for m in marks)]
    return others
