"""FlexAttention and block attention of the same plan agree (plain matrices here, no CUDA)."""

from __future__ import annotations

import pytest
import torch

from accord.lm.attention import flex
from accord.lm.attention.flex import flex_attention, flex_packed
from accord.lm.attention.packed import packed_attention
from accord.lm.packing import pack
from tests.lm.toys import random_groups

SHAPES = [(9, (5, 12, 1, 7)), (1, (4,)), (4, (6, 2)), (1, (1, 9))]


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_flex_and_block_attention_agree(
    window: int | None, softcap: float | None, with_sinks: bool
) -> None:
    plan = pack(random_groups(SHAPES, 50)).attention
    g = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, plan.num_tokens, 8, generator=g)
    k, v = (torch.randn(1, 2, plan.num_tokens, 8, generator=g) for _ in range(2))
    sinks = torch.randn(4, generator=g) if with_sinks else None
    expected, _ = packed_attention(
        torch.nn.Module(),
        q,
        k,
        v,
        None,
        scaling=0.4,
        sliding_window=window,
        softcap=softcap,
        s_aux=sinks,
        packed=plan,
    )
    actual = flex_packed(q, k, v, plan, scale=0.4, softcap=softcap, window=window, sinks=sinks)
    torch.testing.assert_close(actual.transpose(1, 2), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("with_sinks", [False, True])
def test_a_soft_cap_compiles_in_one_graph(
    with_sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graph alone, with gradients as in training: it does not depend on the device, but torch
    # refuses them on a CPU. fullgraph raises where the graph would be divided.
    monkeypatch.setattr(flex.flex, "_validate_device", lambda *_: None)
    compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True, backend="eager")
    g = torch.Generator().manual_seed(0)
    sinks = torch.randn(4, generator=g) if with_sinks else None
    for cap, shapes in ((0.8, SHAPES), (0.5, SHAPES[:2])):
        plan = pack(random_groups(shapes, 50)).attention
        q, k, v = (torch.randn(1, 4, plan.num_tokens, 8, generator=g) for _ in range(3))
        q.requires_grad_()
        outputs = []
        for kernel in (flex_attention, compiled):
            monkeypatch.setattr(flex, "_kernel", lambda _, kernel=kernel: kernel)
            outputs.append(
                flex_packed(q, k, v, plan, scale=0.4, softcap=cap, window=6, sinks=sinks)
            )
        torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
