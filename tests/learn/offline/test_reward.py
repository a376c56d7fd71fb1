"""Reward models: their losses by hand, on pairs and rankings, with several heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from accord.errors import SettingsError
from accord.learn.loop.objective import Losses
from accord.learn.offline.reward import bootstrap, eval_settings, reward
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.settings.reading.load import build
from accord.settings.training import RewardSettings
from tests.learn.toys.files import user_says, write_jsonl
from tests.learn.toys.models import scalar_lm
from tests.learn.toys.plain_forward import plain_scores
from tests.learn.toys.saved import SavedToys, train
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY, scalar
from tests.lm.toys import random_groups

GROUPS = random_groups([(4, (1, 9)), (2, (13, 2)), (7, (5, 5, 3)), (1, (8, 1))], VOCABULARY)


def no_reference(groups: Sequence[PromptGroup]) -> Any:
    pytest.fail("a reward model has no reference")


def reward_losses(
    settings: RewardSettings, lm: LanguageModel, groups: Sequence[PromptGroup]
) -> Losses:
    objective = reward(lm, settings, groups, no_reference)
    return objective.losses(pack(groups), range(len(groups)), None, log=True)


def test_the_length_term_is_in_the_loss_on_pairs_and_not_in_the_metrics() -> None:
    # −log σ(r_c − r_r − margin + λ·α̂·(len_c − len_r)), a ranking the mean of its pairs.
    groups = [replace(GROUPS[0], margin=0.3), *GROUPS[1:]]
    settings = RewardSettings(**REQUIRED, length_regularisation=0.5, length_slope=0.2)
    losses = reward_losses(settings, scalar_lm(), groups)
    model, expected = scalar("llama"), []
    for group in groups:
        scores = plain_scores(model, group)[:, 0]
        lengths = [len(r) for r in group.responses]
        pair_losses = [
            -logsigmoid(
                scores[i] - scores[j] - (group.margin or 0) + 0.1 * (lengths[i] - lengths[j])
            )
            for i in range(len(lengths))
            for j in range(i + 1, len(lengths))
        ]
        expected.append(sum(pair_losses) / len(pair_losses))
    total = float(torch.stack(expected).sum().detach())
    assert float(losses.weighted_sum().detach()) == pytest.approx(total, rel=1e-4)
    assert float(losses.weights.sum()) == pytest.approx(4)
    # The metrics are of the scores alone.
    plain = reward_losses(RewardSettings(**REQUIRED), scalar_lm(), groups)
    assert losses.metrics == plain.metrics
    assert losses.metrics["lengths/chosen"][0] == pytest.approx(1 + 13 + 5 + 8)


def test_the_length_term_is_in_the_plackett_luce_loss() -> None:
    settings = RewardSettings(
        **REQUIRED, ranking_loss="plackett_luce", length_regularisation=1.0, length_slope=-0.3
    )
    losses = reward_losses(settings, scalar_lm(), GROUPS)
    model = scalar("llama")
    for value, group in zip(losses.values.tolist(), GROUPS, strict=True):
        lengths = torch.tensor([float(len(r)) for r in group.responses])
        scores = plain_scores(model, group)[:, 0].detach() - 0.3 * lengths
        expected = sum(scores[k:].logsumexp(0) - scores[k] for k in range(len(scores)))
        assert value == pytest.approx(float(expected), rel=1e-4)


def test_bootstrap_draws_as_many_rows_as_there_are_for_each_head() -> None:
    draws = bootstrap(4000, 3, seed=5)
    assert draws.sum(0).tolist() == [4000] * 3
    # Left out with probability (1 − 1/n)^n → 1/e; five standard deviations.
    left_out = (draws == 0).float().mean(0)
    assert ((left_out - math.exp(-1)).abs() < 5 * (0.233 / 4000) ** 0.5).all()
    assert not torch.equal(draws[:, 0], draws[:, 1])
    assert torch.equal(bootstrap(4000, 2, seed=5), draws[:, :2])
    assert not torch.equal(bootstrap(4000, 3, seed=6), draws)
    assert bootstrap(0, 2, seed=0).shape == (0, 2)


@pytest.mark.parametrize("ranking_loss", ["pairs", "plackett_luce"])
def test_each_head_learns_from_its_bootstrap_sample(ranking_loss: Any) -> None:
    settings = RewardSettings(**REQUIRED, ranking_loss=ranking_loss, heads=3, seed=1)
    losses = reward_losses(settings, scalar_lm(heads=3), GROUPS)
    model, draws = scalar("llama", heads=3), bootstrap(4, 3, seed=1)
    total, total_without_bootstrap, spread = 0.0, 0.0, 0.0
    assert not (draws == 1).all()
    for group, counts in zip(GROUPS, draws, strict=True):
        scores = plain_scores(model, group).detach()
        k = len(scores)
        pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
        margins = torch.stack([scores[i] - scores[j] for i, j in pairs])  # (pairs, heads)
        values = -logsigmoid(margins).mean(0)
        if ranking_loss == "plackett_luce":
            values = sum(scores[i:].logsumexp(0) - scores[i] for i in range(k))  # type: ignore[assignment]
        total += float((counts * values).mean())
        total_without_bootstrap += float(values.mean())
        # The population's standard deviation over heads, of each margin.
        spread += float(margins.std(1, correction=0).mean())
    assert float(losses.weighted_sum().detach()) == pytest.approx(total, rel=1e-4)
    assert losses.metrics["rewards/std"][0] == pytest.approx(spread, rel=1e-4)
    # Held-out rows count once for each head.
    held_out = reward_losses(eval_settings(settings), scalar_lm(heads=3), GROUPS)
    assert float(held_out.weighted_sum().detach()) == pytest.approx(
        total_without_bootstrap, rel=1e-4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ranking_loss": "plackett_luce", "center_rewards_coefficient": 0.1},
            "`center_rewards_coefficient` centres pairs",
        ),
        ({"length_slope": 0.1}, "`length_slope` does nothing without `length_regularisation`"),
        ({"ensemble_penalty": 0.5}, "`ensemble_penalty` needs an ensemble of several heads"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        build(RewardSettings, {**REQUIRED, **options}, where="train reward")


def test_plackett_luce_refuses_margins() -> None:
    groups = [*GROUPS[:2], replace(GROUPS[3], margin=0.5)]
    settings = RewardSettings(**REQUIRED, ranking_loss="plackett_luce")
    with pytest.raises(SettingsError, match="has a margin, and ranking_loss=plackett_luce"):
        reward(scalar_lm(), settings, groups, no_reference)


def test_rankings_train_a_reward_model_and_dpo(toys: SavedToys, tmp_path: Path) -> None:
    data = write_jsonl(
        tmp_path / "rankings.jsonl",
        [
            {
                "prompt": user_says("the cat"),
                "responses": ["yes", "no", "the sea"],
                "ranks": [1, 0, 2],
            },
            {
                "prompt": user_says("a dog"),
                "responses": ["ran", "sat", "one"],
                "ranks": [0, 1, 1],
            },
        ],
    )
    for loss in ("pairs", "plackett_luce"):
        settings = toys.settings(
            "reward", "llama", tmp_path / loss, dataset=data, ranking_loss=loss
        )
        (result,) = train("reward", settings)
        assert math.isfinite(result.metrics["loss"])
    (result,) = train("dpo", toys.settings("dpo", "llama", tmp_path / "dpo", dataset=data))
    assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)
