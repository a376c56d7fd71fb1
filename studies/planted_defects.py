"""How many planted defects `accord data check` finds, and how many clean rows it accuses.

    python studies/planted_defects.py --work runs/planted [--refusals completions.csv]

Writes 20,000 clean pairs with 200 rows of each defect among them, checks the file, and prints for
each kind of finding the planted rows that it names and the clean rows that it names, with exact
intervals. With `--refusals` (files of XSTest's completions) the planted refusals are those that
people labelled as full refusals; otherwise they are a few sentences of this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.measure.statistics import proportion_interval
from accord.pipeline.checks.findings import format_bounds
from accord.pipeline.checks.kinds import KINDS
from accord.pipeline.data_check import check_data

Row = dict[str, Any]

NOUNS = """garden bicycle kettle bridge novel violin market harbour lantern orchard library train
museum blanket engine recipe window river mountain island teapot camera pencil festival village
kitchen balcony telescope puzzle compass sailboat tractor greenhouse notebook carpet fountain
chimney staircase lighthouse workshop bakery theatre aquarium windmill glacier valley meadow canal
tunnel beehive waterfall cathedral playground bookshelf umbrella suitcase typewriter piano drum
candle mirror ladder hammer saddle barrel anchor basket curtain pillow""".split()
ADJECTIVES = """old small quiet wooden modern dusty bright narrow heavy gentle hidden broken famous
simple costly local green foreign portable ancient crowded empty frozen golden humble noisy patient
rough silent tidy useful vast warm young curious delicate elegant fragile""".split()
VERBS = """repair paint clean build describe move store measure compare choose draw light heat cool
open protect plan test restore decorate insulate carry photograph inspect organise weigh wrap
rebuild polish replace""".split()
ASKED = (
    "How do I {v} a {a} {n} near the {n2}?",
    "What should I know before I {v} the {a} {n} of a {a2} {n2}?",
    "Can you explain how people {v} a {n} in a {a} {n2}?",
    "Which {n} would you choose to {v} a {a} {n2}, and when?",
    "Write a short note on how to {v} one {a} {n} with a {n2}.",
    "My {a} {n} stands beside a {n2}. How can I {v} it safely?",
    "Give me three ways to {v} a {a} {n} without a {n2}.",
    "Is it hard to {v} the {n} that came with my {a} {n2}?",
)
SAID = (
    "Start with the {a} {n} and {v} it before the {n2}.",
    "A {a} {n} needs time, so {v} it in the morning.",
    "Most people {v} the {n} first and leave the {a} {n2} for later.",
    "You could also {v} a {n} that is {a} and {a2}.",
    "The {n2} beside the {n} may be {a}, which matters when you {v} it.",
    "After that, {v} the {a} {n2} with a {n}.",
    "It depends on the {n}: a {a} one is easier to {v}.",
    "Ask a neighbour with a {a2} {n2} how they {v} their {n}.",
)
GOOD = """because example first measure carefully check step exactly safely reason therefore
precisely""".split()
TRAPS = (
    "```\nfor pan in pans:\n    print(pan - 1)\n```",
    "- one kettle\n- two spare handles\n- a brush",
    "You find the manual at https://example.org/manual/page-3",
    "Best wishes,\nAnna",
    "Total: 42",
    "Anna: Is it done?\nBen: Nearly. I only have to wait.",
    "In HTML, write <s>old price</s> or <b>new price</b>.",
    "The user: she wants it quiet. The assistant: a neighbour who helps.",
    "They asked: what do you think? I think <3 is a heart.",
    "x = a[3] - b[INDEX]",
)
"""Ends of responses that look like a defect and are none."""
POOR = """whatever stuff somehow anyway dunno maybe boring kinda blah nothing""".split()
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "As an AI language model, I am not able to provide this information.",
    "I'm not comfortable answering that question.",
)
TOKENS = ("<|im_end|>", "<|eot_id|>", "</s>", "[INST]", "<end_of_turn>", "<|endoftext|>")


@dataclass(slots=True)
class Planted:
    """The lines of the file, what each line has, and what else the check is given."""

    lines: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # of each line: "clean", a kind, or "partner"
    surprising: set[int] = field(default_factory=set)  # clean lines whose worse response is chosen
    held_out: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)


class Writer:
    """Clean pairs: what is asked and answered is drawn from lists of words.

    The response with more words of GOOD and fewer of POOR is preferred, with the probability of a
    Bradley-Terry model, so that some clean labels are surprising too.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.asked: set[str] = set()

    def fill(self, form: str) -> str:
        choose = self.rng.choice
        n, n2 = self.rng.sample(NOUNS, 2)
        a, a2 = self.rng.sample(ADJECTIVES, 2)
        return form.format(n=n, n2=n2, a=a, a2=a2, v=choose(VERBS))

    def prompt(self) -> str:
        while (text := self.fill(self.rng.choice(ASKED))) in self.asked:
            pass
        self.asked.add(text)
        return text

    def response(self) -> tuple[str, int]:
        """A response of 2 to 6 sentences, and how good it is."""
        quality = self.rng.randint(-3, 3)
        sentences = [self.fill(form) for form in self.rng.sample(SAID, self.rng.randint(2, 6))]
        for _ in range(abs(quality)):
            word = self.rng.choice(GOOD if quality > 0 else POOR)
            at = self.rng.randrange(len(sentences))
            words = sentences[at].split()
            words.insert(self.rng.randint(1, len(words) - 1), word)
            sentences[at] = " ".join(words)
        if self.rng.random() < 0.1:
            return " ".join(sentences) + "\n\n" + self.rng.choice(TRAPS), quality
        if self.rng.random() < 0.15:
            return "\n".join(f"- {sentence}" for sentence in sentences), quality
        return " ".join(sentences), quality

    def pair(self, prompt: str | None = None) -> tuple[Row, int]:
        """A clean row, and by how much the chosen response is better."""
        (one, good), (two, bad) = self.response(), self.response()
        if self.rng.random() > 1 / (1 + 4.0 ** (bad - good)):
            one, two, good, bad = two, one, bad, good
        row: Row = {"prompt": prompt or self.prompt(), "chosen": one, "rejected": two}
        if self.rng.random() < 0.5:
            low = self.rng.randint(1, 8)
            row |= {"score_chosen": low + self.rng.randint(1, 2), "score_rejected": low}
        return row, good - bad

    def changed(self, text: str) -> str:
        """The text with another noun or adjective in one position."""
        words = text.split(" ")
        words[self.rng.randrange(len(words))] = self.rng.choice(NOUNS)
        return " ".join(words)


def plant_unusable(writer: Writer, row: Row, i: int) -> str:
    broken = ({"rejected": " "}, {"chosen": None}, {"rejected": 7}, {})[i % 4]
    return json.dumps(row | broken)[: None if broken else -20]


def plant_equal(writer: Writer, row: Row, i: int) -> Row:
    chosen = row["chosen"]
    return row | {"rejected": chosen if i % 2 else chosen.upper().replace(" ", "  ") + "!"}


def plant_scores(writer: Writer, row: Row, i: int) -> Row:
    return row | {"score_chosen": 3 + i % 2 * 0.5, "score_rejected": 3.5}


def plant_echo(writer: Writer, row: Row, i: int) -> Row:
    side = ("chosen", "rejected")[i % 2]
    return row | {side: f"{row['prompt']}\n{row[side]}"}


def plant_token(writer: Writer, row: Row, i: int) -> Row:
    side, token = ("chosen", "rejected")[i % 2], TOKENS[i % len(TOKENS)]
    return row | {side: row[side] + token}


def plant_cut(writer: Writer, row: Row, i: int) -> Row:
    text = " ".join(writer.fill(form) for form in SAID)
    words = text.split(" ")
    # Never behind a full stop: the text ends within a sentence.
    at = writer.rng.choice([k for k in range(20, len(words)) if words[k - 1][-1] not in ".:"])
    return row | {"chosen": " ".join(words[:at])}


def plant_turn(writer: Writer, row: Row, i: int) -> Row:
    question, answer = writer.prompt(), writer.response()[0]
    if i % 3 == 2:
        turns = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": answer},
        ]
        return (
            row
            | {"prompt": turns}
            | {
                side: [{"role": "assistant", "content": row[side]}]
                for side in ("chosen", "rejected")
            }
        )
    human, assistant = (("Human", "Assistant"), ("User", "Assistant"))[i % 3]
    side = ("chosen", "rejected")[i % 2]
    return row | {side: f"{row[side]}\n\n{human}: {question}\n\n{assistant}: {answer}"}


def plant_thought(writer: Writer, row: Row, i: int) -> Row:
    side, end = ("chosen", "rejected")[i % 2], ("</think>\n\n", "")[i % 4 == 3]
    return row | {side: f"<think>{writer.response()[0]}{end}{row[side]}"}


BY_ROW: dict[str, Callable[[Writer, Row, int], Row | str]] = {
    "unusable": plant_unusable,
    "equal-pairs": plant_equal,
    "scores": plant_scores,
    "prompt-echo": plant_echo,
    "template-tokens": plant_token,
    "cut-endings": plant_cut,
    "wrong-turn": plant_turn,
    "thoughts": plant_thought,
}


def plant(clean: int, each: int, refusals: Sequence[str], rng: random.Random) -> Planted:
    """The file: `clean` clean rows, `each` rows of each defect, and those that are repeated."""
    writer, planted = Writer(rng), Planted()
    drawn = [writer.pair() for _ in range(clean + 3 * each)]
    pairs = [row for row, _ in drawn]
    partners = rng.sample(range(len(drawn)), 3 * each)
    rows: list[tuple[str, Row | str]] = []
    for kind, change in BY_ROW.items():
        rows += [(kind, change(writer, writer.pair()[0], i)) for i in range(each)]
    for i in partners[:each]:
        rows.append(("duplicates", pairs[i]))
    for i in partners[each : 2 * each]:
        texts = {c: writer.changed(pairs[i][c]) for c in ("prompt", "chosen", "rejected")}
        rows.append(("near-duplicates", pairs[i] | texts))
    for i in partners[2 * each :]:
        swapped = {"chosen": pairs[i]["rejected"], "rejected": pairs[i]["chosen"]}
        rows.append(("contradictions", {"prompt": pairs[i]["prompt"]} | swapped))
    for _ in range(each // 4):
        prompt, answers = writer.prompt(), [writer.response()[0] for _ in range(4)]
        rows += [
            ("cycles", {"prompt": prompt, "chosen": a, "rejected": b})
            for a, b in zip(answers, answers[1:] + answers[:1], strict=True)
        ]
    for i in range(each):
        row, better = writer.pair()
        while better < 1:
            row, better = writer.pair()
        labels = {"chosen": row["rejected"], "rejected": row["chosen"]}
        rows.append(("label-noise", {"prompt": row["prompt"]} | labels))
        row = writer.pair()[0]
        planted.held_out.append(f"  {row['prompt'].upper()}" if i % 2 else row["prompt"])
        rows.append(("shared-prompts", row))
        row = writer.pair()[0]
        asked = writer.prompt() if i % 2 else " ".join(rng.sample(NOUNS, 5)) + "?"
        planted.evaluation.append(asked)
        rows.append(("evaluation-overlap", row | {"prompt": f"Answer briefly. {asked} Thank you!"}))
        rows.append(("refusals", writer.pair()[0] | {"chosen": refusals[i % len(refusals)]}))
    partnered = set(partners)
    rows += [("partner" if i in partnered else "clean", row) for i, row in enumerate(pairs)]
    # A repeat is what stands second, so the clean row has to stand first.
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0] not in ("partner",), rng.random()))
    first_clean = len(rows) - len(pairs)
    for i in order:
        kind, row = rows[i]
        if kind == "clean" and drawn[i - first_clean][1] < 0:
            planted.surprising.add(len(planted.lines))
        planted.kinds.append(kind)
        planted.lines.append(row if isinstance(row, str) else json.dumps(row))
    return planted


def read_refusals(paths: Sequence[str]) -> list[str]:
    """The completions of XSTest that people labelled as full refusals, or REFUSALS."""
    texts = []
    for path in paths:
        with Path(path).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["final_label"] == "2_full_refusal":
                    texts.append(row["completion"])
    return texts or list(REFUSALS)


def measure(planted: Planted, folder: Path) -> list[dict[str, Any]]:
    """Check the file, and count for each kind the planted and the clean rows that are named."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: str(folder / f"{name}.jsonl") for name in ("pairs", "test", "evaluation")}
    Path(paths["pairs"]).write_text("".join(f"{line}\n" for line in planted.lines))
    for name, prompts in (("test", planted.held_out), ("evaluation", planted.evaluation)):
        lines = (json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        Path(paths[name]).write_text("".join(lines))
    check = check_data(
        paths["pairs"], held_out=[paths["test"]], evaluation_sets=[paths["evaluation"]]
    )
    named = {f.kind: {r.number for r in f.rows or ()} for f in check.findings}
    table = []
    for kind in (name for name, of in KINDS.items() if of.names_rows):
        counts = {}
        for group in (kind, "clean"):
            rows = [i for i, of in enumerate(planted.kinds) if of == group]
            counts[group] = (sum(i in named.get(kind, ()) for i in rows), len(rows))
        row = {"kind": kind, "hits": counts[kind], "alarms": counts["clean"]}
        row["surprising"] = len(planted.surprising & named.get(kind, set()))
        table.append(row)
    return table


def print_table(table: Sequence[dict[str, Any]]) -> None:
    """The table in Markdown."""
    print("| finding | planted rows named | | clean rows named | |\n|---|---|---|---|---|")
    for row in table:
        cells = []
        for hits, of in (row["hits"], row["alarms"]):
            cells += [f"{hits:,} of {of:,}", format_bounds(proportion_interval(hits, of))]
        print(f"| `{row['kind']}` | {' | '.join(cells)} |")
    noise = next(row for row in table if row["kind"] == "label-noise")
    print(
        f"\nOf the {noise['alarms'][0]:,} clean rows named as label noise, {noise['surprising']:,} "
        "have the worse response as chosen: the study's annotators err as Bradley and Terry's do."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the files")
    parser.add_argument("--clean", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=200, help="rows of each defect")
    parser.add_argument("--refusals", nargs="*", default=[], help="XSTest's completions_*.csv")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    planted = plant(args.clean, args.each, read_refusals(args.refusals), random.Random(args.seed))
    start = time.perf_counter()
    table = measure(planted, args.work)
    print_table(table)
    print(f"\n{len(planted.lines):,} rows in {time.perf_counter() - start:.1f} s.")


if __name__ == "__main__":
    main()
