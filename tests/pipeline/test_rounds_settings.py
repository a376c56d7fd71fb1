"""The settings of each round's stages (prompts, stop strings, seeds), and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from accord.errors import SettingsError
from accord.pipeline.stages.rounds import plan_rounds, prompts_of_round
from accord.records import PromptOnly
from accord.settings.iterate import IterateSettings
from accord.settings.recipe import single_stage


def test_every_prompt_is_used_before_one_is_used_again() -> None:
    records = [PromptOnly(str(i)) for i in range(7)]

    def prompts(number: int, seed: int = 0) -> list[Any]:
        return [r.prompt for r in prompts_of_round(records, 3, number, seed)]  # type: ignore[union-attr]

    rounds = [prompts(number) for number in range(1, 15)]
    assert all(len(set(chosen)) == 3 for chosen in rounds)
    flat = [prompt for chosen in rounds for prompt in chosen]
    assert Counter(flat) == dict.fromkeys(map(str, range(7)), 6)  # 14 · 3 = 6 · 7
    for n in range(1, 14):  # after n rounds, no prompt was used twice more than another
        uses = Counter(flat[: 3 * n])
        counts = [uses[str(i)] for i in range(7)]
        assert max(counts) - min(counts) <= 1
    assert prompts(1, seed=1) != rounds[0]


def test_all_sampling_stages_have_the_stop_strings() -> None:
    settings = IterateSettings(model="m", dataset="d", output_dir="o", stop=["\n\n"])
    stops = [
        stage.settings.stop  # type: ignore[attr-defined]
        for round_ in plan_rounds(settings)
        for stage in round_.stages
        if stage.kind == "sample"
    ]
    assert stops == [["\n\n"]] * 7  # two a round, and the first model's answers


def test_seeds_differ_from_round_to_round_and_by_seed() -> None:
    def seeds(seed: int) -> list[int]:
        settings = IterateSettings(model="m", dataset="d", output_dir="o", rounds=3, seed=seed)
        return [
            stage.settings.seed  # type: ignore[attr-defined]
            for round_ in plan_rounds(settings)
            for stage in round_.stages
            if stage.kind != "evaluate" and "answers" not in stage.name
        ]

    drawn = seeds(0) + seeds(1)
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.method=dop"], r"no method 'dop' for a round\. Did you mean `dpo`\?"),
        (["train.method=ppo"], "no method 'ppo' for a round"),
        (["train.learning_rat=1"], r"`train\.learning_rat` is not a key .*`learning_rate`"),
        (["train.method=simpo", "train.gamma=-1"], r"`train\.gamma` must be .* at least 0"),
        (["train.ref_model=x"], "`ref_model` can't be set here: `reference` says"),
        (["train.dataset=x"], "`dataset` can't be set here: each round trains on its own"),
        (["train.method=simpo", "reference=moving"], "does nothing with `simpo`"),
        (["train.method=rejection_sampling", "form=pairs"], "does not say which response is the"),
        (["form=labels"], r"Use `train\.method=kto`"),
        (["num_responses=1"], "`num_responses` must be a whole number at least 2"),
        (["temperature=0"], "`temperature` must be a number greater than 0"),
    ],
)
def test_errors_of_settings_name_the_remedy(overrides: list[str], message: str) -> None:
    required = ["model=m", "dataset=d", "output_dir=o"]
    with pytest.raises(SettingsError, match=message):
        single_stage("iterate", overrides=[*required, *overrides])
