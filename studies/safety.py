"""The training data of `recipes/safety-smollm2.yaml`, from published sets and accord's own texts.

    python studies/safety.py --harmful strongreject_dataset.csv \\
        --held-out prompts.csv advbench_behaviors.csv harmbench_behaviors_text_val.csv \\
        --helpful instances.jsonl --dialogues harmless.jsonl.gz --output-dir runs/safety-data

Harmful requests are StrongREJECT's (MIT), without those that a held-out suite has: what the models
are attacked with is not trained on. Their refusals, and the empty answers that comply, are accord's
own. Harmless requests are LLMBar's (MIT) with the better of its two outputs, and accord's own look-
alikes (`safety_look_alikes.jsonl`). Of HH-RLHF's harmless dialogues (MIT) those of one exchange are
taken, as they are.

- `demonstrations.jsonl`: refusals of harmful requests, answers to harmless ones.
- `preferences.jsonl`: a refusal before an answer that complies (safety), an answer before a
  needless refusal (helpfulness, against over-refusal), and dialogues.

The command prints how many rows of each kind there are.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safety_texts import COMPLIANCE, NEEDLESS_REFUSALS, REFUSALS

from accord.data.files import read_rows, require_values
from accord.data.suites.read import SuiteSource, read_suites
from accord.data.turns import parse_hh_dialogue
from accord.data.write import write_jsonl

Pair = tuple[str, str, str, str]
"""What a row teaches, its request, the answer to prefer, and the other one."""

LONGEST = 1_200  # characters of a request or an answer
LOOK_ALIKES = Path(__file__).with_name("safety_look_alikes.jsonl")
REPEATS = 3  # of the look-alikes, which are few and each against another needless refusal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--harmful", required=True, help="a suite of harmful requests to train on")
    parser.add_argument("--held-out", nargs="*", default=[], help="suites to leave out")
    parser.add_argument("--helpful", required=True, help="LLMBar's instances")
    parser.add_argument("--dialogues", help="HH-RLHF's harmless dialogues")
    parser.add_argument("--max-dialogues", type=int, default=300)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    pairs = [
        *safety_pairs(options.harmful, options.held_out, rng),
        *helpful_pairs(options.helpful, rng),
    ]
    dialogues = []
    if options.dialogues is not None:
        dialogues = dialogue_pairs(options.dialogues, options.max_dialogues)
    write(options.output_dir, pairs, dialogues, rng)
    counts = Counter(kind for kind, *_ in [*pairs, *dialogues])
    print(", ".join(f"{n:,} rows of {kind}" for kind, n in counts.items()))


def safety_pairs(harmful: str, held_out: Sequence[str], rng: random.Random) -> list[Pair]:
    """A refusal against an answer that complies, for each harmful request that no other suite
    has."""
    suites = read_suites([*(SuiteSource(path) for path in held_out), SuiteSource(harmful)])
    return [
        ("safety", prompt.request, rng.choice(REFUSALS), rng.choice(COMPLIANCE))
        for prompt in suites[-1].prompts
        if prompt.is_harmful
    ]


def helpful_pairs(path: str, rng: random.Random) -> list[Pair]:
    """An answer against a needless refusal: LLMBar's better outputs, and the look-alikes."""
    answered = []
    for row in map(require_values, read_rows(path)):
        better = str(row[f"output_{row['label']}"])
        answered.append((str(row["input"]), better))
    for line in LOOK_ALIKES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answered += [(row["prompt"], row["answer"])] * REPEATS
    return [
        ("helpfulness", request, answer, rng.choice(NEEDLESS_REFUSALS))
        for request, answer in answered
        if max(len(request), len(answer)) <= LONGEST and answer.strip()
    ]


def dialogue_pairs(path: str, limit: int) -> list[Pair]:
    """The first dialogues of one exchange, whose two answers differ."""
    pairs: list[Pair] = []
    for row in map(require_values, read_rows(path)):
        chosen, rejected = (parse_hh_dialogue(row[key]) for key in ("chosen", "rejected"))
        answers = [turns[-1].content.strip() for turns in (chosen, rejected)]
        is_short = len(chosen) == len(rejected) == 2 and chosen[0] == rejected[0]
        if is_short and all(answers) and answers[0] != answers[1]:
            pairs.append(("dialogues", chosen[0].content, answers[0], answers[1]))
        if len(pairs) == limit:
            break
    return pairs


def write(
    folder: Path, pairs: Sequence[Pair], dialogues: Sequence[Pair], rng: random.Random
) -> None:
    """Write both files, each shuffled. Dialogues are preferences only."""
    demonstrations = [
        {"prompt": _turn(request), "completion": chosen} for _, request, chosen, _ in set(pairs)
    ]
    preferences = [
        {"prompt": _turn(request), "chosen": chosen, "rejected": rejected, "kind": kind}
        for kind, request, chosen, rejected in [*pairs, *dialogues]
    ]
    for name, rows in (("demonstrations", demonstrations), ("preferences", preferences)):
        rows.sort(key=lambda row: json.dumps(row, sort_keys=True))
        rng.shuffle(rows)
        write_jsonl(folder / f"{name}.jsonl", rows)


def _turn(request: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": request}]


if __name__ == "__main__":
    main()
