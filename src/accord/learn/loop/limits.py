"""Length limits of rows: the settings' limits, capped at the positions that the models have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from accord.errors import SettingsError
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import Limits
from accord.settings.online import OnlineSettings
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

S = TypeVar("S", bound=TrainSettings)


def token_limits(settings: TrainSettings) -> Limits:
    return Limits(
        settings.max_length,
        settings.max_prompt_length,
        settings.long_prompts,
        settings.long_responses,
    )


def cap_to_positions(settings: S, lm: LanguageModel) -> S:
    """The settings with `max_length` capped at the model's positions; logged where that is less."""
    positions = lm.max_positions
    if positions is None or positions >= settings.max_length:
        return settings
    log.info(
        "%s has positions for %d tokens, so max_length is %d here and not %d.",
        lm.name,
        positions,
        positions,
        settings.max_length,
    )
    return settings.model_copy(update={"max_length": positions})


def cap_prompts_to_positions(
    settings: OnlineSettings, models: Sequence[LanguageModel | None]
) -> OnlineSettings:
    """The settings capped at the positions of every model that reads prompts with responses.

    Raises SettingsError where a response of `max_new_tokens` leaves no room for a prompt.
    """
    for lm in models:
        if lm is None:
            continue
        settings = cap_to_positions(settings, lm)
        limit = f"in the {lm.max_positions} positions of {lm.name}"
        check_room_for_prompt(settings, limit, "Lower max_new_tokens.")
    return settings


def check_room_for_prompt(settings: OnlineSettings, limit: str, remedy: str) -> None:
    """Raise SettingsError where a response of `max_new_tokens` fills all of `max_length`."""
    if settings.max_length <= settings.max_new_tokens:
        raise SettingsError(
            f"max_new_tokens={settings.max_new_tokens} leaves no room for a prompt {limit}. "
            f"{remedy}"
        )


def check_reference_positions(reference: LanguageModel, groups: Sequence[PromptGroup]) -> None:
    """Raise SettingsError where a row is longer than the reference has positions for."""
    positions = reference.max_positions
    longest = max((len(g.prompt) + max(map(len, g.responses)) for g in groups), default=0)
    if positions is not None and longest > positions:
        raise SettingsError(
            f"The reference {reference.name} has positions for {positions} tokens, and the longest "
            f"row has {longest}. Set max_length={positions}, or choose another reference."
        )
