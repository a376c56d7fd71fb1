"""A row in each format that is imported, with the verdicts that it holds, derived by hand."""

from __future__ import annotations

from typing import Any

from tests.compare.import_annotations import EXPORTS

ASK = [{"role": "user", "content": "2+2?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def ask_and(text: str) -> list[dict[str, str]]:
    return [*ASK, *said(text)]


# Each case: the rows of a file, and of each verdict (kind, annotator, what it says of which text).
# A pair says (better or outcome, the two texts), a ranking (text, rank), a rating (text, score).
CASES: dict[str, tuple[list[dict[str, Any]], list[tuple[Any, ...]]]] = {
    "trl preference": (
        [{"prompt": "2+2?", "chosen": "four", "rejected": "five"}],
        [("pair", "rows.jsonl", "a", "four", "five", {})],
    ),
    "trl conversations with a margin": (
        [{"prompt": ASK, "chosen": said("four"), "rejected": said("five"), "margin": 2}],
        [("pair", "rows.jsonl", "a", "four", "five", {"strength": 2})],
    ),
    "trl implicit prompt": (
        [{"chosen": ask_and("four"), "rejected": ask_and("five")}],
        [("pair", "rows.jsonl", "a", "four", "five", {})],
    ),
    "hh-rlhf": (
        [
            {
                "chosen": "\n\nHuman: 2+2?\n\nAssistant: four",
                "rejected": "\n\nHuman: 2+2?\n\nAssistant: five",
            }
        ],
        [("pair", "rows.jsonl", "a", "four", "five", {})],
    ),
    "trl unpaired": (
        [
            {"prompt": "2+2?", "completion": "four", "label": True},
            {"prompt": "2+2?", "completion": "five", "label": False},
        ],
        [
            ("rating", "rows.jsonl", 1.0, "four", {}),
            ("rating", "rows.jsonl", 0.0, "five", {}),
        ],
    ),
    "ranking": (
        [
            {
                "prompt": "2+2?",
                "responses": ["five", "four", "six"],
                "ranks": [2, 1, 2],
                "annotator": "ann",
                "criterion": "honest",
            }
        ],
        [("ranking", "ann", (1, 0, 1), "five", "four", "six", {"criterion": "honest"})],
    ),
    "labelled pairs with ties": (
        [
            {"prompt": "2+2?", "response_a": "four", "response_b": "five", "winner": w}
            for w in ("response_a", "tie", "tie (bothbad)")
        ],
        [
            ("pair", "rows.jsonl", "a", "four", "five", {}),
            ("pair", "rows.jsonl", "tie", "four", "five", {}),
            ("pair", "rows.jsonl", "both_bad", "four", "five", {}),
        ],
    ),
    "helpsteer2 preference": (
        [
            {
                "prompt": "2+2?",
                "response_1": "five",
                "response_2": "four",
                "preference_strength": 3,
            }
        ],
        [("pair", "rows.jsonl", "b", "five", "four", {"strength": 3})],
    ),
    "lmarena conversations": (
        [
            {
                "question_id": "q",
                "model_a": "m1",
                "model_b": "m2",
                "winner": "tie (bothbad)",
                "judge": "arena_user_1",
                "conversation_a": ask_and("four"),
                "conversation_b": ask_and("five"),
                "turn": 1,
                "language": "English",
            }
        ],
        [("pair", "arena_user_1", "both_bad", "four", "five", {"models": ("m1", "m2")})],
    ),
    "lmarena columns": (
        [
            {
                "id": 1,
                "model_a": "m1",
                "model_b": "m2",
                "prompt": '["2+2?"]',
                "response_a": '["four"]',
                "response_b": '["five"]',
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            }
        ],
        [("pair", "rows.jsonl", "b", "four", "five", {"models": ("m1", "m2")})],
    ),
    "helpsteer3": (
        [
            {
                "domain": "math",
                "context": ASK,
                "response1": "four",
                "response2": "five",
                "overall_preference": value,
            }
            for value in (-3, 0, 1)
        ],
        [
            ("pair", "rows.jsonl", "a", "four", "five", {"strength": 3}),
            ("pair", "rows.jsonl", "tie", "four", "five", {}),
            ("pair", "rows.jsonl", "b", "four", "five", {"strength": 1}),
        ],
    ),
    "ultrafeedback": (
        [
            {
                "source": "x",
                "instruction": "2+2?",
                "models": ["m1"],
                "completions": [
                    {
                        "model": "m1",
                        "response": "four",
                        "annotations": {
                            "honesty": {"Rating": "5", "Rationale": "right"},
                            "helpfulness": {"Rating": "N/A", "Rationale": ""},
                        },
                        "overall_score": 8.5,
                        "critique": "good",
                    },
                    {
                        "model": "m2",
                        "response": "five",
                        "annotations": {"honesty": {"Rating": "1", "Rationale": "wrong"}},
                    },
                ],
            }
        ],
        [
            (
                "rating",
                "rows.jsonl",
                5.0,
                "four",
                {"criterion": "honesty", "comment": "right", "models": ("m1",)},
            ),
            ("rating", "rows.jsonl", 8.5, "four", {"comment": "good", "models": ("m1",)}),
            (
                "rating",
                "rows.jsonl",
                1.0,
                "five",
                {"criterion": "honesty", "comment": "wrong", "models": ("m2",)},
            ),
        ],
    ),
    "pandalm": (
        [
            {
                "instruction": "2+2?",
                "input": "",
                "response1": "four",
                "response2": "five",
                "annotator1": 1,
                "annotator2": 0,
                "annotator3": 2,
            }
        ],
        [
            ("pair", "annotator1", "a", "four", "five", {}),
            ("pair", "annotator2", "tie", "four", "five", {}),
            ("pair", "annotator3", "b", "four", "five", {}),
        ],
    ),
    "nectar": (
        [
            {
                "prompt": "\n\nHuman: 2+2?\n\nAssistant: ",
                "answers": [
                    {"answer": "four", "model": "m1", "rank": 1.0},
                    {"answer": "six", "model": "m2", "rank": 3.0},
                    {"answer": "five", "model": "m3", "rank": 2.0},
                ],
                "turns": 1,
            }
        ],
        [
            (
                "ranking",
                "rows.jsonl",
                (0, 2, 1),
                "four",
                "six",
                "five",
                {"models": ("m1", "m2", "m3")},
            )
        ],
    ),
    "nemo-rl": (
        [
            {
                "context": ASK,
                "completions": [
                    {"rank": 1, "completion": said("five")},
                    {"rank": 0, "completion": said("four")},
                ],
            }
        ],
        [("pair", "rows.jsonl", "b", "five", "four", {})],
    ),
    "argilla 1": (
        [
            {
                "prompt": "2+2?",
                "response1": "five",
                "response2": "four",
                "preference": [
                    {
                        "user_id": "u1",
                        "value": [
                            {"rank": 1, "value": "response2"},
                            {"rank": 2, "value": "response1"},
                        ],
                        "status": "submitted",
                    },
                    {"user_id": "u2", "value": [], "status": "discarded"},
                ],
                "preference-suggestion": None,
                "external_id": None,
            }
        ],
        [("pair", "u1", "b", "five", "four", {})],
    ),
    "argilla 1 in columns": (
        [
            {
                "prompt": "2+2?",
                "response-1": "five",
                "response-2": "four",
                "preference": {
                    "user_id": ["u1"],
                    "value": [{"rank": [1, 1], "value": ["response-1", "response-2"]}],
                    "status": ["submitted"],
                },
            }
        ],
        [("pair", "u1", "tie", "five", "four", {})],
    ),
    "argilla 2": (
        [
            {
                "id": "1",
                "status": "completed",
                "instruction": "2+2?",
                "response_1": "four",
                "response_2": "five",
                "response_3": "six",
                "order.responses": [["response_1", "response_3", "response_2"]],
                "order.responses.users": ["u1"],
                "order.responses.status": ["submitted"],
            },
            {
                "id": "2",
                "status": "completed",
                "instruction": "2+2?",
                "response_1": "four",
                "response_2": "five",
                "better.responses": ["response_1", "response_2"],
                "better.responses.users": ["u1", "u2"],
                "better.responses.status": ["submitted", "submitted"],
            },
        ],
        [
            ("ranking", "u1", (0, 2, 1), "four", "five", "six", {}),
            ("pair", "u1", "a", "four", "five", {}),
            ("pair", "u2", "b", "four", "five", {}),
        ],
    ),
    "label studio": (
        [
            {
                "id": 1,
                "data": {"prompt": "2+2?", "answer1": "four", "answer2": "five"},
                "annotations": [
                    {
                        "completed_by": {"id": 3, "email": "ann@x.org"},
                        "lead_time": 2.5,
                        "was_cancelled": False,
                        "result": [
                            {
                                "type": "pairwise",
                                "value": {"selected": "left"},
                                "from_name": "pw",
                                "to_name": "answer1,answer2",
                            }
                        ],
                    },
                    {
                        "completed_by": 4,
                        "was_cancelled": False,
                        "result": [
                            {
                                "type": "choices",
                                "value": {"choices": ["Neither"]},
                                "from_name": "pw",
                                "to_name": "answer1",
                            }
                        ],
                    },
                    {"completed_by": 5, "was_cancelled": True, "result": []},
                ],
            }
        ],
        [
            ("pair", "ann@x.org", "a", "four", "five", {"seconds": 2.5}),
            ("pair", "4", "both_bad", "four", "five", {}),
        ],
    ),
    **EXPORTS,
}
