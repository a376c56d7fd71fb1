"""Reward models: prompts and responses in a model's tokens, and its normalised scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from accord.compare.rewards.reward import PromptResponse, Reward
from accord.compare.texts import shorten
from accord.errors import ModelError, RewardError
from accord.lm.forward import response_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import (
    FORWARD_TOKENS,
    PackedBatch,
    PromptGroup,
    forward_batches,
    pack,
)
from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.render import UnusableRow
from accord.records import Prompt, prompt_text
from accord.runs.activity import with_activity

log = logging.getLogger(__name__)


def model_reward(lm: LanguageModel, *, batch_size: int = 64) -> Reward:
    """A reward model's normalised scores. It reads text, so its tokenizer may be any."""

    def scores(
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]:
        finished = [True] * len(responses) if finished is None else finished
        rows = [PromptResponse(*row) for row in zip(prompts, responses, finished, strict=True)]
        raw = compute_by_length(lm, rows, response_scores, batch_size=batch_size)
        normalised: list[float] = ((raw - lm.score_mean) / lm.score_std).tolist()
        return normalised

    return scores


@torch.no_grad()
def compute_by_length(
    lm: LanguageModel,
    rows: Sequence[PromptResponse],
    compute: Callable[[LanguageModel, PackedBatch], Tensor],
    *,
    batch_size: int = 64,
) -> Tensor:
    """The values of `compute` for each response's answer (n, …), on the CPU: reasoning is not read.

    Responses are batched in order of length, so that those of a batch are about as long; a batch
    of long ones has fewer, so that its memory is bounded. Of those to one prompt the prompt is
    computed once. Raises ModelError for a model whose scores mean nothing: an untrained head, or a
    critic.
    """
    check_scores(lm)
    groups = [encode_for_reward(lm, r.prompt, r.answer, r.finished) for r in rows]
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    shared = _share_prompts(groups, is_shared=lm.shares_prefixes)
    values: list[Tensor] = [torch.empty(0)] * len(groups)
    batches = list(forward_batches([group.num_tokens for group, _ in shared], batch_size))
    for batch in with_activity(batches, "scoring batch", len(batches)):
        indices = [i for j in batch for i in shared[j][1]]
        packed = pack([shared[j][0] for j in batch], lm.device)
        for i, value in zip(indices, compute(lm, packed).cpu(), strict=True):
            values[i] = value
    return torch.stack(values) if values else torch.empty(0)


def _share_prompts(
    groups: Sequence[PromptGroup], *, is_shared: bool
) -> list[tuple[PromptGroup, list[int]]]:
    """The responses with a prompt in common as one group, with their indices, in order of length.

    A group has no more tokens than a forward pass. A model that can't share prompts has a group for
    each response: it computes the prompt for each.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i in sorted(range(len(groups)), key=lambda i: groups[i].num_tokens):
        by_prompt.setdefault(groups[i].prompt, []).append(i)
    shared = []
    for prompt, indices in by_prompt.items():
        sizes = [len(groups[i].responses[0]) for i in indices]
        room = max(1, FORWARD_TOKENS - len(prompt)) if is_shared else 1
        for part in forward_batches(sizes, len(sizes), max_tokens=room):
            members = [indices[j] for j in part]
            responses = tuple(groups[i].responses[0] for i in members)
            shared.append((PromptGroup(prompt, responses, (0,) * len(members)), members))
    return sorted(shared, key=lambda pair: pair[0].num_tokens)


def check_scores(lm: LanguageModel) -> None:
    """Raise ModelError for a head that was not trained, or not to score whole responses; log where
    another maker's is read."""
    if lm.has_new_head:
        raise ModelError(
            f"The scalar head of {lm.name} was drawn at random and is not trained, so its scores "
            f"mean nothing. Train it with `accord train reward` first."
        )
    if lm.is_critic:
        raise ModelError(
            f"{lm.name} is a critic, which estimates the reward to come before each token, and no "
            f"reward model. Name the reward model that it was trained beside; to start another "
            f"run's critic from it, name it in `critic_model`."
        )
    if lm.reads_last_token:
        _log_where_read(lm.name)


@cache
def _log_where_read(name: str) -> None:
    """Log once for each model that it is read as another maker's."""
    log.info(
        "%s has no reward.json, so accord did not train it: its scores are used as they are, and "
        "read as transformers reads them, at the last token of the whole rendered conversation.",
        name,
    )


def encode_for_reward(
    lm: LanguageModel, prompt: Prompt, response: str, finished: bool = True
) -> PromptGroup:
    """A prompt and a sampled response in a model's tokens; without EOS if it was cut short.

    A model of another maker is scored on the whole rendered conversation, up to its last token
    that is not the model's padding, as transformers reads it. What is longer than the model was
    trained on, or has positions for, loses the prompt's start. Of a response that was cut before
    it had any text, the prompt's last token is scored. Raises RewardError where the model's chat
    template refuses the conversation.
    """
    whole = lm.reads_last_token and finished
    try:
        encoded = encode_answers(
            prompt, [response], lm.tokenizer, lm.eos_ids, finished=[finished], whole=whole
        )
    except UnusableRow as reason:
        raise RewardError(
            f"The reward model {lm.name} can't score a response to the prompt "
            f"{shorten(repr(prompt_text(prompt)))}: {reason}. Leave such prompts out, or use a "
            f"reward model whose chat template accepts them."
        ) from reason
    prompt_ids, (ids,) = encoded.prompt, encoded.responses
    while whole and ids and ids[-1] == lm.unread_padding:
        ids = ids[:-1]
    if lm.max_length is not None:
        ids = ids[: lm.max_length - 1]
        max_prompt_length = min(lm.max_prompt_length or lm.max_length, lm.max_length - len(ids))
        prompt_ids = prompt_ids[-max_prompt_length:]
    if not ids:
        prompt_ids, ids = prompt_ids[:-1] or prompt_ids, prompt_ids[-1:]
    return PromptGroup(prompt_ids, (ids,), (0,))
