"""From sampled tokens to a response's text."""

from __future__ import annotations

from typing import Any

from accord.respond.protocol import Sample
from accord.respond.stops import truncate_at_stop


def response_text(sample: Sample, tokenizer: Any) -> str:
    """A response as text, without its EOS or stop string; blanks at its ends are not stripped."""
    ends_with_eos = sample.finished and sample.stop is None
    tokens = sample.tokens[:-1] if ends_with_eos else sample.tokens
    return truncate_at_stop(str(tokenizer.decode(tokens, skip_special_tokens=True)), sample.stop)
