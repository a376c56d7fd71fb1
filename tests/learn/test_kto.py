"""KTO: labels from ratings and pairs, weights, the reference point z₀, and what is learned."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.learn.loop.fit import fit
from accord.learn.loop.learner import Learner
from accord.learn.loop.optimiser import adamw
from accord.learn.loop.processes import Processes
from accord.learn.loop.schedule import RowOrder, make_schedule
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.kto import balance_weights, kto
from accord.learn.offline.methods import METHODS
from accord.learn.offline.mismatched import (
    append_mismatched,
    log_probs_and_mismatched_ratios,
    mismatched_groups,
)
from accord.learn.offline.reference import compute_log_probs, stored_log_probs
from accord.learn.offline.train import train_offline
from accord.lm.forward import check_packing, response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.settings.preferences import KtoSettings
from tests.learn.one_token import PROMPTS, make_world
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups, save_toy

NAMES = {"model": "toy", "dataset": "toy", "output_dir": "nowhere"}


class NoTokenizer:
    eos_token_id = 2


def language_model(seed: int) -> LanguageModel:
    lm = LanguageModel(causal("llama", seed=seed), NoTokenizer(), "toy")
    assert check_packing(lm)
    return lm


def labelled(*labels: bool, seed: int = 0) -> list[PromptGroup]:
    """Rows of one response each, all with prompts of their own."""
    shapes = [(3 + i % 4, (2 + 3 * i % 7,)) for i in range(len(labels))]
    rows = random_groups(shapes, VOCABULARY, seed)
    return [replace(g, labels=(label,)) for g, label in zip(rows, labels, strict=True)]


def own_logp(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """A response's log-prob from the model's logits, one unpadded row."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(1, torch.tensor(response)[:, None]).sum()


@pytest.mark.parametrize(
    ("given", "labels", "expected"),
    [
        # 1 desirable to 3 that are not: 3·1 = 1·3.
        ({}, (True, False, False, False), (3.0, 1.0)),
        ({}, (True, True, True, False, False), (1.0, 1.5)),
        ({}, (True, False), (1.0, 1.0)),
        # One is given: 2·1 = λ·4, λ·3 = 1.2·2.
        ({"desirable_weight": 2.0}, (True, False, False, False, False), (2.0, 0.5)),
        ({"undesirable_weight": 1.2}, (True, True, True, False, False), (0.8, 1.2)),
        ({"desirable_weight": 5.0, "undesirable_weight": 7.0}, (True, False, False), (5.0, 7.0)),
        ({}, (), (1.0, 1.0)),
    ],
)
def test_the_rarer_kind_weighs_more(
    given: dict[str, float], labels: tuple[bool, ...], expected: tuple[float, float]
) -> None:
    settings = balance_weights(KtoSettings(**NAMES, **given), labelled(*labels))
    assert (settings.desirable_weight, settings.undesirable_weight) == pytest.approx(expected)


def test_a_pair_counts_on_both_sides() -> None:
    pair = replace(random_groups([(3, (2, 4))], VOCABULARY)[0], labels=(True, False))
    settings = balance_weights(KtoSettings(**NAMES), [pair, *labelled(False, False)])
    assert (settings.desirable_weight, settings.undesirable_weight) == (3.0, 1.0)


def test_labels_of_one_kind_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings = balance_weights(KtoSettings(**NAMES, desirable_from=0.25), labelled(True, True))
    assert (settings.desirable_weight, settings.undesirable_weight) == (1.0, 1.0)
    assert "All 2 responses are desirable" in caplog.text
    assert "set desirable_from (now 0.25)" in caplog.text


def test_every_prompt_gets_a_response_to_another_one() -> None:
    groups = labelled(*(True, False) * 5)
    groups[3] = replace(groups[3], prompt=groups[2].prompt)
    groups[4] = replace(groups[4], prompt=groups[2].prompt)
    asked = {
        r: {g.prompt for g in groups if g.responses[0] == r}
        for (r,) in (g.responses for g in groups)
    }
    shifts = set()
    for seed in range(20):
        settings = KtoSettings(**NAMES, seed=seed)
        found = mismatched_groups(groups, settings)
        assert [g.prompt for g in found] == [g.prompt for g in groups]
        for group in found:
            assert group.prompt not in asked[group.responses[0]]
        assert found == mismatched_groups(groups, settings)
        shifts.add(found[0].responses)
    assert len(shifts) > 3  # the seed decides


def test_among_several_responses_the_seed_chooses() -> None:
    groups = [
        replace(g, labels=(True, False)) for g in random_groups([(3, (2, 5))] * 40, VOCABULARY)
    ]
    lengths = [len(g.responses[0]) for g in mismatched_groups(groups, KtoSettings(**NAMES))]
    assert 8 < lengths.count(2) < 32  # 40 fair draws: mean 20, deviation 3.2


def test_a_response_to_another_prompt_is_cut_to_the_limit() -> None:
    groups = random_groups([(7, (2,)), (2, (9,))], VOCABULARY)
    found = mismatched_groups(groups, KtoSettings(**NAMES, max_length=10))
    assert [len(g.responses[0]) for g in found] == [3, 2]
    assert found[0].responses[0] == groups[1].responses[0][:3]


def test_one_prompt_alone_has_no_reference_point(caplog: pytest.LogCaptureFixture) -> None:
    groups = [replace(g, prompt=(5, 6)) for g in labelled(True, False, True)]
    with caplog.at_level(logging.WARNING):
        assert mismatched_groups(groups, KtoSettings(**NAMES)) == []
    assert "All rows have the same prompt" in caplog.text
    assert mismatched_groups(groups[:1], KtoSettings(**NAMES)) == []
    assert mismatched_groups([], KtoSettings(**NAMES)) == []


def objective_of(
    settings: KtoSettings, groups: Sequence[PromptGroup], lm: LanguageModel, other: LanguageModel
) -> Any:
    return kto(
        lm,
        settings,
        groups,
        lambda rows: stored_log_probs(compute_log_probs(other, rows, batch_size=4)),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_are_the_papers(seed: int) -> None:
    # λ_y − λ_y·σ(β(r − z₀)) or λ_y − λ_y·σ(β(z₀ − r)), z₀ = max(0, mean of mismatched r), on
    # log-probs from the model's logits, row by row.
    groups = labelled(True, False, True, True, False, seed=seed)
    settings = KtoSettings(**NAMES, beta=0.7, desirable_weight=1.3, undesirable_weight=0.6, seed=3)
    policy, reference = causal("llama", seed=5), causal("llama", seed=seed)

    def ratio(group: PromptGroup) -> Tensor:
        with torch.no_grad():
            before = own_logp(reference, group.prompt, group.responses[0])
        return own_logp(policy, group.prompt, group.responses[0]) - before

    rows = [0, 4, 2]
    elsewhere = mismatched_groups(groups, settings)
    z0 = max(0.0, float(sum(ratio(elsewhere[i]).detach() for i in rows)) / 3)
    signs = {True: 1.0, False: -1.0}
    weights = {True: 1.3, False: 0.6}
    expected = [
        weights[groups[i].labels[0]]
        * torch.sigmoid(-0.7 * signs[groups[i].labels[0]] * (ratio(groups[i]) - z0))
        for i in rows
    ]
    sum(expected).backward()  # type: ignore[union-attr]

    lm = language_model(5)
    objective = objective_of(settings, groups, lm, language_model(seed))
    context = objective.prepare(rows)
    losses = objective.losses(pack([groups[i] for i in rows]), rows, context, log=True)
    losses.weighted_sum().backward()
    torch.testing.assert_close(losses.values, torch.stack(expected), rtol=1e-4, atol=1e-5)
    for (name, mine), theirs in zip(lm.model.named_parameters(), policy.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert float((mine.grad - theirs.grad).norm()) < 1e-3 * float(theirs.grad.norm()), name
    means = {name: total / weight for name, (total, weight) in losses.metrics.items()}
    assert means["kl"] == pytest.approx(z0, abs=1e-4)
    rewards = [0.7 * float(ratio(groups[i]).detach()) for i in rows]
    assert means["rewards/chosen"] == pytest.approx((rewards[0] + rewards[2]) / 2, abs=1e-4)
    assert means["rewards/rejected"] == pytest.approx(rewards[1], abs=1e-4)
    assert means["rewards/margins"] == pytest.approx(
        (rewards[0] + rewards[2]) / 2 - rewards[1], abs=1e-4
    )
    # A response is right where its term is below λ/2, σ's middle; each counts λ.
    mass = [weights[groups[i].labels[0]] for i in rows]
    right = sum(m for m, term in zip(mass, expected, strict=True) if float(term.detach()) < m / 2)
    assert means["rewards/accuracies"] == pytest.approx(right / sum(mass))


def before(
    groups: list[PromptGroup],
    elsewhere: list[PromptGroup],
    lm: LanguageModel,
    reference: LanguageModel,
    rows: list[int],
    settings: KtoSettings,
    team: Any = Processes(),  # noqa: B008 - frozen
) -> tuple[dict[int, Tensor], Tensor]:
    together = append_mismatched(groups, elsewhere)
    known = stored_log_probs(compute_log_probs(reference, together, batch_size=4))
    return log_probs_and_mismatched_ratios(lm, together, elsewhere, known, rows, settings, team)


@pytest.mark.parametrize("some", [False, True])
def test_before_a_step_each_row_is_read_as_if_alone(some: bool) -> None:
    # Of the own response those tokens that are learned from, of the mismatched one all.
    groups = labelled(True, False, True, False)
    if some:
        groups = [
            replace(g, loss_mask=(tuple(i % 2 == 0 for i in range(len(g.responses[0]))),))
            for g in groups
        ]
    settings = KtoSettings(**NAMES)
    elsewhere, lm, reference = (
        mismatched_groups(groups, settings),
        language_model(5),
        language_model(0),
    )
    own, ratios = before(groups, elsewhere, lm, reference, [3, 0, 2], settings)
    for place, i in enumerate((3, 0, 2)):
        with torch.no_grad():
            expected = response_logps(reference, pack([groups[i]]))
            other = pack([elsewhere[i]])
            ratio = (response_logps(lm, other) - response_logps(reference, other)).sum()
        torch.testing.assert_close(own[i], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ratios[place], ratio, rtol=1e-4, atol=1e-5)


def test_some_reference_point_is_above_zero() -> None:
    # Else the test above would not see it: a clamped one is 0.
    groups = labelled(True, False, True, True, False)
    settings = KtoSettings(**NAMES, seed=3)
    elsewhere = mismatched_groups(groups, settings)
    lm = language_model(5)
    above = []
    for seed in range(3):
        ratios = before(groups, elsewhere, lm, language_model(seed), [0, 4, 2], settings)[1]
        above.append(float(ratios.mean()))
    assert max(above) > 0.05
    assert min(above) < -0.05


def test_a_pair_is_its_two_responses_with_the_prompt_once() -> None:
    pairs = [
        replace(g, labels=(True, False))
        for g in random_groups([(5, (3, 7)), (2, (4, 1)), (6, (2, 2))], VOCABULARY)
    ]
    singles = [
        replace(g, responses=(r,), ranks=(0,), labels=(label,))
        for g in pairs
        for r, label in zip(g.responses, g.labels, strict=True)
    ]
    assert sum(g.num_tokens for g in singles) - sum(g.num_tokens for g in pairs) == 5 + 2 + 6
    settings = KtoSettings(**NAMES, loss_type="apo_zero_unpaired", beta=0.5)  # the same z₀
    found = []
    for groups in (pairs, singles):
        lm = language_model(5)
        objective = objective_of(settings, groups, lm, language_model(0))
        everything = range(len(groups))
        context = objective.prepare(everything)
        losses = objective.losses(pack(groups), everything, context, log=False)
        (losses.weighted_sum() / losses.weights.sum()).backward()
        assert sum(METHODS["kto"].weight(g) for g in groups) == float(losses.weights.sum()) == 6
        found.append((losses.values.detach(), [p.grad for p in lm.model.parameters()]))
    (values, gradients), (others, other_gradients) = found
    torch.testing.assert_close(values, others, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients, other_gradients, strict=True):
        assert float((a - b).norm()) <= 1e-4 * float(b.norm())


def test_rows_of_pairs_have_both_labels_in_every_step() -> None:
    pairs = [replace(g, labels=(True, False)) for g in random_groups([(3, (2, 2))] * 7, VOCABULARY)]
    schedule = make_schedule(7, KtoSettings(**NAMES, per_device_train_batch_size=2))
    for step in range(schedule.steps):
        rows = schedule.step_rows(step, RowOrder(7, seed=0))
        assert {label for i in rows for label in pairs[i].labels} == {True, False}


@dataclass
class Pair:
    """Two processes that exchange what they found, as threads."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    given: dict[int, Any] = field(default_factory=dict)

    def member(self, rank: int) -> Any:
        def all_gather(value: Any) -> list[Any]:
            self.given[rank] = dict(value)
            self.barrier.wait(timeout=30)
            return [self.given[0], self.given[1]]

        return type(
            "Member", (), {"rank": rank, "world_size": 2, "all_gather": staticmethod(all_gather)}
        )()


def test_processes_share_the_work_for_the_reference_point() -> None:
    groups = labelled(*(True, False, False) * 3)
    settings = KtoSettings(**NAMES, per_device_train_batch_size=2)
    rows, lm = [8, 1, 1, 5, 0, 3], language_model(5)
    elsewhere = mismatched_groups(groups, settings)
    reference = language_model(0)
    _, alone = before(groups, elsewhere, lm, reference, rows, settings)
    assert alone[1] == alone[2]
    team, found = Pair(), dict[int, Tensor]()

    def work(rank: int) -> None:
        found[rank] = before(groups, elsewhere, lm, reference, rows, settings, team.member(rank))[1]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    torch.testing.assert_close(found[0], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert set(team.given[0]) | set(team.given[1]) == set(rows)
    assert not set(team.given[0]) & set(team.given[1])


def test_a_step_of_one_row() -> None:
    groups = labelled(True, False)
    settings = KtoSettings(**NAMES, per_device_train_batch_size=1)
    lm = language_model(5)
    objective = objective_of(settings, groups, lm, language_model(0))
    learner = Learner(
        lm.trainable_parameters(), adamw(lm.trainable_parameters().values(), settings)
    )
    state = TrainState({"model": learner}, FitState())
    steps = list(fit(state, groups, objective, METHODS["kto"].weight, settings, lm.device))
    assert [s.step for s in steps] == [1, 2]
    for step in steps:
        assert math.isfinite(step.metrics["loss"])
        assert ("rewards/chosen" in step.metrics) != ("rewards/rejected" in step.metrics)
        assert "rewards/margins" not in step.metrics


def write_rows(place: Path, n: int) -> str:
    """Rated rows and pairs, one after the other; yes is desirable."""
    words = "cat dog sea house door".split()
    rows: list[dict[str, Any]] = []
    for i in range(n):
        prompt = [{"role": "user", "content": f"the {words[i % 5]} {i}"}]
        if i % 2:
            rows.append({"prompt": prompt, "chosen": "yes", "rejected": "no, the answer is far"})
        else:
            label = i % 4 == 0
            completion = "yes" if label else "no"
            rows.append({"prompt": prompt, "completion": completion, "label": label})
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(place)


def settings_for(folder: Path, name: str, **more: Any) -> KtoSettings:
    toy = folder / "toy"
    return KtoSettings(
        **{
            "model": str(toy) if toy.is_dir() else save_toy(toy),
            "dataset": write_rows(folder / "rows.jsonl", 12),
            "eval_dataset": write_rows(folder / "held.jsonl", 3),
            "output_dir": str(folder / name),
            "max_steps": 5,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "beta": 0.5,
            "max_length": 64,
            **more,
        }
    )


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, lora: Any) -> None:
    whole = [s.metrics for s in train_offline("kto", settings_for(tmp_path, "whole", lora=lora))]
    settings = settings_for(tmp_path, "parts", lora=lora)
    steps = train_offline("kto", settings)
    parts = [next(steps).metrics for _ in range(2)]
    steps.close()
    parts += [s.metrics for s in train_offline("kto", settings)]
    assert len(parts) == len(whole) == 5
    for one, other in zip(whole, parts, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
    assert any(m["kl"] > 0 for m in whole)


def test_from_rows_of_both_kinds_to_a_model(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "out", max_steps=30)
    steps = [s.metrics for s in train_offline("kto", settings)]
    encoded = json.loads((tmp_path / "out" / "data.json").read_text())["encoded"]
    # 6 pairs give one of each; of 6 ratings every second is desirable.
    assert (encoded["used"], encoded["desirable"], encoded["undesirable"]) == (12, 9, 9)
    # At first r = z₀ = 0 for all: λ·σ(0) = ½.
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    assert steps[-1]["rewards/accuracies"] > 0.9
    assert steps[-1]["eval/rewards/accuracies"] == 1.0
    assert steps[-1]["loss"] < 0.3
    assert steps[-1]["rewards/margins"] > 1.0
    # Held out: one pair and one desirable, one undesirable rating, by the same weights of 1.
    assert steps[-1]["eval/loss"] < 0.4


def test_held_out_rows_are_weighed_as_the_training_rows(tmp_path: Path) -> None:
    held = tmp_path / "one.jsonl"
    held.write_text(json.dumps({"prompt": "the", "completion": " sea", "label": True}) + "\n")
    rows = [{"prompt": f"a {i}", "completion": " b", "label": i == 0} for i in range(4)]
    data = tmp_path / "rated.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = settings_for(
        tmp_path, "out", dataset=str(data), eval_dataset=str(held), max_steps=1, learning_rate=1e-9
    )
    (step,) = train_offline("kto", settings)
    # λ_D = 3 from the training rows, and r = z₀ = 0: 3·σ(0).
    assert step.metrics["eval/loss"] == pytest.approx(1.5, abs=1e-4)


@pytest.mark.slow
def test_it_improves_on_the_reference_from_labels_alone() -> None:
    # The best policy under KTO has no closed form. Labels are drawn from the true rewards: two
    # answers of π_ref, the better one (Bradley-Terry) desirable. Over 5 worlds the expected true
    # reward rises: the mean gain is above 0 by more than 2.78 standard errors (t, 4 degrees of
    # freedom, 95%).
    gains = []
    for seed in range(5):
        world = make_world(seed)
        reference = world.distribution(world.reference)
        generator = torch.Generator().manual_seed(seed)
        groups = []
        for x, prompt in enumerate(PROMPTS):
            answers = torch.multinomial(reference[x], 400, replacement=True, generator=generator)
            for a, b in answers.view(-1, 2).tolist():
                wins = torch.rand((), generator=generator) < torch.sigmoid(
                    world.rewards[x, a] - world.rewards[x, b]
                )
                groups.append(PromptGroup(prompt, ((a,),), (0,), labels=(bool(wins),)))
                groups.append(PromptGroup(prompt, ((b,),), (0,), labels=(not bool(wins),)))
        settings = KtoSettings(
            **NAMES,
            beta=0.5,
            seed=seed,
            learning_rate=5e-3,
            max_steps=60,
            per_device_train_batch_size=64,
        )
        objective = objective_of(settings, groups, world.policy, world.reference)
        parameters = world.policy.trainable_parameters()
        state = TrainState(
            {"model": Learner(parameters, adamw(parameters.values(), settings))}, FitState()
        )
        for _ in fit(
            state, groups, objective, METHODS["kto"].weight, settings, torch.device("cpu")
        ):
            pass
        after = world.distribution(world.policy)
        gains.append(float(((after - reference) * world.rewards).sum(1).mean()))
    found = torch.tensor(gains, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(5)
    assert float(found.mean()) > 2.78 * error, gains
