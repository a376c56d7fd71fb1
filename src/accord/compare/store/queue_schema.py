"""Tables of the annotation page: what is to be judged, who has it now, and who may enter."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from accord.compare.store.schema import METADATA

# A queue is one task for people: its items, and how many votes each of them needs.
QUEUES = Table(
    "annotation_queues",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("task", JSON, nullable=False),  # the settings that decide what its items are
    Column("overlap", Integer, nullable=False),  # votes per item
    Column("created", String(40), nullable=False),
)

# An item is one question on the responses `response_ids`. An attention check has its texts in
# `content`, so that neither they nor the answers to them are ever training data.
ITEMS = Table(
    "annotation_items",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("queue_id", ForeignKey("annotation_queues.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("batch", String(64), nullable=False),  # shared by the criteria of the same responses
    Column("criterion", Text),
    Column("response_ids", JSON, nullable=False),
    Column("content", JSON),
    Column("expected", JSON),  # of a check or gold item: one rank for each response
    Column("is_check", Boolean, nullable=False),
    Column("taken", Integer, nullable=False),  # assignments that are open or voted
    # 0: handed over by judges (escalated), which comes before all others; 1: any other.
    Column("turn", Integer, nullable=False, server_default="1"),
    UniqueConstraint("queue_id", "digest"),
    Index("ix_annotation_items_next", "queue_id", "is_check", "turn", "taken", "id"),
    Index("ix_annotation_items_batch", "queue_id", "batch"),
)

# Who has an item, since when and until when, and the order in which the responses are shown.
ASSIGNMENTS = Table(
    "annotation_assignments",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("item_id", ForeignKey("annotation_items.id"), nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("state", String(16), nullable=False),  # open, voted, skipped, flagged or expired
    Column("shown", JSON, nullable=False),  # positions in the item's responses, first shown first
    Column("opened", Float, nullable=False),  # seconds since 1970, as the next two
    Column("expires", Float, nullable=False),
    Column("closed", Float),
    Column("verdict_id", ForeignKey("verdicts.id")),
    Column("key", String(80)),  # the client's, of the latest answer
    Column("answer", JSON),  # the latest, as the page sent it
    Column("correct", Boolean),  # of a check or gold item
    Column("fast", Boolean),  # faster than anyone reads
    UniqueConstraint("item_id", "annotator"),
    Index("ix_annotation_assignments_annotator", "annotator", "state"),
    Index("ix_annotation_assignments_expires", "state", "expires"),
)

# People who may enter by a token. Only hashes of tokens and sessions are stored.
ANNOTATORS = Table(
    "annotators",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("role", String(16), nullable=False),  # annotator or owner
    Column("token", String(64), nullable=False, unique=True),  # SHA-256
    Column("created", String(40), nullable=False),
    Column("revoked", String(40)),
)

SESSIONS = Table(
    "annotator_sessions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("annotator_id", ForeignKey("annotators.id"), nullable=False, index=True),
    Column("secret", String(64), nullable=False, unique=True),  # SHA-256
    Column("created", String(40), nullable=False),
)

# Answers to the test on a guideline.
TESTS = Table(
    "annotator_tests",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("annotator", String(200), nullable=False, index=True),
    Column("guideline", String(64), nullable=False),  # SHA-256 of guideline and questions
    Column("answers", JSON, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("created", String(40), nullable=False),
)
