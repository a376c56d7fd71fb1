"""The kinds of findings: their levels, what each means, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. `remedy` says what to do; where `names_rows`, the rows can be left out
    with `--drop`, and the command for that follows it."""

    level: Level
    title: str
    meaning: str
    remedy: str
    names_rows: bool = True


KINDS: dict[str, Kind] = {
    "contradictions": Kind(
        "error",
        "pairs in both directions",
        "The same two responses to the same prompt are preferred in both directions, or one "
        "response is labelled good and bad.",
        "Decide which label is right, or leave all these rows out:",
    ),
    "cycles": Kind(
        "error",
        "preferences in a cycle",
        "A is preferred to B, B to C and C to A: no score orders these responses.",
        "Judge these pairs again, or leave them out:",
    ),
    "shared-prompts": Kind(
        "error",
        "prompts shared across splits",
        "The prompt also occurs in a held-out split, so results on it are of rows that were "
        "trained on.",
        "Split again by prompt (`accord split dataset=FILE`), or leave these rows out:",
    ),
    "evaluation-overlap": Kind(
        "error",
        "overlap with an evaluation set",
        "The prompt holds a text of the evaluation set: half of its 8-grams, or all of a text of "
        "up to 12 words.",
        "Leave these rows out before you evaluate on that set:",
    ),
    "scores": Kind(
        "error",
        "scores against the labels",
        "The score of the chosen response is not above the rejected one's.",
        "Swap or correct these rows, or leave them out:",
    ),
    "template-tokens": Kind(
        "error",
        "template tokens in a text",
        "A response or prompt spells tokens of a chat template, such as `<|im_end|>`, which "
        "accord reads as plain text: a model learns to write them out.",
        "Strip them where the rows are made, or leave these rows out:",
    ),
    "wrong-turn": Kind(
        "error",
        "a prompt split at the wrong turn",
        "A response holds a further turn (`Human:`, `Assistant:`), or the prompt ends within the "
        "assistant's answer.",
        "Give these rows as lists of turns, each with its role, or leave them out:",
    ),
    "thoughts": Kind(
        "error",
        "thoughts left in answers",
        "An answer holds tags such as `<think>`.",
        "Put the thought into the turn's `reasoning_content`, or leave these rows out:",
    ),
    "unusable": Kind(
        "warning",
        "rows that can't be used",
        "Training leaves these rows out.",
        "Correct them, or write a file without them:",
    ),
    "equal-pairs": Kind(
        "warning",
        "equal pairs",
        "Chosen and rejected are equal, or differ in case, blanks and punctuation alone.",
        "Leave them out; nothing can be learned from them:",
    ),
    "duplicates": Kind(
        "warning",
        "repeated rows",
        "Prompt, responses and label are those of an earlier row, so they count twice.",
        "Leave the repeats out; the first of each stays:",
    ),
    "near-duplicates": Kind(
        "warning",
        "near-duplicates",
        "The responses share at least 70% of their three-word sequences with those of an earlier "
        "row, and the prompts 40% of theirs (estimated by MinHash).",
        "Leave them out; the first of each stays:",
    ),
    "label-noise": Kind(
        "warning",
        "labels that are likely wrong",
        "A model of the other prompts' labels gives this label at most 10%.",
        "Look at these rows; swap what is wrong, leave them out, or train with `accord train dpo "
        "loss_type=robust label_smoothing=0.1`:",
    ),
    "refusals": Kind(
        "warning",
        "refusals as chosen",
        "The chosen response refuses and the rejected one does not. That is right for a harmful "
        "prompt only.",
        "Check that these prompts are harmful, or leave the rows out:",
    ),
    "prompt-echo": Kind(
        "warning",
        "answers that repeat the prompt",
        "A response begins with the whole question.",
        "Cut the question off the responses, or leave these rows out:",
    ),
    "cut-endings": Kind(
        "warning",
        "answers that are cut",
        "A response that is learned ends in the middle of a sentence or of a code block.",
        "Mark them with `finished: false`, so that no EOS is learned there, or leave them out:",
    ),
    "longer": Kind(
        "note",
        "the longer response wins",
        "How often the response with more characters is preferred.",
        "`accord train reward length_regularisation=1` or `accord train dpo ld_alpha=0.5` learn "
        "less of it.",
        names_rows=False,
    ),
    "formatted": Kind(
        "note",
        "the more formatted response wins",
        "How often the response with more Markdown (headings, lists, bold, code, tables) is "
        "preferred.",
        "Balance the pairs, or give both responses of a pair the same form.",
        names_rows=False,
    ),
    "first": Kind(
        "note",
        "the first response wins",
        "How often the response that was shown first is preferred.",
        "Show each pair in both orders, or shuffle them (`accord compare` judges both).",
        names_rows=False,
    ),
}
"""In the order of reports: errors first."""
