"""Reward models: what length explains, ensembles of heads, and their losses by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from accord.compare.rewards.models import model_reward
from accord.errors import DataError, SettingsError
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reward import bootstrap, eval_settings, fit_settings, reward
from accord.learn.offline.train import train_offline
from accord.learn.online.train import train_online
from accord.lm.forward import check_packing, response_head_scores, response_scores
from accord.lm.heads import reduce_to_first_head
from accord.lm.load import load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.records import prompt_from_json
from accord.settings.ppo import PpoSettings
from accord.settings.reading.load import build
from accord.settings.training import RewardSettings
from tests.lm.models import VOCABULARY, scalar
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

NAMES = {"model": "toy", "dataset": "toy", "output_dir": "nowhere"}
GROUPS = random_groups([(4, (1, 9)), (2, (13, 2)), (7, (5, 5, 3)), (1, (8, 1))], VOCABULARY)


class NoTokenizer:
    eos_token_id = 2


def pair(longer_by: int) -> PromptGroup:
    return PromptGroup((1,), ((5,) * (20 + longer_by), (5,) * 20), (0, 1))


def test_the_slope_of_equal_steps_has_a_closed_form() -> None:
    # The chosen is 4 tokens longer in 3 of 4 pairs and 4 shorter in one: σ(4α) = ¾, α = log(3)/4.
    groups = [pair(4)] * 3 + [pair(-4)] + [pair(0)] * 5  # equal lengths say nothing
    assert length_slope(groups) == pytest.approx(math.log(3) / 4, rel=1e-8)
    assert length_slope([pair(4), pair(-4)]) == pytest.approx(0.0, abs=1e-12)
    assert length_slope([pair(0)]) == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_slope_is_the_maximum_of_the_likelihood(seed: int) -> None:
    rng = random.Random(seed)
    differences = [rng.randint(-30, 40) for _ in range(50)] + [500, -3]  # and one far out
    found = length_slope([pair(d) if d > -20 else pair(-19) for d in differences])
    clipped = [max(d, -19) for d in differences]
    best = minimize_scalar(
        lambda a: sum(math.log1p(math.exp(-a * d)) for d in clipped),
        bounds=(-1, 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(best.x, abs=1e-6)


def test_a_ranking_weighs_as_much_as_a_pair() -> None:
    # Three responses of lengths 3, 2, 1 from best to worst: differences 1, 2, 1 of weight ⅓ each,
    # beside one pair of difference −1. The slope solves ⅔σ(−α) + ⅔σ(−2α) = σ(α).
    ranking = PromptGroup((1,), ((5,) * 3, (5,) * 2, (5,)), (0, 1, 2))
    slope = length_slope([ranking, pair(-1)])

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert 2 / 3 * sigma(-slope) + 2 / 3 * sigma(-2 * slope) == pytest.approx(sigma(slope))


@pytest.mark.parametrize(("sign", "word"), [(1, "longer"), (-1, "shorter")])
def test_no_slope_where_length_explains_all(sign: int, word: str) -> None:
    with pytest.raises(DataError, match=f"the {word} response wins, so its length alone"):
        length_slope([pair(sign * 3), pair(0), pair(sign)])


def ensemble(heads: int) -> LanguageModel:
    lm = LanguageModel(scalar("llama", heads=heads), NoTokenizer(), "toy", scalar=True)
    assert check_packing(lm)
    assert lm.heads == heads
    return lm


def own_scores(model: Any, group: PromptGroup) -> Tensor:
    """A group's scores (K, heads) as transformers gives them, one unpadded row at a time."""
    rows = [torch.tensor([[*group.prompt, *r]]) for r in group.responses]
    return torch.cat([model(input_ids=row).logits for row in rows])


def found_losses(settings: RewardSettings, lm: LanguageModel, groups: Sequence[PromptGroup]) -> Any:
    objective = reward(lm, settings, groups, lambda rows: pytest.fail("it has no reference"))
    return objective.losses(pack(groups), range(len(groups)), None, log=True)


def test_what_length_explains_is_taken_out_of_pairs() -> None:
    # −log σ(r_c − r_r − margin + λ·α̂·(len_c − len_r)), a ranking the mean of its pairs.
    groups = [replace(GROUPS[0], margin=0.3), *GROUPS[1:]]
    settings = RewardSettings(**NAMES, length_regularisation=0.5, length_slope=0.2)
    losses = found_losses(settings, ensemble(1), groups)
    model, expected = scalar("llama"), []
    for group in groups:
        scores = own_scores(model, group)[:, 0]
        lengths = [len(r) for r in group.responses]
        values = [
            -logsigmoid(
                scores[i] - scores[j] - (group.margin or 0) + 0.1 * (lengths[i] - lengths[j])
            )
            for i in range(len(lengths))
            for j in range(i + 1, len(lengths))
        ]
        expected.append(sum(values) / len(values))
    total = float(torch.stack(expected).sum().detach())
    assert float(losses.weighted_sum().detach()) == pytest.approx(total, rel=1e-4)
    assert float(losses.weights.sum()) == pytest.approx(4)
    # The numbers that are told are the scores' own.
    plain = found_losses(RewardSettings(**NAMES), ensemble(1), groups)
    assert losses.metrics == plain.metrics
    assert losses.metrics["lengths/chosen"][0] == pytest.approx(1 + 13 + 5 + 8)


def test_what_length_explains_is_taken_out_of_plackett_luce() -> None:
    settings = RewardSettings(
        **NAMES, ranking_loss="plackett_luce", length_regularisation=1.0, length_slope=-0.3
    )
    losses = found_losses(settings, ensemble(1), GROUPS)
    model = scalar("llama")
    for value, group in zip(losses.values.tolist(), GROUPS, strict=True):
        lengths = torch.tensor([float(len(r)) for r in group.responses])
        scores = own_scores(model, group)[:, 0].detach() - 0.3 * lengths
        expected = sum(scores[k:].logsumexp(0) - scores[k] for k in range(len(scores)))
        assert value == pytest.approx(float(expected), rel=1e-4)


def test_the_slope_is_fitted_once_to_the_training_rows(caplog: pytest.LogCaptureFixture) -> None:
    groups = [pair(4)] * 3 + [pair(-4)]
    with caplog.at_level("INFO"):
        found = fit_settings(RewardSettings(**NAMES, length_regularisation=0.5), groups)
    assert found.length_slope == pytest.approx(math.log(3) / 4)
    assert "each token adds 0.2747 to the log-odds of winning; 0.5 of that" in caplog.text
    given = RewardSettings(**NAMES, length_regularisation=0.5, length_slope=0.1)
    assert fit_settings(given, groups) == given
    assert fit_settings(RewardSettings(**NAMES), groups).length_slope is None


def test_bootstrap_draws() -> None:
    draws = bootstrap(4000, 3, seed=5)
    assert draws.sum(0).tolist() == [4000] * 3
    # Left out with probability (1 − 1/n)^n → 1/e; five standard deviations.
    left_out = (draws == 0).float().mean(0)
    assert ((left_out - math.exp(-1)).abs() < 5 * (0.233 / 4000) ** 0.5).all()
    assert not torch.equal(draws[:, 0], draws[:, 1])
    assert torch.equal(bootstrap(4000, 2, seed=5), draws[:, :2])
    assert not torch.equal(bootstrap(4000, 3, seed=6), draws)
    assert bootstrap(0, 2, seed=0).shape == (0, 2)


@pytest.mark.parametrize("ranking_loss", ["pairs", "plackett_luce"])
def test_heads_learn_each_from_its_own_draw(ranking_loss: Any) -> None:
    settings = RewardSettings(**NAMES, ranking_loss=ranking_loss, heads=3, seed=1)
    losses = found_losses(settings, ensemble(3), GROUPS)
    model, draws = scalar("llama", heads=3), bootstrap(4, 3, seed=1)
    total, whole, spread = 0.0, 0.0, 0.0
    assert not (draws == 1).all()
    for group, own in zip(GROUPS, draws, strict=True):
        scores = own_scores(model, group).detach()
        k = len(scores)
        pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
        margins = torch.stack([scores[i] - scores[j] for i, j in pairs])  # (pairs, heads)
        values = -logsigmoid(margins).mean(0)
        if ranking_loss == "plackett_luce":
            values = sum(scores[i:].logsumexp(0) - scores[i] for i in range(k))  # type: ignore[assignment]
        total += float((own * values).mean())
        whole += float(values.mean())
        # The population's standard deviation over heads, of each margin.
        spread += float(margins.std(1, correction=0).mean())
    assert float(losses.weighted_sum().detach()) == pytest.approx(total, rel=1e-4)
    assert losses.metrics["rewards/std"][0] == pytest.approx(spread, rel=1e-4)
    # Held-out rows count once for each head.
    plain = found_losses(eval_settings(settings), ensemble(3), GROUPS)
    assert float(plain.weighted_sum().detach()) == pytest.approx(whole, rel=1e-4)


def test_the_combined_score_by_hand() -> None:
    # Centred by the means (1, −1): (0, 4) and (2, 2); mean less half the deviation: 2 − 1, 2 − 0.
    lm = ensemble(2)
    lm.head_means, lm.score_penalty = (1.0, -1.0), 0.5
    assert lm.combine_heads(torch.tensor([[1.0, 3.0], [3.0, 1.0]])).tolist() == [1.0, 2.0]
    single = ensemble(1)
    single.score_penalty = 7.0
    assert single.combine_heads(torch.tensor([[1.0], [3.0]])).tolist() == [1.0, 3.0]


@torch.no_grad()
def test_the_first_head_alone_makes_a_critic() -> None:
    lm = ensemble(3)
    lm.head_means, lm.score_penalty, lm.score_mean, lm.score_std = (0.1, 0.2, 0.3), 1.0, -4.0, 2.0
    expected = response_head_scores(lm, pack(GROUPS))[:, 0]
    reduce_to_first_head(lm)
    assert lm.heads == 1
    torch.testing.assert_close(response_scores(lm, pack(GROUPS)), expected)
    assert (lm.head_means, lm.score_penalty, lm.score_mean, lm.score_std) == ((), 0, 0.1, 2.0)


def write_pairs(place: Path, n: int = 6) -> str:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"the {i}"}],
            "chosen": "yes" + " it is" * (i % 3),
            "rejected": "no" + " sea" * (i % 2),
        }
        for i in range(n)
    ]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


def settings_for(folder: Path, **more: Any) -> RewardSettings:
    return RewardSettings(
        **{
            "model": save_toy(folder / "toy"),
            "dataset": write_pairs(folder / "pairs.jsonl"),
            "output_dir": str(folder / "rm"),
            "max_steps": 2,
            "learning_rate": 1e-3,
            "max_length": 64,
            "device": "cpu",
            **more,
        }
    )


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_an_ensemble_from_training_to_ppo(tmp_path: Path, lora: dict[str, int] | None) -> None:
    settings = settings_for(
        tmp_path,
        heads=3,
        ensemble_penalty=0.5,
        length_regularisation=0.5,
        length_slope=0.25,
        lora=lora,
        eval_dataset=write_pairs(tmp_path / "held.jsonl", 3),
    )
    results = list(train_offline("reward", settings))
    assert all(r.metrics["rewards/std"] > 0 for r in results)
    assert results[-1].metrics["eval/rewards/std"] > 0
    model = tmp_path / "rm" / "model"
    numbers = json.loads((model / "reward.json").read_text())
    assert (numbers["heads"], numbers["ensemble_penalty"], numbers["length_slope"]) == (
        3,
        0.5,
        0.25,
    )
    lm = load_scalar(str(model))
    assert lm.heads == 3
    assert lm.head_means == tuple(numbers["head_means"])
    assert len({round(m, 6) for m in lm.head_means}) == 3

    # The score: the mean of the centred heads less half their deviation, normalised.
    records = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    groups = []
    tokenizer = toy_tokenizer()
    for row in records:
        shown = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (shown, row["chosen"])]
        groups.append(PromptGroup(tuple(ids[0]), ((*ids[1], 2),)))
    with torch.no_grad():
        heads = response_head_scores(lm, pack(groups)) - torch.tensor(lm.head_means)
        if lora is None:
            plain = AutoModelForSequenceClassification.from_pretrained(model).eval()
            raw = torch.cat([own_scores(plain, g) for g in groups])
            torch.testing.assert_close(raw - torch.tensor(lm.head_means), heads, atol=1e-4, rtol=0)
    expected = heads.mean(1) - 0.5 * heads.std(1, correction=0)
    expected = (expected - lm.score_mean) / lm.score_std
    prompts = [[*row["prompt"]] for row in records]
    texts = [row["chosen"] for row in records]
    found = model_reward(lm)([prompt_from_json(p) for p in prompts], texts)
    assert found == pytest.approx(expected.tolist(), abs=1e-4)

    prompts_file = tmp_path / "prompts.jsonl"
    prompts_file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts[:4]))
    ppo = PpoSettings(
        model=str(tmp_path / "toy"),
        reward_model=str(model),
        dataset=str(prompts_file),
        output_dir=str(tmp_path / "ppo"),
        max_steps=1,
        per_device_train_batch_size=4,
        num_ppo_epochs=1,
        max_new_tokens=4,
        max_length=64,
        device="cpu",
        lora=lora,
    )
    (step,) = train_online("ppo", ppo)
    assert math.isfinite(step.metrics["loss"])


def test_all_scores_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, heads=2, ensemble_penalty=1.0)
    list(train_offline("reward", settings))
    lm = load_scalar(str(tmp_path / "rm" / "model"))
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    prompts = [prompt_from_json(row["prompt"]) for row in rows] * 2
    texts = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
    scores = torch.tensor(model_reward(lm)(prompts, texts))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-4)


def test_an_ensemble_goes_on_with_as_many_heads(tmp_path: Path) -> None:
    list(train_offline("reward", settings_for(tmp_path, heads=2, max_steps=1)))
    trained = str(tmp_path / "rm" / "model")
    weights = load_scalar(trained).inner.score.weight
    assert torch.equal(load_scalar(trained, heads=2, seed=9).inner.score.weight, weights)
    with pytest.raises(SettingsError, match="with heads=2, and heads=1 was asked for"):
        load_scalar(trained, heads=1)
    single = settings_for(tmp_path, output_dir=str(tmp_path / "one"), max_steps=1)
    list(train_offline("reward", single))
    with pytest.raises(SettingsError, match=r"Set heads=1 to train it further"):
        load_scalar(str(tmp_path / "one" / "model"), heads=2)


def test_heads_begin_apart(tmp_path: Path) -> None:
    place = save_toy(tmp_path / "toy")
    weight = load_scalar(place, heads=3, seed=4).inner.score.weight
    assert weight.shape[0] == 3
    assert len({round(float(row[0]), 6) for row in weight}) == 3
    assert torch.equal(load_scalar(place, heads=3, seed=4).inner.score.weight, weight)


def test_settings_that_would_do_nothing_are_refused() -> None:
    for more, message in (
        (
            {"ranking_loss": "plackett_luce", "center_rewards_coefficient": 0.1},
            "`center_rewards_coefficient` centres pairs",
        ),
        ({"length_slope": 0.1}, "`length_slope` does nothing without `length_regularisation`"),
        ({"ensemble_penalty": 0.5}, "`ensemble_penalty` needs heads that can disagree"),
    ):
        with pytest.raises(SettingsError, match=message):
            build(RewardSettings, {**NAMES, **more}, where="train reward")


def test_margins_have_no_place_in_plackett_luce() -> None:
    groups = [*GROUPS[:2], replace(GROUPS[3], margin=0.5)]
    settings = RewardSettings(**NAMES, ranking_loss="plackett_luce")
    with pytest.raises(SettingsError, match="has a margin, and ranking_loss=plackett_luce"):
        reward(ensemble(1), settings, groups, lambda rows: pytest.fail("no reference"))
    assert METHODS["reward"].fit_settings is fit_settings


def test_a_score_without_what_length_explains(tmp_path: Path) -> None:
    # The longer of two answers of chance words wins in three of four pairs: log-odds of log 3 for
    # 8 words more, which the score learns, or leaves to the regularisation.
    rng = random.Random(0)
    words = "cat dog sea house door mat".split()

    def answer(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    rows: list[dict[str, Any]] = []
    for i in range(96):
        longer, shorter = answer(10), answer(2)
        chosen, rejected = (longer, shorter) if i % 4 else (shorter, longer)
        prompt = [{"role": "user", "content": answer(2)}]
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [prompt_from_json(row["prompt"]) for row in rows[:32]]
    answers = [answer(10) for _ in prompts], [answer(2) for _ in prompts]
    gains = {}
    for share in (0.0, 1.0):
        settings = settings_for(
            tmp_path,
            dataset=str(data),
            output_dir=str(tmp_path / str(share)),
            length_regularisation=share,
            max_steps=24,
            per_device_train_batch_size=16,
            max_length=128,
        )
        list(train_offline("reward", settings))
        lm = load_scalar(str(tmp_path / str(share) / "model"))
        long, short = (sum(model_reward(lm)(prompts, texts)) / 32 for texts in answers)
        gains[share] = (long - short) * lm.score_std
    assert gains[0.0] == pytest.approx(math.log(3), abs=0.5)
    assert abs(gains[1.0]) < 0.5 * gains[0.0]
