"""The accuracy of a reward model against the number of comparisons, and the annotators' ceiling.

On the embedded world, with answers of the demonstrators. One reward model is linear in the answers'
words, so that it trains in seconds; the other is the demo's SFT model with a head, by accord's own
training (two epochs), on the same pairs of the first seed.
"""

from __future__ import annotations

from typing import Any

import torch
from answer_table import AnswerTable, answer_table, half_width, judged_pairs, shown
from answer_texts import TextTable, text_table
from experiment import Experiment
from torch import Tensor

import accord
from accord.measure.statistics import Interval, clustered_interval
from accord.objectives import bradley_terry_loss

NOISE, PAIRS = 0.1, 4


def fit(features: Tensor, chosen: Tensor, rejected: Tensor, steps: int) -> Tensor:
    """Weights of a linear reward on pairs; chosen and rejected (pairs,) index features (N, D)."""
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.02)
    for _ in range(steps):
        scores = features @ weights
        optimiser.zero_grad()
        bradley_terry_loss(scores[chosen], scores[rejected]).mean().backward()
        optimiser.step()
    return weights.detach()


def flat_pairs(table: AnswerTable, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs as indices into the answers of all prompts, one after another."""
    chosen, rejected = judged_pairs(table.rewards, PAIRS, noise=noise, seed=seed)
    offsets = torch.arange(len(chosen))[:, None] * table.rewards.shape[1]
    return (chosen + offsets).flatten(), (rejected + offsets).flatten()


def share(scores: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    """The share of pairs that scores order as the verdicts do; equal scores count half."""
    difference = scores[pairs[0]] - scores[pairs[1]]
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


def network_scores(
    experiment: Experiment, table: TextTable, train_prompts: int, count: int
) -> Tensor:
    """Scores of the unseen prompts' answers by a language model trained on so many pairs."""
    chosen, rejected = judged_pairs(table.rewards[:train_prompts], PAIRS, noise=NOISE, seed=0)
    pairs = [
        {"prompt": table.tasks[p].prompt, "chosen": row[c], "rejected": row[r]}
        for p, row in enumerate(table.texts[:train_prompts])
        for c, r in zip(chosen[p].tolist(), rejected[p].tolist(), strict=True)
    ]
    run = experiment.train(
        "reward",
        name=f"pairs-{count}",
        model=experiment.shared("sft"),
        dataset=pairs[:count],
        num_train_epochs=2,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        warmup_ratio=0.05,
        max_length=256,
    )
    tasks, texts = table.tasks[train_prompts:], table.texts[train_prompts:]
    prompts = [task.prompt for task, row in zip(tasks, texts, strict=True) for _ in row]
    return torch.tensor(accord.score(run.model, prompts, [text for row in texts for text in row]))


def by_prompt(scores: Tensor, pairs: tuple[Tensor, Tensor], answers: int) -> Interval:
    """The share of pairs in order with an interval over prompts, each of so many answers."""
    correct: dict[int, list[float]] = {}
    for better, worse in zip(*(side.tolist() for side in pairs), strict=True):
        correct.setdefault(better // answers, []).append(float(scores[better] > scores[worse]))
    return clustered_interval(list(correct.values()))


def fitted_scores(seed: int, comparisons: int) -> tuple[Tensor, Tensor]:
    """True and fitted differences to the first of four responses, from comparisons of pairs."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.tensor([0.0, 1.0, -0.5, 2.0])
    a = torch.randint(4, (comparisons,), generator=generator)
    b = (a + torch.randint(1, 4, (comparisons,), generator=generator)) % 4
    a_wins = torch.rand(comparisons, generator=generator) < (true[a] - true[b]).sigmoid()
    fitted = fit(torch.eye(4), torch.where(a_wins, a, b), torch.where(a_wins, b, a), 600)
    return true - true[0], fitted - fitted[0]


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    train_prompts, test_prompts = experiment.size(1000, 8), experiment.size(250, 8)
    counts = (8, 16) if experiment.quick else (60, 125, 250, 500, 1000, 2000, 4000)
    results: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
    ceilings = []
    network: dict[int, tuple[Interval, Interval]] = {}
    for seed in range(experiment.size(5, 2)):
        words = experiment.size(150, 20)
        table = answer_table(train_prompts + test_prompts, 2 * PAIRS, seed, words=words)
        train = AnswerTable(table.rewards[:train_prompts], table.features[:train_prompts])
        test = AnswerTable(table.rewards[train_prompts:], table.features[train_prompts:])
        pairs, held_out = flat_pairs(train, NOISE, seed), flat_pairs(test, NOISE, seed + 1000)
        truth = flat_pairs(test, 0.0, seed + 2000)
        differ = test.rewards.flatten()[truth[0]] > test.rewards.flatten()[truth[1]]
        truth = truth[0][differ], truth[1][differ]
        ceilings.append(share(test.rewards.flatten(), held_out))
        if seed == 0:
            texts = text_table(train_prompts + test_prompts, 2 * PAIRS, seed)
            for count in (8,) if experiment.quick else (250, 500, 1000, 2000):
                scores = network_scores(experiment, texts, train_prompts, count)
                both = (by_prompt(scores, pairs, 2 * PAIRS) for pairs in (held_out, truth))
                network[count] = next(both), next(both)
        features, unseen = train.features.flatten(0, 1), test.features.flatten(0, 1)
        for count in counts:
            shown_pairs = pairs[0][:count], pairs[1][:count]
            weights = fit(features, *shown_pairs, experiment.size(150, 5))
            results[count].append(
                (
                    share(features @ weights, shown_pairs),
                    share(unseen @ weights, held_out),
                    share(unseen @ weights, truth),
                )
            )

    def draw(axes: Any, colours: Any) -> None:
        names = ("training pairs", "unseen pairs", "unseen pairs, true order")
        for i, name in enumerate(names):
            y = [sum(row[i] for row in results[n]) / len(results[n]) for n in counts]
            axes.plot(counts, y, "so^"[i] + "-", color=colours[(7, 0, 2)[i]], ms=4.5, label=name)
        heights = [verdicts.mean for verdicts, _ in network.values()]
        bars = [half_width(verdicts) for verdicts, _ in network.values()]
        name = "unseen, language model"
        axes.errorbar([*network], heights, bars, fmt="D:", ms=4, color=colours[3], label=name)
        ceiling = sum(ceilings) / len(ceilings)
        axes.axhline(ceiling, color=colours[1], ls="--", label="true reward, unseen")
        axes.set(xscale="log", xlabel="comparisons", ylabel="accuracy", ylim=(0.4, 1.02))
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.minorticks_off()
        axes.legend(loc="lower center", ncols=2)

    header = ["model", "comparisons", "training pairs", "unseen pairs", "unseen pairs, true order"]
    rows = [
        ["linear", str(n), *(shown(column) for column in zip(*results[n], strict=True))]
        for n in counts
    ]
    for n, intervals in network.items():
        cells = [f"{v.mean:.3f} ± {half_width(v):.3f}" for v in intervals]
        rows.append(["language model", str(n), "", *cells])
    rows.append(["true reward", "", "", shown(ceilings), "1"])
    true, fitted = fitted_scores(0, experiment.size(20_000, 200))
    note = (
        f"Means over five seeds with 95% intervals; of the language model one run, with 95% "
        f"intervals over {test_prompts} prompts. Four responses with true differences of "
        f"{', '.join(f'{v:g}' for v in true[1:].tolist())} to the first, from 20,000 comparisons: "
        f"the fitted differences are {', '.join(f'{v:.2f}' for v in fitted[1:].tolist())}."
    )
    experiment.save(draw, header, rows, note=note)


main()
