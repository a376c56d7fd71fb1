"""`accord.objectives` exports the functions of its modules, each loaded on first use."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

import accord.objectives

MODULES = [module.name for module in pkgutil.iter_modules(accord.objectives.__path__)]
# One of each module, so that none is missing in the package.
EXAMPLES = {
    "advantages": "gae",
    "anchored": "apo_zero_loss",
    "divergences": "kl_k3",
    "f_divergences": "jensen_shannon_reward",
    "lengths": "length_desensitised_weights",
    "logprobs": "token_kl",
    "optimal_transport": "aot_loss",
    "pair_terms": "PairTerms",
    "policy": "clipped_policy_loss",
    "preference": "dpo_loss",
    "reference_free": "simpo_loss",
    "reward": "bradley_terry_loss",
    "router": "load_balancing_loss",
    "unpaired": "kto_loss",
}


def test_every_exported_name_is_that_of_one_module() -> None:
    for name in accord.objectives.__all__:
        member = getattr(accord.objectives, name)
        defining = [m for m in MODULES if name in vars(import_module(f"accord.objectives.{m}"))]
        assert defining, name
        for module in defining:  # a module may import it from another
            assert getattr(import_module(f"accord.objectives.{module}"), name) is member, name
    assert set(accord.objectives.__all__) <= set(dir(accord.objectives))


def test_every_module_is_exported() -> None:
    assert sorted(EXAMPLES) == sorted(MODULES)
    assert set(EXAMPLES.values()) <= set(accord.objectives.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'accord\.objectives' has no attribute 'dpo'"):
        accord.objectives.dpo  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from accord.objectives import dpo  # type: ignore[attr-defined]  # noqa: F401
