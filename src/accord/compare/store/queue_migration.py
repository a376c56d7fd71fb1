"""The migrations of the annotation page's tables; like all migrations, they never change."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Connection, ForeignKey, Index, Integer, MetaData, String, Table, Text


def add_queues(connection: Connection) -> None:
    """Queues, their items, who has them, and the people who may enter."""
    metadata = MetaData()
    verdicts = Table("verdicts", metadata, Column("id", Integer, primary_key=True))
    _queues(metadata)
    _people(metadata)
    added = [table for table in metadata.sorted_tables if table is not verdicts]
    metadata.create_all(connection, tables=added, checkfirst=False)


def add_turns(connection: Connection) -> None:
    """Items that come before all others."""
    for statement in (
        "ALTER TABLE annotation_items ADD COLUMN turn INTEGER DEFAULT 1 NOT NULL",
        "DROP INDEX ix_annotation_items_next",
        "CREATE INDEX ix_annotation_items_next"
        " ON annotation_items (queue_id, is_check, turn, taken, id)",
    ):
        connection.exec_driver_sql(statement)


def _queues(metadata: MetaData) -> None:
    Table(
        "annotation_queues",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(200), nullable=False, unique=True),
        Column("task", sa.JSON, nullable=False),
        Column("overlap", Integer, nullable=False),
        Column("created", String(40), nullable=False),
    )
    Table(
        "annotation_items",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("queue_id", ForeignKey("annotation_queues.id"), nullable=False),
        Column("digest", String(64), nullable=False),
        Column("batch", String(64), nullable=False),
        Column("criterion", Text),
        Column("response_ids", sa.JSON, nullable=False),
        Column("content", sa.JSON),
        Column("expected", sa.JSON),
        Column("is_check", sa.Boolean, nullable=False),
        Column("taken", Integer, nullable=False),
        sa.UniqueConstraint("queue_id", "digest"),
        Index("ix_annotation_items_next", "queue_id", "is_check", "taken", "id"),
        Index("ix_annotation_items_batch", "queue_id", "batch"),
    )
    Table(
        "annotation_assignments",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("item_id", ForeignKey("annotation_items.id"), nullable=False),
        Column("annotator", String(200), nullable=False),
        Column("state", String(16), nullable=False),
        Column("shown", sa.JSON, nullable=False),
        Column("opened", sa.Float, nullable=False),
        Column("expires", sa.Float, nullable=False),
        Column("closed", sa.Float),
        Column("verdict_id", ForeignKey("verdicts.id")),
        Column("key", String(80)),
        Column("answer", sa.JSON),
        Column("correct", sa.Boolean),
        Column("fast", sa.Boolean),
        sa.UniqueConstraint("item_id", "annotator"),
        Index("ix_annotation_assignments_annotator", "annotator", "state"),
        Index("ix_annotation_assignments_expires", "state", "expires"),
    )


def _people(metadata: MetaData) -> None:
    Table(
        "annotators",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(200), nullable=False, unique=True),
        Column("role", String(16), nullable=False),
        Column("token", String(64), nullable=False, unique=True),
        Column("created", String(40), nullable=False),
        Column("revoked", String(40)),
    )
    Table(
        "annotator_sessions",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("annotator_id", ForeignKey("annotators.id"), nullable=False, index=True),
        Column("secret", String(64), nullable=False, unique=True),
        Column("created", String(40), nullable=False),
    )
    Table(
        "annotator_tests",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("annotator", String(200), nullable=False, index=True),
        Column("guideline", String(64), nullable=False),
        Column("answers", sa.JSON, nullable=False),
        Column("passed", sa.Boolean, nullable=False),
        Column("created", String(40), nullable=False),
    )
