"""Brings the database's schema up to date: forward-only SQL files, applied by yoyo, while processes of the version
before are at work. Not for data of the tenants.
"""

import time
from contextlib import closing
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import psycopg2
import psycopg2.errors
import yoyo

from ottoai.db import sql_folder
from ottoai.errors import StoreUnavailable

# yoyo's own lock is a row that outlives a killed process. A session's advisory lock dies with it. It is polled,
# because a backend that blocks on it would hold back a concurrent CREATE INDEX CONCURRENTLY for ever.
LOCK = 0x6F74746F  # "otto"
LOCK_TIMEOUT = 60.0
LOCK_POLL = 0.2

# Whoever waits for a table makes all that come after it wait as well: not longer than this, and then they have their
# turn before the next try. A webhook waits up to 4 s.
TABLE_WAIT = 1.0
TABLE_REST = 1.0
TABLE_TIMEOUT = 120.0


def migrate(database_url: str) -> list[str]:
    """Apply what is missing, one starter at a time; return the names applied. Raises StoreUnavailable."""
    try:
        with closing(psycopg2.connect(database_url, connect_timeout=5)) as guard:
            guard.autocommit = True
            _lock(guard)
            return _apply(database_url)
    except psycopg2.OperationalError as error:
        raise StoreUnavailable(f"The database does not answer: {error}") from error


def _lock(guard: "psycopg2.extensions.connection") -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT
    with guard.cursor() as cursor:
        while True:
            cursor.execute("select pg_try_advisory_lock(%s)", (LOCK,))
            row = cursor.fetchone()
            if row and row[0]:
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable("Another process has been migrating this database for a minute.")
            time.sleep(LOCK_POLL)


def _apply(database_url: str) -> list[str]:
    backend = yoyo.get_backend(_yoyo_url(database_url))
    deadline = time.monotonic() + TABLE_TIMEOUT
    try:
        backend.break_lock()  # left by a killed process: the advisory lock says that nobody else is at work
        known = yoyo.read_migrations(str(sql_folder() / "migrations"))
        names = [migration.id for migration in backend.to_apply(known)]
        while True:
            try:
                backend.apply_migrations(backend.to_apply(known))
                return names
            except psycopg2.errors.LockNotAvailable as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        "A table that a migration changes has been in use without a pause."
                    ) from error
                time.sleep(TABLE_REST)
    finally:
        backend.connection.close()


def _yoyo_url(database_url: str) -> str:
    """The same URL for yoyo, which picks its driver by scheme and knows PostgreSQL under one name only; with the limit
    for locks.
    """
    parts = urlsplit(database_url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    query["options"] = f"{query.get('options', '')} -c lock_timeout={TABLE_WAIT * 1000:.0f}".strip()
    return parts._replace(scheme="postgresql", query=urlencode(query, quote_via=quote)).geturl()
