"""What pruning and sequential stopping cost best-of-N in quality, and whether its KL and reward are
those of theory and of the curve, on the embedded world.

    python studies/best_of.py RUN [--prompts 60] [--draws 4] [--output results.json] [--serve]

RUN is a finished run of `accord demo`: its stages `sft`, `reward` and `sft-test` are read. Pruning
is replayed on the responses there: their first tokens are scored as the server scores them. Each
draw takes other responses of the same prompts; intervals are over prompts. With `--serve`
best-of-16 is also drawn from the model through the engine that `accord serve --best-of` runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import CombinedReward
from accord.data.write import ResponseRow, read_responses
from accord.lm.load import load_causal, load_tokenizer
from accord.measure.best_of_n import best_of_n_log_ratio, measured_best_of_n_kl
from accord.measure.over_optimisation import best_of_n_kl, best_of_n_weights
from accord.measure.statistics import Interval, mean_interval
from accord.respond.protocol import SamplingSettings
from accord.serve.best_of.stopping import Stopping, rank, read_checkpoints, survivors
from accord.settings.rewards import model_source
from accord.world.reward import true_reward

SCHEDULES = {
    16: ("2:0.25", "3:0.125", "4:0.25", "4:0.125", "8:0.25", "4:0.5,8:0.25", "3:0.5,6:0.125"),
    64: ("2:0.125", "3:0.125", "4:0.0625", "4:0.125", "3:0.25,6:0.0625", "4:0.25,8:0.125"),
}
STOPPING = (
    Stopping(cost=0.02),
    Stopping(cost=0.05),
    Stopping(cost=0.1),
    Stopping(enough=0.5),
    Stopping(enough=1.0),
    Stopping(enough=1.5),
)


@dataclass
class Pool:
    """A prompt's responses: tokens, scores of whole responses and of their first t tokens."""

    tokens: list[int]
    score: list[float]
    truth: list[float]
    partial: dict[int, list[float]]


@dataclass
class Outcome:
    """What a way of choosing gives a prompt: reward, true reward, tokens drawn."""

    reward: float
    truth: float
    tokens: int


def read_pools(run: Path, prompts: int, device: str = "cpu") -> list[Pool]:
    """The scored responses of a run's test prompts."""
    rows = read_responses(run / "sft-test" / "responses.jsonl")[:prompts]
    tokenizer = load_tokenizer(str(run / "sft" / "model"))
    reward = build_reward([model_source(str(run / "reward" / "model"))], device=device)  # type: ignore[arg-type]
    cuts = sorted(
        {p.tokens for texts in SCHEDULES.values() for t in texts for p in read_checkpoints(t)}
    )
    return [_pool(row, tokenizer, reward, cuts) for row in rows]


def _pool(row: ResponseRow, tokenizer: Any, reward: CombinedReward, cuts: Sequence[int]) -> Pool:
    texts = [r.text for r in row.responses]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    whole = _scores(reward, row, texts, [r.finished for r in row.responses])
    partial = {}
    for cut in cuts:
        beginnings = [tokenizer.decode(tokens[:cut]) for tokens in ids]
        cut_off = [len(tokens) <= cut for tokens in ids]
        scores = _scores(reward, row, beginnings, cut_off)
        partial[cut] = [w if c else s for w, c, s in zip(whole, cut_off, scores, strict=True)]
    truth = [true_reward(row.prompt, text) for text in texts]
    return Pool([int(r.tokens or 0) for r in row.responses], whole, truth, partial)


def _scores(
    reward: CombinedReward, row: ResponseRow, texts: Sequence[str], finished: Sequence[bool]
) -> list[float]:
    return reward([row.prompt] * len(texts), texts, finished)


def pruned(pool: Pool, drawn: Sequence[int], schedule: str) -> Outcome:
    """Best-of-N among the responses `drawn`, pruned at the schedule's checkpoints."""
    live, spent = list(drawn), dict.fromkeys(drawn, 0)
    for point in read_checkpoints(schedule):
        for i in live:
            spent[i] = min(pool.tokens[i], point.tokens)
        scores = [pool.partial[point.tokens][i] for i in live]
        live = [live[j] for j in survivors(scores, point.keep, len(drawn), 1)]
    for i in live:
        spent[i] = pool.tokens[i]
    best = max(live, key=lambda i: pool.score[i])
    return Outcome(pool.score[best], pool.truth[best], sum(spent.values()))


def stopped(pool: Pool, drawn: Sequence[int], stopping: Stopping) -> Outcome:
    """The best of the responses `drawn`, taken in waves until they suffice."""
    seen: list[int] = []
    for size in stopping.waves(len(drawn), 1):
        seen += drawn[len(seen) : len(seen) + size]
        if stopping.is_done([pool.score[i] for i in seen], 1):
            break
    best = seen[rank([pool.score[i] for i in seen])[0]]
    return Outcome(pool.score[best], pool.truth[best], sum(pool.tokens[i] for i in seen))


def plain(pool: Pool, drawn: Sequence[int]) -> Outcome:
    best = drawn[rank([pool.score[i] for i in drawn])[0]]
    return Outcome(pool.score[best], pool.truth[best], sum(pool.tokens[i] for i in drawn))


def compare(pools: Sequence[Pool], n: int, draws: int) -> list[dict[str, Any]]:
    """Each way at this n: its share of the tokens and of the gain of plain best-of-n."""
    rng = np.random.default_rng(n)
    groups = [
        [tuple(map(int, rng.permutation(len(pool.score))[:n])) for _ in range(draws)]
        for pool in pools
    ]
    ways: dict[str, Any] = {"all": lambda pool, drawn: plain(pool, drawn)}
    for k in (n // 8, n // 4, n // 2):
        ways[f"best of {k}"] = lambda pool, drawn, k=k: plain(pool, drawn[:k])
    for schedule in SCHEDULES[n]:
        ways[f"prune {schedule}"] = lambda pool, drawn, s=schedule: pruned(pool, drawn, s)
    for stopping in STOPPING:
        name = f"enough {stopping.enough}" if stopping.cost is None else f"cost {stopping.cost}"
        ways[name] = lambda pool, drawn, s=stopping: stopped(pool, drawn, s)
    table = {name: _by_prompt(pools, groups, way) for name, way in ways.items()}
    base = np.array([[np.mean(p.score), np.mean(p.truth)] for p in pools])
    full = table["all"]
    gains = full[:, :2] - base
    rows = []
    for name, values in table.items():
        own = values[:, :2] - base
        rows.append(
            {
                "n": n,
                "way": name,
                "cost": float(values[:, 2].sum() / full[:, 2].sum()),
                "reward": mean_interval(values[:, 0]).to_json(),
                "truth": mean_interval(values[:, 1]).to_json(),
                "reward_gain_share": _ratio(own[:, 0], gains[:, 0]).to_json(),
                "true_gain_share": _ratio(own[:, 1], gains[:, 1]).to_json(),
            }
        )
    return rows


def _by_prompt(pools: Sequence[Pool], groups: Sequence[Any], way: Any) -> Any:
    means = []
    for pool, drawn in zip(pools, groups, strict=True):
        outcomes = [way(pool, list(group)) for group in drawn]
        means.append(
            [np.mean([getattr(o, key) for o in outcomes]) for key in Outcome.__annotations__]
        )
    return np.array(means)


def _ratio(part: Any, whole: Any) -> Interval:
    """Σ part / Σ whole over prompts, with the interval of the linearised ratio."""
    ratio = float(part.sum() / whole.sum())
    interval = mean_interval((part - ratio * whole) / whole.mean())
    assert interval.low is not None
    assert interval.high is not None
    return Interval(ratio, ratio + interval.low, ratio + interval.high)


def kl_of_choices(pools: Sequence[Pool], n: int, draws: int = 40) -> dict[str, Any]:
    """The KL measured of the best of n, against the others, beside the closed form; the mean of
    some draws of a prompt's responses is one value."""
    rng = np.random.default_rng(n)
    by_prompt = []
    for pool in pools:
        scores = np.array(pool.score)
        orders = [rng.permutation(len(scores)) for _ in range(draws)]
        ratios = [best_of_n_log_ratio(scores[o[:n]].max(), scores[o[n:]], n) for o in orders]
        by_prompt.append(np.mean(ratios))
    return {
        "n": n,
        "closed_form": best_of_n_kl(n),
        "measured": mean_interval(by_prompt).to_json(),
        "repeated_scores": float(np.mean([1 - len(set(p.score)) / len(p.score) for p in pools])),
    }


def serve(run: Path, pools: Sequence[Pool], n: int) -> dict[str, Any]:
    """Best-of-n through the server's engine: reward, true reward and KL beside the curve's."""
    from accord.serve.best_of.choice import BestOfOptions
    from accord.serve.best_of.engine import BestOfEngine
    from accord.serve.best_of.scoring import Scorer
    from accord.serve.engine import Delta, EngineRequest
    from accord.serve.local import LocalEngine

    rows = read_responses(run / "sft-test" / "responses.jsonl")[: len(pools)]
    reward = build_reward([model_source(str(run / "reward" / "model"))], device="cpu")
    lm = load_causal(str(run / "sft" / "model"), device="cpu")

    async def ask(engine: BestOfEngine, row: ResponseRow, seed: int) -> tuple[str, bool]:
        text, finished = "", True
        request = EngineRequest(row.prompt, SamplingSettings(), 64, seed)
        async for event in engine.stream(request):
            if isinstance(event, Delta):
                text, finished = text + event.text, event.finish_reason == "stop"
        return text, finished

    async def ask_all() -> list[tuple[str, bool]]:
        local = LocalEngine(lm, ("sft",), max_rows=256, max_waiting=10_000)
        engine = BestOfEngine(local, Scorer(reward), BestOfOptions(n=n))
        try:
            return await asyncio.gather(*(ask(engine, row, i) for i, row in enumerate(rows)))
        finally:
            await engine.close()

    answers = asyncio.run(ask_all())
    scores = reward([row.prompt for row in rows], [t for t, _ in answers], [f for _, f in answers])
    truth = [true_reward(row.prompt, t) for row, (t, _) in zip(rows, answers, strict=True)]
    weights = [best_of_n_weights(pool.score, n) for pool in pools]
    curve = [float(w @ np.array(p.score)) for w, p in zip(weights, pools, strict=True)]
    true_curve = [float(w @ np.array(p.truth)) for w, p in zip(weights, pools, strict=True)]
    return {
        "n": n,
        "reward_served": mean_interval(scores).to_json(),
        "reward_curve": mean_interval(curve).to_json(),
        "reward_difference": mean_interval(np.array(scores) - curve).to_json(),
        "true_difference": mean_interval(np.array(truth) - true_curve).to_json(),
        "kl_closed_form": best_of_n_kl(n),
        "kl_served": measured_best_of_n_kl(scores, [p.score for p in pools], n).to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    pools = read_pools(options.run, options.prompts)
    results: dict[str, Any] = {
        "prompts": len(pools),
        "ways": [row for n in SCHEDULES for row in compare(pools, n, options.draws)],
        "kl": [kl_of_choices(pools, n) for n in (2, 4, 8, 16)],
    }
    if options.serve:
        results["served"] = serve(options.run, pools, 16)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1))
    print("| N | way | tokens | reward's gain | true gain |\n|---|---|---|---|---|")
    for row in results["ways"]:
        shares = [row["reward_gain_share"], row["true_gain_share"]]
        cells = [f"{s['mean']:.2f} ({s['low']:.2f} to {s['high']:.2f})" for s in shares]
        print(f"| {row['n']} | {row['way']} | {row['cost']:.2f} | {' | '.join(cells)} |")
    print(json.dumps({k: results[k] for k in ("kl", "served") if k in results}, indent=1))


if __name__ == "__main__":
    main()
