"""The preference store's current tables; `migrations` brings older stores to them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

# One row for each migration that was applied.
SCHEMA_VERSION = Table(
    "schema_version",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied", String(40), nullable=False),
)

PROMPTS = Table(
    "prompts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of `content` as JSON
    Column("content", JSON, nullable=False),  # text, or a list of {role, content}
    Column("meta", JSON, nullable=False),
    Column("created", String(40), nullable=False),
)

RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("model", Text, nullable=False, index=True),
    Column("settings", JSON, nullable=False),
    Column("tokens", Integer),
    Column("logp", Float),
    Column("finished", Boolean, nullable=False),
    Column("created", String(40), nullable=False),
)

# An annotator's verdict on one response, or on several to the same prompt.
VERDICTS = Table(
    "verdicts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # pair, ranking or rating
    Column("annotator", Text, nullable=False),
    Column("round", Integer, nullable=False),
    Column("outcome", String(16)),  # of a pair: a, b, tie or both_bad
    Column("reason", Text),
    Column("seconds", Float),  # from being shown to being judged
    Column("created", String(40), nullable=False),
    Index("ix_verdicts_kind_round", "kind", "round"),
)

# The responses of a verdict. `slot` is the position in the verdict (of a pair, a is 0 and b is 1);
# `rank` is 0 for the best; `shown` is the position at which the annotator saw it, 0 first.
VERDICT_ITEMS = Table(
    "verdict_items",
    METADATA,
    Column("verdict_id", ForeignKey("verdicts.id"), primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("response_id", ForeignKey("responses.id"), nullable=False, index=True),
    Column("rank", Integer),
    Column("score", Float),
    Column("shown", Integer),
)
