"""bf16 weights with float32 masters: small updates are not lost, and what is saved is exact."""

from __future__ import annotations

import torch

from accord.learn.loop.learner import make_learner
from accord.lm.forward import response_logps
from accord.lm.packing import pack
from accord.settings.training import RewardSettings, SftSettings
from tests.learn.toys.models import causal_lm, scalar_lm
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups

GROUPS = random_groups([(4, (3, 5)), (2, (7, 1))], VOCABULARY)
SETTINGS = SftSettings(**REQUIRED)


def test_the_model_computes_on_copies_and_the_optimiser_steps_the_masters() -> None:
    lm = causal_lm(precision="bf16")
    exact = {n: p.detach().clone() for n, p in lm.trainable_parameters().items()}
    learner = make_learner(lm, SETTINGS)
    assert lm.weights_dtype == torch.bfloat16
    for name, master in learner.parameters.items():
        assert master.dtype == torch.float32
        assert torch.equal(master, exact[name])  # no digit of what was loaded is lost
        assert torch.equal(learner.copies[name], exact[name].bfloat16())
    response_logps(lm, pack(GROUPS)).sum().backward()
    # A copy's gradient is moved to its master as soon as it is computed.
    assert all(p.grad is None for p in lm.trainable_parameters().values())
    assert all(p.grad is not None for p in learner.parameters.values())


def test_updates_smaller_than_a_bf16_step_add_up() -> None:
    # Near 1 bf16 has steps of 2⁻⁷ (up) and 2⁻⁸ (down): a hundred updates of 10⁻³ are lost in
    # bf16 one by one, and are 0.1 in the master.
    lm = causal_lm(precision="bf16")
    learner = make_learner(lm, SETTINGS)
    name = next(n for n in learner.parameters if n.endswith("input_layernorm.weight"))
    master, copy = learner.parameters[name], learner.copies[name]
    with torch.no_grad():
        master.fill_(1.0)
        for _ in range(100):
            master += 1e-3
            learner.sync_copies()
    assert torch.allclose(master, torch.tensor(1.1), atol=1e-5)
    assert torch.equal(copy, master.bfloat16())
    learner.use_masters()
    assert torch.equal(dict(lm.trainable_parameters())[name], master)  # what is saved is the master


def test_small_gradients_of_several_passes_are_added_in_float32() -> None:
    learner = make_learner(causal_lm(precision="bf16"), SETTINGS)
    copy = learner.copies["model.norm.weight"]
    master = learner.parameters["model.norm.weight"]
    # 256 + 1 is 256 in bf16, eight digits: added there one by one, the ones would be lost.
    (copy.sum() * 256).backward()
    for _ in range(10):
        copy.sum().backward()
    assert master.grad is not None
    assert master.grad.tolist() == [266.0] * len(master)


def test_a_scalar_head_stays_in_float32() -> None:
    lm = scalar_lm(precision="bf16")
    learner = make_learner(lm, RewardSettings(**REQUIRED))
    assert lm.inner.score.weight.dtype == torch.float32
    assert "score.weight" not in learner.copies
    assert lm.weights_dtype == torch.bfloat16


def test_in_float32_the_optimiser_steps_the_models_view_parameters() -> None:
    lm = causal_lm()
    learner = make_learner(lm, SETTINGS)
    assert not learner.copies
    assert all(p is lm.trainable_parameters()[n] for n, p in learner.parameters.items())
