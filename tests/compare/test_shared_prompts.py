"""Candidates to one prompt are scored with the prompt computed once, to the same scores."""

from __future__ import annotations

import pytest
import torch

from accord.compare.rewards import models as reward_models
from accord.compare.rewards.models import compute_by_length, model_reward
from accord.compare.rewards.reward import PromptResponse
from accord.lm.load import load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch
from accord.records import Message
from tests.lm.toys import save_toy

PROMPTS = [(Message("user", text),) for text in ("the cat sat", "the sea")]
TEXTS = ["the sun", "a dog sat", "the", "a cat", "the sea the sea"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    lm = load_scalar(save_toy(tmp_path_factory.mktemp("toy")), new_head=True, device="cpu")
    lm.has_new_head = False  # as after its training
    return lm


def tokens_of(lm: LanguageModel, rows: list[PromptResponse]) -> list[int]:
    sizes: list[int] = []

    def compute(lm: LanguageModel, batch: PackedBatch) -> torch.Tensor:
        sizes.append(len(batch.input_ids))
        return torch.arange(len(batch.last), dtype=torch.float32)

    compute_by_length(lm, rows, compute)
    return sizes


def test_scores_are_those_of_one_at_a_time(lm: LanguageModel) -> None:
    rows = [(p, t) for t in TEXTS for p in PROMPTS]
    together = model_reward(lm)([p for p, _ in rows], [t for _, t in rows])
    apart = [model_reward(lm)([p], [t])[0] for p, t in rows]
    assert together == pytest.approx(apart, abs=1e-5)
    assert len(set(apart)) == len(apart)  # so that an exchange would be seen


def test_a_prompt_is_computed_once_where_the_model_allows_it(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [PromptResponse(PROMPTS[0], text) for text in TEXTS]
    groups = [reward_models.encode_for_reward(lm, r.prompt, r.response) for r in rows]
    prompt = len(groups[0].prompt)
    responses = sum(len(g.responses[0]) for g in groups)
    assert tokens_of(lm, rows) == [prompt + responses]
    # A model without shared prefixes computes each row whole, so its batches count it whole.
    monkeypatch.setattr(lm, "shares_prefixes", False)
    assert tokens_of(lm, rows) == [5 * prompt + responses]


def test_a_group_is_no_longer_than_a_forward_pass(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [PromptResponse(PROMPTS[0], "the sea") for _ in range(9)]
    group = reward_models.encode_for_reward(lm, PROMPTS[0], "the sea")
    prompt, response = len(group.prompt), len(group.responses[0])
    monkeypatch.setattr(reward_models, "FORWARD_TOKENS", prompt + 4 * response)
    sizes = tokens_of(lm, rows)
    assert sum(sizes) == 3 * prompt + 9 * response  # groups of 4, 4 and 1
