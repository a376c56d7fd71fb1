"""Small tokenizers of the kinds that models have, each trained here on a few sentences.

`make_tokenizer(kind, template)` is one with the markers and the text of a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests.lm.tokens.templates import Template

SENTENCES = [
    "a small boat sails over the calm lake.  birds sing in the green trees.\n",
    "good day, how do you feel? well, thanks for asking. no, not today.\n\n",
    "user assistant system model [INST] [/INST] <|user|> <<SYS>> ### Response: é ü 日本 😀\n",
] * 20
BYTES = [f"<0x{i:02X}>" for i in range(256)]
TIKTOKEN = r"(?i:'s|'t|'re|'ve)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def _train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def _byte_level(
    prefix: bool = False, pattern: str | None = None, normalizer: Any = None, regex: bool = True
) -> Tokenizer:
    made = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex and pattern is None)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        level = pre_tokenizers.Sequence([split, level])
    made.pre_tokenizer, made.decoder = level, decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _train(
        made,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False),
    )


def _prepending() -> Tokenizer:
    """As Llama 2's: a normalizer puts a blank before every piece of text between added tokens."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    specials = ["<unk>", *BYTES]
    _train(made, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False))
    made.pre_tokenizer = None
    return _without_added_bytes(made, ["Replace", "ByteFallback", "Fuse", "Strip"])


def _metaspace(scheme: str) -> Tokenizer:
    """As Gemma's (never), T5's (always) and Llama 2's later files (first): byte fallback."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    specials = ["<unk>", *BYTES]
    _train(made, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False))
    return _without_added_bytes(made, ["Replace", "ByteFallback", "Fuse"])


def _without_added_bytes(made: Tokenizer, decoding: list[str]) -> Tokenizer:
    """The tokenizer with its byte tokens in the vocabulary alone, as converted files have them."""
    known: dict[str, dict[str, Any]] = {
        "Replace": {"pattern": {"String": "▁"}, "content": " "},
        "Strip": {"content": " ", "start": 1, "stop": 0},
    }
    saved = json.loads(made.to_str())
    saved["added_tokens"] = [t for t in saved["added_tokens"] if t["content"] not in BYTES]
    steps = [{"type": name, **known.get(name, {})} for name in decoding]
    saved["decoder"] = {"type": "Sequence", "decoders": steps}
    return Tokenizer.from_str(json.dumps(saved))


def _unigram(blanks_within: bool) -> Tokenizer:
    """Unigram; `blanks_within`: no pre-tokenizer, so tokens span words and lines."""
    made = Tokenizer(models.Unigram())
    if blanks_within:
        made.normalizer = normalizers.Replace(" ", "▁")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="never" if blanks_within else "always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return _train(made, trainer)


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False
    )
    return _train(made, trainer)


def _wordlevel() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    return _train(made, trainer)


NORMALIZERS = normalizers.Sequence(
    [normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()]
)
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": _byte_level,
    "byte-level with a blank before": lambda: _byte_level(prefix=True),
    "byte-level across words": lambda: _byte_level(regex=False),
    "tiktoken": lambda: _byte_level(pattern=TIKTOKEN),
    "strip, NFKC, lower case": lambda: _byte_level(normalizer=NORMALIZERS),
    "strip on the right": lambda: _byte_level(normalizer=normalizers.Strip(left=False)),
    "prepend": _prepending,
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace never": lambda: _metaspace("never"),
    "unigram": lambda: _unigram(blanks_within=False),
    "unigram across words": lambda: _unigram(blanks_within=True),
    "wordpiece": _wordpiece,
    "word level": _wordlevel,
}
"""Ways of splitting text into tokens."""

ADDING = ("nothing", "bos", "eos", "both")
"""What a post-processor adds around a text."""


@cache
def _trained(kind: str) -> str:
    return str(KINDS[kind]().to_str())


def make_tokenizer(kind: str, template: Template, adding: str = "bos") -> Any:
    """A tokenizer of a kind with a template's markers, which adds BOS, EOS, both or nothing."""
    inner = Tokenizer.from_str(_trained(kind))
    special = dict.fromkeys((template.bos, template.eos, *template.more_eos, *template.markers))
    inner.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    inner.add_tokens([AddedToken(t, special=False, normalized=False) for t in template.plain])
    before = f"{template.bos} " if adding in ("bos", "both") else ""
    after = f" {template.eos}" if adding in ("eos", "both") else ""
    inner.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{after}",
        special_tokens=[(t, inner.token_to_id(t)) for t in (template.bos, template.eos)],
    )
    unknown = {"unk_token": "<unk>"} if inner.token_to_id("<unk>") is not None else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=template.bos,
        eos_token=template.eos,
        chat_template=template.text,
        clean_up_tokenization_spaces=False,
        **unknown,
    )


def eos_ids(tokenizer: Any, template: Template) -> frozenset[int]:
    """The ids that end an answer, as a model's generation configuration names them."""
    ends = (template.eos, *template.more_eos)
    return frozenset(int(tokenizer.convert_tokens_to_ids(token)) for token in ends)
