"""The table of attacks, and attacks composed of several: `base64+prefix_injection`.

The parts of a composed attack are applied from left to right, each to what the one before it made.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from accord.errors import SettingsError
from accord.respond.attacks.encodings import (
    encode_base64,
    encode_hex,
    encode_leetspeak,
    encode_rot13,
    split_payload,
)
from accord.respond.attacks.noise import text_noise
from accord.respond.attacks.shots import few_shot, many_shot
from accord.respond.attacks.turns import Occasion, Transform, Turns
from accord.respond.attacks.wording import (
    hypothetical,
    ignore_previous,
    past_tense,
    prefill,
    prefix_injection,
    refusal_suppression,
    role_play,
    system_cautious,
    system_developer,
    system_permissive,
)

DIRECT = "direct"
"""The request as the suite has it."""

TRANSFORMS: Mapping[str, Transform] = {
    "ignore_previous": ignore_previous,
    "role_play": role_play,
    "prefix_injection": prefix_injection,
    "prefill": prefill,
    "refusal_suppression": refusal_suppression,
    "base64": encode_base64,
    "hex": encode_hex,
    "rot13": encode_rot13,
    "leetspeak": encode_leetspeak,
    "payload_splitting": split_payload,
    "past_tense": past_tense,
    "hypothetical": hypothetical,
    "few_shot": few_shot,
    "many_shot": many_shot,
    "system_permissive": system_permissive,
    "system_developer": system_developer,
    "system_cautious": system_cautious,
    "text_noise": text_noise,
}
DRAWN = frozenset({"few_shot", "many_shot", "text_noise"})
"""Transforms that draw: another attempt is another text."""

SCRIPTS = ("crescendo", "pair")
"""Attacks of several turns, which compose with nothing."""

_SPELLED = re.compile(r"(?P<parts>[^*]+?)(?:\s*\*\s*(?P<attempts>\d+))?")


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack by its parts; `attempts` is its own number of attempts at each prompt, None for
    the number that all have."""

    parts: tuple[str, ...]
    attempts: int | None = None

    @property
    def name(self) -> str:
        """Such as `base64+prefix_injection`; `direct` has no part."""
        return "+".join(self.parts) or DIRECT

    @property
    def is_script(self) -> bool:
        """Whether it has several turns."""
        return self.parts[:1] in [(script,) for script in SCRIPTS]

    @property
    def prefills(self) -> bool:
        """Whether it begins the answer."""
        return "prefill" in self.parts

    @property
    def draws(self) -> bool:
        """Whether another attempt is another text."""
        return not DRAWN.isdisjoint(self.parts)

    def apply(self, turns: Turns, occasion: Occasion) -> Turns:
        """The conversation that is sent, of an attack of one turn."""
        for part in self.parts:
            turns = TRANSFORMS[part](turns, occasion)
        return turns


def parse_attack(text: str) -> Attack:
    """The attack that a text names: `NAME`, `NAME+NAME`, and with `*N` its attempts.

    Raises SettingsError for a name that is not known, with the nearest, and for a script within a
    composed attack.
    """
    match = _SPELLED.fullmatch(text.strip())
    parts = [] if match is None else [part.strip() for part in match["parts"].split("+")]
    known = [*TRANSFORMS, *SCRIPTS, DIRECT]
    unknown = [part for part in parts if part not in known]
    if not parts or unknown:
        name = unknown[0] if unknown else text
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SettingsError(
            f"There is no attack {name!r}.{hint} The attacks are {', '.join(known)}; `+` composes "
            "them, and `*10` behind them makes ten attempts."
        )
    script = next((part for part in parts if part in SCRIPTS), None)
    if script is not None and len(parts) > 1:
        raise SettingsError(
            f"{text!r} composes {script}, whose turns are written one by one, with other attacks. "
            "Name it alone."
        )
    assert match is not None
    attempts = None if match["attempts"] is None else int(match["attempts"])
    if attempts == 0:
        raise SettingsError(f"{text!r} makes no attempt. Give a number of at least 1.")
    return Attack(tuple(part for part in parts if part != DIRECT), attempts)


def attempt_rng(seed: int, *key: object) -> random.Random:
    """The generator of one attempt, by the seed and what names the attempt."""
    return random.Random(" ".join(map(str, ("accord redteam", seed, *key))))
