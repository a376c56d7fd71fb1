"""Is the advice of `accord advise` right? Cases on the embedded world whose best choice is known.

    python studies/advise.py --folder runs/advise --seeds 2 3

Each case gives `accord advise` files and settings as a user would: pairs of some number and noise,
demonstrations, labels, a reward with its probe, a request's budget. Every plausible option is then
run on tiny models, and its true reward measured on the same 140 unseen prompts. Advice is right
where its option is the best, or the paired difference from the best has an interval over the
prompts that reaches 0; it loses against SFT where the interval of that difference lies below 0. The
rules were written on seed 0 with `--part development`: other amounts of data and noise. Finished
runs are not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from advise_runs import CANDIDATES, Data, Scores, Truth
from detector_runs import Workshop

from accord.data.write import write_jsonl
from accord.measure.statistics import mean_interval
from accord.pipeline.advise.advice import Advice, advise
from accord.pipeline.advise.gather import gather
from accord.pipeline.probe.run import run_probe
from accord.pipeline.progress import run_to_end
from accord.runs import write_json_atomic
from accord.settings.advise import AdviseSettings
from accord.settings.probe import ProbeSettings

RULES = Path(__file__).parent / "advise_runs.py"


@dataclass(frozen=True, slots=True)
class Case:
    """What a user has: data, a reward by its name, a model, and what inference may cost."""

    name: str
    data: Data | None = None
    reward: str | None = None
    model: str = "sft"
    demonstrations: bool = False
    candidates: int = 1
    trainable: bool = True


CASES: Mapping[str, tuple[Case, ...]] = {
    "development": (
        Case("16 pairs", Data(16)),
        Case("40 pairs", Data(40)),
        Case("200 pairs", Data(200)),
        Case("2,000 pairs", Data(2000)),
        Case("200 pairs, 30% wrong", Data(200, 0.3)),
        Case("2,000 pairs, 40% wrong", Data(2000, 0.4)),
        Case("2,000 pairs, half wrong", Data(2000, 0.5)),
        Case("2,000 pairs, 8 answers", Data(2000), candidates=CANDIDATES),
        Case("800 pairs of another author", Data(800, author="base")),
        Case("800 labels", Data(800, labels=True)),
        Case("a flawed rule", reward="flawed"),
    ),
    "test": (
        Case("20 pairs", Data(20)),
        Case("100 pairs", Data(100)),
        Case("500 pairs", Data(500)),
        Case("3,000 pairs", Data(3000)),
        Case("100 pairs, 30% wrong", Data(100, 0.3)),
        Case("500 pairs, 30% wrong", Data(500, 0.3)),
        Case("3,000 pairs, 30% wrong", Data(3000, 0.3)),
        Case("500 pairs, half wrong", Data(500, 0.5)),
        Case("3,000 pairs, half wrong", Data(3000, 0.5)),
        Case("500 pairs, 8 answers", Data(500), candidates=CANDIDATES),
        Case("3,000 pairs, 8 answers", Data(3000), candidates=CANDIDATES),
        Case("500 pairs of another author", Data(500, author="base")),
        Case("demonstrations alone", demonstrations=True),
        Case("a base model, demonstrations and pairs", Data(500), None, "base", True),
        Case("1,000 labels", Data(1000, labels=True)),
        Case("1,000 labels, half wrong", Data(1000, 0.5, labels=True)),
        Case("a rule", reward="true"),
        Case(
            "a rule, no training, 8 answers", None, "true", candidates=CANDIDATES, trainable=False
        ),
        Case("a flawed rule", reward="flawed"),
        Case("a flawed rule, 8 answers", reward="flawed", candidates=CANDIDATES),
    ),
}
Option = Callable[[], Scores]


def options(case: Case, truth: Truth) -> dict[str, Option]:
    """Every plausible option of a case, by the name that advice has for it. SFT of a base model on
    all demonstrations is the supervised model."""
    start, data, reward = case.model, case.data, case.reward
    found: dict[str, Option] = {"stay": lambda: truth.stay(start)}
    several = case.candidates >= CANDIDATES
    if reward is not None and several:
        found["best-of-n"] = lambda: truth.best_of(start, reward)
    if not case.trainable:
        return found
    if case.demonstrations:
        base = start == "base"
        found["sft"] = (
            (lambda: truth.stay("sft")) if base else lambda: truth.offline("sft", start, None)
        )
    if reward is not None:
        found["grpo"] = lambda: truth.online(start, reward)
    if data is None:
        return found
    for method in ("kto",) if data.labels else ("dpo", *(("orpo",) if start == "base" else ())):
        found[method] = lambda method=method: truth.offline(method, start, data)
    if several:
        found["reward+best-of-n"] = lambda: truth.best_of(start, data)
    return found


def advice_on(case: Case, truth: Truth) -> Advice:
    """What `accord advise` says, from files as a user has them."""
    values: dict[str, Any] = {
        "model": str(truth.model(case.model)),
        "supervised": case.model != "base",
        "candidates": case.candidates,
        "trainable": case.trainable,
        "device": "cpu",
        "data": [],
    }
    if case.data is not None:
        path = truth.folder / f"{case.data.name}.jsonl"
        write_jsonl(path, truth.rows(case.data))
        values |= {"data": [str(path)]}
        values |= {"pairs_from": "model" if case.data.author == case.model else "elsewhere"}
    if case.demonstrations:
        values["data"].append(str(truth.workshop.folder / "world/demonstrations.jsonl"))
    if case.reward is not None:
        values |= {
            "rewards": [{"kind": "python", "function": f"{RULES}:{case.reward}_rule"}],
            "responses": str(truth.responses(case.model)),
            "probe": str(_probe(case.reward, truth)),
        }
    settings = AdviseSettings.model_validate(values)
    return advise(run_to_end(gather(settings)))


def _probe(reward: str, truth: Truth) -> Path:
    """probe.json of a rule on 150 pairs with right labels."""
    folder = truth.folder / f"probe-{reward}"
    if not (folder / "probe.json").is_file():
        pairs = truth.folder / "held-out.jsonl"
        write_jsonl(pairs, truth.rows(Data(150, 0.0)))
        settings = ProbeSettings.model_validate(
            {
                "preferences": str(pairs),
                "output_dir": str(folder),
                "rewards": [{"kind": "python", "function": f"{RULES}:{reward}_rule"}],
                "probes": ["lengthened", "flattered", "repeated", "emptied"],
            }
        )
        run_to_end(run_probe(settings))
    return folder / "probe.json"


def judge_case(case: Case, truths: list[Truth]) -> dict[str, Any]:
    """The true reward of every option, the advice of each seed, and whether it was right."""
    by_seed = [{name: _means(run()) for name, run in options(case, t).items()} for t in truths]
    means = {
        name: np.mean([scores[name] for scores in by_seed], axis=0) for name in by_seed[0]
    }  # [prompts]: the prompts are the units, and seeds their repetitions
    best = max(means, key=lambda name: float(means[name].mean()))
    rows = []
    for truth in truths:
        advice = advice_on(case, truth)
        option = "stay" if advice.choice == "annotate" else advice.choice
        known = option in means
        rows.append(
            {
                "seed": truth.seed,
                "advice": advice.choice,
                "rule": advice.rule.name,
                "confidence": advice.confidence,
                "right": known and not _is_below(means[option], means[best]),
                "loses": not known or _is_below(means[option], means["stay"]),
            }
        )
    rewards = {name: round(float(values.mean()), 3) for name, values in means.items()}
    return {"case": case.name, "rewards": rewards, "best": best, "seeds": rows}


def _means(scores: Scores) -> np.ndarray[Any, Any]:
    return np.array([np.mean(row) for row in scores])


def _is_below(values: Any, others: Any) -> bool:
    """Whether the interval of the paired difference lies below 0."""
    if np.array_equal(values, others):
        return False
    high = mean_interval(values - others).high
    return high is not None and high < 0


def markdown(results: list[dict[str, Any]]) -> str:
    lines = ["| case | true reward of each option | advice | right |", "|---|---|---|---|"]
    for row in results:
        rewards = ", ".join(
            f"**{n} {v:.3f}**" if n == row["best"] else f"{n} {v:.3f}"
            for n, v in row["rewards"].items()
        )
        advised = ", ".join(dict.fromkeys(seed["advice"] for seed in row["seeds"]))
        right = sum(seed["right"] for seed in row["seeds"])
        loses = " (loses)" if any(seed["loses"] for seed in row["seeds"]) else ""
        lines.append(
            f"| {row['case']} | {rewards} | {advised} | {right} of {len(row['seeds'])}{loses} |"
        )
    right = sum(all(seed["right"] for seed in row["seeds"]) for row in results)
    losses = sum(any(seed["loses"] for seed in row["seeds"]) for row in results)
    lines.append(
        f"\n{right} of {len(results)} cases are right on every seed; {losses} lose against SFT."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/advise"))
    parser.add_argument("--part", choices=[*CASES], default="test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    arguments = parser.parse_args()
    workshop = Workshop(arguments.folder)
    truths = [Truth(workshop, seed) for seed in arguments.seeds]
    results = []
    for case in CASES[arguments.part]:
        results.append(judge_case(case, truths))
        print(results[-1], flush=True)
    write_json_atomic(arguments.folder / f"advise-{arguments.part}.json", results)
    print(markdown(results))


if __name__ == "__main__":
    main()
