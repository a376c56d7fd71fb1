"""The mathematics of alignment: pure functions over tensors, no files, no models.

Names are imported on first use, so that importing the package alone does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.objectives.advantages import (
        gae,
        group_advantages,
        leave_one_out,
        token_rewards,
        whiten,
    )
    from accord.objectives.anchored import (
        apo_down_loss,
        apo_zero_loss,
        bco_pair_loss,
        nca_pair_loss,
        sppo_hard_loss,
    )
    from accord.objectives.divergences import kl_k1, kl_k2, kl_k3
    from accord.objectives.f_divergences import (
        alpha_divergence_reward,
        forward_kl_reward,
        jensen_shannon_reward,
        reverse_kl_reward,
    )
    from accord.objectives.lengths import length_desensitised_weights
    from accord.objectives.logprobs import (
        Head,
        token_kl,
        token_logps,
        token_stats,
    )
    from accord.objectives.optimal_transport import aot_loss, aot_unpaired_loss
    from accord.objectives.pair_terms import PairHyperparameters, PairLossFunction, PairTerms
    from accord.objectives.policy import (
        adapted_beta,
        clipped_policy_loss,
        clipped_value_loss,
        importance_weights,
        kl_loss,
        token_weights,
    )
    from accord.objectives.preference import (
        cdpo_loss,
        discopop_loss,
        dpo_loss,
        dpo_normalised_loss,
        exo_pair_loss,
        hinge_loss,
        ipo_loss,
        ipo_summed_loss,
        robust_loss,
        wpo_weights,
    )
    from accord.objectives.reference_free import log_odds, odds_ratio_loss, simpo_loss
    from accord.objectives.reward import (
        bradley_terry_loss,
        centering_penalty,
        mean_minus_variance,
        plackett_luce_loss,
        worst_score,
    )
    from accord.objectives.router import load_balancing_loss
    from accord.objectives.unpaired import kto_loss, kto_reference_point

_MODULES = (
    "advantages",
    "anchored",
    "divergences",
    "f_divergences",
    "lengths",
    "logprobs",
    "optimal_transport",
    "pair_terms",
    "policy",
    "preference",
    "reference_free",
    "reward",
    "router",
    "unpaired",
)

__all__ = [
    "Head",
    "PairHyperparameters",
    "PairLossFunction",
    "PairTerms",
    "adapted_beta",
    "alpha_divergence_reward",
    "aot_loss",
    "aot_unpaired_loss",
    "apo_down_loss",
    "apo_zero_loss",
    "bco_pair_loss",
    "bradley_terry_loss",
    "cdpo_loss",
    "centering_penalty",
    "clipped_policy_loss",
    "clipped_value_loss",
    "discopop_loss",
    "dpo_loss",
    "dpo_normalised_loss",
    "exo_pair_loss",
    "forward_kl_reward",
    "gae",
    "group_advantages",
    "hinge_loss",
    "importance_weights",
    "ipo_loss",
    "ipo_summed_loss",
    "jensen_shannon_reward",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_loss",
    "kto_loss",
    "kto_reference_point",
    "leave_one_out",
    "length_desensitised_weights",
    "load_balancing_loss",
    "log_odds",
    "mean_minus_variance",
    "nca_pair_loss",
    "odds_ratio_loss",
    "plackett_luce_loss",
    "reverse_kl_reward",
    "robust_loss",
    "simpo_loss",
    "sppo_hard_loss",
    "token_kl",
    "token_logps",
    "token_rewards",
    "token_stats",
    "token_weights",
    "whiten",
    "worst_score",
    "wpo_weights",
]


if not TYPE_CHECKING:  # for type checkers unknown names stay errors

    def __getattr__(name: str) -> Any:
        """Import a name on first use (PEP 562)."""
        if name in __all__:
            for module in _MODULES:
                members = vars(import_module(f"{__name__}.{module}"))
                if name in members:
                    return members[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
