"""How long rows may be: what the settings say, within what the models have positions for."""

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
    """The settings with a `max_length` that the model has positions for; told where that is less
    than was set."""
    places = lm.positions
    if places is None or places >= settings.max_length:
        return settings
    log.info(
        "%s has positions for %d tokens, so max_length is %d here and not %d.",
        lm.name,
        places,
        places,
        settings.max_length,
    )
    return settings.model_copy(update={"max_length": places})


def cap_prompts_to_positions(
    settings: OnlineSettings, models: Sequence[LanguageModel | None]
) -> OnlineSettings:
    """The settings within the positions of all models that read prompts with their responses.

    Raises SettingsError where a response of `max_new_tokens` leaves no room for a prompt.
    """
    for lm in models:
        if lm is None:
            continue
        settings = cap_to_positions(settings, lm)
        if settings.max_length <= settings.max_new_tokens:
            raise SettingsError(
                f"max_new_tokens={settings.max_new_tokens} leaves no room for a prompt in the "
                f"{lm.positions} positions of {lm.name}. Lower max_new_tokens."
            )
    return settings


def check_reference_positions(reference: LanguageModel, groups: Sequence[PromptGroup]) -> None:
    """Raise SettingsError where a row is longer than a reference has positions for."""
    places = reference.positions
    longest = max((len(g.prompt) + max(map(len, g.responses)) for g in groups), default=0)
    if places is not None and longest > places:
        raise SettingsError(
            f"The reference {reference.name} has positions for {places} tokens, and the longest "
            f"row has {longest}. Set max_length={places}, or choose another reference."
        )
