"""ORPO's likelihood: of the response alone, or of prompt and response as in the authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid

from accord.learn.offline.methods import METHODS
from accord.lm.packing import PromptGroup, pack
from accord.settings.preferences import OrpoSettings
from tests.learn.toys.models import causal_lm
from tests.learn.toys.settings import REQUIRED

PAIRS = [
    PromptGroup((5, 6, 7, 8), ((9, 10, 2), (11, 12, 13, 14, 2)), (0, 1)),
    PromptGroup((20,), ((30, 31, 32, 33, 34, 2), (35, 2)), (0, 1)),
    PromptGroup((40, 41), ((50, 2), (51, 52, 2)), (0, 1)),
]
BETA = 0.3


def objective(nll_on: str, groups: list[PromptGroup] = PAIRS) -> Any:
    settings = OrpoSettings(**REQUIRED, beta=BETA, nll_on=nll_on)  # type: ignore[arg-type]
    return METHODS["orpo"].objective(causal_lm(), settings, groups, lambda groups: None)  # type: ignore[arg-type,return-value]


def loss(nll_on: str, passes: list[list[int]], groups: list[PromptGroup] = PAIRS) -> Tensor:
    """The mean loss of a step on all groups, split into passes."""
    orpo = objective(nll_on, groups)
    context = orpo.prepare([i for rows in passes for i in rows])
    total, weight = torch.zeros(()), torch.zeros(())
    for rows in passes:
        losses = orpo.losses(pack([groups[i] for i in rows]), rows, context, log=True)
        total, weight = total + losses.weighted_sum(), weight + losses.weights.sum()
        assert set(losses.metrics) >= {"nll_loss", "odds_ratio_loss"}
    return total / weight


def trl_loss(groups: list[PromptGroup]) -> Tensor:
    """TRL 1.16's ORPOTrainer, as it is written there, on rows padded to one batch.

    Hong et al. 2024's code takes the likelihood from the model's own loss on the whole chosen
    text, which is the same.
    """
    model = causal_lm().model
    rows = [(g.prompt, g.responses[k]) for k in (0, 1) for g in groups]
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)  # of the response
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor([*prompt, *response])
        mask[i, :end] = 1
        labels[i, len(prompt) : end] = ids[i, len(prompt) : end]
    logits = model(input_ids=ids, attention_mask=mask).logits
    whole = torch.where(mask == 1, ids, -100)
    n = len(groups)
    nll = cross_entropy(logits[:n, :-1].flatten(0, 1), whole[:n, 1:].flatten())
    answered = labels[:, 1:] != -100
    logps = log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None]).squeeze(2)
    means = (logps * answered).sum(1) / answered.sum(1)
    chosen, rejected = means[:n], means[n:]
    log_odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
    return nll - BETA * logsigmoid(log_odds).mean()


@pytest.mark.parametrize("groups", [PAIRS, PAIRS[:1], PAIRS[1:2]])
def test_prompt_and_response_is_trls_number(groups: list[PromptGroup]) -> None:
    actual = loss("prompt_and_response", [list(range(len(groups)))], groups)
    assert float(actual) == pytest.approx(float(trl_loss(groups)), abs=1e-5)


@pytest.mark.parametrize("nll_on", ["response", "prompt_and_response"])
def test_the_loss_does_not_depend_on_how_the_step_is_split(nll_on: str) -> None:
    whole = float(loss(nll_on, [[0, 1, 2]]))
    assert float(loss(nll_on, [[2, 0], [1]])) == pytest.approx(whole, abs=1e-5)


def test_by_default_only_the_response_counts() -> None:
    # Where the prompt is one token, and the rows are one, both are the same mean.
    assert OrpoSettings(**REQUIRED).nll_on == "response"
    one = PAIRS[1:2]
    same = float(loss("prompt_and_response", [[0]], one))
    assert float(loss("response", [[0]], one)) == pytest.approx(same, abs=1e-5)
    assert float(loss("response", [[0]], PAIRS[:1])) != pytest.approx(
        float(loss("prompt_and_response", [[0]], PAIRS[:1])), abs=1e-3
    )


def test_a_ranking_counts_its_prompt_as_often_as_its_pairs_weigh() -> None:
    # Of three answers the pairs are (0,1), (0,2), (1,2), each with weight 1/3: as three rows.
    three = PromptGroup((5, 6, 7), ((9, 2), (10, 11, 2), (12, 2)), (0, 1, 2))
    pairs = [
        PromptGroup((5, 6, 7), (three.responses[i], three.responses[j]), (0, 1))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    ranked = float(loss("prompt_and_response", [[0]], [three]))
    apart = float(loss("prompt_and_response", [[0, 1, 2]], pairs))
    assert ranked == pytest.approx(apart, abs=1e-5)
