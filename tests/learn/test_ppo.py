"""PPO's pieces: rewards and advantages by hand, the first ratio, what stops it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from accord.errors import TrainingError
from accord.learn.checkpoints import Learner, TrainState
from accord.learn.clipped import Targets
from accord.learn.fit import StepResult
from accord.learn.optimiser import adamw
from accord.learn.order import RowOrder
from accord.learn.ppo import collect, improve, ppo, score
from accord.learn.roles import Roles
from accord.learn.rollout import Episodes, grid_mask, sample_text, to_grid
from accord.lm.forward import check_packing
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.records import PromptOnly, Source
from accord.respond.local import local_sampler
from accord.respond.protocol import Sample
from accord.settings.ppo import PpoSettings
from tests.learn.test_fit import Recorder
from tests.lm.models import causal, scalar

NAMES = {"model": "toy", "dataset": "toy", "output_dir": "nowhere", "reward_model": "toy"}
PROMPTS = [(5, 9, 11), (7,), (8, 4)]
RECORDS = [PromptOnly(str(i), Source("prompts.jsonl", i + 1)) for i in range(3)]


class NumberTokenizer:
    """Tokens are numbers, and read as such."""

    eos_token_id = 2

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return " ".join(str(t) for t in tokens)


def settings_of(**more: Any) -> PpoSettings:
    return PpoSettings(
        **{
            **NAMES,
            "per_device_train_batch_size": 8,
            "max_new_tokens": 6,
            "learning_rate": 1e-3,
            **more,
        }
    )


def roles_of(sharp: float = 3.0) -> Roles:
    def wrap(inner: Any, **more: Any) -> LanguageModel:
        with torch.no_grad():
            for parameter in inner.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(sharp)
        lm = LanguageModel(inner, NumberTokenizer(), "toy", **more)
        assert check_packing(lm)
        return lm

    policy, reference = wrap(causal("llama")), wrap(causal("llama", seed=3))

    def length(
        prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        return [float(len(text.split()) % 4) for text in texts]

    critic = wrap(scalar("llama"), scalar=True)
    return Roles(policy, critic, reference, length, local_sampler(policy))


def state_of(roles: Roles, settings: PpoSettings) -> TrainState:
    return TrainState(
        {
            name: Learner(lm.trainable(), adamw(lm.trainable().values(), settings))
            for name, lm in (("policy", roles.policy), ("critic", roles.critic))
        }
    )


def run_ppo(
    roles: Roles, settings: PpoSettings, iterations: int = 1
) -> tuple[TrainState, list[StepResult]]:
    state = state_of(roles, settings)
    steps = ppo(state, roles, PROMPTS, RECORDS, settings, iterations=iterations)
    return state, list(steps)


def weights(lm: LanguageModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lm.trainable().values()]


def moved(before: list[torch.Tensor], lm: LanguageModel) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, weights(lm), strict=True))


def two_episodes() -> Episodes:
    """The first of two tokens, ended, score 3; the second of one, cut off, score 20."""
    mask = grid_mask([2, 1])
    return Episodes(
        groups=(PromptGroup((5,), ((6, 2),), (0,)), PromptGroup((5,), ((7,),), (0,))),
        texts=("6", "7"),
        mask=mask,
        old_logps=torch.tensor([[-1.0, -2.0], [-1.5, 0.0]]),
        ref_logps=torch.tensor([[-1.1, -1.8], [-2.0, 0.0]]),  # log-ratios 0.1, −0.2; 0.5
        values=torch.tensor([[1.0, 2.0], [4.0, 0.0]]),
        entropy=torch.tensor([[1.0, 2.0], [3.0, 0.0]]),
        scores=torch.tensor([3.0, 20.0]),
        finished=torch.tensor([True, False]),
    )


def test_score_by_hand() -> None:
    # β = ½. Rewards: (−0.05, 0.1 + 3); the second is clipped to 10, less the penalty of 1, less
    # ½·0.5: 8.75. With γ = λ = 1 the returns are what is still to come: (3.05, 3.1), 8.75.
    settings = settings_of(gae_lambda=1.0, whiten_advantages=False)
    targets, numbers = score(two_episodes(), settings, beta=0.5)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.05, 3.1], [8.75, 0.0]]))
    torch.testing.assert_close(targets.advantages, torch.tensor([[2.05, 1.1], [4.75, 0.0]]))

    assert numbers["objective/kl"] == pytest.approx((-0.1 + 0.5) / 2)
    k3 = [math.expm1(-x) + x for x in (0.1, -0.2, 0.5)]
    assert numbers["objective/kl_k3"] == pytest.approx(sum(k3) / 2, rel=1e-5)
    assert numbers["objective/scores"] == pytest.approx(11.5)  # as the reward gave them
    assert numbers["objective/scores_std"] == pytest.approx(8.5)
    assert numbers["objective/non_score_reward"] == pytest.approx(-0.5 * 0.2)
    assert numbers["objective/rlhf_reward"] == pytest.approx((3.05 + 8.75) / 2)
    assert numbers["objective/entropy"] == pytest.approx(2.0)
    assert numbers["eos_rate"] == 0.5
    assert numbers["response_length"] == 1.5
    assert numbers["val/mean"] == pytest.approx(7 / 3)
    # 1 − Var(R − V)/Var(R), R = (3.05, 3.1, 8.75), R − V = (2.05, 1.1, 4.75).
    spread = torch.tensor([3.05, 3.1, 8.75]).var(unbiased=False)
    left = torch.tensor([2.05, 1.1, 4.75]).var(unbiased=False)
    assert numbers["val/explained_variance"] == pytest.approx(float(1 - left / spread), rel=1e-4)


def test_score_without_clip_penalty_or_kl() -> None:
    settings = settings_of(
        gae_lambda=1.0, whiten_advantages=False, reward_clip=None, missing_eos_penalty=0.0
    )
    targets, _ = score(two_episodes(), settings, beta=0.0)
    torch.testing.assert_close(targets.returns, torch.tensor([[3.0, 3.0], [20.0, 0.0]]))


def test_the_clip_holds_before_the_penalty() -> None:
    # A cut-off response of score −20 is at −10 − 1, not clipped to −10 again.
    episodes = two_episodes()
    low = Episodes(
        **{
            **{name: getattr(episodes, name) for name in Episodes.__slots__},
            "scores": torch.tensor([3.0, -20.0]),
        }
    )
    targets, _ = score(low, settings_of(gae_lambda=1.0, whiten_advantages=False), beta=0.0)
    assert float(targets.returns[1, 0]) == pytest.approx(-11.0)


def test_whitening_touches_advantages_and_not_returns() -> None:
    plain, _ = score(two_episodes(), settings_of(whiten_advantages=False), beta=0.5)
    white, _ = score(two_episodes(), settings_of(), beta=0.5)
    mask = two_episodes().mask
    torch.testing.assert_close(white.returns, plain.returns)
    assert float(white.advantages[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(white.advantages[mask].var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)
    assert float(white.advantages[1, 1]) == 0.0


def test_whitened_rewards_keep_their_mean() -> None:
    # Rewards (−0.05, 3.1, 8.75) have mean 59/15; λ = 0 and values 0 make them the advantages.
    episodes = two_episodes()
    without = Episodes(
        **{
            **{name: getattr(episodes, name) for name in Episodes.__slots__},
            "values": torch.zeros(2, 2),
        }
    )
    settings = settings_of(gae_lambda=0.0, whiten_advantages=False, whiten_rewards=True)
    targets, _ = score(without, settings, beta=0.5)
    cells = targets.advantages[episodes.mask]
    assert float(cells.mean()) == pytest.approx(11.8 / 3, rel=1e-5)
    assert float(cells.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_the_first_ratio_is_one_and_the_next_is_not() -> None:
    _, (first,) = run_ppo(roles_of(), settings_of(num_ppo_epochs=1, temperature=0.8))
    assert first.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first.metrics["policy/approxkl_avg"] == pytest.approx(0.0, abs=1e-6)
    assert first.metrics["policy/clipfrac_avg"] == 0.0
    assert "policy/log_ratio_max" not in first.metrics
    _, (more,) = run_ppo(roles_of(), settings_of(num_ppo_epochs=3))
    assert more.metrics["policy/approxkl_avg"] > 1e-6


def test_a_model_that_is_not_deterministic_is_refused() -> None:
    roles = roles_of()
    torch.manual_seed(0)
    roles.policy.model.model.embed_tokens.register_forward_hook(
        lambda module, args, out: out + 0.5 * torch.randn_like(out)
    )
    with pytest.raises(TrainingError, match="so the ratio is not 1") as error:
        run_ppo(roles, settings_of())
    assert "look for dropout or state in it" in str(error.value)


def test_nan_rewards_stop_before_the_weights_move() -> None:
    roles = roles_of()
    before, critic = weights(roles.policy), weights(roles.critic)
    broken = Roles(
        roles.policy,
        roles.critic,
        roles.reference,
        lambda p, t, finished=None: [math.nan] * len(t),
        roles.sampler,
    )
    with pytest.raises(TrainingError, match=r"The loss is nan at step 1.*prompts.jsonl:"):
        run_ppo(broken, settings_of())
    assert not moved(before, roles.policy)
    assert not moved(critic, roles.critic)


def test_episodes_are_a_function_of_seed_and_iteration() -> None:
    settings, order = settings_of(), RowOrder(3, 0)

    def episodes(iteration: int, seed: int = 0) -> Episodes:
        chosen = settings.model_copy(update={"seed": seed})
        return collect(roles_of(), PROMPTS, RECORDS, chosen, order, iteration)

    first = episodes(0)
    assert episodes(0).texts == first.texts
    assert episodes(1).texts != first.texts
    assert episodes(0, seed=1).texts != first.texts
    assert [g.prompt for g in first.groups] == [PROMPTS[order.at(i)] for i in range(8)]
    torch.testing.assert_close(episodes(0).old_logps, first.old_logps)
    assert bool((first.entropy[first.mask] > 0).all())
    ended = [g.responses[0][-1] == 2 for g in first.groups]
    assert first.finished.tolist() == ended


@pytest.mark.parametrize("minibatches", [1, 2])
def test_accumulation_changes_neither_loss_nor_gradient(minibatches: int) -> None:
    runs = []
    for accumulation in (1, 2, 8):
        settings = settings_of(
            num_ppo_epochs=1,
            num_mini_batches=minibatches,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0,
        )
        roles = roles_of()
        recorders = {
            name: Recorder(list(lm.trainable().values()))
            for name, lm in (("policy", roles.policy), ("critic", roles.critic))
        }
        state = TrainState(
            {
                name: Learner(lm.trainable(), recorders[name])  # type: ignore[arg-type]
                for name, lm in (("policy", roles.policy), ("critic", roles.critic))
            }
        )
        episodes = collect(roles, PROMPTS, RECORDS, settings, RowOrder(3, 0), 0)
        targets, _ = score(episodes, settings, 0.05)
        numbers = improve(state, roles, episodes, targets, settings)
        runs.append((numbers, [r.gradients for r in recorders.values()]))
    (expected, gradients), *others = runs
    assert len(gradients[0]) == minibatches
    for numbers, found in others:
        for key in ("loss", "loss/policy_avg", "loss/value_avg", "grad_norm/policy"):
            assert numbers[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
        for role_found, role_expected in zip(found, gradients, strict=True):
            for step_found, step_expected in zip(role_found, role_expected, strict=True):
                for a, b in zip(step_found, step_expected, strict=True):
                    assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


def test_more_minibatches_than_episodes_or_passes_are_harmless() -> None:
    settings = settings_of(
        per_device_train_batch_size=3, num_mini_batches=4, gradient_accumulation_steps=2
    )
    _, (result,) = run_ppo(roles_of(), settings)
    assert all(math.isfinite(v) for v in result.metrics.values())


def test_the_critic_warms_up_while_the_policy_stands_still() -> None:
    roles = roles_of()
    policy, critic = weights(roles.policy), weights(roles.critic)
    run_ppo(roles, settings_of(critic_warmup_steps=2), iterations=2)
    assert not moved(policy, roles.policy)
    assert moved(critic, roles.critic)
    run_ppo(roles, settings_of(critic_warmup_steps=0), iterations=1)
    assert moved(policy, roles.policy)


def test_it_stops_where_the_kl_passes_its_limit() -> None:
    # The reference has other weights, so the KL is large from the start.
    roles = roles_of()
    policy = weights(roles.policy)
    _, results = run_ppo(roles, settings_of(max_kl=0.01), iterations=5)
    assert len(results) == 1
    assert results[0].metrics["stopped_by_kl"] == 1.0
    assert results[0].metrics["objective/kl"] > 0.01
    assert (results[0].step, results[0].total) == (1, 1)
    assert not moved(policy, roles.policy)


def test_a_run_that_stopped_at_its_limit_does_not_go_on() -> None:
    roles, settings = roles_of(), settings_of(max_kl=0.01)
    state, _ = run_ppo(roles, settings, iterations=5)
    again = ppo(state, roles, PROMPTS, RECORDS, settings, iterations=5)
    assert list(again) == []


def test_beta_adapts_towards_its_target() -> None:
    # KL far above the target: the error is clipped to 0.2, so β grows by 1 + 0.2·8/80 = 1.02.
    settings = settings_of(adaptive_kl_target=1e-3, adaptive_kl_horizon=80, beta=0.1)
    state, results = run_ppo(roles_of(), settings, iterations=2)
    assert [r.metrics["objective/beta"] for r in results] == pytest.approx([0.1, 0.102])
    assert state.numbers["beta"] == pytest.approx(0.1 * 1.02**2)
    fixed, _ = run_ppo(roles_of(), settings_of(beta=0.1))
    assert fixed.numbers["beta"] == 0.1


def test_learning_rates_of_policy_and_critic() -> None:
    settings = settings_of(learning_rate=1e-3, critic_learning_rate=5e-3)
    state, results = run_ppo(roles_of(), settings, iterations=2)  # linear: 1, then ½
    rates = {n: x.optimiser.param_groups[0]["lr"] for n, x in state.learners.items()}
    assert rates == pytest.approx({"policy": 5e-4, "critic": 2.5e-3})
    assert [r.metrics["learning_rate"] for r in results] == pytest.approx([1e-3, 5e-4])


def test_grids_hold_tokens_in_order() -> None:
    mask = grid_mask([2, 3, 1])
    assert mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    flat = torch.arange(1.0, 7.0)
    grid = to_grid(flat, mask)
    assert grid.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert torch.equal(grid[mask], flat)


def test_the_text_of_a_sample_leaves_its_end_out() -> None:
    policy = LanguageModel(None, NumberTokenizer(), "toy")
    assert sample_text(Sample((5, 6, 2), (0.0,) * 3, True), policy) == "5 6"
    assert sample_text(Sample((5, 6), (0.0,) * 2, False), policy) == "5 6"


def test_one_step_raises_what_had_a_positive_advantage() -> None:
    # A policy step along the advantages: tokens with a positive one become likelier, on the whole.
    roles, settings = roles_of(), settings_of(num_ppo_epochs=1, vf_coef=0.0, learning_rate=1e-4)
    episodes = collect(roles, PROMPTS, RECORDS, settings, RowOrder(3, 0), 0)
    targets, _ = score(episodes, settings, 0.0)
    improve(state_of(roles, settings), roles, episodes, targets, settings)
    again = collect(
        Roles(
            roles.policy,
            roles.critic,
            roles.reference,
            roles.reward,
            lambda *a, **k: [
                [Sample(g.responses[0], (0.0,) * len(g.responses[0]), bool(e))]
                for g, e in zip(episodes.groups, episodes.finished, strict=True)
            ],
        ),
        PROMPTS,
        RECORDS,
        settings,
        RowOrder(3, 0),
        0,
    )
    gain = ((again.old_logps - episodes.old_logps) * targets.advantages)[episodes.mask].sum()
    assert float(gain) > 0
    assert isinstance(targets, Targets)
