"""Language models with random weights, wrapped as accord reads them."""

from __future__ import annotations

from typing import Any, ClassVar

from accord.learn.offline.methods import METHODS
from accord.lm.checks import check_packing
from accord.lm.model import LanguageModel
from tests.lm.models import causal, scalar


class EosTokenizer:
    """All that training on token rows needs of a tokenizer: the number of EOS."""

    eos_token_id = 2


class NumberTokenizer:
    """Tokens are numbers, and their text is these numbers."""

    pad_token_id = pad_token = chat_template = unk_token_id = None
    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, eos_token_id: int | list[int] | None = None) -> None:
        self.eos_token_id = eos_token_id

    def __len__(self) -> int:
        return 24

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        return {"input_ids": [int(number) for number in text.split()]}

    def decode(self, tokens: Any, **options: bool) -> str:
        return " ".join(str(token) for token in tokens)


def wrap_model(
    model: Any, tokenizer: Any = None, *, name: str = "toy", **options: Any
) -> LanguageModel:
    """A transformers model as a language model that computes packed rows as it does single ones."""
    lm = LanguageModel(model, tokenizer or EosTokenizer(), name, **options)
    assert check_packing(lm)
    return lm


def causal_lm(seed: int = 0, **options: Any) -> LanguageModel:
    return wrap_model(causal("llama", seed), **options)


def scalar_lm(heads: int = 1, **options: Any) -> LanguageModel:
    lm = wrap_model(scalar("llama", heads=heads), scalar=True, **options)
    assert lm.heads == heads
    return lm


def lm_for_method(method: str, heads: int = 1) -> LanguageModel:
    """A starting model for an offline method: with a scalar head, or with a vocabulary."""
    return scalar_lm(heads) if METHODS[method].scalar else causal_lm()
