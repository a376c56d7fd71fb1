"""The training data of `recipes/safety-smollm2.yaml`, from published sets and accord's own texts.

    python studies/safety.py --look-alikes runs/look_alikes.jsonl
    accord sample model=MODEL dataset=runs/look_alikes.jsonl output_dir=runs/answers \\
        num_responses=1 temperature=0 max_new_tokens=56
    python studies/safety.py --harmful strongreject_dataset.csv \\
        --held-out prompts.csv advbench_behaviors.csv harmbench_behaviors_text_val.csv accord \\
        --helpful instances.jsonl --answers runs/answers/responses.jsonl \\
        --output-dir runs/safety-data

Harmless requests that look harmful and harmful requests in the same words (contrasts) are accord's
own (`safety_look_alikes.jsonl`), as are all refusals. Look-alikes are answered by the model itself,
so that it has nothing to learn there but not to refuse; where it refused, or did not come to the
end of a sentence, by the file's answer, as without `--answers`. Other harmful
requests are StrongREJECT's (MIT); other harmless ones are LLMBar's (MIT) with the better of its two
outputs. What a held-out suite has, word for word or nearly, is left out: what the models are
attacked with is not trained on.

- `demonstrations.jsonl`: refusals of harmful requests, answers to harmless ones.
- `preferences.jsonl`: a refusal before an answer (safety), an answer before a needless refusal
  (helpfulness, against over-refusal). A look-alike and its contrast have the same refusal and the
  same answer, in opposite order: no wording is better than another, and only the request decides.
- `held_out.jsonl`: LLMBar's rows that are in neither, for `accord audit`.

`safety_trivia.jsonl` and `safety_questions.jsonl`, of accord's own, are for the audit too.

The command prints how many rows of each kind there are, and how many were left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safety_texts import COMPLIANCE, REFUSALS

from accord.data.files import read_rows, require_values
from accord.data.suites.read import SuiteSource, read_suites
from accord.data.write import write_jsonl
from accord.measure.texts.refusals import grade_refusal

Pair = tuple[str, str, str, str]
"""What a row teaches, its request, the answer to prefer, and the other one."""

LONGEST = 600  # characters of a request or an answer
LOOK_ALIKES = Path(__file__).with_name("safety_look_alikes.jsonl")
NEAR = 0.5  # of the content words of two requests, shared: more or less the same request
WHOLE_SENTENCES = re.compile(r"\S.*[^\W\d_][.!?](?=\s|$)", re.DOTALL)
FUNCTION_WORDS = frozenset(
    "a an the i me my you your he she his her it its we our they their them is are was were be do "
    "does did how what which who where when why can could should would will may to of in on at for "
    "from with by and or not no so that this as if into up out off get make".split()
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--look-alikes", type=Path, help="write these prompts to a file, and stop")
    parser.add_argument("--harmful", help="a suite of harmful requests to train on")
    parser.add_argument("--held-out", nargs="+", default=[], help="suites to leave out")
    parser.add_argument("--helpful", help="LLMBar's instances")
    parser.add_argument("--answers", type=Path, help="the model's responses to the look-alikes")
    parser.add_argument("--max-harmful", type=int, default=160)
    parser.add_argument("--max-helpful", type=int, default=120)
    parser.add_argument("--output-dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.look_alikes is not None:
        texts = LOOK_ALIKES.read_text(encoding="utf-8").splitlines()
        rows = ({"prompt": _turn(json.loads(text)["prompt"])} for text in texts)
        write_jsonl(options.look_alikes, rows)
        return
    needed = ("harmful", "held_out", "helpful", "output_dir")
    missing = [f"--{key.replace('_', '-')}" for key in needed if not getattr(options, key)]
    if missing:
        parser.error(f"the training data needs {', '.join(missing)}")
    write_data(options)


def write_data(options: argparse.Namespace) -> None:
    """Make all pairs and write the three files."""
    rng = random.Random(options.seed)
    suites = read_suites([SuiteSource(path) for path in [*options.held_out, options.harmful]])
    held_out = [content_words(row.request) for suite in suites[:-1] for row in suite.prompts]
    harmful = [row.request for row in suites[-1].prompts if row.is_harmful]
    parts = (
        (look_alike_pairs(own_answers(options.answers), rng), None),
        (safety_pairs(harmful, rng), options.max_harmful),
        (helpful_pairs(options.helpful, rng), options.max_helpful),
    )
    pairs: list[Pair] = []
    kept: list[Pair] = []
    left_out = 0
    for part, limit in parts:
        every = list(part)
        kept = [pair for pair in every if not is_near(pair[1], held_out)]
        left_out += len(every) - len(kept)
        pairs += kept if limit is None else rng.sample(kept, min(limit, len(kept)))
    write(options.output_dir, pairs, rng)
    trained = {request for _, request, *_ in pairs}
    unseen = [pair for pair in kept if pair[1] not in trained]  # of the last part, LLMBar's
    write_jsonl(options.output_dir / "held_out.jsonl", map(demonstration, unseen))
    counts = Counter(kind for kind, *_ in pairs)
    print(", ".join(f"{n:,} rows of {kind}" for kind, n in counts.items()))
    print(f"{left_out:,} left out, since a held-out suite has them or nearly the same.")


def content_words(text: str) -> frozenset[str]:
    """Its words in lower case, without those of grammar."""
    return frozenset(re.findall(r"[^\W\d_]+", text.lower())) - FUNCTION_WORDS


def is_near(text: str, held_out: Sequence[frozenset[str]]) -> bool:
    """Whether a held-out request shares at least half of all content words of both (Jaccard)."""
    words = content_words(text)
    return any(len(words & other) >= NEAR * len(words | other) for other in held_out)


def own_answers(path: Path | None) -> dict[str, str]:
    """The model's answers by prompt, to the end of their last sentence. Those that refuse are left
    out."""
    answers: dict[str, str] = {}
    lines = [] if path is None else path.read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        prompt, text = row["prompt"][-1]["content"], row["responses"][0]["text"]
        sentences = WHOLE_SENTENCES.match(text)
        if sentences and grade_refusal(text, prompt).verdict == "complied":
            answers[prompt] = sentences[0]
    return answers


def look_alike_pairs(own: dict[str, str], rng: random.Random) -> Iterator[Pair]:
    """A look-alike's answer before a refusal and, for its contrast, that refusal before it."""
    for line in LOOK_ALIKES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        refusal = rng.choice(REFUSALS)
        answer = own.get(row["prompt"], row["answer"])
        yield "helpfulness", row["prompt"], answer, refusal
        if "contrast" in row:
            yield "safety", row["contrast"], refusal, answer


def safety_pairs(harmful: Sequence[str], rng: random.Random) -> Iterator[Pair]:
    """A refusal before an answer that complies."""
    for request in harmful:
        yield "safety", request, rng.choice(REFUSALS), rng.choice(COMPLIANCE)


def helpful_pairs(path: str, rng: random.Random) -> Iterator[Pair]:
    """An answer before a needless refusal: LLMBar's better outputs."""
    for row in map(require_values, read_rows(path)):
        request, better = str(row["input"]), str(row[f"output_{row['label']}"])
        if max(len(request), len(better)) <= LONGEST and better.strip():
            yield "helpfulness", request, better, rng.choice(REFUSALS)


def write(folder: Path, pairs: Sequence[Pair], rng: random.Random) -> None:
    """Write both files, each shuffled."""
    demonstrations = list(map(demonstration, pairs))
    preferences = [
        {"prompt": _turn(request), "chosen": chosen, "rejected": rejected, "kind": kind}
        for kind, request, chosen, rejected in pairs
    ]
    for name, rows in (("demonstrations", demonstrations), ("preferences", preferences)):
        rows.sort(key=lambda row: json.dumps(row, sort_keys=True))
        rng.shuffle(rows)
        write_jsonl(folder / f"{name}.jsonl", rows)


def demonstration(pair: Pair) -> dict[str, Any]:
    """Its request with the answer to prefer."""
    return {"prompt": _turn(pair[1]), "completion": pair[2]}


def _turn(request: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": request}]


if __name__ == "__main__":
    main()
