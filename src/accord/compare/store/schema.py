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
    Column("key", String(64)),  # digest of an imported row's content: it is not added twice
    Column("opened", Text, nullable=False, server_default=""),  # what the prompt wrote of the text
    Index("ix_responses_key", "key", unique=True),
)

# An AI judge: `digest` is that of its fingerprint, the columns that follow.
JUDGES = Table(
    "judges",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("model", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("prompt", String(64), nullable=False),  # digests of the prompt's form and the rubric
    Column("rubric", String(64), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created", String(40), nullable=False),
)

# A judge measured against people: whether it passed. The latest row of a judge and criterion holds.
JUDGE_CHECKS = Table(
    "judge_checks",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("judge_id", ForeignKey("judges.id"), nullable=False, index=True),
    Column("criterion", Text),
    Column("passed", Boolean, nullable=False),
    Column("report", JSON, nullable=False),
    Column("created", String(40), nullable=False),
)

# An annotator's verdict on one response, or on several to the same prompt. A changed mind is a new
# row: of one annotator, item, kind and criterion the latest counts.
VERDICTS = Table(
    "verdicts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # pair, ranking or rating
    Column("annotator", Text, nullable=False),
    Column("round", Integer, nullable=False),
    # Of a pair a, b, tie or both_bad; of any kind skip, flag or undecided (a judge's two orders
    # disagree).
    Column("outcome", String(16)),
    Column("reason", Text),
    Column("seconds", Float),  # from being shown to being judged
    Column("created", String(40), nullable=False),
    # The responses that it is on, in any order: their sorted ids, or of many the digest of these.
    Column("item", String(64), nullable=False, server_default=""),
    Column("criterion", Text),  # NULL: the whole
    Column("strength", Integer),  # 1 slightly better (a rating: bad), 2, 3 far
    Column("probability", Float),  # of a pair: that `a` is the better one
    Column("comment", Text),
    Column("tags", JSON(none_as_null=True)),  # a list of texts
    Column("guideline", String(64)),  # SHA-256 of the guideline's text
    Column("view", String(16)),  # rendered or raw
    Column("session", Text),
    Column("source", Text),  # such as person, judge or an imported file
    Column("key", String(200)),  # the client's: a verdict is not added twice
    Column("supersedes", ForeignKey("verdicts.id")),
    Column("judge_id", ForeignKey("judges.id")),
    Index("ix_verdicts_kind_round", "kind", "round"),
    Index("ix_verdicts_item", "item", "kind", "annotator", "criterion"),
    Index("ix_verdicts_supersedes", "supersedes"),
    Index("ix_verdicts_key", "key", unique=True),
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

# The raw answers of a judge that a verdict was read from, both orders of a pair for example.
JUDGE_ANSWERS = Table(
    "judge_answers",
    METADATA,
    Column("verdict_id", ForeignKey("verdicts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("shown", JSON, nullable=False),  # the ids of the responses in the order shown
    Column("verdict", Text),  # as the answer words it; NULL: nothing could be read
    Column("probability", Float),  # that the first shown is the better one
    Column("text", Text, nullable=False),
)
