"""Rows as annotation tools export them, with all their columns, and the verdicts that they hold.

The structures are those of `label_studio_sdk.converter` and of Argilla's `records.to_json`.
"""

from __future__ import annotations

from typing import Any

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
            ("pair", "3", "b", "four", "five", {"seconds": 2.5}),
            ("pair", "4", "a", "four", "five", {"seconds": 3.5}),
            ("pair", "5", "both_bad", "four", "five", {"seconds": 4.5}),
            ("pair", "6", "b", "four", "five", {"seconds": 5.5}),
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
            ("pair", "u1", "a", "four", "five", {}),
            ("pair", "u2", "b", "four", "five", {}),
        ],
    ),
}
