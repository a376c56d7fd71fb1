"""The bytes that a token stands for: a character may be spread over several tokens."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_kinds: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes of a token within a text: of `é` in two byte-level tokens each has one byte.

    A special token's are its name's. A token without a name has none.
    """
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None:
        return b""
    if token in tokenizer.added_tokens_decoder:
        return str(name).encode("utf-8", "replace")
    if is_byte_token(name):
        return bytes.fromhex(name[3:5])
    if _is_byte_level(tokenizer):
        table = _byte_of_character()
        if all(char in table for char in name):
            return bytes(table[char] for char in name)
    return str(name).replace("▁", " ").encode("utf-8", "replace")


def is_byte_token(name: str | None) -> bool:
    """Whether a token's name is that of a single byte, such as `<0x0A>`."""
    return name is not None and _BYTE.match(name) is not None


def _is_byte_level(tokenizer: Any) -> bool:
    kind = _kinds.get(tokenizer)
    if kind is None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = {} if backend is None else json.loads(backend.to_str()).get("decoder") or {}
        kind = "bytes" if "ByteLevel" in json.dumps(decoder) else "text"
        _kinds[tokenizer] = kind
    return kind == "bytes"


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level token's name stands for (Radford et al. 2019).

    Printable bytes are characters themselves; the others are, in order, those from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}
