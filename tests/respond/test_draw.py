"""One token per row: inverse transform sampling, and truncation by top-k, top-p and min-p."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accord.respond.local import draw
from accord.respond.local.draw import draw_tokens, likeliest_tokens
from accord.respond.protocol import SamplingSettings


def test_draw_inverts_the_distribution_function() -> None:
    # p = (0.5, 0.25, 0.25): u below 0.5 gives token 0, below 0.75 token 1, else token 2.
    logits = torch.tensor([0.5, 0.25, 0.25]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-24])
    token, logp = draw_tokens(logits, uniform, SamplingSettings())
    assert token.tolist() == [0, 0, 1, 1, 2, 2]
    assert logp.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.25, 0.25])


def test_top_p_includes_the_token_that_reaches_it() -> None:
    # p = (0.2, 0.5, 0.3) and top_p 0.6: 0.5 is not enough, so tokens 1 and 2 stay, with 0.625 and
    # 0.375 of the mass. The log-probs are those before the truncation.
    logits = torch.tensor([0.2, 0.5, 0.3]).log().repeat(4, 1)
    uniform = torch.tensor([0.0, 0.6, 0.65, 0.999])
    token, logp = draw_tokens(logits, uniform, SamplingSettings(top_p=0.6))
    assert token.tolist() == [1, 1, 2, 2]
    assert logp.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3])
    only, _ = draw_tokens(logits, uniform, SamplingSettings(top_p=0.1))
    assert only.tolist() == [1] * 4  # the likeliest stays, however small top_p is


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).repeat(3, 1)
    token, _ = draw_tokens(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]), SamplingSettings())
    assert token.tolist() == [1, 3, 3]


def inverse_cdf(p: np.ndarray, u: float) -> int:
    """The first token whose cumulated probability passes u, in one long sum."""
    return int(np.searchsorted(np.cumsum(p), u * p.sum(), side="right"))


@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 1000, 1280])
def test_chunks_of_the_vocabulary_do_not_change_the_draw(vocabulary: int) -> None:
    logits = torch.randn(200, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    logits[:, ::3] = -torch.inf if vocabulary > 3 else 0.0
    uniform = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    token, logp = draw_tokens(logits, uniform, SamplingSettings())
    p = logits.double().softmax(1).numpy()
    assert token.tolist() == [inverse_cdf(row, float(u)) for row, u in zip(p, uniform, strict=True)]
    expected_logps = [float(np.log(row[t])) for row, t in zip(p, token, strict=True)]
    assert logp.tolist() == pytest.approx(expected_logps, abs=1e-5)


def test_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(64, 700, generator=torch.Generator().manual_seed(0)) * 3
    uniform = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for settings in (SamplingSettings(), SamplingSettings(top_p=0.8), SamplingSettings(top_k=9)):
        together = draw_tokens(logits, uniform, settings)
        monkeypatch.setattr(draw, "CPU_BLOCK", 700)
        alone = draw_tokens(logits, uniform, settings)
        monkeypatch.undo()
        assert torch.equal(together[0], alone[0])
        assert torch.equal(together[1], alone[1])


def drawn_tokens(logits: torch.Tensor, settings: SamplingSettings) -> set[int]:
    """All tokens that are drawn at a fine grid of uniform numbers."""
    uniform = torch.linspace(0, 1 - 1e-9, 20_000, dtype=torch.float64)
    token, _ = draw_tokens(logits.expand(len(uniform), -1), uniform, settings)
    return set(token.tolist())


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_is_the_fewest_likeliest(top_p: float) -> None:
    logits = torch.randn(1, 600, generator=torch.Generator().manual_seed(3))
    p = logits[0].double().softmax(0).numpy()
    order = np.argsort(-p)
    count = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
    drawn = drawn_tokens(logits, SamplingSettings(top_p=top_p))
    # The grid may miss the rarest tokens of the nucleus, and must draw none outside it.
    assert drawn <= set(order[:count].tolist())
    assert len(drawn) >= 0.9 * count


def test_truncation_by_hand() -> None:
    # p = (0.4, 0.3, 0.2, 0.1). min_p 0.5 leaves those of at least 0.2; top_k 3 the first three; of
    # those, with 0.9 of the mass, top_p 0.7 needs 0.63: the first two.
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert drawn_tokens(logits, SamplingSettings(min_p=0.49)) == {0, 1, 2}
    assert drawn_tokens(logits, SamplingSettings(min_p=0.51)) == {0, 1}
    assert drawn_tokens(logits, SamplingSettings(top_k=3)) == {0, 1, 2}
    assert drawn_tokens(logits, SamplingSettings(top_k=1)) == {0}
    assert drawn_tokens(logits, SamplingSettings(top_k=9)) == {0, 1, 2, 3}
    assert drawn_tokens(logits, SamplingSettings(top_k=3, top_p=0.7)) == {0, 1}
    assert drawn_tokens(logits, SamplingSettings(top_p=0.75)) == {0, 1, 2}
    assert drawn_tokens(logits, SamplingSettings(top_p=0.75, min_p=0.6)) == {0, 1}


def test_equal_tokens_stay_together() -> None:
    logits = torch.zeros(1, 10)
    assert drawn_tokens(logits, SamplingSettings(top_k=3)) == set(range(10))
    assert drawn_tokens(logits, SamplingSettings(top_p=0.2)) == set(range(10))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=0),
        SamplingSettings(top_p=0.9),
        SamplingSettings(top_k=3),
        SamplingSettings(min_p=0.1, top_k=200, top_p=0.5),
    ],
)
@pytest.mark.parametrize("vocabulary", [5, 128, 300])
def test_logits_that_are_not_finite_give_log_probs_that_are_not(
    bad: float, settings: SamplingSettings, vocabulary: int
) -> None:
    # An index beyond the vocabulary would be an error here, and the end of the process on CUDA.
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[1, vocabulary // 2] = bad
    token, logp = draw_tokens(logits, torch.tensor([0.1, 0.5, 0.999]), settings)
    assert torch.isfinite(logp).tolist() == [True, False, True]
    assert bool((token < vocabulary).all())
    alone, _ = draw_tokens(logits[[0, 2]], torch.tensor([0.1, 0.999]), settings)
    assert token[[0, 2]].tolist() == alone.tolist()


def test_a_row_without_any_possible_token_has_no_log_prob() -> None:
    _, logp = draw_tokens(torch.full((1, 9), -torch.inf), torch.tensor([0.5]), SamplingSettings())
    assert not bool(torch.isfinite(logp).any())


@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 1000])
def test_the_likeliest_token_is_the_first_of_the_largest(vocabulary: int) -> None:
    # Whole numbers, so that many are equal; numpy's argmax is the first of them.
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randint(-3, 3, (40, vocabulary), generator=generator).float()
    logits[::5, : vocabulary // 2] = -torch.inf
    token, largest = likeliest_tokens(logits)
    assert token.tolist() == logits.numpy().argmax(1).tolist()
    assert largest.tolist() == logits.numpy().max(1).tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_likeliest_logit_is_not_finite_where_the_row_is_not(bad: float) -> None:
    logits = torch.zeros(2, 300)
    logits[1, 150 if bad != -torch.inf else slice(None)] = bad
    token, largest = likeliest_tokens(logits)
    assert torch.isfinite(largest).tolist() == [True, False]
    assert bool((token < 300).all())
