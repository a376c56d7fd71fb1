"""A request's prompt as token ids, by the same code that encodes prompts for sampling."""

from __future__ import annotations

from typing import cast

from accord.lm.model import LanguageModel
from accord.lm.tokens.encode import UNLIMITED
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.render_turns import render_turns, unwritten_fields
from accord.lm.tokens.template import (
    encode_prompt,
    ends_with_assistant,
    refuse_control_tokens,
    render_prompt,
    tokenize_text,
)
from accord.records import Prompt, prompt_context, turns_json
from accord.serve.engine import EngineRequest
from accord.serve.messages import check_template_variables


def encode_request(request: EngineRequest, lm: LanguageModel) -> tuple[int, ...]:
    """Token ids of the prompt; a conversation is rendered as `apply_chat_template` renders it.

    Raises ApiError for a template variable that can't be set; UnusableRow for what can't be
    rendered, for text that spells a control token, and for a field that the template does not
    write; DataError where there is no chat template; ModelError for a token that the model has no
    embedding for.
    """
    prompt = request.prompt
    if request.is_ids:
        ids = cast(tuple[int, ...], prompt)
    else:
        ids = _encode_text_or_turns(cast(Prompt, prompt), request.continues, lm)
    if not ids:
        raise UnusableRow("it has no tokens")
    check_token_ids(lm, [ids])
    return ids


def _encode_text_or_turns(prompt: Prompt, continues: bool, lm: LanguageModel) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return encode_prompt(prompt, lm.tokenizer)
    turns = prompt
    check_template_variables(prompt_context(turns), lm.tokenizer)
    refuse_control_tokens(turns, (), lm.tokenizer)
    if continues or not ends_with_assistant(turns):
        text = render_prompt(turns, lm.tokenizer)
    else:
        context = prompt_context(turns)
        text = render_turns(lm.tokenizer, turns_json(turns), context, generation_prompt=True)
    unwritten = [f for f in unwritten_fields(turns, lm.tokenizer) if f not in prompt_context(turns)]
    if unwritten:
        raise UnusableRow(f"the chat template does not write the field {unwritten[0]!r}")
    return tuple(tokenize_text(lm.tokenizer, text))


def response_room(max_length: int | None, prompt_tokens: int) -> int:
    """The tokens that a response may have behind a prompt."""
    return (UNLIMITED if max_length is None else max_length) - prompt_tokens
