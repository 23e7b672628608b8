"""Brings the database's schema up to date: forward-only SQL files, applied by yoyo. Not for data of the tenants."""

import time
from contextlib import closing

import psycopg2
import yoyo

from ottoai.db import sql_folder
from ottoai.errors import StoreUnavailable

# yoyo's own lock is a row that outlives a killed process. A session's advisory lock dies with it. It is polled,
# because a backend that blocks on it would hold back a concurrent CREATE INDEX CONCURRENTLY for ever.
LOCK = 0x6F74746F  # "otto"
LOCK_TIMEOUT = 60.0
LOCK_POLL = 0.2


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
    try:
        backend.break_lock()  # left by a killed process: the advisory lock says that nobody else is at work
        missing = backend.to_apply(yoyo.read_migrations(str(sql_folder() / "migrations")))
        names = [migration.id for migration in missing]
        backend.apply_migrations(missing)
        return names
    finally:
        backend.connection.close()


def _yoyo_url(database_url: str) -> str:
    """The same URL for yoyo, which picks its driver by scheme and knows PostgreSQL under one name only."""
    return "postgresql://" + database_url.split("://", 1)[1]
