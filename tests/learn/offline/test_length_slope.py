"""What length explains of the preferences: the slope, and scores without it."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from scipy.optimize import minimize_scalar

from accord.compare.rewards.models import model_reward
from accord.errors import DataError
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reward import fit_settings
from accord.learn.offline.train import train_offline
from accord.lm.load import load_scalar
from accord.lm.packing import PromptGroup
from accord.records import prompt_from_json
from accord.settings.training import RewardSettings
from tests.learn.toys.files import user_says, write_jsonl
from tests.learn.toys.settings import REQUIRED
from tests.lm.toys import save_toy


def pair(chosen_longer_by: int) -> PromptGroup:
    return PromptGroup((1,), ((5,) * (20 + chosen_longer_by), (5,) * 20), (0, 1))


def test_the_slope_of_equal_differences_has_a_closed_form() -> None:
    # The chosen is 4 tokens longer in 3 of 4 pairs and 4 shorter in one: σ(4α) = ¾, α = log(3)/4.
    groups = [pair(4)] * 3 + [pair(-4)] + [pair(0)] * 5  # equal lengths say nothing
    assert length_slope(groups) == pytest.approx(math.log(3) / 4, rel=1e-8)
    assert length_slope([pair(4), pair(-4)]) == pytest.approx(0.0, abs=1e-12)
    assert length_slope([pair(0)]) == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_slope_is_the_maximum_of_the_likelihood(seed: int) -> None:
    rng = random.Random(seed)
    differences = [rng.randint(-30, 40) for _ in range(50)] + [500, -3]  # with one outlier
    differences = [max(difference, -19) for difference in differences]
    optimum = minimize_scalar(
        lambda a: sum(math.log1p(math.exp(-a * d)) for d in differences),
        bounds=(-1, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert length_slope([pair(d) for d in differences]) == pytest.approx(optimum.x, abs=1e-6)


def test_a_ranking_weighs_as_much_as_a_pair() -> None:
    # Three responses of lengths 3, 2, 1 from best to worst: differences 1, 2, 1 of weight ⅓ each,
    # beside one pair of difference −1. The slope solves ⅔σ(−α) + ⅔σ(−2α) = σ(α).
    ranking = PromptGroup((1,), ((5,) * 3, (5,) * 2, (5,)), (0, 1, 2))
    slope = length_slope([ranking, pair(-1)])

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert 2 / 3 * sigma(-slope) + 2 / 3 * sigma(-2 * slope) == pytest.approx(sigma(slope))


@pytest.mark.parametrize(("sign", "word"), [(1, "longer"), (-1, "shorter")])
def test_there_is_no_slope_where_length_explains_every_pair(sign: int, word: str) -> None:
    with pytest.raises(DataError, match=f"the {word} response wins, so its length alone"):
        length_slope([pair(sign * 3), pair(0), pair(sign)])


def test_the_slope_is_fitted_to_the_training_rows_unless_it_is_set(
    caplog: pytest.LogCaptureFixture,
) -> None:
    groups = [pair(4)] * 3 + [pair(-4)]
    assert METHODS["reward"].fit_settings is fit_settings
    with caplog.at_level("INFO"):
        fitted = fit_settings(RewardSettings(**REQUIRED, length_regularisation=0.5), groups)
    assert fitted.length_slope == pytest.approx(math.log(3) / 4)
    assert "each token adds 0.2747 to the log-odds of winning; 0.5 of that" in caplog.text
    with_slope = RewardSettings(**REQUIRED, length_regularisation=0.5, length_slope=0.1)
    assert fit_settings(with_slope, groups) == with_slope
    assert fit_settings(RewardSettings(**REQUIRED), groups).length_slope is None


def test_a_regularised_score_does_not_learn_what_length_explains(tmp_path: Path) -> None:
    # The longer of two answers of random words wins in three of four pairs: log-odds of log 3 for
    # 8 more words, which the score learns, or leaves to the regularisation.
    rng = random.Random(0)
    words = "cat dog sea house door mat".split()

    def answer(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    rows: list[dict[str, Any]] = []
    for i in range(96):
        longer, shorter = answer(10), answer(2)
        chosen, rejected = (longer, shorter) if i % 4 else (shorter, longer)
        rows.append({"prompt": user_says(answer(2)), "chosen": chosen, "rejected": rejected})
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    model = save_toy(tmp_path / "toy")
    prompts = [prompt_from_json(row["prompt"]) for row in rows[:32]]
    long_answers, short_answers = [answer(10) for _ in prompts], [answer(2) for _ in prompts]
    gains = {}
    for regularisation in (0.0, 1.0):
        output = tmp_path / str(regularisation)
        settings = RewardSettings(
            model=model,
            dataset=data,
            output_dir=str(output),
            length_regularisation=regularisation,
            max_steps=24,
            learning_rate=1e-3,
            per_device_train_batch_size=16,
            max_length=128,
            device="cpu",
        )
        list(train_offline("reward", settings))
        lm = load_scalar(str(output / "model"))
        long, short = (
            sum(model_reward(lm)(prompts, texts)) / 32 for texts in (long_answers, short_answers)
        )
        gains[regularisation] = (long - short) * lm.score_std
    assert gains[0.0] == pytest.approx(math.log(3), abs=0.5)
    assert abs(gains[1.0]) < 0.5 * gains[0.0]
