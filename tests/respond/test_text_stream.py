"""Text that comes token by token: all of it is `response_text`'s, and no stop string leaks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from accord.lm.tokens.token_bytes import token_bytes
from accord.respond.protocol import Sample
from accord.respond.text import find_stop_strings, response_text
from accord.respond.text_stream import TextStream
from tests.lm.toys import toy_tokenizer

EOS = "</s>"


@cache
def byte_fallback() -> Any:
    """As Llama 2's: words begin with ▁, and what the vocabulary lacks is spelled in bytes."""
    pieces = ["<unk>", "<s>", EOS, *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["▁", "▁the", "▁cat", "s", "at", "▁sat", "é", "▁a", "\n"]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token=EOS
    )


@cache
def byte_level() -> Any:
    """A byte for each token, some words, and a control token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "st", "op", "stop", "Ġthe"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)
    fast.add_special_tokens({"additional_special_tokens": [AddedToken("<|user|>", special=True)]})
    return fast


TOKENIZERS = {"byte fallback": byte_fallback, "byte level": byte_level, "toy": toy_tokenizer}


def stream_text(
    tokenizer: Any, tokens: list[int], prompt: tuple[int, ...] = (), stops: tuple[str, ...] = ()
) -> tuple[list[str], int, str | None]:
    """The parts, the tokens counted, and the stop string, of a response of these tokens."""
    stream = TextStream(tokenizer, prompt, stops)
    parts = []
    for token in tokens:
        parts.append(stream.push(token))
        if stream.stop is not None:
            break
    parts.append(stream.finish())
    return [part.text for part in parts], sum(part.tokens for part in parts), stream.stop


def expected_text(
    tokenizer: Any, tokens: list[int], prompt: tuple[int, ...], stops: tuple[str, ...]
) -> tuple[str, str | None]:
    """The text as the sampler finds stop strings and `response_text` cuts it."""
    finder = find_stop_strings(tokenizer, stops) if stops else None
    written: list[int] = []
    stop = None
    for token in tokens:
        written.append(token)
        stop = finder.find_in(written, prompt) if finder is not None else None
        if stop is not None:
            break
    sample = Sample(tuple(written), (0.0,) * len(written), stop is not None, stop)
    return response_text(sample, tokenizer, prompt), stop


@pytest.mark.parametrize("stop", [" the", " t", "the", " the sat"])
def test_a_stop_string_may_begin_with_the_blank_before_the_first_word(stop: str) -> None:
    """Decoding drops the first blank of a text, which is part of what follows a prompt."""
    tokenizer = byte_fallback()
    prompt, tokens = (5,), tokenizer.convert_tokens_to_ids(["▁the", "▁sat", "▁cat"])
    assert tokenizer.decode(tokens).startswith("the")
    finder = find_stop_strings(tokenizer, [stop])
    ended = [finder.find_in(tokens[:n], prompt) for n in (1, 2, 3)]
    assert ended == ([None, stop, stop] if stop == " the sat" else [stop] * 3)
    parts, _, found = stream_text(tokenizer, tokens, prompt, (stop,))
    assert ("".join(parts), found) == expected_text(tokenizer, tokens, prompt, (stop,))
    assert "".join(parts) == (" " if stop == "the" else "")


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_streamed_text_is_the_response_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = st.integers(0, len(tokenizer) - 1).filter(lambda i: i != tokenizer.eos_token_id)
    known = [tokenizer.convert_tokens_to_ids(t) for t in ("st", "op", "▁the", "▁", "<|user|>", "Ã")]
    likely = st.sampled_from([i for i in known if i is not None and i >= 0] or [5])
    tokens = data.draw(st.lists(st.one_of(ids, likely), max_size=14))
    prompt = tuple(data.draw(st.lists(ids, max_size=3)))
    stops = tuple(
        data.draw(
            st.lists(
                st.sampled_from(["stop", "t", "the", " the", "\n", "o", "ops", "é"]), max_size=2
            )
        )
    )
    parts, _, stop = stream_text(tokenizer, tokens, prompt, stops)
    text, expected_stop = expected_text(tokenizer, tokens, prompt, stops)
    assert ("".join(parts), stop) == (text, expected_stop)


def ids_of(tokenizer: Any, *tokens: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def test_a_character_in_several_tokens_is_shown_once_it_is_complete() -> None:
    tokenizer = byte_level()
    tokens = tokenizer("a€b", add_special_tokens=False)["input_ids"]
    assert len(tokens) == 5  # € has three bytes
    parts, count, _ = stream_text(tokenizer, tokens)
    assert parts == ["a", "", "", "€", "b", ""]
    assert count == 5
    assert b"".join(token_bytes(tokenizer, token) for token in tokens) == "a€b".encode()


def test_bytes_that_are_no_character_are_shown_at_the_end() -> None:
    tokenizer = byte_level()
    tokens = tokenizer("a€", add_special_tokens=False)["input_ids"][:-1]
    parts, count, _ = stream_text(tokenizer, tokens)
    assert "".join(parts) == "a\ufffd"
    assert count == 3


def test_a_stop_string_over_several_tokens_never_shows() -> None:
    tokenizer = byte_level()
    tokens = ids_of(tokenizer, "a", "st", "op", "b")
    assert stream_text(tokenizer, tokens, stops=("stop",)) == (["a", "", "", ""], 1, "stop")
    # What only looked like one shows when it turns out not to be.
    tokens = ids_of(tokenizer, "a", "st", "a")
    assert stream_text(tokenizer, tokens, stops=("stop",)) == (["a", "", "sta", ""], 3, None)
    tokens = ids_of(tokenizer, "a", "st")
    assert stream_text(tokenizer, tokens, stops=("stop",)) == (["a", "", "st"], 2, None)


def test_a_token_that_began_before_the_stop_string_counts() -> None:
    tokenizer = byte_level()
    tokens = ids_of(tokenizer, "a", "stop")
    assert stream_text(tokenizer, tokens, stops=("top",)) == (["a", "s", ""], 2, "top")
    assert stream_text(tokenizer, tokens, stops=("stop",)) == (["a", "", ""], 1, "stop")


def test_a_stop_string_may_name_a_control_token() -> None:
    tokenizer = byte_level()
    tokens = ids_of(tokenizer, "a", "b", "<|user|>", "a", "b")
    assert "".join(stream_text(tokenizer, tokens)[0]) == "abab"
    parts, _, stop = stream_text(tokenizer, tokens, stops=("<|user|>",))
    assert ("".join(parts), stop) == ("ab", "<|user|>")
    parts, _, stop = stream_text(tokenizer, tokens, stops=("b<|user|>a",))
    assert ("".join(parts), stop) == ("a", "b<|user|>a")
    assert parts == ["a", "", "", "", ""]
    assert stream_text(tokenizer, tokens, stops=("user",))[2] is None


def test_the_first_blank_of_a_continued_text_is_part_of_it() -> None:
    tokenizer = byte_fallback()
    prompt = tuple(ids_of(tokenizer, "▁the"))
    tokens = ids_of(tokenizer, "▁cat", "s")
    assert stream_text(tokenizer, tokens, prompt)[0] == [" cat", "s", ""]


def test_bytes_of_tokens() -> None:
    fallback = byte_fallback()
    ids = ids_of(fallback, "<0xE2>", "▁cat", "é", "<s>")
    assert [token_bytes(fallback, i) for i in ids] == [b"\xe2", b" cat", "é".encode(), b"<s>"]
    level = byte_level()
    assert [token_bytes(level, i) for i in ids_of(level, "Ġthe", "<|user|>")] == [
        b" the",
        b"<|user|>",
    ]
    assert token_bytes(level, 10_000) == b""
