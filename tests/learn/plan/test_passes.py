"""A pass on tensors without data needs what the same pass needs on a model with its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from accord.errors import ModelError
from accord.learn.loop.learner import make_learner
from accord.learn.offline.rows import load_starting_model
from accord.learn.plan.live import LiveBytes
from accord.learn.plan.models import trained_model
from accord.learn.plan.passes import TRACED, Shape, trace_pass
from accord.lm.forward import response_logps, response_scores
from accord.lm.packing import pack
from accord.lm.scratch import save_untrained, untrained_model
from accord.lm.weightless import read_config
from accord.settings.training import SftSettings
from tests.lm.toys import random_groups, toy_tokenizer

SHAPES: list[Shape] = [(9, (7, 4)), (30, (12, 12)), (3, (40,))]
FORMS: dict[str, dict[str, Any]] = {
    "full": {},
    "bf16": {"precision": "bf16"},
    "lora": {"lora": {"r": 2}},
    "lora in bf16": {"lora": {"r": 2}, "precision": "bf16"},
    "checkpointing": {"gradient_checkpointing": True},
}
LAYERS = 7


def test_live_bytes_are_those_of_storages() -> None:
    known = torch.zeros(100, device="meta")
    live = LiveBytes([known])
    with live:
        a = torch.zeros(10, device="meta")  # 40 bytes
        b = a.view(2, 5)  # the same ones
        c = known + 1  # 400
        assert live.now == 440
        del a, c
        assert live.now == 40  # the view holds it
        del b
    assert live.now == 0
    assert live.peak == 440


def test_products_are_counted_by_shape_and_layout() -> None:
    weight, other = (torch.empty(4, 6, device="meta", dtype=torch.bfloat16) for _ in range(2))
    live = LiveBytes([])
    with live:
        for rows in (3, 3, 5):  # two shapes
            _ = torch.empty(rows, 4, device="meta", dtype=torch.bfloat16) @ weight
        _ = torch.empty(3, 6, device="meta", dtype=torch.bfloat16) @ other.T  # the third
        _ = torch.empty(7, 4, device="meta") @ weight.float()  # not in bf16
    assert len(live.products) == 3


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of more layers than are traced."""
    folder = tmp_path_factory.mktemp("deep")
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
    }
    assert LAYERS > TRACED
    save_untrained(
        untrained_model("llama", shape, toy_tokenizer(), seed=0), toy_tokenizer(), folder
    )
    return str(folder)


def settings_of(model: str, **values: Any) -> SftSettings:
    return SftSettings(model=model, dataset="rows", output_dir="nowhere", device="cpu", **values)


@pytest.mark.parametrize("scalar", [False, True], ids=["log-probs", "scores"])
@pytest.mark.parametrize("form", FORMS)
def test_a_traced_pass_is_the_pass_of_a_loaded_model(form: str, scalar: bool, deep: str) -> None:
    settings = settings_of(deep, **FORMS[form])
    lm = load_starting_model(settings, scalar=scalar)
    learner = make_learner(lm, settings)
    batch = pack(random_groups(SHAPES, len(toy_tokenizer())))
    _ = batch.attention.blocks
    read = response_scores if scalar else response_logps
    keeps = settings.precision == "bf16"
    if keeps:  # the gradients of an earlier pass are there
        read(lm, batch).sum().backward()
    held = [*lm.model.parameters(), *lm.model.buffers(), *learner.parameters.values()]
    live = LiveBytes([*held, *(p.grad for p in learner.parameters.values() if p.grad is not None)])
    with live:
        loss = read(lm, batch).sum()
        forward, saved = live.mark()
        loss.backward()
        backward, _ = live.mark()

    planned = trained_model(read_config(deep), deep, None, settings, heads=int(scalar))
    traced = trace_pass(
        planned, SHAPES, reads="ends" if scalar else "tokens", keeps_gradients=keeps
    )
    # Index tensors of the batch, of a few bytes a token, are the difference.
    slack = 64 * traced.tokens
    assert traced.tokens == sum(p + sum(r) for p, r in SHAPES)
    assert abs(traced.saved - saved) <= slack
    assert abs(traced.forward - forward) <= slack
    # A bf16 gradient is added to its float32 master in chunks, which are not traced.
    allowed = slack + (1 << 18 if keeps else 0)
    assert abs(traced.backward - backward) <= allowed


def test_gradients_that_a_pass_leaves_are_those_of_the_weights(deep: str) -> None:
    lm = trained_model(read_config(deep), deep, None, settings_of(deep))
    weights = sum(4 * p.numel() for p in lm.model.parameters())
    left = trace_pass(lm, SHAPES).gradients
    assert weights <= left <= weights + 8192  # and the states that are read
    assert trace_pass(lm, SHAPES, keeps_gradients=True).gradients <= 8192


def test_memory_grows_with_the_rows_and_falls_without_gradients(deep: str) -> None:
    lm = trained_model(read_config(deep), deep, None, settings_of(deep))
    one, two = (trace_pass(lm, SHAPES * n) for n in (1, 2))
    # What is saved of a layer is linear in tokens: no term of it is squared.
    assert two.saved == pytest.approx(2 * one.saved, rel=0.01)
    assert trace_pass(lm, SHAPES, grad=False).forward < one.saved
    assert trace_pass(lm, SHAPES, grad=False).backward == 0


LOOKS: dict[str, Callable[[torch.Tensor], Any]] = {
    "a number": lambda states: states.sum() > 0 and states,
    "a list": lambda states: states.tolist(),
    "positions": lambda states: states[states > 0],
    "an array": lambda states: states.numpy(),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_model_that_looks_at_its_numbers_is_refused(look: str, deep: str) -> None:
    lm = trained_model(read_config(deep), deep, None, settings_of(deep))
    lm.backbone.norm.register_forward_hook(lambda _m, _a, output: LOOKS[look](output) and None)
    with pytest.raises(ModelError, match=r"looks at its numbers .*--measure"):
        trace_pass(lm, SHAPES)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, AttributeError])
def test_a_fault_of_the_code_is_no_property_of_the_model(error: type[Exception], deep: str) -> None:
    def fail(*_: Any) -> None:
        raise error("shapes differ: a metadata entry of 3 and 4")

    lm = trained_model(read_config(deep), deep, None, settings_of(deep))
    lm.backbone.norm.register_forward_hook(fail)
    with pytest.raises(error, match="shapes differ"):
        trace_pass(lm, SHAPES)
