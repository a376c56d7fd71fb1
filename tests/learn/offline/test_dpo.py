"""DPO and IPO: the first loss, and logged rewards that are those of the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from accord.errors import SettingsError
from accord.learn.loop.objective import mean_metrics
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.packing import pack
from accord.settings.preferences import DpoSettings, IpoSettings
from tests.learn.toys.fit import GROUPS, fit_recorded, reference_factory
from tests.learn.toys.models import causal_lm
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups


def test_the_loss_begins_at_log_2_with_rankings_too() -> None:
    # The reference has the model's weights, and a ranking counts once.
    ((result,), _) = fit_recorded("dpo", DpoSettings(**REQUIRED), reference=causal_lm())
    assert result.metrics["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert result.metrics["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_with_an_f_divergence_the_plain_log_ratios_are_logged_too() -> None:
    pairs = random_groups([(4, (3, 5)), (2, (7, 1))], VOCABULARY)
    lm, reference = causal_lm(), causal_lm(seed=1)
    settings = DpoSettings(**REQUIRED, f_divergence_type="js_divergence")
    objective = METHODS["dpo"].objective(lm, settings, pairs, reference_factory(reference))
    with torch.no_grad():
        context = objective.prepare([0, 1])
        metrics = mean_metrics([objective.losses(pack(pairs), [0, 1], context, log=True).metrics])
    # The mean over both pairs of log π − log π_ref, each model computed alone.
    logps, ref_logps = (
        torch.cat(compute_log_probs(model, pairs, batch_size=1)) for model in (lm, reference)
    )
    (a, b, c, d) = (float(part.sum()) for part in (logps - ref_logps).split([3, 5, 7, 1]))
    assert metrics["logratios/chosen"] == pytest.approx((a + c) / 2, rel=1e-4)
    assert metrics["logratios/rejected"] == pytest.approx((b + d) / 2, rel=1e-4)


@pytest.mark.parametrize("divergence", ["reverse_kl", "js_divergence"])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.3])
def test_the_logged_rewards_of_dpo_are_those_of_its_loss(
    alpha: float | None, divergence: Any
) -> None:
    # Of one pair, of 1 and of 9 tokens, the loss is −log σ(reward of chosen − of rejected).
    settings = DpoSettings(**REQUIRED, beta=0.5, ld_alpha=alpha, f_divergence_type=divergence)
    ((result,), _) = fit_recorded("dpo", settings, GROUPS[:1])
    metrics = result.metrics
    margin = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    assert metrics["rewards/margins"] == pytest.approx(margin, abs=1e-5)
    assert metrics["rewards/accuracies"] == float(margin > 0)
    assert metrics["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-5)


@pytest.mark.parametrize("average", [True, False])
def test_the_logged_rewards_of_ipo_are_those_of_its_loss(average: bool) -> None:
    # Of one pair, of 1 and of 9 tokens: (margin/β − 1/(2β))² (Azar et al. 2023, eq. 17).
    settings = IpoSettings(**REQUIRED, beta=0.5, average_log_probs=average)
    ((result,), _) = fit_recorded("ipo", settings, GROUPS[:1])
    metrics = result.metrics
    assert metrics["loss"] == pytest.approx((metrics["rewards/margins"] / 0.5 - 1) ** 2, abs=1e-4)
    assert ("logratios/chosen" in metrics) == average
    if average:  # of the whole response, where the reward is of a token's mean
        length = len(GROUPS[0].responses[0])
        reward = 0.5 * metrics["logratios/chosen"] / length
        assert metrics["rewards/chosen"] == pytest.approx(reward)


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_losses_that_sort_pairs_refuse_rankings(loss: str) -> None:
    # The third row ranks three responses.
    with pytest.raises(SettingsError, match=rf"^loss_type={loss} .* rows.jsonl:3 ranks 3"):
        fit_recorded("dpo", DpoSettings(**REQUIRED, loss_type=loss))
