"""Which attempts a run makes: each prompt of each suite, with each attack, as often as asked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accord.data.suites.read import SuiteSource, read_suites
from accord.data.suites.suite import Label, Suite, SuitePrompt
from accord.errors import SettingsError
from accord.records import turns_json
from accord.respond.attacks.attack import DIRECT, Attack, attempt_rng, parse_attack
from accord.respond.attacks.scripts import SCRIPT_FUNCTIONS, Script, single
from accord.respond.attacks.turns import Occasion
from accord.runs import digest_json
from accord.settings.redteam import RedteamSettings

OF_THE_SUITE = "suite"
"""The name of an attack that a suite has applied itself."""


@dataclass(frozen=True, slots=True)
class PlannedAttempt:
    """One attempt: `attack` on `prompt`, for the time `number`, from 0."""

    prompt: SuitePrompt
    attack: Attack
    number: int

    @property
    def attack_name(self) -> str:
        if self.prompt.attack and not self.attack.parts:
            return OF_THE_SUITE
        return self.attack.name

    @property
    def is_judged_between(self) -> bool:
        """Whether what it asks next depends on whether the last answer fulfils the request."""
        return self.attack.parts[:1] == ("pair",)

    def key(self, identity: Mapping[str, Any], settings: RedteamSettings) -> str:
        """Its name in the log: of all that its answer depends on, the text that is sent first too,
        so that another wording of an attack is another attempt."""
        values: dict[str, Any] = {
            "target": identity,
            "prompt": self.prompt.id,
            "attack": self.attack.name,
            "number": self.number,
            "first": turns_json(next(self.script(settings)).turns),
        }
        if self.attack.is_script:
            attacker = settings.attacker
            values["rounds"] = settings.rounds
            values["attacker"] = None if attacker is None else attacker.model_dump(mode="json")
            if self.is_judged_between and settings.judge is not None:
                values["judge"] = settings.judge.model_dump(mode="json")
        return digest_json(values)[:32]

    def script(self, settings: RedteamSettings) -> Script:
        """What is asked, from the start."""
        turns = self.prompt.turns
        if self.attack.is_script:
            function = SCRIPT_FUNCTIONS[self.attack.parts[0]]
            return function(turns, rounds=settings.rounds, attacker=settings.attacker is not None)
        rng = attempt_rng(settings.seed, self.prompt.id, self.attack.name, self.number)
        occasion = Occasion(rng, self.prompt.target, settings.shots)
        return single(self.attack.apply(turns, occasion))


@dataclass(frozen=True)
class RedteamPlan:
    """The suites as they are used, and the attacks."""

    suites: Sequence[Suite]
    attacks: Sequence[Attack]
    settings: RedteamSettings

    @cached_property
    def prompts(self) -> dict[str, SuitePrompt]:
        """All prompts by their id."""
        return {prompt.id: prompt for suite in self.suites for prompt in suite.prompts}

    def attempts(self) -> Iterator[PlannedAttempt]:
        """All attempts at one model. Harmless prompts are asked as they are."""
        for suite in self.suites:
            for prompt in suite.prompts:
                attacks = self.attacks if prompt.is_harmful and not prompt.attack else ()
                for attack in (Attack(()), *attacks):
                    for number in range(attack.attempts or self.settings.attempts):
                        yield PlannedAttempt(prompt, attack, number)


def make_plan(settings: RedteamSettings) -> RedteamPlan:
    """The plan, checked before any model is loaded.

    Raises SettingsError for attacks that are not known, that an endpoint can't take, or whose
    repetition gives the same again; DataError for suites that can't be read.
    """
    attacks = [parse_attack(text) for text in settings.attacks]
    by_name: dict[str, Attack] = {}
    for attack in attacks:
        if attack.name in by_name:
            raise SettingsError(f"`attacks` names {attack.name} twice. Keep one of them.")
        by_name[attack.name] = attack
    if DIRECT in by_name:
        if by_name[DIRECT].attempts is not None:
            raise SettingsError(
                "The prompts as they are have `attempts`, and no `*N` of their own."
            )
        del by_name[DIRECT]  # made in any case
    _check_prefill(by_name.values(), settings)
    _check_repeats(by_name.values(), settings)
    sources = [
        *(SuiteSource(path) for path in settings.suites),
        *(SuiteSource(path, "harmful") for path in settings.harmful),
        *(SuiteSource(path, "harmless") for path in settings.harmless),
    ]
    suites = [_draw(suite, settings) for suite in read_suites(sources)]
    return RedteamPlan(suites, list(by_name.values()), settings)


def _check_prefill(attacks: Any, settings: RedteamSettings) -> None:
    name = next((attack.name for attack in attacks if attack.prefills), None)
    unable = [t.display_name for t in settings.targets if t.base_url and not t.prefill]
    if name is not None and unable:
        raise SettingsError(
            f"The attack {name} begins the answer, which {unable[0]} at its endpoint has not been "
            f"said to continue. Where the server can (vLLM by `continue_final_message`), set "
            f"`prefill: true` for this model; else leave the attack out."
        )


def _check_repeats(attacks: Any, settings: RedteamSettings) -> None:
    if settings.temperature > 0:
        return
    for attack in (Attack(()), *attacks):
        if (attack.attempts or settings.attempts) > 1 and not attack.draws:
            raise SettingsError(
                f"At temperature=0 each of {attack.attempts or settings.attempts} attempts of "
                f"{attack.name} gives the same answer. Raise the temperature, or repeat only "
                f"attacks that draw, such as text_noise*10."
            )


def _draw(suite: Suite, settings: RedteamSettings) -> Suite:
    """At most `max_prompts` prompts of each label, at random: suites are sorted by category."""
    if settings.max_prompts is None:
        return suite
    chosen: set[str] = set()
    labels: tuple[Label, ...] = ("harmful", "harmless")
    for label in labels:
        ids = sorted(prompt.id for prompt in suite.prompts if prompt.label == label)
        rng = random.Random(f"accord redteam {settings.seed} {label}")
        chosen.update(rng.sample(ids, min(len(ids), settings.max_prompts)))
    prompts = tuple(prompt for prompt in suite.prompts if prompt.id in chosen)
    return Suite(suite.name, suite.form, prompts, suite.rows, suite.dropped)
