"""Rewards: prompts and responses, as text, to one score each. Higher is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from accord.lm.forward import response_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.template import encode_prompt, encode_response
from accord.records import Prompt


class Reward(Protocol):
    """One score for each prompt and response.

    `finished[i]` is False for a response that was cut before its end: a reward that reads tokens
    must not pretend that it ended. By default all are finished.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]: ...


def reward_of_model(lm: LanguageModel, *, batch_size: int = 64) -> Reward:
    """A reward model's normalised scores. It reads text, so its tokenizer may be any."""

    @torch.no_grad()
    def scores(
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]:
        finished = [True] * len(responses) if finished is None else finished
        groups = [
            response_group(lm, prompt, response, ended)
            for prompt, response, ended in zip(prompts, responses, finished, strict=True)
        ]
        order = sorted(range(len(groups)), key=lambda i: groups[i].tokens)
        found = [0.0] * len(groups)
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            raw = response_scores(lm, pack([groups[i] for i in members], lm.device))
            normal = (raw - lm.score_mean) / lm.score_std
            for i, value in zip(members, normal.tolist(), strict=True):
                found[i] = value
        return found

    return scores


def response_group(
    lm: LanguageModel, prompt: Prompt, response: str, finished: bool = True
) -> PromptGroup:
    """A prompt and a sampled response in a model's tokens; without EOS if it was cut short.

    What is longer than the model was trained on, or has positions for, loses the prompt's start.
    """
    ids, _ = encode_response(prompt, response, lm.tokenizer, lm.eos_ids, finished=finished)
    before = encode_prompt(prompt, lm.tokenizer)
    if lm.max_length is not None:
        ids = ids[: lm.max_length - 1]
        before = before[-min(lm.max_prompt_length or lm.max_length, lm.max_length - len(ids)) :]
    return PromptGroup(before, (ids,), (0,))
