"""Who may enter the annotation page: tokens, sessions and the tests on guidelines.

Tokens and sessions are random secrets of 256 bits, of which only the SHA-256 is stored: they are
too long to be guessed, so a slow hash adds nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import sqlalchemy as sa

from accord.compare.store.inserts import now
from accord.compare.store.queue_schema import ANNOTATORS, SESSIONS, TESTS
from accord.errors import DataError

PersonRole = Literal["annotator", "owner"]


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who may enter; an owner also sees the owner's page."""

    name: str
    role: PersonRole
    revoked: str | None = None

    @property
    def is_owner(self) -> bool:
        return self.role == "owner"


def invite(connection: sa.Connection, name: str, role: PersonRole) -> str:
    """A new token for a person, which is stored nowhere; an earlier token and its sessions end."""
    token = secrets.token_urlsafe(32)
    values = {"role": role, "token": _digest(token), "created": now(), "revoked": None}
    id_ = connection.scalar(sa.select(ANNOTATORS.c.id).where(ANNOTATORS.c.name == name))
    if id_ is None:
        connection.execute(ANNOTATORS.insert().values(name=name, **values))
    else:
        connection.execute(ANNOTATORS.update().where(ANNOTATORS.c.id == id_).values(**values))
        connection.execute(SESSIONS.delete().where(SESSIONS.c.annotator_id == id_))
    return token


def revoke(connection: sa.Connection, name: str) -> None:
    """End a person's token and sessions at once. Raises DataError for an unknown name."""
    id_ = connection.scalar(sa.select(ANNOTATORS.c.id).where(ANNOTATORS.c.name == name))
    if id_ is None:
        names = connection.scalars(sa.select(ANNOTATORS.c.name).order_by(ANNOTATORS.c.name)).all()
        raise DataError(
            f"No {name!r} was invited to this store. Invited are: {', '.join(names) or 'none'}."
        )
    connection.execute(ANNOTATORS.update().where(ANNOTATORS.c.id == id_).values(revoked=now()))
    connection.execute(SESSIONS.delete().where(SESSIONS.c.annotator_id == id_))


def select_people(connection: sa.Connection) -> list[Person]:
    """Everyone who was invited, by name."""
    rows = connection.execute(sa.select(ANNOTATORS).order_by(ANNOTATORS.c.name))
    return [Person(row.name, row.role, row.revoked) for row in rows]


def enter(connection: sa.Connection, token: str) -> str | None:
    """The secret of a new session for a person's token; None where it is unknown or revoked."""
    id_ = connection.scalar(
        sa.select(ANNOTATORS.c.id).where(
            ANNOTATORS.c.token == _digest(token), ANNOTATORS.c.revoked.is_(None)
        )
    )
    if id_ is None:
        return None
    secret = secrets.token_urlsafe(32)
    row = {"annotator_id": id_, "secret": _digest(secret), "created": now()}
    connection.execute(SESSIONS.insert().values(**row))
    return secret


def leave(connection: sa.Connection, secret: str) -> None:
    """End a session."""
    connection.execute(SESSIONS.delete().where(SESSIONS.c.secret == _digest(secret)))


def person_of(connection: sa.Connection, secret: str) -> Person | None:
    """The person in a session; None where there is no such session or the person is revoked."""
    row = connection.execute(
        sa.select(ANNOTATORS.c.name, ANNOTATORS.c.role)
        .join(SESSIONS, SESSIONS.c.annotator_id == ANNOTATORS.c.id)
        .where(SESSIONS.c.secret == _digest(secret), ANNOTATORS.c.revoked.is_(None))
    ).one_or_none()
    return None if row is None else Person(row.name, row.role)


def add_test(
    connection: sa.Connection,
    annotator: str,
    guideline: str,
    answers: Sequence[int],
    *,
    passed: bool,
) -> None:
    """Store the answers to a guideline's test."""
    row = {
        "annotator": annotator,
        "guideline": guideline,
        "answers": list(answers),
        "passed": passed,
        "created": now(),
    }
    connection.execute(TESTS.insert().values(**row))


def has_passed(connection: sa.Connection, annotator: str, guideline: str) -> bool:
    """Whether the annotator has passed the test of this very guideline."""
    query = sa.select(TESTS.c.id).where(
        TESTS.c.annotator == annotator, TESTS.c.guideline == guideline, TESTS.c.passed.is_(True)
    )
    return connection.execute(query.limit(1)).first() is not None


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
