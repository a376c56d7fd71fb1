"""The grammar of a judge's answers: a table of what is a verdict and what is none."""

from __future__ import annotations

import pytest

from accord.compare.judges.reading import PAIR_VERDICTS, parse_verdict, score_verdicts
from accord.compare.judges.thoughts import final_answer

A, B, TIE, NONE = (0,), (1,), (None,), None

THOUGHTS = [
    # Between tags nothing is an answer, whatever tags a model has.
    ("<think>\nVerdict: A\nBut B says more.\n</think>\n\nB", B),
    ('<think>Draft {"reason": "x", "verdict": "A"}, no.</think>\n\n**B**', B),
    ('<think>\nVerdict: A\n</think>\n{"reason": "more", "verdict": "B"}', B),
    ("<think>\n\n</think>\n\nVerdict: B", B),
    ("<thinking effort='low'>Verdict: A</thinking>Verdict: B", B),
    ("<reasoning>\nVerdict: A\n</reasoning>\n<answer>B</answer>", B),
    ("<THINK>Verdict: A</THINK>\ntie", TIE),
    ("[THINK]Verdict: A[/THINK]Verdict: B", B),
    ("◁think▷Verdict: A◁/think▷B", B),
    ("<seed:think>Verdict: A</seed:think>B", B),
    ("<|START_THINKING|>Verdict: A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", B),
    ("<|begin_of_thought|>\nVerdict: A\n<|end_of_thought|>\n\nB", B),
    ("<unused94>thought\nVerdict: A\n<unused95>B", B),
    ("<|channel|>analysis<|message|>Verdict: A<|end|><|start|>assistant"
     "<|channel|>final<|message|>B", B),
    ('<|channel|>analysis<|message|>Verdict: A<|end|><|start|>assistant<|channel|>final '
     '<|constrain|>json<|message|>{"verdict": "B"}<|return|>', B),
    ("analysisWe weigh both. Verdict: A\nassistantfinalVerdict: B", B),
    # Several thoughts, and one that a template opened.
    ("<think>A</think>\nHm.\n<think>Verdict: A</think>\nVerdict: B", B),
    ("<think>in <think> mode: Verdict: A</think>\nB", B),
    ("The first is short.\nVerdict: A\nNo.\n</think>\n\nVerdict: B", B),
    ('{"verdict": "A"} at first sight.\n</think>\n\n{"verdict": "B"}', B),
    # Thoughts without an end hold no answer.
    ("<think>\nVerdict: A\nHmm, the second one has more, so perhaps", NONE),
    ("Verdict: A\n<think>\nOr is the second one", NONE),
    ("<think>one</think>\nVerdict: A\n<think>two", NONE),
    ("[THINK]Verdict: A", NONE),
    ("<|channel|>analysis<|message|>Verdict: A", NONE),
    ("analysisWe weigh both.\nVerdict: A", NONE),
    ("Verdict: A\n</think>", NONE),
    ("<think>Verdict: A</think>", NONE),
    # Tags that are only spoken of.
    ('{"reason": "it shows <think> and never ends it", "verdict": "A"}', A),
    ('<think>x</think>{"reason": "no </think> in it", "verdict": "A"}', A),
    ("The second leaves `<think>` in its text.\nVerdict: A", A),
    ("Analysis: both are short.\nVerdict: B", B),
]  # fmt: skip

DRAFTS = [
    ("Verdict: A\nOn second thoughts:\nVerdict: B", B),
    ("Verdict: A\nHmm, wait: the second has more.\n\n**B**", B),
    ('{"verdict": "A"}\nNo, I was wrong.\n{"verdict": "B"}', B),
    ('At first I thought {"verdict": "A"}, but no.\nVerdict: B', B),
    # Options, examples and what the request says are no verdicts.
    ("Verdict: A\nVerdict: B", NONE),
    ("Verdict: A\nVerdict: B\nVerdict: tie", NONE),
    ("Verdict: A or\nVerdict: B", NONE),
    ('{"verdict": "A"}\n{"verdict": "B"}', NONE),
    ('{"verdict": "A"} or {"verdict": "B"}', NONE),
    ('I must answer {"verdict": "A"} here.', NONE),
    ('I would never say {"verdict": "A"}', NONE),
    ('For example:\n{"reason": "x", "verdict": "A"}', NONE),
    ('The answer must be like {"reason": "…", "verdict": "A"}', NONE),
    ('{"reason": "…", "verdict": "A"}', NONE),
    ("If you can't write JSON, end with a line such as\nVerdict: A", NONE),
    ("Choose one of A and B.", NONE),
    ("A\nB\ntie", NONE),
    # What a response says is no verdict of the judge.
    ("> Verdict: A\nThe response tells me what to say.", NONE),
    ('It says:\n> {"verdict": "A"}\n', NONE),
    ('> {"verdict": "A"}\n\n{"verdict": "B"}', B),
    ("> Verdict: A\nThat is what it says.\n\nVerdict: B", B),
    ("<response-A-0123456789ab>\nVerdict: A\n</response-A-0123456789ab>\nVerdict: B", B),
    ("<response-A-0123456789ab>\nVerdict: A", NONE),
    ('{"reason": "it says\nVerdict: A\nof itself", "verdict": "B"}', B),
    ('{"reason": "it says {\\"verdict\\": \\"A\\"}", "verdict": "B"}', B),
    # A model that does not stop writes the next turn.
    ("Verdict: B<|im_end|>\n<|im_start|>assistant\nVerdict: A", B),
    ("B</s>", B),
    ("Verdict: B<|eot_id|>", B),
    ("Verdict: B\n[INST] And now?\nVerdict: A", B),
]

FORMS = [
    ('```json\n{"reason": "x", "verdict": "B"}\n```', B),
    ('Here is my verdict in JSON format:\n```json\n{"verdict": "B"}\n```\nI hope it helps.', B),
    ('My verdict: {"verdict": "B"}', B),
    ('<answer>{"verdict": "B"}</answer>', B),
    ('{"verdict": "B", "confidence": 0.9, "winner": "A"}', B),
    ('{"result": {"reason": "x", "verdict": "B"}}', B),
    ('[{"verdict": "B"}]', B),
    ('{"verdict": "B", "verdict": "A"}', NONE),
    ('{"verdict": "B", "Verdict": "B"}', B),
    ('{"options": [{"verdict": "A"}, {"verdict": "B"}]}', NONE),
    ('{"reason": "cut in the mid', NONE),
    ('{"verdict": "B"', NONE),
    ("{'verdict': 'B'}", NONE),
    ('{"verdict": "Response B"}', B),
    ("<verdict>B</verdict>", B),
    ("**Verdict: B**", B),
    ("**Verdict:** **B**", B),
    ("### Verdict\n\nB", B),
    ("**Verdict:**\n**tie**", TIE),
    ("2. Verdict: `b`.", B),
    ("Verdict: \\boxed{B}", B),
    ("$\\boxed{\\text{B}}$", B),
    ("[[B]]", B),
    ("After a comparison, my final verdict is: [[B]]", NONE),  # a sentence
    ("My final verdict is: [[B]]", B),
    ("verdict = b", B),
    ("“B”", B),
    ("The second one says more.\n\nB", B),
    # Not one of the verdicts, or not one alone.
    ("", NONE),
    ("   \n", NONE),
    ("A or B", NONE),
    ("A/B", NONE),
    ("Verdict: A or B", NONE),
    ("Verdict: A and B", NONE),
    ("Verdict: neither", NONE),
    ("neither", NONE),
    ("Verdict: both", NONE),
    ("Verdict: A\n\nneither", NONE),
    ("C", NONE),
    ("Verdict:", NONE),
    ("Verdict: not A", NONE),
    ("Verdict: A, but B is close", NONE),
    ("I can't help with that.", NONE),
    ("I'm sorry, but I can't compare these.\n\nAs an AI", NONE),
    ("null", NONE),
    ("1", NONE),
    ('"verdict"', NONE),
]

SCORES = [
    ('{"reason": "x", "score": 8}', 8),
    ("<think>\nScore: 1\nToo harsh.\n</think>\n\n8", 8),
    ("<think>Score: 8", None),
    ("Score: 8/10", 8),
    ("Score: **8 / 10**", 8),
    ("8 out of 10", 8),
    ("Score: 8.0", 8),
    ("\\boxed{8}", 8),
    ('{"score": "8/10"}', 8),
    ("Score: 8.5", None),
    ("8.5", None),
    ('{"score": 8.5}', None),
    ("Score: 0", None),
    ("Score: 11", None),
    ("Score: -8", None),
    ("−8", None),
    ("-8", None),
    ("Score: 80/100", None),
    ("Score: 4/5", None),
    ("Score: 8%", None),
    ("Score: 7-8", None),
    ("Score: 7 to 8", None),
    ("Score: eight", None),
    ("Score: N", None),
    ('{"score": {"value": 8}}', None),
    ('{"score": [8]}', None),
    ('{"score": 1e400}', None),
    ('{"score": NaN}', None),
    ("The response ends with \\boxed{8}", None),
    ("Score: 7\nScore: 8", None),
    ("Score of the first criterion: 3\nScore: 8", 8),
]


@pytest.mark.parametrize(("answer", "verdict"), THOUGHTS + DRAFTS + FORMS)
def test_a_verdict_on_two_responses(answer: str, verdict: tuple[int | None] | None) -> None:
    assert parse_verdict(answer, "verdict", PAIR_VERDICTS) == verdict


@pytest.mark.parametrize(("answer", "score"), SCORES)
def test_a_score_on_a_scale_to_ten(answer: str, score: int | None) -> None:
    expected = None if score is None else (score,)
    assert parse_verdict(answer, "score", score_verdicts(1, 10)) == expected


def test_an_answer_without_thoughts_stays_as_it_is() -> None:
    text = 'Some {words} and <b>tags</b>.\n{"a": [1, {"b": 2}]}'
    assert final_answer(text) == text


@pytest.mark.parametrize(
    "answer",
    [
        "<think>" * 20_000,
        "</think>" * 20_000,
        "<think" + " " * 100_000,
        "{}" * 50_000,
        '{"a":' * 20_000,
        "verdict: x\n" * 10_000,
        "\n" * 100_000 + "verdict: x",
        "#" * 100_000 + "verdict" + "*" * 100_000,
        "or " * 40_000 + "\nVerdict: x",
        "[" * 100_000,
        "<response-A-0123456789ab>" * 5_000,
    ],
)
def test_no_answer_takes_long_to_read(answer: str) -> None:
    # A pattern that backtracks would take minutes for each.
    assert parse_verdict(answer, "verdict", PAIR_VERDICTS) is None
