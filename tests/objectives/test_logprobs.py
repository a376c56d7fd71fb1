"""Chunked log-probs against log_softmax in float64 by plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from accord.objectives import logprobs
from accord.objectives.logprobs import (
    Head,
    chunk_sizes,
    token_kl,
    token_logps,
    token_stats,
)

ROWS, WIDTH, VOCABULARY = 7, 5, 11


def plain_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    temperature: float,
) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits / temperature


def random_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, bias, targets, and the gradient of the log-probs."""
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(ROWS, WIDTH, generator=g),
        torch.randn(VOCABULARY, WIDTH, generator=g),
        torch.randn(VOCABULARY, generator=g),
        torch.randint(VOCABULARY, (ROWS,), generator=g),
        torch.randn(ROWS, generator=g),
    )


@pytest.mark.parametrize("chunk_elements", [1, 3 * VOCABULARY, 1 << 25])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_equal_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch,
    with_bias: bool,
    scale: float,
    softcap: float | None,
    temperature: float,
    chunk_elements: int,
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
    hidden, weight, bias, targets, above = random_inputs()
    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    head = Head(leaves[1], leaves[2] if with_bias else None, scale, softcap)
    actual = token_logps(leaves[0], head, targets, temperature)
    actual.backward(above)

    exact = [t.double().requires_grad_() for t in (hidden, weight, bias)]
    logits = plain_logits(
        exact[0], exact[1], exact[2] if with_bias else None, scale, softcap, temperature
    )
    expected = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    expected.backward(above.double())

    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    for leaf, reference in zip(leaves, exact, strict=True):
        if reference.grad is None:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-4, atol=1e-5)


def test_gradient_agrees_with_finite_differences() -> None:
    # (f(x + ε) − f(x − ε)) / 2ε in one direction; the function is float32, so ε is large.
    hidden, weight, bias, targets, above = random_inputs(1)
    head = Head(weight, bias, 0.5, 4.0)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9))
    leaf = hidden.clone().requires_grad_()
    token_logps(leaf, head, targets, 0.8).backward(above)
    assert leaf.grad is not None

    def f(x: Tensor) -> float:
        return float((token_logps(x, head, targets, 0.8).double() * above).sum())

    eps = 1e-2
    slope = (f(hidden + eps * direction) - f(hidden - eps * direction)) / (2 * eps)
    assert slope == pytest.approx(float((leaf.grad * direction).sum()), rel=1e-2)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, bias, targets, _ = random_inputs()
    hidden.requires_grad_()
    token_logps(hidden, Head(weight, bias), targets).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert bias.grad is None


def test_uniform_logits_give_minus_log_v() -> None:
    # All logits 0: p = 1/V for every token, so log p = −log V and the entropy is log V.
    head = Head(torch.zeros(VOCABULARY, WIDTH))
    hidden, targets = torch.ones(2, WIDTH), torch.tensor([0, 10])
    logps = token_logps(hidden, head, targets)
    assert logps.tolist() == pytest.approx([-math.log(VOCABULARY)] * 2)
    entropy = token_stats(hidden, head, targets).entropy
    assert entropy.tolist() == pytest.approx([math.log(VOCABULARY)] * 2, abs=1e-6)


def test_half_precision_hidden_states_give_float32_log_probs() -> None:
    hidden, weight, _, targets, _ = random_inputs()
    half = hidden.bfloat16().requires_grad_()
    actual = token_logps(half, Head(weight), targets)
    actual.sum().backward()
    assert actual.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    exact = (hidden @ weight.T).log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(actual, exact, rtol=0.05, atol=0.1)


def test_statistics_by_hand() -> None:
    # logits (log 4, log 2, log 2): p = (½, ¼, ¼), entropy = ½·log 2 + 2·¼·log 4 = 1.5·log 2;
    # its mode is token 0. At temperature ½ the logits double: p = (16, 4, 4)/24 = (⅔, ⅙, ⅙).
    head = Head(torch.tensor([[math.log(4.0)], [math.log(2.0)], [math.log(2.0)]]))
    hidden = torch.ones(2, 1)
    stats = token_stats(hidden, head, torch.tensor([0, 2]))
    entropy, correct = stats.entropy, stats.correct
    assert entropy.tolist() == pytest.approx([1.5 * math.log(2)] * 2, abs=1e-6)
    assert correct.tolist() == [1.0, 0.0]
    sharper = token_stats(hidden, head, torch.tensor([0, 2]), temperature=0.5).entropy
    expected = 2 / 3 * math.log(1.5) + 1 / 3 * math.log(6)
    assert sharper.tolist() == pytest.approx([expected] * 2, abs=1e-6)


@pytest.mark.parametrize("chunk_elements", [1, 1 << 25])
def test_kl_is_the_sum_over_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch, chunk_elements: int
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
    hidden, weight, bias, _, _ = random_inputs()
    reference_hidden, reference_weight, _, _, _ = random_inputs(2)
    actual = token_kl(
        hidden,
        Head(weight, bias),
        reference_hidden,
        Head(reference_weight, softcap=2.0),
        temperature=1.3,
    )
    p = plain_logits(hidden.double(), weight.double(), bias.double(), 1.0, None, 1.3).softmax(1)
    q = plain_logits(
        reference_hidden.double(), reference_weight.double(), None, 1.0, 2.0, 1.3
    ).softmax(1)
    for row in range(ROWS):
        expected = sum(
            float(a) * math.log(float(a) / float(b)) for a, b in zip(p[row], q[row], strict=True)
        )
        assert float(actual[row]) == pytest.approx(expected, abs=1e-5)
    same = token_kl(hidden, Head(weight, bias), hidden, Head(weight, bias))
    assert same.abs().max() < 1e-6


@pytest.mark.parametrize("tile", [2, 5, 100])
@pytest.mark.parametrize("chunk_elements", [1, 6, 40, 1 << 20])
def test_statistics_are_the_same_in_all_chunks(
    monkeypatch: pytest.MonkeyPatch, chunk_elements: int, tile: int
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
    monkeypatch.setattr(logprobs, "ROW_TILE", tile)
    hidden, weight, bias, targets, above = random_inputs(3)
    hidden.mul_(5).requires_grad_()  # large, so that maxima differ between chunks
    weight.requires_grad_()
    stats = token_stats(hidden, Head(weight, bias), targets)
    logps, entropy, correct = stats.logps, stats.entropy, stats.correct
    logps.backward(above)
    logits = (hidden @ weight.T + bias).detach().double()
    p = logits.softmax(1)
    torch.testing.assert_close(
        entropy.double(), -(p * logits.log_softmax(1)).sum(1), rtol=1e-4, atol=1e-5
    )
    assert correct.tolist() == (logits.argmax(1) == targets).double().tolist()
    squares = token_stats(hidden, Head(weight, bias), targets).log_squares
    torch.testing.assert_close(squares.double(), p.square().sum(1).log(), rtol=1e-4, atol=1e-5)
    assert not squares.requires_grad
    # Σ_i g_i·(onehot_i − p_i)·h_i, written out.
    d = (torch.nn.functional.one_hot(targets, VOCABULARY) - p) * above[:, None].double()
    expected = d.T @ hidden.detach().double()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_entropy_gradient_equals_that_of_autograd(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 40)
    actual, expected = [], []
    for grads in (actual, expected):
        hidden, weight, bias, targets, above = random_inputs(3)
        leaves = [x.double() if grads is expected else x for x in (hidden, weight, bias)]
        h, w, b = (x.requires_grad_() for x in leaves)
        if grads is actual:
            head = Head(w, b, softcap=softcap)
            stats = token_stats(h, head, targets, 1.3, entropy_grad=True)
            logps, entropy = stats.logps, stats.entropy
        else:
            log_p = plain_logits(h, w, b, 1.0, softcap, 1.3).log_softmax(1)
            logps = log_p.gather(1, targets[:, None]).squeeze(1)
            entropy = -(log_p.exp() * log_p).sum(1)
        (above.to(logps) * logps + above.to(logps).flip(0) * entropy).sum().backward()
        grads += [x.grad for x in (h, w, b)]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "vocabulary"), [(10, 3), (1, 1000), (7, 1), (5000, 7)])
def test_a_chunk_is_within_its_limit(
    monkeypatch: pytest.MonkeyPatch, rows: int, vocabulary: int
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 12)
    tile, width = chunk_sizes(rows, vocabulary, torch.device("cpu"))
    assert 1 <= tile <= rows
    assert 1 <= width <= vocabulary
    assert width == 1 or tile * width <= 12


@pytest.mark.parametrize("free", [1 << 30, 8 << 30, 60 << 30])
def test_a_chunk_on_a_gpu_uses_its_share_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    tile, width = chunk_sizes(100_000, 150_000, torch.device("cuda"))
    # Four bytes for float32 and two for the model's own precision; no more than 2²⁸ elements.
    share = min(free / 16, 6 * 2**28)
    assert 0.99 * share <= 6 * tile * width <= share
