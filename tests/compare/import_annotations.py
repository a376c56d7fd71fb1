"""Rows as annotation tools export them, with all their columns, and the verdicts that they hold.

The structures are those of `label_studio_sdk.converter`, of Argilla's `records.to_json`, and of
what `FeedbackDataset.format_as("datasets")` of Argilla 1.29 writes.
"""

from __future__ import annotations

from typing import Any

NAMES = ["response-1", "response-2", "response-3"]
NO_SUGGESTION = {"type": None, "score": None, "agent": None}

# The form of each case is that of `import_rows.CASES`.
EXPORTS: dict[str, tuple[list[dict[str, Any]], list[tuple[Any, ...]]]] = {
    "label studio with all that it exports": (
        [
            {
                "id": 7,
                "annotations": [
                    {
                        "id": 11,
                        "completed_by": 2,
                        "result": [
                            {
                                "value": {"ranker": {"rank": ["llm_2", "llm_3", "llm_1"]}},
                                "id": "kX1",
                                "from_name": "rank",
                                "to_name": "answers",
                                "type": "ranker",
                                "origin": "manual",
                            }
                        ],
                        "was_cancelled": False,
                        "ground_truth": False,
                        "created_at": "2026-01-02T10:00:00.000000Z",
                        "updated_at": "2026-01-02T10:00:00.000000Z",
                        "draft_created_at": None,
                        "lead_time": 9.25,
                        "prediction": {},
                        "result_count": 1,
                        "unique_id": "6cd2",
                        "import_id": None,
                        "last_action": None,
                        "task": 7,
                        "project": 1,
                        "updated_by": 2,
                        "parent_prediction": None,
                        "parent_annotation": None,
                        "last_created_by": None,
                    }
                ],
                "file_upload": "0f-tasks.json",
                "drafts": [],
                "predictions": [],
                "data": {
                    "prompt": "2+2?",
                    "items": [
                        {"id": "llm_1", "title": "One", "body": "four"},
                        {"id": "llm_2", "title": "Two", "body": "five"},
                        {"id": "llm_3", "title": "Three", "body": "six"},
                    ],
                },
                "meta": {},
                "created_at": "2026-01-02T09:00:00.000000Z",
                "updated_at": "2026-01-02T10:00:00.000000Z",
                "inner_id": 1,
                "total_annotations": 1,
                "cancelled_annotations": 0,
                "total_predictions": 0,
                "comment_count": 0,
                "unresolved_comment_count": 0,
                "last_comment_updated_at": None,
                "project": 1,
                "updated_by": 2,
                "comment_authors": [],
            }
        ],
        [("ranking", "2", (2, 0, 1), "four", "five", "six", {"seconds": 9.25})],
    ),
    "label studio json-min": (
        [
            {
                "prompt": "2+2?",
                "answer1": "four",
                "answer2": "five",
                "model": "a",
                "id": number,
                **control,
                "annotator": 3 + number,
                "annotation_id": 20 + number,
                "created_at": "2026-01-02T10:00:00.000000Z",
                "updated_at": "2026-01-02T10:00:00.000000Z",
                "lead_time": 2.5 + number,
            }
            for number, control in enumerate(
                (
                    {"pw": [{"selected": "right"}], "why": "shorter"},
                    {"best": "answer1"},
                    {"best": "Neither"},
                    {"rank": [{"ranker": {"rank": ["answer2", "answer1"]}}]},
                    {"answer_2": [{"rating": 4}]},
                )
            )
        ],
        [
            ("pair", "3", "b", "four", "five", {"seconds": 2.5, "criterion": "pw"}),
            ("pair", "4", "a", "four", "five", {"seconds": 3.5, "criterion": "best"}),
            ("pair", "5", "both_bad", "four", "five", {"seconds": 4.5, "criterion": "best"}),
            ("pair", "6", "b", "four", "five", {"seconds": 5.5, "criterion": "rank"}),
            ("rating", "7", 4.0, "five", {"seconds": 6.5}),
        ],
    ),
    "argilla 2 as its records are exported": (
        [
            {
                "id": "c0ffee",
                "fields": {
                    "instruction": "2+2?",
                    "response_1": "four",
                    "response_2": "five",
                },
                "metadata": {"split": "a"},
                "suggestions": {"better": {"value": "response_2", "score": None, "agent": "m"}},
                "responses": {
                    "better": [{"value": "response_1", "user_id": "u1"}],
                    "order": [{"value": ["response_2", "response_1"], "user_id": "u2"}],
                    "why": [{"value": "It is right.", "user_id": "u1"}],
                },
                "vectors": {},
                "status": "completed",
                "_server_id": "0d",
            }
        ],
        [
            ("pair", "u1", "a", "four", "five", {"criterion": "better"}),
            ("pair", "u2", "b", "four", "five", {"criterion": "order"}),
        ],
    ),
    "argilla 1 as its data set is exported": (
        [
            {
                "prompt": "2+2?",
                "response-1": "five",
                "response-2": "four",
                "response-3": "six",
                "preference": [
                    {"user_id": user, "value": {"rank": ranks, "value": NAMES}, "status": status}
                    for user, ranks, status in (
                        ("u1", [2, 1, 3], "submitted"),
                        ("u2", [1, 1, 2], "submitted"),
                        ("u3", [3, 2, 1], "draft"),
                    )
                ],
                "preference-suggestion": {"rank": [1, 2, 3], "value": NAMES},
                "preference-suggestion-metadata": {"type": None, "score": None, "agent": "m"},
                "response-1-rating": [{"user_id": "u1", "value": 4, "status": "submitted"}],
                "response-1-rating-suggestion": None,
                "response-1-rating-suggestion-metadata": NO_SUGGESTION,
                "good": [{"user_id": "u1", "value": NAMES, "status": "submitted"}],
                "good-suggestion": None,
                "good-suggestion-metadata": NO_SUGGESTION,
                "why": [{"user_id": "u1", "value": "b", "status": "submitted"}],
                "why-suggestion": None,
                "why-suggestion-metadata": NO_SUGGESTION,
                "external_id": "a",
                "metadata": '{"split": "x"}',
            }
        ],
        [
            ("ranking", "u1", (1, 0, 2), "five", "four", "six", {}),
            ("ranking", "u2", (0, 0, 1), "five", "four", "six", {}),
            ("rating", "u1", 4.0, "five", {}),
        ],
    ),
    # A rating of 2 does not name the second response, and labels that were chosen are no order.
    "argilla 1 with a label and a rating of both": (
        [
            {
                "instruction": "2+2?",
                "response1": "five",
                "response2": "four",
                "choose-best": [
                    {"user_id": "u1", "value": "response2", "status": "submitted"},
                    {"user_id": None, "value": "tie", "status": "submitted"},
                ],
                "quality": [{"user_id": "u1", "value": 2, "status": "submitted"}],
                "true": [
                    {"user_id": "u1", "value": ["response2", "response1"], "status": "submitted"}
                ],
                "external_id": None,
                "metadata": "{}",
            }
        ],
        [
            ("pair", "u1", "b", "five", "four", {}),
            ("pair", "rows.jsonl", "tie", "five", "four", {}),
        ],
    ),
    "argilla 2 with labels that are chosen together": (
        [
            {
                "instruction": "2+2?",
                "response_1": "four",
                "response_2": "five",
                "true.responses": [true],
                "true.responses.users": [user],
                "order.responses": [["response_2", "response_1"]],
                "order.responses.users": [user],
            }
            # What the first says could be an order; the second could not.
            for user, true in (("u1", ["response_2", "response_1"]), ("u2", ["response_1"]))
        ],
        [
            ("pair", "u1", "b", "four", "five", {}),
            ("pair", "u2", "b", "four", "five", {}),
        ],
    ),
    "label studio with two questions": (
        [
            {
                "data": {"prompt": "2+2?", "text1": "four", "text2": "five"},
                "annotations": [
                    {
                        "completed_by": 1,
                        "result": [
                            {
                                "type": "pairwise",
                                "value": {"selected": side},
                                "from_name": name,
                                "to_name": tags,
                            }
                            # The tags say which response was on the left.
                            for name, side, tags in (
                                ("helpful", "left", "txt-1,txt-2"),
                                ("honest", "left", "txt-2,txt-1"),
                            )
                        ],
                    }
                ],
            }
        ],
        [
            ("pair", "1", "a", "four", "five", {"criterion": "helpful"}),
            ("pair", "1", "b", "four", "five", {"criterion": "honest"}),
        ],
    ),
}
